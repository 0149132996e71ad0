"""An NBD server of our own, in threads, that misbehaves where a test says so."""
import socket
import struct
import threading

from nbd_client import (ACK, FLUSH, GO, IHAVEOPT, READ, REP_INFO, SET_CONTEXT, STATUS, STRUCTURED, TRIM, WRITE, ZEROES,
                        DISC)

HAS_FLAGS, CAN_FLUSH, CAN_TRIM, CAN_ZERO, MULTI_CONN, READ_ONLY = 1, 4, 32, 64, 256, 2
REP_META = 4
ERR_UNSUP = 0x80000001
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3


class Drop(Exception):
    """Raised by a hook: the connection is closed without an answer."""


class FakeNbdServer:
    """Override the hooks, or set `before`, a function of (server, connection, kind, offset, length), to misbehave."""

    def __init__(self, case, path, size, flags=HAS_FLAGS | CAN_FLUSH | CAN_TRIM | CAN_ZERO | MULTI_CONN, block=1,
                 before=None, extents=None):
        self.path, self.size, self.flags, self.block = path, size, flags, block
        self.before = before or (lambda *_: None)
        self.extents = extents or (lambda offset, length: [(length, 0)])
        self.data = {}
        self.connections = []
        self.requests = []
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        case.addCleanup(self.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def uri(self):
        return f"nbd+unix:///?socket={self.path}"

    def close(self):
        self.listener.close()
        for connection in list(self.connections):
            self.cut(connection)

    @staticmethod
    def cut(connection):
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            self._negotiate(connection)
            while True:
                self._answer(connection)
        except (OSError, Drop, EOFError):
            pass
        self.connections.remove(connection)
        connection.close()

    @staticmethod
    def _take(connection, length):
        data = bytearray()
        while len(data) < length:
            piece = connection.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _negotiate(self, connection):
        connection.sendall(struct.pack(">8sQH", b"NBDMAGIC", IHAVEOPT, 3))
        self._take(connection, 4)
        while True:
            _, option, length = struct.unpack(">QII", self._take(connection, 16))
            data = self._take(connection, length)

            def reply(kind, payload=b""):
                connection.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(payload)) + payload)
            if option == STRUCTURED:
                reply(ACK)
            elif option == SET_CONTEXT:
                reply(REP_META, struct.pack(">I", 1) + b"base:allocation")
                reply(ACK)
            elif option == GO:
                reply(REP_INFO, struct.pack(">HQH", INFO_EXPORT, self.size, self.flags))
                reply(REP_INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, self.block, 4096, 32 << 20))
                reply(ACK)
                return
            else:
                reply(ERR_UNSUP)

    def _answer(self, connection):
        _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", self._take(connection, 28))
        payload = self._take(connection, length) if kind == WRITE else b""
        if kind == DISC:
            raise EOFError
        with self.lock:
            self.requests.append((kind, offset, length))
        self.before(self, connection, kind, offset, length)
        if kind in (READ, STATUS):
            if kind == READ:
                chunk_type, answer = 1, struct.pack(">Q", offset) + self._read(offset, length)
            else:
                runs = b"".join(struct.pack(">II", *run) for run in self.extents(offset, length))
                chunk_type, answer = 5, struct.pack(">I", 1) + runs
            connection.sendall(struct.pack(">IHHQI", 0x668E33EF, 1, chunk_type, cookie, len(answer)) + answer)
            return
        with self.lock:
            if kind == WRITE:
                self.data[offset] = payload
            elif kind not in (FLUSH, TRIM, ZEROES):
                raise Drop
        connection.sendall(struct.pack(">IHHQI", 0x668E33EF, 1, 0, cookie, 0))

    def _read(self, offset, length):
        """What was written with the same offset, zeros elsewhere."""
        with self.lock:
            return self.data.get(offset, b"").ljust(length, b"\0")[:length]

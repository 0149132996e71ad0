"""A bare NBD client, for what real clients never send, and the server under test."""
import os
import select
import socket
import ssl
import struct
import subprocess

from servers import Server
from tools import ToolError

IHAVEOPT = 0x49484156454F5054
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_CONTEXT, SET_CONTEXT, EXTENDED = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11
ACK, REP_INFO, REP_CONTEXT, ERR_SHUTDOWN = 1, 3, 4, 0x80000007
ERR_POLICY, ERR_INVALID, ERR_TLS_REQD, ERR_UNKNOWN = 0x80000002, 0x80000003, 0x80000005, 0x80000006
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32
EPERM, EIO, EINVAL, ENOSPC, ENOTSUP, ESHUTDOWN = 1, 5, 22, 28, 95, 108


class NbdTestServer(Server):
    """tests/support/nbd_test_server.cpp; `addresses` is where it listens."""

    def __init__(self, folder, *arguments, name="nbd", inherit=()):
        """`inherit`: descriptors that the server shares."""
        super().__init__(folder, name)
        self.arguments = list(arguments)
        self.inherit = inherit
        if not any(text.startswith(("unix:", "tcp:", "fd:")) for text in arguments):
            self.arguments.insert(0, f"unix:{self.socket}")

    def _spawn(self, command, preexec=None):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            text=True, preexec_fn=preexec, pass_fds=self.inherit)

    def start(self, timeout=30, preexec=None):
        self._spawn([os.environ["NBD_TEST_SERVER"], *self.arguments], preexec)
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        words = self.process.stdout.readline().split() if ready else []
        if words[:1] != ["ready"]:
            self.kill()
            raise ToolError(f"nbd_test_server did not start\n{self.words()}")
        self.addresses = words[1:]
        return self

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"


class Closed(Exception):
    """The server closed the connection."""


class Client:
    def __init__(self, address, timeout=20):
        kind, _, rest = address.partition(":")
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(rest)
        else:
            host, _, port = rest.rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def take(self, length):
        data = bytearray()
        while len(data) < length:
            try:
                piece = self.socket.recv(min(length - len(data), 1 << 20))
            except (ConnectionResetError, BrokenPipeError):
                piece = b""
            if not piece:
                raise Closed(f"after {len(data)} of {length} bytes")
            data += piece
        return bytes(data)

    def at_end(self):
        """Waits until the server has closed; what it still sends is dropped."""
        try:
            while self.socket.recv(1 << 20):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
        return True

    # Handshake.

    def greet(self, flags=3):
        magic, option_magic, server_flags = struct.unpack(">8sQH", self.take(18))
        assert magic == b"NBDMAGIC" and option_magic == IHAVEOPT and server_flags == 3
        self.send(struct.pack(">I", flags))
        return self

    @staticmethod
    def option_bytes(code, data=b""):
        return struct.pack(">QII", IHAVEOPT, code, len(data)) + data

    @staticmethod
    def info_data(name, items=()):
        return struct.pack(">I", len(name)) + name + struct.pack(f">H{len(items)}H", len(items), *items)

    def option_reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.take(20))
        assert magic == 0x3E889045565A9
        return option, kind, self.take(length)

    def option(self, code, data=b""):
        """All replies, up to the final one."""
        self.send(self.option_bytes(code, data))
        replies = []
        while True:
            replies.append(self.option_reply())
            if replies[-1][1] == ACK or replies[-1][1] >= 0x80000000:
                return replies

    def start_tls(self, context=None):
        """STARTTLS; with `context`, the handshake too, after which everything is encrypted."""
        replies = self.option(STARTTLS)
        if context is not None:
            assert replies[-1][1] == ACK, replies
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        return replies

    def set_contexts(self, name, *contexts):
        """The ids that the server gave them, by name."""
        data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(contexts))
        for context in contexts:
            data += struct.pack(">I", len(context)) + context
        replies = self.option(SET_CONTEXT, data)
        assert replies[-1][1] == ACK, replies
        return {text[4:]: int.from_bytes(text[:4], "big") for _, kind, text in replies if kind == REP_CONTEXT}

    def go(self, name=b"", structured=False):
        if structured:
            assert self.option(STRUCTURED)[-1][1] == ACK
        assert self.option(GO, self.info_data(name))[-1][1] == ACK
        return self

    # Transmission.

    @staticmethod
    def request_bytes(kind, offset=0, length=0, cookie=0, flags=0, magic=0x25609513):
        return struct.pack(">IHHQQI", magic, flags, kind, cookie, offset, length)

    def request(self, kind, offset=0, length=0, cookie=0, flags=0, payload=b""):
        self.send(self.request_bytes(kind, offset, length, cookie, flags) + payload)

    def simple_reply(self, read_length=0):
        """(error, cookie, data)."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert magic == 0x67446698, hex(magic)
        return error, cookie, self.take(read_length) if error == 0 else b""

    def chunk(self):
        """(flags, type, cookie, payload)."""
        magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.take(20))
        assert magic == 0x668E33EF, hex(magic)
        return flags, kind, cookie, self.take(length)

    # Extended headers.

    def extended_request(self, kind, offset=0, length=0, cookie=0, flags=0, payload=b""):
        self.send(struct.pack(">IHHQQQ", 0x21E41C71, flags, kind, cookie, offset, length) + payload)

    def extended_chunk(self):
        """(flags, type, cookie, request's offset, payload)."""
        magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQQ", self.take(32))
        assert magic == 0x6E8A278C, hex(magic)
        return flags, kind, cookie, offset, self.take(length)

    def extended_reply(self):
        """The chunks of the next reply, as (type, payload)."""
        chunks = []
        while True:
            flags, kind, _, _, payload = self.extended_chunk()
            chunks.append((kind, payload))
            if flags & 1:
                return chunks

    @staticmethod
    def extended_extents(payload):
        """(context id, [(length, flags)…]) of a BLOCK_STATUS_EXT chunk."""
        context, count = struct.unpack(">II", payload[:8])
        assert len(payload) == 8 + 16 * count
        return context, [struct.unpack(">QQ", payload[at:at + 16]) for at in range(8, len(payload), 16)]


def tls_context(folder, client=True):
    """What a client uses that has the files of `folder`; with `client`, a certificate of its own."""
    context = ssl.create_default_context(cafile=f"{folder}/ca-cert.pem")
    if client:
        context.load_cert_chain(f"{folder}/client-cert.pem", f"{folder}/client-key.pem")
    return context

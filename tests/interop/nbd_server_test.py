"""The NBD server as a process: sockets, limits, time-outs, ends, and what no honest client sends."""
import os
import resource
import signal
import socket
import stat
import struct
import tempfile
import time
import unittest

from nbd_client import (ACK, CACHE, DISC, EINVAL, ENOSPC, EPERM, ESHUTDOWN, FLUSH, FUA, GO, LIST, READ,
                        SET_CONTEXT, STATUS, TRIM, WRITE, ZEROES, Client, Closed, NbdTestServer)
from tools import ToolError

SIZE = 1 << 24


class ServerTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="weir-nbd-")
        self.addCleanup(self.folder.cleanup)
        self.path = self.folder.name

    def serve(self, *arguments, name="nbd", **options):
        server = NbdTestServer(self.path, f"=memory:{SIZE}", *arguments, name=name, **options).start()
        self.addCleanup(server.kill)
        return server

    def client(self, server, greet=True):
        client = Client(server.addresses[0])
        self.addCleanup(client.close)
        return client.greet() if greet else client

    def assert_alive(self, server):
        with Client(server.addresses[0]) as client:
            client.greet().go()
            client.request(READ, 0, 512, cookie=1)
            self.assertEqual(client.simple_reply(512), (0, 1, bytes(512)))


class Sockets(ServerTest):
    def test_unix_socket_is_private_and_goes_with_the_server(self):
        server = self.serve()
        self.assertEqual(stat.S_IMODE(os.stat(server.socket).st_mode), 0o600)
        server.stop()
        self.assertFalse(os.path.exists(server.socket))

    def test_stale_socket_of_a_killed_server_is_replaced(self):
        server = self.serve()
        server.kill()
        self.assertTrue(os.path.exists(server.socket))
        self.assert_alive(self.serve())

    def test_live_socket_is_refused_by_name_and_left_alone(self):
        server = self.serve()
        with self.assertRaisesRegex(ToolError, f"{server.socket}.*in use"):
            NbdTestServer(self.path, f"unix:{server.socket}", "x=memory:1").start()
        self.assert_alive(server)

    def test_a_file_is_never_replaced(self):
        path = f"{self.path}/precious"
        with open(path, "w") as file:
            file.write("data")
        with self.assertRaisesRegex(ToolError, "precious.*not a socket"):
            NbdTestServer(self.path, f"unix:{path}", "x=memory:1").start()
        with open(path) as file:
            self.assertEqual(file.read(), "data")

    def test_path_too_long_for_a_socket(self):
        with self.assertRaisesRegex(ToolError, "x{200}"):
            NbdTestServer(self.path, f"unix:{self.path}/{'x' * 200}", "x=memory:1").start()

    def test_tcp_port_in_use_is_named(self):
        server = self.serve("tcp:127.0.0.1:0")
        with self.assertRaisesRegex(ToolError, f"{server.addresses[0]}.*in use"):
            NbdTestServer(self.path, server.addresses[0], "x=memory:1").start()

    def test_tcp_on_both_families(self):
        for address in ("tcp:127.0.0.1:", "tcp:[::1]:"):
            server = self.serve(f"{address}0")
            self.assertTrue(server.addresses[0].startswith(address))
            self.assert_alive(server)

    def test_inherited_descriptor(self):
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        path = f"{self.path}/activated.sock"
        listening.bind(path)
        listening.listen()
        server = self.serve(f"fd:{listening.fileno()}", inherit=(listening.fileno(),))
        server.addresses = [f"unix:{path}"]
        self.assert_alive(server)
        server.stop()
        # The file belongs to whoever made it.
        self.assertTrue(os.path.exists(path))

    def test_descriptor_that_does_not_listen_is_refused(self):
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        with self.assertRaisesRegex(ToolError, f"fd:{one.fileno()}.*not a listening"):
            NbdTestServer(self.path, f"fd:{one.fileno()}", "x=memory:1", inherit=(one.fileno(),)).start()


class Limits(ServerTest):
    def test_a_silent_handshake_is_ended(self):
        server = self.serve("--handshake-ms=300")
        steady = self.client(server).go()
        silent = self.client(server)
        silent.send(b"half an opt")
        self.assertTrue(silent.at_end())
        # The older client came through its handshake and is left alone.
        steady.request(READ, 0, 512)
        self.assertEqual(steady.simple_reply(512)[0], 0)

    def test_oldest_unnegotiated_client_makes_room(self):
        server = self.serve("--most-connections=5")
        first = self.client(server).go()
        waiting = [self.client(server) for _ in range(4)]
        newest = self.client(server)
        self.assertTrue(waiting[0].at_end())
        newest.go()
        first.request(FLUSH)
        self.assertEqual(first.simple_reply()[0], 0)
        for client in waiting[1:]:
            client.go()
        with self.assertRaises(Closed):
            self.client(server).go()

    def test_a_thousand_clients_against_a_limit_of_a_hundred(self):
        server = self.serve()
        served = [self.client(server).go() for _ in range(60)]
        crowd = []
        for _ in range(1000):
            client = Client(server.addresses[0])
            self.addCleanup(client.close)
            crowd.append(client)
            if len(crowd) % 100 == 0:
                # Whoever is in is served meanwhile, and whoever hurries gets in.
                for each in served:
                    each.request(READ, 0, 4096, cookie=5)
                    self.assertEqual(each.simple_reply(4096)[:2], (0, 5))
                served.append(self.client(server).go())
        with open(f"/proc/{server.process.pid}/status") as file:
            self.assertLess(self.resident_kib(file), 100_000)
        for client in crowd:
            client.close()
        self.assert_alive(server)
        said = server.words()
        self.assertEqual(said.count("100 clients are connected"), 1, said)

    @staticmethod
    def resident_kib(status):
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def test_memory_stays_bounded_whatever_sizes_are_asked_for(self):
        server = self.serve()
        clients = [self.client(server).go() for _ in range(50)]
        sizes = [4096 << shift for shift in range(12)]
        for size in sizes:
            for client in clients:
                client.request(READ, 0, size)
            for client in clients:
                self.assertEqual(client.simple_reply(size)[0], 0)
        with open(f"/proc/{server.process.pid}/status") as file:
            # The disk itself, what buffers are kept, and what the allocator keeps of those given back.
            self.assertLess(self.resident_kib(file), 400_000)

    def test_clients_that_do_not_read_leave_room_for_others(self):
        server = self.serve()
        hogs = [self.client(server).go() for _ in range(40)]
        for hog in hogs:
            hog.send(b"".join(hog.request_bytes(READ, 0, 1 << 20, cookie) for cookie in range(30)))
        honest = self.client(server).go()
        for length in (512, 4096, 1 << 20, 2 << 20):
            honest.request(READ, 0, length)
            self.assertEqual(honest.simple_reply(length)[0], 0)
        with open(f"/proc/{server.process.pid}/status") as file:
            self.assertLess(self.resident_kib(file), 500_000)
        started = time.monotonic()
        for hog in hogs:
            hog.close()
        honest.request(READ, 0, 16 << 20)
        self.assertEqual(honest.simple_reply(16 << 20)[0], 0)
        self.assertLess(time.monotonic() - started, 10)

    def test_out_of_descriptors_is_survived(self):
        def few():
            resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
        server = NbdTestServer(self.path, f"=memory:{SIZE}").start(preexec=few)
        self.addCleanup(server.kill)
        # Before: the sanitizers need descriptors the first time they check a type.
        self.assert_alive(server)
        first = self.client(server).go()
        clients = [self.client(server, greet=False) for _ in range(40)]
        first.request(READ, 0, 512)
        self.assertEqual(first.simple_reply(512)[0], 0)
        before = self.cpu_of(server)
        time.sleep(0.5)
        self.assertLess(self.cpu_of(server) - before, 0.2, "it spins on accept")
        for client in clients[:-1]:
            client.close()
        # It waited in the backlog.
        clients[-1].greet().go()

    @staticmethod
    def cpu_of(server):
        with open(f"/proc/{server.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_a_peer_that_never_reads_costs_a_constant(self):
        server = self.serve()
        client = self.client(server).go()
        client.socket.settimeout(2)
        flood = b"".join(client.request_bytes(READ, 0, 1 << 20, cookie) for cookie in range(1000))
        with self.assertRaises(TimeoutError):
            while True:
                client.send(flood)
        with open(f"/proc/{server.process.pid}/status") as file:
            self.assertLess(self.resident_kib(file), 120_000)
        self.assert_alive(server)

    def test_floods_of_options_leave_it_alive(self):
        server = self.serve()
        for _ in range(20):
            client = self.client(server)
            try:
                client.send(client.option_bytes(LIST) * 5000)
            except OSError:
                pass
            client.close()
        self.assert_alive(server)


class HostileBytes(ServerTest):
    def test_what_aborts_peers(self):
        server = self.serve()
        client = self.client(server)
        client.option(8)
        data = struct.pack(">II", 0, 0) + bytes(64)
        self.assertEqual(client.option(SET_CONTEXT, data)[-1][1], 0x80000003)
        self.assertEqual(client.option(LIST)[-1][1], ACK)
        client.go()
        client.send(client.request_bytes(READ, 0, 1 << 20) * 50 + client.request_bytes(READ, magic=0xDEADBEEF))
        self.assertTrue(client.at_end())
        self.assert_alive(server)

    def test_a_reset_with_replies_pending(self):
        server = self.serve("tcp:127.0.0.1:0")
        for _ in range(20):
            client = Client(server.addresses[0]).greet().go()
            client.send(client.request_bytes(READ, 0, 1 << 20) * 100)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        self.assert_alive(server)

    def test_a_disconnect_at_every_byte_of_the_handshake(self):
        server = self.serve()
        conversation = struct.pack(">I", 3) + Client.option_bytes(8) + Client.option_bytes(GO, Client.info_data(b"", (3,)))
        for length in range(len(conversation) + 1):
            client = self.client(server, greet=False)
            client.send(conversation[:length])
            client.close()
        self.assert_alive(server)

    def test_refusals_keep_the_connection(self):
        client = self.client(self.serve()).go()
        cases = [((READ, SIZE, 1), EINVAL), ((READ, 2**64 - 1, 2), EINVAL), ((READ, 0, 1 << 30), EINVAL),
                 ((ZEROES, SIZE - 1, 2), ENOSPC), ((TRIM, SIZE, 1), EINVAL), ((CACHE, SIZE, 1), EINVAL),
                 ((STATUS, 0, 512), EINVAL), ((8, 0, 0), EINVAL), ((65535, 0, 0), EINVAL)]
        for (kind, offset, length), error in cases:
            client.request(kind, offset, length, cookie=2**64 - 1)
            self.assertEqual(client.simple_reply(), (error, 2**64 - 1, b""), kind)
        for bit in range(16):
            for kind, valid in ((READ, 1), (FLUSH, 1), (TRIM, 1), (CACHE, 1), (ZEROES, 3), (WRITE, 1)):
                client.request(kind, 0, 512, flags=1 << bit, payload=bytes(512) if kind == WRITE else b"")
                expected = 0 if valid & (1 << bit) or (kind == ZEROES and bit == 4) else EINVAL
                self.assertEqual(client.simple_reply(512 if kind == READ else 0)[0], expected, (kind, bit))
        client.request(WRITE, SIZE - 10, 1 << 20, payload=bytes(1 << 20))
        self.assertEqual(client.simple_reply()[0], ENOSPC)
        client.request(READ, 0, 0)
        self.assertEqual(client.simple_reply()[0], 0)

    def test_read_only_drops_payloads(self):
        image = f"{self.path}/image.raw"
        with open(image, "wb") as file:
            file.truncate(SIZE)
        server = NbdTestServer(self.path, "--read-only", f"=raw:{image}").start()
        self.addCleanup(server.kill)
        client = self.client(server).go()
        client.request(WRITE, 0, 1 << 20, flags=FUA, payload=b"x" * (1 << 20))
        self.assertEqual(client.simple_reply()[0], EPERM)
        client.request(READ, 0, 512)
        self.assertEqual(client.simple_reply(512)[0], 0)

    def test_payload_beyond_the_limit_closes(self):
        server = self.serve()
        client = self.client(server).go()
        client.request(WRITE, 0, (32 << 20) + 1)
        self.assertTrue(client.at_end())
        self.assert_alive(server)


class Ends(ServerTest):
    def test_disconnect_answers_what_is_in_flight(self):
        client = self.client(self.serve()).go()
        client.send(b"".join(client.request_bytes(READ, 0, 65536, cookie) for cookie in range(100)) + client.request_bytes(DISC))
        self.assertEqual({client.simple_reply(65536)[1] for _ in range(100)}, set(range(100)))
        with self.assertRaises(Closed):
            client.take(1)

    def test_half_closed_client_gets_its_replies(self):
        client = self.client(self.serve()).go()
        client.send(b"".join(client.request_bytes(READ, 0, 65536, cookie) for cookie in range(100)))
        client.socket.shutdown(socket.SHUT_WR)
        self.assertEqual({client.simple_reply(65536)[1] for _ in range(100)}, set(range(100)))
        self.assertTrue(client.at_end())

    def test_stop_with_idle_negotiating_and_stalled_clients(self):
        server = self.serve("--linger-ms=500")
        idle = self.client(server).go()
        negotiating = self.client(server)
        stalled = self.client(server).go()
        stalled.send(stalled.request_bytes(READ, 0, 1 << 20) * 100)
        started = time.monotonic()
        server.stop(timeout=10)
        self.assertLess(time.monotonic() - started, 5)
        for client in (idle, negotiating, stalled):
            self.assertTrue(client.at_end())

    def test_stop_answers_or_refuses_every_request_it_took(self):
        server = self.serve()
        client = self.client(server).go()
        client.send(b"".join(client.request_bytes(WRITE, 0, 512, cookie) + bytes(512) for cookie in range(1000)))
        server.process.send_signal(signal.SIGTERM)
        answered = 0
        try:
            while True:
                self.assertIn(client.simple_reply()[0], (0, ESHUTDOWN))
                answered += 1
        except Closed:
            pass
        self.assertEqual(answered, 1000)
        # Not stop(): a second signal may come when the handler is gone already.
        self.assertEqual(server.process.wait(20), 0)


if __name__ == "__main__":
    unittest.main()

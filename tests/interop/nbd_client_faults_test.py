"""Layers on NBD servers that misbehave: what is durable is never promised too early, and nothing is asked for ever."""
import json
import threading
import time
import unittest

from fake_nbd_server import Drop, FakeNbdServer
from nbd_client import EIO, FLUSH, READ, STATUS, WRITE, Client
from weir_cli import CliTestCase

MIB = 1 << 20


class NbdClientFaults(CliTestCase):
    def fake(self, size=64 * MIB, **options):
        return FakeNbdServer(self, self.path("fake"), size, **options)

    def client_over(self, server, *options):
        """A client of a serve whose only layer is the server's export."""
        self.running = self.serve("--nbd", f"unix:{self.path('nbd')}", "-f", "raw", *options, server.uri())
        client = Client(f"unix:{self.path('nbd')}")
        self.addCleanup(client.close)
        return client.greet()

    def write(self, client, offset=0):
        client.request(WRITE, offset, 4096, payload=b"x" * 4096)
        self.assertEqual(client.simple_reply()[0], 0)

    @staticmethod
    def flush(client):
        client.request(FLUSH)
        return client.simple_reply()[0]

    def test_no_flush_is_answered_before_the_server_has_flushed(self):
        flushed = threading.Event()

        def before(_server, _connection, kind, _offset, _length):
            if kind == FLUSH:
                time.sleep(0.5)
                flushed.set()
        server = self.fake(before=before)
        client = self.client_over(server).go()
        self.write(client)
        for cookie in range(1, 5):
            client.request(FLUSH, cookie=cookie)
        for _ in range(4):
            self.assertEqual(client.simple_reply()[0], 0)
            self.assertTrue(flushed.is_set(), "a flush was answered while nothing was durable")
        self.assertLessEqual([kind for kind, _, _ in server.requests].count(FLUSH), 2, "flushes are shared")
        self.assertEqual(self.running.stop(), (0, ""))

    def test_connections_replaced_one_by_one_are_a_possible_loss_too(self):
        server = self.fake()
        client = self.client_over(server).go()
        self.write(client)
        self.assertEqual(self.flush(client), 0)
        self.write(client)
        for connection in list(server.connections):
            server.cut(connection)
            end = time.monotonic() + 20
            while connection in server.connections or len(server.connections) < 4:
                client.request(READ, MIB, 4096)
                self.assertEqual(client.simple_reply(4096)[0], 0)
                self.assertLess(time.monotonic(), end, "the connection was not replaced")
        self.assertEqual(self.flush(client), EIO)
        self.write(client)
        self.assertEqual(self.flush(client), 0)
        self.assertEqual(self.running.stop()[0], 0)

    def test_a_request_that_kills_its_connection_is_not_sent_for_ever(self):
        def before(_server, _connection, kind, offset, _length):
            if kind == READ and offset == 8 * MIB:
                raise Drop
        server = self.fake(before=before)
        client = self.client_over(server).go()
        client.request(READ, 8 * MIB, 4096)
        self.assertEqual(client.simple_reply(4096)[0], EIO)
        self.assertLessEqual(server.requests.count((READ, 8 * MIB, 4096)), 16)
        client.request(READ, 9 * MIB, 4096)
        self.assertEqual(client.simple_reply(4096)[0], 0)
        self.assertEqual(self.running.stop()[0], 0)

    def test_a_question_that_kills_its_connection_is_not_asked_for_ever(self):
        def before(_server, _connection, kind, _offset, _length):
            if kind == STATUS:
                raise Drop
        server = self.fake(before=before)
        self.weir("info", "-f", "raw", server.uri())
        self.weir("convert", "-f", "raw", "-O", "raw", server.uri(), "copy.raw")
        self.assertLessEqual([kind for kind, _, _ in server.requests].count(STATUS), 64)

    def test_answers_of_very_many_runs_come_to_an_end(self):
        def extents(offset, length):
            return [(4096, 3 * (at // 4096 % 2)) for at in range(offset, offset + length, 4096)]
        server = self.fake(size=512 * MIB, extents=extents)
        runs = json.loads(self.weir("map", "--json", "-f", "raw", server.uri()).stdout)
        self.assertEqual(sum(run["length"] for run in runs if run["zero"]), 256 * MIB)

    def test_runs_shorter_than_a_block_are_refused(self):
        server = self.fake(size=MIB, block=4096, extents=lambda offset, length: [(512, 0)])
        client = self.client_over(server)
        client.option(8)
        client.option(10, b"\0\0\0\0" + b"\0\0\0\1" + b"\0\0\0\x0fbase:allocation")
        client.go()
        client.request(STATUS, 0, MIB)
        flags, kind, _, _ = client.chunk()
        self.assertTrue(flags & 1)
        self.assertIn(kind, (5, 0x8001))
        # Who only reads takes such a server at its data.
        runs = json.loads(self.weir("map", "--json", "-f", "raw", server.uri()).stdout)
        self.assertEqual([run["data"] for run in runs], [True])
        self.assertEqual(self.running.stop()[0], 0)


if __name__ == "__main__":
    unittest.main()

"""The NBD protocol beyond what libnbd 1.14 speaks: extended headers, and dirty bitmaps as contexts."""
import json
import os
import random
import shutil
import struct
import unittest

from nbd_client import (ACK, CACHE, EINVAL, EXTENDED, FLUSH, LIST_CONTEXT, PAYLOAD_LEN, READ, REP_CONTEXT, REQ_ONE, STATUS,
                        TRIM, WRITE, ZEROES, Client, Closed)
from tools import run
from weir_cli import CliTestCase, QmpClient

TIB = 1 << 40
NONE, DATA, HOLE, STATUS_EXTENDED, ERROR = 0, 1, 2, 6, 0x8001


class ProtocolTestCase(CliTestCase):
    def start(self, *arguments):
        self.nbd = self.path("nbd.sock")
        self.control = self.path("control.sock")
        return self.serve("--nbd", f"unix:{self.nbd}", "--control", self.control, *arguments)

    def client(self):
        client = Client(f"unix:{self.nbd}")
        self.addCleanup(client.close)
        return client.greet()

    def extended(self, *contexts):
        client = self.client()
        self.assertEqual(client.option(EXTENDED)[-1][1], ACK)
        client.ids = client.set_contexts(b"", *contexts) if contexts else {}
        return client.go()

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.nbd}"

    def qmp(self):
        client = QmpClient(self.control)
        self.addCleanup(client.close)
        return client


class LongReads(ProtocolTestCase):
    """Reads that the kernel may send from the page cache of a raw image."""

    def setUp(self):
        super().setUp()
        self.data = random.Random(5).randbytes(40 << 20)
        self.write("disk.raw", self.data)

    def read(self, client, offset, length, structured):
        client.request(READ, offset, length, cookie=7)
        if not structured:
            return client.simple_reply(length)[2]
        content = bytearray(length)
        while True:
            flags, kind, cookie, payload = client.chunk()
            self.assertEqual((cookie, kind in (DATA, HOLE, NONE)), (7, True))
            at = int.from_bytes(payload[:8], "big") - offset
            if kind == DATA:
                content[at:at + len(payload) - 8] = payload[8:]
            if flags & 1:
                return bytes(content)

    def test_every_byte_arrives_whatever_the_place(self):
        running = self.start("-f", "raw", "disk.raw")
        for structured in (False, True):
            client = self.client()
            client.go(structured=structured)
            for offset, length in ((0, 65536), (0, 32 << 20), (1, 65536), (4095, 1 << 20), (8 << 20, (1 << 20) + 512),
                                   ((40 << 20) - 70000, 70000), (12345, 4 << 20), (512, 4096)):
                self.assertEqual(self.read(client, offset, length, structured), self.data[offset:offset + length],
                                 (structured, offset, length))
        self.assertEqual(running.stop(), (0, ""))

    def test_small_and_long_replies_keep_their_order_of_bytes(self):
        self.start("-f", "raw", "disk.raw")
        client = self.client()
        client.go()
        lengths = [random.Random(3).choice((512, 4096, 65536, 300000, 1 << 20)) for _ in range(40)]
        for cookie, length in enumerate(lengths):
            client.request(READ, cookie * 512, length, cookie=cookie)
        left = set(range(len(lengths)))
        while left:
            error, cookie, _ = client.simple_reply()
            self.assertEqual((error, cookie in left), (0, True))
            left.remove(cookie)
            self.assertEqual(client.take(lengths[cookie]), self.data[cookie * 512:cookie * 512 + lengths[cookie]])

    def test_what_was_written_before_is_what_is_read(self):
        running = self.start("-f", "raw", "disk.raw")
        client = self.client()
        client.go()
        for value in range(1, 30):
            client.request(WRITE, value * 4096, 1 << 20, payload=bytes([value]) * (1 << 20))
            client.simple_reply()
            self.assertEqual(self.read(client, value * 4096, 1 << 20, False), bytes([value]) * (1 << 20))
        self.assertEqual(running.stop(), (0, ""))

    def test_a_file_cut_off_behind_the_servers_back(self):
        running = self.start("-f", "raw", "disk.raw")
        client = self.client()
        client.go()
        self.assertEqual(self.read(client, 0, 1 << 20, False), self.data[:1 << 20])
        os.truncate(self.path("disk.raw"), 1 << 20)
        self.assertEqual(self.read(client, 512 << 10, 1 << 20, False), self.data[512 << 10:1 << 20] + bytes(512 << 10))
        self.assertEqual(self.read(client, 0, 65536, False), self.data[:65536])
        self.assertEqual(running.stop(), (0, ""))

    def test_a_client_that_leaves_in_the_middle_harms_nobody(self):
        running = self.start("-f", "raw", "disk.raw")
        for _ in range(20):
            client = self.client()
            client.go()
            client.request(READ, 0, 32 << 20)
            client.take(100000)
            client.close()
        client = self.client()
        client.go()
        self.assertEqual(self.read(client, 0, 1 << 20, False), self.data[:1 << 20])
        self.assertEqual(running.stop(), (0, ""))


class ExtendedHeaders(ProtocolTestCase):
    def setUp(self):
        super().setUp()
        self.qemu_img("create", "-q", "-f", "qcow2", "disk.qcow2", str(8 * TIB))

    def test_every_reply_is_an_extended_chunk(self):
        self.start("disk.qcow2")
        client = self.extended()
        # With PAYLOAD_LEN as specified and without it as QEMU 10 sends it.
        for cookie, flags in ((1, PAYLOAD_LEN), (2, 0)):
            client.extended_request(WRITE, 4096 * cookie, 4096, cookie, flags, bytes([cookie]) * 4096)
            self.assertEqual(client.extended_chunk(), (1, NONE, cookie, 4096 * cookie, b""))
        client.extended_request(READ, 0, 16384, 3)
        content = bytearray(b"?" * 16384)
        for kind, payload in client.extended_reply():
            at = int.from_bytes(payload[:8], "big")
            piece = payload[8:] if kind == DATA else bytes(int.from_bytes(payload[8:12], "big"))
            content[at:at + len(piece)] = piece
        self.assertEqual(content, bytes(4096) + b"\1" * 4096 + b"\2" * 4096 + bytes(4096))
        client.extended_request(FLUSH)
        self.assertEqual(client.extended_reply(), [(NONE, b"")])
        client.extended_request(READ, 8 * TIB, 1)
        (kind, payload), = client.extended_reply()
        self.assertEqual((kind, int.from_bytes(payload[:4], "big")), (ERROR, EINVAL))

    def test_lengths_of_64_bits(self):
        self.start("disk.qcow2")
        client = self.extended(b"base:allocation")
        for kind in (ZEROES, TRIM, CACHE):
            client.extended_request(kind, 4 * TIB, 40 << 30)
            self.assertEqual(client.extended_reply(), [(NONE, b"")], kind)
        client.extended_request(STATUS, 0, 8 * TIB, flags=REQ_ONE)
        (kind, payload), = client.extended_reply()
        _, ((length, flags),) = client.extended_extents(payload)
        self.assertEqual((kind, flags), (STATUS_EXTENDED, 3))
        self.assertGreater(length, 1 << 32)
        for kind in (ZEROES, TRIM, CACHE, STATUS):
            client.extended_request(kind, 1, 2**64 - 1)
            self.assertEqual(client.extended_reply()[-1][0], ERROR)

    def test_a_payload_selects_contexts(self):
        self.start("disk.qcow2")
        client = self.extended(b"base:allocation", b"qemu:allocation-depth")
        wanted = client.ids[b"qemu:allocation-depth"]
        payload = struct.pack(">QI", TIB, wanted)
        client.extended_request(STATUS, 0, len(payload), flags=PAYLOAD_LEN, payload=payload)
        (kind, answer), = client.extended_reply()
        self.assertEqual((kind, client.extended_extents(answer)[0]), (STATUS_EXTENDED, wanted))
        for bad in (struct.pack(">QII", TIB, wanted, wanted), struct.pack(">QI", TIB, 77), struct.pack(">QI", 9 * TIB, wanted),
                    struct.pack(">Q", TIB), b"", b"x" * 13, bytes(1 << 20)):
            client.extended_request(STATUS, 0, len(bad), flags=PAYLOAD_LEN, payload=bad)
            self.assertEqual(client.extended_reply()[0][0], ERROR)
        # The stream is still in step.
        client.extended_request(FLUSH)
        self.assertEqual(client.extended_reply(), [(NONE, b"")])

    def test_what_makes_no_sense_closes(self):
        self.start("disk.qcow2")
        client = self.extended()
        client.extended_request(WRITE, 0, 1 << 40)
        self.assertTrue(client.at_end())
        client = self.extended()
        # A compact request, and enough behind it for an extended one.
        client.send(client.request_bytes(READ, 0, 512) + bytes(4))
        with self.assertRaises(Closed):
            client.take(1)

    def test_qemu_speaks_it(self):
        self.start("disk.qcow2")
        self.qemu_io(self.uri(), "write -P 7 5T 1M", "read -P 7 5T 1M", "write -z 5T 512k", "read -P 0 5T 512k",
                     "read -P 7 5497558663168 512k", "discard 1T 1G", image_format="raw")
        runs = json.loads(self.qemu_img("map", "--output=json", "-f", "raw", self.uri()))
        self.assertEqual([(each["start"], each["length"]) for each in runs if each["data"]], [(5 * TIB + (512 << 10), 512 << 10)])


class Bitmaps(ProtocolTestCase):
    SIZE = 64 << 20

    def setUp(self):
        super().setUp()
        self.random = random.Random(int(os.environ.get("WEIR_SEED", "1")))
        self.qemu_img("create", "-q", "-f", "qcow2", "disk.qcow2", str(self.SIZE))
        self.qemu_img("bitmap", "--add", "disk.qcow2", "live")
        self.qemu_img("bitmap", "--add", "-g", "4k", "disk.qcow2", "fine")
        writes = [f"write {self.random.randrange(self.SIZE // 512) * 512} 512" for _ in range(200)]
        self.qemu_io("disk.qcow2", *writes)
        self.qemu_img("bitmap", "--disable", "disk.qcow2", "fine")

    @staticmethod
    def runs(shown):
        """[offset, length, dirty] with equal neighbours merged, from what nbdinfo prints."""
        merged = []
        for each in json.loads(shown):
            if merged and merged[-1][2] == each["type"]:
                merged[-1][1] += each["length"]
            else:
                merged.append([each["offset"], each["length"], each["type"]])
        return merged

    def dirty(self, name, export=""):
        return self.runs(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", self.uri(export)))

    def theirs(self, name):
        """The same in QEMU's opinion, which sees a copy."""
        shutil.copy(self.path("disk.qcow2"), self.path("copy.qcow2"))
        return self.runs(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", "--", "[", "qemu-nbd", "-r", "-f",
                             "qcow2", "-B", name, "copy.qcow2", "]", cwd=self.folder))

    def test_bits_are_shown_as_qemu_nbd_shows_them(self):
        expected = {name: self.theirs(name) for name in ("live", "fine")}
        self.assertGreater(len(expected["fine"]), 100)
        self.start("--bitmap", "live", "--bitmap", "fine", "disk.qcow2")
        for name, shown in expected.items():
            self.assertEqual(self.dirty(name), shown)

    def test_a_bitmap_that_records_shows_changes_at_once(self):
        before = self.theirs("fine")
        running = self.start("--bitmap", "live", "--bitmap", "fine", "disk.qcow2")
        client = self.client().go()
        client.request(ZEROES, 0, self.SIZE)
        self.assertEqual(client.simple_reply()[0], 0)
        self.assertEqual(self.dirty("live"), [[0, self.SIZE, 1]])
        self.assertEqual(self.dirty("fine"), before)
        self.assertEqual(running.stop(), (0, ""))
        self.assertEqual(self.theirs("live"), [[0, self.SIZE, 1]])

    def test_they_are_contexts_in_both_forms_of_headers(self):
        expected = [[length, kind] for _, length, kind in self.theirs("fine")]
        self.start("--bitmap", "fine", "disk.qcow2")
        listing = self.client()
        replies = listing.option(LIST_CONTEXT, struct.pack(">II", 0, 0))
        self.assertEqual([text[4:] for _, kind, text in replies if kind == REP_CONTEXT],
                         [b"base:allocation", b"qemu:allocation-depth", b"qemu:dirty-bitmap:fine"])
        client = self.extended(b"base:allocation", b"qemu:dirty-bitmap:fine")
        client.extended_request(STATUS, 0, self.SIZE)
        answers = dict(client.extended_extents(payload) for _, payload in client.extended_reply())
        self.assertEqual(set(answers), set(client.ids.values()))
        self.assertEqual([list(extent) for extent in answers[client.ids[b"qemu:dirty-bitmap:fine"]]], expected)

    def test_what_cannot_be_shown_is_refused(self):
        self.refused("serve", "--nbd", "unix:x", "--bitmap", "none", "disk.qcow2", words=["disk.qcow2", "none"])
        self.start("disk.qcow2")
        client = self.qmp()
        export = {"type": "nbd", "id": "e", "node-name": "", "name": "second", "bitmaps": ["fine"]}
        said = client.command("block-export-add", **{**export, "bitmaps": ["zz"]})
        self.assertEqual(said["error"]["desc"], "Bitmap 'zz' is not found")
        said = client.command("block-export-add", **{**export, "bitmaps": ["live"]})
        self.assertEqual(said["error"]["desc"], "Enabled bitmap 'live' incompatible with readonly export")
        said = client.command("block-export-add", **{**export, "bitmaps": "fine"})
        self.assertIn("expected: array", said["error"]["desc"])
        self.assertEqual(client.command("block-export-add", **export), {"return": {}})
        self.assertEqual(self.dirty("fine", "second"), self.theirs("fine"))


if __name__ == "__main__":
    unittest.main()

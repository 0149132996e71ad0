"""The NBD server against the clients people use: libnbd's tools, QEMU's, fio."""
import json
import os
import random
import tempfile
import unittest

from nbd_client import NbdTestServer
from tools import run

MIB = 1 << 20


def write_image(path, size, seed):
    """Random data, written zeros and holes in pieces of random length."""
    source = random.Random(seed)
    with open(path, "wb") as image:
        image.truncate(size)
        at = 0
        while at < size:
            length = min(source.choice((4096, 65536, 300_000, 3 * MIB)), size - at)
            kind = source.randrange(3)
            if kind:
                image.seek(at)
                image.write(source.randbytes(length) if kind == 1 else bytes(length))
            at += length


class Peers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="weir-nbd-")
        self.addCleanup(self.folder.cleanup)
        self.path = self.folder.name
        self.image = f"{self.path}/image.raw"
        # Not a multiple of anything.
        write_image(self.image, 40 * MIB + 12345 * 512, seed=1)

    def serve(self, *arguments):
        server = NbdTestServer(self.path, *arguments).start()
        self.addCleanup(server.kill)
        return server

    def test_nbdinfo_shows_every_export(self):
        server = self.serve("one=memory:1048576", "two=memory:33554432")
        listed = json.loads(run("nbdinfo", "--json", "--list", server.uri()))
        self.assertEqual([each["export-name"] for each in listed["exports"]], ["one", "two"])
        info = json.loads(run("nbdinfo", "--json", server.uri("two")))["exports"][0]
        self.assertEqual(info["export-size"], 32 * MIB)
        self.assertEqual(info["description"], "test disk two")
        self.assertEqual(info["contexts"], ["base:allocation", "qemu:allocation-depth"])
        for ability in ("can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_df", "can_cache"):
            self.assertTrue(info[ability], ability)

    def test_nbdcopy_from_and_to_the_server(self):
        server = self.serve(f"source=raw:{self.image}", f"target=memory:{os.path.getsize(self.image)}")
        for options in ((), ("--connections=1",), ("--connections=4", "--requests=64"), ("--no-extents",), ("--synchronous",)):
            run("nbdcopy", *options, server.uri("source"), server.uri("target"))
            copy = f"{self.path}/copy.raw"
            run("nbdcopy", *options, "--flush", server.uri("target"), copy)
            run("cmp", self.image, copy)
            os.unlink(copy)

    def test_qemu_img_converts_compares_and_maps(self):
        server = self.serve(f"source=raw:{self.image}", f"target=memory:{os.path.getsize(self.image)}")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", "-U", self.image, server.uri("source"))
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", server.uri("source"), server.uri("target"))
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", "-U", self.image, server.uri("target"))
        served = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", server.uri("source")))
        direct = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", "-U", self.image))
        # Holes of the file are holes of the export; QEMU's raw driver calls them zero without data as well.
        facts = [[(each["start"], each["length"], each["zero"]) for each in each_map] for each_map in (served, direct)]
        self.assertEqual(*facts)

    def test_qemu_io_requests(self):
        server = self.serve("disk=memory:67108864")
        script = ["write -P 7 1M 2M", "read -P 7 1M 2M", "write -z 1536k 64k", "read -P 0 1536k 64k",
                  "write -z -u 1600k 64k", "read -P 0 1600k 64k", "write -P 9 -f 5000 70000", "read -P 9 5000 70000",
                  "discard 2M 512k", "flush", "aio_write -P 3 8M 4M", "aio_write -P 4 12M 4M", "aio_flush",
                  "read -P 3 8M 4M", "read -P 4 12M 4M", "read 0 64M"]
        arguments = [part for command in script for part in ("-c", command)]
        said = run("qemu-io", "-f", "raw", *arguments, server.uri("disk"))
        for trouble in ("verification failed", "failed:", "error"):
            self.assertNotIn(trouble, said)

    def test_read_only_export(self):
        server = self.serve("--read-only", f"disk=raw:{self.image}")
        info = json.loads(run("nbdinfo", "--json", server.uri("disk")))["exports"][0]
        self.assertTrue(info["is_read_only"])
        self.assertFalse(info["can_trim"])
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", self.image, server.uri("disk"))

    def fio(self, server, *options):
        said = run("fio", "--name=verify", "--ioengine=nbd", f"--uri={server.uri('disk')}", "--size=32m", "--iodepth=32",
                   "--output-format=json", *options, cwd=self.path)
        job = json.loads(said[said.index("{"):])["jobs"][0]
        self.assertEqual(job["error"], 0)
        return job

    def test_fio_verifies_what_it_wrote(self):
        server = self.serve(f"disk=raw:{self.image}")
        verify = ("--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--randseed=1")
        job = self.fio(server, "--bs=4k", *verify)
        self.assertGreater(job["read"]["total_ios"], 0)
        self.fio(server, "--bsrange=512-256k", "--bs_unaligned", "--norandommap=0", *verify)

    def test_fio_on_four_connections(self):
        server = self.serve(f"disk=raw:{self.image}")
        self.fio(server, "--bs=4k", "--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--numjobs=4", "--size=8m",
                 "--offset_increment=8m", "--group_reporting")

    def test_a_nbdkit_in_front_sees_the_same_disk(self):
        server = self.serve(f"disk=raw:{self.image}")
        copy = f"{self.path}/copy.raw"
        run("nbdkit", "-U", "-", "nbd", f"uri={server.uri('disk')}", "--run", f"nbdcopy $uri {copy}")
        run("cmp", self.image, copy)

    def test_tcp(self):
        server = NbdTestServer(self.path, "tcp:localhost:0", f"disk=raw:{self.image}").start()
        self.addCleanup(server.kill)
        address = server.addresses[0].removeprefix("tcp:")
        copy = f"{self.path}/copy.raw"
        run("nbdcopy", f"nbd://{address}/disk", copy)
        run("cmp", self.image, copy)


if __name__ == "__main__":
    unittest.main()

"""Offline copies on a file system that shares blocks (XFS on a loop device; its mount wants root): the target shares the
source's. Where such a file system cannot be mounted, that copies are right without."""
import os
import random
import subprocess
import unittest

from tools import run, system_tool
from weir_cli import CliTestCase

MIB = 1 << 20
DATA = 48 * MIB


class Reflink(CliTestCase):
    def setUp(self):
        super().setUp()
        source = random.Random(5)
        self.data = source.randbytes(16 * MIB) + bytes(8 * MIB) + source.randbytes(DATA - 24 * MIB)
        self.place = self.path("mount")
        os.mkdir(self.place)
        self.shares = self.mount()

    def mount(self):
        with open(self.path("device"), "wb") as file:
            file.truncate(400 * MIB)
        run(system_tool("mkfs.xfs"), "-q", "-m", "reflink=1", self.path("device"))
        mounted = subprocess.run(["mount", "-o", "loop", self.path("device"), self.place], capture_output=True, text=True)
        if mounted.returncode != 0:
            print(f"no file system that shares blocks: {mounted.stderr.strip()}")
            return False
        self.addCleanup(run, "umount", self.place)
        return True

    def used(self):
        os.sync()
        facts = os.statvfs(self.place)
        return (facts.f_blocks - facts.f_bfree) * facts.f_frsize

    def convert(self, *arguments):
        """Returns how much space the result takes of its own."""
        before = self.used()
        self.weir("convert", *arguments)
        return self.used() - before

    def on_mount(self, name):
        return f"mount/{name}"

    def test_copies_share_blocks(self):
        source, copy = self.on_mount("a.raw"), self.on_mount("b.raw")
        self.write(source, self.data)
        own = self.convert("-f", "raw", "-O", "raw", source, copy)
        self.assertEqual(self.read(copy), self.data)
        if self.shares:
            self.assertLess(own, 2 * MIB, "raw to raw")
        self.weir("convert", "-f", "raw", "-O", "qcow2", source, self.on_mount("c.qcow2"))
        own = self.convert("-f", "qcow2", "-O", "raw", self.on_mount("c.qcow2"), self.on_mount("d.raw"))
        self.assertEqual(self.read(self.on_mount("d.raw")), self.data)
        if self.shares:
            self.assertLess(own, 2 * MIB, "qcow2 to raw")

    def test_what_is_shared_is_a_copy_all_the_same(self):
        source, copy = self.on_mount("a.raw"), self.on_mount("b.raw")
        self.write(source, self.data)
        self.weir("convert", "-f", "raw", "-O", "raw", source, copy)
        self.qemu_io(source, "write -P 9 1M 1M", image_format="raw")
        self.assertEqual(self.read(copy), self.data)

    def test_commit_shares_too_and_leaves_the_rest(self):
        base, top = self.on_mount("base.raw"), self.on_mount("top.qcow2")
        self.write(base, self.data)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", top)
        self.qemu_io(top, "write -P 3 2M 6M", "write -z 20M 1M", "write -P 4 40000000 1000")
        self.weir("convert", "-O", "raw", top, "expected.raw")
        self.weir("commit", top)
        self.assertEqual(self.read(base), self.read("expected.raw"))

    def test_odd_ends_and_places_are_copied(self):
        source, copy = self.on_mount("a.raw"), self.on_mount("b.raw")
        self.write(source, self.data[:5 * MIB + 512 * 3])
        self.weir("convert", "-f", "raw", "-O", "raw", source, copy)
        self.assertEqual(self.read(copy), self.read(source))
        self.weir("convert", "-f", "raw", "-O", "raw", source, "elsewhere.raw")
        self.assertEqual(self.read("elsewhere.raw"), self.read(source))

    def test_where_zeros_are_to_be_found_nothing_is_shared(self):
        source = self.on_mount("a.raw")
        self.write(source, self.data)
        for size, least, most in (("0", DATA - MIB, DATA + 2 * MIB), ("4K", DATA - 9 * MIB, DATA - 7 * MIB)):
            own = self.convert("-f", "raw", "-O", "raw", "-S", size, source, self.on_mount(f"{size}.raw"))
            self.assertEqual(self.read(self.on_mount(f"{size}.raw")), self.data)
            if self.shares:
                self.assertTrue(least <= own <= most, f"-S {size}: {own}")


if __name__ == "__main__":
    unittest.main()

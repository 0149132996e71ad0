"""Every format as the active image of a chain that `weir serve` serves, read and written by the peers' clients, on one
connection and on four; QEMU checks what is left."""
import json
import os
import unittest

from tools import run
from weir_cli import CliTestCase


class ServedFormats(CliTestCase):
    def start(self, image_format):
        """Serves a 32 MiB image, an overlay where the format can be one; `expected.raw` has its content."""
        self.nbd = self.path("nbd.sock")
        self.uri = f"nbd+unix:///vda?socket={self.nbd}"
        self.qemu_img("create", "-q", "-f", "raw", "base.raw", "32M")
        self.qemu_io("base.raw", "write -P 1 0 6M", "write -P 2 20M 300k", image_format="raw")
        image = "base.raw"
        if image_format != "raw":
            image = f"top.{image_format}"
            self.qemu_img("create", "-q", "-f", image_format, "-b", "base.raw", "-F", "raw", image)
            self.qemu_io(image, "write -P 3 1M 1M", image_format=image_format)
        self.qemu_img("convert", "-f", image_format, "-O", "raw", image, "expected.raw")
        self.image, self.image_format = image, image_format
        return self.serve("--nbd", f"unix:{self.nbd}", "--export", "vda", "-f", image_format, image)

    def finish(self, running):
        self.assertEqual(running.stop(), (0, ""))
        if self.image_format != "raw":
            self.assertIn("No errors", self.qemu_img("check", "-f", self.image_format, self.image))
        self.qemu_img("compare", "-f", self.image_format, "-F", "raw", self.image, "expected.raw")

    def each_format(self, exercise):
        for image_format in ("raw", "qcow2", "qed"):
            with self.subTest(image_format):
                for name in os.listdir(self.folder):
                    os.unlink(self.path(name))
                running = self.start(image_format)
                exercise()
                self.finish(running)

    def test_nbdinfo(self):
        def exercise():
            export = json.loads(run("nbdinfo", "--json", self.uri))["exports"][0]
            self.assertEqual(export["export-size"], 32 << 20)
            self.assertTrue(export["can_multi_conn"] and export["can_zero"] and export["can_flush"])
            extents = json.loads(run("nbdinfo", "--map", "--json", self.uri))
            self.assertEqual(sum(extent["length"] for extent in extents), 32 << 20)
            self.assertTrue(any(extent["type"] & 2 for extent in extents), "no zeros in the map")
        self.each_format(exercise)

    def test_nbdcopy_both_ways(self):
        def exercise():
            for connections in (1, 4):
                copy = self.path("copy.raw")
                run("nbdcopy", f"--connections={connections}", self.uri, copy)
                run("cmp", copy, self.path("expected.raw"))
                new = self.path("new.raw")
                with open(new, "wb") as file:
                    file.write(os.urandom(3 << 20))
                    file.seek(9 << 20)
                    file.write(bytes([connections]) * (7 << 20))
                    file.truncate(32 << 20)
                run("nbdcopy", f"--connections={connections}", "--flush", new, self.uri)
                os.replace(new, self.path("expected.raw"))
        self.each_format(exercise)

    def test_qemu_img_and_qemu_io(self):
        def exercise():
            requests = ("write -P 7 123456 654321", "write -z -u 2M 3M", "write -z 5M 70k", "discard 8M 1M", "flush",
                        "write -P 8 33554000 432")
            self.qemu_img("compare", "-f", "raw", "-F", "raw", self.uri, "expected.raw")
            self.qemu_io(self.uri, *requests, "read -P 7 123456 654321", "read -P 0 2M 3M", image_format="raw")
            self.qemu_io("expected.raw", *requests, image_format="raw")
            self.qemu_img("compare", "-f", "raw", "-F", "raw", self.uri, "expected.raw")
        self.each_format(exercise)

    def test_fio_verifies_what_it_wrote(self):
        def exercise():
            for jobs in (1, 4):
                said = run("fio", "--name=verify", "--ioengine=nbd", f"--uri={self.uri}", "--rw=randwrite",
                           "--bsrange=512-128k", "--bs_unaligned", "--iodepth=16", f"--numjobs={jobs}",
                           f"--size={32 // jobs}m", f"--offset_increment={32 // jobs}m", "--verify=crc32c",
                           "--verify_fatal=1", "--randseed=1", "--output-format=json", cwd=self.folder)
                for job in json.loads(said[said.index("{"):])["jobs"]:
                    self.assertEqual(job["error"], 0)
                    self.assertGreater(job["read"]["total_ios"], 0)
            run("nbdcopy", self.uri, self.path("expected.raw"))
        self.each_format(exercise)


if __name__ == "__main__":
    unittest.main()

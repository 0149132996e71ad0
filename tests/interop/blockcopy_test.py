"""`weir blockcopy` of a served disk while a client writes to it: pivot, finish, shallow copies, exports, refusals."""
import json
import os
import unittest

from busy_client import Writer
from weir_cli import CliTestCase, QmpClient

MIB = 1 << 20


class Blockcopy(CliTestCase):
    def setUp(self):
        super().setUp()
        self.control, self.nbd = self.path("control"), self.path("nbd")
        self.make_chain()
        self.xml = self.domain(("vda", "qcow2", self.path("top.qcow2")))
        self.running = self.serve("--control", self.control, "--nbd", f"unix:{self.nbd}", self.xml)
        self.uri = f"nbd+unix:///vda?socket={self.nbd}"

    def copy(self, *arguments, expected=0):
        return self.weir("blockcopy", "-c", self.control, *arguments, "vda", expected=expected)

    def job(self):
        return json.loads(self.weir("blockjob", "-c", self.control, "vda", "--json").stdout)

    def served_content(self, name):
        self.qemu_img("convert", "-f", "raw", "-O", "raw", self.uri, name)

    def test_pivot_under_writes_to_every_format(self):
        below = [self.read(name) for name in ("base.raw", "middle.qcow2")]
        formats = ("raw", "qcow2", "qed", "qcow2")
        for number, image_format in enumerate(formats):
            with self.subTest(number=number, format=image_format):
                writer = Writer(self.uri, 16 * MIB, number)
                writer.start()
                mode = ("auto", "background", "write-blocking", "auto")[number]
                dest = f"copy{number}.{image_format}"
                done = self.copy("--dest", dest, "--format", image_format, "--copy-mode", mode, "--pivot")
                self.assertIn("Successfully pivoted", done.stdout)
                writer.stop(self)
                self.assertEqual(self.job(), {})
                described = self.weir("dumpxml", "-c", self.control).stdout
                self.assertIn(self.path(dest), described)
                self.assertNotIn("<mirror", described)
        self.qemu_io(self.uri, "write -P 99 7M 1M", image_format="raw")
        self.served_content("content.raw")
        self.assertEqual(self.running.stop(), (0, ""))
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "content.raw", "copy3.qcow2")
        self.assertIn("No errors", self.qemu_img("check", "copy3.qcow2"))
        self.assertNotIn("backing-filename", json.loads(self.qemu_img("info", "--output=json", "copy3.qcow2")))
        for name in ("copy1.qcow2", "top.qcow2", "middle.qcow2"):
            self.assertIn("No errors", self.qemu_img("check", name))
        self.assertEqual([self.read(name) for name in ("base.raw", "middle.qcow2")], below)

    def test_finish_leaves_a_copy_of_one_moment(self):
        self.served_content("before.raw")
        self.copy("--dest", "copy.qcow2", "--finish")
        self.qemu_io(self.uri, "write -P 99 0 16M", image_format="raw")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "before.raw", "copy.qcow2")
        self.assertIn("No errors", self.qemu_img("check", "copy.qcow2"))
        self.assertIn("top.qcow2", self.weir("dumpxml", "-c", self.control).stdout)

    def test_zeros_take_no_space(self):
        self.qemu_io(self.uri, "write -P 0 4M 4M", "write -P 5 8M 64k", image_format="raw")
        self.copy("--dest", "copy.raw", "--format", "raw", "--finish")
        self.served_content("content.raw")
        self.qemu_img("compare", "-f", "raw", "-F", "raw", "content.raw", "copy.raw")
        taken = os.stat(self.path("copy.raw")).st_blocks * 512
        with open(self.path("content.raw"), "rb") as file:
            pages = iter(lambda: file.read(4096), b"")
            self.assertLessEqual(taken, sum(len(page) for page in pages if page.strip(b"\0")) + 65536)

    def test_shallow_and_down_to_a_base(self):
        for words, backing in ((["--shallow"], "middle.qcow2"), (["--base", self.path("base.raw")], "base.raw")):
            with self.subTest(words=words):
                dest = f"copy-{backing}.qcow2"
                self.copy("--dest", dest, "--finish", *words)
                info = json.loads(self.qemu_img("info", "--output=json", dest))
                self.assertEqual(info["backing-filename"], self.path(backing))
                self.served_content("content.raw")
                self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "content.raw", dest)
                self.assertIn("No errors", self.qemu_img("check", dest))

    def test_to_an_export_and_by_steps(self):
        self.qemu_img("create", "-q", "-f", "raw", "remote.raw", "16M")
        remote = self.path("remote")
        self.serve("--nbd", f"unix:{remote}", "--export", "r", "-f", "raw", self.path("remote.raw"))
        client = QmpClient(self.control)
        self.addCleanup(client.close)
        self.copy("--dest", f"nbd+unix:///r?socket={remote}")
        client.wait(lambda event: event["event"] == "BLOCK_JOB_READY")
        job = self.job()
        self.assertEqual((job["type"], job["ready"], job["status"]), ("mirror", True, "ready"))
        self.assertIn("<mirror", self.weir("dumpxml", "-c", self.control).stdout)
        self.qemu_io(self.uri, "write -P 55 3M 100k", image_format="raw")
        self.weir("blockjob", "-c", self.control, "vda", "--abort")
        self.assertEqual(self.job(), {})
        completed = client.wait(lambda event: event["event"] == "BLOCK_JOB_COMPLETED")
        self.assertNotIn("error", completed["data"])
        self.qemu_img("compare", "-f", "raw", "-F", "raw", self.uri, f"nbd+unix:///r?socket={remote}")

    def test_cancel_before_it_is_ready(self):
        self.copy("--dest", "copy.qcow2", "--bandwidth", "1")
        self.weir("blockjob", "-c", self.control, "vda", "--abort")
        self.assertEqual(self.job(), {})
        self.qemu_img("compare", "-U", "-f", "raw", "-F", "qcow2", self.uri, "top.qcow2")

    def test_refusals(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "small.qcow2", "1M")
        control = ["blockcopy", "-c", self.control]
        self.refused(*control, "vda", expected=2, words=["--dest"])
        self.refused(*control, "--dest", "small.qcow2", "vda", words=["small.qcow2", "exists"])
        self.refused(*control, "--dest", "small.qcow2", "--reuse-external", "vda", words=["1048576", "16777216"])
        self.refused(*control, "--dest", self.path("top.qcow2"), "--reuse-external", "vda", words=["top.qcow2", "use"])
        self.refused(*control, "--dest", "missing/copy.qcow2", "vda", words=["missing/copy.qcow2", "No such file"])
        self.refused(*control, "--dest", "copy.raw", "--format", "raw", "--shallow", "vda", words=["raw", "backing"])
        self.refused(*control, "--dest", "copy.qcow2", "--granularity", "1000", "vda", words=["power of 2"])
        self.refused(*control, "--dest", "copy.qcow2", "vdz", words=["vdz"])
        self.assertEqual(self.job(), {})
        self.assertFalse(os.path.exists(self.path("copy.qcow2")))


if __name__ == "__main__":
    unittest.main()

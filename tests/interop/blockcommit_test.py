"""`weir blockcommit` of a served disk while a client writes to it: active and in the middle of the chain, pivot and
keep-overlay, files deleted, refusals; QEMU judges what is left."""
import json
import os
import signal
import unittest

from busy_client import Writer
from weir_cli import CliTestCase, QmpClient

MIB = 1 << 20


class Blockcommit(CliTestCase):
    def setUp(self):
        super().setUp()
        self.control, self.nbd = self.path("control"), self.path("nbd")
        self.uri = f"nbd+unix:///vda?socket={self.nbd}"

    def start(self, image_format="qcow2", *options):
        """base.raw ← lower.qcow2 ← middle.qcow2 ← top, served; lower has larger clusters than those above it."""
        self.make_chain(image_format)
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=1M", "-b", "base.raw", "-F", "raw", "lower.qcow2")
        self.qemu_io("lower.qcow2", "write -P 6 5M 300k", "write -P 7 8M 10k")
        self.qemu_img("rebase", "-u", "-f", "qcow2", "-b", "lower.qcow2", "-F", "qcow2", "middle.qcow2")
        top = f"top.{image_format}"
        self.xml = self.domain(("vda", image_format, self.path(top)))
        self.running = self.serve("--control", self.control, "--nbd", f"unix:{self.nbd}", *options, self.xml)
        self.content = self.served_content()
        return top

    def served_content(self, name="content.raw"):
        self.qemu_img("convert", "-f", "raw", "-O", "raw", self.uri, name)
        return self.read(name)

    def commit(self, *arguments, expected=0):
        return self.weir("blockcommit", "-c", self.control, *arguments, "vda", expected=expected)

    def job(self):
        return json.loads(self.weir("blockjob", "-c", self.control, "vda", "--json").stdout)

    def backing(self, image):
        return json.loads(self.qemu_img("info", "-U", "--output=json", image)).get("full-backing-filename")

    def stop(self):
        self.assertEqual(self.running.stop(), (0, ""))

    def test_active_into_each_layer_under_writes(self):
        bases = (("base.raw", "raw"), ("lower.qcow2", "qcow2"), ("middle.qcow2", "qcow2"))
        for number, (base, base_format) in enumerate(bases):
            for top_format in ("qcow2", "qed"):
                with self.subTest(base=base, top_format=top_format):
                    top = self.start(top_format)
                    below = {name: self.read(name) for name in ("base.raw", "lower.qcow2", "middle.qcow2")}
                    writer = Writer(self.uri, 16 * MIB, number)
                    writer.start()
                    done = self.commit("--base", self.path(base), "--pivot", *(["--delete"] if number == 1 else []))
                    self.assertIn("Successfully pivoted", done.stdout)
                    writer.stop(self)
                    self.assertEqual(self.job(), {})
                    described = self.weir("dumpxml", "-c", self.control).stdout
                    self.assertIn(self.path(base), described)
                    self.assertNotIn(top, described)
                    self.qemu_io(self.uri, "write -P 99 7M 1M", image_format="raw")
                    self.served_content()
                    self.stop()
                    self.qemu_img("compare", "-f", "raw", "-F", base_format, "content.raw", base)
                    if base_format == "qcow2":
                        self.assertIn("No errors", self.qemu_img("check", base))
                    for name in list(below)[:list(below).index(base)]:
                        self.assertTrue(self.read(name) == below[name], name)
                    for name in (top, "middle.qcow2"):
                        gone = number == 1
                        self.assertEqual(os.path.exists(self.path(name)), not gone, name)

    def test_keep_overlay_leaves_the_base_as_a_whole_copy(self):
        top = self.start()
        done = self.commit("--shallow", "--keep-overlay")
        self.assertIn("overlay image kept", done.stdout)
        self.assertIn(top, self.weir("dumpxml", "-c", self.control).stdout)
        self.assertEqual(self.served_content(), self.content)
        self.qemu_img("compare", "-U", "-f", "raw", "-F", "qcow2", "content.raw", "middle.qcow2")
        self.qemu_io(self.uri, "write -P 99 7M 1M", image_format="raw")
        self.served_content("later.raw")
        self.stop()
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "later.raw", top)
        for image in ("top.qcow2", "middle.qcow2"):
            self.assertIn("No errors", self.qemu_img("check", image))
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "content.raw", "middle.qcow2")

    def test_in_the_middle(self):
        top = self.start("qed", "--update-xml")
        writer = Writer(self.uri, 16 * MIB)
        writer.start()
        done = self.commit("--top", "vda[2]", "--base", self.path("lower.qcow2"), "--wait", "--delete")
        self.assertIn("Commit complete", done.stdout)
        writer.stop(self)
        self.assertEqual(self.backing(top), self.path("lower.qcow2"))
        self.assertFalse(os.path.exists(self.path("middle.qcow2")))
        self.assertNotIn("middle.qcow2", self.weir("dumpxml", "-c", self.control).stdout)
        self.assertNotIn("middle.qcow2", self.read(self.xml).decode())
        # Below the active layer's overlay: its header is opened for that alone.
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", top, "-F", "qed", "newest.qcow2")
        self.served_content()
        self.stop()
        self.qemu_img("compare", "-f", "raw", "-F", "qed", "content.raw", top)
        self.xml = self.domain(("vda", "qcow2", self.path("newest.qcow2")))
        self.running = self.serve("--control", self.control, "--nbd", f"unix:{self.nbd}", self.xml)
        self.commit("--top", self.path("lower.qcow2"), "--wait")
        self.assertEqual(self.backing(top), self.path("base.raw"))
        self.assertEqual(self.served_content("again.raw"), self.read("content.raw"))
        self.stop()
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "content.raw", "newest.qcow2")

    def test_the_base_grows_and_what_a_short_layer_hid_stays_hidden(self):
        self.qemu_img("create", "-q", "-f", "raw", "base.raw", "12M")
        self.qemu_io("base.raw", "write -P 9 0 12M", image_format="raw")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle.qcow2", "8M")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2", "20M")
        self.qemu_io("top.qcow2", "write -P 3 19M 1M")
        xml = self.domain(("vda", "qcow2", self.path("top.qcow2")))
        for words in (["--top", self.path("middle.qcow2"), "--wait"], ["--pivot"]):
            with self.subTest(words=words):
                self.running = self.serve("--control", self.control, "--nbd", f"unix:{self.nbd}", xml)
                before = self.served_content()
                self.commit(*words)
                self.assertEqual(self.served_content(), before)
                self.stop()
        self.qemu_img("compare", "-f", "raw", "-F", "raw", "content.raw", "base.raw")
        self.assertEqual(os.stat(self.path("base.raw")).st_size, 20 * MIB)

    def test_ready_is_shown_and_abort_goes_back(self):
        self.start()
        client = QmpClient(self.control)
        self.addCleanup(client.close)
        started = client.command("block-commit", device="vda", **{"base-node": "vda[3]", "job-id": "merge"})
        self.assertEqual(started, {"return": {}})
        ready = client.wait(lambda event: event["event"] == "BLOCK_JOB_READY")
        self.assertEqual((ready["data"]["device"], ready["data"]["type"]), ("merge", "commit"))
        shown = self.weir("dumpxml", "-c", self.control).stdout
        self.assertIn("job='active-commit'", shown.replace('"', "'"))
        client.command("block-job-cancel", device="merge", force=True)
        client.wait(lambda event: event["event"] == "BLOCK_JOB_CANCELLED")
        self.assertNotIn("<mirror", self.weir("dumpxml", "-c", self.control).stdout)
        # The base is nobody's to write any more: others may stand on it.
        other = self.serve("--nbd", f"unix:{self.path('other')}", "--read-only", self.path("lower.qcow2"))
        self.assertEqual(other.stop(), (0, ""))
        self.assertEqual(self.served_content(), self.content)
        self.commit("--base", self.path("lower.qcow2"), "--pivot")
        self.assertEqual(self.served_content(), self.content)
        self.stop()

    def test_killed_in_the_middle_nothing_is_lost(self):
        for words in (["--active"], ["--top", "vda[2]"]):
            with self.subTest(words=words):
                self.start()
                self.commit(*words, "--bandwidth", "1")
                self.running.process.send_signal(signal.SIGKILL)
                self.running.process.wait()
                self.running = self.serve("--control", self.control, "--nbd", f"unix:{self.nbd}", self.xml)
                self.assertEqual(self.served_content(), self.content)
                self.commit(*words, "--wait")
                if words == ["--active"]:
                    self.weir("blockjob", "-c", self.control, "vda", "--pivot")
                self.assertEqual(self.served_content(), self.content)
                self.stop()

    def test_refusals(self):
        self.start()
        commit = ["blockcommit", "-c", self.control]
        self.refused(*commit, "vda", expected=2, words=["--active"])
        self.refused(*commit, "--pivot", "--keep-overlay", "vda", expected=2, words=["--keep-overlay"])
        self.refused(*commit, "--keep-overlay", "--delete", "vda", expected=2, words=["--delete"])
        self.refused(*commit, "--active", "--base", "none.raw", "vda", words=["none.raw"])
        self.refused(*commit, "--top", "vda[3]", "--base", "vda[2]", "vda", words=["below its top"])
        self.refused(*commit, "--active", "vdz", words=["vdz"])
        locked = self.serve("--nbd", f"unix:{self.path('other')}", "--read-only", "-f", "raw", self.path("base.raw"))
        self.refused(*commit, "--active", "vda", words=["base.raw"])
        self.assertEqual(locked.stop(), (0, ""))
        self.assertEqual(self.job(), {})
        self.assertEqual(self.served_content(), self.content)
        self.commit("--active", "--bandwidth", "1")
        self.refused(*commit, "--active", "vda", words=["busy"])
        self.refused("blockpull", "-c", self.control, "vda", words=["busy"])
        self.weir("blockjob", "-c", self.control, "vda", "--abort")
        self.assertEqual(self.served_content(), self.content)
        self.stop()


if __name__ == "__main__":
    unittest.main()

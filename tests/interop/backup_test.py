"""`weir backup` of a served disk while a client writes to it: the copy is of one instant, whole or incremental,
compressed, to exports; bitmaps over QMP; nothing half-done has the copy's name."""
import json
import os
import signal
import unittest

from busy_client import Writer
from tools import run
from weir_cli import CliTestCase, QmpClient

MIB = 1 << 20


class Backup(CliTestCase):
    def setUp(self):
        super().setUp()
        self.control, self.nbd = self.path("control"), self.path("nbd")
        self.make_chain()
        self.xml = self.domain(("vda", "qcow2", self.path("top.qcow2")))
        self.start()

    def start(self, *options):
        self.running = self.serve("--control", self.control, "--nbd", f"unix:{self.nbd}", *options, self.xml)
        self.uri = f"nbd+unix:///vda?socket={self.nbd}"

    def backup(self, *arguments, expected=0):
        return self.weir("backup", "-c", self.control, *arguments, "vda", expected=expected)

    def qmp(self, command, **arguments):
        client = QmpClient(self.control)
        try:
            return client.command(command, **arguments)
        finally:
            client.close()

    def done(self, command, **arguments):
        self.assertEqual(self.qmp(command, **arguments), {"return": {}})

    def job(self):
        return json.loads(self.weir("blockjob", "-c", self.control, "vda", "--json").stdout)

    def served_content(self, name):
        self.qemu_img("convert", "-f", "raw", "-O", "raw", self.uri, name)

    def change(self, *commands):
        self.qemu_io(self.uri, *commands, image_format="raw")

    def test_one_instant_under_writes_to_every_format(self):
        kinds = (("raw", []), ("qcow2", []), ("qed", []), ("qcow2", ["--compress"]))
        for number, (image_format, words) in enumerate(kinds):
            with self.subTest(format=image_format, words=words):
                self.served_content("before.raw")
                dest = f"copy{number}.{image_format}"
                # Slow, so that most of it is changed before it is copied.
                self.backup("--dest", dest, "--format", image_format, "--bandwidth", "4", *words)
                writer = Writer(self.uri, 16 * MIB, number)
                writer.start()
                self.change("write -P 77 0 16M", "write -z 2M 3M", "discard 9M 1M")
                # It may be over already, if the client has changed, and so saved, everything.
                self.qmp("block-job-set-speed", device="vda", speed=0)
                writer.stop(self)
                while self.job():
                    pass
                self.qemu_img("compare", "-f", "raw", "-F", image_format, "before.raw", dest)
                if image_format == "qcow2":
                    self.assertIn("No errors", self.qemu_img("check", dest))
        self.assertEqual(self.running.stop(), (0, ""))
        self.assertIn("No errors", self.qemu_img("check", "top.qcow2"))

    def test_zeros_take_no_space(self):
        self.change("write -P 0 4M 4M", "write -P 5 8M 64k")
        self.backup("--dest", "copy.raw", "--format", "raw", "--wait")
        self.served_content("content.raw")
        self.qemu_img("compare", "-f", "raw", "-F", "raw", "content.raw", "copy.raw")
        with open(self.path("content.raw"), "rb") as file:
            pages = iter(lambda: file.read(4096), b"")
            data = sum(len(page) for page in pages if page.strip(b"\0"))
        self.assertLessEqual(os.stat(self.path("copy.raw")).st_blocks * 512, data + 65536)

    def test_a_chain_of_increments(self):
        self.done("block-dirty-bitmap-add", node="vda", name="b", persistent=True)
        self.backup("--dest", "full.qcow2", "--wait")
        previous = "full.qcow2"
        for number in range(3):
            self.change(f"write -P {number + 9} {number + 1}M 300k", f"write -z {number * 2 + 5}M 1M",
                        f"discard {number + 11}M 64k")
            self.served_content("before.raw")
            dest = f"increment{number}.qcow2"
            self.backup("--dest", dest, "--incremental", "b", "--bandwidth", "1")
            self.change("write -P 200 14M 1M", "write -P 201 1M 4M")
            self.qmp("block-job-set-speed", device="vda", speed=0)
            while self.job():
                pass
            mapped = json.loads(self.qemu_img("map", "--output=json", dest))
            self.assertLess(sum(each["length"] for each in mapped if each["data"]), 8 * MIB)
            self.qemu_img("rebase", "-u", "-f", "qcow2", "-b", previous, "-F", "qcow2", dest)
            self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "before.raw", dest)
            self.assertIn("No errors", self.qemu_img("check", dest))
            previous = dest
        # What changed during the last one is in the bitmap, also after a restart.
        self.served_content("before.raw")
        self.assertEqual(self.running.stop(), (0, ""))
        self.start()
        self.backup("--dest", "last.qcow2", "--incremental", "b", "--wait")
        self.qemu_img("rebase", "-u", "-f", "qcow2", "-b", previous, "-F", "qcow2", "last.qcow2")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "before.raw", "last.qcow2")

    def test_a_failed_increment_loses_nothing(self):
        self.done("block-dirty-bitmap-add", node="vda", name="b", persistent=True)
        self.backup("--dest", "full.qcow2", "--wait")
        self.change("write -P 9 0 14M")
        self.backup("--dest", "cancelled.qcow2", "--incremental", "b", "--bandwidth", "1")
        self.change("write -P 8 6M 64k")
        self.weir("blockjob", "-c", self.control, "vda", "--abort")
        self.assertFalse(os.path.exists(self.path("cancelled.qcow2")))
        self.assertEqual([name for name in os.listdir(self.folder) if name.startswith("cancelled") or ".weir" in name], [])
        self.served_content("before.raw")
        self.backup("--dest", "second.qcow2", "--incremental", "b", "--wait")
        self.qemu_img("rebase", "-u", "-f", "qcow2", "-b", "full.qcow2", "-F", "qcow2", "second.qcow2")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "before.raw", "second.qcow2")

    def test_to_an_export_and_shallow(self):
        self.served_content("before.raw")
        self.qemu_img("create", "-q", "-f", "raw", "remote.raw", "16M")
        self.qemu_io("remote.raw", "write -P 66 0 16M", image_format="raw")
        remote = self.path("remote")
        self.serve("--nbd", f"unix:{remote}", "--export", "r", "-f", "raw", self.path("remote.raw"))
        self.backup("--dest", f"nbd+unix:///r?socket={remote}", "--wait")
        self.qemu_img("compare", "-f", "raw", "-F", "raw", "before.raw", f"nbd+unix:///r?socket={remote}")
        self.backup("--dest", "shallow.qcow2", "--shallow", "--wait")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "before.raw", "shallow.qcow2")
        info = json.loads(self.qemu_img("info", "--output=json", "shallow.qcow2"))
        self.assertEqual(info["backing-filename"], self.path("middle.qcow2"))

    def test_killed_it_leaves_no_copy_and_a_sound_disk(self):
        self.served_content("before.raw")
        self.backup("--dest", "copy.qcow2", "--bandwidth", "1")
        self.change("write -P 7 3M 64k", "flush")
        self.running.process.send_signal(signal.SIGKILL)
        self.running.process.wait()
        self.assertFalse(os.path.exists(self.path("copy.qcow2")))
        self.start()
        self.served_content("after.raw")
        before, after = self.read("before.raw"), self.read("after.raw")
        self.assertEqual(after, before[:3 * MIB] + b"\7" * 65536 + before[3 * MIB + 65536:])

    def test_a_target_that_is_full_breaks_the_copy_or_the_write(self):
        for words, breaks_write in (([], False), (["--break-guest-write"], True)):
            with self.subTest(words=words):
                self.qemu_img("create", "-q", "-f", "raw", "small.raw", "16M")
                remote = self.path(f"remote{breaks_write}")
                export = self.serve("--nbd", f"unix:{remote}", "--export", "r", "--read-only", "-f", "raw",
                                    self.path("small.raw"))
                self.refused("backup", "-c", self.control, "--dest", f"nbd+unix:///r?socket={remote}", "--wait", *words,
                             "vda", words=["r"])
                self.assertEqual(export.stop(), (0, ""))
                self.assertEqual(self.job(), {})

    def test_bitmaps_by_qmp(self):
        for name in ("a", "b", "c"):
            self.done("block-dirty-bitmap-add", node="vda", name=name, persistent=name != "c", granularity=65536)
        self.done("block-dirty-bitmap-disable", node="vda", name="b")
        self.change("write 1M 64k")
        self.done("block-dirty-bitmap-enable", node="vda", name="b")
        self.change("write 2M 64k")
        self.done("block-dirty-bitmap-clear", node="vda", name="a")
        self.change("write 3M 64k")
        self.done("block-dirty-bitmap-merge", node="vda", target="a", bitmaps=["b", {"node": "vda", "name": "c"}])
        self.done("block-dirty-bitmap-remove", node="vda", name="b")
        for arguments, words in ((dict(node="vda", name="a"), "exists"), (dict(node="vdz", name="x"), "vdz"),
                                 (dict(node="vda", name="x", granularity=1000), "power of 2")):
            self.assertIn(words, self.qmp("block-dirty-bitmap-add", **arguments)["error"]["desc"])
        self.assertIn("does not exist", self.qmp("block-dirty-bitmap-clear", node="vda", name="b")["error"]["desc"])
        self.assertEqual(self.running.stop(), (0, ""))
        info = json.loads(self.qemu_img("info", "--output=json", "top.qcow2"))
        self.assertEqual(info["format-specific"]["data"]["bitmaps"], [{"name": "a", "granularity": 65536, "flags": ["auto"]}])
        self.start("--bitmap", "a")
        self.assertEqual(self.running.process.poll(), None)
        shown = json.loads(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:a", self.uri))
        self.assertEqual([(each["offset"], each["length"]) for each in shown if each["type"]],
                         [(1 * MIB, 65536), (2 * MIB, 65536), (3 * MIB, 65536)])

    def test_a_transaction_is_one_instant_of_several_disks(self):
        self.assertEqual(self.running.stop(), (0, ""))
        self.qemu_img("create", "-q", "-f", "qcow2", "second.qcow2", "16M")
        self.xml = self.domain(("vda", "qcow2", self.path("top.qcow2")), ("vdb", "qcow2", self.path("second.qcow2")))
        self.start()
        second = f"nbd+unix:///vdb?socket={self.nbd}"

        def backup(disk, dest, **more):
            return {"type": "drive-backup", "data": {"device": disk, "target": self.path(dest), "format": "qcow2",
                                                     "sync": "full", "speed": 4 * MIB, **more}}

        def add(disk):
            return {"type": "block-dirty-bitmap-add", "data": {"node": disk, "name": "b", "persistent": True}}

        self.qemu_io(self.uri, "write -P 9 0 16M", image_format="raw")
        self.qemu_io(second, "write -P 9 0 16M", image_format="raw")
        self.served_content("first.raw")
        self.qemu_img("convert", "-f", "raw", "-O", "raw", second, "second.raw")
        self.done("transaction", actions=[add("vda"), backup("vda", "a.qcow2"), add("vdb"), backup("vdb", "b.qcow2")])
        self.qemu_io(self.uri, "write -P 1 0 16M", image_format="raw")
        self.qemu_io(second, "write -P 1 0 16M", image_format="raw")
        for disk in ("vda", "vdb"):
            while json.loads(self.weir("blockjob", "-c", self.control, disk, "--json").stdout):
                pass
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "first.raw", "a.qcow2")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "second.raw", "b.qcow2")
        # The increments begin where the full copies ended.
        self.done("transaction", actions=[
            {"type": each["type"], "data": {**each["data"], "sync": "incremental", "bitmap": "b"}}
            for each in (backup("vda", "a2.qcow2", speed=0), backup("vdb", "b2.qcow2", speed=0))])
        for disk, dest, base in (("vda", "a2.qcow2", "a.qcow2"), ("vdb", "b2.qcow2", "b.qcow2")):
            while json.loads(self.weir("blockjob", "-c", self.control, disk, "--json").stdout):
                pass
            self.qemu_img("rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", dest)
            self.qemu_img("compare", "-f", "raw", "-F", "qcow2", f"nbd+unix:///{disk}?socket={self.nbd}", dest)
        self.assertEqual(self.running.stop(), (0, ""))

    def test_a_transaction_that_fails_has_done_nothing(self):
        self.done("block-dirty-bitmap-add", node="vda", name="kept", persistent=True)
        self.change("write -P 5 1M 64k")
        before = sorted(os.listdir(self.folder))
        backup = {"type": "drive-backup", "data": {"device": "vda", "target": self.path("copy.qcow2"), "sync": "full"}}
        add = {"type": "block-dirty-bitmap-add", "data": {"node": "vda", "name": "new", "persistent": True}}
        clear = {"type": "block-dirty-bitmap-clear", "data": {"node": "vda", "name": "kept"}}
        for last, words in (({"type": "abort", "data": {}}, "abort"), (add, "exists"),
                            ({"type": "block-dirty-bitmap-clear", "data": {"node": "vda", "name": "none"}}, "none")):
            failed = self.qmp("transaction", actions=[add, clear, backup, last])
            self.assertIn(words, failed["error"]["desc"].lower())
            self.assertEqual(self.job(), {})
        for wrong in ([{"type": "quit", "data": {}}], [{"type": "drive-backup", "data": {"device": "vdz"}}]):
            self.assertIn("error", self.qmp("transaction", actions=wrong))
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        self.change("write -P 6 2M 64k")
        self.assertEqual(self.running.stop(), (0, ""))
        self.start("--bitmap", "kept")
        shown = json.loads(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:kept", self.uri))
        self.assertEqual([(each["offset"], each["length"]) for each in shown if each["type"]],
                         [(1 * MIB, 65536), (2 * MIB, 65536)])

    def test_refusals(self):
        backup = ["backup", "-c", self.control]
        self.refused(*backup, "vda", expected=2, words=["--dest"])
        self.refused(*backup, "--dest", self.path("base.raw"), "vda", words=["base.raw", "exists"])
        self.refused(*backup, "--dest", "copy.qcow2", "--incremental", "none", "vda", words=["none"])
        self.refused(*backup, "--dest", "copy.raw", "--format", "raw", "--compress", "vda", words=["compressed"])
        self.refused(*backup, "--dest", "copy.qcow2", "vdz", words=["vdz"])
        self.assertEqual(self.qmp("drive-backup", device="vda", target=self.path("x"), sync="none")["error"]["desc"],
                         "Sync mode 'none' not supported")
        self.assertEqual(self.job(), {})
        self.assertFalse(any(name.startswith("copy") for name in os.listdir(self.folder)))


if __name__ == "__main__":
    unittest.main()

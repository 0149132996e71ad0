"""Internal snapshots, both ways: QEMU reads, applies and deletes ours, we do the same with QEMU's; `qemu-img check`
judges after every step."""
import json
import os
import random
import unittest

from tools import run
from weir_cli import CliTestCase

SIZE = 8 << 20
OPTIONS = ("cluster_size=512", "cluster_size=4k,refcount_bits=64", "compat=0.10", "cluster_size=2M,refcount_bits=8",
           "lazy_refcounts=on")


class Snapshots(CliTestCase):
    def create(self, options="cluster_size=64k"):
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", options, "a.qcow2", str(SIZE))
        self.random = random.Random(int(os.environ.get("WEIR_SEED", "1")))
        self.kept = {}

    def change(self):
        """Random writes, zeros and discards by QEMU."""
        commands = []
        for _ in range(12):
            offset = self.random.randrange(SIZE // 512) * 512
            length = min(self.random.choice((512, 5120, 70144, 1 << 20)), SIZE - offset)
            kind = self.random.choice(("write -P {}", "write -P {}", "write -z", "discard"))
            commands.append(f"{kind.format(self.random.randrange(1, 250))} {offset} {length}")
        self.qemu_io("a.qcow2", *commands)

    def keep(self, name):
        """Remembers what the disk reads as now."""
        self.qemu_img("convert", "-O", "raw", "a.qcow2", f"{name}.raw")
        self.kept[name] = f"{name}.raw"

    def verify(self):
        """The image is clean; both tools list and read every snapshot kept."""
        self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))
        theirs = json.loads(self.qemu_img("info", "--output=json", "a.qcow2")).get("snapshots", [])
        ours = json.loads(self.weir("info", "--json", "a.qcow2").stdout).get("snapshots", [])
        self.assertEqual(ours, theirs)
        self.assertEqual(json.loads(self.weir("snapshot", "--json", "a.qcow2").stdout), theirs)
        self.assertEqual(self.weir("snapshot", "-l", "a.qcow2").stdout, self.qemu_img("snapshot", "-l", "a.qcow2"))
        self.assertEqual({each["name"] for each in theirs}, set(self.kept))
        for name, content in self.kept.items():
            self.qemu_img("convert", "-l", f"snapshot.name={name}", "-O", "raw", "a.qcow2", "shown.raw")
            run("cmp", "shown.raw", content, cwd=self.folder)
            self.weir("convert", "--snapshot", name, "-O", "raw", "a.qcow2", "shown.raw")
            run("cmp", "shown.raw", content, cwd=self.folder)
            self.weir("compare", "--snapshot", name, "-F", "raw", "a.qcow2", content)

    def snapshot(self, tool, *words):
        if tool == "weir":
            self.weir("snapshot", *words, "a.qcow2")
        else:
            self.qemu_img("snapshot", *words, "a.qcow2")

    def test_each_tool_works_with_what_the_other_made(self):
        pairs = (("weir", "qemu"), ("qemu", "weir"), ("weir", "weir"))
        for turn, options in enumerate(OPTIONS):
            for first, second in (pairs[turn % 3], pairs[(turn + 1) % 3]) if turn < 2 else (pairs[turn % 3],):
                with self.subTest(options=options, first=first, second=second):
                    self.create(options)
                    for name in ("one", "two", "three"):
                        self.change()
                        self.snapshot(first, "-c", name)
                        self.keep(name)
                    self.change()
                    self.verify()
                    self.snapshot(second, "-a", "two")
                    run("qemu-img", "compare", "-F", "raw", "a.qcow2", "two.raw", cwd=self.folder)
                    self.verify()
                    self.change()
                    self.snapshot(second, "-d", "two")
                    del self.kept["two"]
                    self.verify()
                    self.snapshot(second, "-c", "four")
                    self.keep("four")
                    self.change()
                    for name in ("one", "three", "four"):
                        self.snapshot(first, "-d", name)
                        del self.kept[name]
                        self.verify()
                    # All clusters are the disk's own again: written in place, the file does not grow.
                    before = os.path.getsize(self.path("a.qcow2"))
                    self.qemu_io("a.qcow2", f"write -P 9 0 {SIZE}")
                    self.assertLessEqual(os.path.getsize(self.path("a.qcow2")), before + 2 * SIZE)
                    self.verify()

    def test_our_writes_beside_snapshots(self):
        self.create("cluster_size=4k")
        self.change()
        self.weir("snapshot", "-c", "one", "a.qcow2")
        self.keep("one")
        self.qemu_img("create", "-q", "-f", "raw", "new.raw", str(SIZE))
        self.qemu_io("new.raw", "write -P 77 100k 3M", "write -P 78 5M 1M", image_format="raw")
        self.weir("convert", "-n", "-f", "raw", "-O", "qcow2", "new.raw", "a.qcow2")
        self.qemu_img("compare", "-F", "raw", "a.qcow2", "new.raw")
        self.verify()

    def test_a_snapshot_of_another_size(self):
        for tool in ("qemu", "weir"):
            self.create()
            self.change()
            self.snapshot(tool, "-c", "small")
            self.keep("small")
            self.qemu_img("resize", "-q", "a.qcow2", str(3 * SIZE))
            self.qemu_io("a.qcow2", f"write -P 3 {2 * SIZE} 1M")
            # It is shown at the size of today, with zeros behind its own end.
            shown = json.loads(self.weir("map", "--json", "-l", "small", "a.qcow2").stdout)
            self.assertEqual(sum(run["length"] for run in shown), 3 * SIZE)
            self.qemu_img("convert", "-l", "small", "-O", "raw", "a.qcow2", "small.raw")
            self.verify()
            self.weir("snapshot", "-a", "small", "a.qcow2")
            self.assertEqual(json.loads(self.weir("info", "--json", "a.qcow2").stdout)["virtual-size"], SIZE)
            self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))
            self.qemu_img("compare", "-F", "raw", "a.qcow2", "small.raw")

    def test_overlays_have_snapshots_too(self):
        top = self.make_chain("qcow2")
        self.qemu_img("convert", "-O", "raw", top, "before.raw")
        self.weir("snapshot", "-c", "before", top)
        self.qemu_io(top, "write -P 66 0 6M", "write -z 9M 2M")
        self.assertIn("No errors", self.qemu_img("check", top))
        self.weir("compare", "-l", "before", "-F", "raw", top, "before.raw")
        self.weir("snapshot", "-a", "1", top)
        self.assertIn("No errors", self.qemu_img("check", top))
        self.qemu_img("compare", "-F", "raw", top, "before.raw")

    def test_refusals_change_nothing(self):
        self.create("cluster_size=4k,refcount_bits=1")
        self.change()
        before = self.read("a.qcow2")
        self.refused("snapshot", "-c", "one", "a.qcow2", words=["a.qcow2", "refcount_bits=1"])
        self.assertEqual(self.read("a.qcow2"), before)
        self.create("cluster_size=4k,refcount_bits=2")
        self.qemu_io("a.qcow2", "write 0 1M")
        for name in ("one", "two"):
            self.weir("snapshot", "-c", name, "a.qcow2")
        self.refused("snapshot", "-c", "three", "a.qcow2", words=["a.qcow2", "narrow"])
        self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))
        self.refused("snapshot", "-c", "one", "a.qcow2", words=["already"])
        self.refused("snapshot", "-a", "nope", "a.qcow2", words=["no snapshot 'nope'"])
        self.refused("snapshot", "-d", "nope", "a.qcow2", words=["no snapshot 'nope'"])
        self.refused("convert", "-l", "nope", "a.qcow2", "x", words=["no snapshot 'nope'"])
        self.assertFalse(os.path.exists(self.path("x")))
        self.refused("snapshot", "-c", "x", "-d", "one", "a.qcow2", expected=2)
        self.qemu_img("create", "-q", "-f", "raw", "plain.raw", "1M")
        self.qemu_img("create", "-q", "-f", "qed", "b.qed", "1M")
        for image in ("plain.raw", "b.qed"):
            self.assertEqual(self.weir("snapshot", "-l", image).stdout, "")
            self.assertEqual(self.weir("snapshot", "-l", "--json", image).stdout, "[]\n")
            self.refused("snapshot", "-c", "x", image, words=["no internal snapshots"])
            self.refused("map", "-l", "x", image, words=["no internal snapshots"])

    def test_no_snapshot_is_applied_under_bitmaps(self):
        self.create()
        self.weir("snapshot", "-c", "one", "a.qcow2")
        self.weir("bitmap", "--add", "a.qcow2", "changes")
        self.refused("snapshot", "-a", "one", "a.qcow2", words=["bitmaps"])
        self.weir("snapshot", "-c", "two", "a.qcow2")
        self.weir("snapshot", "-d", "one", "a.qcow2")
        info = json.loads(self.qemu_img("info", "--output=json", "a.qcow2"))
        self.assertEqual(info["format-specific"]["data"]["bitmaps"][0]["flags"], ["auto"])
        self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))


if __name__ == "__main__":
    unittest.main()

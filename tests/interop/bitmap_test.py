"""Persistent bitmaps, both ways: QEMU shows the bits that weir recorded, weir goes on with those that QEMU recorded."""
import json
import os
import random
import shutil
import unittest

from tools import run
from weir_cli import CliTestCase

SIZE = 16 << 20


def ranges_to_set(ranges, granularity):
    """Every granule that any of the ranges touches."""
    return {granule for offset, length in ranges if length for granule in
            range(offset // granularity, (offset + length - 1) // granularity + 1)}


class Bitmaps(CliTestCase):
    def create(self, options="cluster_size=64k", size=SIZE, image="a.qcow2"):
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, str(size))
        self.random = random.Random(int(os.environ.get("WEIR_SEED", "1")))

    def dirty(self, name, granularity, image="a.qcow2"):
        """The set bits in QEMU's opinion, which sees a copy."""
        shutil.copy(self.path(image), self.path("copy.qcow2"))
        shown = json.loads(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", "--", "[", "qemu-nbd", "-r", "-f",
                               "qcow2", "-B", name, "copy.qcow2", "]", cwd=self.folder))
        return ranges_to_set([(each["offset"], each["length"]) for each in shown if each["type"]], granularity)

    def listed(self, image="a.qcow2"):
        """What both tools list."""
        theirs = json.loads(self.qemu_img("info", "--output=json", image))["format-specific"]["data"].get("bitmaps")
        ours = json.loads(self.weir("info", "--json", image).stdout)["format-specific"]["data"].get("bitmaps")
        self.assertEqual(ours, theirs)
        return {each["name"]: each for each in ours or []}

    def start(self, *arguments):
        self.nbd = self.path("nbd.sock")
        return self.serve("--nbd", f"unix:{self.nbd}", *arguments, "a.qcow2")

    def changes(self, count=25):
        """Commands for qemu-io, and the ranges they change."""
        commands, ranges = [], []
        for _ in range(count):
            offset = self.random.randrange(SIZE // 512) * 512
            length = min(self.random.choice((512, 4096, 66048, 1 << 20)), SIZE - offset)
            kind = self.random.choice(("write -P 5", "write -P 6", "write -z", "write -zu", "discard"))
            commands.append(f"{kind} {offset} {length}")
            ranges.append((offset, length))
        return commands, ranges

    def change_served(self, commands, export=""):
        words = [word for command in commands for word in ("-c", command)]
        output = run("qemu-io", "-f", "raw", *words, f"nbd+unix:///{export}?socket={self.nbd}", cwd=self.folder)
        self.assertNotIn("failed", output)

    def stop(self, running):
        self.assertEqual(running.stop(), (0, ""))
        self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))

    def test_qemu_sees_what_weir_recorded(self):
        for options, granularity in (("cluster_size=64k", 65536), ("cluster_size=512", 512), ("cluster_size=4k", 4096),
                                     ("cluster_size=2M", 1 << 20), ("cluster_size=64k", 1 << 31)):
            for maker in ("qemu", "weir"):
                with self.subTest(options=options, granularity=granularity, maker=maker):
                    self.create(options)
                    add = self.qemu_img if maker == "qemu" else self.weir
                    add("bitmap", "--add", "-g", str(granularity), "a.qcow2", "b")
                    expected = set()
                    for _ in range(2):
                        commands, ranges = self.changes()
                        running = self.start()
                        self.change_served(commands)
                        self.stop(running)
                        expected |= ranges_to_set(ranges, granularity)
                        self.assertEqual(self.dirty("b", granularity), expected)
                        self.assertEqual(self.listed()["b"], {"name": "b", "granularity": granularity, "flags": ["auto"]})

    def test_weir_goes_on_with_what_qemu_recorded(self):
        self.create("cluster_size=4k")
        self.qemu_img("bitmap", "--add", "-g", "4k", "a.qcow2", "b")
        theirs, their_ranges = self.changes()
        self.qemu_io("a.qcow2", *theirs)
        ours, our_ranges = self.changes()
        running = self.start()
        self.change_served(ours)
        self.stop(running)
        expected = ranges_to_set(their_ranges + our_ranges, 4096)
        self.assertEqual(self.dirty("b", 4096), expected)
        # And QEMU with what weir stored.
        more, more_ranges = self.changes(5)
        self.qemu_io("a.qcow2", *more)
        self.assertEqual(self.dirty("b", 4096), expected | ranges_to_set(more_ranges, 4096))
        self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))

    def test_disabled_bitmaps_do_not_record_and_reading_changes_nothing(self):
        self.create()
        self.weir("bitmap", "--add", "--disable", "a.qcow2", "off")
        self.weir("bitmap", "--add", "a.qcow2", "on")
        before = self.read("a.qcow2")
        running = self.start()
        run("qemu-io", "-r", "-f", "raw", "-c", "read 0 1M", f"nbd+unix:///?socket={self.nbd}", cwd=self.folder)
        self.stop(running)
        self.assertEqual(self.read("a.qcow2"), before)
        running = self.start()
        self.change_served(["write 1M 64k"])
        self.stop(running)
        self.assertEqual(self.dirty("off", 65536), set())
        self.assertEqual(self.dirty("on", 65536), {16})
        self.assertEqual(self.listed()["off"]["flags"], [])

    def test_a_killed_server_leaves_an_inconsistent_bitmap(self):
        self.create()
        self.weir("bitmap", "--add", "a.qcow2", "b")
        running = self.start()
        self.change_served(["write 0 1M", "flush"])
        running.kill()
        self.assertEqual(self.listed()["b"]["flags"], ["in-use", "auto"])
        for action in ("--clear", "--enable", "--disable"):
            self.refused("bitmap", action, "a.qcow2", "b", words=["a.qcow2", "'b'", "inconsistent"])
        running = self.start()
        self.change_served(["write 1M 1M"])
        self.stop(running)
        self.assertEqual(self.listed()["b"]["flags"], ["in-use", "auto"])
        self.weir("bitmap", "--remove", "a.qcow2", "b")
        self.assertEqual(self.listed(), {})
        self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))

    def test_bitmaps_follow_the_size_of_the_disk(self):
        for options, granularity in (("cluster_size=64k", 65536), ("cluster_size=512", 512), ("cluster_size=4k", 65536)):
            with self.subTest(options=options, granularity=granularity):
                self.create(options, size=1 << 20)
                self.weir("bitmap", "--add", "-g", str(granularity), "a.qcow2", "on")
                self.weir("bitmap", "--add", "-g", str(granularity), "--disable", "a.qcow2", "off")
                running = self.start()
                self.change_served(["write 64k 512", "write 768k 256k"])
                self.stop(running)
                self.weir("bitmap", "--merge", "on", "a.qcow2", "off")
                before = ranges_to_set([(64 << 10, 512), (768 << 10, 256 << 10)], granularity)
                for size, kept in ((24 << 20, before), (800 << 10, {bit for bit in before if bit * granularity < 800 << 10}),
                                   (1 << 20, {bit for bit in before if bit * granularity < 800 << 10})):
                    self.weir("resize", *(["--shrink"] if size == 800 << 10 else []), "a.qcow2", str(size))
                    self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))
                    self.assertEqual({name: each["flags"] for name, each in self.listed().items()},
                                     {"on": ["auto"], "off": []})
                    for name in ("on", "off"):
                        self.assertEqual(self.dirty(name, granularity), kept, (size, name))
                running = self.start()
                self.change_served(["write 900k 512"])
                self.stop(running)
                self.assertEqual(self.dirty("on", granularity), kept | ranges_to_set([(900 << 10, 512)], granularity))
                self.assertEqual(self.dirty("off", granularity), kept)

    def test_a_size_that_a_bitmap_cannot_follow_is_refused(self):
        self.create("cluster_size=64k", size=1 << 20)
        self.weir("bitmap", "--add", "-g", "512", "a.qcow2", "fine")
        before = self.read("a.qcow2")
        self.refused("resize", "a.qcow2", "4T", words=["a.qcow2", "'fine'", "512 MiB"])
        self.refused("resize", "a.qcow2", "1100G", words=["a.qcow2", "'fine'", "256 MiB"])
        self.assertEqual(self.read("a.qcow2"), before)

    def test_streaming_sets_no_bits(self):
        top = self.make_chain("qcow2")
        os.rename(self.path(top), self.path("a.qcow2"))
        self.weir("bitmap", "--add", "a.qcow2", "b")
        control = self.path("control.sock")
        running = self.start("--control", control, "--export", "vda")
        self.change_served(["write 2M 1M"], export="vda")
        self.weir("blockpull", "vda", "-c", control, "--wait")
        self.assertEqual(running.stop(), (0, ""))
        self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))
        self.assertEqual(self.dirty("b", 65536), set(range(32, 48)))

    def test_copies_into_an_image_are_recorded(self):
        """Where the target has its clusters already, copies write in place."""
        for target in ("cluster_size=64k,preallocation=metadata", "cluster_size=64k"):
            with self.subTest(target=target):
                self.create(target)
                self.weir("bitmap", "--add", "a.qcow2", "b")
                self.qemu_img("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2")
                self.qemu_io("top.qcow2", "write -P 7 1M 192k", "write -P 7 9M 1k", "write -z 10M 64k")
                self.weir("commit", "top.qcow2")
                self.assertEqual(self.dirty("b", 65536), {16, 17, 18, 144, 160})
                self.weir("bitmap", "--clear", "a.qcow2", "b")
                self.qemu_img("create", "-q", "-f", "raw", "source.raw", str(SIZE))
                self.qemu_io("source.raw", "write -P 8 3M 128k", "write -P 8 12M 4k", image_format="raw")
                self.weir("convert", "-n", "-f", "raw", "-O", "qcow2", "source.raw", "a.qcow2")
                self.assertLessEqual({48, 49, 192}, self.dirty("b", 65536))

    def test_actions_go_in_order_and_all_or_none(self):
        self.create()
        self.weir("bitmap", "--add", "-g", "4k", "a.qcow2", "fine")
        self.qemu_io("a.qcow2", "write 0 4k", "write 1M 8k")
        self.weir("bitmap", "--add", "--merge", "fine", "--disable", "a.qcow2", "coarse")
        self.assertEqual(self.dirty("coarse", 65536), {0, 16})
        self.assertEqual(self.listed()["coarse"], {"name": "coarse", "granularity": 65536, "flags": []})
        self.weir("bitmap", "--clear", "a.qcow2", "fine")
        self.assertEqual(self.dirty("fine", 4096), set())
        self.weir("bitmap", "--merge", "coarse", "--enable", "a.qcow2", "fine")
        self.assertEqual(self.dirty("fine", 4096), set(range(16)) | set(range(256, 272)))
        before = self.read("a.qcow2")
        self.refused("bitmap", "--clear", "--merge", "nope", "a.qcow2", "fine", words=["'nope'"])
        self.assertEqual(self.read("a.qcow2"), before)
        self.create(image="b.qcow2")
        self.weir("bitmap", "--add", "--merge", "coarse", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2", "copy")
        self.assertEqual(self.dirty("copy", 65536, "b.qcow2"), {0, 16})
        self.assertIn("No errors", self.qemu_img("check", "b.qcow2"))
        self.create(size=SIZE + 512, image="c.qcow2")
        self.refused("bitmap", "--add", "--merge", "coarse", "-b", "a.qcow2", "c.qcow2", "x", words=["another size"])
        self.assertEqual(self.listed("c.qcow2"), {})

    def test_refusals(self):
        self.create()
        self.weir("bitmap", "--add", "a.qcow2", "b")
        self.refused("bitmap", "--add", "a.qcow2", "b", words=["a.qcow2", "'b'", "exists"])
        for granularity in ("256", "4G", "3000"):
            self.refused("bitmap", "--add", "-g", granularity, "a.qcow2", "x", words=["granularity"])
        self.refused("bitmap", "--add", "a.qcow2", "n" * 1024, words=["1023"])
        self.weir("bitmap", "--add", "a.qcow2", "n" * 1023)
        self.assertIn("n" * 1023, self.listed())
        self.refused("bitmap", "a.qcow2", "b", expected=2)
        self.refused("bitmap", "--remove", "-g", "4k", "a.qcow2", "b", expected=2)
        self.refused("bitmap", "--remove", "-b", "a.qcow2", "a.qcow2", "b", expected=2)
        self.refused("bitmap", "--remove", "a.qcow2", "nope", words=["'nope'", "does not exist"])
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "1M")
        self.qemu_img("create", "-q", "-f", "raw", "plain.raw", "1M")
        self.refused("bitmap", "--add", "old.qcow2", "b", words=["no bitmaps"])
        self.refused("bitmap", "--add", "plain.raw", "b", words=["no bitmaps"])
        self.create(size=1 << 43, image="huge.qcow2")
        self.refused("bitmap", "--add", "-g", "4k", "huge.qcow2", "b", words=["huge.qcow2", "'b'", "256 MiB"])
        self.refused("bitmap", "--add", "-g", "512", "huge.qcow2", "b", words=["512 MiB"])

    def test_many_bitmaps_come_and_go(self):
        self.create("cluster_size=512")
        for number in range(12):
            add = self.qemu_img if number % 2 else self.weir
            add("bitmap", "--add", "a.qcow2", f"bitmap {number}")
        self.assertEqual(len(self.listed()), 12)
        commands, ranges = self.changes()
        running = self.start()
        self.change_served(commands)
        self.stop(running)
        for number in range(12):
            self.assertEqual(self.dirty(f"bitmap {number}", 4096), ranges_to_set(ranges, 4096))
            remove = self.weir if number % 2 else self.qemu_img
            remove("bitmap", "--remove", "a.qcow2", f"bitmap {number}")
            self.assertIn("No errors", self.qemu_img("check", "a.qcow2"))
        self.assertEqual(self.listed(), {})

    def test_headers_with_a_backing_name_and_format_have_room(self):
        for options in ("cluster_size=64k", "cluster_size=512", "compression_type=zstd"):
            top = self.make_chain("qcow2")
            self.qemu_img("create", "-q", "-f", "qcow2", "-o", options, "-b", "middle.qcow2", "-F", "qcow2", top)
            before = json.loads(self.qemu_img("info", "--output=json", top))
            self.weir("bitmap", "--add", top, "b")
            after = json.loads(self.qemu_img("info", "--output=json", top))
            self.assertEqual(after["format-specific"]["data"].pop("bitmaps")[0]["name"], "b")
            for each in (before, after):
                each.pop("actual-size"), each.pop("children")
            self.assertEqual(after, before)
            self.assertIn("No errors", self.qemu_img("check", top))
            self.weir("bitmap", "--remove", top, "b")
            self.assertIn("No errors", self.qemu_img("check", top))


if __name__ == "__main__":
    unittest.main()

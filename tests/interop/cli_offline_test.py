"""Moving data offline: convert -c, measure, resize, rebase, commit; qemu-img judges every result."""
import hashlib
import json
import os
import random
import signal
import subprocess
import unittest

from weir_cli import CliTestCase

MIB = 1 << 20


class OfflineCase(CliTestCase):
    def check(self, *images, image_format="qcow2"):
        for image in images:
            self.assertIn("No errors", self.qemu_img("check", "-f", image_format, image))

    def info(self, image):
        return json.loads(self.qemu_img("info", "--output=json", image))

    def content(self, image, image_format):
        """The guest's view as qemu-img reads it, hashed."""
        self.qemu_img("convert", "-U", "-f", image_format, "-O", "raw", image, "content.tmp")
        with open(self.path("content.tmp"), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.unlink(self.path("content.tmp"))
        return digest

    def mixed_file(self, name, mib=24, seed=1):
        """Text, random bytes, zeros and holes in runs of odd lengths."""
        rng = random.Random(seed)
        with open(self.path(name), "wb") as file:
            file.truncate(mib * MIB)
            position = 0
            while position < mib * MIB:
                length = min(rng.randrange(1, 700) * 512, mib * MIB - position)
                kind = rng.randrange(4)
                file.seek(position)
                if kind == 0:
                    file.write(rng.randbytes(length))
                elif kind == 1:
                    file.write((b"%d: the quick brown fox\n" % position) * (length // 20 + 1))
                elif kind == 2:
                    file.write(bytes(length))
                position += length
            file.truncate(mib * MIB)
        return name

    def interrupt(self, *arguments, sent=signal.SIGINT):
        """Starts a verb and sends it a signal as soon as it reports progress; its exit code."""
        running = subprocess.Popen([self.weir_path, *arguments[:1], "--progress=json", *arguments[1:]], cwd=self.folder,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        running.stderr.readline()
        running.send_signal(sent)
        running.communicate(timeout=60)
        return running.returncode


class Compressed(OfflineCase):
    def test_every_geometry_is_read_by_qemu_and_packed(self):
        source = self.mixed_file("source.raw")
        for options in ("compression_type=zlib", "compression_type=zstd", "compat=0.10", "cluster_size=512",
                        "cluster_size=4K,compression_type=zstd", "cluster_size=2M", "refcount_bits=1", "refcount_bits=2"):
            with self.subTest(options=options):
                self.weir("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, source, "out")
                self.qemu_img("compare", "-f", "raw", "-F", "qcow2", source, "out")
                self.check("out")
                if options == "refcount_bits=1":
                    continue  # clusters cannot be shared
                self.qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, source, "theirs")
                ours, theirs = (os.stat(self.path(name)).st_blocks * 512 for name in ("out", "theirs"))
                self.assertLess(ours, theirs * 1.03 + 65536)

    def test_the_result_is_the_same_every_time(self):
        source = self.mixed_file("source.raw")
        digests = set()
        for _ in range(3):
            self.weir("convert", "-c", "-f", "raw", "-O", "qcow2", source, "out")
            digests.add(hashlib.sha256(self.read("out")).hexdigest())
        self.assertEqual(len(digests), 1)

    def test_a_disk_that_ends_inside_a_cluster(self):
        with open(self.path("odd.raw"), "wb") as file:
            file.write(b"odd " * 128 * 1025)
        self.weir("convert", "-c", "-f", "raw", "-O", "qcow2", "odd.raw", "out")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "odd.raw", "out")
        self.check("out")

    def test_into_an_image_that_holds_something(self):
        source = self.mixed_file("source.raw")
        self.qemu_img("create", "-q", "-f", "qcow2", "old", "24M")
        self.qemu_io("old", "write -P 7 3M 5M", "write -P 8 20M 70k")
        self.weir("convert", "-n", "-c", "-f", "raw", "-O", "qcow2", source, "old")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", source, "old")
        self.check("old")

    def test_a_compressed_image_can_be_rewritten(self):
        source = self.mixed_file("source.raw")
        self.weir("convert", "-c", "-f", "raw", "-O", "qcow2", source, "out")
        other = self.mixed_file("other.raw", seed=2)
        self.weir("convert", "-n", "-f", "raw", "-O", "qcow2", other, "out")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", other, "out")
        self.check("out")

    def test_other_formats_are_refused(self):
        source = self.mixed_file("source.raw", mib=1)
        for image_format in ("raw", "qed"):
            self.refused("convert", "-c", "-f", "raw", "-O", image_format, source, "out", words=["out", "compressed"])
            self.assertFalse(os.path.exists(self.path("out")))


class Measure(OfflineCase):
    def both(self, *arguments):
        ours = json.loads(self.weir("measure", "--json", *arguments).stdout)
        theirs = json.loads(self.qemu_img("measure", "--output=json", *arguments))
        self.assertEqual(ours, theirs, arguments)
        return ours

    def test_sizes(self):
        for size in ("0", "512", "1M", "1G", "10000000001", "1T"):
            self.both("-O", "raw", "--size", size)
            for options in ("cluster_size=64K", "cluster_size=512", "cluster_size=2M", "refcount_bits=1", "compat=0.10",
                            "refcount_bits=64,cluster_size=4K"):
                if size != "1T" or "=512" not in options:
                    self.both("-O", "qcow2", "-o", options, "--size", size)

    def test_images_and_that_the_answer_is_enough(self):
        top = self.make_chain()
        self.both("-O", "raw", top)
        for options in ("cluster_size=64K", "cluster_size=4K"):
            needed = self.both("-O", "qcow2", "-o", options, top)
            self.weir("convert", "-O", "qcow2", "-o", options, top, "out")
            self.assertLessEqual(os.stat(self.path("out")).st_size, needed["required"])
        human = self.weir("measure", "-O", "qcow2", "--size", "1G").stdout
        self.assertEqual(human, self.qemu_img("measure", "-O", "qcow2", "--size", "1G"))

    def test_bitmaps(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "image", "10000000000")
        for name, granularity in (("b", "64k"), ("n" * 500, "512"), ("m" * 1000, "2G")):
            self.qemu_img("bitmap", "--add", "-g", granularity, "image", name)
        for options in ("cluster_size=64K", "cluster_size=512", "compat=0.10", "cluster_size=2M"):
            self.both("-O", "qcow2", "-o", options, "image")
        self.both("-O", "raw", "image")
        self.assertEqual(self.weir("measure", "-O", "qcow2", "image").stdout,
                         self.qemu_img("measure", "-O", "qcow2", "image"))

    def test_wrong_words(self):
        self.weir("measure", "-O", "qcow2", expected=2)
        self.qemu_img("create", "-q", "-f", "raw", "a.raw", "1M")
        self.weir("measure", "-O", "qcow2", "--size", "1G", "a.raw", expected=2)
        self.refused("measure", "-O", "qed", "--size", "1G", words=["qed"])
        self.refused("measure", "-O", "qcow2", "-o", "cluster_size=3", "--size", "1G", words=["cluster_size"])


class Resize(OfflineCase):
    def test_growing_and_shrinking(self):
        for image_format in ("raw", "qcow2"):
            with self.subTest(format=image_format):
                self.mixed_file("reference.raw", mib=8)
                self.qemu_img("convert", "-f", "raw", "-O", image_format, "reference.raw", "image")
                for words, size in ((["+5M"], 13 * MIB), (["3G"], 3 << 30), (["--shrink", "-1G"], 2 << 30),
                                    (["--shrink", "5000000"], 5000192), (["+100K"], 5000192 + 102400)):
                    self.assertEqual(self.weir("resize", "-f", image_format, *words[:-1], "image", words[-1]).stdout,
                                     "Image resized.\n")
                    os.truncate(self.path("reference.raw"), size)
                    self.assertEqual(self.info("image")["virtual-size"] if image_format == "qcow2" else
                                     os.stat(self.path("image")).st_size, size)
                    self.qemu_img("compare", "-s", "-f", "raw", "-F", image_format, "reference.raw", "image",
                                  expected=(0, 1))
                    self.qemu_img("compare", "-f", "raw", "-F", image_format, "reference.raw", "image")
                    if image_format == "qcow2":
                        self.check("image")

    def test_qed_grows(self):
        self.mixed_file("reference.raw", mib=2)
        self.qemu_img("convert", "-f", "raw", "-O", "qed", "reference.raw", "image")
        self.weir("resize", "image", "5G")
        os.truncate(self.path("reference.raw"), 5 << 30)
        self.qemu_img("compare", "-f", "raw", "-F", "qed", "reference.raw", "image")
        self.check("image", image_format="qed")
        self.refused("resize", "--shrink", "image", "1M", words=["image", "shrink"])

    def test_a_longer_backing_image_does_not_show(self):
        self.mixed_file("base.raw", mib=8)
        for image_format in ("qcow2", "qed"):
            with self.subTest(format=image_format):
                self.qemu_img("create", "-q", "-f", image_format, "-b", "base.raw", "-F", "raw", "top", "3000K")
                self.weir("resize", "top", "12M")
                self.weir("convert", "-O", "raw", "top", "flat")
                with open(self.path("flat"), "rb") as file, open(self.path("base.raw"), "rb") as base:
                    self.assertEqual(file.read(3000 << 10), base.read(3000 << 10))
                    self.assertFalse(any(file.read()))
                self.qemu_img("compare", "-f", image_format, "-F", "raw", "top", "flat")

    def test_small_clusters_need_a_new_l1_table(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "image", "1M")
        self.qemu_io("image", "write -P 9 0 1M")
        for size in ("10M", "40M", "100M"):
            self.weir("resize", "image", size)
            self.check("image")
        self.qemu_io("image", "read -P 9 0 1M", "write -P 5 99M 1M", "read -P 0 50M 1M")
        self.weir("resize", "--shrink", "image", "512K")
        self.check("image")
        self.assertLess(os.stat(self.path("image")).st_blocks * 512, MIB)

    def test_preallocation(self):
        for image_format, modes in (("qcow2", ("metadata", "falloc", "full")), ("raw", ("falloc", "full"))):
            for mode in modes:
                with self.subTest(format=image_format, mode=mode):
                    self.qemu_img("create", "-q", "-f", image_format, "image", "1M")
                    self.weir("resize", "-f", image_format, "--preallocation", mode, "image", "9M")
                    if image_format == "qcow2":
                        self.check("image")
                        mapped = json.loads(self.qemu_img("map", "--output=json", "image"))
                        self.assertEqual(sum(run["length"] for run in mapped if "offset" in run), 8 * MIB)
                    if mode != "metadata":
                        self.assertGreaterEqual(os.stat(self.path("image")).st_blocks * 512, 8 * MIB)
                    self.qemu_io("image", "read -P 0 0 9M", image_format=image_format)

    def packed_or_shared(self, kind, size=100 << 10):
        """An image with subclusters whose clusters move as a whole when they are written, and its content."""
        self.write("reference.raw", (b"%d: text that packs well\n" % size * size)[:size])
        compression = ["-c"] if kind == "compressed" else []
        self.qemu_img("convert", "-q", *compression, "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on", "reference.raw",
                      "image")
        if kind == "shared":
            self.qemu_img("snapshot", "-c", "one", "image")

    def test_preallocation_keeps_the_cluster_at_the_old_end(self):
        for kind in ("compressed", "shared", "plain"):
            for mode in ("metadata", "falloc", "full"):
                with self.subTest(kind=kind, mode=mode):
                    self.packed_or_shared(kind)
                    self.weir("resize", "--preallocation", mode, "image", "+1M")
                    os.truncate(self.path("reference.raw"), (100 << 10) + MIB)
                    self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "reference.raw", "image")
                    self.check("image")

    def test_what_was_cut_off_stays_away(self):
        for kind in ("compressed", "plain"):
            for size in ("10K", "9K", "70K"):
                with self.subTest(kind=kind, size=size):
                    self.packed_or_shared(kind)
                    self.weir("resize", "--shrink", "image", size)
                    self.weir("resize", "image", "+1M")
                    os.truncate(self.path("reference.raw"), int(size[:-1]) << 10)
                    os.truncate(self.path("reference.raw"), (int(size[:-1]) << 10) + MIB)
                    self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "reference.raw", "image")
                    self.check("image")

    def test_refusals(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "image", "4M")
        before = self.read("image")
        self.refused("resize", "image", "1M", words=["image", "--shrink"])
        self.refused("resize", "--shrink", "image", "-5M", words=["image"])
        self.refused("resize", "--shrink", "--preallocation", "full", "image", "1M", words=["image"])
        self.refused("resize", "image", "900000T", words=["image"])
        self.weir("resize", "image", "1X", expected=2)
        self.weir("resize", "image", expected=2)
        self.assertEqual(self.read("image"), before)
        self.qemu_img("snapshot", "-c", "one", "image")
        self.refused("resize", "--shrink", "image", "1M", words=["image", "snapshot"])
        self.weir("resize", "image", "6M")
        self.check("image")


class Rebase(OfflineCase):
    def make_other(self):
        """Another base, some of it equal."""
        with open(self.path("base.raw"), "rb") as base:
            data = bytearray(base.read())
        data[2 * MIB:2 * MIB + 300000] = b"o" * 300000
        data[9 * MIB:9 * MIB + 70000] = bytes(70000)
        data[15 * MIB:] = b"p" * MIB
        self.write("other.raw", data)

    def test_safe_onto_another_base(self):
        for top_format in ("qcow2", "qed"):
            with self.subTest(format=top_format):
                top = self.make_chain(top_format)
                self.make_other()
                before = self.content(top, top_format)
                self.weir("rebase", "-b", "other.raw", "-F", "raw", top)
                self.assertEqual(self.info(top)["backing-filename"], "other.raw")
                self.assertEqual(self.content(top, top_format), before)
                self.check(top, image_format=top_format)

    def test_only_what_differs_is_copied(self):
        top = self.make_chain()
        self.weir("rebase", "-b", "base.raw", "-F", "raw", top)
        # Of the middle image: 1 MiB, a zero cluster of 64 KiB and 70 KiB.
        owned = sum(run["length"] for run in json.loads(self.qemu_img("map", "--output=json", top)) if run["depth"] == 0)
        self.assertLessEqual(owned, 128 * 1024 + MIB + MIB + 64 * 1024 + 128 * 1024)

    def test_flattening(self):
        for top_format in ("qcow2", "qed"):
            with self.subTest(format=top_format):
                top = self.make_chain(top_format)
                before = self.content(top, top_format)
                self.weir("rebase", "-b", "", top)
                self.assertNotIn("backing-filename", self.info(top))
                for gone in ("middle.qcow2", "base.raw"):
                    os.unlink(self.path(gone))
                self.assertEqual(self.content(top, top_format), before)
                self.check(top, image_format=top_format)

    def test_bases_of_other_lengths(self):
        top = self.make_chain()
        before = self.content(top, "qcow2")
        self.write("short.raw", b"s" * MIB)
        self.weir("rebase", "-b", "short.raw", "-F", "raw", top)
        self.assertEqual(self.content(top, "qcow2"), before)
        self.write("long.raw", b"l" * (20 * MIB))
        self.weir("rebase", "-b", "long.raw", "-F", "raw", top)
        self.assertEqual(self.content(top, "qcow2"), before)
        self.check(top)

    def test_unsafe_only_changes_the_name(self):
        top = self.make_chain()
        os.unlink(self.path("middle.qcow2"))
        self.weir("rebase", "-u", "-b", "base.raw", "-F", "raw", top)
        self.assertEqual(self.info(top)["backing-filename"], "base.raw")
        self.weir("rebase", "-u", "-b", "", top)
        self.assertNotIn("backing-filename", self.info(top))

    def test_refusals(self):
        top = self.make_chain()
        before = self.content(top, "qcow2")
        self.weir("rebase", top, expected=2)
        self.refused("rebase", "-b", "base.raw", top, words=[top, "-F"])
        self.refused("rebase", "-b", "nope.raw", "-F", "raw", top, words=["nope.raw"])
        self.refused("rebase", "-b", "middle.qcow2", "-F", "qcow2", "-f", "raw", "base.raw", words=["base.raw"])
        self.assertEqual(self.info(top)["backing-filename"], "middle.qcow2")
        self.assertEqual(self.content(top, "qcow2"), before)


class Commit(OfflineCase):
    def test_into_the_backing_image(self):
        for top_format in ("qcow2", "qed"):
            with self.subTest(format=top_format):
                top = self.make_chain(top_format)
                before = self.content(top, top_format)
                self.assertEqual(self.weir("commit", top).stdout, "Image committed.\n")
                self.assertEqual(self.content(top, top_format), before)
                self.assertEqual(self.content("middle.qcow2", "qcow2"), before)
                self.check("middle.qcow2")
                self.check(top, image_format=top_format)
                owned = [run for run in json.loads(self.qemu_img("map", "--output=json", top)) if run["depth"] == 0]
                self.assertEqual(owned, [])
                self.assertLess(os.stat(self.path(top)).st_size, 700_000)

    def test_keeping_the_overlay_and_deeper_bases(self):
        top = self.make_chain()
        before = self.content(top, "qcow2")
        kept = self.read(top)
        self.weir("commit", "-d", top)
        self.assertEqual(self.read(top), kept)
        self.weir("commit", "-b", self.path("base.raw"), top)
        self.assertEqual(self.content("base.raw", "raw"), before)
        self.assertEqual(self.content(top, "qcow2"), before)

    def test_the_base_grows(self):
        for base_format in ("raw", "qcow2", "qed"):
            with self.subTest(base=base_format):
                self.qemu_img("create", "-q", "-f", base_format, "base", "1M")
                self.qemu_io("base", "write -P 1 0 1M", image_format=base_format)
                self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", base_format, "top", "5M")
                self.qemu_io("top", "write -P 2 900k 300k", "write -P 3 4M 1000k")
                before = self.content("top", "qcow2")
                self.weir("commit", "top")
                self.assertEqual(self.content("base", base_format), before)
                self.assertEqual(self.content("top", "qcow2"), before)

    def test_a_base_with_larger_clusters_keeps_what_is_not_overwritten(self):
        self.mixed_file("data.raw", mib=4)
        self.qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=1M", "data.raw", "base")
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4K", "-b", "base", "-F", "qcow2", "top")
        self.qemu_io("top", "write -P 2 100k 12k", "write -z 1500k 8k", "write -P 3 3M 4k")
        before = self.content("top", "qcow2")
        self.weir("commit", "top")
        self.assertEqual(self.content("base", "qcow2"), before)
        self.check("base", "top")

    def test_into_subclusters_shared_with_a_snapshot(self):
        for first, length in ((0, 20), (0, 8), (4, 80), (2, 4)):
            with self.subTest(first=first, length=length):
                self.qemu_img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "base", "1M")
                self.qemu_io("base", "write -P 1 0 8k", "write -P 4 64k 12k")
                self.qemu_img("snapshot", "-c", "one", "base")
                self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "-o", "extended_l2=on", "top")
                self.qemu_io("top", f"write -P 2 {first}k {length}k")
                before = self.content("top", "qcow2")
                self.weir("commit", "top")
                self.assertEqual(self.content("base", "qcow2"), before)
                self.check("base")
                self.qemu_img("snapshot", "-a", "one", "base")
                self.qemu_io("base", "read -P 1 0 8k", "read -P 0 8k 56k", "read -P 4 64k 12k", "read -P 0 76k 948k")

    def test_a_short_image_between_hides_the_base(self):
        self.qemu_img("create", "-q", "-f", "raw", "base", "4M")
        self.qemu_io("base", "write -P 1 0 4M", image_format="raw")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "middle", "1M")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top", "4M")
        before = self.content("top", "qcow2")
        self.weir("commit", "-b", self.path("base"), "top")
        self.assertEqual(self.content("base", "raw"), before)

    def test_refusals(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "alone", "1M")
        self.refused("commit", "alone", words=["alone", "backing"])
        top = self.make_chain()
        self.refused("commit", "-b", "alone", top, words=[top, "alone"])
        locked = subprocess.Popen(["qemu-io", "-f", "raw", "base.raw"], cwd=self.folder, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        try:
            locked.stdin.write(b"read 0 512\n")
            locked.stdin.flush()
            locked.stdout.readline()
            before = self.read("middle.qcow2")
            self.refused("commit", "-b", self.path("base.raw"), top, words=["base.raw"])
            self.assertEqual(self.read("middle.qcow2"), before)
        finally:
            locked.communicate(b"quit\n")


class Interrupted(OfflineCase):
    """Signals in the midst of the work: every image still is one, and reads as it must."""
    rounds = int(os.environ.get("WEIR_RUNS", "2"))

    def big_chain(self):
        with open(self.path("base.raw"), "wb") as file:
            for _ in range(192):
                file.write(os.urandom(MIB))
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top")
        self.qemu_io("top", *[f"write -P {at % 250 + 1} {at * 2}M 1M" for at in range(90)])

    def ended_early(self, code):
        self.assertIn(code, (0, 1, -signal.SIGKILL))
        return code != 0

    def test_commit(self):
        for sent in (signal.SIGINT, signal.SIGKILL) * self.rounds:
            with self.subTest(signal=sent):
                self.big_chain()
                before = self.content("top", "qcow2")
                self.ended_early(self.interrupt("commit", "top", sent=sent))
                self.assertEqual(self.content("top", "qcow2"), before)
                self.qemu_img("check", "-f", "qcow2", "top", expected=(0, 3))
                self.weir("commit", "top")
                self.assertEqual(self.content("base.raw", "raw"), before)
                self.check("top")

    def test_rebase(self):
        for sent in (signal.SIGINT, signal.SIGKILL) * self.rounds:
            with self.subTest(signal=sent):
                self.big_chain()
                before = self.content("top", "qcow2")
                early = self.ended_early(self.interrupt("rebase", "-b", "", "top", sent=sent))
                self.assertEqual(self.content("top", "qcow2"), before)
                self.qemu_img("check", "-f", "qcow2", "top", expected=(0, 3))
                if early:
                    self.assertEqual(self.info("top").get("backing-filename"), "base.raw")
                self.weir("rebase", "-b", "", "top")
                self.assertEqual(self.content("top", "qcow2"), before)

    def test_convert(self):
        self.big_chain()
        for sent in (signal.SIGINT, signal.SIGKILL) * self.rounds:
            for words in (["-O", "raw"], ["-c", "-O", "qcow2"]):
                with self.subTest(signal=sent, words=words):
                    self.write("out", b"precious")
                    if self.ended_early(self.interrupt("convert", *words, "top", "out", sent=sent)):
                        self.assertEqual(self.read("out"), b"precious")
                    for left in os.listdir(self.folder):
                        if left.endswith(".partial"):
                            self.assertEqual(sent, signal.SIGKILL)
                            os.unlink(self.path(left))


if __name__ == "__main__":
    unittest.main()

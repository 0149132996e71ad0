"""The verbs on image files, against qemu-img."""
import json
import os
import signal
import subprocess
import unittest

from weir_cli import CliTestCase


class Usage(CliTestCase):
    def test_help_lists_every_verb_and_each_has_help_and_a_man_page(self):
        overview = self.weir("help").stdout
        verbs = [line.split()[0] for line in overview.splitlines() if line.startswith("  ")]
        self.assertIn("blockpull", verbs)
        for verb in verbs:
            self.assertIn(f"usage: weir {verb} ", self.weir("help", verb).stdout)
            self.assertEqual(self.weir("help", verb).stdout.split("\n")[0], self.weir(verb, "--help").stdout.split("\n")[0])
            page = self.weir("help", "--man", verb).stdout
            self.assertTrue(page.startswith(".TH WEIR-" + verb.upper()), page[:60])
            self.assertIn(".SH OPTIONS", page)
        self.assertIn(".SH VERBS", self.weir("help", "--man").stdout)

    def test_wrong_usage_exits_2(self):
        self.weir(expected=2)
        for words in (["nope"], ["help", "nope"], ["info"], ["info", "a", "b"], ["info", "--nope", "a"],
                      ["info", "--js", "a"], ["info", "-f"], ["info", "-f", "nope", "a"], ["create", "-f", "qcow2", "a"],
                      ["create", "-f", "qcow2", "a", "1X"], ["create", "-f", "qcow2", "a", "-1"],
                      ["create", "-f", "qcow2", "a", "1.5G"], ["create", "-F", "raw", "a", "1M"],
                      ["convert", "a"], ["convert", "-S", "1000", "a", "b"], ["convert", "--target-is-zero", "a", "b"],
                      ["compare", "a"], ["serve", "a"], ["serve", "--nbd", "nope", "a"],
                      ["serve", "--control", "s", "--cache", "nope", "a"], ["blockpull", "-c", "s", "--async"],
                      ["blockpull", "-c", "s", "--bandwidth", "x"], ["blockpull"],
                      ["blockjob", "-c", "s", "--abort", "--pause"], ["copy-on-read", "-c", "s", "maybe"],
                      ["ctl", "-c", "s", "{"]):
            with self.subTest(words=words):
                self.refused(*words, expected=2) if words[0] not in ("nope", "help") else self.weir(*words, expected=2)

    def test_version(self):
        self.assertRegex(self.weir("--version").stdout, r"^weir \d+\.\d+\.\d+\n$")


class Create(CliTestCase):
    def test_qemu_accepts_what_is_created(self):
        for image_format, options, size in (("qcow2", [], "1G"), ("qcow2", ["-o", "compat=0.10"], "100M"),
                                            ("qcow2", ["-o", "cluster_size=512,refcount_bits=1"], "5M"),
                                            ("qcow2", ["-o", "cluster_size=2M", "-o", "lazy_refcounts=on"], "3G"),
                                            ("qcow2", ["-o", "extended_l2=on"], "1G"),
                                            ("qcow2", ["-o", "preallocation=metadata"], "70M"),
                                            ("qcow2", ["-o", "preallocation=falloc,cluster_size=4K"], "5M"),
                                            ("qcow2", ["-o", "preallocation=full,extended_l2=on"], "3M"),
                                            ("qcow2", ["-o", "preallocation=metadata,compat=0.10"], "5M"),
                                            ("qcow2", ["-o", "data_file=" + self.path("data")], "5M"),
                                            ("qcow2", ["-o", "data_file=" + self.path("data") + ",data_file_raw=on"], "9M"),
                                            ("qcow2", ["-o", "data_file=" + self.path("data")
                                                       + ",data_file_raw=on,preallocation=full,extended_l2=on"], "3M"),
                                            ("qed", [], "1G"), ("qed", ["-o", "cluster_size=4K,table_size=2"], "5M"),
                                            ("raw", [], "777K")):
            with self.subTest(format=image_format, options=options):
                self.weir("create", "-f", image_format, *options, "new", size)
                info = json.loads(self.qemu_img("info", "--output=json", "-f", image_format, "new"))
                self.assertEqual(info["virtual-size"], {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[size[-1]] * int(size[:-1]))
                if image_format != "raw":
                    self.qemu_img("check", "-f", image_format, "new")
                ours = json.loads(self.weir("info", "--json", "-f", image_format, "new").stdout)
                for key in info:
                    if key != "children":
                        self.assertEqual(ours.get(key), info[key], key)
                os.unlink(self.path("new"))

    def test_an_overlay_takes_its_backing_images_size(self):
        self.qemu_img("create", "-q", "-f", "raw", "base.raw", "5M")
        self.weir("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top")
        info = json.loads(self.qemu_img("info", "--output=json", "top"))
        self.assertEqual((info["virtual-size"], info["backing-filename"], info["backing-filename-format"]),
                         (5 << 20, "base.raw", "raw"))
        os.mkdir(self.path("sub"))
        self.weir("create", "-f", "qed", "-b", "../base.raw", "-F", "raw", "sub/top")
        self.qemu_img("compare", "sub/top", "base.raw", "-F", "raw")

    def test_failures_name_what_is_wrong_and_leave_nothing(self):
        self.qemu_img("create", "-q", "-f", "raw", "base.raw", "5M")
        self.refused("create", "-f", "qcow2", "-b", "nope", "-F", "raw", "top", words=["nope", "No such file"])
        self.refused("create", "-f", "qcow2", "-b", "base.raw", "top", words=["backing format", "-F"])
        self.refused("create", "-f", "raw", "-b", "base.raw", "-F", "raw", "top", words=["raw", "no backing"])
        self.refused("create", "-f", "qcow2", "-o", "colour=red", "top", "1M", words=["colour"])
        self.refused("create", "-f", "qcow2", "-o", "cluster_size=1000", "top", "1M", words=["cluster_size"])
        self.refused("create", "-f", "qcow2", "missing/top", "1M", words=["missing/top", "No such file"])
        self.assertEqual(os.listdir(self.folder), ["base.raw"])

    def test_an_image_in_use_is_not_replaced(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "top", "1M")
        before = self.read("top")
        holder = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "--persistent", "-k", self.path("s"), "--pid-file",
                                   self.path("pid"), "top"], cwd=self.folder)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        while not os.path.exists(self.path("pid")):
            self.assertIsNone(holder.poll())
        line = self.refused("create", "-f", "qcow2", "top", "2M", words=["top"])
        self.assertIn("use", line)
        self.refused("convert", "-O", "qcow2", "top", "top2", words=["top"])
        self.assertEqual(self.read("top"), before)


class Info(CliTestCase):
    def comparable(self, info):
        # qemu-img has no format-specific facts of QED.
        left_out = ("children", "actual-size") + (("format-specific",) if info["format"] == "qed" else ())
        return {key: value for key, value in info.items() if key not in left_out}

    def test_json_agrees_with_qemu_img_for_the_whole_chain(self):
        for top_format in ("qcow2", "qed"):
            with self.subTest(top=top_format):
                top = self.make_chain(top_format)
                ours = json.loads(self.weir("info", "--json", "--backing-chain", top).stdout)
                theirs = json.loads(self.qemu_img("info", "--output=json", "--backing-chain", top))
                self.assertEqual([self.comparable(info) for info in ours],
                                 [self.comparable(info) for info in theirs])

    def test_the_text_agrees_with_qemu_img_up_to_the_child_node(self):
        top = self.make_chain()
        theirs = self.qemu_img("info", top).split("Child node")[0]
        self.assertEqual(self.weir("info", top).stdout, theirs)

    def test_the_backing_image_need_not_exist(self):
        self.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "gone", "-F", "raw", "top", "1M")
        self.assertEqual(json.loads(self.weir("info", "--json", "top").stdout)["full-backing-filename"], "gone")
        self.refused("info", "--backing-chain", "top", words=["gone", "No such file"])


class Refusals(CliTestCase):
    """Every reader refuses with one line that names the image."""

    def test_missing_directory_and_fifo(self):
        self.refused("info", "nope", words=["nope", "No such file"])
        os.mkdir(self.path("folder"))
        self.refused("info", "folder", words=["folder", "directory"])
        os.mkfifo(self.path("fifo"))
        self.refused("info", "fifo", words=["fifo", "FIFO"])

    def test_a_loop_is_found(self):
        self.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "b", "-F", "qcow2", "a", "1M")
        self.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "a", "-F", "qcow2", "b", "1M")
        self.refused("map", "a", words=["loop"])

    def test_an_unrecorded_format_that_itself_has_a_backing_file(self):
        top = self.make_chain()
        self.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "unrecorded", "16M")
        self.qemu_img("rebase", "-u", "-b", "middle.qcow2", "-F", "qcow2", "unrecorded")
        data = bytearray(self.read("unrecorded"))
        at = data.find(bytes.fromhex("e2792aca"))  # the backing format extension
        data[at:at + 4] = bytes.fromhex("0badf00d")
        self.write("unrecorded", data)
        self.refused("map", "unrecorded", words=["middle.qcow2", "format"])
        self.weir("map", top)

    def test_a_truncated_image(self):
        top = self.make_chain()
        os.truncate(self.path(top), 1000)
        self.refused("map", top, words=[top])
        os.truncate(self.path(top), 100)
        self.refused("map", "-f", "qcow2", top, words=[top])

    def test_a_wrong_format(self):
        self.qemu_img("create", "-q", "-f", "raw", "disk.raw", "1M")
        self.refused("info", "-f", "qcow2", "disk.raw", words=["disk.raw", "qcow2"])

    def test_an_xml_syntax_error_is_placed(self):
        with open(self.path("bad.xml"), "w", encoding="utf-8") as file:
            file.write("<domain>\n  <devices>\n    <disk></dsk>\n  </devices>\n</domain>\n")
        self.refused("map", "bad.xml", words=["bad.xml:3:"])


class Map(CliTestCase):
    def test_json_agrees_with_qemu_img(self):
        for top_format in ("qcow2", "qed"):
            with self.subTest(top=top_format):
                top = self.make_chain(top_format)
                self.assertEqual(json.loads(self.weir("map", "--json", top).stdout),
                                 json.loads(self.qemu_img("map", "--output=json", top)))
        self.qemu_img("convert", "-c", "-O", "qcow2", "top.qcow2", "compressed.qcow2")
        self.assertEqual(json.loads(self.weir("map", "--json", "compressed.qcow2").stdout),
                         json.loads(self.qemu_img("map", "--output=json", "compressed.qcow2")))
        self.assertEqual(json.loads(self.weir("map", "--json", "-f", "raw", "base.raw").stdout),
                         json.loads(self.qemu_img("map", "--output=json", "-f", "raw", "base.raw")))

    def test_the_table_agrees_with_qemu_img(self):
        top = self.make_chain()
        self.assertEqual(self.weir("map", top).stdout, self.qemu_img("map", top))

    def test_a_domain_is_mapped_disk_by_disk(self):
        top = self.make_chain()
        self.qemu_img("create", "-q", "-f", "raw", "data.raw", "1M")
        xml = self.domain(("vda", "qcow2", self.path(top)), ("vdb", "raw", self.path("data.raw")))
        mapped = json.loads(self.weir("map", "--json", xml).stdout)["disks"]
        self.assertEqual([disk["target"] for disk in mapped], ["vda", "vdb"])
        self.assertEqual(mapped[0]["map"], json.loads(self.qemu_img("map", "--output=json", top)))


class Convert(CliTestCase):
    def test_every_format_to_every_format(self):
        for source_format in ("qcow2", "qed"):
            top = self.make_chain(source_format)
            for target_format in ("raw", "qcow2", "qed"):
                with self.subTest(source=source_format, target=target_format):
                    self.weir("convert", "-O", target_format, top, "out")
                    self.qemu_img("compare", "-F", target_format, top, "out")
                    if target_format != "raw":
                        self.assertIn("No errors", self.qemu_img("check", "-f", target_format, "out"))
                    self.assertLess(os.stat(self.path("out")).st_blocks * 512, 6 << 20)

    def test_written_zeros_become_holes(self):
        with open(self.path("zeros.raw"), "wb") as file:
            file.write(b"\0" * (8 << 20))
        self.weir("convert", "-f", "raw", "-O", "raw", "zeros.raw", "out")
        self.assertEqual(os.stat(self.path("out")).st_blocks, 0)
        self.assertEqual(os.stat(self.path("out")).st_size, 8 << 20)
        self.weir("convert", "-f", "raw", "-O", "raw", "-S", "0", "zeros.raw", "out")
        self.assertEqual(os.stat(self.path("out")).st_blocks * 512, 8 << 20)

    def test_a_cluster_larger_than_the_disk(self):
        """QEMU opens no QED image with clusters of 8 MiB, though that is a size of the format."""
        self.qemu_img("create", "-q", "-f", "raw", "small.raw", "900K")
        self.qemu_io("small.raw", "write -P 1 0 300k", "write -P 2 700k 5k", image_format="raw")
        for target_format, options in (("qed", "cluster_size=8M"), ("qed", "cluster_size=1M"),
                                       ("qcow2", "cluster_size=2M"), ("qcow2", "cluster_size=2M,extended_l2=on")):
            with self.subTest(target=target_format, options=options):
                self.weir("convert", "-f", "raw", "-O", target_format, "-o", options, "small.raw", "out")
                self.weir("convert", "-f", target_format, "-O", "raw", "out", "back.raw")
                self.assertEqual(self.read("back.raw"), self.read("small.raw"))
                if "8M" not in options:
                    self.qemu_img("compare", "-f", "raw", "-F", target_format, "small.raw", "out")
                    self.assertIn("No errors", self.qemu_img("check", "-f", target_format, "out"))

    def test_into_an_image_that_exists(self):
        top = self.make_chain()
        with open(self.path("old.raw"), "wb") as file:
            file.write(b"x" * (16 << 20))
        self.weir("convert", "-n", "-O", "raw", top, "old.raw")
        self.qemu_img("compare", "-F", "raw", top, "old.raw")
        self.qemu_img("create", "-q", "-f", "qcow2", "fresh.qcow2", "16M")
        self.weir("convert", "-n", "--target-is-zero", "-O", "qcow2", top, "fresh.qcow2")
        self.qemu_img("compare", top, "fresh.qcow2")
        self.qemu_img("create", "-q", "-f", "raw", "small.raw", "1M")
        self.refused("convert", "-n", "-O", "raw", top, "small.raw", words=["small.raw", "1048576"])

    def test_onto_a_backing_image(self):
        top = self.make_chain()
        self.weir("convert", "-O", "qcow2", "-B", "base.raw", "-F", "raw", top, "out")
        self.qemu_img("compare", top, "out")
        self.assertEqual(json.loads(self.qemu_img("info", "--output=json", "out"))["backing-filename"], "base.raw")

    def test_options_reach_the_new_image(self):
        top = self.make_chain()
        self.weir("convert", "-O", "qcow2", "-o", "cluster_size=4K,compat=0.10", top, "out")
        info = json.loads(self.qemu_img("info", "--output=json", "out"))
        self.assertEqual((info["cluster-size"], info["format-specific"]["data"]["compat"]), (4096, "0.10"))

    def test_an_interrupted_conversion_leaves_nothing_but_what_was_there(self):
        with open(self.path("source.raw"), "wb") as file:
            for _ in range(512):
                file.write(os.urandom(1 << 20))
        with open(self.path("target.raw"), "wb") as file:
            file.write(b"precious")
        running = subprocess.Popen([self.weir_path, "convert", "-f", "raw", "-O", "qcow2", "--progress=json", "source.raw",
                                    "target.raw"], cwd=self.folder, stderr=subprocess.PIPE, text=True)
        self.assertIn("offset", running.stderr.readline())
        running.send_signal(signal.SIGINT)
        _, words = running.communicate(timeout=60)
        if running.returncode == 0:
            self.fail("the conversion was over before the signal came; make the source larger")
        self.assertEqual(running.returncode, 1)
        self.assertIn("interrupted", words)
        self.assertEqual(sorted(os.listdir(self.folder)), ["source.raw", "target.raw"])
        self.assertEqual(self.read("target.raw"), b"precious")

    def test_a_failed_conversion_leaves_nothing(self):
        top = self.make_chain()
        os.unlink(self.path("base.raw"))
        before = sorted(os.listdir(self.folder))
        self.refused("convert", top, "out", words=["base.raw", "middle.qcow2"])
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_progress_lines_are_json(self):
        top = self.make_chain()
        lines = self.weir("convert", "--progress=json", top, "out").stderr.splitlines()
        last = json.loads(lines[-1])
        self.assertEqual((last["offset"], last["len"]), (16 << 20, 16 << 20))
        self.assertIn("100.0 %", self.weir("convert", "-p", top, "out").stderr)


class Compare(CliTestCase):
    def test_same_different_trouble(self):
        top = self.make_chain()
        self.weir("convert", "-O", "raw", top, "out.raw")
        self.assertEqual(self.weir("compare", "-F", "raw", top, "out.raw").stdout, "Images are identical.\n")
        with open(self.path("out.raw"), "r+b") as file:
            file.seek(13 << 20)
            file.write(b"!")
            file.seek((12 << 20) + 4097)
            file.write(b"!")
        done = self.weir("compare", "-F", "raw", top, "out.raw", expected=1)
        self.assertEqual(done.stdout, f"Content mismatch at offset {(12 << 20) + 4097}!\n")
        self.refused("compare", top, "nope", expected=2, words=["nope"])

    def test_sizes_may_differ_where_the_rest_is_zero(self):
        for name, size in (("short.raw", "1M"), ("long.raw", "3M")):
            self.qemu_img("create", "-q", "-f", "raw", name, size)
        for a, b in (("short.raw", "long.raw"), ("long.raw", "short.raw")):
            self.assertIn("identical", self.weir("compare", "-f", "raw", "-F", "raw", a, b).stdout)
            self.weir("compare", "-s", "-f", "raw", "-F", "raw", a, b, expected=1)
        self.qemu_io("long.raw", "write -P 1 2M 512", image_format="raw")
        done = self.weir("compare", "-f", "raw", "-F", "raw", "short.raw", "long.raw", expected=1)
        self.assertIn(f"offset {2 << 20}!", done.stdout)

    def test_strict_sees_allocation(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "a", "1M")
        self.qemu_img("create", "-q", "-f", "qcow2", "b", "1M")
        self.qemu_io("b", "write -z 128k 64k")
        self.weir("compare", "a", "b")
        self.assertIn("131072 allocation", self.weir("compare", "-s", "a", "b", expected=1).stdout)


if __name__ == "__main__":
    unittest.main()

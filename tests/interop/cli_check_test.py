"""weir check and map --svg on files, against qemu-img."""
import json
import os
import struct
import subprocess
import unittest
import xml.etree.ElementTree

from weir_cli import CliTestCase

COPIED = 1 << 63


class Check(CliTestCase):
    def number(self, name, at):
        return struct.unpack(">Q", self.read(name)[at:at + 8])[0]

    def put(self, name, at, data):
        with open(self.path(name), "r+b") as file:
            file.seek(at)
            file.write(data)

    def refcount_block(self, name):
        return self.number(name, self.number(name, 48))

    def l2_table(self, name):
        return self.number(name, self.number(name, 40)) & ~COPIED

    def make(self, name, image_format="qcow2"):
        self.qemu_img("create", "-q", "-f", image_format, name, "10M")
        self.qemu_io(name, "write -P 1 0 1M", "write -P 2 5M 100k", image_format=image_format)

    def test_exit_codes_and_json_are_qemus(self):
        for image_format in ("qcow2", "qed"):
            self.make("a", image_format)
            for damage, code in ((None, 0), ("leak", 3), ("error", 2)):
                with self.subTest(format=image_format, damage=damage):
                    if damage == "leak":
                        os.truncate(self.path("a"), (os.path.getsize(self.path("a")) + 0xffff & ~0xffff) + 65536)
                        if image_format == "qcow2":
                            cluster = os.path.getsize(self.path("a")) // 65536 - 1
                            self.put("a", self.refcount_block("a") + 2 * cluster, b"\0\1")
                    elif damage == "error" and image_format == "qcow2":
                        self.put("a", self.l2_table("a") + 8, struct.pack(">Q", COPIED | 1 << 40))
                    elif damage == "error":
                        l1 = struct.unpack("<Q", self.read("a")[40:48])[0]
                        l2 = struct.unpack("<Q", self.read("a")[l1:l1 + 8])[0]
                        self.put("a", l2 + 8, struct.pack("<Q", 1 << 40))
                    told = self.qemu_img("check", "--output=json", "-f", image_format, "a", expected=(code,))
                    theirs = json.loads(told[told.index("{"):])
                    done = self.weir("check", "--json", "-f", image_format, "a", expected=code)
                    ours = json.loads(done.stdout)
                    for key in set(theirs) | set(ours):
                        # What an entry past the end of the file counts as is nobody's promise.
                        if damage == "error" and key in ("leaks", "fragmented-clusters", "corruptions", "allocated-clusters"):
                            continue
                        self.assertEqual(ours.get(key), theirs.get(key), key)
                    self.assertEqual(bool(done.stderr), damage is not None)
                    self.weir("check", "a", expected=code)
            os.unlink(self.path("a"))

    def test_repair(self):
        self.make("a")
        before = self.qemu_img("map", "--output=json", "a")
        self.put("a", self.refcount_block("a") + 2 * 6, b"\0\0")
        self.put("a", self.refcount_block("a") + 2 * 8, b"\0\7")
        self.weir("check", "a", expected=2)
        done = self.weir("check", "-r", "leaks", "--json", "a", expected=2)
        self.assertEqual(json.loads(done.stdout)["leaks-fixed"], 1)
        done = self.weir("check", "-r", "all", "a")
        self.assertIn("repaired", done.stdout)
        self.assertIn("No errors were found on the image.", done.stdout)
        self.qemu_img("check", "a")
        self.assertEqual(self.qemu_img("map", "--output=json", "a"), before)
        self.assertEqual(self.weir("check", "-r", "all", "a").stderr, "")

    def test_a_marked_image_is_written_again_after_the_repair(self):
        self.make("a")
        self.put("a", 72, struct.pack(">Q", 2))
        self.qemu_img("create", "-q", "-f", "raw", "content", "10M")
        self.refused("convert", "-n", "-O", "qcow2", "content", "a", words=["corrupt", "weir check -r all"])
        self.weir("check", "a")
        self.refused("convert", "-n", "-O", "qcow2", "content", "a", words=["corrupt"])
        self.weir("check", "-r", "all", "a")
        self.weir("convert", "-n", "-O", "qcow2", "content", "a")

    def test_qed_repairs_what_qemu_repairs(self):
        self.make("a", "qed")
        l1 = struct.unpack("<Q", self.read("a")[40:48])[0]
        l2 = struct.unpack("<Q", self.read("a")[l1:l1 + 8])[0]
        features = struct.unpack("<Q", self.read("a")[16:24])[0]
        self.put("a", 16, struct.pack("<Q", features | 2))
        self.put("a", l2 + 16, struct.pack("<Q", 12345))
        os.truncate(self.path("a"), (os.path.getsize(self.path("a")) + 0xffff & ~0xffff) + 3 * 65536)
        done = self.weir("check", "-f", "qed", "a", expected=2)
        self.assertIn("guest bytes 131072 to 196608", done.stderr)
        self.weir("check", "-f", "qed", "-r", "leaks", "a", expected=2)
        self.weir("check", "-f", "qed", "-r", "all", "a", expected=3)
        self.assertEqual(struct.unpack("<Q", self.read("a")[16:24])[0], features)
        self.assertEqual(struct.unpack("<Q", self.read("a")[l2 + 16:l2 + 24])[0], 0)
        # The cluster that lost its owner leaks for good; the end of the file is cut off.
        done = json.loads(self.weir("check", "--json", "-f", "qed", "-r", "leaks", "a", expected=3).stdout)
        self.assertEqual(done["leaks"], 1)
        self.qemu_img("check", "-f", "qed", "a", expected=(3,))
        self.qemu_io("a", "read -P 1 0 128k", "read -P 0 128k 64k", "read -P 1 192k 832k", "read -P 2 5M 100k",
                     image_format="qed")

    def test_refusals(self):
        self.make("a")
        self.qemu_img("create", "-q", "-f", "raw", "raw", "1M")
        self.assertIn("raw", self.weir("check", "-f", "raw", "raw", expected=63).stderr)
        self.weir("check", "raw", expected=63)
        for words in (["a", "b"], ["-r", "some", "a"], ["--nope", "a"], [], ["-U", "-r", "all", "a"], ["-f", "nope", "a"]):
            self.refused("check", *words)
        self.refused("check", "missing", words=["missing", "No such file"])
        self.refused("check", "-f", "qed", "a", words=["QED"])
        holder = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "--persistent", "-k", self.path("s"), "--pid-file",
                                   self.path("pid"), "a"], cwd=self.folder)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        while not os.path.exists(self.path("pid")):
            self.assertIsNone(holder.poll())
        self.refused("check", "a", words=["in use"])
        self.refused("check", "-r", "all", "a", words=["in use"])
        self.weir("check", "-U", "a")


class MapSvg(CliTestCase):
    def draw(self, *named):
        self.weir("map", "--svg", "map.svg", *named)
        root = xml.etree.ElementTree.fromstring(self.read("map.svg"))
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        return root

    def texts(self, root):
        return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]

    def test_every_layer_has_a_row_with_its_sizes(self):
        top = self.make_chain()
        texts = self.texts(self.draw(top))
        for wanted in ("0  top.qcow2", "1  middle.qcow2", "2  base.raw", "16 MiB", "data", "zero", "compressed",
                       "not in this layer"):
            self.assertTrue(any(wanted in text for text in texts), (wanted, texts))
        self.assertTrue(any(text.startswith("64 KiB data, 1 MiB zero") for text in texts), texts)

    def test_odd_names_stay_valid(self):
        self.make_chain()
        os.rename(self.path("top.qcow2"), self.path("a<&\">\x01é.qcow2"))
        self.draw("a<&\">\x01é.qcow2")
        os.rename(self.path("a<&\">\x01é.qcow2"), os.path.join(os.fsencode(self.folder), b"\xff\xfe.qcow2"))
        self.weir("map", "--svg", "map.svg", os.fsdecode(b"\xff\xfe.qcow2"))
        xml.etree.ElementTree.fromstring(self.read("map.svg"))

    def test_many_runs_make_no_bigger_picture(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "a", "8M")
        self.qemu_io("a", *[f"write {at} 512" for at in range(0, 8 << 20, 4096)])
        self.assertGreater(len(json.loads(self.weir("map", "--json", "a").stdout)), 4000)
        self.draw("a")
        self.assertLess(os.path.getsize(self.path("map.svg")), 200_000)

    def test_a_domain_has_a_part_for_each_disk(self):
        top = self.make_chain()
        self.qemu_img("create", "-q", "-f", "qcow2", "other.qcow2", "1M")
        self.domain(("vda", "qcow2", self.path(top)), ("vdb", "qcow2", self.path("other.qcow2")))
        texts = self.texts(self.draw("vm.xml"))
        self.assertIn("vda", texts)
        self.assertIn("vdb", texts)
        self.assertIn("owns nothing", texts)


if __name__ == "__main__":
    unittest.main()

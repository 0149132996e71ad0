"""qcow version 1 and AES-encrypted qcow2 as QEMU makes them, read by weir through libqcow in its helper process, anywhere
in a chain; hostile ones; a helper that dies; and `weir verify`."""
import json
import os
import random
import shutil
import signal
import struct
import time
import unittest

from tools import run
from weir_cli import CliTestCase

SIZE = 4 << 20
PASSPHRASE = "correct horse"
COMPRESSED = 1 << 63


class LegacyCase(CliTestCase):
    def content(self, name="content.raw", size=SIZE, seed=7):
        """Data in some clusters, compressible and not, and holes."""
        dice = random.Random(seed)
        with open(self.path(name), "wb") as file:
            file.truncate(size)
            for at in range(0, size - 4096, 128 << 10):
                file.seek(at + dice.randrange(3000))
                file.write(dice.randbytes(7000) if dice.randrange(2) else b"weir" * 5000)
            file.truncate(size)
        return name

    def secret(self):
        self.write("key", PASSPHRASE.encode())
        return "--passphrase-file", "key"

    def make(self, source, name, image_format, options="", *more):
        """A conversion of `source` by qemu-img."""
        secret = ("--object", f"secret,id=s,data={PASSPHRASE}") if "encrypt" in options else ()
        # QEMU 10 says that it failed after the last compressed cluster of a version 1 image, and has written them all.
        expected = (0, 1) if image_format == "qcow" and "-c" in more else (0,)
        self.qemu_img("convert", *more, *secret, "-f", "raw", "-O", image_format, *(("-o", options) if options else ()),
                      source, name, expected=expected)
        if len(expected) == 2:
            self.qemu_img("compare", "-f", "qcow", "-F", "raw", name, source)
        return name

    def same(self, image, reference, *options):
        self.weir("compare", *options, "-F", "raw", image, reference)
        self.weir("convert", *options, "-O", "raw", image, "out.raw")
        self.assertEqual(self.read("out.raw"), self.read(reference))

    def patched(self, source, name, *changes):
        """A copy with (offset, bytes) written over."""
        shutil.copy(self.path(source), self.path(name))
        with open(self.path(name), "r+b") as file:
            for at, data in changes:
                file.seek(at)
                file.write(data)
        return name

    def number(self, name, at, form=">Q"):
        return struct.unpack_from(form, self.read(name), at)[0]


AES_1 = "encrypt.format=aes,encrypt.key-secret=s"


class Version1(LegacyCase):
    def test_plain_compressed_and_encrypted_images_read_as_in_qemu(self):
        content = self.content()
        key = self.secret()
        self.same(self.make(content, "plain.qcow", "qcow"), content)
        self.same(self.make(content, "packed.qcow", "qcow", "", "-c"), content)
        self.same(self.make(content, "secret.qcow", "qcow", AES_1), content, *key)
        info = json.loads(self.weir("info", "--json", "plain.qcow").stdout)
        self.assertEqual((info["format"], info["virtual-size"], info["cluster-size"]), ("qcow", SIZE, 4096))
        ours = json.loads(self.weir("map", "--json", "plain.qcow").stdout)
        theirs = json.loads(self.qemu_img("map", "--output=json", "-f", "qcow", "plain.qcow"))
        self.assertEqual([(run["start"], run["length"]) for run in merged(ours) if run["data"]],
                         [(run["start"], run["length"]) for run in merged(theirs) if run["data"]])

    def test_a_passphrase_longer_than_the_key_and_from_a_descriptor(self):
        content = self.content()
        self.qemu_img("convert", "--object", "secret,id=s,data=0123456789abcdefghij", "-O", "qcow", "-o", AES_1, content,
                      "long.qcow")
        self.write("key", b"0123456789abcdef cut here\n")
        with open(self.path("key"), "rb") as file:
            self.weir("compare", "--passphrase-file", f"fd:{file.fileno()}", "-F", "raw", "long.qcow", content,
                      pass_fds=(file.fileno(),))
        self.write("key", b"wrong")
        self.weir("compare", "--passphrase-file", "key", "-F", "raw", "long.qcow", content, expected=1)

    def test_encrypted_images_are_refused_without_a_passphrase(self):
        content = self.content()
        self.make(content, "secret.qcow", "qcow", AES_1)
        self.make(content, "secret.qcow2", "qcow2", AES_1)
        for image in ("secret.qcow", "secret.qcow2"):
            for verb in ("info", "map"):
                self.refused(verb, image, words=("AES", "--passphrase-file"))
        self.refused("info", "--passphrase-file", "missing", "secret.qcow", words=("missing",))
        self.write("empty", b"\n")
        self.refused("info", "--passphrase-file", "empty", "secret.qcow", words=("no passphrase",))

    def test_writing_is_refused(self):
        self.make(self.content(), "plain.qcow", "qcow")
        before = self.read("plain.qcow")
        self.refused("convert", "-n", "-O", "qcow", "content.raw", "plain.qcow", words=("only read",))
        self.assertEqual(self.read("plain.qcow"), before)

    def test_in_a_chain_above_and_below_other_formats(self):
        """raw ← qcow (encrypted) ← qcow2 ← qcow: each layer has something of its own."""
        self.content("base.raw")
        self.qemu_img("create", "-q", "-f", "qcow", "-b", "base.raw", "-F", "raw", "low.qcow")
        self.qemu_io("low.qcow", "write -P 11 0 9000", "write -P 12 1000k 3k", image_format="qcow")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "low.qcow", "-F", "qcow", "middle.qcow2", str(SIZE + (1 << 20)))
        self.qemu_io("middle.qcow2", "write -P 13 2000k 100k", "write -z 100k 100k")
        # The format of a version 1 overlay's backing is recorded nowhere: qemu-img wants it all the same.
        self.qemu_img("create", "-q", "-f", "qcow", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow")
        self.qemu_io("top.qcow", "write -P 14 2010k 1k", "write -P 15 4500k 5k", image_format="qcow")
        self.qemu_img("convert", "-f", "qcow2", "-O", "raw", "middle.qcow2", "middle.raw")
        self.same("middle.qcow2", "middle.raw")
        # A probed backing with a backing of its own is refused; from the domain XML the chain is known.
        self.refused("convert", "top.qcow", "out.raw", words=("not recorded",))
        self.qemu_img("convert", "-f", "qcow", "-O", "raw", "top.qcow", "top.raw")
        layers = "<backingStore/>"
        for name, form in (("base.raw", "raw"), ("low.qcow", "qcow"), ("middle.qcow2", "qcow2")):
            layers = f"<backingStore type='file'><format type='{form}'/><source file='{self.path(name)}'/>{layers}</backingStore>"
        self.write("vm.xml", f"<disk type='file'><driver type='qcow'/><source file='{self.path('top.qcow')}'/>{layers}"
                             "<target dev='vda'/><readonly/></disk>".encode())
        serve = self.serve("--read-only", "--nbd", f"unix:{self.path('s')}", "vm.xml")
        self.qemu_img("compare", "-f", "raw", "-F", "raw", f"nbd+unix:///vda?socket={self.path('s')}", "top.raw")
        self.assertEqual(serve.stop(), (0, ""))

    def test_what_libqcow_would_misread_is_refused_or_read_by_weir(self):
        """QEMU's overlays have L2 tables of 64 clusters."""
        content = self.content()
        key = self.secret()
        secret = ("--object", f"secret,id=s,data={PASSPHRASE}")
        self.qemu_img("create", "-q", *secret, "-f", "qcow", "-o", AES_1, "-b", content, "-F", "raw", "secret.qcow")
        self.refused("convert", *key, "secret.qcow", "out.raw", words=("libqcow",))
        self.qemu_img("create", "-q", "-f", "qcow", "-b", content, "-F", "raw", "top.qcow")
        self.qemu_io("top.qcow", *(f"write -P {at} {at * 200}k 5k" for at in range(1, 20)), "write -c -P 77 3500k 512",
                     image_format="qcow")
        self.qemu_img("convert", "-f", "qcow", "-O", "raw", "top.qcow", "top.raw")
        self.same("top.qcow", "top.raw")

    def test_a_short_backing_image_reads_as_zeros_behind_its_end(self):
        """libqcow itself loops without end on such a chain."""
        self.content("base.raw", size=1 << 20)
        self.qemu_img("create", "-q", "-f", "qcow", "-b", "base.raw", "-F", "raw", "top.qcow", str(SIZE))
        self.qemu_io("top.qcow", "write -P 9 3M 4k", image_format="qcow")
        self.qemu_img("convert", "-f", "qcow", "-O", "raw", "top.qcow", "top.raw")
        self.same("top.qcow", "top.raw")

    def test_hostile_headers(self):
        self.make(self.content(), "plain.qcow", "qcow")
        huge = b"\xff" * 8
        for name, at, data in (
                ("cluster_bits 0", 32, b"\0"), ("cluster_bits 8", 32, b"\x08"), ("cluster_bits 17", 32, b"\x11"),
                ("cluster_bits 63", 32, b"\x3f"), ("cluster_bits 255", 32, b"\xff"),
                # CVE-2014-0222: tables of L2 entries that overflow.
                ("l2_bits 0", 33, b"\0"), ("l2_bits 5", 33, b"\x05"), ("l2_bits 14", 33, b"\x0e"), ("l2_bits 255", 33, b"\xff"),
                # CVE-2014-0223: sizes whose L1 table overflows.
                ("size 2^64-1", 24, huge), ("size 2^63", 24, b"\x80" + bytes(7)), ("size 2^63-512", 24, b"\x7f" + b"\xff" * 6 + b"\0"),
                ("size 2^60", 24, b"\x10" + bytes(7)), ("size 0", 24, bytes(8)), ("size 1", 24, bytes(7) + b"\x01"),
                ("crypt_method 2", 36, bytes(3) + b"\x02"), ("crypt_method 2^32-1", 36, huge[:4]),
                ("L1 at 0", 40, bytes(8)), ("L1 past the end", 40, struct.pack(">Q", 1 << 40)), ("L1 at 2^64-1", 40, huge),
                ("backing name at 2^63", 8, struct.pack(">QI", 1 << 63, 8)), ("backing name of 1024", 8, struct.pack(">QI", 48, 1024)),
                ("backing name in the header", 8, struct.pack(">QI", 8, 8)), ("backing name of 2^32-1", 8, struct.pack(">QI", 48, 0xffffffff)),
                ("backing name with NUL", 8, struct.pack(">QI", 4096, 8))):
            with self.subTest(name):
                image = self.patched("plain.qcow", "hostile.qcow", (at, data))
                before = self.read(image)
                started = time.monotonic()
                for verb in ("info", "map"):
                    self.refused(verb, "-f", "qcow", image)
                self.refused("convert", "-f", "qcow", image, "out.raw")
                self.refused("compare", "-f", "qcow", "-F", "raw", image, "content.raw", expected=2)
                self.assertLess(time.monotonic() - started, 20)
                self.assertEqual(self.read(image), before)
                self.assertFalse(os.path.exists(self.path("out.raw")))
        for length in (0, 4, 8, 47):
            self.write("short.qcow", self.read("plain.qcow")[:length])
            self.refused("info", "-f", "qcow", "short.qcow")

    def test_hostile_entries_fail_where_they_are(self):
        self.make(self.content(), "plain.qcow", "qcow")
        l1 = self.number("plain.qcow", 40)
        l2 = self.number("plain.qcow", l1)
        end = len(self.read("plain.qcow"))
        bad = (1, end - 4095, end, 1 << 62, COMPRESSED, COMPRESSED | 100 << 51 | end - 50, COMPRESSED | 4095 << 51 | end - 4000,
               (1 << 64) - 1)
        for at, entries in ((l1, (1, end - 4000, 1 << 62, (1 << 64) - 8)), (l2, bad)):
            for entry in entries:
                with self.subTest(f"{at}: {entry:#x}"):
                    self.patched("plain.qcow", "hostile.qcow", (at, struct.pack(">Q", entry)))
                    self.refused("convert", "hostile.qcow", "out.raw")
                    self.weir("info", "hostile.qcow")
        # A compressed unit of rubbish is libqcow's to refuse; the helper survives it.
        self.patched("plain.qcow", "hostile.qcow", (l2, struct.pack(">Q", COMPRESSED | 500 << 51 | end - 4096)),
                     (end - 4096, b"\xff" * 500))
        self.assertIn("libqcow", self.refused("convert", "hostile.qcow", "out.raw"))

    def test_the_helper_may_die(self):
        """What is asked meanwhile fails, the next request is answered."""
        self.make(self.content(), "plain.qcow", "qcow")
        serve = self.serve("--read-only", "--nbd", f"unix:{self.path('s')}", "plain.qcow")
        uri = f"nbd+unix:///?socket={self.path('s')}"
        read = ("qemu-io", "-f", "raw", "-r", "-c", "read 0 64k", uri)
        self.assertNotIn("failed", run(*read))
        (helper,) = children_of(serve.process.pid)
        os.kill(helper, signal.SIGKILL)
        failed = run(*read, expected=(0, 1))
        self.assertIn("Input/output error", failed)
        self.assertNotIn("failed", run(*read))
        (again,) = children_of(serve.process.pid)
        self.assertNotEqual(again, helper)
        # Stopped, it answers nobody; killed in the middle of a request, it fails just that one.
        os.kill(again, signal.SIGSTOP)
        with open(self.path("words"), "w+b") as words:
            waiting = self.background(read, words)
            time.sleep(0.5)
            self.assertIsNone(waiting.poll())
            os.kill(again, signal.SIGKILL)
            waiting.wait(timeout=30)
            words.seek(0)
            self.assertIn(b"Input/output error", words.read())
        self.qemu_img("compare", "-f", "raw", "-F", "raw", uri, "content.raw")
        code, words = serve.stop()
        self.assertEqual(code, 0)
        self.assertIn("weir-qcow-reader", words)
        self.assertEqual(children_of(serve.process.pid), [])

    def background(self, command, words):
        import subprocess
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        self.addCleanup(process.kill)
        return process

    def test_without_its_helper_weir_says_so(self):
        self.make(self.content(), "plain.qcow", "qcow")
        shutil.copy(self.weir_path, self.path("weir"))
        self.weir_path = self.path("weir")
        self.weir("info", "plain.qcow")
        self.refused("convert", "plain.qcow", "out.raw", words=("weir-qcow-reader", "cannot be started"))


class EncryptedQcow2(LegacyCase):
    def test_reads_as_in_qemu(self):
        content = self.content()
        key = self.secret()
        for number, options in enumerate(("", ",compat=0.10", ",cluster_size=512", ",cluster_size=2M")):
            self.same(self.make(content, f"secret{number}.qcow2", "qcow2", AES_1 + options), content, *key)

    def test_zero_clusters_snapshots_and_a_backing_image(self):
        """Each of these libqcow reads wrongly."""
        content = self.content()
        key = self.secret()
        secret = ("--object", f"secret,id=s,data={PASSPHRASE}")
        self.qemu_img("create", "-q", *secret, "-f", "qcow2", "-o", AES_1, "-b", content, "-F", "raw", "top.qcow2", str(SIZE + (1 << 20)))
        image = "driver=qcow2,encrypt.format=aes,encrypt.key-secret=s,file.filename=top.qcow2"
        for command in ("write -P 1 100k 300k", "write -z 1M 256k", "write -P 2 3M 10k", "write -z 3M 64k", "write -P 5 4100k 8k"):
            run("qemu-io", *secret, "--image-opts", image, "-c", command, cwd=self.folder)
        self.qemu_img("convert", *secret, "--image-opts", image, "-O", "raw", "top.raw")
        self.same("top.qcow2", "top.raw", *key)

    def test_luks_is_recognised_and_refused(self):
        self.qemu_img("create", "-q", "--object", "secret,id=s,data=x", "-f", "qcow2", "-o",
                      "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "luks.qcow2", "1M")
        self.refused("info", *self.secret(), "luks.qcow2", words=("LUKS",))

    def test_damaged_tables(self):
        content = self.content()
        key = self.secret()
        self.make(content, "secret.qcow2", "qcow2", AES_1)
        l2 = self.number("secret.qcow2", self.number("secret.qcow2", 40)) & ((1 << 56) - 1)
        for entry in (1 << 63 | 1 << 40, 1 << 62, 1 << 63 | 512, (1 << 64) - 1):
            self.patched("secret.qcow2", "hostile.qcow2", (l2, struct.pack(">Q", entry)))
            self.refused("convert", *key, "hostile.qcow2", "out.raw")


class Verify(LegacyCase):
    def verify(self, image, *options, expected=0):
        return json.loads(self.weir("verify", "--json", *options, image, expected=expected).stdout)

    def test_agrees_on_what_libqcow_reads_rightly(self):
        content = self.content()
        for name, image_format, options, more in (
                ("a", "qcow", "", ()), ("b", "qcow", "", ("-c",)), ("c", "qcow2", "compat=0.10", ()), ("d", "qcow2", "", ()),
                ("e", "qcow2", "cluster_size=512", ()), ("f", "qcow2", "cluster_size=4096", ("-c",)), ("g", "qcow2", "", ("-c",)),
                ("h", "qcow2", "cluster_size=2M,refcount_bits=1", ())):
            with self.subTest(f"{image_format} {options} {more}"):
                said = self.verify(self.make(content, name, image_format, options, *more))
                self.assertEqual(said, {"result": "same", "compared-bytes": SIZE, "not-judged": []})
        self.assertIn("read the same", self.weir("verify", "d").stdout)

    def test_says_what_libqcow_cannot_judge(self):
        content = self.content()
        self.make(content, "zstd", "qcow2", "compression_type=zstd", "-c")
        self.make(content, "secret", "qcow2", AES_1)
        self.make(content, "zeros", "qcow2")
        self.qemu_io("zeros", "write -z 1M 256k", "write -z 0 64k")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", content, "-F", "raw", "overlay")
        self.qemu_img("create", "-q", "-f", "qed", "image.qed", "1M")
        for image, words in (("zstd", "zstd"), ("zeros", "zero clusters"), ("overlay", "backing image"), ("image.qed", "qed"),
                             (content, "raw")):
            said = self.verify(image, expected=3)
            self.assertEqual(said["result"], "not-judged")
            self.assertIn(words, said["not-judged"][0])
        # The same header without its backing image is read by weir itself.
        self.qemu_img("create", "-q", "-f", "qcow", "-b", content, "-F", "raw", "overlay.qcow")
        said = self.verify(self.patched("overlay.qcow", "tables.qcow", (8, bytes(12))), expected=3)
        self.assertIn("L2 tables", said["not-judged"][0])
        said = self.verify("secret", *self.secret(), expected=3)
        self.assertIn("encryption", said["not-judged"][0])
        zeros = self.weir("verify", "zeros", expected=3).stdout
        self.assertIn("Not judged: zero clusters (libqcow ignores the flag), the first at offset 0\n", zeros)

    def test_a_file_cut_off_is_not_given_to_libqcow(self):
        self.make(self.content(), "cut.qcow2", "qcow2", "compat=0.10")
        with open(self.path("cut.qcow2"), "r+b") as file:
            file.truncate(os.path.getsize(self.path("cut.qcow2")) - 1000)
        self.assertIn("cuts off", self.verify("cut.qcow2", expected=3)["not-judged"][0])

    def test_names_the_first_difference(self):
        """A helper that lies plays a library with a bug."""
        self.make(self.content(), "image.qcow2", "qcow2")
        shutil.copy(self.weir_path, self.path("weir"))
        self.write("weir-qcow-reader", LIAR.encode())
        os.chmod(self.path("weir-qcow-reader"), 0o755)
        self.weir_path = self.path("weir")
        said = self.verify("image.qcow2", expected=1)
        self.assertEqual((said["result"], said["offset"]), ("different", 0x21234))
        self.assertIn("disagree, first at offset 135732", self.weir("verify", "image.qcow2", expected=1).stdout)

    def test_trouble_is_told_apart(self):
        self.make(self.content(), "image.qcow2", "qcow2")
        l1 = self.number("image.qcow2", 40)
        self.patched("image.qcow2", "damaged", (l1, struct.pack(">Q", 1 << 63 | 512)))
        self.refused("verify", "damaged", expected=2)
        self.refused("verify", "missing", expected=2)


LIAR = '''#!/usr/bin/python3
"""Answers what is in content.raw beside it, but for one byte."""
import os, socket, struct
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "content.raw"), "rb") as file:
    data = bytearray(file.read())
data[0x21234] ^= 1
talk = socket.socket(fileno=3)
talk.recv(32, socket.MSG_WAITALL)
talk.sendall(struct.pack("=II", 0, 0))
while True:
    asked = talk.recv(16, socket.MSG_WAITALL)
    if not asked:
        break
    at, length = struct.unpack("=QQ", asked)
    talk.sendall(struct.pack("=II", 0, length) + data[at:at + length])
'''


def merged(runs):
    """Neighbours that differ only in where they lie are one."""
    made = []
    for each in runs:
        if made and made[-1]["data"] == each["data"] and made[-1]["start"] + made[-1]["length"] == each["start"]:
            made[-1]["length"] += each["length"]
        else:
            made.append(dict(each))
    return made


def children_of(process):
    try:
        with open(f"/proc/{process}/task/{process}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    unittest.main()

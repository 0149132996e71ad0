"""Some hundred damaged and malicious images, from ones that qemu-img makes. Whatever is in them, every verb answers soon,
in little memory, with its answer or exit code 1 and one clear line, and leaves every file alone. A verb that can read an
image reads what was in it.

WEIR_SEED and WEIR_RUNS choose other random damage; WEIR_SANITIZED relaxes memory and time for a build that needs more."""
import concurrent.futures
import hashlib
import itertools
import os
import random
import shutil
import socket
import unittest

import hostile_qcow2
import hostile_qed
from hostile_qcow2 import ANYTHING, CLUSTER, LOST, READABLE, REFUSED
from tools import run
from verb_limits import Measured
from weir_cli import CliTestCase

SANITIZED = bool(os.environ.get("WEIR_SANITIZED"))
MOST_BYTES = (1500 if SANITIZED else 300) << 20
MOST_SECONDS = 20 if SANITIZED else 5
SEED = int(os.environ.get("WEIR_SEED", "1"))
RUNS = int(os.environ.get("WEIR_RUNS", "90"))
WORKERS = 2


def state_of(folder):
    """Everything in a folder: kind, size and time, and the content of what is not huge."""
    state = {}
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        facts = entry.stat(follow_symlinks=False)
        digest = None
        if entry.is_file(follow_symlinks=False) and facts.st_size < 1 << 30:
            with open(entry.path, "rb") as file:
                digest = hashlib.file_digest(file, "sha1").hexdigest()
        state[entry.name] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, digest)
    return state


class HostileImages(CliTestCase):
    @classmethod
    def setUpClass(cls):
        case = cls("setUp")
        case.setUp()
        cls.addClassCleanup(case.doCleanups)
        cls.sources = case.folder
        cls.images = {}
        writes = ("write -P 1 0 9000", "write -P 2 300k 20k", "write -z 400k 16k", "write -P 3 2100k 5000")
        cls.make("v3", "qcow2", "cluster_size=4096", writes)
        cls.make("v2", "qcow2", "cluster_size=4096,compat=0.10", writes[:2] + writes[3:])
        cls.make("qed", "qed", "cluster_size=4096,table_size=2", writes)
        cls.make("legacy", "qcow", "", (writes[0], "write -P 2 300k 20k", "write -c -P 4 1M 4k"))
        cls.make("deflate", "qcow2", "cluster_size=4096", ("write -c -P 1 0 4k", "write -c -P 2 8k 8k"))
        cls.make("zstd", "qcow2", "cluster_size=4096,compression_type=zstd", ("write -c -P 1 0 4k", "write -c -P 2 8k 8k"))
        cls.make("snapshot", "qcow2", "cluster_size=4096", writes)
        run("qemu-img", "snapshot", "-c", "one", os.path.join(cls.sources, "snapshot.img"))
        cls.make("bitmap", "qcow2", "cluster_size=4096", writes)
        run("qemu-img", "bitmap", "--add", "-g", "4096", os.path.join(cls.sources, "bitmap.img"), "dirty")
        for name in cls.images:
            cls.remember(name, cls.images[name][0])
        help_text = run(os.environ["WEIR"], "help")
        cls.has_check = "\n  check " in help_text

    @classmethod
    def make(cls, name, image_format, options, commands):
        path = os.path.join(cls.sources, name + ".img")
        run("qemu-img", "create", "-q", "-f", image_format, *(("-o", options) if options else ()), path, "3M")
        for command in commands:
            run("qemu-io", "-f", image_format, "-c", command, path)
        cls.images[name] = (image_format, None)

    @classmethod
    def remember(cls, name, image_format):
        path = os.path.join(cls.sources, name + ".img")
        run("qemu-img", "convert", "-f", image_format, "-O", "raw", path, path + ".raw")
        with open(path, "rb") as file:
            cls.images[name] = (image_format, file.read())

    def battery(self, examples):
        """Examples are (name, source image, expected, change)."""
        examples = list(examples)
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            for name, complaints in pool.map(self.examine_change, itertools.count(), examples):
                with self.subTest(name):
                    self.assertFalse(complaints, "\n".join(complaints))
        return len(examples)

    def examine_change(self, number, example):
        name, source, expected, change = example
        folder = self.path(f"{number}")
        os.mkdir(folder)
        image_format, content = self.images[source]
        image = hostile_qcow2.Image(content)
        change(image)
        top = "self." + image_format
        with open(os.path.join(folder, top), "wb") as file:
            file.write(image)
            file.truncate(max(len(image), image.file_size))
        self.add_company(folder)
        complaints = self.examine(folder, top, image_format, expected, os.path.join(self.sources, source + ".img.raw"))
        shutil.rmtree(folder)
        return name, complaints

    def add_company(self, folder):
        """What hostile names may point at."""
        os.mkdir(os.path.join(folder, "folder"))
        os.mkfifo(os.path.join(folder, "pipe"))
        with open(os.path.join(folder, "base.raw"), "wb") as file:
            file.write(bytes(8192))
        with open(os.path.join(folder, "secret"), "wb") as file:
            file.write(b"secret" * 100)
        # A path of a socket is short: bound relative to the folder.
        with socket.socket(socket.AF_UNIX) as unused:
            here = os.open(folder, os.O_RDONLY)
            unused.bind(f"/proc/self/fd/{here}/socket")
            os.close(here)

    def examine(self, folder, top, image_format, expected, reference):
        """What every verb did wrong, one line each."""
        out = os.path.join(folder, "out.raw")
        form = ("-f", image_format)
        before = state_of(folder)
        verbs = {"info": ("info", *form, top), "map": ("map", "--json", *form, top),
                 "convert": ("convert", *form, "-O", "raw", top, out),
                 "compare": ("compare", *form, "-F", "raw", top, reference)}
        if SANITIZED:
            # Each start costs more there, and these two meet what the others do.
            del verbs["map"], verbs["compare"]
        if os.path.getsize(os.path.join(folder, top)) > 1 << 30:
            # Comparing takes its time for a disk of exabytes, however empty.
            verbs.pop("compare", None)
        if self.has_check:
            verbs["check"] = ("check", *form, top)
        done, complaints = {}, []
        for verb, words in verbs.items():
            done[verb] = Measured((self.weir_path, *words), folder, 4 * MOST_SECONDS)
            complaints += self.judge(verb, done[verb])
            if verb == "convert":
                complaints += self.judge_output(done[verb], out, reference, expected)
        if state_of(folder) != before:
            complaints.append("a file was changed or left behind")
        status = {verb: each.status for verb, each in done.items()}
        words = {verb: each.words for verb, each in done.items()}
        wanted = {REFUSED: {"info": 1, "map": 1, "convert": 1, "compare": 2}, LOST: {"info": 0, "convert": 1, "compare": 2},
                  READABLE: {"info": 0, "map": 0, "convert": 0, "compare": 0},
                  "chain": {"info": 0, "map": 1, "convert": 1, "compare": 2}, ANYTHING: {}}[expected]
        complaints += [f"{verb}: exit {status[verb]}, not {code}: {words[verb]}" for verb, code in wanted.items()
                       if verb in status and status[verb] != code]
        return complaints

    @staticmethod
    def judge(verb, done):
        complaints = []
        codes = {"compare": (0, 1, 2), "check": (0, 1, 2, 3, 63)}.get(verb, (0, 1))
        if done.status not in codes:
            complaints.append(f"{verb}: exit {done.status}: {done.words[-3000:]}")
        failed = done.status == (2 if verb == "compare" else 1) and verb != "check"
        lines = done.words.splitlines()
        shown = [line for line in lines if not line.startswith("weir: compare: the sizes differ")]
        if failed and (len(shown) != 1 or not shown[0].startswith(f"weir: {verb}: ") or len(shown[0]) > 3000):
            complaints.append(f"{verb}: not one clear line: {done.words[-3000:]!r}")
        if any(ord(character) < 32 for line in shown + done.output.splitlines() for character in line):
            complaints.append(f"{verb}: control characters: {done.words!r}")
        if done.processor_seconds > MOST_SECONDS or done.seconds > 4 * MOST_SECONDS:
            complaints.append(f"{verb}: {done.processor_seconds:.1f} s of a processor, {done.seconds:.1f} s in all")
        if done.peak_bytes > MOST_BYTES:
            complaints.append(f"{verb}: {done.peak_bytes >> 20} MiB")
        return complaints

    @staticmethod
    def judge_output(done, out, reference, expected):
        if done.status != 0:
            return ["convert: failed and left its target"] if os.path.exists(out) else []
        complaints = []
        if expected == READABLE:
            with open(out, "rb") as made, open(reference, "rb") as right:
                if hashlib.file_digest(made, "sha1").digest() != hashlib.file_digest(right, "sha1").digest():
                    complaints.append("convert: the content is not what it was")
        os.unlink(out)
        return complaints

    def from_image(self, source, *families):
        return [(name, source, expected, change) for family in families for name, expected, change in family()]

    def test_headers_and_tables_of_qcow2(self):
        count = self.battery(self.from_image("v3", hostile_qcow2.plain_headers, hostile_qcow2.tables))
        self.assertGreater(count, 70)

    def test_extensions_and_names_of_qcow2(self):
        count = self.battery(self.from_image("v3", hostile_qcow2.extensions, hostile_qcow2.backing_names))
        self.assertGreater(count, 70)

    def test_entries_of_qcow2(self):
        zero_in_v2 = [("zero flag in version 2", "v2", LOST, hostile_qcow2.entry(lambda image: 1))]
        count = self.battery(self.from_image("v3", hostile_qcow2.entries) + zero_in_v2)
        self.assertGreater(count, 25)

    def test_compressed_units(self):
        count = self.battery(self.from_image("deflate", hostile_qcow2.deflate_units)
                             + self.from_image("zstd", hostile_qcow2.zstd_units))
        self.assertGreater(count, 15)

    def test_damaged_snapshots_leave_the_active_state_readable(self):
        self.battery(self.from_image("snapshot", hostile_qcow2.snapshot_tables))

    def test_qed(self):
        count = self.battery(self.from_image("qed", hostile_qed.headers, hostile_qed.entries))
        self.assertGreater(count, 50)

    def test_tables_of_any_size_in_files_of_holes(self):
        self.battery(self.from_image("v3", hostile_qcow2.giants) + self.from_image("qed", hostile_qed.giants))

    def test_random_damage(self):
        print(f"WEIR_SEED={SEED} WEIR_RUNS={RUNS}", flush=True)
        examples = []
        for number in range(RUNS):
            source = list(self.images)[number % len(self.images)]
            damage = hostile_qed.random_damage if source == "qed" else hostile_qcow2.random_damage
            dice = random.Random(f"{SEED}.{number}")
            examples.append((f"random {SEED}.{number} of {source}", source, ANYTHING,
                             lambda image, damage=damage, dice=dice: damage(dice, image)))
        self.battery(examples)

    def chain(self, name, expected, build, reference=None):
        """A folder of its own in which `build(folder)` makes a chain and returns its top."""
        with self.subTest(name):
            folder = self.path(name.replace(" ", "-").replace("/", "_"))
            os.mkdir(folder)
            top = build(folder)
            complaints = self.examine(folder, top, "qcow2", expected, reference or os.path.join(self.sources, "v3.img.raw"))
            self.assertFalse(complaints, "\n".join(complaints))
            shutil.rmtree(folder)

    def overlay(self, folder, name, backing, image_format="qcow2", size="3M"):
        """Written by hand: qemu-img would look at the backing file, and 200 of its processes take long."""
        content = bytearray(self.images["v3"][1][:CLUSTER * 3])
        l1 = hostile_qcow2.l1_at(content)
        # Only the header and an empty L1 table remain.
        content = content[:l1] + bytes(CLUSTER)
        hostile_qcow2.put(content, 56, 0, 4)
        hostile_qcow2.put(content, 48, 0)
        encoded = backing.encode()
        hostile_qcow2.with_backing(1024, len(encoded), encoded,
                                   hostile_qcow2.extension(0xe2792aca, image_format.encode()) + bytes(8))(content)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
        return name

    def test_loops(self):
        def loop(length):
            def build(folder):
                for at in range(length):
                    self.overlay(folder, f"{at}.qcow2", f"{(at + 1) % length}.qcow2")
                return "0.qcow2"
            return build

        def by_link(make_link):
            def build(folder):
                self.overlay(folder, "0.qcow2", "link.qcow2")
                make_link(os.path.join(folder, "0.qcow2"), os.path.join(folder, "link.qcow2"))
                return "0.qcow2"
            return build

        for length in (1, 2, 3):
            self.chain(f"loop of {length}", "chain", loop(length))
        self.chain("loop by symlink", "chain", by_link(os.symlink))
        self.chain("loop by hard link", "chain", by_link(os.link))
        self.chain("loop of symlinks", "chain", lambda folder: (
            os.symlink("b", os.path.join(folder, "a")), os.symlink("a", os.path.join(folder, "b")),
            self.overlay(folder, "0.qcow2", "a"))[-1])

    def test_depth(self):
        def build(layers):
            def make(folder):
                for at in range(layers - 1):
                    self.overlay(folder, f"{at}", f"{at + 1}", "raw" if at == layers - 2 else "qcow2")
                shutil.copy(os.path.join(self.sources, "v3.img.raw"), os.path.join(folder, str(layers - 1)))
                return "0"
            return make

        self.chain("200 layers", READABLE, build(200))
        self.chain("201 layers", "chain", build(201))

    def test_a_raw_layer_that_looks_like_an_image(self):
        def disguised(recorded):
            def build(folder):
                shutil.copy(os.path.join(self.sources, "v3.img"), os.path.join(folder, "secret.qcow2"))
                # The guest of a raw disk wrote a header that names a file of the host.
                self.overlay(folder, "base", "secret.qcow2")
                self.overlay(folder, "top", "base", recorded)
                return "top"
            return build

        def raw_content(folder):
            disguised("raw")(folder)
            with open(os.path.join(folder, "base"), "rb") as file:
                data = file.read()
            with open(self.path("expected.raw"), "wb") as file:
                file.write(data.ljust(3 << 20, b"\0"))
            return "top"

        self.chain("recorded as raw", READABLE, raw_content, self.path("expected.raw"))
        self.chain("format not recorded", "chain", disguised(""))


if __name__ == "__main__":
    unittest.main()

"""weir convert against qemu-img convert: sources, runs, figures. Used by scripts/bench.

A case is a source, a target format and words for both. qemu-img runs twice in each round, plain and with its fastest
words (16 coroutines, out of order), and only the faster counts. Each result is made durable before the clock stops:
weir does that by itself, qemu-img's target gets an fsync, and so does weir's. Every result is compared with its source.
"""
import os
import random
import resource
import statistics
import subprocess
import time

from guest_image import MIB
from images import make_difference
from tools import ToolError, run

PIECE, CLUSTER = 4 * MIB, 65536
QEMU_WORDS = {"qemu-img": [], "qemu-img -m 16 -W": ["-m", "16", "-W"]}


class Sources:
    """Half random data, a quarter zeros written out, a quarter hole: raw, qcow2 and the base of a chain of three."""

    def __init__(self, folder, size):
        self.folder, self.size, self.random = folder, size, random.Random(1)

    def path(self, name):
        return os.path.join(self.folder, name)

    def _write(self, path, data):
        with open(path, "wb") as file:
            file.truncate(self.size)
            for index in range(self.size // PIECE):
                file.seek(index * PIECE)
                if index % 4 < 2:
                    file.write(data())
                elif index % 4 == 2:
                    file.write(bytes(PIECE))

    def raw(self):
        path = self.path("source.raw")
        if not os.path.exists(path):
            self._write(path, lambda: self.random.randbytes(PIECE))
        return path, "raw"

    def squeezable(self):
        """Data that compresses to about half."""
        path = self.path("squeezable.raw")
        if not os.path.exists(path):
            self._write(path, lambda: b"".join(self.random.randbytes(512) + bytes([at % 251]) * 512
                                               for at in range(PIECE // 1024)))
        return path, "raw"

    def qcow2(self):
        path = self.path("source.qcow2")
        if not os.path.exists(path):
            # -S 0: the written zeros stay data
            run("qemu-img", "convert", "-S", "0", "-f", "raw", "-O", "qcow2", self.raw()[0], path)
        return path, "qcow2"

    def _overlay(self, name, backing, backing_format, share):
        edited = self.path("edited.raw")
        run("qemu-img", "convert", "-f", backing_format, "-O", "raw", backing, edited)
        with open(edited, "r+b") as file:
            for cluster in self.random.sample(range(self.size // CLUSTER), int(self.size // CLUSTER * share)):
                file.seek(cluster * CLUSTER)
                file.write(self.random.randbytes(CLUSTER))
        make_difference(edited, backing, backing_format, self.path(name))
        os.unlink(edited)
        return self.path(name)

    def chain(self):
        """A quarter of the disk in the middle layer, a tenth in the top."""
        top = self.path("top.qcow2")
        if not os.path.exists(top):
            middle = self._overlay("middle.qcow2", *self.qcow2(), 0.25)
            # The top's backing format is recorded, so that the difference is small.
            self._overlay("top.qcow2", middle, "qcow2", 0.10)
        return top, "qcow2"


CASES = {
    "raw>qcow2": (Sources.raw, "qcow2", []),
    "qcow2>raw": (Sources.qcow2, "raw", []),
    "chain>raw": (Sources.chain, "raw", []),
    "raw>qcow2 zstd": (Sources.squeezable, "qcow2", ["-c", "-o", "compression_type=zstd"]),
}


def make_durable(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def timed(words, target):
    """(seconds, CPU seconds) of one conversion."""
    if os.path.exists(target):
        os.unlink(target)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr}")
    make_durable(target)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder, case, options):
    """Rounds of {contender: (seconds, CPU seconds)}."""
    make_source, target_format, extra = CASES[case]
    source, source_format = make_source(Sources(folder, options.size * MIB))
    target = os.path.join(folder, "target")
    tail = ["-f", source_format, "-O", target_format, *extra, source, target]
    commands = {"weir": [os.environ["WEIR"], "convert", *tail]}
    commands |= {name: ["qemu-img", "convert", *words, *tail] for name, words in QEMU_WORDS.items()}
    rounds = []
    for index in range(-1, options.rounds):  # the first, uncounted, warms caches and memory
        took = {}
        for name in list(commands)[::1 if index % 2 else -1]:
            took[name] = timed(commands[name], target)
            if name == "weir":
                run("qemu-img", "compare", "-q", "-f", source_format, "-F", target_format, source, target)
        if index >= 0:
            rounds.append(took)
    os.unlink(target)
    return rounds


def summary(where, case, rounds, options):
    fastest = [min((took[name] for name in QEMU_WORDS)) for took in rounds]
    ratios = [other[0] / took["weir"][0] for other, took in zip(fastest, rounds)]
    costs = [took["weir"][1] / other[1] for other, took in zip(fastest, rounds)]
    noise = min(max(took[name][0] for took in rounds) / min(took[name][0] for took in rounds) for name in QEMU_WORDS)
    return {"what": "convert", "where": where, "case": case, "size_mib": options.size, "rounds": options.rounds,
            "ratio": round(statistics.median(ratios), 2), "ratio_min": round(min(ratios), 2),
            "ratio_max": round(max(ratios), 2), "cpu_ratio": round(statistics.median(costs), 2), "noise": round(noise, 2),
            "weir_seconds": round(statistics.median(took["weir"][0] for took in rounds), 3),
            "qemu_seconds": round(statistics.median(other[0] for other in fastest), 3)}


def show(line, noisy):
    print(f"{line['where']:5}  {line['case']:14} {line['size_mib']} MiB: weir {line['weir_seconds']:.2f} s, qemu-img "
          f"{line['qemu_seconds']:.2f} s; weir is {line['ratio']:.2f} times as fast ({line['ratio_min']:.2f} to "
          f"{line['ratio_max']:.2f} in {line['rounds']} rounds); CPU {line['cpu_ratio']:.2f} of qemu-img's"
          + (f"  NOISY: qemu-img's own runs differ {line['noise']} times" if line["noise"] > noisy else ""), flush=True)

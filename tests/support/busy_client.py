"""A client that keeps changing an export, beside whatever is done to its disk."""
import random
import subprocess
import tempfile
import threading


class Writer(threading.Thread):
    """Writes and zeroes random blocks of an export until told to stop."""

    def __init__(self, uri, size, seed=1):
        super().__init__(daemon=True)
        self.uri, self.size, self.random, self.ending, self.error = uri, size, random.Random(seed), threading.Event(), None

    def run(self):
        # A line for each command: more than a pipe takes that nobody reads.
        with tempfile.TemporaryFile("w+") as said:
            code = self._write(said)
            said.seek(0)
            words = said.read()
        if code != 0 or "error" in words.lower() or "failed" in words:
            self.error = words

    def _write(self, said):
        """Returns the exit code of the client, whose words go to the file."""
        io = subprocess.Popen(["qemu-io", "-f", "raw", self.uri], stdin=subprocess.PIPE, stdout=said,
                              stderr=subprocess.STDOUT, text=True)
        while not self.ending.is_set():
            at = self.random.randrange(self.size // 4096) * 4096
            length = min(4096 * self.random.randrange(1, 17), self.size - at)
            word = self.random.choice(["write", "write", "write", "write -z", "discard"])
            pattern = f"-P {self.random.randrange(1, 256)} " if word == "write" else ""
            io.stdin.write(f"{word} {pattern}{at} {length}\n")
            io.stdin.flush()
        io.communicate("quit\n", timeout=60)
        return io.returncode

    def stop(self, case):
        self.ending.set()
        self.join(60)
        case.assertIsNone(self.error)

"""Runs a command that is expected to be short and small, and measures it."""
import os
import subprocess
import tempfile
import threading
import time


class Measured:
    """What a command did: exit status (negative: the signal), its words, seconds, and the most memory it had."""

    def __init__(self, command, folder, seconds):
        with tempfile.TemporaryFile() as words, tempfile.TemporaryFile() as output:
            started = time.monotonic()
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=words)
            timer = threading.Timer(seconds, process.kill)
            timer.start()
            _, status, usage = os.wait4(process.pid, 0)
            timer.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
            self.seconds = time.monotonic() - started
            # Waiting for a turn on a busy machine is not the command's doing.
            self.processor_seconds = usage.ru_utime + usage.ru_stime
            self.status = process.returncode
            self.peak_bytes = usage.ru_maxrss * 1024
            words.seek(0)
            self.words = words.read().decode(errors="replace")
            output.seek(0)
            self.output = output.read().decode(errors="replace")

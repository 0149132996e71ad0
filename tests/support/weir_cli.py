"""A test case around the weir binary: a folder of its own, commands, a running serve, QMP."""
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import unittest

from tools import ToolError, run


class QmpClient:
    """Any QMP server. Events that arrive while a reply is awaited are kept in order, in `transcript` too."""

    def __init__(self, path, negotiate=True):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(30)
        self.connection.connect(path)
        self.lines = self.connection.makefile("rb")
        self.greeting = self.read()
        self.events = []
        if negotiate:
            self.command("qmp_capabilities")

    def read(self):
        line = self.lines.readline()
        if not line:
            raise ToolError("the QMP connection ended")
        return json.loads(line)

    def send(self, text):
        self.connection.sendall(text if isinstance(text, bytes) else text.encode())

    def raw(self, text):
        """Sends bytes and returns the next reply."""
        self.send(text)
        while True:
            message = self.read()
            if "event" not in message:
                return message
            self.events.append(message)

    def command(self, name, /, **arguments):
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        request = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        return self.raw(json.dumps(request) + "\n")

    def wait(self, wanted):
        """Reads events until `wanted(event)`; returns that one."""
        for event in self.events:
            if wanted(event):
                return event
        while True:
            message = self.read()
            self.events.append(message)
            if wanted(message):
                return message

    def wait_for_status(self, job, status):
        return self.wait(lambda event: event["event"] == "JOB_STATUS_CHANGE"
                         and event["data"] == {"status": status, "id": job})

    def take_events(self):
        """The events so far, without their times."""
        taken = [{"event": event["event"], "data": event["data"]} for event in self.events]
        self.events = []
        return taken

    def close(self):
        self.lines.close()
        self.connection.close()


class Serve:
    """A running `weir serve`, ready when constructed."""

    def __init__(self, case, *arguments, **options):
        self.process = subprocess.Popen([case.weir_path, "serve", *arguments], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        case.addCleanup(self.kill)
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if ready else ""
        if line != "weir: ready\n":
            self.process.kill()
            raise ToolError(f"serve said {line!r}: {self.process.communicate()[1]}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def stop(self):
        """Ends it as a service manager would; returns exit code and stderr."""
        self.process.terminate()
        _, words = self.process.communicate(timeout=60)
        return self.process.returncode, words


class CliTestCase(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.weir_path = os.environ["WEIR"]
        os.environ.pop("WEIR_CONTROL", None)
        self.folder = tempfile.mkdtemp(prefix="weir-cli.")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)

    def weir(self, *arguments, expected=0, **options):
        """Runs a verb in the folder; returns the completed process."""
        done = subprocess.run([self.weir_path, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, cwd=self.folder, timeout=120, **options)
        self.assertEqual(done.returncode, expected, f"weir {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        return done

    def refused(self, *arguments, expected=1, words=()):
        """The verb fails with one line that says all the words."""
        done = self.weir(*arguments, expected=expected)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertTrue(lines[0].startswith(f"weir: {arguments[0]}: "), done.stderr)
        for word in words:
            self.assertIn(word, lines[0])
        return lines[0]

    def serve(self, *arguments, **options):
        return Serve(self, *map(str, arguments), cwd=self.folder, **options)

    def qemu_img(self, *arguments, expected=(0,)):
        return run("qemu-img", *map(str, arguments), cwd=self.folder, expected=expected)

    def qemu_io(self, image, *commands, image_format="qcow2"):
        words = [word for command in commands for word in ("-c", command)]
        output = run("qemu-io", "-f", image_format, *words, image, cwd=self.folder)
        self.assertNotIn("failed", output)
        return output

    def make_chain(self, top_format="qcow2"):
        """base.raw ← middle.qcow2 ← top: data, written zeros and nothing, in every layer."""
        self.qemu_img("create", "-q", "-f", "raw", "base.raw", "16M")
        self.qemu_io("base.raw", "write -P 1 0 4M", "write -P 2 9M 100k", image_format="raw")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle.qcow2")
        self.qemu_io("middle.qcow2", "write -P 3 1M 1M", "write -z 3M 64k", "write -P 4 12M 70k")
        top = f"top.{top_format}"
        self.qemu_img("create", "-q", "-f", top_format, "-b", "middle.qcow2", "-F", "qcow2", top)
        self.qemu_io(top, "write -P 5 1500k 8k", "write -z 10M 1M", image_format=top_format)
        return top

    def domain(self, *disks, name="vm.xml"):
        """Writes a domain of (target, format, path) disks."""
        body = "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='{image_format}'/><source file='{path}'/>"
            f"<target dev='{target}' bus='virtio'/></disk>" for target, image_format, path in disks)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(f"<domain type='kvm'><name>guest</name><devices>{body}</devices></domain>\n")
        return name

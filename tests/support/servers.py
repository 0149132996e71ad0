"""What serves a guest's chain and flattens it: weir, or qemu-storage-daemon as the yardstick of the tests themselves.

Both have the same face: start(), pull(), stop(), kill(); `socket` and `export` are where the guest finds its disk.
"""
import json
import os
import select
import signal
import socket
import subprocess
import time

from tools import ToolError, run


class Server:
    """A server process in the foreground, its words in NAME.log."""

    export = "vda"

    def __init__(self, folder, name):
        self.socket, self.control = f"{folder}/{name}.nbd", f"{folder}/{name}.control"
        self.log = f"{folder}/{name}.log"
        self.process = self.qmp = None

    def _spawn(self, command, preexec=None):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            text=True, preexec_fn=preexec)

    def set_speed(self, bytes_per_second):
        self.qmp("block-job-set-speed", device=self.export, speed=bytes_per_second)

    def events(self):
        """The QMP events so far."""
        self.qmp("query-jobs")
        return self.qmp.events

    def words(self):
        with open(self.log, errors="replace") as log:
            return log.read()[-3000:]

    def stop(self, timeout=60):
        """Asks it to end, and insists on a clean end."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ToolError(f"the server did not end within {timeout} s of SIGTERM\n{self.words()}") from None
        self._forget()
        if code != 0:
            raise ToolError(f"the server ended with {code}\n{self.words()}")

    def kill(self):
        """kill -9; also the way to clean up."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self._forget()

    def _forget(self):
        self.process.stdout.close()
        if self.qmp:
            self.qmp.close()
        self.process = self.qmp = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()


class Qmp:
    """A QMP client: commands, and the events that came meanwhile."""

    def __init__(self, path, timeout=30):
        end = time.monotonic() + timeout
        while True:
            self.connection = socket.socket(socket.AF_UNIX)
            try:
                self.connection.connect(path)
                break
            except OSError as error:
                self.connection.close()
                if time.monotonic() > end:
                    raise ToolError(f"{path}: {error}") from None
                time.sleep(0.02)
        self.lines = self.connection.makefile("r")
        self.events = []
        json.loads(self.lines.readline())
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.connection.sendall(json.dumps(request).encode() + b"\n")
        while True:
            line = self.lines.readline()
            if not line:
                raise ToolError(f"the QMP connection ended during {command}")
            reply = json.loads(line)
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise ToolError(f"{command}: {reply['error']['desc']}")
            else:
                return reply["return"]

    def wait_event(self, name, timeout=300):
        """Reads on until an event of that name has come; takes it and returns its data."""
        self.connection.settimeout(timeout)
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event["data"]
            line = self.lines.readline()
            if not line:
                raise ToolError(f"the QMP connection ended before {name}")
            self.events.append(json.loads(line))

    def close(self):
        self.lines.close()
        self.connection.close()


class WeirServer(Server):
    def __init__(self, folder, chain, name="weir", weir=None, options=(), preexec=None):
        super().__init__(folder, name)
        self.weir = weir or os.environ["WEIR"]
        self.command = [self.weir, "serve", "--nbd", f"unix:{self.socket}", "--control", self.control, *options,
                        chain.xml]
        self.preexec = preexec

    def start(self, timeout=30):
        self._spawn(self.command, self.preexec)
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if ready else ""
        if line.rstrip("\n") != "weir: ready":
            self.kill()
            raise ToolError(f"weir serve said {line!r} instead of 'weir: ready'\n{self.words()}")
        self.qmp = Qmp(self.control)
        return self

    def live_xml(self):
        """The domain XML with the chain as it is now."""
        return run(self.weir, "dumpxml", "-c", self.control)

    def pull_command(self, bandwidth=None, *options):
        command = [self.weir, "blockpull", self.export, "-c", self.control, *options]
        return command + ([] if bandwidth is None else ["--bandwidth", str(bandwidth)])

    def pull(self, bandwidth=None):
        """Starts to flatten the disk; returns at once."""
        done = subprocess.run(self.pull_command(bandwidth), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise ToolError(f"weir blockpull: exit {done.returncode}: {done.stderr}")

    def job(self):
        """The job as query-block-jobs tells it, {} if there is none (any more)."""
        done = subprocess.run([self.weir, "blockjob", self.export, "-c", self.control, "--info", "--json"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise ToolError(f"weir blockjob: exit {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)


class StorageDaemon(Server):
    def __init__(self, folder, chain, name="daemon"):
        super().__init__(folder, name)
        self.chain = chain

    def start(self):
        for path in (self.socket, self.control):
            if os.path.exists(path):
                os.unlink(path)
        layers = [(self.chain.base, "raw"), (self.chain.middle, "qcow2"), (self.chain.top, self.chain.top_format)]
        command = ["qemu-storage-daemon", "--chardev", f"socket,path={self.control},server=on,wait=off,id=c",
                   "--monitor", "chardev=c"]
        for index, (path, image_format) in enumerate(layers):
            top = index == len(layers) - 1
            node = {"driver": image_format, "node-name": "vda" if top else f"layer{index}", "read-only": not top,
                    "auto-read-only": False, "discard": "unmap",
                    "file": {"driver": "file", "filename": path, "discard": "unmap", "aio": "io_uring"}}
            if index:
                node["backing"] = f"layer{index - 1}"
            command += ["--blockdev", json.dumps(node)]
        command += ["--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                    "--export", f"type=nbd,id=export,node-name=vda,name={self.export},writable=on"]
        self._spawn(command)
        try:
            self.qmp = Qmp(self.control)
        except ToolError:
            self.kill()
            raise ToolError(f"qemu-storage-daemon did not start\n{self.words()}") from None
        return self

    def live_xml(self):
        return None

    def pull(self, bandwidth=None):
        self.qmp("block-stream", job_id="vda", device="vda", speed=0 if bandwidth is None else bandwidth * 1024 * 1024)

    def job(self):
        jobs = self.qmp("query-block-jobs")
        return jobs[0] if jobs else {}


def make_server(folder, chain, **options):
    """weir, or qemu-storage-daemon where WEIR_E2E_SERVER=daemon (to try the tests themselves)."""
    if os.environ.get("WEIR_E2E_SERVER") == "daemon":
        return StorageDaemon(folder, chain)
    return WeirServer(folder, chain, **options)


def wait_for_job(server, until, timeout=180):
    """Polls the job until `until(job)` holds; returns it."""
    end = time.monotonic() + timeout
    while True:
        job = server.job()
        if until(job):
            return job
        if time.monotonic() > end:
            raise ToolError(f"the job did not get there within {timeout} s: {job}\n{server.words()}")
        time.sleep(0.05)

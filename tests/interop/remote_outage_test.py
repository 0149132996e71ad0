"""Remote layers that disappear and come back while a guest reads and writes and its disk is streamed: within the
reconnect limit nobody notices, beyond it reads fail, and what is read is right at all times."""
import os
import random
import subprocess
import threading
import time
import unittest

from nbd_client import EIO, READ, WRITE, Client
from tools import ToolError
from weir_cli import CliTestCase
from web_server import WebServer

KIB, MIB = 1 << 10, 1 << 20
SIZE = 24 * MIB


class NbdBase:
    """qemu-nbd, killed and started again."""

    def __init__(self, case, content):
        self.case, self.socket = case, case.path("base.sock")
        case.write("base.raw", content)
        self.process = None
        case.addCleanup(self.stop)
        self.start()

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.process = subprocess.Popen(["qemu-nbd", "-r", "-k", self.socket, "-t", "-e", "8", "-f", "raw",
                                         self.case.path("base.raw")], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while not os.path.exists(self.socket):
            if time.monotonic() > end:
                raise ToolError("qemu-nbd does not serve")
            time.sleep(0.01)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def source(self):
        return f"<source protocol='nbd'><host transport='unix' socket='{self.socket}'/></source>"


class WebBase(WebServer):
    def __init__(self, case, content):
        super().__init__(case, {"/base.raw": content})

    def source(self):
        return f"<source protocol='http' name='base.raw'><host name='127.0.0.1' port='{self.port}'/></source>"


class RemoteOutage(CliTestCase):
    def setUp(self):
        super().setUp()
        os.environ["no_proxy"] = "127.0.0.1"
        seed = int(os.environ.get("WEIR_SEED", random.randrange(1, 1 << 32)))
        print(f"WEIR_SEED={seed}", flush=True)
        self.random = random.Random(seed)
        self.content = bytearray(self.random.randbytes(SIZE))

    def start_over(self, base, limit_s):
        """A serve of a local top over the remote base, and a client of it."""
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "nbd://nowhere/", "-F", "raw", "-u", "top.qcow2", str(SIZE))
        with open(self.path("vm.xml"), "w", encoding="utf-8") as file:
            file.write(f"""<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
              <source file='{self.path("top.qcow2")}'/><backingStore type='network'><format type='raw'/>{base.source()}
              <backingStore/></backingStore><target dev='vda'/></disk></devices></domain>""")
        self.running = self.serve("--control", self.path("ctl"), "--nbd", f"unix:{self.path('nbd')}",
                                  "--reconnect-limit", limit_s, "vm.xml")
        client = Client(f"unix:{self.path('nbd')}", timeout=100)
        self.addCleanup(client.close)
        return client.greet().go(b"vda")

    def one_request(self, client):
        """Reads or writes at random; returns the error. Data that comes is what was written there last."""
        length = self.random.choice((512, 4 * KIB, 64 * KIB, 300 * KIB))
        offset = self.random.randrange(0, SIZE - length, 512)
        if self.random.randrange(3) == 0:
            data = self.random.randbytes(length)
            client.request(WRITE, offset, length, payload=data)
            error = client.simple_reply()[0]
            if error == 0:
                self.content[offset:offset + length] = data
            return error
        client.request(READ, offset, length)
        error, _, data = client.simple_reply(length)
        self.assertTrue(error or data == self.content[offset:offset + length], f"wrong data at {offset}+{length}")
        return error

    def wait_out(self, base):
        client = self.start_over(base, 60)
        over = threading.Event()
        self.addCleanup(over.set)

        def trouble():
            while not over.wait(0.3):
                base.stop()
                over.wait(0.3)
                base.start()
        kills = threading.Thread(target=trouble, daemon=True)
        kills.start()
        self.weir("blockpull", "vda", "-c", self.path("ctl"), "--bandwidth", "4")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            self.assertEqual(self.one_request(client), 0)
        over.set()
        kills.join()
        while self.weir("blockjob", "vda", "-c", self.path("ctl"), "--info", "--json").stdout.strip() != "{}":
            self.assertEqual(self.one_request(client), 0)
        base.stop()
        self.assertEqual(self.running.stop(), (0, ""))
        self.write("expected.raw", self.content)
        self.qemu_img("compare", "-f", "qcow2", "-F", "raw", "top.qcow2", "expected.raw")

    def give_up(self, base):
        client = self.start_over(base, 1)
        local = self.random.randbytes(64 * KIB)
        client.request(WRITE, 0, 64 * KIB, payload=local)
        self.assertEqual(client.simple_reply()[0], 0)
        self.content[:64 * KIB] = local
        base.stop()
        errors = {self.one_request(client) for _ in range(40)}
        self.assertIn(EIO, errors)
        self.assertLessEqual(errors, {0, EIO})
        client.request(READ, 0, 64 * KIB)
        self.assertEqual(client.simple_reply(64 * KIB)[::2], (0, local), "what is local is not concerned")
        base.start()
        end = time.monotonic() + 30
        quiet = 0
        while quiet < 20:
            quiet = quiet + 1 if self.one_request(client) == 0 else 0
            if quiet == 0:
                time.sleep(0.1)
            self.assertLess(time.monotonic(), end, "the server was never found again")
        self.assertEqual(self.running.stop()[0], 0)

    def test_nbd_in_time(self):
        self.wait_out(NbdBase(self, self.content))

    def test_web_in_time(self):
        self.wait_out(WebBase(self, bytes(self.content)))

    def test_nbd_too_late(self):
        self.give_up(NbdBase(self, self.content))

    def test_web_too_late(self):
        self.give_up(WebBase(self, bytes(self.content)))


if __name__ == "__main__":
    unittest.main()

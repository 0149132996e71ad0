"""Layers on NBD servers of others: read, written, streamed, lost and found again."""
import json
import os
import signal
import socket
import subprocess
import time
import unittest

from certificates import make_certificates
from nbd_client import EIO, FLUSH, WRITE, Client
from tools import ToolError, run
from weir_cli import CliTestCase

MIB = 1 << 20


class Peer:
    """An NBD server in the foreground on a unix socket."""

    def __init__(self, case, path, *command):
        self.case, self.socket, self.command = case, path, command
        self.process = None
        case.addCleanup(self.kill)
        self.start()

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, cwd=self.case.folder)
        end = time.monotonic() + 30
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > end:
                raise ToolError(f"{' '.join(self.command)} does not serve")
            time.sleep(0.01)

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def hold(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)


class NbdClient(CliTestCase):
    def nbdkit(self, *arguments, name="kit"):
        path = self.path(f"{name}.sock")
        return Peer(self, path, "nbdkit", "-f", "-U", path, *arguments)

    def qemu_nbd(self, image, *options, image_format="raw", name="qemu"):
        path = self.path(f"{name}.sock")
        return Peer(self, path, "qemu-nbd", "-k", path, "-t", "-e", "8", "-f", image_format, *options,
                    self.path(image))

    @staticmethod
    def uri(peer, export=""):
        return f"nbd+unix:///{export}?socket={peer.socket}"

    def make_base(self, name="base.raw"):
        self.qemu_img("create", "-q", "-f", "raw", name, "64M")
        self.qemu_io(name, "write -P 1 0 6M", "write -P 2 20M 300k", "write -P 3 63M 1M", image_format="raw")

    def test_content_is_read_and_written(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw")
        self.weir("convert", "-f", "raw", "-O", "qcow2", self.uri(peer), "copy.qcow2")
        self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "base.raw", "copy.qcow2")
        self.weir("compare", "-f", "raw", "-F", "qcow2", self.uri(peer), "copy.qcow2")
        self.qemu_img("create", "-q", "-f", "raw", "target.raw", "64M")
        target = self.qemu_nbd("target.raw", "--discard=unmap", name="target")
        self.weir("convert", "-O", "raw", "copy.qcow2", self.uri(target))
        target.kill()
        self.qemu_img("compare", "-f", "raw", "-F", "raw", "base.raw", "target.raw")
        self.assertLess(os.stat(self.path("target.raw")).st_blocks * 512, 9 * MIB)

    def test_info_and_map_tell_what_the_server_tells(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw")
        facts = json.loads(self.weir("info", "--json", "-f", "raw", self.uri(peer)).stdout)
        self.assertEqual(facts["virtual-size"], 64 * MIB)
        runs = json.loads(self.weir("map", "--json", "-f", "raw", self.uri(peer)).stdout)
        zeros = sum(each["length"] for each in runs if each["zero"])
        self.assertEqual(zeros, 64 * MIB - 7 * MIB - 300 * 1024)

    def test_a_qcow2_image_on_a_server_is_an_image(self):
        self.make_base()
        self.qemu_img("convert", "-f", "raw", "-O", "qcow2", "base.raw", "base.qcow2")
        peer = self.qemu_nbd("base.qcow2")
        self.weir("convert", "-f", "qcow2", "-O", "raw", self.uri(peer), "copy.raw")
        self.qemu_img("compare", "-f", "raw", "-F", "raw", "base.raw", "copy.raw")

    def test_holes_are_never_read(self):
        peer = self.nbdkit("--filter=log", "data", "size=1G", "@0x10000000 1 2 3 @0x30000000 4",
                           f"logfile={self.path('log')}")
        self.weir("convert", "-f", "raw", "-O", "raw", self.uri(peer), "copy.raw")
        words = self.read("log").decode()
        reads = [int(line.split("count=0x")[1].split()[0], 16) for line in words.splitlines() if " Read " in line]
        self.assertTrue(reads, words)
        self.assertLess(sum(reads), 4 * MIB, "holes were read")

    def test_a_header_may_name_a_server_only_if_allowed(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", self.uri(peer), "-F", "raw", "top.qcow2")
        self.refused("convert", "-O", "raw", "top.qcow2", "copy.raw", words=("--allow-remote-backing",))
        self.weir("convert", "--allow-remote-backing", "-O", "raw", "top.qcow2", "copy.raw")
        self.qemu_img("compare", "-f", "raw", "-F", "raw", "base.raw", "copy.raw")

    def test_a_guest_may_start_on_a_remote_base_and_be_streamed(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw", "-r")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", self.uri(peer), "-F", "raw", "top.qcow2")
        with open(self.path("vm.xml"), "w", encoding="utf-8") as file:
            file.write(f"""<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
              <source file='{self.path("top.qcow2")}'/><backingStore type='network'><format type='raw'/>
              <source protocol='nbd'><host transport='unix' socket='{peer.socket}'/></source><backingStore/>
              </backingStore><target dev='vda'/></disk></devices></domain>""")
        running = self.serve("--control", self.path("ctl"), "--nbd", f"unix:{self.path('nbd')}", "vm.xml")
        local = f"nbd+unix:///vda?socket={self.path('nbd')}"
        run("qemu-io", "-f", "raw", "-c", "read -P 2 20M 300k", "-c", "write -P 9 30M 64k", local)
        self.weir("blockpull", "vda", "-c", self.path("ctl"), "--wait")
        peer.kill()
        run("qemu-io", "-f", "raw", "-c", "read -P 1 0 6M", "-c", "read -P 9 30M 64k", "-c", "read -P 3 63M 1M", local)
        self.assertEqual(running.stop()[0], 0)
        self.assertNotIn("backing", self.qemu_img("info", "top.qcow2"))
        self.assertIn("No errors", self.qemu_img("check", "top.qcow2"))

    def test_a_server_that_wants_whole_blocks_gets_them(self):
        for unaligned in ("write -P 7 1 1", "write -P 8 4095 2", "write -P 9 12000 100000", "write -z 70000 9000"):
            with self.subTest(unaligned):
                self.write("disk.raw", os.urandom(MIB))
                self.write("expected.raw", self.read("disk.raw"))
                peer = self.nbdkit("--filter=blocksize-policy", "file", self.path("disk.raw"), "blocksize-minimum=4096",
                                   "blocksize-preferred=4096", "blocksize-maximum=65536", "blocksize-error-policy=error")
                running = self.serve("--nbd", f"unix:{self.path('nbd')}", "-f", "raw", self.uri(peer))
                local = f"nbd+unix:///?socket={self.path('nbd')}"
                for where, name in ((local, "disk"), (self.path("expected.raw"), "file")):
                    words = run("qemu-io", "-f", "raw", "-c", unaligned, "-c", "flush", where)
                    self.assertNotIn("failed", words, name)
                self.assertEqual(running.stop(), (0, ""))
                peer.kill()
                self.assertEqual(self.read("disk.raw"), self.read("expected.raw"))

    def reader_over(self, peer, *options):
        """A serve whose only layer is the peer's export, and the name of its own export."""
        running = self.serve("--nbd", f"unix:{self.path('nbd')}", "-f", "raw", *options, self.uri(peer))
        return running, f"nbd+unix:///?socket={self.path('nbd')}"

    def test_requests_wait_for_a_server_that_comes_back(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw")
        running, local = self.reader_over(peer)
        run("qemu-io", "-f", "raw", "-c", "read -P 1 0 64k", local)
        peer.kill()
        client = subprocess.Popen(["qemu-io", "-f", "raw", "-c", "write -P 5 1M 64k", "-c", "read -P 5 1M 64k",
                                   "-c", "read -P 2 20M 300k", local], stdout=subprocess.PIPE, text=True)
        with self.assertRaises(subprocess.TimeoutExpired):
            client.wait(0.7)
        peer.start()
        words = client.communicate(timeout=60)[0]
        self.assertEqual(client.returncode, 0)
        self.assertNotIn("failed", words)
        self.assertEqual(running.stop()[0], 0)

    def test_after_the_limit_requests_fail_and_the_server_is_still_found_again(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw")
        running, local = self.reader_over(peer, "--reconnect-limit", "1")
        run("qemu-io", "-f", "raw", "-c", "read -P 1 0 64k", local)
        peer.kill()
        words = run("qemu-io", "-f", "raw", "-c", "read 0 64k", local, expected=(0, 1))
        self.assertIn("read failed: Input/output error", words)
        peer.start()
        end = time.monotonic() + 60
        while "failed" in run("qemu-io", "-f", "raw", "-c", "read -P 2 20M 64k", local, expected=(0, 1)):
            self.assertLess(time.monotonic(), end, "the server was never found again")
            time.sleep(0.2)
        self.assertEqual(running.stop()[0], 0)

    def test_a_flush_does_not_promise_what_a_restarted_server_may_have_lost(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw")
        running, _ = self.reader_over(peer)
        with Client(f"unix:{self.path('nbd')}") as client:
            client.greet().go()
            def change():
                client.request(WRITE, 0, 4096, payload=b"x" * 4096)
                self.assertEqual(client.simple_reply()[0], 0)
            def flush():
                client.request(FLUSH)
                return client.simple_reply()[0]
            change()
            self.assertEqual(flush(), 0)
            change()
            peer.kill()
            peer.start()
            self.assertEqual(flush(), EIO)
            change()
            self.assertEqual(flush(), 0)
        running.stop()

    def test_a_server_that_hangs_is_waited_for(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw")
        running, local = self.reader_over(peer)
        run("qemu-io", "-f", "raw", "-c", "read -P 1 0 64k", local)
        peer.hold()
        client = subprocess.Popen(["qemu-io", "-f", "raw", "-c", "read -P 3 63M 1M", local], stdout=subprocess.PIPE,
                                  text=True)
        with self.assertRaises(subprocess.TimeoutExpired):
            client.wait(0.5)
        peer.go_on()
        self.assertNotIn("failed", client.communicate(timeout=60)[0])
        self.assertEqual(running.stop()[0], 0)

    def test_another_export_under_the_same_name_is_not_taken_for_the_old_one(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw")
        running, local = self.reader_over(peer)
        run("qemu-io", "-f", "raw", "-c", "read -P 1 0 64k", local)
        peer.kill()
        os.truncate(self.path("base.raw"), 32 * MIB)
        peer.start()
        words = run("qemu-io", "-f", "raw", "-c", "read 0 64k", local, expected=(0, 1))
        self.assertIn("read failed", words)
        running.stop()

    def test_what_cannot_be_opened_is_said_clearly(self):
        self.make_base()
        peer = self.qemu_nbd("base.raw", "-r", "-x", "disk")
        self.refused("info", "-f", "raw", self.uri(peer, "other"), words=("other",))
        self.refused("convert", "-f", "raw", "-O", "raw", "base.raw", self.uri(peer, "disk"), words=("read-only",))
        self.refused("info", "-f", "raw", f"nbd+unix:///x?socket={self.path('nobody')}", words=("nobody",))
        self.refused("info", "-f", "raw", "nbd://127.0.0.1:1/x", words=("127.0.0.1:1",))
        peer.kill()
        self.qemu_img("create", "-q", "-f", "raw", "small.raw", "1M")
        small = self.qemu_nbd("small.raw", name="small")
        self.refused("convert", "-f", "raw", "-O", "raw", "base.raw", self.uri(small), words=("1048576",))


class NbdClientTls(CliTestCase):
    def test_the_server_is_verified(self):
        ours, others = make_certificates(self.path("ours")), make_certificates(self.path("others"))
        self.write("base.raw", os.urandom(MIB))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        server = subprocess.Popen(["nbdkit", "-f", "-i", "127.0.0.1", "-p", port, "--tls=require",
                                   f"--tls-certificates={ours}", "file", self.path("base.raw")],
                                  stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        uri = f"nbds://127.0.0.1:{port}/"
        end = time.monotonic() + 30
        while subprocess.run([self.weir_path, "info", "-f", "raw", "--tls-creds", ours, uri], capture_output=True,
                             check=False).returncode != 0:
            self.assertLess(time.monotonic(), end, "no TLS connection")
            time.sleep(0.1)
        self.weir("compare", "-f", "raw", "-F", "raw", "--tls-creds", ours, uri, "base.raw")
        self.refused("info", "-f", "raw", "--tls-creds", others, uri, words=("127.0.0.1",))
        self.refused("info", "-f", "raw", f"nbd://127.0.0.1:{port}/", words=("127.0.0.1",))


if __name__ == "__main__":
    unittest.main()

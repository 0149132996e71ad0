"""Layers on web servers: read, streamed away, lost and found again; servers that lie get nothing believed."""
import json
import os
import random
import socket
import subprocess
import threading
import time
import unittest

from certificates import make_certificates
from nbd_client import EIO, READ, Client
from tools import run
from weir_cli import CliTestCase
from web_server import WebServer

KIB, MIB = 1 << 10, 1 << 20


class HttpCase(CliTestCase):
    def setUp(self):
        super().setUp()
        # Loopback is reached directly, whatever the machine does otherwise.
        os.environ["no_proxy"] = "127.0.0.1"

    def content(self, size=16 * MIB + 12345):
        """Random stretches between zeros, and an end that fills no sector."""
        seed = random.randrange(1 << 32)
        self.addTypeEqualityFunc(bytes, lambda a, b, msg=None: self.assertTrue(a == b, msg or f"seed {seed}"))
        source = random.Random(seed)
        data = bytearray(size)
        for _ in range(20):
            offset, length = source.randrange(size), source.randrange(512 * KIB)
            data[offset:offset + length] = source.randbytes(min(length, size - offset))
        return bytes(data)

    def served(self, content, **options):
        return WebServer(self, {"/disk": content}, **options)

    def qcow2_of(self, content, *options):
        self.write("plain.raw", content)
        self.weir("convert", "-f", "raw", "-O", "qcow2", *options, "plain.raw", "image.qcow2")
        return self.read("image.qcow2")

    def client_over(self, name, *options):
        """A client of a serve whose only layer is `name`."""
        self.running = self.serve("--read-only", "--nbd", f"unix:{self.path('nbd')}", "-f", "raw", *options, name)
        client = Client(f"unix:{self.path('nbd')}", timeout=60)
        self.addCleanup(client.close)
        return client.greet().go()

    def read_over(self, client, offset, length):
        """(error, data)."""
        client.request(READ, offset, length)
        error, _, data = client.simple_reply(length)
        return error, data


class HttpClient(HttpCase):
    def test_content_is_what_the_server_has(self):
        content = self.content()
        server = self.served(content)
        self.weir("convert", "-f", "raw", "-O", "raw", server.url(), "copy.raw")
        copy = self.read("copy.raw")
        self.assertEqual(copy[:len(content)], content)
        self.assertEqual(copy[len(content):].strip(b"\0"), b"")
        self.weir("compare", "-f", "raw", "-F", "raw", server.url(), "copy.raw")
        self.assertEqual(json.loads(self.weir("info", "--json", "-f", "raw", server.url()).stdout)["filename"], server.url())

    def test_compressed_qcow2_is_an_image_there_as_elsewhere(self):
        content = self.content()
        server = WebServer(self, {"/a b/disk.qcow2": None, "/a%20b/disk.qcow2": self.qcow2_of(content, "-c")})
        self.weir("compare", "-F", "raw", server.url("/a%20b/disk.qcow2"), "plain.raw")

    def test_an_empty_object_is_an_empty_disk(self):
        server = self.served(b"")
        self.assertEqual(json.loads(self.weir("info", "--json", "-f", "raw", server.url()).stdout)["virtual-size"], 0)

    def test_small_reads_share_round_trips(self):
        content = self.content(8 * MIB)
        server = self.served(content)
        client = self.client_over(server.url())
        for offset in range(0, 4 * MIB, 4 * KIB):
            self.assertEqual(self.read_over(client, offset, 4 * KIB), (0, content[offset:offset + 4 * KIB]))
        self.assertLess(len(server.requests), 40, "1024 reads in sequence")
        before = len(server.requests)
        for offset in range(0, 4 * MIB, 4 * KIB):
            self.read_over(client, offset, 4 * KIB)
        self.assertEqual(len(server.requests), before, "what was read lately is not read again")
        self.assertEqual(self.running.stop(), (0, ""))

    def test_random_reads_of_every_size_are_right(self):
        content = self.content()
        server = self.served(content)
        client = self.client_over(server.url())
        source = random.Random(int(os.environ.get("WEIR_SEED", "7")))
        size = len(content) & ~511
        for _ in range(300):
            length = source.choice((1, 512, 4096, 65536, 70000, 300000, MIB, 3 * MIB + 1))
            offset = source.randrange(size - length)
            self.assertEqual(self.read_over(client, offset, length), (0, content[offset:offset + length]))
        self.assertEqual(self.running.stop(), (0, ""))

    def test_transfers_go_side_by_side(self):
        content = self.content(8 * MIB)
        server = self.served(content)
        together, most, lock = [0], [0], threading.Lock()

        def slow(*_):
            with lock:
                together[0] += 1
                most[0] = max(most[0], together[0])
            time.sleep(0.1)
            with lock:
                together[0] -= 1
            return False
        server.misbehave = slow
        self.weir("convert", "-f", "raw", "-O", "raw", server.url(), "copy.raw")
        self.assertEqual(self.read("copy.raw"), content)
        self.assertGreater(most[0], 3)

    def test_a_domain_names_it_and_a_guest_is_streamed_off_it(self):
        content = self.content()[:16 * MIB]
        server = WebServer(self, {"/base.qcow2": self.qcow2_of(content)}, cookie="a=b; c=d")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", server.url("/base.qcow2"), "-F", "qcow2", "-u", "top.qcow2", "16M")
        with open(self.path("vm.xml"), "w", encoding="utf-8") as file:
            file.write(f"""<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
              <source file='{self.path("top.qcow2")}'/><backingStore type='network'><format type='qcow2'/>
              <source protocol='http' name='base.qcow2'><host name='127.0.0.1' port='{server.port}'/>
              <cookies><cookie name='a'>b</cookie><cookie name='c'>d</cookie></cookies></source><backingStore/>
              </backingStore><target dev='vda'/></disk></devices></domain>""")
        running = self.serve("--control", self.path("ctl"), "--nbd", f"unix:{self.path('nbd')}", "vm.xml")
        local = f"nbd+unix:///vda?socket={self.path('nbd')}"
        run("qemu-io", "-f", "raw", "-c", "write -P 9 3M 64k", local)
        live = self.weir("dumpxml", "-c", self.path("ctl")).stdout
        self.assertIn("<cookie name=\"a\">b</cookie>", live.replace("'", '"'))
        self.weir("blockpull", "vda", "-c", self.path("ctl"), "--wait")
        server.stop()
        run("qemu-io", "-f", "raw", "-c", "read -P 9 3M 64k", local)
        self.assertEqual(running.stop(), (0, ""))
        expected = bytearray(content)
        expected[3 * MIB:3 * MIB + 64 * KIB] = b"\x09" * (64 * KIB)
        self.write("expected.raw", expected)
        self.qemu_img("compare", "-f", "qcow2", "-F", "raw", "top.qcow2", "expected.raw")
        self.assertIn("No errors", self.qemu_img("check", "top.qcow2"))

    def test_a_header_may_name_a_server_only_if_allowed_and_never_with_a_password(self):
        content = self.content()[:16 * MIB]
        server = self.served(content)
        for login in ("", "user:secret@"):
            self.qemu_img("create", "-q", "-f", "qcow2", "-b", server.url(login=login), "-F", "raw", "-u", "top.qcow2", "16M")
            self.refused("convert", "-O", "raw", "top.qcow2", "copy.raw")
            if login:
                words = self.refused("convert", "--allow-remote-backing", "-O", "raw", "top.qcow2", "copy.raw")
                self.assertNotIn("secret", words)
            else:
                self.weir("convert", "--allow-remote-backing", "-O", "raw", "top.qcow2", "copy.raw")
                self.assertEqual(self.read("copy.raw"), content)

    def test_it_is_never_written(self):
        server = self.served(bytes(MIB))
        self.write("small.raw", bytes(MIB))
        self.refused("convert", "-f", "raw", "-O", "raw", "small.raw", server.url(), words=("only read",))

    def test_a_server_of_others_is_understood(self):
        self.write("disk.raw", self.content())
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        server = subprocess.Popen(["busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", self.folder])
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        url = f"http://127.0.0.1:{port}/disk.raw"
        end = time.monotonic() + 20
        while subprocess.run([self.weir_path, "info", "-f", "raw", url], capture_output=True, check=False).returncode:
            self.assertLess(time.monotonic(), end, "busybox does not serve")
            time.sleep(0.05)
        self.weir("compare", "-f", "raw", "-F", "raw", url, "disk.raw")
        self.assertIn("no such object", self.refused("info", "-f", "raw", url + "x"))

    def test_it_agrees_with_the_curl_of_nbdkit(self):
        content = self.content()[:16 * MIB]
        server = self.served(content)
        self.weir("convert", "-f", "raw", "-O", "qcow2", server.url(), "copy.qcow2")
        run("nbdkit", "-U", "-", "curl", server.url(), "--run",
            f"qemu-img compare -f raw -F qcow2 $uri {self.path('copy.qcow2')}")


class HttpSecrets(HttpCase):
    def test_user_and_password_go_along_and_are_shown_nowhere(self):
        server = self.served(self.content(MIB), login="us er:pa:ss/hush")
        name = server.url(login="us%20er:pa%3Ass%2Fhush@")
        shown = self.weir("info", "--json", "-f", "raw", name).stdout + self.weir("info", "-f", "raw", name).stdout
        shown += self.weir("map", "--json", "-f", "raw", name).stdout
        server.login = "other:login"
        for verb in (("info", "-f", "raw", name), ("convert", "-f", "raw", "-O", "raw", name, "x.raw"),
                     ("serve", "--read-only", "--nbd", f"unix:{self.path('s')}", "-f", "raw", name)):
            shown += self.refused(*verb, words=("denies access", "127.0.0.1"))
        shown += self.refused("info", name.replace("%3A", "%zz"))
        shown += self.refused("info", "-f", "raw", name.replace("http:", "ssh:"))
        server.stop()
        shown += self.refused("info", "-f", "raw", name)
        for secret in ("us er", "us%20er", "pa:ss", "pa%3A", "hush"):
            self.assertNotIn(secret, shown)

    def test_cookies_go_along_and_are_shown_nowhere(self):
        server = self.served(self.content(MIB), cookie="key=hush")
        name = "json:" + json.dumps({"driver": "http", "url": server.url(), "cookie": "key=hush"})
        shown = self.weir("info", "-f", "raw", name).stdout
        server.cookie = "key=other"
        shown += self.refused("info", "-f", "raw", name)
        self.assertNotIn("hush", shown)

    def test_secrets_stay_with_the_server_they_are_for(self):
        elsewhere = self.served(self.content(MIB))
        server = self.served(b"", login="user:secret")
        server.redirects["/disk"] = elsewhere.url()
        self.weir("info", "-f", "raw", server.url(login="user:secret@"))
        self.assertIn("Authorization", server.requests[0][2])
        self.assertNotIn("Authorization", elsewhere.requests[0][2])

    def test_certificates_are_verified(self):
        ours, others = make_certificates(self.path("ours")), make_certificates(self.path("others"))
        content = self.content(3 * MIB)
        server = self.served(content, certificates=ours)
        self.weir("convert", "-f", "raw", "-O", "raw", "--tls-creds", ours, server.url(), "copy.raw")
        self.assertEqual(self.read("copy.raw"), content)
        self.refused("info", "-f", "raw", "--tls-creds", others, server.url(), words=("certificate",))
        self.refused("info", "-f", "raw", server.url(), words=("certificate",))
        name = "json:" + json.dumps({"driver": "https", "url": server.url(), "sslverify": False})
        self.weir("info", "-f", "raw", name)

    def test_no_redirect_leads_from_https_to_http(self):
        ours = make_certificates(self.path("ours"))
        plain = self.served(self.content(MIB))
        server = self.served(b"", certificates=ours)
        server.redirects["/disk"] = plain.url()
        self.refused("info", "-f", "raw", "--tls-creds", ours, server.url(), words=("from https to http",))
        self.assertEqual(plain.requests, [])


class HttpFaults(HttpCase):
    def test_redirects_are_followed_and_bounded(self):
        content = self.content(MIB)
        server = WebServer(self, {"/there": content})
        server.redirects.update({"/disk": "/between", "/between": server.url("/there"), "/round": "/round"})
        self.weir("convert", "-f", "raw", "-O", "raw", server.url(), "copy.raw")
        self.assertEqual(self.read("copy.raw"), content)
        self.refused("info", "-f", "raw", server.url("/round"), words=("redirects more than",))
        server.redirects["/disk"] = "file:///etc/passwd"
        self.refused("info", "-f", "raw", server.url(), words=("redirects",))

    def test_what_cannot_be_read_is_said_clearly(self):
        content = self.content(MIB)
        server = self.served(content)
        cases = {
            "no such object": lambda h, f, l: h.reply(404, b""),
            "range requests": lambda h, f, l: h.reply(200, content),
            "Content-Length": lambda h, f, l: h.reply(206, b"0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked",
                                                      Content_Range=f"bytes {f}-{l}/{MIB}"),
            "Content-Range": lambda h, f, l: h.reply(206, content[f:l + 1]),
            "usable Content-Range": lambda h, f, l: h.reply(206, content[f:l + 1], Content_Range=f"bytes {f}-{l}/*"),
            "another range": lambda h, f, l: h.reply(206, content[f:l + 1], Content_Range=f"bytes {f + 1}-{l + 1}/{MIB}"),
            "compressed": lambda h, f, l: h.part(content, f, l, Content_Encoding="gzip"),
            "and size": lambda h, f, l: h.reply(206, content[f:l + 1], Content_Range=f"bytes {f}-{l}/99999999999999999999"),
            "more than an answer": lambda h, f, l: h.reply(206, b"", **{f"X_{i}": "y" * 8000 for i in range(30)}),
            "answers 503": lambda h, f, l: h.reply(503, b""),
        }
        for words, answer in cases.items():
            with self.subTest(words):
                server.misbehave = answer
                self.refused("info", "-f", "raw", server.url(), words=(words, server.url()))
        self.refused("info", "-f", "raw", "https:///disk")
        self.refused("info", "-f", "raw", "http://127.0.0.1:1/x", words=("127.0.0.1:1",))

    def test_an_object_that_changes_is_an_error_and_never_mixed(self):
        old, new = self.content(8 * MIB), self.content(8 * MIB)
        server = self.served(old)
        client = self.client_over(server.url())
        self.assertEqual(self.read_over(client, 0, 4 * KIB), (0, old[:4 * KIB]))
        server.objects["/disk"] = new
        self.assertEqual(self.read_over(client, 4 * MIB, 4 * KIB)[0], EIO)
        server.objects["/disk"] = old
        self.assertEqual(self.read_over(client, 6 * MIB, 4 * KIB)[0], EIO, "it stays an error")
        self.assertEqual(self.running.stop()[0], 0)

    def test_a_server_that_lies_later_is_not_believed(self):
        content = self.content(8 * MIB)
        server = self.served(content)
        lies = {
            "all of it": lambda h, f, l: h.reply(200, content),
            "another range": lambda h, f, l: h.reply(206, content[:l + 1 - f], ETag=server.etag_of(content),
                                                     Content_Range=f"bytes 0-{l - f}/{len(content)}"),
            "compressed": lambda h, f, l: h.part(content, f, l, Content_Encoding="br"),
            "no tag": lambda h, f, l: h.part(content, f, l, ETag=None),
        }
        for name, lie in lies.items():
            with self.subTest(name):
                server.misbehave = lambda *_: False
                client = self.client_over(server.url(), "--reconnect-limit", "1")
                server.misbehave = lie
                self.assertEqual(self.read_over(client, 4 * MIB, 4 * KIB)[0], EIO)
                self.assertEqual(self.running.stop()[0], 0)

    def test_trouble_passes(self):
        content = self.content()
        server = self.served(content)
        source = random.Random(3)

        def trouble(handler, first, last):
            kind = source.randrange(6)
            if kind == 0:
                return handler.reply(503, b"later")
            if kind == 1:
                handler.close_connection = True
                return True
            if kind == 2:
                handler.send_response(206)
                handler.send_header("Content-Length", str(min(last + 1, len(content)) - first))
                handler.send_header("Content-Range", f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}")
                handler.send_header("ETag", server.etag_of(content))
                handler.end_headers()
                handler.wfile.write(content[first:first + (last - first) // 2])
                handler.close_connection = True
                return True
            return False
        client = self.client_over(server.url())
        server.misbehave = trouble
        for offset in range(0, 16 * MIB, MIB):
            self.assertEqual(self.read_over(client, offset, MIB), (0, content[offset:offset + MIB]))
        self.assertEqual(self.running.stop(), (0, ""))

    def test_reads_wait_for_a_server_that_comes_back(self):
        content = self.content()
        server = self.served(content)
        client = self.client_over(server.url())
        self.read_over(client, 0, 4 * KIB)
        server.stop()
        client.request(READ, 8 * MIB, 64 * KIB)
        client.socket.settimeout(0.7)
        with self.assertRaises(TimeoutError):
            client.take(1)
        client.socket.settimeout(60)
        server.start()
        self.assertEqual(client.simple_reply(64 * KIB)[::2], (0, content[8 * MIB:8 * MIB + 64 * KIB]))
        self.assertEqual(self.running.stop(), (0, ""))

    def test_after_the_limit_reads_fail_and_the_server_is_still_found_again(self):
        content = self.content()
        server = self.served(content)
        client = self.client_over(server.url(), "--reconnect-limit", "1")
        server.stop()
        self.assertEqual(self.read_over(client, 8 * MIB, 4 * KIB)[0], EIO)
        begun = time.monotonic()
        self.assertEqual(self.read_over(client, 9 * MIB, 4 * KIB)[0], EIO)
        self.assertLess(time.monotonic() - begun, 0.9, "the limit counts from the beginning of the outage")
        server.start()
        self.assertEqual(self.read_over(client, 8 * MIB, 4 * KIB), (0, content[8 * MIB:8 * MIB + 4 * KIB]))
        self.assertEqual(self.running.stop()[0], 0)

    def test_a_server_that_drips_is_given_up(self):
        content = self.content(MIB)
        server = self.served(content)

        def drip(handler, first, last):
            handler.send_response(206)
            handler.send_header("Content-Length", str(last + 1 - first))
            handler.send_header("Content-Range", f"bytes {first}-{last}/{MIB}")
            handler.end_headers()
            for at in range(first, last):
                handler.wfile.write(content[at:at + 1])
                time.sleep(0.05)
            return True
        server.misbehave = drip
        name = "json:" + json.dumps({"driver": "http", "url": server.url(), "timeout": 2})
        begun = time.monotonic()
        self.refused("info", "-f", "raw", name)
        self.assertLess(time.monotonic() - begun, 15)

    def test_a_serve_ends_while_its_server_hangs(self):
        content = self.content()
        server = self.served(content)
        client = self.client_over(server.url(), "--reconnect-limit", "2")
        held = threading.Event()
        self.addCleanup(held.set)
        server.misbehave = lambda *_: held.wait(20) and False
        server_process = self.running.process
        client.request(READ, 8 * MIB, 4 * KIB)
        time.sleep(0.2)
        server.stop()
        server_process.terminate()
        self.assertEqual(server_process.wait(timeout=30), 0)


if __name__ == "__main__":
    unittest.main()

"""NBD over TLS: certificates and pre-shared keys, with the clients people use; who is kept out, and why it says so."""
import json
import os
import random
import socket
import ssl
import stat
import unittest

from nbd_client import (ABORT, ACK, ERR_INVALID, ERR_POLICY, ERR_TLS_REQD, ERR_UNKNOWN, EXPORT_NAME, GO, INFO, LIST, READ,
                        SET_CONTEXT, STARTTLS, STRUCTURED, WRITE, Client, Closed, NbdTestServer, tls_context)
from tools import run
from weir_cli import CliTestCase, QmpClient

SIZE = 8 << 20


class TlsTestCase(CliTestCase):
    def setUp(self):
        super().setUp()
        self.weir("tls", "init", "creds")
        self.creds = self.path("creds")
        self.weir("tls", "add-client", "--client", "bob", "creds")
        self.qemu_img("create", "-q", "-f", "raw", "disk.raw", str(SIZE))
        self.qemu_io("disk.raw", "write -P 5 1M 1M", image_format="raw")
        # What a client has, and nothing else.
        os.mkdir(self.path("keys"))
        self.write("keys/keys.psk", self.read("creds/keys.psk").splitlines(keepends=True)[0])

    def start(self, *arguments, creds="creds", disk="disk.raw"):
        self.nbd, self.control = self.path("nbd.sock"), self.path("control.sock")
        port = socket.create_server(("127.0.0.1", 0))
        self.port = port.getsockname()[1]
        port.close()
        return self.serve("--nbd", f"unix:{self.nbd}", "--nbd", f"tcp:127.0.0.1:{self.port}", "--control", self.control,
                          "--tls-creds", creds, *arguments, "--export", "d", disk)

    def client(self):
        client = Client(f"unix:{self.nbd}")
        self.addCleanup(client.close)
        return client.greet()

    def nbds(self, folder="creds"):
        return f"nbds+unix:///d?socket={self.nbd}&tls-certificates={self.path(folder)}"

    def read_over_tls(self, client):
        client.go(b"d")
        client.request(READ, 1 << 20, 4096, cookie=9)
        self.assertEqual(client.simple_reply(4096), (0, 9, b"\5" * 4096))


class Peers(TlsTestCase):
    def qemu(self, kind, folder, **more):
        creds = f"tls-creds-{kind},id=t,dir={self.path(folder)},endpoint=client"
        creds += "".join(f",{key}={value}" for key, value in more.items())
        return creds, f"driver=nbd,host=127.0.0.1,port={self.port},export=d,tls-creds=t"

    def test_qemu_with_certificates_and_with_keys(self):
        running = self.start()
        for kind, folder, more in (("x509", "creds", {}), ("psk", "keys", {"username": "client"})):
            creds, image = self.qemu(kind, folder, **more)
            output = run("qemu-io", "--object", creds, "--image-opts", image, "-c", "read -P 5 1M 1M", "-c",
                         "write -P 6 0 1M", "-c", "read -P 6 0 1M", "-c", "write -P 7 4M 3M", "-c", "read -P 7 4M 3M")
            self.assertNotIn("failed", output)
            run("qemu-img", "convert", "--object", creds, "--image-opts", image, "-O", "raw", self.path("copy.raw"))
            os.unlink(self.path("copy.raw"))
        self.assertEqual(running.stop(), (0, ""))

    def test_libnbd_with_certificates_and_with_keys(self):
        running = self.start()
        self.assertEqual(run("nbdinfo", "--size", self.nbds()).strip(), str(SIZE))
        psk = f"nbds+unix://client@/d?socket={self.nbd}&tls-psk-file={self.path('keys/keys.psk')}"
        self.assertEqual(run("nbdinfo", "--size", psk).strip(), str(SIZE))
        for uri in (self.nbds(), psk):
            run("nbdcopy", uri, self.path("copy.raw"))
            run("nbdcopy", self.path("copy.raw"), uri)
            self.assertEqual(running.process.poll(), None)
        running.stop()
        run("cmp", self.path("disk.raw"), self.path("copy.raw"))

    def test_fio_verifies_what_it_wrote(self):
        """Through nbdkit: fio lets no URI name files, and libnbd looks for root's certificates in /etc."""
        running = self.start()
        fio = ("fio --name=verify --ioengine=nbd --uri=$uri --rw=randwrite --bsrange=512-256k --bs_unaligned --size=8m "
               "--iodepth=32 --verify=crc32c --verify_fatal=1 --randseed=1 --output-format=json")
        said = run("nbdkit", "-U", "-", "nbd", f"socket={self.nbd}", "export=d", "tls=require",
                   f"tls-certificates={self.path('creds')}", "--run", fio, cwd=self.folder)
        job = json.loads(said[said.index("{"):])["jobs"][0]
        self.assertEqual(job["error"], 0)
        self.assertGreater(job["read"]["total_ios"], 0)
        self.assertEqual(running.stop(), (0, ""))

    def test_nbdkit_in_front_sees_the_same_disk(self):
        running = self.start()
        run("nbdkit", "-U", "-", "nbd", f"socket={self.nbd}", "export=d", "tls=require",
            f"tls-certificates={self.path('creds')}", "--run", f"nbdcopy $uri {self.path('copy.raw')}")
        run("cmp", self.path("disk.raw"), self.path("copy.raw"))
        self.assertEqual(running.stop(), (0, ""))

    def test_weir_reads_and_writes_with_certificates_and_with_keys(self):
        self.start()
        image = f"nbds://127.0.0.1:{self.port}/d"
        for folder in ("creds", "creds/bob", "keys"):
            self.weir("convert", "--tls-creds", folder, "-f", "raw", "-O", "raw", image, "copy.raw")
            run("qemu-img", "compare", "-U", "-f", "raw", "-F", "raw", self.path("copy.raw"), self.path("disk.raw"))
        self.refused("info", "-f", "raw", image, words=[image, "TLS"])

    def test_weir_serves_on_what_it_reads_over_tls(self):
        self.start()
        other = self.path("other.sock")
        # The front without TLS, its image behind a private authority.
        self.serve("--nbd", f"unix:{other}", "--image-tls-creds", "creds", "-f", "raw", f"nbds://localhost:{self.port}/d")
        self.qemu_io(f"nbd+unix:///?socket={other}", "read -P 5 1M 1M", image_format="raw")

    def test_a_plain_socket_beside_tls(self):
        plain = self.path("plain.sock")
        self.start("--nbd-plain", f"unix:{plain}", "--tls-allow", "bob=d")
        self.qemu_io(f"nbd+unix:///d?socket={plain}", "read -P 5 1M 1M", image_format="raw")
        self.assertIn("TLS", run("nbdinfo", f"nbd+unix:///d?socket={self.nbd}", expected=(1,)))

    def test_a_guests_long_transfers(self):
        """Requests of every size at depth, in both directions at a time."""
        self.start("--aio", "threads")
        creds, image = self.qemu("x509", "creds")
        commands = []
        for at in range(64):
            commands += ["-c", f"aio_write -P {at + 1} {at * 131072} 131072"]
        commands += ["-c", "aio_flush"]
        for at in range(64):
            commands += ["-c", f"aio_read -P {at + 1} {at * 131072} 131072"]
        output = run("qemu-io", "--object", creds, "--image-opts", image, *commands, "-c", "aio_flush")
        self.assertNotIn("failed", output)
        self.assertNotIn("error", output)


class KeptOut(TlsTestCase):
    def complaints(self, running):
        """What the server says on standard error until its end."""
        code, words = running.stop()
        self.assertEqual(code, 0)
        return words

    def test_nothing_is_answered_before_tls(self):
        self.start()
        client = self.client()
        for option, data in ((LIST, b""), (GO, client.info_data(b"d")), (INFO, client.info_data(b"d")), (STRUCTURED, b""),
                             (SET_CONTEXT, bytes(8)), (99, b"")):
            self.assertEqual([kind for _, kind, _ in client.option(option, data)], [ERR_TLS_REQD], option)
        self.assertEqual(client.option(STARTTLS, b"x")[-1][1], ERR_INVALID)
        self.assertEqual(client.option(ABORT)[-1][1], ACK)
        old = self.client()
        old.send(old.option_bytes(EXPORT_NAME, b"d"))
        self.assertTrue(old.at_end())
        # The usual clients say so.
        for command in (("nbdinfo", f"nbd+unix:///d?socket={self.nbd}"),
                        ("qemu-img", "info", f"nbd+unix:///d?socket={self.nbd}")):
            self.assertIn("TLS", run(*command, expected=(1,)))
        self.read_over_tls(self.start_tls())

    def start_tls(self, **options):
        client = self.client()
        client.start_tls(tls_context(self.creds, **options))
        return client

    def test_tls_comes_once_and_forgets_what_was_before(self):
        self.start()
        client = self.start_tls()
        self.assertEqual(client.option(STARTTLS)[-1][1], ERR_INVALID)
        # Structured replies were never agreed on.
        self.assertEqual(client.option(SET_CONTEXT, (0).to_bytes(8, "big"))[-1][1], ERR_INVALID)
        self.read_over_tls(client)

    def test_bytes_behind_starttls_are_no_part_of_the_session(self):
        running = self.start()
        for injected in (Client.option_bytes(LIST), b"x", Client.option_bytes(GO, Client.info_data(b"d")) * 100):
            client = self.client()
            client.send(Client.option_bytes(STARTTLS) + injected)
            self.assertEqual(client.option_reply()[1], ACK)
            self.assertTrue(client.at_end())
        self.assertIn("unprotected data", self.complaints(running))

    def test_plaintext_instead_of_the_tls_handshake(self):
        running = self.start()
        client = self.client()
        client.start_tls()
        client.send(Client.option_bytes(LIST))
        with self.assertRaises(Closed):
            while True:
                client.option_reply()
        self.assertIn("TLS:", self.complaints(running))

    def test_clients_without_a_certificate_and_of_another_authority(self):
        running = self.start()
        self.weir("tls", "init", "others")
        for folder in (None, "others"):
            context = tls_context(self.creds, client=False)
            if folder:
                context.load_cert_chain(self.path(f"{folder}/client-cert.pem"), self.path(f"{folder}/client-key.pem"))
            client = self.client()
            with self.assertRaises((ssl.SSLError, OSError, Closed)):
                client.start_tls(context)
                client.go(b"d")
        words = self.complaints(running)
        self.assertIn("peer did not return a certificate", words)
        self.assertIn("certificate verify failed", words)

    def test_a_server_certificate_is_no_clients(self):
        self.start()
        context = tls_context(self.creds, client=False)
        context.load_cert_chain(f"{self.creds}/server-cert.pem", f"{self.creds}/server-key.pem")
        client = self.client()
        with self.assertRaises((ssl.SSLError, OSError, Closed)):
            client.start_tls(context)
            client.go(b"d")

    def test_a_wrong_key(self):
        self.start()
        self.write("wrong.psk", b"client:" + b"00" * 32 + b"\n")
        uri = f"nbds+unix://client@/d?socket={self.nbd}&tls-psk-file={self.path('wrong.psk')}"
        run("nbdinfo", "--size", uri, expected=(1,))
        self.write("wrong.psk", b"mallory:" + b"00" * 32 + b"\n")
        run("nbdinfo", "--size", uri.replace("client@", "mallory@"), expected=(1,))

    def test_without_credentials_starttls_is_refused(self):
        self.nbd = self.path("nbd.sock")
        self.serve("--nbd", f"unix:{self.nbd}", "--export", "d", "disk.raw")
        self.assertEqual(self.client().option(STARTTLS)[-1][1], ERR_POLICY)

    def test_a_silent_tls_handshake_ends(self):
        self.start()
        qmp = QmpClient(self.control)
        self.addCleanup(qmp.close)
        qmp.command("nbd-server-stop")
        qmp.command("object-add", qom_type="tls-creds-x509", id="t", dir=self.creds, endpoint="server")
        self.nbd = self.path("second.sock")
        address = {"type": "unix", "data": {"path": self.nbd}}
        self.assertEqual(qmp.command("nbd-server-start", addr=address, tls_creds="t", handshake_max_seconds=1), {"return": {}})
        client = self.client()
        client.start_tls()
        self.assertTrue(client.at_end())


class Hostile(TlsTestCase):
    """The server alone (tests/support/nbd_test_server.cpp), so that it can run under the sanitizers."""

    def setUp(self):
        super().setUp()
        self.server = NbdTestServer(self.folder, f"--tls={self.creds}", "--linger-ms=500", f"d=memory:{SIZE}").start()
        self.addCleanup(self.server.kill)
        self.nbd = self.server.socket
        self.random = random.Random(int(os.environ.get("WEIR_SEED", "1")))

    def secured(self):
        client = self.client()
        client.start_tls(tls_context(self.creds))
        return client

    def assert_alive(self):
        client = self.secured().go(b"d")
        client.request(READ, 0, 512, cookie=1)
        self.assertEqual(client.simple_reply(512), (0, 1, bytes(512)))

    def test_garbage_in_every_phase_of_tls(self):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = tls_context(self.creds).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with self.assertRaises(ssl.SSLWantReadError):
            hello.do_handshake()
        genuine = outgoing.read()
        for _ in range(60):
            broken = bytearray(genuine)
            for _ in range(self.random.randrange(1, 8)):
                broken[self.random.randrange(len(broken))] = self.random.randrange(256)
            client = self.client()
            client.start_tls()
            client.send(bytes(broken[:self.random.randrange(1, len(broken) + 1)]))
            if self.random.random() < 0.5:
                client.send(self.random.randbytes(2000))
            client.close()
        self.assert_alive()

    def test_a_damaged_record_ends_the_session(self):
        client = self.secured().go(b"d")
        plain = client.socket.detach()
        with socket.socket(fileno=plain) as raw:
            raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
            raw.settimeout(20)
            while raw.recv(4096):
                pass
        self.assert_alive()

    def test_disconnects_with_everything_in_flight(self):
        for _ in range(20):
            client = self.secured().go(b"d")
            client.send(b"".join(client.request_bytes(READ, 0, 1 << 20, cookie) for cookie in range(self.random.randrange(10)))
                        + client.request_bytes(WRITE, 0, 1 << 20) + bytes(self.random.randrange(1 << 20)))
            client.close()
        self.assert_alive()

    def test_a_peer_that_never_reads_and_a_stop(self):
        stalled = self.secured().go(b"d")
        stalled.send(b"".join(stalled.request_bytes(READ, 0, 1 << 20, cookie) for cookie in range(100)))
        half = self.client()
        half.start_tls()
        idle = self.secured().go(b"d")
        self.server.stop(timeout=10)
        self.assertTrue(idle.at_end())

    def test_large_transfers_keep_every_byte(self):
        client = self.secured().go(b"d", structured=True)
        data = self.random.randbytes(3 << 20)
        client.request(WRITE, 12345, len(data), payload=data)
        self.assertEqual(client.simple_reply()[0], 0)
        client.send(b"".join(client.request_bytes(READ, 12345, len(data), cookie) for cookie in range(8)))
        for _ in range(8):
            flags, kind, _, payload = client.chunk()
            self.assertEqual((flags, kind, payload[8:] == data), (1, 1, True))


class AllowLists(TlsTestCase):
    def test_each_client_sees_what_it_may(self):
        self.start("--tls-allow", "bob=d", "--tls-allow", "client=other")
        bob = Client(f"unix:{self.nbd}").greet()
        self.addCleanup(bob.close)
        bob.start_tls(tls_context(f"{self.creds}/bob"))
        self.assertEqual(len(bob.option(LIST)), 2)
        self.read_over_tls(bob)
        client = self.client()
        client.start_tls(tls_context(self.creds))
        self.assertEqual([kind for _, kind, _ in client.option(LIST)], [ACK])
        answers = [client.option(option, data)[-1] for option, data in ((GO, client.info_data(b"d")), (INFO, client.info_data(b"d")),
                                                                        (GO, client.info_data(b"no such"))) ]
        self.assertEqual({(kind, text) for _, kind, text in answers}, {(ERR_UNKNOWN, b"no export of this name for this client")})
        client.send(client.option_bytes(EXPORT_NAME, b"d"))
        self.assertTrue(client.at_end())

    def test_keys_have_names_too(self):
        self.start("--tls-allow", "bob=*")
        uri = "nbds+unix://{0}@/d?socket=" + self.nbd + "&tls-psk-file=" + self.path("creds/keys.psk")
        self.assertEqual(run("nbdinfo", "--size", uri.format("bob")).strip(), str(SIZE))
        self.assertIn("no export named 'd'", run("nbdinfo", "--size", uri.format("client"), expected=(1,)))

    def test_wrong_rules(self):
        self.refused("serve", "--nbd", "unix:x", "--tls-creds", "creds", "--tls-allow", "bob", "disk.raw", expected=2,
                     words=["bob", "CLIENT=EXPORT"])
        self.refused("serve", "--nbd", "unix:x", "--tls-allow", "bob=*", "disk.raw", expected=2, words=["--tls-creds"])


class Files(TlsTestCase):
    def test_keys_are_private_and_nothing_is_replaced(self):
        for name in ("ca-key.pem", "server-key.pem", "client-key.pem", "keys.psk", "bob/client-key.pem", "bob/keys.psk"):
            self.assertEqual(stat.S_IMODE(os.stat(f"{self.creds}/{name}").st_mode), 0o600, name)
        self.assertEqual(stat.S_IMODE(os.stat(self.creds).st_mode), 0o700)
        before = {name: self.read(f"creds/{name}") for name in os.listdir(self.creds) if "." in name}
        self.refused("tls", "init", "creds", words=["File exists"])
        self.assertEqual({name: self.read(f"creds/{name}") for name in before}, before)
        os.mkdir(self.path("half"))
        self.write("half/keys.psk", b"mine")
        self.refused("tls", "init", "half", words=["half/keys.psk"])
        self.assertEqual(os.listdir(self.path("half")), ["keys.psk"])

    def test_names_of_the_server(self):
        self.weir("tls", "init", "--host", "disk.example.org", "--host", "10.1.2.3", "--host", "fd00::1", "--days", "2", "named")
        shown = run("openssl", "x509", "-in", self.path("named/server-cert.pem"), "-noout", "-text")
        for words in ("DNS:disk.example.org", "IP Address:10.1.2.3", "IP Address:FD00:0:0:0:0:0:0:1", "CN = disk.example.org"):
            self.assertIn(words, shown)
        run("openssl", "verify", "-CAfile", self.path("named/ca-cert.pem"), self.path("named/server-cert.pem"),
            self.path("named/client-cert.pem"))
        for bad in ("a b", "x,DNS:y", ""):
            self.refused("tls", "init", "--host", bad, "bad", words=["not a host name"])
        self.refused("tls", "add-client", "--client", "../x", "creds", words=["../x"])
        self.refused("tls", "add-client", "--client", "bob", "creds", words=["bob"])
        self.refused("tls", "frobnicate", "creds", expected=2, words=["init or add-client"])

    def test_what_is_missing_or_broken_is_named(self):
        def refusal(*words):
            self.refused("serve", "--nbd", f"unix:{self.path('x')}", "--tls-creds", "broken", "disk.raw", words=["broken", *words])
        refusal("server-cert.pem", "weir tls init")
        os.mkdir(self.path("broken"))
        self.write("broken/keys.psk", b"# nothing\n")
        refusal("keys.psk", "no key")
        self.write("broken/keys.psk", b"a:00\nb:0x\n")
        refusal("keys.psk: line 2")
        self.write("broken/server-cert.pem", b"nonsense")
        refusal("ca-cert.pem")
        for name in ("ca-cert.pem", "server-cert.pem"):
            self.write(f"broken/{name}", self.read(f"creds/{name}"))
        refusal("server-key.pem")
        self.write("broken/server-key.pem", self.read("creds/client-key.pem"))
        refusal("server-key.pem", "mismatch")
        self.assertFalse(os.path.exists(self.path("x")))

    def test_revoked_clients(self):
        index = self.path("index.txt")
        self.write("index.txt", b"")
        self.write("ca.cnf", f"[ca]\ndefault_ca=d\n[d]\ndatabase={index}\ndefault_md=sha256\ndefault_crl_days=3\n".encode())
        ca = ("openssl", "ca", "-config", self.path("ca.cnf"), "-keyfile", f"{self.creds}/ca-key.pem", "-cert", f"{self.creds}/ca-cert.pem")
        run(*ca, "-revoke", f"{self.creds}/bob/client-cert.pem")
        run(*ca, "-gencrl", "-out", f"{self.creds}/ca-crl.pem")
        running = self.start()
        self.assertEqual(run("nbdinfo", "--size", self.nbds()).strip(), str(SIZE))
        run("nbdinfo", "--size", self.nbds("creds/bob"), expected=(1,))
        self.assertIn("revoked", running.stop()[1])


class ControlSocket(TlsTestCase):
    def test_objects_and_a_server_that_wants_them(self):
        self.start()
        qmp = QmpClient(self.control)
        self.addCleanup(qmp.close)
        self.assertEqual(qmp.command("nbd-server-stop"), {"return": {}})
        second = self.path("second.sock")
        start = {"addr": {"type": "unix", "data": {"path": second}}, "tls_creds": "t"}
        self.assertIn("No TLS credentials", qmp.command("nbd-server-start", **start)["error"]["desc"])
        add = {"qom_type": "tls-creds-psk", "id": "t", "dir": self.creds, "endpoint": "server"}
        for wrong in ({"qom_type": "rng-random"}, {"dir": "/nowhere"}, {"endpoint": "client"}, {"id": "1 x"}):
            self.assertIn("error", qmp.command("object-add", **{**add, **wrong}))
        self.assertEqual(qmp.command("object-add", **add), {"return": {}})
        self.assertIn("duplicate", qmp.command("object-add", **add)["error"]["desc"])
        self.assertEqual(qmp.command("nbd-server-start", **start), {"return": {}})
        self.assertEqual(qmp.command("object-del", id="t"), {"return": {}})
        self.assertIn("error", qmp.command("object-del", id="t"))
        qmp.command("block-export-add", type="nbd", id="e", node_name="d", name="d")
        psk = f"nbds+unix://client@/d?socket={second}&tls-psk-file={self.path('keys/keys.psk')}"
        self.assertTrue(json.loads(run("nbdinfo", "--json", psk))["exports"][0]["is_read_only"])
        self.assertIn("TLS", run("nbdinfo", f"nbd+unix:///d?socket={second}", expected=(1,)))


if __name__ == "__main__":
    unittest.main()

"""`weir serve` and the verbs on a running one."""
import json
import os
import signal
import socket
import stat
import subprocess
import unittest

from nbd_client import Client
from tools import run
from weir_cli import CliTestCase, QmpClient


class ServeTestCase(CliTestCase):
    def setUp(self):
        super().setUp()
        self.control = self.path("control")
        self.nbd = self.path("nbd")

    def serve_domain(self, *arguments, **options):
        """Serves top.qcow2 as vda."""
        xml = self.domain(("vda", "qcow2", self.path("top.qcow2")))
        return self.serve("--control", self.control, "--nbd", f"unix:{self.nbd}", *arguments, xml, **options)

    def uri(self, export="vda"):
        return f"nbd+unix:///{export}?socket={self.nbd}"

    def qmp(self):
        client = QmpClient(self.control)
        self.addCleanup(client.close)
        return client

    def job(self):
        return json.loads(self.weir("blockjob", "-c", self.control, "vda", "--json").stdout)

    def backing_of(self, image):
        return json.loads(self.qemu_img("info", "-U", "--output=json", image)).get("backing-filename")


class Serving(ServeTestCase):
    def test_what_is_served_is_the_chain_and_what_is_written_stays(self):
        self.make_chain()
        self.weir("convert", "-O", "raw", "top.qcow2", "expected.raw")
        running = self.serve_domain()
        self.qemu_img("compare", "-f", "raw", "-F", "raw", self.uri(), "expected.raw")
        self.qemu_io(self.uri(), "write -P 77 5M 1M", image_format="raw")
        self.assertEqual(running.stop(), (0, ""))
        self.qemu_io("expected.raw", "write -P 77 5M 1M", image_format="raw")
        self.qemu_img("compare", "-F", "raw", "top.qcow2", "expected.raw")
        self.assertIn("No errors", self.qemu_img("check", "top.qcow2"))
        self.assertFalse(os.path.exists(self.control) or os.path.exists(self.nbd), "sockets are left behind")

    def test_sockets_are_private(self):
        self.make_chain()
        self.serve_domain()
        for path in (self.control, self.nbd):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def test_a_plain_image_and_its_export_name(self):
        self.qemu_img("create", "-q", "-f", "raw", "disk.raw", "1M")
        running = self.serve("--nbd", f"unix:{self.nbd}", "disk.raw")
        self.assertIn("1048576", run("nbdinfo", "--size", self.uri("")))
        running.stop()
        self.serve("--nbd", f"unix:{self.nbd}", "--export", "a disk", "disk.raw")
        self.assertIn("1048576", run("nbdinfo", "--size", self.uri("a%20disk")))

    def test_tcp(self):
        self.qemu_img("create", "-q", "-f", "raw", "disk.raw", "1M")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.serve("--nbd", f"tcp:127.0.0.1:{port}", "disk.raw")
        self.assertIn("1048576", run("nbdinfo", "--size", f"nbd://127.0.0.1:{port}"))
        self.refused("serve", "--nbd", f"tcp:127.0.0.1:{port}", "-f", "raw", "-U", "--read-only", "disk.raw",
                     words=["127.0.0.1", str(port), "in use"])

    def test_read_only(self):
        self.make_chain()
        before = self.read("top.qcow2")
        running = self.serve_domain("--read-only")
        self.assertIn("is_read_only: true", run("nbdinfo", self.uri()))
        self.refused("blockpull", "-c", self.control, "vda", words=["vda", "read-only"])
        self.refused("copy-on-read", "-c", self.control, "vda", "on", words=["vda", "read-only"])
        running.stop()
        self.assertEqual(self.read("top.qcow2"), before)

    def test_cache_and_aio_modes(self):
        self.make_chain()
        self.weir("convert", "-O", "raw", "top.qcow2", "expected.raw")
        for options in (("--cache", "none"), ("--cache", "directsync"), ("--aio", "threads"), ("--aio", "io_uring")):
            with self.subTest(options=options):
                running = self.serve_domain(*options)
                self.qemu_img("compare", "-f", "raw", "-F", "raw", self.uri(), "expected.raw")
                self.assertEqual(running.stop()[0], 0)

    def test_copy_on_read_from_the_start_and_switched(self):
        self.make_chain()
        running = self.serve_domain("--copy-on-read")
        self.qemu_io(self.uri(), "read 0 64k", image_format="raw")
        self.weir("copy-on-read", "-c", self.control, "off")
        self.qemu_io(self.uri(), "read 2M 64k", image_format="raw")
        self.weir("copy-on-read", "-c", self.control, "vda", "on")
        self.qemu_io(self.uri(), "read 1M 64k", image_format="raw")
        running.stop()
        own = [(run["start"], run["length"]) for run in json.loads(self.weir("map", "--json", "top.qcow2").stdout)
               if run["depth"] == 0 and run["present"] and run["data"]]
        owned = {cluster for start, length in own for cluster in range(start >> 16, (start + length) >> 16)}
        self.assertTrue({0, 16} <= owned and 32 not in owned, owned)

    def test_a_stale_socket_is_replaced_and_a_live_one_is_not(self):
        self.make_chain()
        running = self.serve_domain()
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        self.assertTrue(os.path.exists(self.control) and os.path.exists(self.nbd))
        self.serve_domain()
        self.qemu_img("create", "-q", "-f", "raw", "other.raw", "1M")
        self.refused("serve", "--control", self.control, "other.raw", words=[self.control, "in use"])
        self.refused("serve", "--nbd", f"unix:{self.nbd}", "other.raw", words=[self.nbd, "in use"])
        self.assertEqual(json.loads(self.weir("domblklist", "-c", self.control, "--json").stdout)[0]["target"], "vda")

    def test_a_file_that_is_no_socket_is_kept(self):
        self.qemu_img("create", "-q", "-f", "raw", "disk.raw", "1M")
        self.write("precious", b"data")
        self.refused("serve", "--control", "precious", "disk.raw", words=["precious", "not a socket"])
        self.assertEqual(self.read("precious"), b"data")

    def test_an_image_in_use_is_refused_both_ways(self):
        self.make_chain()
        running = self.serve_domain()
        self.refused("serve", "--nbd", "unix:other", "top.qcow2", words=["top.qcow2", "use"])
        self.assertIn("lock", self.qemu_img("info", "top.qcow2", expected=(1,)))
        running.stop()
        self.qemu_img("info", "top.qcow2")

    def test_what_cannot_be_served_leaves_no_socket(self):
        self.make_chain()
        os.unlink(self.path("base.raw"))
        xml = self.domain(("vda", "qcow2", self.path("top.qcow2")))
        self.refused("serve", "--control", self.control, "--nbd", f"unix:{self.nbd}", xml,
                     words=["disk vda", "base.raw", "No such file"])
        self.refused("serve", "--tls-creds", "/x", "--nbd", f"unix:{self.nbd}", xml, words=["/x", "weir tls init"])
        self.assertFalse(os.path.exists(self.control) or os.path.exists(self.nbd))

    def test_an_optional_disk_that_is_missing_is_left_out(self):
        self.make_chain()
        self.write("domain.xml", f"""<domain><devices>
          <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{self.path('top.qcow2')}'/><target dev='vda'/></disk>
          <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{self.path('gone.iso')}' startupPolicy='optional'/>
            <target dev='vdb'/><readonly/></disk></devices></domain>""".encode())
        self.serve("--control", self.control, "--nbd", f"unix:{self.nbd}", self.path("domain.xml"))
        listed = json.loads(self.weir("domblklist", "-c", self.control, "--json").stdout)
        self.assertEqual([each["target"] for each in listed], ["vda"])

    def test_disks_of_a_domain_have_their_own_export_names(self):
        self.make_chain()
        xml = self.domain(("vda", "qcow2", self.path("top.qcow2")))
        self.refused("serve", "--nbd", f"unix:{self.nbd}", "--export", "x", xml, words=["--export", "target"])
        self.assertFalse(os.path.exists(self.nbd))

    def test_nodes_tell_how_they_are_cached(self):
        self.make_chain()
        for mode, direct, writeback in (("writeback", False, True), ("none", True, True), ("directsync", True, False)):
            running = self.serve_domain("--cache", mode)
            node = self.qmp().command("query-named-block-nodes")["return"][0]
            self.assertEqual((node["cache"]["direct"], node["cache"]["writeback"]), (direct, writeback), mode)
            running.stop()

    def test_the_control_socket_sets_limits_and_refuses_an_empty_path(self):
        self.make_chain()
        self.serve_domain()
        client = self.qmp()
        client.command("nbd-server-stop")
        empty = {"type": "unix", "data": {"path": ""}}
        self.assertIn("path", client.command("nbd-server-start", addr=empty)["error"]["desc"])
        address = {"type": "unix", "data": {"path": self.nbd}}
        self.assertIn("error", client.command("nbd-server-start", addr=address, max_connections=-1))
        started = client.command("nbd-server-start", addr=address, max_connections=1, handshake_max_seconds=1)
        self.assertEqual(started, {"return": {}})
        client.command("block-export-add", type="nbd", id="e", node_name="vda", name="vda", writable=True)
        with Client(f"unix:{self.nbd}") as silent:
            self.assertTrue(silent.at_end())
        with Client(f"unix:{self.nbd}") as first:
            first.greet().go(b"vda")
            with Client(f"unix:{self.nbd}") as second:
                self.assertTrue(second.at_end())

    def test_quit(self):
        self.make_chain()
        running = self.serve_domain()
        self.assertEqual(self.qmp().command("quit"), {"return": {}})
        self.assertEqual(running.process.wait(timeout=30), 0)

    def test_domblklist(self):
        self.make_chain()
        self.serve_domain()
        self.assertIn(f" vda      {self.path('top.qcow2')}\n", self.weir("domblklist", "-c", self.control).stdout)
        self.assertEqual(json.loads(self.weir("domblklist", "--json", env={**os.environ, "WEIR_CONTROL": self.control}).stdout),
                         [{"target": "vda", "source": self.path("top.qcow2")}])


class ServiceManager(ServeTestCase):
    def test_readiness_and_passed_sockets(self):
        self.make_chain()
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(notify.close)
        notify.bind(self.path("notify"))
        notify.settimeout(30)
        listeners = []
        for name in ("nbd", "second", "control"):
            listener = socket.socket(socket.AF_UNIX)
            self.addCleanup(listener.close)
            listener.bind(self.path(name))
            listener.listen()
            listeners.append(listener)
        # As systemd does it: descriptors from 3 on, and the pid of the process they are meant for.
        script = ('import os, sys; first = [int(word) for word in sys.argv[1:4]]\n'
                  'high = [os.dup2(number, 40 + at) for at, number in enumerate(first)]\n'
                  '[os.dup2(number, 3 + at) for at, number in enumerate(high)]\n'
                  'os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="nbd::control")\n'
                  'os.execv(sys.argv[4], sys.argv[4:])')
        numbers = [str(listener.fileno()) for listener in listeners]
        process = subprocess.Popen(["python3", "-c", script, *numbers, self.weir_path, "serve", "--export", "vda", "top.qcow2"],
                                   cwd=self.folder, env={**os.environ, "NOTIFY_SOCKET": self.path("notify")},
                                   pass_fds=[listener.fileno() for listener in listeners], stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertEqual(notify.recv(100), b"READY=1")
        self.assertEqual(process.stdout.readline(), "weir: ready\n")
        for path in (self.nbd, self.path("second")):
            self.assertIn(str(16 << 20), run("nbdinfo", "--size", f"nbd+unix:///vda?socket={path}"))
        self.weir("domblklist", "-c", self.control)
        process.terminate()
        self.assertEqual(notify.recv(100), b"STOPPING=1")
        self.assertEqual(process.wait(timeout=30), 0)


class Blockpull(ServeTestCase):
    def setUp(self):
        super().setUp()
        self.make_chain()
        self.weir("convert", "-O", "raw", "top.qcow2", "expected.raw")
        self.layers_before = [self.read("base.raw"), self.read("middle.qcow2")]

    def check_flat(self):
        self.assertIn("No errors", self.qemu_img("check", "top.qcow2"))
        self.qemu_img("compare", "-F", "raw", "top.qcow2", "expected.raw")
        self.assertEqual([self.read("base.raw"), self.read("middle.qcow2")], self.layers_before)

    def test_whole_chain(self):
        running = self.serve_domain()
        self.weir("blockpull", "-c", self.control, "vda", "--wait", "--verbose")
        self.assertIsNone(self.backing_of("top.qcow2"))
        self.qemu_img("compare", "-f", "raw", "-F", "raw", self.uri(), "expected.raw")
        self.assertEqual(running.stop(), (0, ""))
        self.check_flat()

    def test_down_to_a_base_by_path_and_by_index(self):
        for base in (self.path("base.raw"), "vda[3]"):
            with self.subTest(base=base):
                running = self.serve_domain()
                self.weir("blockpull", "-c", self.control, "--base", base, "--wait")
                running.stop()
                self.assertEqual(self.backing_of("top.qcow2"), self.path("base.raw"))
                self.check_flat()
                self.make_chain()

    def test_keep_relative(self):
        running = self.serve_domain()
        self.weir("blockpull", "-c", self.control, "--base", self.path("base.raw"), "--keep-relative", "--wait")
        running.stop()
        self.assertEqual(self.backing_of("top.qcow2"), "base.raw")
        self.check_flat()

    def test_what_is_refused(self):
        self.serve_domain()
        self.refused("blockpull", "-c", self.control, "vdz", words=["unknown disk 'vdz'", "vda"])
        self.refused("blockpull", "-c", self.control, "--base", "nope", words=["nope"])
        self.refused("blockpull", "-c", self.control, "--base", "vda", words=["vda"])
        self.refused("blockpull", "-c", "nowhere", words=["nowhere", "weir serve"])
        self.weir("blockpull", "-c", self.control, "--bandwidth", "1K")
        self.refused("blockpull", "-c", self.control, words=["busy", "stream"])

    def test_blockjob(self):
        self.serve_domain()
        self.assertEqual(self.job(), {})
        for action in ("--abort", "--pivot", "--pause", "--resume"):
            self.refused("blockjob", "-c", self.control, "vda", action, words=["vda"])
        self.weir("blockpull", "-c", self.control, "vda", "--bandwidth", "64K")
        job = self.job()
        self.assertEqual((job["device"], job["type"], job["speed"], job["ready"], job["io-status"]),
                         ("vda", "stream", 65536, False, "ok"))
        self.weir("blockjob", "-c", self.control, "vda", "--bandwidth", "2")
        self.assertEqual(self.job()["speed"], 2 << 20)
        self.weir("blockjob", "-c", self.control, "vda", "--bandwidth", "1K")
        self.weir("blockjob", "-c", self.control, "vda", "--pause")
        self.assertTrue(self.job()["paused"])
        self.refused("blockjob", "-c", self.control, "vda", "--pause", words=["paused"])
        self.weir("blockjob", "-c", self.control, "vda", "--resume")
        self.assertFalse(self.job()["paused"])
        self.refused("blockjob", "-c", self.control, "vda", "--pivot", words=["complete"])
        self.assertIn("stream: [", self.weir("blockjob", "-c", self.control, "vda").stdout)
        self.weir("blockjob", "-c", self.control, "vda", "--abort")
        self.assertEqual(self.job(), {})
        self.assertEqual(self.backing_of("top.qcow2"), "middle.qcow2")
        self.weir("blockpull", "-c", self.control, "vda", "--wait")
        self.assertIsNone(self.backing_of("top.qcow2"))

    def test_a_wait_ends_by_time_out_and_by_a_signal_and_by_someone_elses_cancel(self):
        self.serve_domain()
        line = self.refused("blockpull", "-c", self.control, "--bandwidth", "1K", "--wait", "--timeout", "1",
                            words=["timed out", "cancelled"])
        self.assertIn("vda", line)
        self.assertEqual(self.job(), {})
        for kill in (lambda waiting: waiting.send_signal(signal.SIGINT),
                     lambda waiting: self.weir("blockjob", "-c", self.control, "--abort")):
            client = self.qmp()
            waiting = subprocess.Popen([self.weir_path, "blockpull", "-c", self.control, "--bandwidth", "1K", "--wait"],
                                       stderr=subprocess.PIPE, text=True)
            client.wait_for_status("vda", "running")
            kill(waiting)
            _, words = waiting.communicate(timeout=30)
            self.assertEqual(waiting.returncode, 1)
            self.assertIn("cancelled", words)
            self.assertEqual(self.job(), {})

    def test_a_stop_while_a_job_runs_is_clean(self):
        running = self.serve_domain()
        self.weir("blockpull", "-c", self.control, "--bandwidth", "256K")
        self.assertEqual(running.stop(), (0, ""))
        self.assertIn("No errors", self.qemu_img("check", "top.qcow2"))
        self.qemu_img("compare", "-F", "raw", "top.qcow2", "expected.raw")

    def test_records_resume_jobs_with_their_speed_and_base(self):
        for end in (lambda running: running.stop(), lambda running: running.kill()):
            running = self.serve_domain("--state", "state")
            self.assertEqual(stat.S_IMODE(os.stat(self.path("state")).st_mode), 0o700)
            self.weir("blockpull", "-c", self.control, "--bandwidth", "1K", "--base", self.path("base.raw"))
            self.weir("blockjob", "-c", self.control, "--bandwidth", "3K")
            self.wait_for_record("3072")
            end(running)
            running = self.serve_domain("--state", "state")
            self.assertEqual((self.job()["type"], self.job()["speed"]), ("stream", 3072))
            self.weir("blockjob", "-c", self.control, "--abort")
            self.assertEqual(running.stop(), (0, ""))
            self.assertEqual(os.listdir(self.path("state")), [])
        running = self.serve_domain("--state", "state")
        self.weir("blockpull", "-c", self.control, "--wait")
        running.stop()
        self.assertEqual(os.listdir(self.path("state")), [])
        self.check_flat()

    def wait_for_record(self, text):
        """Records are written behind the command; a kill before that loses the change, not the job."""
        for _ in range(100000):
            files = [name for name in os.listdir(self.path("state")) if name.endswith(".job.json")]
            if files and text.encode() in self.read(os.path.join("state", files[0])):
                return
        self.fail("no record")

    def test_a_broken_record_is_named_and_kept(self):
        os.mkdir(self.path("state"))
        self.write("state/job-vda.job.json", b"{")
        running = self.serve_domain("--state", "state")
        code, words = running.stop()
        self.assertEqual(code, 0)
        self.assertIn("state/job-vda.job.json", words)
        self.assertEqual(self.read("state/job-vda.job.json"), b"{")

    def test_the_xml_file_follows_where_asked(self):
        self.make_chain()
        domain = self.domain(("vda", "qcow2", self.path("top.qcow2")))
        before = self.read(domain).replace(b"</domain>", b"<!-- kept --></domain>")
        self.write(domain, before)
        os.chmod(self.path(domain), 0o640)
        running = self.serve("--control", self.control, "--update-xml", domain)
        self.weir("blockpull", "-c", self.control, "vda", "--base", "vda[3]", "--wait")
        chain = json.loads(self.weir("chain", "--json", "--no-open", domain).stdout)["disks"][0]
        self.assertEqual([layer["location"] for layer in chain["layers"]], [self.path("top.qcow2"), self.path("base.raw")])
        self.weir("blockpull", "-c", self.control, "vda", "--wait")
        self.assertEqual(running.stop(), (0, ""))
        chain = json.loads(self.weir("chain", "--json", "--no-open", domain).stdout)["disks"][0]
        self.assertEqual(([layer["format"] for layer in chain["layers"]], chain["terminated"]), (["qcow2"], True))
        self.assertIn(b"<!-- kept --></domain>", self.read(domain))
        self.assertEqual(stat.S_IMODE(os.stat(self.path(domain)).st_mode), 0o640)
        for lower in ("middle.qcow2", "base.raw"):
            os.unlink(self.path(lower))
        self.serve("--control", self.control, domain)
        self.refused("serve", "--control", self.path("other"), "--update-xml", "-U", "--read-only", "top.qcow2",
                     words=["top.qcow2", "no XML"])

    def test_live_xml(self):
        self.serve_domain()
        self.weir("blockpull", "-c", self.control, "--base", self.path("base.raw"), "--wait")
        xml = self.qmp().command("weir-dumpxml")["return"]["xml"]
        self.assertNotIn("middle.qcow2", xml)
        self.assertIn("base.raw", xml)
        self.weir("blockpull", "-c", self.control, "--wait")
        self.assertNotIn("base.raw", self.weir("dumpxml", "-c", self.control).stdout)


if __name__ == "__main__":
    unittest.main()

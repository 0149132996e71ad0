"""The control socket against qemu-storage-daemon: the same commands, the same replies and events in the same order."""
import json
import os
import socket
import subprocess
import unittest

from weir_cli import CliTestCase, QmpClient


def text(reply):
    """A reply without what may differ between two builds."""
    return json.dumps(reply, sort_keys=True)


class Transcript(CliTestCase):
    """Each conversation is held with both servers; replies and events must be equal."""

    def start_daemon(self, folder):
        control = os.path.join(folder, "control")
        process = subprocess.Popen(
            ["qemu-storage-daemon", "--chardev", f"socket,id=c,path={control},server=on,wait=off", "--monitor",
             "chardev=c", "--blockdev", "driver=file,filename=top.qcow2,node-name=file",
             "--blockdev", "driver=qcow2,file=file,node-name=vda,discard=unmap", "--pidfile", os.path.join(folder, "pid")],
            cwd=folder)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        while not os.path.exists(os.path.join(folder, "pid")):
            self.assertIsNone(process.poll(), "qemu-storage-daemon ended")
        return control

    def start_weir(self, folder):
        control = os.path.join(folder, "control")
        self.serve("--control", control, "--export", "vda", os.path.join(folder, "top.qcow2"))
        return control

    def hold(self, conversation, *, negotiate=True):
        """Holds it with both; returns both transcripts."""
        transcripts = []
        for name, start in (("daemon", self.start_daemon), ("weir", self.start_weir)):
            folder = self.path(name)
            os.mkdir(folder)
            outer, self.folder = self.folder, folder
            try:
                # Enough that a step limited to 64 KiB/s does not end while one talks about it.
                self.qemu_img("create", "-q", "-f", "qcow2", "base.qcow2", "16M")
                self.qemu_io("base.qcow2", "write -P 1 0 8M")
                self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
            finally:
                self.folder = outer
            client = QmpClient(start(folder), negotiate)
            self.addCleanup(client.close)
            transcripts.append(conversation(client))
        return transcripts

    def assert_alike(self, conversation, **options):
        theirs, ours = self.hold(conversation, **options)
        self.assertEqual(list(map(text, ours)), list(map(text, theirs)))

    def test_negotiation_and_malformed_requests(self):
        requests = ['{"execute":"query-version"}', '{"execute":"nope","id":5}', '{"execute":"qmp_capabilities","id":{"a":[1]}}',
                    '{"execute":"qmp_capabilities"}', '{"execute":"nope"}', '{"exec":"nope"}', '{}', '{"execute":5}',
                    '{"execute":"query-jobs","zz":1,"id":9}', '{"execute":"query-jobs","arguments":[]}',
                    '{"execute":"query-jobs","arguments":{"a":1}}', "[1]", "5", '"text"', "null",
                    '{"execute":"query-jobs","id":null}', '{"execute":"query-jobs","id":"\\u00e9"}',
                    '{"execute":"query-version","arguments":{}}', '{"execute":\n"query-jobs"\r\n}',
                    '{"execute":"query-status"}']

        def converse(client):
            replies = [client.raw(request + "\n") for request in requests]
            return [{**reply, "return": "version"} if "package" in str(reply) else reply for reply in replies]
        self.assert_alike(converse, negotiate=False)

    def test_requests_need_no_separator_and_keep_their_order(self):
        def converse(client):
            client.send('{"execute":"query-jobs","id":1}{"execute":"nope","id":2}  {"execute":"query-block-jobs","id":3}\n')
            return [client.read() for _ in range(3)]
        self.assert_alike(converse)

    def test_argument_errors(self):
        requests = [{"execute": "block-stream"}]
        requests += [{"execute": "block-stream", "arguments": arguments} for arguments in (
            {"device": 5}, {"device": "vda", "speed": "x"}, {"device": "vda", "speed": 1.5}, {"device": None},
            {"device": "vda", "auto-finalize": 1}, {"device": "vda", "on-error": "zz"}, {"device": "vda", "zz": "zz"},
            {"device": "nope"}, {"device": "vda", "job-id": "1bad"}, {"device": "vda", "job-id": "a b"},
            {"device": "vda", "job-id": "j", "base": "nope"}, {"device": "vda", "job-id": "j", "base-node": "nope"},
            {"device": "vda", "job-id": "j", "base-node": "vda", "base": "x"},
            {"device": "vda", "job-id": "j", "bottom": "vda", "base": "x"},
            {"device": "vda", "job-id": "j", "bottom": "vda", "base-node": "x"},
            {"device": "vda", "job-id": "j", "backing-file": "x"},
            {"device": "vda", "job-id": "j", "speed": -1})]
        for family, name in (("block-job", "device"), ("job", "id")):
            for verb in ("cancel", "pause", "resume", "complete", "finalize", "dismiss"):
                argument = "id" if verb in ("finalize", "dismiss") else name
                requests += [{"execute": f"{family}-{verb}"}, {"execute": f"{family}-{verb}", "arguments": {argument: "nope"}},
                             {"execute": f"{family}-{verb}", "arguments": {argument: "nope", "x": 1}}]
        requests += [{"execute": "block-job-set-speed", "arguments": {"device": "nope", "speed": 1}},
                     {"execute": "block-job-set-speed", "arguments": {"device": "nope"}}]
        self.assert_alike(lambda client: [client.raw(json.dumps(request) + "\n") for request in requests])

    def test_a_job_from_start_to_cancel(self):
        def converse(client):
            said = [client.command("block-stream", device="vda", job_id="j", speed=65536)]
            said += [client.command("block-stream", device="vda", job_id="j"), client.command("block-stream", device="vda", job_id="k")]
            for verb in ("complete", "finalize", "dismiss"):
                said.append(client.command(f"job-{verb}", id="j"))
            said += [client.command("block-job-complete", device="j"), client.command("block-job-resume", device="j"),
                     client.command("job-resume", id="j"), client.command("block-job-set-speed", device="j", speed=-1),
                     client.command("block-job-set-speed", device="j", speed=4096)]
            said.append(client.command("block-job-pause", device="j"))
            client.wait_for_status("j", "paused")
            said += [client.command("block-job-pause", device="j"), client.command("job-pause", id="j")]
            for query in ("query-block-jobs", "query-jobs"):
                job = client.command(query)["return"][0]
                said.append({key: value for key, value in job.items()
                             if key not in ("offset", "len", "current-progress", "total-progress")})
            said.append(client.command("block-job-cancel", device="j"))
            said.append(client.command("block-job-cancel", device="j", force=True))
            client.wait_for_status("j", "null")
            said += [client.command("query-jobs"), client.command("query-block-jobs")]
            for event in client.take_events():
                for key in ("offset", "len"):
                    event["data"].pop(key, None)
                said.append(event)
            return said
        self.assert_alike(converse)

    def test_a_job_that_waits_to_be_finalized_and_dismissed(self):
        def converse(client):
            said = [client.command("block-stream", device="vda", job_id="j", auto_finalize=False, auto_dismiss=False)]
            client.wait_for_status("j", "pending")
            said += [client.command("query-jobs")["return"][0]["status"], client.command("job-pause", id="j"),
                     client.command("job-finalize", id="j")]
            client.wait_for_status("j", "concluded")
            said += [client.command("query-jobs")["return"][0]["status"], client.command("job-cancel", id="j"),
                     client.command("block-job-dismiss", id="j")]
            client.wait_for_status("j", "null")
            said.append(client.command("query-jobs"))
            for event in client.take_events():
                for key in ("offset", "len"):
                    event["data"].pop(key, None)
                said.append(event)
            return said
        self.assert_alike(converse)

    def test_a_job_that_ends_by_itself(self):
        def converse(client):
            said = [client.command("block-stream", device="vda", job_id="j")]
            client.wait_for_status("j", "null")
            for event in client.take_events():
                for key in ("offset", "len"):
                    event["data"].pop(key, None)
                said.append(event)
            node = next(node for node in client.command("query-named-block-nodes", flat=True)["return"]
                        if node["node-name"] == "vda")
            said += [node["backing_file_depth"], "backing-filename" in node["image"], node["drv"], node["ro"]]
            return said
        self.assert_alike(converse)

    def test_the_nbd_server_and_its_exports(self):
        def converse(client):
            address = {"type": "unix", "data": {"path": os.path.join(self.path("shared"), "nbd")}}
            os.makedirs(self.path("shared"), exist_ok=True)
            export = {"type": "nbd", "id": "e", "node-name": "vda", "name": "n", "writable": True}
            said = [client.command("nbd-server-stop"), client.command("block-export-add", **export),
                    client.command("nbd-server-start"), client.command("nbd-server-start", addr={"type": "zz"}),
                    client.command("nbd-server-start", addr={"type": "unix"}),
                    client.command("nbd-server-start", addr={"type": "unix", "data": {}}),
                    client.command("nbd-server-start", addr=address), client.command("nbd-server-start", addr=address),
                    client.command("block-export-add", **{**export, "node-name": "zz"}),
                    client.command("block-export-add", **{**export, "id": "1 x"}), client.command("block-export-add", **export),
                    client.command("block-export-add", **export), client.command("block-export-add", **{**export, "id": "e2"}),
                    client.command("query-block-exports"), client.command("block-export-del", id="zz"),
                    client.command("block-export-del", id="e", mode="zz"), client.command("block-export-del", id="e"),
                    client.command("query-block-exports"), client.command("nbd-server-stop"),
                    client.command("nbd-server-stop")]
            return said + client.take_events()
        self.assert_alike(converse)

    def test_node_facts(self):
        def converse(client):
            nodes = client.command("query-named-block-nodes")["return"]
            node = next(node for node in nodes if node["node-name"] == "vda")
            return [{key: node[key] for key in sorted(node) if key not in ("image", "file", "backing_file", "cache", "active")},
                    node["image"]["format-specific"], node["image"]["backing-filename-format"],
                    node["image"]["backing-image"]["virtual-size"]]
        self.assert_alike(converse)


class Clients(CliTestCase):
    def setUp(self):
        super().setUp()
        self.make_chain()
        self.control = self.path("control")
        self.serve("--control", self.control, "--export", "vda", "top.qcow2")

    def client(self, **options):
        client = QmpClient(self.control, **options)
        self.addCleanup(client.close)
        return client

    def test_events_reach_every_negotiated_client_and_no_other(self):
        first, second, silent = self.client(), self.client(), self.client(negotiate=False)
        first.command("block-stream", device="vda")
        for client in (first, second):
            client.wait_for_status("vda", "null")
        self.assertEqual(first.take_events(), second.take_events())
        silent.send('{"execute":"query-jobs"}\n')
        self.assertEqual(silent.read()["error"]["class"], "CommandNotFound")

    def test_a_client_that_never_reads_does_not_hold_up_others(self):
        silent = self.client()
        flood = b'{"execute":"query-named-block-nodes"}' * 3000
        silent.connection.settimeout(1)
        try:
            for _ in range(20):
                silent.connection.sendall(flood)
        except (TimeoutError, socket.timeout, BrokenPipeError):
            pass
        busy = self.client()
        for _ in range(20):
            self.assertIn("return", busy.command("query-jobs"))

    def test_hostile_bytes(self):
        for junk in (b"\0" * 100 + b"\n", b"[" * 100000 + b"\n", b'{"execute":"' + b"x" * 3000000 + b'"}\n', b"\xff\xfe{}\n",
                     b'{"execute" "x"}\n', b"]\n", b'{"a":' * 1000 + b"\n"):
            client = self.client()
            self.assertEqual(client.raw(junk)["error"]["class"], "GenericError")
            while True:
                # What follows a mistake on other lines may be a mistake too; a good request is answered in the end.
                reply = client.raw('{"execute":"query-jobs","id":"good"}\n')
                if reply.get("id") == "good":
                    break
            self.assertEqual(reply["return"], [])

    def test_a_request_in_single_bytes(self):
        client = self.client()
        for byte in b'{"execute":"query-jobs"}\n':
            client.send(bytes([byte]))
        self.assertEqual(client.read(), {"return": []})

    def test_ctl(self):
        done = self.weir("ctl", "-c", self.control, '{"execute":"query-jobs","id":7}')
        self.assertEqual(json.loads(done.stdout), {"return": [], "id": 7})
        done = self.weir("ctl", "-c", self.control, '{"execute":"nope"}', expected=1)
        self.assertEqual(json.loads(done.stdout)["error"]["class"], "CommandNotFound")

    def test_base_node_bottom_and_backing_file(self):
        client = self.client()
        nodes = [node["node-name"] for node in client.command("query-named-block-nodes")["return"]]
        self.assertEqual(nodes[0], "vda")
        self.assertEqual(len(nodes), 3)
        self.assertIn("error", client.command("block-stream", device="vda", base_node="vda"))
        self.assertEqual(client.command("block-stream", device="vda", bottom=nodes[1], backing_file="./base.raw"), {"return": {}})
        client.wait_for_status("vda", "null")
        info = json.loads(self.qemu_img("info", "-U", "--output=json", "top.qcow2"))
        self.assertEqual(info["backing-filename"], "./base.raw")


if __name__ == "__main__":
    unittest.main()

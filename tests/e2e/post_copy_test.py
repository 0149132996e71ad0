"""A guest starts on layers that are far away and slow, the base on an NBD server and the middle on a web server with
TLS, and is streamed to local storage while it runs. Then the servers go, and nobody notices. The guest's own connection
to its disk is secured by TLS, too."""
import os
import subprocess
import time
import unittest

from certificates import make_certificates
from guest_chain import GuestChain
from guest_test_case import GuestTestCase
from servers import WeirServer, wait_for_job
from tools import ToolError, run
from web_server import WebServer


class RemoteChain(GuestChain):
    """The usual chain, its lower layers named where they are served."""

    def name_servers(self, nbd_socket, web_port):
        local = self.domain_xml()
        remote = local.replace(
            f"<backingStore type='file'>\n        <format type='qcow2'/>\n        <source file='{self.middle}'/>",
            "<backingStore type='network'>\n        <format type='qcow2'/>\n"
            f"        <source protocol='https' name='middle.qcow2'><host name='127.0.0.1' port='{web_port}'/>"
            "<ssl verify='no'/></source>")
        remote = remote.replace(
            f"<backingStore type='file'>\n          <format type='raw'/>\n          <source file='{self.base}'/>",
            "<backingStore type='network'>\n          <format type='raw'/>\n"
            f"          <source protocol='nbd'><host transport='unix' socket='{nbd_socket}'/></source>")
        assert remote.count("type='network'") == 2
        with open(self.xml, "w", encoding="utf-8") as file:
            file.write(remote)


class PostCopy(GuestTestCase):
    def serve_base(self, chain):
        """nbdkit with 4 ms for each read, and no more than 64 MiB/s."""
        path = f"{self.folder}/base.sock"
        server = subprocess.Popen(["nbdkit", "-f", "-r", "-U", path, "--filter=delay", "--filter=rate", "file", chain.base,
                                   "rdelay=4ms", "rate=512M"], stdin=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        end = time.monotonic() + 30
        while not os.path.exists(path):
            if server.poll() is not None or time.monotonic() > end:
                raise ToolError("nbdkit does not serve")
            time.sleep(0.02)
        return server, path

    def serve_middle(self, chain, certificates):
        with open(chain.middle, "rb") as file:
            server = WebServer(self, {"/middle.qcow2": file.read()}, certificates=certificates)
        server.misbehave = lambda *_: time.sleep(0.01)
        return server

    def test_a_guest_leaves_slow_servers_behind(self):
        os.environ["no_proxy"] = "127.0.0.1"
        chain = RemoteChain(self.folder)
        certificates = make_certificates(f"{self.folder}/certificates")
        nbd, nbd_socket = self.serve_base(chain)
        web = self.serve_middle(chain, certificates)
        chain.name_servers(nbd_socket, web.port)
        credentials = f"{self.folder}/credentials"
        run(os.environ["WEIR"], "tls", "init", credentials)
        server = self.started(WeirServer(self.folder, chain, options=("--tls-creds", credentials)))
        guest = self.boot(server, credentials=credentials)
        guest.start_writing()
        guest.wait_written(8)
        server.pull()
        wait_for_job(server, lambda job: not job, 400)
        nbd.kill()
        nbd.wait()
        web.stop()
        guest.wait_written(guest.written + 8)
        guest.stop_writing()
        guest.verify()
        guest.power_off()
        errors = [event for event in server.events() if event["event"] in ("BLOCK_JOB_ERROR", "BLOCK_IO_ERROR")]
        self.assertEqual(errors, [])
        server.stop()
        self.assertGreater(chain.prove_all(), 8)


if __name__ == "__main__":
    unittest.main()

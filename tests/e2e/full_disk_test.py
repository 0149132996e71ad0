"""The disk of the top layer fills up during streaming: the job fails or pauses as asked, the guest's data is safe,
and with more room the job completes. Runs in a mount namespace of its own, for a small tmpfs."""
import os
import subprocess
import sys
import unittest

from guest_chain import GuestChain
from guest_image import MIB
from guest_test_case import GuestTestCase
from servers import make_server, wait_for_job
from tools import run

FILES_OF_THE_GUEST = 12


class FullDisk(GuestTestCase):
    def setUp(self):
        super().setUp()
        self.small = os.path.join(self.folder, "small")
        os.mkdir(self.small)
        run("mount", "-t", "tmpfs", "-o", f"size={24 * MIB}", "weir-e2e", self.small)
        self.addCleanup(run, "umount", self.small)
        self.chain = GuestChain(self.folder, top_folder=self.small)
        self.server = self.started(make_server(self.folder, self.chain))
        self.guest = self.boot(self.server)
        self.guest.start_writing()
        self.guest.wait_written(FILES_OF_THE_GUEST)
        self.guest.stop_writing()
        self.guest.ask("sync", "synced")

    def more_room(self):
        run("mount", "-o", f"remount,size={600 * MIB}", self.small)

    def finish(self):
        self.guest.start_writing()
        self.guest.wait_written(self.guest.written + 8)
        self.guest.stop_writing()
        self.guest.verify()
        self.guest.power_off()
        self.server.stop()
        self.assertGreater(self.chain.prove_all(), FILES_OF_THE_GUEST)

    def test_the_job_fails_and_can_be_started_again(self):
        if os.environ.get("WEIR_E2E_SERVER") == "daemon":
            self.server.pull()
            wait_for_job(self.server, lambda job: not job)
        else:
            done = subprocess.run(self.server.pull_command(None, "--wait"), stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 1)
            self.assertTrue(done.stderr.startswith("weir: blockpull: "), done.stderr)
            self.assertIn("No space left on device", done.stderr)
        completed = [event["data"] for event in self.server.events() if event["event"] == "BLOCK_JOB_COMPLETED"]
        self.assertEqual(len(completed), 1)
        self.assertIn("No space left on device", completed[0].get("error", ""))
        self.guest.verify()
        self.more_room()
        self.server.pull()
        wait_for_job(self.server, lambda job: not job)
        self.finish()

    @unittest.skipIf(os.environ.get("WEIR_E2E_SERVER") == "daemon",
                     "while its job is paused for space, QEMU's copy-on-read fails the guest's reads")
    def test_the_job_pauses_and_goes_on(self):
        self.server.qmp("block-stream", job_id="vda", device="vda", on_error="enospc")
        job = wait_for_job(self.server, lambda job: job.get("paused"))
        self.assertEqual(job["io-status"], "nospace")
        self.guest.verify()
        self.more_room()
        self.server.qmp("block-job-resume", device="vda")
        wait_for_job(self.server, lambda job: not job)
        self.finish()


if __name__ == "__main__":
    if os.environ.get("WEIR_OWN_NAMESPACE") != "1":
        os.environ["WEIR_OWN_NAMESPACE"] = "1"
        options = ["--mount"] if os.getuid() == 0 else ["--mount", "--user", "--map-root-user"]
        os.execvp("unshare", ["unshare", *options, sys.executable, os.path.abspath(__file__), *sys.argv[1:]])
    unittest.main()

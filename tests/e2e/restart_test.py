"""kill -9 of the server in the middle of streaming, the guest with it (a power cut): started again, the job goes on
where it was. What was finished is not copied again: the test spoils it in the lower layer, and nobody notices."""
import unittest

from guest_chain import GuestChain
from guest_image import MIB
from guest_test_case import GuestTestCase
from images import sha256_of
from servers import make_server, wait_for_job

KEPT = 24  # files that are durable before the cut


class Restart(GuestTestCase):
    def cut_power_in_the_middle(self, chain):
        server = self.started(make_server(self.folder, chain))
        guest = self.boot(server, name="first")
        guest.start_writing()
        guest.wait_written(KEPT)
        guest.stop_writing()
        guest.ask("sync", "synced")
        guest.start_writing()
        server.pull(16)
        wait_for_job(server, lambda job: job.get("offset", 0) > chain.size // 4)
        server.kill()
        guest.kill()
        self.assertLess(guest.written, 160, "files were rewritten: nothing can be said of the first ones")

    def spoil_what_is_finished(self, chain):
        """Overwrites in base.raw all that the top owns. Returns how much that is."""
        owned = chain.owned_ranges()
        with open(chain.base, "r+b") as base:
            for offset, length in owned:
                base.seek(offset)
                base.write(b"\xa5" * length)
        chain.sums[chain.base] = sha256_of(chain.base)
        return sum(length for _, length in owned)

    def restart(self, top_format):
        chain = GuestChain(self.folder, top_format)
        self.cut_power_in_the_middle(chain)
        self.assertGreater(self.spoil_what_is_finished(chain), 8 * MIB)
        server = self.started(make_server(self.folder, chain))
        guest = self.boot(server, name="second")
        self.assertGreater(guest.verify(KEPT), KEPT)
        guest.ask(f"forget {KEPT}", "forgotten")
        guest.start_writing()
        server.pull(48)
        wait_for_job(server, lambda job: not job)
        guest.stop_writing()
        guest.verify()
        guest.power_off()
        server.stop()
        self.assertGreater(chain.prove_all(leaks_allowed=True), KEPT)

    def test_qcow2_top(self):
        self.restart("qcow2")

    def test_qed_top(self):
        self.restart("qed")


if __name__ == "__main__":
    unittest.main()

"""A chain is flattened under a real guest that keeps writing: the guest's data, the image, the file system and the
lower layers are all as they should be afterwards, in the words of QEMU's and ext4's own tools."""
import os
import unittest

from guest_chain import GuestChain
from guest_test_case import GuestTestCase
from servers import make_server, wait_for_job


class Flatten(GuestTestCase):
    def flatten(self, top_format, bus):
        chain = GuestChain(self.folder, top_format)
        server = self.started(make_server(self.folder, chain))
        guest = self.boot(server, bus=bus)
        guest.start_writing()
        guest.wait_written(16)
        server.pull(24)
        wait_for_job(server, lambda job: job.get("offset", 0) > 0)
        written_before = guest.written
        wait_for_job(server, lambda job: not job)
        self.assertGreater(guest.written, written_before, "the guest was held up for as long as the job ran")
        guest.wait_written(guest.written + 8)
        written = guest.stop_writing()
        self.assertGreater(guest.verify(), min(written, 100) // 2)
        guest.power_off()
        server.stop()
        self.assertGreater(chain.prove_all(), 30)
        return chain

    def test_qcow2_top_on_nvme(self):
        self.flatten("qcow2", "nvme")

    def test_qed_top_on_virtio(self):
        self.flatten("qed", "virtio")

    @unittest.skipIf(os.environ.get("WEIR_E2E_SERVER") == "daemon", "QEMU does not know the domain XML")
    def test_the_domain_xml_follows_and_serves_again(self):
        chain = self.flatten("qcow2", "nvme")
        with open(chain.xml) as file:
            text = file.read()
        self.assertIn(chain.top, text)
        self.assertNotIn(chain.base, text)
        self.assertNotIn(chain.middle, text)
        os.rename(chain.base, chain.base + ".away")
        os.rename(chain.middle, chain.middle + ".away")
        server = self.started(make_server(self.folder, chain))
        guest = self.boot(server, name="second")
        self.assertGreater(guest.verify(), 30)
        guest.power_off()
        server.stop()


if __name__ == "__main__":
    unittest.main()

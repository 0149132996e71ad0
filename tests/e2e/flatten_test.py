"""A chain is flattened under a real guest that keeps writing: the guest's data, the image, the file system and the
lower layers are all as they should be afterwards, in the words of QEMU's and ext4's own tools."""
import os
import unittest

from guest_chain import GuestChain
from guest_test_case import GuestTestCase
from servers import make_server, wait_for_job


class Flatten(GuestTestCase):
    def flatten(self, top_format, bus):
        """Returns the chain, flat and proven, and the domain XML that the server gave for it at the end."""
        chain = GuestChain(self.folder, top_format)
        server = self.started(make_server(self.folder, chain))
        guest = self.boot(server, bus=bus)
        guest.start_writing()
        guest.wait_written(16)
        server.pull(32)
        wait_for_job(server, lambda job: job.get("offset", 0) > 0)
        written_before = guest.written
        wait_for_job(server, lambda job: not job)
        self.assertGreater(guest.written, written_before, "the guest was held up for as long as the job ran")
        guest.wait_written(guest.written + 8)
        written = guest.stop_writing()
        self.assertGreater(guest.verify(), min(written, 100) // 2)
        guest.power_off()
        xml = server.live_xml()
        server.stop()
        self.assertGreater(chain.prove_all(), 30)
        return chain, xml

    def test_qed_top_on_virtio(self):
        self.flatten("qed", "virtio")

    def test_qcow2_top_on_nvme_and_again_from_the_live_xml(self):
        chain, xml = self.flatten("qcow2", "nvme")
        if not xml:
            return  # qemu-storage-daemon knows no domain XML
        self.assertIn(chain.top, xml)
        self.assertNotIn(chain.base, xml)
        self.assertNotIn(chain.middle, xml)
        with open(chain.xml, "w") as file:
            file.write(xml)
        os.unlink(chain.base)
        os.unlink(chain.middle)
        server = self.started(make_server(self.folder, chain))
        guest = self.boot(server, name="second")
        self.assertGreater(guest.verify(), 30)
        guest.power_off()
        server.stop()


if __name__ == "__main__":
    unittest.main()

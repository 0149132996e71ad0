"""What the tests with a real guest share: a folder that goes away after success, and stays, named, after failure."""
import os
import shutil
import tempfile
import unittest

from guest import Guest


class GuestTestCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="weir-e2e.")
        self.addCleanup(self._clean)

    def _clean(self):
        outcome = self._outcome.result
        if any(case is self for case, _ in outcome.failures + outcome.errors) or os.environ.get("WEIR_KEEP"):
            print(f"images and logs are kept in {self.folder}")
        else:
            shutil.rmtree(self.folder)

    def boot(self, server, **options):
        """A guest on the server's disk that is up, and ends with the test at the latest."""
        guest = Guest(self.folder, server.socket, server.export, **options)
        self.addCleanup(guest.kill)
        guest.wait_for("ready", 180)
        return guest

    def started(self, server):
        """The server, running; it ends with the test at the latest."""
        self.addCleanup(server.kill)
        return server.start()

"""weir chain and weir dumpxml on images made by qemu-img; what is written is checked against libvirt's schema."""

import json
import os
import subprocess
import tempfile
import unittest

WEIR = os.environ["WEIR"]
SCHEMA = "/usr/share/libvirt/schemas/domain.rng"

DOMAIN = """<domain type='qemu'>
  <name>guest</name>
  <memory unit='KiB'>65536</memory>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
  </os>
  <metadata><x:note xmlns:x="urn:x">kept</x:note></metadata>
  <devices>
%s  </devices>
</domain>
"""

DISK = """    <disk type='file' device='disk'>
      <driver name='qemu' type='%s'/>
      <source file='%s'/>
%s      <target dev='vda' bus='virtio'/>
    </disk>
"""


def weir(*words):
    return subprocess.run([WEIR, *words], capture_output=True, text=True, timeout=60)


def qemu_img(*words):
    subprocess.run(["qemu-img", *words], check=True, capture_output=True, timeout=60)


class ChainTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="weir-chain-")
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        qemu_img("create", "-f", "raw", self.path("base"), "1M")
        qemu_img("create", "-f", "qcow2", "-b", "base", "-F", "raw", self.path("mid"))
        qemu_img("create", "-f", "qcow2", "-b", self.path("mid"), "-F", "qcow2", self.path("top"))

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, text, name="guest.xml"):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def ok(self, *words):
        done = weir(*words)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        return done.stdout

    def refused(self, *words, code=1):
        done = weir(*words)
        self.assertEqual(done.returncode, code, done.stdout)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def disks(self, *words):
        return json.loads(self.ok("chain", "--json", *words))["disks"]

    def validate(self, text):
        checked = subprocess.run(["xmllint", "--noout", "--relaxng", SCHEMA, "-"], input=text, capture_output=True,
                                 text=True, timeout=60)
        self.assertEqual(checked.returncode, 0, checked.stderr + text)

    # chain -----------------------------------------------------------------------------------------------------

    def test_an_image_is_followed_to_its_base(self):
        (disk,) = self.disks(self.path("top"))
        self.assertTrue(disk["terminated"])
        self.assertIsNone(disk["mirror"])
        self.assertEqual([(layer["index"], layer["format"], layer["type"], layer["location"]) for layer in disk["layers"]],
                         [(0, "qcow2", "file", self.path("top")), (1, "qcow2", "file", self.path("mid")),
                          (2, "raw", "file", self.path("base"))])

    def test_no_open_only_parses(self):
        (disk,) = self.disks("--no-open", self.write(DOMAIN % DISK % ("qcow2", "/nowhere", "")))
        self.assertEqual((disk["target"], disk["device"], disk["readonly"], disk["terminated"]), ("vda", "disk", False, False))
        self.assertEqual([layer["location"] for layer in disk["layers"]], ["/nowhere"])

    def test_a_domain_is_completed_from_the_headers(self):
        (disk,) = self.disks(self.write(DOMAIN % DISK % ("qcow2", self.path("top"), "")))
        self.assertEqual([layer["format"] for layer in disk["layers"]], ["qcow2", "qcow2", "raw"])
        self.assertEqual([layer["spec"] for layer in disk["layers"]], ["vda[1]", "vda[2]", "vda[3]"])

    def test_a_terminator_hides_the_header(self):
        (disk,) = self.disks(self.write(DOMAIN % DISK % ("qcow2", self.path("top"), "      <backingStore/>\n")))
        self.assertEqual(len(disk["layers"]), 1)

    def test_a_missing_driver_type_is_raw(self):
        xml = DOMAIN % f"<disk><source file='{self.path('top')}'/><target dev='vda'/></disk>"
        (disk,) = self.disks(self.write(xml))
        self.assertEqual([layer["format"] for layer in disk["layers"]], ["raw"])

    def test_layers_are_looked_up(self):
        xml = self.write(DOMAIN % DISK % ("qcow2", self.path("top"), ""))
        for spec, name in (("vda", "top"), ("vda[2]", "mid"), ("vda[3]", "base"), (self.path("base"), "base"),
                           ("base", "base")):
            self.assertEqual(json.loads(self.ok("chain", "--lookup", spec, xml))["location"], self.path(name), spec)
        for spec in ("vda[0]", "vda[4]", "vda[-1]", "vda[1][1]", "vdb", "/nothing"):
            self.assertIn(spec, self.refused("chain", "--lookup", spec, xml))

    def test_lookup_goes_by_the_names_in_the_description(self):
        listed = ("      <backingStore type='file' index='5'><format type='raw'/><source file='/b'/><backingStore/>"
                  "</backingStore>\n")
        xml = self.write(DOMAIN % (DISK % ("qcow2", "/t", listed)).replace("file='/t'", "file='/t' index='3'"))
        layer = json.loads(self.ok("chain", "--lookup", "vda[5]", xml))
        self.assertEqual((layer["location"], layer["index"]), ("/b", 5))
        self.refused("chain", "--lookup", "vda[2]", "--no-open", xml)

    def test_one_disk_of_several(self):
        other = DISK % ("raw", self.path("base"), "")
        xml = self.write(DOMAIN % (DISK % ("qcow2", self.path("top"), "") + other.replace("vda", "vdb")))
        (disk,) = self.disks("--disk", "vdb", xml)
        self.assertEqual(disk["target"], "vdb")
        self.assertIn("vdc", self.refused("chain", "--disk", "vdc", xml))

    def test_backing_strings(self):
        layer = json.loads(self.ok("chain", "--json", "--backing-string", "nbd+unix:///exp?socket=/s"))
        self.assertEqual((layer["rc"], layer["type"], layer["protocol"], layer["name"]), (0, "network", "nbd", "exp"))
        self.assertEqual(layer["hosts"], [{"transport": "unix", "socket": "/s"}])
        layer = json.loads(self.ok("chain", "--json", "--backing-string", "http://u:p@example.com/f"))
        self.assertEqual((layer["rc"], layer["hosts"][0]["port"]), (1, "80"))
        self.assertNotIn("p@", json.dumps(layer))
        layer = json.loads(self.ok("chain", "--json", "--backing-string",
                                   'json:{"driver":"raw","offset":5,"size":6,"file":{"driver":"file","filename":"/p"}}'))
        self.assertEqual(layer["slice"], {"offset": 5, "size": 6})
        self.refused("chain", "--json", "--backing-string", "a:b")

    def test_mirrors(self):
        mirror = ("      <mirror type='file' file='/n' format='qcow2' job='copy' ready='yes'><format type='qcow2'/>"
                  "<source file='/n'/><backingStore/></mirror>\n")
        (disk,) = self.disks("--no-open", self.write(DOMAIN % DISK % ("qcow2", "/t", mirror)))
        shown = disk["mirror"]
        self.assertEqual((shown["format"], shown["type"], shown["location"], shown["job"], shown["ready"]),
                         ("qcow2", "file", "/n", "copy", "yes"))

    # What is refused -------------------------------------------------------------------------------------------

    def test_missing_backing_image(self):
        os.remove(self.path("base"))
        message = self.refused("chain", self.path("top"))
        self.assertIn(self.path("base"), message)
        self.assertIn(self.path("mid"), message)

    def test_an_unrecorded_format_that_could_be_a_guests_work(self):
        subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", self.path("mid"), self.path("top")],
                       capture_output=True, timeout=60)
        with open(self.path("top"), "r+b") as file:  # a header without the format extension
            head = bytearray(file.read(4096))
            at = head.find(bytes.fromhex("e2792aca"))
            if at >= 0:
                head[at:at + 4] = bytes.fromhex("77777777")
                file.seek(0)
                file.write(head)
        message = self.refused("chain", self.path("top"))
        self.assertIn("not recorded", message)
        self.assertIn("rebase", message)

    def test_a_loop(self):
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", self.path("top"), self.path("mid"))
        self.assertIn("loops", self.refused("chain", self.path("top")))

    def test_network_names_in_headers(self):
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd://localhost/e", self.path("mid"))
        self.assertIn("--allow-remote-backing", self.refused("chain", self.path("top")))

    def test_a_syntax_error_has_line_and_column(self):
        path = self.write("<domain>\n  <devices>\n </domain>\n")
        self.assertIn(f"weir: chain: {path}:3:", self.refused("chain", path))
        self.assertIn(f"weir: dumpxml: {path}:3:", self.refused("dumpxml", path))

    def test_wrong_usage(self):
        for words in (("chain",), ("chain", "a", "b"), ("chain", "--what", "a"), ("dumpxml",),
                      ("chain", "--backing-string", "x", "y")):
            self.assertEqual(weir(*words).returncode, 2, words)

    # dumpxml ---------------------------------------------------------------------------------------------------

    def test_an_untouched_document_keeps_every_byte(self):
        text = "<?xml version=\"1.0\"?>\n<!-- c -->" + DOMAIN % (DISK % ("qcow2", "/t", "      <backing  file=\"/b\"></backing>\n"))
        self.assertEqual(self.ok("dumpxml", self.write(text)), text)

    def test_resolve_fills_the_chain_in(self):
        text = self.ok("dumpxml", "--resolve", self.write(DOMAIN % DISK % ("qcow2", self.path("top"), "")))
        self.assertIn(f"""      <backingStore type='file'>
        <format type='qcow2'/>
        <source file='{self.path("mid")}'/>
        <backingStore type='file'>
          <format type='raw'/>
          <source file='{self.path("base")}'/>
          <backingStore/>
        </backingStore>
      </backingStore>
""", text)
        self.assertIn("<x:note xmlns:x=\"urn:x\">kept</x:note>", text)
        self.validate(text)
        self.assertEqual(self.ok("dumpxml", "--resolve", self.write(text)), text, "a second time changes nothing")

    def test_old_spellings_become_valid(self):
        spellings = (
            "<backingFile><source file='{mid}' format='qcow2'/><source file='{base}' format='raw'/></backingFile>",
            "<backingFile><driver name='qemu' type='qcow2'/><source file='{mid}'/><backingFile><driver name='qemu' "
            "type='raw'/><source file='{base}'/></backingFile></backingFile>",
            "<backing file='{mid}' format='qcow2'/><backing file='{base}' format='raw'/>",
            "<backingFile/>",
            "<backing file='{base}'/>",
            "<mirror file='/n' format='qcow2'/>",
            "<mirror><driver type='qed'/><source file='/n'/><backingFile><driver type='raw'/><source file='{base}'/>"
            "</backingFile></mirror>",
            "<mirror><source file='/n' format='qed'/><backing file='{base}' format='raw'/></mirror>",
        )
        for spelling in spellings:
            with self.subTest(spelling):
                inside = "      " + spelling.format(mid=self.path("mid"), base=self.path("base")) + "\n"
                text = self.ok("dumpxml", "--resolve", self.write(DOMAIN % DISK % ("qcow2", self.path("top"), inside)))
                self.assertNotIn("backingFile", text)
                self.assertNotIn("<backing ", text)
                self.validate(text)
                inactive = self.ok("dumpxml", "--inactive", self.write(text))
                self.assertNotIn("<mirror", inactive)
                self.validate(inactive)

    def test_resolve_fails_as_chain_does(self):
        os.remove(self.path("base"))
        self.assertIn(self.path("base"), self.refused("dumpxml", "--resolve",
                                                     self.write(DOMAIN % DISK % ("qcow2", self.path("top"), ""))))

    def test_live_xml_follows_a_pull(self):
        xml = self.write(DOMAIN % DISK % ("qcow2", self.path("top"), ""))
        socket = self.path("control")
        server = subprocess.Popen([WEIR, "serve", "--control", socket, "--nbd", "unix:" + self.path("nbd"), xml],
                                  stdout=subprocess.PIPE, text=True)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait, 60)
        self.addCleanup(server.terminate)
        self.assertEqual(server.stdout.readline(), "weir: ready\n")
        live = self.ok("dumpxml", "-c", socket)
        self.assertIn(f"<source file='{self.path('top')}' index='1'/>", live)
        self.assertIn("<backingStore type='file' index='3'>", live)
        self.validate(live)
        self.assertEqual(len(self.disks(xml)[0]["layers"]), 3, "the chain can be looked at while it is served")
        self.ok("blockpull", "-c", socket, "vda", "--wait")
        pulled = self.ok("dumpxml", "--inactive", "-c", socket)
        self.assertIn(f"<source file='{self.path('top')}'/>\n      <backingStore/>\n", pulled)
        self.validate(pulled)


if __name__ == "__main__":
    unittest.main()

"""The chain that the guest's tests and the demo flatten, and QEMU's word on the result.

    base.raw  (ext4 root file system, every zero written out)  <-  middle.qcow2  <-  top.qcow2 or top.qed

The middle layer holds what differs between base.raw and an edited copy of it: new files, and one of base's removed.
domain.xml names the chain as disk vda.
"""
import json
import os
import shutil

from guest_image import MIB, edit_file_system, make_root_file_system, seeded_file, sums_of
from images import make_difference, sha256_of
from tools import ToolError, run, system_tool

CLUSTER = 65536
# What the guest's file system writes as zeros itself (journal, tables); its writes are not scanned for zeros.
ZEROS_OF_THE_GUEST = 4 * MIB


class GuestChain:
    def __init__(self, folder, top_format="qcow2", size=256 * MIB, data_length=24 * MIB, top_folder=None):
        """Makes the layers in folder; the top, if wanted, elsewhere."""
        os.makedirs(folder, exist_ok=True)
        self.folder, self.top_format, self.size = folder, top_format, size
        self.base, self.middle = f"{folder}/base.raw", f"{folder}/middle.qcow2"
        self.top, self.xml = f"{top_folder or folder}/top.{top_format}", f"{folder}/domain.xml"
        make_root_file_system(self.base, folder, size, data_length)
        self._make_middle()
        self.sums = {path: sha256_of(path) for path in (self.base, self.middle)}
        self.make_top()

    def _make_middle(self):
        edited, tree = f"{self.folder}/edited.raw", f"{self.folder}/edited"
        shutil.copy(self.base, edited)
        names = [str(index) for index in range(9)]
        for name in names:
            seeded_file(f"{tree}/middle/{name}", MIB + 1, f"middle/{name}")
        with open(f"{tree}/sums", "w") as file:
            file.write(sums_of(tree, "middle"))
        commands = [f"write {tree}/middle/{name} /middle/{name}" for name in names]
        edit_file_system(edited, commands + [f"write {tree}/sums /middle/sums"], self.folder)
        shutil.rmtree(tree)
        make_difference(edited, self.base, "raw", self.middle)
        os.unlink(edited)

    def make_top(self):
        """An empty top layer (again), and the domain XML that names the chain."""
        if os.path.exists(self.top):
            os.unlink(self.top)
        run("qemu-img", "create", "-q", "-f", self.top_format, "-b", self.middle, "-F", "qcow2", self.top)
        with open(self.xml, "w") as file:
            file.write(self.domain_xml())

    def domain_xml(self):
        return f"""<domain type='qemu'>
  <name>weir-guest</name>
  <memory unit='MiB'>256</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{self.top_format}' discard='unmap'/>
      <source file='{self.top}'/>
      <backingStore type='file'>
        <format type='qcow2'/>
        <source file='{self.middle}'/>
        <backingStore type='file'>
          <format type='raw'/>
          <source file='{self.base}'/>
          <backingStore/>
        </backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""

    # ---- what must hold once the top is flat and nothing uses it any more; each raises ToolError

    def prove_flat(self):
        info = json.loads(run("qemu-img", "info", "--output=json", self.top))
        if "backing-filename" in info or "full-backing-filename" in info:
            raise ToolError(f"{self.top} still names a backing file: {info.get('backing-filename')}")

    def prove_image_clean(self, leaks_allowed=False):
        """Leaked clusters waste space and harm nothing; only a crash may leave them."""
        run("qemu-img", "check", "-f", self.top_format, self.top, expected=(0, 3) if leaks_allowed else (0,))

    def prove_lower_layers_untouched(self):
        for path, before in self.sums.items():
            if sha256_of(path) != before:
                raise ToolError(f"{path} has changed")

    def export_alone(self, target):
        """The top's content as a raw image, with the lower layers out of its reach."""
        alone = f"{os.path.dirname(self.top)}/alone"
        os.makedirs(alone)
        try:
            os.link(self.top, f"{alone}/top")
            run("qemu-img", "convert", "-f", self.top_format, "-O", "raw", f"{alone}/top", target)
        finally:
            shutil.rmtree(alone)

    def prove_file_system_clean(self, raw):
        run(system_tool("e2fsck"), "-fn", raw)

    def prove_files(self, raw):
        """Every file that has a sum, read from the image by debugfs. Returns their number."""
        out = f"{self.folder}/files"
        os.makedirs(out)
        try:
            commands = [f"rdump /{folder} {out}" for folder in ("base", "middle", "data")]
            script = f"{self.folder}/read.commands"
            with open(script, "w") as file:
                file.write("\n".join(commands) + "\n")
            run(system_tool("debugfs"), "-f", script, raw)
            sums = {}
            for folder, _, names in os.walk(out):
                for name in names:
                    if name == "sums" or os.path.basename(folder) == "sums":
                        with open(os.path.join(folder, name)) as file:
                            sums.update(reversed(line.rstrip("\n").split("  ", 1)) for line in file)
            wrong = [name for name, value in sums.items() if not self._has_sum(out + name, value)]
        finally:
            shutil.rmtree(out)
        if wrong or not sums:
            raise ToolError(f"{len(wrong)} of {len(sums)} files are wrong: {wrong[:10]}")
        return len(sums)

    @staticmethod
    def _has_sum(path, value):
        return os.path.exists(path) and sha256_of(path) == value

    def zeros_that_take_space(self, raw):
        """Bytes that the top stores as data although they read as zeros, and the bytes of zeros in all."""
        stored = [(extent["start"], extent["length"])
                  for extent in json.loads(run("qemu-img", "map", "--output=json", "-f", self.top_format, self.top))
                  if extent["data"] and not extent["zero"]]
        zero = bytes(CLUSTER)
        wasted = 0
        with open(raw, "rb") as file:
            is_zero = [file.read(CLUSTER) == zero for _ in range(self.size // CLUSTER)]
        total = sum(is_zero) * CLUSTER
        for start, length in stored:
            wasted += sum(is_zero[start // CLUSTER:(start + length) // CLUSTER]) * CLUSTER
        return wasted, total

    def owned_ranges(self):
        """(offset, length) of what the top itself answers for, data and zeros."""
        layers = json.loads(run("qemu-img", "map", "--output=json", "-f", self.top_format, self.top))
        return [(extent["start"], extent["length"]) for extent in layers if extent["depth"] == 0 and extent["present"]]

    def prove_all(self, leaks_allowed=False):
        """Every proof there is. Returns the number of files that were checked."""
        self.prove_flat()
        self.prove_image_clean(leaks_allowed)
        self.prove_lower_layers_untouched()
        raw = f"{self.folder}/flat.raw"
        self.export_alone(raw)
        try:
            self.prove_file_system_clean(raw)
            wasted, zeros = self.zeros_that_take_space(raw)
            if wasted > ZEROS_OF_THE_GUEST:
                raise ToolError(f"{wasted} of {zeros} bytes of zeros take space in {self.top}")
            return self.prove_files(raw)
        finally:
            os.unlink(raw)

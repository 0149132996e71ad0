"""A real Linux guest: Debian's cloud kernel and busybox on an ext4 root file system, booted by QEMU (TCG) from an
NBD export. It writes checksummed files to its own disk on command; guest_files/init is its only program.
"""
import glob
import os
import queue
import re
import shutil
import socket
import subprocess
import threading
import time

from guest_image import FILES, lay_busybox
from tools import ToolError, run


class GuestError(ToolError):
    """The guest did not do what it was asked, or says that its disk is damaged."""


class Kernel:
    """The newest cloud kernel, installed or as scripts/setup unpacked it."""

    def __init__(self):
        cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "weir/guest-kernel")
        found = [(image, root) for root in ("/", cache) for image in glob.glob(f"{root}/boot/vmlinuz-*-cloud-amd64")]
        if not found:
            raise GuestError("no Debian cloud kernel in /boot nor unpacked: run scripts/setup")
        self.image, root = found[-1]
        self.version = os.path.basename(self.image).removeprefix("vmlinuz-")
        self.modules = os.path.join(root, "lib/modules", self.version)

    def module_with_dependencies(self, name):
        """Paths in the order in which insmod wants them."""
        path, = glob.glob(f"{self.modules}/kernel/**/{name}.ko", recursive=True)
        with open(path, "rb") as file:
            needs = re.search(rb"\0depends=([^\0]*)\0", file.read()).group(1).decode()
        order = [module for need in filter(None, needs.split(",")) for module in self.module_with_dependencies(need)]
        return order + [path]


def make_initramfs(path, work, kernel, root_disk, modules):
    """For disks whose driver is a module of this kernel."""
    tree = os.path.join(work, "initramfs")
    lay_busybox(tree)
    for folder in ("dev", "root", "modules"):
        os.makedirs(f"{tree}/{folder}")
    order = []
    for name in modules:
        order += [module for module in kernel.module_with_dependencies(name) if module not in order]
    for module in order:
        shutil.copy(module, f"{tree}/modules/")
    with open(f"{tree}/modules/order", "w") as file:
        file.writelines(f"{os.path.basename(module)}\n" for module in order)
    with open(f"{FILES}/initramfs-init") as source, open(f"{tree}/init", "w") as file:
        file.write(source.read().replace("$root_disk", root_disk))
    os.chmod(f"{tree}/init", 0o755)
    run("sh", "-c", f"find . | cpio --quiet -o -H newc > '{path}'", cwd=tree)
    shutil.rmtree(tree)


class Guest:
    """One boot of the guest. Reports arrive in self.reports; words the guest says of damage raise at once."""

    BUSES = {
        "nvme": dict(device="nvme,drive=disk,serial=weir", root="nvme0n1", modules=()),
        "virtio": dict(device="virtio-blk-pci,drive=disk", root="vda", modules=("virtio_pci", "virtio_blk")),
    }

    def __init__(self, work, nbd_socket, export, bus="nvme", name="guest", credentials=None):
        """credentials: a folder of certificates, for a server that wants TLS."""
        self.console = os.path.join(work, f"{name}.console")
        self.reports = queue.Queue()
        self.written = 0  # files written so far, as last reported
        kind = self.BUSES[bus]
        kernel = Kernel()
        port = os.path.join(work, f"{name}.port")
        boot = ["-kernel", kernel.image]
        append = f"root=/dev/{kind['root']} rootfstype=ext4 rw init=/bin/init"
        if kind["modules"]:
            initramfs = os.path.join(work, f"{name}.initramfs")
            make_initramfs(initramfs, work, kernel, kind["root"], kind["modules"])
            boot += ["-initrd", initramfs]
        # no_timer_check: on a busy host the emulated timer may be late at the one moment when the kernel tries it.
        boot += ["-append", f"{append} console=ttyS0 loglevel=5 panic=-1 no_timer_check random.trust_cpu=on"]
        disk = (f"driver=nbd,node-name=disk,export={export},server.type=unix,server.path={nbd_socket},"
                "discard=unmap,detect-zeroes=off")
        secured = []
        if credentials:
            secured = ["-object", f"tls-creds-x509,id=tls,endpoint=client,dir={credentials}"]
            disk += ",tls-creds=tls,tls-hostname=localhost"
        self.log = open(os.path.join(work, f"{name}.qemu"), "wb")
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults",
             "-no-user-config", "-display", "none", "-no-reboot", *boot, *secured, "-blockdev", disk, "-device", kind["device"],
             "-serial", f"file:{self.console}",
             "-chardev", f"socket,id=port,path={port},server=on,wait=off", "-serial", "chardev:port"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            self.port = self._connect(port)
        except BaseException:
            self.kill()
            raise
        threading.Thread(target=self._listen, daemon=True).start()

    def _connect(self, path):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise GuestError(f"qemu ended with {self.process.returncode}:\n{self._tail()}")
            port = socket.socket(socket.AF_UNIX)
            try:
                port.connect(path)
                return port
            except OSError:
                port.close()
                time.sleep(0.02)
        raise GuestError("qemu did not open the guest's serial port within 30 s")

    def _listen(self):
        with self.port.makefile("r", errors="replace", newline="\n") as lines:
            for line in lines:
                words = line.split()
                if words[:1] == ["wrote"]:
                    self.written = int(words[1])
                elif words:
                    self.reports.put(words)
        self.reports.put(["gone"])

    def _tail(self):
        text = ""
        for path in (self.log.name, self.console):
            if os.path.exists(path):
                with open(path, errors="replace") as file:
                    text += f"--- {os.path.basename(path)}\n{file.read()[-3000:]}\n"
        return text

    def wait_for(self, word, timeout=120):
        """Waits for a report and returns its further words."""
        end = time.monotonic() + timeout
        bad = []
        while True:
            try:
                words = self.reports.get(timeout=max(0.001, end - time.monotonic()))
            except queue.Empty:
                raise GuestError(f"the guest did not say '{word}' within {timeout} s\n{self._tail()}") from None
            if words[0] in ("bad", "failed", "unknown"):
                bad.append(" ".join(words))
            elif words[0] == "gone":
                raise GuestError(f"the guest ended before it said '{word}'\n{self._tail()}")
            elif words[0] == word:
                if bad:
                    raise GuestError(f"the guest reports damage: {bad}")
                return words[1:]

    def wait_written(self, files, timeout=180):
        """Waits until the guest has written that many files since it started."""
        end = time.monotonic() + timeout
        while self.written < files:
            if self.process.poll() is not None:
                raise GuestError(f"the guest ended while it should write\n{self._tail()}")
            if time.monotonic() > end:
                raise GuestError(f"the guest wrote {self.written} of {files} files within {timeout} s\n{self._tail()}")
            time.sleep(0.05)

    def ask(self, command, answer, timeout=120):
        self.port.sendall(command.encode() + b"\n")
        return self.wait_for(answer, timeout)

    def start_writing(self):
        self.ask("start", "started")

    def stop_writing(self):
        """Returns how many files the guest has written."""
        return int(self.ask("stop", "stopped")[0])

    def verify(self, slots="", timeout=300):
        """The guest reads every file back past its caches (of its own: the first `slots`). Returns how many were
        right; a wrong one raises."""
        good, bad = map(int, self.ask(f"verify {slots}", "verified", timeout))
        if bad or not good:
            raise GuestError(f"{bad} of {good + bad} files are wrong")
        return good

    def power_off(self, timeout=60):
        self.ask("poweroff", "bye", timeout)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise GuestError(f"the machine did not power off\n{self._tail()}") from None
        finally:
            self.kill()

    def kill(self):
        """As a power cut; also the way to clean up. Safe to call again."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
        if hasattr(self, "port"):
            self.port.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

"""The test guest's root file system, made and edited as a raw image without mounting it, so that no step needs root."""
import hashlib
import os
import random
import shutil

from tools import ToolError, run, system_tool

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest_files")
MIB = 1 << 20


def seeded_file(path, length, seed):
    """The same bytes for the same seed, incompressible, no byte run of zeros to speak of."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(random.Random(seed).randbytes(length))


def sums_of(tree, folder):
    """sha256sum lines for every file under tree/folder, named as the guest sees them."""
    lines = []
    for name in sorted(os.listdir(os.path.join(tree, folder))):
        with open(os.path.join(tree, folder, name), "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  /{folder}/{name}\n")
    return "".join(lines)


def lay_busybox(tree):
    """busybox and a link for each of its commands."""
    os.makedirs(f"{tree}/bin")
    busybox = shutil.which("busybox")
    if not busybox:
        raise ToolError("busybox is missing: run scripts/setup")
    shutil.copy(busybox, f"{tree}/bin/busybox")
    for command in run(busybox, "--list").split():
        if command not in ("busybox", "init"):
            os.symlink("busybox", f"{tree}/bin/{command}")


def make_root_file_system(image, work, size, data_length, seed=1):
    """An ext4 root file system in a raw image, with data_length bytes of seeded files in /base. The space that
    the file system leaves free is written out as zeros, so that the image has no hole at all."""
    tree = os.path.join(work, "tree")
    lay_busybox(tree)
    shutil.copy(f"{FILES}/init", f"{tree}/bin/init")
    os.chmod(f"{tree}/bin/init", 0o755)
    for folder in ("proc", "sys", "dev", "run", "data", "base", "middle"):
        os.makedirs(f"{tree}/{folder}", exist_ok=True)
    piece = 2 * MIB + 77
    for index in range(max(1, data_length // piece)):
        seeded_file(f"{tree}/base/{index}", piece, f"{seed}/{index}")
    sums = sums_of(tree, "base")
    with open(f"{tree}/base/sums", "w") as file:
        file.write(sums)
    sparse = os.path.join(work, "sparse.raw")
    run(system_tool("mke2fs"), "-q", "-t", "ext4", "-b", "4096", "-L", "weir-guest",
        "-E", "root_owner=0:0,lazy_itable_init=0", "-d", tree, sparse, str(size // 1024) + "k")
    run("cp", "--sparse=never", sparse, image)
    os.unlink(sparse)
    shutil.rmtree(tree)


def edit_file_system(image, commands, work):
    """debugfs commands on a raw ext4 image, without a mount."""
    script = os.path.join(work, "debugfs.commands")
    with open(script, "w") as file:
        file.write("\n".join(commands) + "\n")
    said = run(system_tool("debugfs"), "-w", "-f", script, image)
    # debugfs exits 0 whatever a command says: every line that is neither an echo nor a success is a failure.
    wrong = [line for line in said.splitlines()
             if line.strip() and not line.startswith(("debugfs", "Allocated inode"))]
    if wrong:
        raise ToolError(f"debugfs on {image}: {wrong}")

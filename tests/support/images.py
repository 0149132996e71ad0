"""Image files: making overlays, measuring and comparing them."""
import hashlib
import os

from tools import run


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allocated_bytes(path):
    return os.stat(path).st_blocks * 512


def make_difference(edited, backing, backing_format, overlay):
    """A qcow2 overlay of `backing` that makes it read as the raw image `edited`, and owns no more than that takes."""
    # An overlay with nothing in it over the edited image, moved onto another backing file, keeps just the difference.
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", edited, "-F", "raw", overlay)
    run("qemu-img", "rebase", "-q", "-b", backing, "-F", backing_format, overlay)

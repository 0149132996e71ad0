"""Damaged qcow2 images, by name: what images of section 6 of the format notes do to a reader, and what it answers.

An example is (name, expected, change): `change(image)` edits a bytearray that began as a valid image with 4 KiB
clusters (compressed ones named apart). Expected: REFUSED at open; LOST: it opens, and reading all of it fails; READABLE:
the content is as before the damage; ANYTHING: no promise but the general ones."""
import os
import struct
import zlib

REFUSED, LOST, READABLE, ANYTHING = "refused", "lost", "readable", "anything"
CLUSTER = 4096
COPIED = 1 << 63
COMPRESSED = 1 << 62


class Image(bytearray):
    """The beginning of a file that may go on with a hole."""
    file_size = 0


def get(image, at, width=8):
    return int.from_bytes(image[at:at + width], "big")


def grown_to(size):
    """The file is as long as that: what lies behind the image costs its author nothing."""
    return lambda image: setattr(image, "file_size", size)


def put(image, at, value, width=8):
    if at + width > len(image):
        image.extend(bytes(at + width - len(image)))
    image[at:at + width] = value.to_bytes(width, "big")


def setter(at, value, width=8):
    return lambda image: put(image, at, value, width)


def l1_at(image):
    return get(image, 40)


def l2_at(image, index=0):
    return get(image, l1_at(image) + index * 8) & ~COPIED


def extension(kind, data, length=None):
    padded = data + bytes(-len(data) % 8)
    return struct.pack(">II", kind, len(data) if length is None else length) + padded


def with_extensions(*extensions, end=True):
    def change(image):
        data = b"".join(extensions) + (bytes(8) if end else b"")
        start = get(image, 100, 4)
        image[start:start + len(data)] = data
    return change


def with_backing(offset, length, name=b"", extensions=b""):
    def change(image):
        put(image, 8, offset)
        put(image, 16, length, 4)
        if name:
            image[offset:offset + len(name)] = name
        if extensions:
            image[112:112 + len(extensions)] = extensions
    return change


def entry(value):
    """L2 entry 0 becomes value(image)."""
    return lambda image: put(image, l2_at(image), value(image))


def l1_entry(value):
    return lambda image: put(image, l1_at(image), value(image))


def both(*changes):
    def change(image):
        for each in changes:
            each(image)
    return change


def cut(length):
    def change(image):
        del image[length:]
    return change


def replaced(data):
    def change(image):
        image[:] = data
    return change


def past_end(image):
    return (len(image) // CLUSTER + 100) * CLUSTER


def plain_headers():
    for length in (0, 1, 3, 4, 7, 20, 23, 71):
        yield f"file of {length} bytes", REFUSED, cut(length)
    yield "version 3 header cut short", REFUSED, cut(103)
    yield "magic only", REFUSED, replaced(b"QFI\xfb")
    yield "random file", REFUSED, replaced(bytes(at * 7919 % 251 for at in range(9000)))
    yield "zeros", REFUSED, replaced(bytes(65536))
    for version in (0, 4, 0xffffffff):
        yield f"version {version}", REFUSED, setter(4, version, 4)
    for bits in (0, 8, 22, 31, 32, 63, 64, 0xffffffff):
        yield f"cluster_bits {bits}", REFUSED, setter(20, bits, 4)
    for order in (7, 31, 32, 63, 64, 0xffffffff):
        yield f"refcount_order {order}", REFUSED, setter(96, order, 4)
    for size in (1 << 63, (1 << 64) - 1, (1 << 64) - 512, (1 << 63) - 512, 1 << 62):
        yield f"size {size:#x}", REFUSED, setter(24, size)
    for method in (2, 3, 0xffffffff):
        yield f"crypt_method {method}", REFUSED, setter(32, method, 4)
    for count in (0, 0x400001, 0x20000000, 0x20000001, 0xffffffff):
        yield f"l1_size {count:#x}", REFUSED, setter(36, count, 4)
    yield "giant L1 that the file could hold", ANYTHING, both(setter(36, 0x400000, 4), setter(40, CLUSTER * 16))
    for length in (0, 72, 96, 103, 105, 4104, 0x10000, 0xfffffff8, 0xffffffff):
        yield f"header_length {length}", REFUSED, setter(100, length, 4)


def tables():
    for offset in (1, 512, CLUSTER - 1, 1 << 56, 1 << 62, 1 << 63, (1 << 64) - CLUSTER, (1 << 64) - 1, 0):
        yield f"L1 at {offset:#x}", REFUSED, setter(40, offset)
        if offset:
            yield f"refcount table at {offset:#x}", REFUSED, setter(48, offset)
    yield "L1 past the end", REFUSED, lambda image: put(image, 40, past_end(image))
    yield "L1 ends past the end", REFUSED, lambda image: put(image, 36, (len(image) - l1_at(image)) // 8 + 1, 4)
    yield "refcount table past the end", REFUSED, lambda image: put(image, 48, past_end(image))
    yield "L1 on the refcount table", REFUSED, lambda image: put(image, 40, get(image, 48))
    for count in (0x801, 0x100000, 0xffffffff):
        yield f"refcount_table_clusters {count:#x}", REFUSED, setter(56, count, 4)
    yield "no refcount table", READABLE, setter(56, 0, 4)
    for count in (65537, 0x7fffffff, 0xffffffff):
        yield f"{count} snapshots", REFUSED, setter(60, count, 4)
    for offset in (1, 512, 1 << 56, 1 << 63, (1 << 64) - CLUSTER):
        yield f"snapshot table at {offset:#x}", REFUSED, both(setter(60, 1, 4), setter(64, offset))
    yield "snapshot table past the end", REFUSED, both(setter(60, 1, 4), lambda image: put(image, 64, past_end(image)))


def giants():
    """Tables as big as the limits allow, in files of holes that are long enough for them."""
    far = grown_to(1 << 40)
    # Entries behind the sound ones are whatever follows in the file.
    yield "sparse: L1 of 32 MiB", ANYTHING, both(far, setter(36, 0x400000, 4))
    yield "sparse: L1 of 32 MiB for 2^63", ANYTHING, both(far, setter(36, 0x400000, 4), setter(40, 1 << 30), setter(24, 1 << 43))
    yield "sparse: refcount table of 8 MiB", READABLE, both(far, setter(48, 1 << 30), setter(56, 0x800, 4))
    yield "sparse: 65536 snapshots", ANYTHING, both(far, setter(60, 65536, 4), setter(64, 1 << 30))
    yield "sparse: bitmap directory of 1 GiB", ANYTHING, both(far, setter(88, 1), with_extensions(
        extension(0x23852875, struct.pack(">IIQQ", 65535, 0, 1 << 30, 1 << 30))))
    yield "sparse: clusters of 2 MiB", ANYTHING, both(far, setter(20, 21, 4))


def extensions():
    yield "extension of 4 GiB", REFUSED, with_extensions(extension(0x12345678, b"", 0xffffffff))
    yield "extension past the cluster", REFUSED, with_extensions(extension(0x12345678, b"", CLUSTER - 100))
    yield "unknown extension", READABLE, with_extensions(extension(0x12345678, b"x" * 17))
    yield "extensions without an end", READABLE, with_extensions(*[extension(0x12345678, b"")] * 498, end=False)
    yield "feature names of 47 bytes", READABLE, with_extensions(extension(0x6803f857, b"x" * 47))
    yield "backing format of 3000 bytes", REFUSED, both(
        with_backing(3800, 4, b"base"), with_extensions(extension(0xe2792aca, b"q" * 3000)))
    for bit in (5, 31, 32, 63):
        yield f"incompatible bit {bit}", REFUSED, lambda image, bit=bit: put(image, 72, get(image, 72) | 1 << bit)
    names = extension(0x6803f857, bytes([0, 40]) + b"bad\n\x1b[31mname".ljust(46, b"\0"))
    yield "unknown feature with control characters", REFUSED, both(setter(72, 1 << 40), with_extensions(names))
    yield "unknown compatible bits", READABLE, setter(80, (1 << 64) - 2)
    yield "unknown autoclear bits", READABLE, setter(88, (1 << 64) - 4)
    yield "dirty", READABLE, setter(72, 1)
    yield "marked corrupt", READABLE, setter(72, 2)
    yield "compression bit without type", REFUSED, setter(72, 8)
    yield "compression type without bit", REFUSED, setter(104, 1, 1)
    yield "compression type 2", REFUSED, both(setter(72, 8), setter(104, 2, 1))
    yield "data file bit without a name", REFUSED, setter(72, 4)
    for name in ("missing.data", "folder", "pipe", "nbd://localhost:1/x", "data\0file", "/dev/zero", "json:{}",
                 'json:{"driver":"file","filename":"secret"}', "http://localhost:1/x", "fd:0", "self.qcow2"):
        yield f"data file {name!r}", REFUSED, both(
            setter(72, 4), with_extensions(extension(0x44415441, name.encode())))
    bitmaps = lambda *fields: with_extensions(extension(0x23852875, struct.pack(">IIQQ", *fields)))
    marked = setter(88, 1)
    for name, fields in (("no bitmaps", (0, 0, 0, 0)), ("4294967295 bitmaps", (0xffffffff, 0, 64, CLUSTER)),
                         ("bitmap directory past the end", (1, 0, 64, 1 << 40)), ("bitmap directory of 2^63", (1, 0, 1 << 63, 4096)),
                         ("bitmap directory at 1", (1, 0, 64, 1)), ("bitmap directory on the header", (1, 0, 64, 0))):
        yield name, ANYTHING, both(marked, bitmaps(*fields))
    yield "short bitmap extension", ANYTHING, both(marked, with_extensions(extension(0x23852875, b"x" * 9)))


def backing_names():
    for length in (0, 1024, 4096, 0x7fffffff, 0xffffffff):
        yield f"backing name of {length} bytes", REFUSED, with_backing(600, length)
    for offset in (1, 8, 71, 103, 4090, 4096, 1 << 32, 1 << 63, (1 << 64) - 4):
        yield f"backing name at {offset:#x}", REFUSED, with_backing(offset, 16)
    raw = extension(0xe2792aca, b"raw") + bytes(8)
    named = lambda name, format_extension=raw: with_backing(1024, len(name), name, format_extension)
    yield "NUL in the backing name", REFUSED, named(b"base\0.raw")
    deep = b'json:{"file":' * 40
    levels = b'json:' + b'{"file":' * 110 + b'{}' + b'}' * 110
    for name in (b"missing.raw", b"folder", b"pipe", b"socket", b"/dev/zero", b"/dev/tty", b"self.qcow2", b"./self.qcow2",
                 b"nbd://localhost:1/x", b"nbd:localhost:1", b"http://localhost:1/x", b"https://[::1]:1/", b"unknown://x/y",
                 b"json:", b"json:{}", b"json:{", b'json:{"driver":"qcow2"}', deep, levels, b"fd:0", b"rbd:a/b", b"ssh://a/b",
                 b'json:{"driver":"nbd","host":"localhost","port":"1"}', b'json:{"driver":"file","filename":"folder"}',
                 b'json:{"driver":"raw","offset":18446744073709551615,"size":2,"file":{"driver":"file","filename":"base.raw"}}',
                 b"x" * 1023, b"\n\x1b[31m", b"\xff\xfe"):
        shown = name.decode("latin-1")[:40].encode("unicode_escape").decode()
        yield f"backing {shown}", "chain", named(name)
    for image_format in (b"vmdk", b"luks", b"nonsense", b"qcow2", b"qed", b"file", b"\xff", b"raw\0"):
        expected = REFUSED if b"\0" in image_format else "chain"
        yield f"backing format {image_format}", expected, named(b"base.raw", extension(0xe2792aca, image_format) + bytes(8))


def entries():
    for name, value in (
            ("unaligned", lambda image: l2_at(image) + 512), ("at 1", lambda image: 1), ("past the end", past_end),
            ("at 2^55", lambda image: 1 << 55), ("on L1", l1_at), ("on the refcount table", lambda image: get(image, 48)),
            ("on the header", lambda image: 0 | COPIED), ("with reserved bits", lambda image: l2_at(image) | 1 << 56 | 2)):
        yield f"L1 entry {name}", LOST, l1_entry(value)
    for name, value in (
            ("unaligned", lambda image: COPIED | l2_at(image) + 512), ("past the end", lambda image: COPIED | past_end(image)),
            ("at 2^55", lambda image: COPIED | 1 << 55), ("on L1", lambda image: COPIED | l1_at(image)),
            ("on L2", lambda image: COPIED | l2_at(image)), ("on the refcount table", lambda image: COPIED | get(image, 48)),
            ("COPIED alone", lambda image: COPIED), ("compressed past the end", lambda image: COMPRESSED | past_end(image)),
            ("compressed at 2^53", lambda image: COMPRESSED | 1 << 53), ("compressed and COPIED", lambda image: COMPRESSED | COPIED),
            ("compressed on the header", lambda image: COMPRESSED),
            ("compressed rubbish", lambda image: COMPRESSED | (1 << 58) * 7 | len(image) - CLUSTER)):
        yield f"L2 entry {name}", LOST, entry(value)
    yield "all entries at one cluster", ANYTHING, lambda image: [
        put(image, l2_at(image) + at, get(image, l2_at(image))) for at in range(0, CLUSTER, 8)]
    yield "two L1 entries at one table", ANYTHING, lambda image: put(image, l1_at(image) + 8, get(image, l1_at(image)))
    for name, value in (("zero", 0), ("full", 0xff)):
        yield f"refcounts {name}", READABLE, lambda image, value=value: image.__setitem__(
            slice(get(image, get(image, 48)), get(image, get(image, 48)) + CLUSTER), bytes([value]) * CLUSTER)
    for name, value in (("unaligned", 513), ("past the end", 1 << 50), ("on itself", None)):
        yield f"refcount block {name}", READABLE, lambda image, value=value: put(
            image, get(image, 48), get(image, 48) if value is None else value)


def last_unit(image):
    """Where the first compressed unit lies."""
    value = get(image, l2_at(image))
    return value & ((1 << 58) - 1)


def unit(data):
    """The first compressed unit holds `data`."""
    def change(image):
        at = last_unit(image)
        if at + len(data) > len(image):
            image.extend(bytes(at + len(data) - len(image)))
        image[at:at + len(data)] = data
        put(image, l2_at(image), COMPRESSED | (len(data) // 512 + 1) << 58 | at)
    return change


def deflated(plain):
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(plain) + packer.flush()


def deflate_units():
    yield "deflate: rubbish", LOST, unit(b"\xff" * 400)
    yield "deflate: zeros", LOST, unit(bytes(400))
    yield "deflate: short", LOST, unit(deflated(b"x" * (CLUSTER - 1)))
    yield "deflate: empty", LOST, unit(deflated(b""))
    yield "deflate: bomb", ANYTHING, unit(deflated(bytes(64 << 20))[:20000])
    yield "deflate: distance too far", LOST, unit(b"\x4b\x04\x01\x00\xff\xff" + b"\xc1\x01" * 40)
    yield "deflate: sector count too small", ANYTHING, lambda image: put(
        image, l2_at(image), COMPRESSED | last_unit(image) | 511)
    yield "deflate: file ends inside", LOST, lambda image: image.__delitem__(slice(last_unit(image) + 3, None))


def zstd_units():
    magic = b"\x28\xb5\x2f\xfd"
    yield "zstd: rubbish", LOST, unit(magic + b"\xff" * 300)
    yield "zstd: no magic", LOST, unit(b"\xaa" * 300)
    yield "zstd: window of 2 GiB", LOST, unit(magic + b"\x00\xa8" + b"\x03\x10\x00\x5a")
    yield "zstd: window of 2 TiB", LOST, unit(magic + b"\x00\xf8" + b"\x03\x10\x00\x5a")
    yield "zstd: content of 2^63", LOST, unit(magic + b"\xe0" + struct.pack("<Q", 1 << 63) + b"\x03\x10\x00\x5a")
    yield "zstd: bomb", ANYTHING, unit(magic + b"\x00\x58" + b"\x02\x00\x10\x5a" * 4000)
    yield "zstd: skippable frames", LOST, unit((b"\x50\x2a\x4d\x18" + struct.pack("<I", 0)) * 60)
    yield "zstd: short", LOST, unit(magic + b"\x20\x0a" + b"\x51\x00\x00" + b"x" * 10)
    yield "zstd: a dictionary", LOST, unit(magic + b"\x03\x58" + b"\x11\x22\x33\x44" + b"\x03\x00\x01\x5a")


def snapshot_tables():
    at = lambda image: get(image, 64)
    for name, offset, value, width in (
            ("L1 of 0 entries", 8, 0, 4), ("L1 of 2^32-1 entries", 8, 0xffffffff, 4), ("L1 past the end", 0, 1 << 50, 8),
            ("L1 unaligned", 0, 513, 8), ("id of 65535 bytes", 12, 0xffff, 2), ("name of 65535 bytes", 14, 0xffff, 2),
            ("extra data of 4 GiB", 36, 0xffffffff, 4), ("no extra data", 36, 0, 4), ("vm state of 4 GiB", 32, 0xffffffff, 4)):
        yield f"snapshot: {name}", READABLE, lambda image, o=offset, v=value, w=width: put(image, at(image) + o, v, w)
    yield "snapshot: more than there are", ANYTHING, setter(60, 3, 4)


def random_damage(random, image):
    """A few bytes or bits, mostly where metadata is."""
    metadata = [0, l1_at(image), l2_at(image), get(image, 48)]
    for _ in range(1 + random.randrange(12)):
        base = random.choice(metadata) % len(image)
        where = random.choice((base + random.randrange(112), base + random.randrange(CLUSTER), random.randrange(len(image))))
        where %= len(image)
        image[where] = random.choice((image[where] ^ 1 << random.randrange(8), random.randrange(256), 0, 0xff))
    if random.randrange(8) == 0:
        del image[random.randrange(len(image)):]

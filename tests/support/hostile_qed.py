"""Damaged QED images, by name, as hostile_qcow2 has them: cluster_size 4096, table_size 2."""
from hostile_qcow2 import ANYTHING, LOST, READABLE, REFUSED, both, cut, grown_to, replaced

CLUSTER = 4096


def get(image, at, width=8):
    return int.from_bytes(image[at:at + width], "little")


def put(image, at, value, width=8):
    image[at:at + width] = value.to_bytes(width, "little")


def setter(at, value, width=8):
    return lambda image: put(image, at, value, width)


def l2_at(image):
    return get(image, get(image, 40))


def named(offset, length, name=b""):
    def change(image):
        put(image, 16, 1)
        put(image, 56, offset, 4)
        put(image, 60, length, 4)
        image[offset:offset + len(name)] = name if offset + len(name) <= len(image) else b""
    return change


def headers():
    for length in (0, 4, 63, CLUSTER):
        yield f"qed: file of {length} bytes", REFUSED, cut(length)
    yield "qed: magic only", REFUSED, replaced(b"QED\0")
    for size in (0, 1, 2048, 4095, 1 << 27, 1 << 31, 0xffffffff):
        yield f"qed: cluster size {size}", REFUSED, setter(4, size, 4)
    for size in (0, 3, 32, 1 << 31, 0xffffffff):
        yield f"qed: table size {size}", REFUSED, setter(8, size, 4)
    yield "qed: header size 0", REFUSED, setter(12, 0, 4)
    yield "qed: header size 2^32-1", REFUSED, setter(12, 0xffffffff, 4)
    for bit in (3, 31, 63):
        yield f"qed: feature bit {bit}", REFUSED, setter(16, 1 << bit)
    yield "qed: unknown compatible bits", READABLE, setter(24, (1 << 64) - 1)
    yield "qed: unknown autoclear bits", READABLE, setter(32, (1 << 64) - 1)
    yield "qed: need check", READABLE, setter(16, 2)
    for offset in (0, 1, 512, 1 << 40, 1 << 63, (1 << 64) - CLUSTER):
        yield f"qed: L1 at {offset:#x}", REFUSED, setter(40, offset)
    for size in (1, 1 << 40, 1 << 63, (1 << 64) - 512):
        yield f"qed: size {size:#x}", REFUSED, setter(48, size)
    for offset, length in ((0, 8), (64, 0), (64, 1024), (CLUSTER - 2, 8), (0xffffffff, 8), (64, 0xffffffff)):
        yield f"qed: backing name of {length} at {offset}", REFUSED, named(offset, length)
    yield "qed: NUL in the backing name", REFUSED, named(64, 8, b"base\0raw")
    for name in (b"missing.raw", b"folder", b"pipe", b"self.qed", b"nbd://localhost:1/x", b"json:{}"):
        yield f"qed: backing {name.decode()}", "chain", named(64, len(name), name)


def giants():
    """In a file of holes, long enough for everything."""
    far = grown_to(1 << 42)
    shape = lambda cluster, tables: both(far, setter(4, cluster, 4), setter(8, tables, 4))
    yield "qed: sparse, L1 of 1 GiB", ANYTHING, both(shape(1 << 26, 16), setter(40, 1 << 26))
    yield "qed: sparse, L1 of 1 GiB for 2^62", ANYTHING, both(shape(1 << 26, 16), setter(40, 1 << 26), setter(48, 1 << 62))
    yield "qed: sparse, need check", ANYTHING, both(shape(1 << 26, 16), setter(40, 1 << 26), setter(16, 2))
    yield "qed: sparse, 2^32-1 header clusters", ANYTHING, both(far, setter(12, 0xffffffff, 4))
    yield "qed: sparse, backing name far away", REFUSED, both(far, setter(12, 0xfffff, 4), setter(16, 1), setter(56, 0xfff0000, 4),
                                                           setter(60, 1000, 4))


def entries():
    for name, value in (("unaligned", 1025), ("past the end", 1 << 40), ("at 2^63", 1 << 63), ("at the end of space", (1 << 64) - CLUSTER)):
        yield f"qed: L1 entry {name}", LOST, lambda image, value=value: put(image, get(image, 40), value)
        yield f"qed: L2 entry {name}", LOST, lambda image, value=value: put(image, l2_at(image), value)
    yield "qed: L1 entry on L1", ANYTHING, lambda image: put(image, get(image, 40), get(image, 40))
    yield "qed: L2 entry on the header", ANYTHING, lambda image: put(image, l2_at(image), 0x1000 - 0x1000 + 2)
    yield "qed: tables shared", ANYTHING, lambda image: put(image, get(image, 40) + 8, l2_at(image))
    yield "qed: cut in the tables", ANYTHING, lambda image: image.__delitem__(slice(l2_at(image) + 100, None))


def random_damage(random, image):
    metadata = [0, get(image, 40), l2_at(image)]
    for _ in range(1 + random.randrange(12)):
        base = random.choice(metadata) % len(image)
        where = random.choice((base + random.randrange(64), base + random.randrange(CLUSTER), random.randrange(len(image))))
        where %= len(image)
        image[where] = random.choice((image[where] ^ 1 << random.randrange(8), random.randrange(256), 0, 0xff))

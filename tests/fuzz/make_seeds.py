#!/usr/bin/env python3
"""Writes the beginnings of the corpus: small, valid examples of everything the fuzz targets read, made with qemu-img
and by hand. `make_seeds.py CORPUS` replaces the files called seed-*; what fuzzing found is called found-* and stays."""
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

KIB = 1024


def tool(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def qemu_image(folder, name, image_format, options, *commands, size="64K", create=()):
    path = os.path.join(folder, name)
    tool("qemu-img", "create", "-q", "-f", image_format, "-o", options, *create, path, size)
    for command in commands:
        tool("qemu-io", "-f", image_format, "-c", command, path)
    return path


def read(path):
    return pathlib.Path(path).read_bytes()


def qcow2_images(folder):
    """Name and bytes; 512-byte clusters keep them small and every table near."""
    small = "cluster_size=512"
    writes = ("write -P 1 0 700", "write -P 2 8k 1k", "write -z 16k 2k", "write -P 3 40k 512")
    yield "v2", read(qemu_image(folder, "v2", "qcow2", small + ",compat=0.10", *writes))
    yield "v3", read(qemu_image(folder, "v3", "qcow2", small, *writes))
    yield "lazy", read(qemu_image(folder, "lazy", "qcow2", small + ",lazy_refcounts=on", *writes))
    for bits in (1, 8, 64):
        yield f"refcount{bits}", read(qemu_image(folder, f"r{bits}", "qcow2", f"{small},refcount_bits={bits}", *writes))
    for compression in ("zlib", "zstd"):
        path = qemu_image(folder, compression, "qcow2", f"cluster_size=1k,compression_type={compression}",
                          "write -c -P 4 0 1k", "write -c -P 5 2k 1k", size="8K")
        yield compression, read(path)
    overlay = qemu_image(folder, "overlay", "qcow2", small, *writes, size="96K",
                         create=("-u", "-b", "backing", "-F", "raw"))
    yield "overlay", read(overlay)
    shared = qemu_image(folder, "shared", "qcow2", small, *writes)
    tool("qemu-img", "snapshot", "-c", "one", shared)
    tool("qemu-io", "-c", "write -P 7 8k 512", shared)
    yield "snapshot", read(shared)
    marked = qemu_image(folder, "marked", "qcow2", small, *writes)
    tool("qemu-img", "bitmap", "--add", "-g", "512", marked, "dirty")
    yield "bitmap", read(marked)
    yield "subclusters", read(qemu_image(folder, "sub", "qcow2", "cluster_size=16k,extended_l2=on", size="32K"))[:66 * KIB]


def qed_images(folder):
    # qemu-io cannot open tables of one cluster.
    yield "empty", read(qemu_image(folder, "qed-empty", "qed", "cluster_size=4096,table_size=1"))
    path = qemu_image(folder, "qed-overlay", "qed", "cluster_size=4096,table_size=2", "write -P 3 4k 1k", "write -z 24k 4k",
                      create=("-u", "-b", "backing", "-F", "raw"))
    yield "overlay", read(path)


def qcow1_images(folder):
    yield "plain", read(qemu_image(folder, "qcow1", "qcow", "encryption=off", "write -P 1 4k 700"))
    yield "compressed", read(qemu_image(folder, "qcow1c", "qcow", "encryption=off", "write -c -P 2 0 4k"))


def headers(images):
    """The header cluster and, in the last 8 bytes, the file's size (little-endian)."""
    for name, image in images:
        (cluster_bits,) = struct.unpack_from(">I", image, 20)
        cluster = image[:1 << cluster_bits].rstrip(b"\0")
        yield name, cluster.ljust(-(-len(cluster) // 8) * 8, b"\0") + struct.pack("<Q", len(image))


def encoded_units():
    plain = bytes(at // 7 % 13 for at in range(4096))
    for bits, level in ((9, 1), (12, 9)):
        packer = zlib.compressobj(level, zlib.DEFLATED, -12)
        packed = packer.compress(plain[:1 << bits]) + packer.flush()
        yield f"{bits}bits", bytes([bits - 9]) + packed
    yield "stored", bytes([0]) + b"\x01\x00\x02\xff\xfd" + plain[:512]


def zstd_units():
    plain = bytes(at // 7 % 13 for at in range(4096))
    packed = subprocess.run(["zstd", "-q", "-c", "--no-check"], input=plain, stdout=subprocess.PIPE, check=True).stdout
    yield "frame", bytes([3]) + packed
    yield "raw-block", bytes([0]) + b"\x28\xb5\x2f\xfd\x60\x00\x01" + struct.pack("<I", 512 << 3 | 1)[:3] + plain[:512]
    yield "rle-block", bytes([0]) + b"\x28\xb5\x2f\xfd\x60\x00\x01" + struct.pack("<I", 512 << 3 | 3)[:3] + b"\x5a"


DISK = """<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='/v/top' index='3'/>
<backingStore type='block' index='4'><format type='raw'/><source dev='/dev/vg/lv'><slice type='storage' offset='0' size='1'/>
</source><backingStore/></backingStore><target dev='vda' bus='virtio'/><other>kept</other></disk>"""
DOCUMENTS = {
    "domain": f"<?xml version='1.0'?>\n<!-- note -->\n<domain type='kvm'><name>g</name><devices>{DISK}</devices></domain>\n",
    "disk": DISK,
    "network": "<disk type='network'><driver type='raw'/><source protocol='nbd' name='x' tls='yes'><host name='h' port='1'/>"
               "<host transport='unix' socket='/s'/></source><target dev='sda'/></disk>",
    "mirror": "<domain><devices><disk type='file'><source file='/a'/><mirror type='file' job='copy' ready='yes'>"
              "<format type='qcow2'/><source file='/b'/></mirror><target dev='vda'/></disk></devices></domain>",
    "mirror-2012": "<disk type='file'><source file='/a'/><mirror file='/b' format='raw' ready='yes'/><target dev='v'/></disk>",
    "backing-2012": "<disk type='file'><source file='/a'/><backingFile><source file='/b'/><format type='qed'/></backingFile>"
                    "<target dev='v'/></disk>",
    "entities": "<domain><devices><disk type='file'><source file='/a&amp;&lt;&#x41;'/><target dev=\"v\"/></disk>"
                "<![CDATA[<disk>]]></devices></domain>",
    "status": f"<domstatus state='running'><domain><devices>{DISK}</devices></domain></domstatus>",
}
NAMES = {
    "path": "../base.img", "absolute": "/v/base:1.img", "dotted": "./a:b", "file": "file:/v/base", "uri": "file:///v/b%20c",
    "nbd": "nbd://[::1]:10809/export?socket=/s", "unix": "nbd+unix:///x?socket=/run/s", "old-nbd": "nbd:unix:/s:exportname=e",
    "old-rbd": "rbd:pool/image@snap:id=a:mon_host=h\\:1;i:conf=/c", "http": "https://u:p@h:8/p?q#f", "fd": "fd:3",
    "gluster": "gluster+tcp://h/vol/p", "iscsi": "iscsi://h/iqn.2012:a/1", "ssh": "ssh://u@h/p?host_key_check=no",
    "json-file": 'json:{"driver":"qcow2","file":{"driver":"file","filename":"/v/b"}}',
    "json-dotted": 'json:{"file.driver":"nbd","file.server.type":"inet","file.server.host":"h","file.server.port":"1"}',
    "json-raw": 'json:{"driver":"raw","offset":512,"size":"1024","file":{"driver":"file","filename":"b"}}',
    "json-list": 'json:{"driver":"gluster","volume":"v","path":"p","server":[{"type":"tcp","host":"h","port":"1"}]}',
    "json-nested": 'json:{"file":{"file":{"file":{"file.filename":"a"}}}}',
    "json-rbd": 'json:{"driver":"rbd","pool":"p","image":"i","server.0.host":"h","server.0.port":"1","user":"u"}',
    "fat": "fat:rw:/d", "vxhs": 'json:{"file.driver":"vxhs","vdisk-id":"i","server":{"host":"h","port":"9"}}',
}
TALK = {
    "greet": '{"execute":"qmp_capabilities","id":1}\n{"execute":"query-jobs","id":{"a":[1,2.5,null,"\\u00e9"]}}',
    "early": '{"execute":"query-jobs"}{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
    "wrong": '{"execute":1}{"arguments":{}}[1]{"execute":"x","arguments":[]}{"execute":"x","more":1}',
    "broken": '{"execute":\n{"execute":"qmp_capabilities"}\n]]]\n{"execute":"qmp_capabilities"}',
    "deep": '{"execute":"qmp_capabilities","id":' + "[" * 70 + "]" * 70 + "}",
}


def nbd_talks():
    option = lambda code, data=b"": b"IHAVEOPT" + struct.pack(">II", code, len(data)) + data
    name = lambda text: struct.pack(">I", len(text)) + text
    request = lambda code, at, length, flags=0: struct.pack(">IHHQQI", 0x25609513, flags, code, 7, at, length)
    go = option(7, name(b"") + struct.pack(">HH", 1, 3))
    contexts = option(10, name(b"") + struct.pack(">I", 1) + name(b"base:allocation"))
    requests = (request(0, 0, 4096) + request(1, 512, 16, 1) + b"x" * 16 + request(3, 0, 0) + request(4, 0, 65536)
                + request(6, 100, 5000, 2) + request(7, 0, 4096) + request(5, 0, 4096) + request(0, 1 << 20, 1)
                + request(9, 0, 0) + request(2, 0, 0))
    flags = struct.pack(">I", 3)
    yield "simple", flags + go + requests
    yield "structured", flags + option(8) + contexts + go + requests
    yield "old", flags + option(1) + requests
    yield "options", (flags + option(3) + option(3, b"x") + option(6, name(b"ro") + struct.pack(">H", 0)) + option(5)
                      + option(9, name(b"") + struct.pack(">I", 0)) + option(99, b"data") + option(2))
    extended = lambda code, at, length, flags=0: struct.pack(">IHHQQQ", 0x21E41C71, flags, code, 7, at, length)
    both = option(10, name(b"") + struct.pack(">I", 2) + name(b"base:allocation") + name(b"qemu:allocation-depth"))
    status = struct.pack(">QI", 4096, 2)
    yield "extended", (flags + option(11) + both + go + extended(0, 0, 4096) + extended(1, 512, 16) + b"x" * 16
                       + extended(1, 512, 16, 33) + b"x" * 16 + extended(7, 0, 1 << 20) + extended(7, 0, len(status), 32)
                       + status + extended(7, 0, 13, 32) + b"x" * 13 + extended(4, 0, 9, 32) + b"x" * 9
                       + extended(6, 0, 1 << 40) + extended(7, 0, (1 << 64) - 1) + extended(2, 0, 0))
    yield "extended-old", flags + option(11) + option(8) + option(11, b"x") + option(1)
    yield "starttls", flags + option(8) + option(5) + option(5, b"x") + option(3) + go
    yield "contexts", (flags + option(8) + option(9, name(b"") + struct.pack(">I", 2) + name(b"qemu:")
                                                 + name(b"qemu:dirty-bitmap:")) + both + go + request(7, 0, 1 << 20))
    yield "bounds", flags + option(8) + go + request(0, (1 << 64) - 1, 2) + request(0, 0, (1 << 32) - 1) + request(1, 0, 99)


def write(corpus, target, examples):
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("seed-*"):
        old.unlink()
    for name, data in examples:
        (folder / f"seed-{name}").write_bytes(data)


def main(corpus):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "backing").write_bytes(b"\xb5" * 64 * KIB)
        images = list(qcow2_images(folder))
        qeds = list(qed_images(folder))
        legacy = list(qcow1_images(folder))
    script = bytes(value for what in range(12) for value in (what, what * 16 % 256, what * 3 % 256, what * 20 % 256))
    write(corpus, "qcow2_header", headers(images))
    write(corpus, "qcow2_read", ((name, image) for name, image in images if len(image) <= 20 * KIB and name not in ("lazy", "refcount8")))
    write(corpus, "qcow2_write", ((name, image + script) for name, image in images
                                  if name in ("v2", "v3", "overlay", "refcount1", "snapshot")))
    write(corpus, "qcow1_read", legacy)
    write(corpus, "qed_read", qeds)
    write(corpus, "qed_write", ((name, image + script) for name, image in qeds))
    write(corpus, "deflate", encoded_units())
    write(corpus, "zstd", zstd_units())
    write(corpus, "domain_xml", ((name, text.encode()) for name, text in DOCUMENTS.items()))
    write(corpus, "backing_name", ((name, text.encode()) for name, text in NAMES.items()))
    write(corpus, "qmp", ((name, b"\x10" + text.encode()) for name, text in TALK.items()))
    write(corpus, "nbd", nbd_talks())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

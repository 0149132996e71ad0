"""weir's NBD server against the servers people use: images, servers, runs, figures. Used by scripts/bench.

A case is an image and a load. All servers of a case take turns with the same load (tests/bench/nbd_load.cpp), each with
a fresh process that was warmed up by the same load first; a round's figures are only compared with each other. The best
peer is the one with the highest median rate; CPU is the server's alone, and is compared with the peer that needs least.
"""
import json
import os
import statistics
import subprocess
import time

from guest_image import MIB
from tools import ToolError, run

CLUSTER = 65536
TICK = os.sysconf("SC_CLK_TCK")
WARM_UP_MS = 400
WARM_UP_CHAIN_MS = 3000  # who owns what in a deep chain is learnt cluster by cluster


class Images:
    """Images of random data and chains of overlays, made when they are first asked for."""

    def __init__(self, folder, size):
        self.folder, self.size = folder, size

    def path(self, name):
        return os.path.join(self.folder, name)

    def raw(self):
        path = self.path("disk.raw")
        if not os.path.exists(path):
            with open("/dev/urandom", "rb") as source, open(path, "wb") as file:
                for _ in range(self.size // MIB):
                    file.write(source.read(MIB))
        return path, "raw"

    def qcow2(self):
        path = self.path("disk.qcow2")
        if not os.path.exists(path):
            # No holes in the file: QEMU looks for them with each read, which is not what is compared here.
            run("qemu-img", "convert", "-S", "0", "-f", "raw", "-O", "qcow2", self.raw()[0], self.path("sparse"))
            run("cp", "--sparse=never", self.path("sparse"), path)
            os.unlink(self.path("sparse"))
        return path, "qcow2"

    def credentials(self):
        """X.509, as `weir tls init` makes them, under the names that all servers and clients know."""
        path = self.path("creds")
        if not os.path.isdir(path):
            run(os.environ["WEIR"], "tls", "init", path)
        return path

    def chain(self, depth, striped):
        """`depth` layers above each other; striped, each owns every depth-th cluster, otherwise the base owns all."""
        if depth == 1:
            return self.qcow2()
        folder = self.path(f"chain{depth}{'-striped' if striped else ''}")
        if not os.path.isdir(folder):
            os.mkdir(folder)
            below = self.qcow2()[0]
            for index in range(1, depth):
                layer = f"{folder}/layer{index}.qcow2"
                run("qemu-img", "create", "-q", "-f", "qcow2", layer, str(self.size))
                if striped:
                    writes = "".join(f"write -q -P {1 + index % 255} {at * CLUSTER} {CLUSTER}\n"
                                     for at in range(index, self.size // CLUSTER, depth))
                    run("qemu-io", "-f", "qcow2", "-t", "unsafe", layer, piped=writes)
                run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2", layer)
                below = layer
        return f"{folder}/layer{depth - 1}.qcow2", "qcow2"


class Running:
    """One server process on a socket; `export` is what it serves there."""

    def __init__(self, command, socket, export):
        self.socket, self.export = socket, export
        if os.path.exists(socket):
            os.unlink(socket)
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 30
        while not os.path.exists(socket):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise ToolError(f"{command[0]} does not serve: {self.process.stderr.read()[-1000:]}")
            time.sleep(0.005)

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident_mib(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def weir(binary):
    return lambda image, form, socket: Running(
        [binary, "serve", "--nbd", f"unix:{socket}", "-f", form, image], socket, "")


def qemu_nbd(image, form, socket):
    return Running(["qemu-nbd", "-t", "-f", form, "--cache=writeback", "--aio=io_uring", "-e", "16", "-k", socket,
                    image], socket, "")


def storage_daemon(image, form, socket):
    node = {"driver": form, "node-name": "top", "file": {"driver": "file", "filename": image, "aio": "io_uring"}}
    return Running(["qemu-storage-daemon", "--blockdev", json.dumps(node), "--object", "iothread,id=io0",
                    "--nbd-server", f"addr.type=unix,addr.path={socket},max-connections=16",
                    "--export", "type=nbd,id=e,node-name=top,name=e,writable=on,iothread=io0"], socket, "e")


def nbdkit(image, form, socket):
    return Running(["nbdkit", "-f", "-U", socket, "file", image], socket, "")


def weir_tls(creds):
    return lambda image, form, socket: Running(
        [os.environ["WEIR"], "serve", "--nbd", f"unix:{socket}", "--tls-creds", creds, "-f", form, image], socket, "")


def qemu_nbd_tls(creds):
    return lambda image, form, socket: Running(
        ["qemu-nbd", "-t", "-f", form, "--cache=writeback", "--aio=io_uring", "-e", "16", "-k", socket, "--object",
         f"tls-creds-x509,id=t,endpoint=server,verify-peer=yes,dir={creds}", "--tls-creds", "t", image], socket, "")


def nbdkit_tls(creds):
    return lambda image, form, socket: Running(
        ["nbdkit", "-f", "-U", socket, "--tls=require", f"--tls-certificates={creds}", "--tls-verify-peer", "file",
         image], socket, "")


QEMU = {"qemu-nbd": qemu_nbd, "storage-daemon": storage_daemon}
# kind, bytes, requests in flight, connections
RANDREAD, RANDREAD4 = ("randread", 4096, 32, 1), ("randread", 4096, 32, 4)
RANDWRITE, SEQREAD = ("randwrite", 4096, 32, 1), ("read", 1048576, 8, 1)
# Reading everything with nbdcopy, plain and over TLS: requests are what it makes of it.
COPY, COPY_TLS = ("nbdcopy", 262144, 64, 1), ("nbdcopy-tls", 262144, 64, 1)


def cases(options):
    """Name → (contenders: name → (server, image of it), load); weir comes first."""
    own = {"weir": weir(os.environ["WEIR"])}
    for word in options.also or []:
        name, _, binary = word.partition("=")
        own[name] = weir(binary)
    made = {}

    def add(name, image, load, peers):
        made[name] = ({server: (start, image) for server, start in {**own, **peers}.items()}, load)

    raw = lambda images: images.raw()
    qcow2 = lambda images: images.qcow2()
    with_nbdkit = {**QEMU, "nbdkit": nbdkit}
    add("raw-randread", raw, RANDREAD, with_nbdkit)
    add("raw-randread-4conn", raw, RANDREAD4, with_nbdkit)
    add("raw-randwrite", raw, RANDWRITE, with_nbdkit)
    add("raw-seqread", raw, SEQREAD, with_nbdkit)
    add("qcow2-randread", qcow2, RANDREAD, QEMU)
    add("qcow2-randwrite", qcow2, RANDWRITE, QEMU)
    add("qcow2-seqread", qcow2, SEQREAD, QEMU)
    add("raw-copy", raw, COPY, {"qemu-nbd": qemu_nbd, "nbdkit": nbdkit})
    made["raw-copy-tls"] = ({name: (lambda *words, start=start: start(options.creds)(*words), raw) for name, start in (
        ("weir", weir_tls), ("qemu-nbd", qemu_nbd_tls), ("nbdkit", nbdkit_tls))}, COPY_TLS)
    for depth in (3, 16, 64):
        for striped in (False, True):
            image = lambda images, depth=depth, striped=striped: images.chain(depth, striped)
            add(f"chain{depth}{'-striped' if striped else ''}", image, RANDREAD, QEMU)
    for striped in (False, True):
        deep = {}
        for depth in (200, 64, 16, 1):
            image = lambda images, depth=depth, striped=striped: images.chain(depth, striped)
            deep[f"weir-{depth}"] = (own["weir"], image)
        made[f"depth{'-striped' if striped else ''}"] = (deep, RANDREAD)
    return made


def copy_all(server, load, creds):
    kind, length, depth, connections = load
    uri = f"nbd{'s' if kind == 'nbdcopy-tls' else ''}+unix:///{server.export}?socket={server.socket}"
    uri += f"&tls-certificates={creds}" if kind == "nbdcopy-tls" else ""
    size = int(run("nbdinfo", "--size", uri))
    start = time.monotonic()
    run("nbdcopy", f"--request-size={length}", f"--requests={depth}", f"--connections={connections}", uri, "null:")
    return {"requests": size / length, "seconds": time.monotonic() - start, "p50_us": 0, "p99_us": 0}


def put_load(options, server, load, milliseconds, seed):
    kind, length, depth, connections = load
    if kind.startswith("nbdcopy"):
        return copy_all(server, load, options.creds)
    words = [server.socket, server.export, kind, length, depth, connections, milliseconds, seed]
    return json.loads(run(options.load_tool, *map(str, words)))


def one_run(start, image, load, options, socket, seed):
    server = start(*image, socket)
    try:
        put_load(options, server, load, WARM_UP_CHAIN_MS if "chain" in image[0] else WARM_UP_MS, seed)
        before = server.cpu_seconds()
        took = put_load(options, server, load, options.milliseconds, seed + 1)
        took["cpu_us"] = (server.cpu_seconds() - before) / took["requests"] * 1e6
        took["rate"] = took["requests"] / took["seconds"]
        took["mib"] = server.resident_mib()
        return took
    finally:
        server.stop()


def measure(images, contenders, load, options):
    """name → the runs of all rounds."""
    runs = {name: [] for name in contenders}
    socket = images.path("nbd.sock")
    options.creds = images.credentials() if load[0] == COPY_TLS[0] else None
    prepared = {name: image(images) for name, (_, image) in contenders.items()}
    for index in range(options.rounds):
        for name in list(contenders)[::1 if index % 2 else -1]:
            runs[name].append(one_run(contenders[name][0], prepared[name], load, options, socket, 7 + 2 * index))
    return runs


def ratio_of(above, below):
    ratios = [a / b for a, b in zip(above, below)]
    return {"median": round(statistics.median(ratios), 2), "min": round(min(ratios), 2), "max": round(max(ratios), 2)}


def summary(where, case, load, runs):
    """Ratios are between the first contender and the best of the peers that are not weir; without such, the last."""
    def values(name, key):
        return [run_[key] for run_ in runs[name]]

    def median(name, key):
        return statistics.median(values(name, key))

    names = list(runs)
    first, peers = names[0], [name for name in names if name in (*QEMU, "nbdkit")] or names[-1:]
    fastest = max(peers, key=lambda name: median(name, "rate"))
    thriftiest = min(peers, key=lambda name: median(name, "cpu_us"))
    line = {"where": where, "case": case, "load": list(load), "rounds": len(runs[first]), "best_peer": fastest,
            "ratio": ratio_of(values(first, "rate"), values(fastest, "rate")),
            "least_cpu_peer": thriftiest, "cpu_ratio": ratio_of(values(first, "cpu_us"), values(thriftiest, "cpu_us"))}
    line["noise"] = round(max(values(fastest, "rate")) / min(values(fastest, "rate")), 2)
    line["servers"] = {name: {key: round(median(name, key), 2) for key in ("rate", "cpu_us", "p50_us", "p99_us", "mib")}
                       for name in names}
    return line


def show(line, noisy):
    ratio, cpu = line["ratio"], line["cpu_ratio"]
    print(f"{line['where']:5} {line['case']:20} {ratio['median']:5.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}) times "
          f"{line['best_peer']:14}  CPU per request {cpu['median']:.2f} ({cpu['min']:.2f}-{cpu['max']:.2f}) of "
          f"{line['least_cpu_peer']}" + ("  NOISY" if line["noise"] > noisy else ""), flush=True)
    for name, figures in line["servers"].items():
        print(f"      {name:16} {figures['rate']:10.0f}/s {figures['cpu_us']:8.2f} us CPU  p50 {figures['p50_us']:.0f} "
              f"p99 {figures['p99_us']:.0f} us  {figures['mib']:.0f} MiB", flush=True)


def draw(lines, path):
    """Bars: weir's rate in units of the best peer's, with the spread of the rounds."""
    row, left, width = 26, 190, 640
    top = max(line["ratio"]["max"] for line in lines) * 1.05
    at = lambda ratio: left + ratio / top * (width - left - 60)
    height = row * len(lines) + 50
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
             'font-size="12">', '<rect width="100%" height="100%" fill="white"/>',
             '<text x="8" y="18" font-weight="bold">weir serve: rate against the best peer (1 = as fast)</text>']
    for index, line in enumerate(lines):
        y, ratio = 30 + index * row, line["ratio"]
        parts += [f'<text x="8" y="{y + 15}">{line["case"]} ({line["where"]})</text>',
                  f'<rect x="{left}" y="{y + 3}" width="{at(ratio["median"]) - left:.1f}" height="16" fill="#4a7fb5"/>',
                  f'<line x1="{at(ratio["min"]):.1f}" x2="{at(ratio["max"]):.1f}" y1="{y + 11}" y2="{y + 11}" '
                  'stroke="black"/>',
                  f'<text x="{at(ratio["max"]) + 6:.1f}" y="{y + 15}">{ratio["median"]:.2f}</text>']
    parts += [f'<line x1="{at(1):.1f}" x2="{at(1):.1f}" y1="26" y2="{height - 18}" stroke="#c33" '
              'stroke-dasharray="4 3"/>', "</svg>"]
    with open(path, "w") as file:
        file.write("\n".join(parts) + "\n")

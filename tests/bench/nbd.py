#!/usr/bin/env python3
"""What the NBD layer alone costs, beside nbdkit's null plugin: docs/performance.md#nbd.

    python3 tests/bench/nbd.py [--bin DIR] [--seconds 4] [--rounds 5] [--jobs 4k/1,4k/32,64k/16,1m/16]

Called by run.sh. fio writes through NBD to an export that drops what it gets: nbd_memory_server, which is our server and no more, and
nbdkit -t 4 null, by turns. Each ratio is the median of the rounds. Processor time is that of the server, for each request. Needs fio
with its nbd engine, and nbdkit.
"""

import statistics

import bench
from bench import GIB, Place, SOURCE, fio, processor_seconds, row, table  # noqa: F401
import lib

bench.PARSER.add_argument("--seconds", type=int, default=4)
bench.PARSER.add_argument("--rounds", type=int, default=5)
bench.PARSER.add_argument("--jobs", default="4k/1,4k/32,64k/16,1m/16")
OPTIONS = bench.PARSER.parse_args()


def serve(place, name, *command):
    socket = place.dir / f"{name}.nbd"
    daemon = lib.Daemon(name, [part if part != "SOCKET" else socket for part in command], place.dir / f"{name}.log", "")
    place.daemons.append(daemon)
    uri = f"nbd+unix:///?socket={socket}"
    lib.wait_for(lambda: lib.run("nbdinfo", "--size", uri, check=False).returncode == 0, name)
    return daemon, uri


def measure(server, size, depth):
    """(requests a second, processor microseconds for each)"""
    daemon, uri = server
    before = processor_seconds(daemon)
    figures = fio(uri, rw="randwrite", bs=size, iodepth=depth, size=GIB, norandommap=1, seconds=OPTIONS.seconds)
    return figures["iops"], (processor_seconds(daemon) - before) * 1e6 / figures["total_ios"]


def main():
    table("NBD alone, random writes", "nbdkit null, a second", "ours", "ratio", "nbdkit null, us of processor", "ours", "ratio")
    program = OPTIONS.bin.resolve().parent / "tests/nbd_memory_server"
    with Place() as place:
        theirs = serve(place, "nbdkit", "nbdkit", "-f", "-U", "SOCKET", "-t", "4", "null", f"size={GIB}")
        ours = serve(place, "ours", program, "SOCKET", str(GIB), "drop-writes")
        for job in OPTIONS.jobs.split(","):
            size, depth = job.split("/")
            rounds = [(measure(theirs, size, depth), measure(ours, size, depth)) for _ in range(OPTIONS.rounds)]
            figure = lambda of, what: statistics.median(pair[of][what] for pair in rounds)  # noqa: E731
            ratio = lambda what: statistics.median(pair[1][what] / pair[0][what] for pair in rounds)  # noqa: E731
            row(f"{size}, queue depth {depth}", f"{figure(0, 0):,.0f}", f"{figure(1, 0):,.0f}", f"{ratio(0):.2f}",
                f"{figure(0, 1):.1f}", f"{figure(1, 1):.1f}", f"{ratio(1):.2f}")  # fmt: skip


main()

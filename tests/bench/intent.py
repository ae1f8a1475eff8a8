#!/usr/bin/env python3
"""What the write-intent log costs a guest that writes all over a large disk: docs/performance.md#write-intent-log.

    python3 tests/bench/intent.py [--bin DIR] [--seconds 8] [--regions 1024,4096,16384]

Called by run.sh. 4 KiB random writes of fio through NBD over the first GiBs of a sparse disk of 64 GiB, beside the same within its first
GiB and both on nbdkit's file plugin. Each region has been written to before the measurement. Needs fio with its nbd engine.
"""

import bench
from bench import GIB, MIB, Pair, Place, fio, max_ms, nothing, p99_ms, row, table

bench.PARSER.add_argument("--seconds", type=int, default=8)
bench.PARSER.add_argument("--regions", default="1024,4096,16384")
OPTIONS = bench.PARSER.parse_args()
DISK_BYTES = 64 * GIB
REGION_BYTES = 4 * MIB
SLOWLY = {"iodepth": 1, "rate_iops": 200}


def write(uri, load, span):
    fio(uri, rw=f"write:{REGION_BYTES - 4096}", bs="4k", iodepth=16, size=span, io_size=span // REGION_BYTES * 4096)
    return fio(uri, rw="randwrite", bs="4k", size=span, norandommap=1, seconds=OPTIONS.seconds, **load)


def file_plugin(load, span):
    with Place() as place:
        _, uri = place.nbdkit(place.disk("file", DISK_BYTES))
        return write(uri, load, span), None


def agent(load, span, *options):
    with Pair(nothing, nothing, *options, disk_bytes=DISK_BYTES) as pair:
        host = pair.host.start().wait_connected()
        figures = write(host.uri(), load, span)
        marked = host.metric("understudy_intent_bytes")
        pair.drain()
        return figures, marked


def compare(title, load, runs):
    """`runs`: (name, (write, marked)), each beside the first of all."""
    table(title, "per second", "to the first", "mean, ms", "to the first", "p99, ms", "to the first", "longest, ms", "marked, GiB")
    near = None
    for name, (run, marked) in runs:
        near = near or run
        mean, mean_near = (of["clat_ns"]["mean"] / 1e6 for of in (run, near))
        row(name, f"{run['iops']:,.0f}", f"{run['iops'] / near['iops']:.2f}", f"{mean:.2f}", f"{mean / mean_near:.1f}",
            f"{p99_ms(run):.2f}", f"{p99_ms(run) / p99_ms(near):.1f}", f"{max_ms(run):.0f}",
            "" if marked is None else f"{marked / GIB:.1f}")  # fmt: skip


def limits(load):
    yield "within 1 GiB", agent(load, GIB)
    for regions in OPTIONS.regions.split(","):
        yield f"64 GiB, `--intent-regions {regions}`", agent(load, DISK_BYTES, "--intent-regions", regions)


def without(load):
    yield "within 1 GiB", file_plugin(load, GIB)
    yield "64 GiB", file_plugin(load, DISK_BYTES)


def spans(load):
    for gib in (1, 4, 16, 64):
        yield f"within {gib} GiB", agent(load, gib * GIB)
    yield "within 16 GiB, `--intent-regions 1024`", agent(load, 16 * GIB, "--intent-regions", 1024)


def main():
    for depth in (1, 16):
        load = {"iodepth": depth}
        compare(f"nbdkit file, queue depth {depth}", load, without(load))
        compare(f"queue depth {depth}", load, limits(load))
    compare("200 writes/s, one at a time, the default", SLOWLY, spans(SLOWLY))


main()

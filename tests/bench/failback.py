#!/usr/bin/env python3
"""What the failback map costs the VM after a failover, and what it spares the way back: docs/performance.md#failback.

    python3 tests/bench/failback.py [--bin DIR]

Called by run.sh. 4 KiB writes of fio through NBD to a disk of 4 GiB in stage DONE: each to a region of 64 KiB that none was in before, and once more to
the same places; beside them the same on nbdkit's file plugin. Needs fio with its nbd engine.
"""

import bench
from bench import GIB, MIB, Pair, Place, fio, nothing, p99_ms, row, table, timed

DISK_BYTES = 4 * GIB
REGION_BYTES = 64 * 1024
WRITES = 4096
DEPTHS = (1, 16)


def write(uri, depth):
    """One block in every second region, so that none finds its region marked by the one before."""
    return fio(
        uri, rw=f"write:{2 * REGION_BYTES - 4096}", bs="4k", iodepth=depth, size=2 * WRITES * REGION_BYTES, io_size=WRITES * 4096,
        offset=f"{depth * 100}m",
    )  # fmt: skip


def print_writes():
    table("4 KiB writes after a failover", "queue depth", "per second", "to the file", "p99, ms")
    with Place() as place, Pair(nothing, nothing, disk_bytes=DISK_BYTES) as pair:
        _, file = place.nbdkit(place.disk("file", DISK_BYTES))
        pair.standby.call("stop", "vm1", "--failover")
        pair.standby.wait_stage("DONE")
        for depth in DEPTHS:
            runs = [("nbdkit file", file), ("first write to a region", pair.standby.uri()), ("later ones", pair.standby.uri())]
            base = None
            for name, uri in runs:
                run = write(uri, depth)
                base = base or run["iops"]
                row(name, depth, f"{run['iops']:,.0f}", f"{run['iops'] / base:.2f}", f"{p99_ms(run):.2f}")


def way_back(with_maps):
    """Seconds of the sync, and bytes compared, of a pair of 4 GiB with data everywhere, of which 64 MiB were written since the failover."""

    def data(file):
        block = bytes(range(256)) * 4096
        for _ in range(DISK_BYTES // MIB):
            file.write(block)

    with Pair(data, data, disk_bytes=DISK_BYTES) as old:
        old.host.start().wait_connected()
        old.host.call("checkpoint", "vm1")
        old.host.kill()
        old.standby.call("stop", "vm1", "--failover")
        old.standby.wait_stage("DONE")
        fio(old.standby.uri(), rw="randwrite", bs="64k", iodepth=4, size=DISK_BYTES, io_size=64 * MIB)
        maps = [old.dir / "a.map", old.dir / "b.map"]
        bench.lib.run(*old.host.command(), "--write-failback-map", maps[0])
        old.standby.call("remove", "vm1", "--failback-map", maps[1])
        a = bench.lib.Service(old, name="service-a").start()
        a.start_group(f"vda,disk={old.dir / 'p-vda'},initial=sync")
        flags = [word for path in maps for word in ("--failback-map", path)] if with_maps else []
        b = bench.lib.Agent(old, a, f"vda,disk={old.dir / 's-vda'}", name="agent-b", options=("--start", *flags))
        seconds, _ = timed(lambda: (b.start(), old.assertEqual(b.ctl("sync", "vm1", "--wait", timeout="600s").status, 0)))
        begun = b.daemon.events("resync_begun")[0]["bytes"]
        return seconds, int(begun), int(b.metric("understudy_resync_applied_bytes_total"))


def print_way_back():
    table("the way back, 64 MiB of 4 GiB written since the failover", "s, start of the agent included", "to compare, MiB", "sent, MiB", "to the whole disk")
    whole = None
    for name, with_maps in (("without maps: the whole disk", False), ("with both maps", True)):
        seconds, compared, sent = way_back(with_maps)
        whole = whole or seconds
        row(name, f"{seconds:.1f}", compared // MIB, sent // MIB, f"{seconds / whole:.2f}")


bench.PARSER.parse_args()
print_writes()
print_way_back()

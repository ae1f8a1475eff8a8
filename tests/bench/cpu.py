#!/usr/bin/env python3
"""Processor time for each GiB replicated: docs/performance.md#processor-time.

    python3 tests/bench/cpu.py [--bin DIR] [--random-mib 512] [--sequential-mib 2048]

Called by run.sh. User and system seconds of each daemon with all its threads, from /proc; fio's, the kernel's write-back and interrupts are
not in it. Beside each job of agent and service the same job on nbdkit's file plugin: what serving the disk costs without replication.
Disks whose blocks exist. Needs fio with its nbd engine.
"""

import bench
from bench import GIB, MIB, Pair, Place, fio, processor_seconds, row, table, zeroes
import lib

bench.PARSER.add_argument("--random-mib", type=int, default=512)
bench.PARSER.add_argument("--sequential-mib", type=int, default=2048)
OPTIONS = bench.PARSER.parse_args()
JOBS = (
    ("4 KiB random writes, queue depth 32", OPTIONS.random_mib, {"rw": "randwrite", "bs": "4k", "iodepth": 32}),
    ("1 MiB sequential writes, queue depth 4", OPTIONS.sequential_mib, {"rw": "write", "bs": "1m", "iodepth": 4}),
)


def write(uri, mib, options):
    fio(uri, size=GIB, io_size=mib * MIB, **options)


def file_plugin(mib, options):
    """Processor seconds for each GiB."""
    with Place() as place:
        daemon, uri = place.nbdkit(place.disk("file", GIB, zeroes(GIB)))
        before = processor_seconds(daemon)
        write(uri, mib, options)
        return (processor_seconds(daemon) - before) * GIB / (mib * MIB)


def replicated(mib, options, tee):
    """Likewise of: the agent, the service until it has received everything, the service's checkpoint and apply job."""
    with Pair(zeroes(GIB), zeroes(GIB), disk_bytes=GIB, tee=tee) as pair:
        host = pair.host.start().wait_connected()
        agent, service = processor_seconds(host.daemon), processor_seconds(pair.standby.daemon)
        write(host.uri(), mib, options)
        pair.drain()
        received = processor_seconds(pair.standby.daemon)
        host.call("checkpoint", "vm1")
        lib.wait_for(lambda: pair.standby.status()["jobs"] == [], "the apply job")
        spent = processor_seconds(host.daemon) - agent, received - service, processor_seconds(pair.standby.daemon) - received
        return [seconds * GIB / (mib * MIB) for seconds in spent]


def main():
    table("processor seconds for each GiB", "agent", "service, receiving", "service, checkpoint and apply", "all",
          "nbdkit file", "agent / nbdkit file", "all / nbdkit file")  # fmt: skip
    for name, mib, options in JOBS:
        alone = file_plugin(mib, options)
        for mode in ("forward", "tee"):
            spent = replicated(mib, options, tee=mode == "tee")
            row(f"{name}, {mode}", *(f"{seconds:.2f}" for seconds in (*spent, sum(spent), alone)),
                f"{spent[0] / alone:.1f}", f"{sum(spent) / alone:.1f}")  # fmt: skip


main()

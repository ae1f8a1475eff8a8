#!/usr/bin/env python3
"""What a sick standby costs the guest, and what making it good costs: the figures of docs/performance.md#outages.

    python3 tests/bench/resync.py [--bin DIR] [--seconds 5]

Called by run.sh. Guest latency is fio's (4 KiB random writes, queue depth 1, through NBD), each row beside the healthy one of the same
run; all else is wall clock, seen by understudyctl; of a first sync the agent's start is part. Everything lies in a temporary directory. Needs fio with its nbd engine.
"""

import os
import signal
import statistics
import time

import bench  # before lib
from bench import MIB, fio, max_ms, nothing, p99_ms, resident_bytes, row, table, timed
from fault_proxy import FaultProxy

bench.PARSER.add_argument("--seconds", type=int, default=5)
OPTIONS = bench.PARSER.parse_args()
DISK_BYTES = 512 * MIB
HOT_BYTES = 256 * MIB
VOLUMES = 16
TURNS = 3
WINDOW = ("--window-bytes", "16M")


class Pair(bench.Pair):
    def __init__(self, *arguments, disk_bytes=DISK_BYTES, **named):
        super().__init__(*arguments, disk_bytes=disk_bytes, **named)


def dense(file):
    while file.tell() < HOT_BYTES:
        file.write(os.urandom(MIB))


def fragmented(file):
    """The same bytes of data, every second 4 KiB a hole."""
    for at in range(0, 2 * HOT_BYTES, 8192):
        file.seek(at)
        file.write(os.urandom(4096))


def guest(host, **options):
    """4 KiB random writes, one at a time."""
    return fio(host.uri(), rw="randwrite", bs="4k", size=HOT_BYTES, seconds=OPTIONS.seconds, **options)


def guest_latency():
    table("standby", "p99 of a 4 KiB write, ms", "of the healthy one", "longest, ms", "writes/s")
    with Pair(dense, dense, *WINDOW) as pair:
        host = pair.host.start().wait_connected()
        healthy = None
        for name, make_so, mend in (
            ("healthy", lambda: None, lambda: None),
            ("hangs (SIGSTOP)", lambda: pair.standby.daemon.signal(signal.SIGSTOP),
             lambda: pair.standby.daemon.signal(signal.SIGCONT)),
            ("resyncs after that", lambda: None, lambda: None),
            ("dead (kill -9)", pair.standby.kill, pair.standby.restart),
        ):  # fmt: skip
            make_so()
            write = guest(host)
            mend()
            healthy = healthy or p99_ms(write)
            row(name, f"{p99_ms(write):.2f}", f"{p99_ms(write) / healthy:.2f}", f"{max_ms(write):.0f}", f"{write['iops']:,.0f}")
        pair.sync()


def slow_line():
    """The line between agent and service is a proxy that delays or limits; the healthy one runs through it as well. In turns, medians."""
    mbit = 1_000_000 // 8
    lines = (  # name, delay each way, bytes per second, writes per second of the guest
        ("no delay", 0, 0, 0),
        ("20 ms each way", 0.02, 0, 0),
        ("no delay, 1,000 writes/s", 0, 0, 1000),
        ("100 Mbit/s, 1,000 writes/s (33 Mbit/s)", 0, 100 * mbit, 1000),
        ("20 ms each way and 100 Mbit/s, 1,000 writes/s", 0.02, 100 * mbit, 1000),
        ("100 Mbit/s, as fast as it can", 0, 100 * mbit, 0),
    )
    runs = {line: [] for line in lines}
    with FaultProxy("") as proxy, Pair(dense, dense, *WINDOW, line=proxy) as pair:
        host = pair.host.start().wait_connected()
        for line in TURNS * lines:
            _, delay, limit, rate = line
            proxy.delay(delay)
            proxy.limit(limit)
            runs[line].append(guest(host, **({"rate_iops": rate} if rate else {})))
            pair.drain()
    table("line to the standby", "p99 of a 4 KiB write, ms", "of the one without delay", "longest, ms", "writes/s")
    for line, writes in runs.items():
        healthy = runs[lines[2] if line[3] else lines[0]]
        p99, reference = (statistics.median(map(p99_ms, of)) for of in (writes, healthy))
        row(line[0], f"{p99:.2f}", f"{p99 / reference:.2f}", f"{max(map(max_ms, writes)):.0f}",
            f"{statistics.median(write['iops'] for write in writes):,.0f}")  # fmt: skip


def many_volumes():
    """One agent with 16 volumes, beside one volume of the same bytes: all are written to, the standby is away, all are written to."""
    table("one agent", "1 volume", f"{VOLUMES} volumes", "of one")
    figures = [volumes_away(1), volumes_away(VOLUMES)]
    for name, (one, digits) in figures[0].items():
        many = figures[1][name][0]
        row(name, f"{one:,.{digits}f}", f"{many:,.{digits}f}", f"{many / one:.2f}" if one else "")


def volumes_away(volumes):
    """{what: (figure, digits)}"""
    each = 2 * DISK_BYTES // volumes
    figures = {}
    with Pair(bench.zeroes(each), bench.zeroes(each), disk_bytes=each, volumes=volumes) as pair:
        host = pair.host.start().wait_connected()
        uris = [host.uri(name) for name in pair.names]
        idle = resident_bytes(host.daemon)

        def write(**options):
            return fio(*uris, rw="write", bs="64k", iodepth=VOLUMES // volumes, size=each, **options)

        written = write(io_size=each // 2)
        pair.drain()
        figures["64 KiB writes to all of them, MiB/s"] = written["bw_bytes"] / MIB, 0
        figures["checkpoint after 512 MiB, ms"] = timed(lambda: host.call("checkpoint", "vm1"))[0] * 1000, 0
        figures["checkpoint after nothing, median of 5, ms"] = (
            statistics.median(timed(lambda: host.call("checkpoint", "vm1"))[0] for _ in range(5)) * 1000, 0)  # fmt: skip
        healthy = resident_bytes(host.daemon)
        pair.standby.kill()
        write()
        away = resident_bytes(host.daemon)
        changed = sum(int(volume["dirty_bytes"]) for volume in host.status()["volumes"])
        pair.standby.restart()
        host.wait_connected()
        seconds, sent = pair.sync()
        figures["resync after an outage in which 1 GiB changed, seconds"] = seconds, 1
        figures["resync, MiB sent per second"] = sent / MIB / seconds, 0
        figures["sent to changed"] = sent / changed, 2
        figures["resident memory of the agent, idle, MiB"] = idle / MIB, 0
        figures["… after the writes (`--window-bytes` 64M)"] = healthy / MIB, 0
        figures["… in the outage (`--dirty-map-bytes` 16M beside it)"] = away / MIB, 0
        figures["… after the resync"] = resident_bytes(host.daemon) / MIB, 0
    return figures


def outage():
    with Pair(dense, dense, *WINDOW) as pair:
        host = pair.host.start().wait_connected()
        pair.standby.kill()
        fio(host.uri(), rw="write", bs="64k", iodepth=8, size=HOT_BYTES, seconds=OPTIONS.seconds)
        changed = int(host.status()["volumes"][0]["dirty_bytes"])
        pair.standby.restart()
        seconds, sent = pair.sync()
        row(f"an outage of {OPTIONS.seconds} s in which {changed / MIB:.0f} MiB changed, 64 KiB writes", f"{seconds:.1f}", f"{sent / MIB:.0f}",
            f"{sent / changed:.2f} of what changed (aim 1.05 and 64 MiB)")  # fmt: skip


def first_sync():
    of_dense = None
    for name, primary, secondary in (
        ("first sync, 256 MiB dense, standby empty", dense, nothing),
        ("the same data in pieces of 4 KiB, every second one a hole", fragmented, nothing),
        ("first sync, 512 MiB of zeroes on both sides", nothing, nothing),
    ):
        with Pair(primary, secondary, initial=",initial=sync") as pair:
            begun = time.monotonic()  # the agent begins by itself
            pair.host.start()
            _, sent = pair.sync()
            seconds = time.monotonic() - begun
        if primary is fragmented:
            remark = f"{of_dense / seconds:.2f} times as fast as the dense one (aim 0.5)"
        else:
            remark = "start of the agent included" if primary is dense else "nothing is read"
        of_dense = of_dense or seconds
        row(name, f"{seconds:.1f}", f"{sent / MIB:.0f}", remark)


def verify():
    with Pair(dense, nothing, initial=",initial=sync") as pair:
        host = pair.host.start()
        pair.sync()
        seconds, answer = timed(lambda: host.ctl("verify", "vm1", "--wait", timeout="600s"))
        pair.assertEqual(answer.status, 0)
        row("verify, 512 MiB with 256 MiB of data", f"{seconds:.1f}", 0, f"{HOT_BYTES / MIB / seconds:.0f} MiB/s of data")


def main():
    guest_latency()
    slow_line()
    table("", "seconds", "sent, MiB", "")
    outage()
    first_sync()
    verify()
    many_volumes()


main()

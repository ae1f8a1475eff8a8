#!/usr/bin/env python3
"""What many groups and many volumes cost: one understudyd with 1,000 idle groups, and one group with 64 volumes.

    python3 tests/bench/groups.py [--bin DIR] [--groups 1000] [--volumes 64]

Prints the tables of docs/performance.md#many-groups-many-volumes. Called by run.sh. The daemons are those in DIR (build/release/bin);
calls go over one connection, through understudy_stub beside it, unless a row says understudyctl. Everything lies in a temporary
directory; sparse disks. Standard library only.
"""

import os
import pathlib
import statistics
import time

import bench  # before lib
from bench import MIB, processor_seconds, resident_bytes, row, table, timed
import lib
import stub
from nbd import Disk

bench.PARSER.add_argument("--groups", type=int, default=1000)
bench.PARSER.add_argument("--volumes", type=int, default=64)
OPTIONS = bench.PARSER.parse_args()
# Sparse; the data directory keeps free what they may grow by.
IDLE_DISK_BYTES = 64 << 20
DISK_BYTES = 256 << 20


class Place(bench.Place):
    def __exit__(self, *error):
        stub.disconnect()
        super().__exit__(*error)


def call(service, method, **fields):
    answer, end = stub.call(service.address, method, **fields)
    if end.code != "OK":
        raise AssertionError(f"{method} {fields}: {end}")
    return answer


def disk_usage(directory, pattern="*"):
    """Bytes allocated, directories included."""
    return sum(path.lstat().st_blocks * 512 for path in [directory, *directory.rglob(pattern)])


class Costs:
    """What a daemon takes at the moment."""

    def __init__(self, service):
        process = pathlib.Path(f"/proc/{service.daemon.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        self.threads = int(status["Threads"])
        self.memory = resident_bytes(service.daemon)
        self.files = len(list((process / "fd").iterdir()))
        self.segments = disk_usage(service.data_dir / "segments")
        # Without what RocksDB allocates ahead.
        self.index = sum(path.stat().st_size for path in (service.data_dir / "index").iterdir())
        markers = service.case.dir.glob("*.understudy")
        self.markers = sum(path.lstat().st_blocks * 512 for path in markers)


def milliseconds(seconds):
    return f"{seconds * 1000:.1f}"


def costs_table(named, groups):
    table(f"{groups} idle groups, each", *(name for name, _ in named[1:]))
    base = named[0][1]
    for what, unit, field in (
        ("threads of the service", 1, "threads"),
        ("file descriptors", 1, "files"),
        ("resident memory, KiB", 1024, "memory"),
        ("segments on disk, KiB", 1024, "segments"),
        ("index, KiB", 1024, "index"),
        ("markers beside the disks, KiB", 1024, "markers"),
    ):
        row(what, *(f"{(getattr(c, field) - getattr(base, field)) / groups / unit:.2f}" for _, c in named[1:]))


def start(service, group, disks):
    volumes = [{"name": name, "top_id": f"{group}/{name}", "disk_path": str(path)} for name, path in disks.items()]
    return call(service, "Start", group=group, mode="MODE_SECONDARY", volumes=volumes)


def restart(service, kill):
    """(seconds until it had ended, seconds until it was ready again)"""
    ended, _ = timed(service.daemon.kill if kill else service.daemon.end)
    stub.disconnect()
    ready, _ = timed(service.restart)
    return ended, ready


def many_groups(count):
    with Place() as place:
        service = lib.Service(place).start()
        names = [f"vm{i:04}" for i in range(count)]
        start(service, "first", {"vda": place.disk("first.raw", IDLE_DISK_BYTES)})  # what the daemon needs once
        call(service, "Checkpoint", group="first")
        costs = [("none", Costs(service))]
        disks = {name: {"vda": place.disk(f"{name}.raw", IDLE_DISK_BYTES)} for name in names}
        starts = [timed(lambda: start(service, name, disks[name]))[0] for name in names]
        costs.append(("started", Costs(service)))
        first = [timed(lambda: call(service, "Checkpoint", group=name))[0] for name in names]
        costs.append(("after a checkpoint", Costs(service)))
        again = [timed(lambda: call(service, "Checkpoint", group=name))[0] for name in names]
        one = [timed(lambda: call(service, "Checkpoint", group=names[0]))[0] for _ in range(20)]
        time.sleep(7)  # groups that rest for 5 s give their segments back
        costs.append(("7 s later", Costs(service)))
        status = timed(lambda: call(service, "GetStatus", group=""))[0]
        status_one = timed(lambda: call(service, "GetStatus", group=names[count // 2]))[0]
        listed = timed(lambda: lib.run(lib.CTL, "--server", service.address, "list"))[0]
        scrape, page = timed(service.scrape)
        begun, _ = processor_seconds(service.daemon), time.sleep(3)
        processor = (processor_seconds(service.daemon) - begun) / 3
        _, ready_killed = restart(service, kill=True)
        ended, ready = restart(service, kill=False)
        call(service, "GetStatus", group="")
        costs.append(("after a restart", Costs(service)))
        opened = service.daemon.events("store_opened")[0]["took"]

        def median(seconds):
            return milliseconds(statistics.median(seconds))

        table(f"{count} groups in one service", "")
        part = max(1, count // 10)
        row("start of a group, median of the first tenth, ms", median(starts[:part]))
        row("start of a group, median of the last tenth, ms", median(starts[-part:]))
        row("checkpoint of one idle group, median of 20, ms", median(one))
        row("checkpoint of every group in turn, each one's first, s", f"{sum(first):.2f}")
        row("checkpoint of every group in turn, again, s", f"{sum(again):.2f}")
        row("status of one group, ms", milliseconds(status_one))
        row("status of all groups, ms", milliseconds(status))
        row("understudyctl list, process included, ms", milliseconds(listed))
        row(f"scrape of /metrics ({len(page) / MIB:.1f} MiB), ms", milliseconds(scrape))
        row("processor time while idle, % of a core", f"{processor * 100:.1f}")
        row("SIGTERM to the end, s", f"{ended:.2f}")
        row("restart until every group is there, after SIGTERM, s", f"{ready:.2f} ({opened})")
        row("restart until every group is there, after kill -9, s", f"{ready_killed:.2f}")
        costs_table(costs, count)


def group_status(daemon):
    return call(daemon, "GetStatus", group="vm1")["groups"][0]


def one_group(volumes):
    """Figures of a group with so many volumes, written to by turns: {row: figure}."""
    figures = {}
    with Place() as place:
        service = lib.Service(place).start()
        call(service, "GetStatus", group="")  # connects
        base = Costs(service)
        names = [f"vd{i:02}" for i in range(volumes)]
        disks = {name: place.disk(f"{name}.raw", DISK_BYTES) for name in names}
        figures["start at the service, ms"] = milliseconds(timed(lambda: start(service, "vm1", disks))[0])
        agent = lib.Agent(place, service, *(f"{name},size={DISK_BYTES}" for name in names))
        figures["agent up and connected, s"] = f"{timed(lambda: agent.start().wait_connected())[0]:.2f}"
        guests = [Disk(agent.nbd_socket, f"vm1/{name}") for name in names]
        blocks = [os.urandom(64 << 10) for _ in range(16)]
        for mib in (0, 16, 256):
            took = []
            for turn in range(5):
                for i in range(mib * 16):
                    block = i // volumes * 7919 % (DISK_BYTES >> 16)  # each once, at random
                    guests[i % volumes].write(block << 16, blocks[(i + turn) % 16])
                lib.wait_for(lambda: group_status(agent)["forward_queue_bytes"] == "0", "the queue to be empty")
                took.append(timed(lambda: call(agent, "Checkpoint", group="vm1"))[0])
            figures[f"checkpoint after {mib} MiB, median of 5, ms"] = milliseconds(statistics.median(took))
        now = Costs(service)
        figures["threads of the service"] = now.threads - base.threads
        figures["file descriptors of the service"] = now.files - base.files
        figures["restart after kill -9, s"] = f"{restart(service, kill=True)[1]:.2f}"
        agent.wait_connected()
        call(service, "GetStatus", group="")
        figures["failover, ms"] = milliseconds(timed(lambda: call(service, "Stop", group="vm1", failover=True))[0])
        done = timed(lambda: lib.wait_for(lambda: group_status(service)["stage"] == "STAGE_DONE", "DONE"))
        figures["and until it is DONE, s"] = f"{done[0]:.2f}"
        for guest in guests:
            guest.close()
    return figures


def main():
    many_groups(OPTIONS.groups)
    one, many = one_group(1), one_group(OPTIONS.volumes)
    table("one group", "1 volume", f"{OPTIONS.volumes} volumes")
    for name in one:
        row(name, one[name], many[name])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What a sick standby costs the guest, and what making it good costs: the figures of docs/performance.md#outages.

    python3 tests/bench/resync.py [--bin DIR] [--seconds 5]

Called by run.sh. Guest latency is fio's (4 KiB random writes, queue depth 1, through NBD), each row beside the healthy one of the same
run; all else is wall clock, seen by understudyctl; of a first sync the agent's start is part. Everything lies in a temporary directory. Needs fio with its nbd engine.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/integration"))
parser = argparse.ArgumentParser()
parser.add_argument("--bin", type=pathlib.Path, default=SOURCE / "build/release/bin")
parser.add_argument("--seconds", type=int, default=5)
OPTIONS = parser.parse_args()
for variable, program in (
    ("UNDERSTUDYD", "understudyd"),
    ("UNDERSTUDY_AGENT", "understudy-agent"),
    ("UNDERSTUDYCTL", "understudyctl"),
):
    os.environ[variable] = str((OPTIONS.bin / program).resolve())

import lib  # noqa: E402: reads the variables above

MIB = 1 << 20
DISK_BYTES = 512 * MIB
HOT_BYTES = 256 * MIB


class Pair:
    """A service and an agent in tee mode, in a directory of their own: what lib.Service and lib.Agent need of a test case."""

    def __init__(self, primary, secondary, *options, initial=""):
        self.daemons = []
        self.primary, self.secondary, self.options, self.initial = primary, secondary, options, initial

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="us-"))
        for name, fill in (("p", self.primary), ("s", self.secondary)):
            with open(self.dir / name, "wb") as file:
                fill(file)
                file.truncate(DISK_BYTES)
                os.fsync(file.fileno())
        self.standby = lib.Service(self).start()
        self.standby.start_group(f"vda,disk={self.dir / 's'}{self.initial}")
        self.host = lib.Agent(self, self.standby, f"vda,disk={self.dir / 'p'}", options=self.options)
        return self

    def __exit__(self, *error):
        for daemon in self.daemons:
            if daemon.running:
                daemon.signal(signal.SIGCONT)
                daemon.kill()
        if error[0] is not None:
            for log in self.dir.glob("*.log"):
                print(f"---- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        shutil.rmtree(self.dir)

    def assertEqual(self, found, wanted, what=""):
        if found != wanted:
            raise AssertionError(f"{found!r} is not {wanted!r}: {what}")

    def sync(self):
        """Seconds until nothing is missing, and bytes sent."""
        begun = time.monotonic()
        answer = self.host.ctl("sync", "vm1", "--wait", timeout="600s")
        self.assertEqual(answer.status, 0, answer.error)
        return time.monotonic() - begun, int(self.host.metric("understudy_resync_applied_bytes_total"))


def fio(disk, mode="randwrite", depth=1, block="4k", seconds=OPTIONS.seconds, size=HOT_BYTES):
    """One job; its `write` object."""
    done = subprocess.run(
        ["fio", "--name=guest", "--ioengine=nbd", f"--uri={disk}", f"--rw={mode}", f"--bs={block}", f"--iodepth={depth}",
         "--time_based", f"--runtime={seconds}", f"--size={size}", "--randrepeat=0", "--output-format=json"],
        capture_output=True, text=True, timeout=seconds + 120, check=True,
    )  # fmt: skip
    return json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["write"]


def p99_ms(write):
    return write["clat_ns"]["percentile"]["99.000000"] / 1e6


def dense(file):
    while file.tell() < HOT_BYTES:
        file.write(os.urandom(MIB))


def fragmented(file):
    """The same bytes of data, every second 4 KiB a hole."""
    for at in range(0, 2 * HOT_BYTES, 8192):
        file.seek(at)
        file.write(os.urandom(4096))


def nothing(_):
    pass


def guest_latency():
    print("\n| standby | p99 of a 4 KiB write, ms | of the healthy one | longest, ms | writes/s |\n|---|--:|--:|--:|--:|")
    with Pair(dense, dense, "--start", "--window-bytes", "16M") as pair:
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
            write = fio(host.uri())
            mend()
            healthy = healthy or p99_ms(write)
            print(
                f"| {name} | {p99_ms(write):.2f} | {p99_ms(write) / healthy:.2f} "
                f"| {write['clat_ns']['max'] / 1e6:.0f} | {write['iops']:.0f} |"
            )
        pair.sync()


def outage():
    print("\n| outage | changed, MiB | sent, MiB | of what changed | seconds |\n|---|--:|--:|--:|--:|")
    with Pair(dense, dense, "--start", "--window-bytes", "16M") as pair:
        host = pair.host.start().wait_connected()
        pair.standby.kill()
        fio(host.uri(), mode="write", block="64k", depth=8, seconds=OPTIONS.seconds)
        changed = int(host.status()["volumes"][0]["dirty_bytes"])
        pair.standby.restart()
        seconds, sent = pair.sync()
        print(f"| {OPTIONS.seconds} s of 64 KiB writes | {changed / MIB:.0f} | {sent / MIB:.0f} | {sent / changed:.2f} | {seconds:.1f} |")


def first_sync():
    print("\n| first sync | seconds | data MiB/s | sent, MiB |\n|---|--:|--:|--:|")
    speeds = {}
    for name, primary, secondary in (
        ("256 MiB dense, standby empty", dense, nothing),
        ("256 MiB in 4 KiB pieces, standby empty", fragmented, nothing),
        ("512 MiB of zeroes on both sides", nothing, nothing),
    ):
        with Pair(primary, secondary, "--start", initial=",initial=sync") as pair:
            begun = time.monotonic()  # the agent begins by itself
            pair.host.start()
            _, sent = pair.sync()
            seconds = time.monotonic() - begun
            speeds[name] = HOT_BYTES / MIB / seconds
            print(f"| {name} | {seconds:.1f} | {speeds[name]:.0f} | {sent / MIB:.0f} |")
    first, second = list(speeds.values())[:2]
    print(f"\nA disk in 4 KiB pieces runs at {second / first:.2f} of a dense one.")


def verify():
    with Pair(dense, nothing, "--start", initial=",initial=sync") as pair:
        host = pair.host.start()
        pair.sync()
        begun = time.monotonic()
        pair.assertEqual(host.ctl("verify", "vm1", "--wait", timeout="600s").status, 0)
        seconds = time.monotonic() - begun
        print(f"\nVerify of a 512 MiB disk with 256 MiB of data: {seconds:.1f} s, {HOT_BYTES / MIB / seconds:.0f} MiB/s of data.")


def main():
    guest_latency()
    outage()
    first_sync()
    verify()


main()

"""What the measurements share: options, a directory with daemons, disks whose blocks exist, fio, processor time, Markdown tables.

Import it before lib: it says which daemons lib uses (--bin DIR, or build/release/bin).
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
PARSER = argparse.ArgumentParser(allow_abbrev=False)
PARSER.add_argument("--bin", type=pathlib.Path, default=SOURCE / "build/release/bin")
for variable, program in (
    ("UNDERSTUDYD", "understudyd"),
    ("UNDERSTUDY_AGENT", "understudy-agent"),
    ("UNDERSTUDYCTL", "understudyctl"),
    ("UNDERSTUDY_STUB", "../tests/understudy_stub"),
):
    os.environ[variable] = str((PARSER.parse_known_args()[0].bin / program).resolve())

import lib  # noqa: E402: reads the variables above

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `with` cleans up

MIB = 1 << 20
GIB = 1 << 30


class Place:
    """The directory and the daemons of one measurement: what lib.Service and lib.Agent need of a test case."""

    def __init__(self):
        self.daemons = []

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="us-"))
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

    def disk(self, name, size, fill=None):
        """A sparse file, or one that `fill` has written to."""
        path = self.dir / name
        with open(path, "wb") as file:
            if fill is not None:
                fill(file)
                os.fsync(file.fileno())
            file.truncate(size)
        return path

    def nbdkit(self, disk):
        """(what the file costs without replication: nbdkit's own file plugin, its URI); it ends with this."""
        socket = self.dir / "file.nbd"
        command = ["nbdkit", "-f", "-U", socket, "-t", "4", "file", disk]
        daemon = lib.Daemon("nbdkit", command, self.dir / "nbdkit.log", "")
        self.daemons.append(daemon)
        uri = f"nbd+unix:///?socket={socket}"
        lib.wait_for(lambda: lib.run("nbdinfo", "--size", uri, check=False).returncode == 0, "nbdkit")
        return daemon, uri


class Pair(Place):
    """A service and an agent, in tee mode unless told otherwise, each volume of `disk_bytes`; volumes are vda, vdb, ...

    `primary` and `secondary` fill a disk: called with the open file, once for each volume. `line` is a FaultProxy for the stream.
    """

    def __init__(self, primary, secondary, *options, initial="", disk_bytes, volumes=1, line=None, tee=True):
        super().__init__()
        self.fills = {"p": primary, "s": secondary} if tee else {"s": secondary}
        self.options, self.initial, self.disk_bytes, self.line = options, initial, disk_bytes, line
        self.names = [f"vd{chr(ord('a') + i)}" for i in range(volumes)]

    def __enter__(self):
        super().__enter__()
        disks = {
            side: [f"{name},disk={self.disk(f'{side}-{name}', self.disk_bytes, fill)}" for name in self.names]
            for side, fill in self.fills.items()
        }
        self.standby = lib.Service(self).start()
        self.standby.start_group(*(volume + self.initial for volume in disks["s"]))
        if self.line is not None:
            self.line.target = self.standby.address
        sizes = [f"{name},size={self.disk_bytes}" for name in self.names]
        self.host = lib.Agent(self, self.line or self.standby, *disks.get("p", sizes), options=("--start", *self.options))
        return self

    def sync(self):
        """Seconds until nothing is missing, and bytes sent."""
        begun = time.monotonic()
        answer = self.host.ctl("sync", "vm1", "--wait", timeout="600s")
        self.assertEqual(answer.status, 0, answer.error)
        return time.monotonic() - begun, int(self.host.metric("understudy_resync_applied_bytes_total"))

    def drain(self):
        """Returns when the standby has received everything, and nothing was skipped."""
        lib.wait_for(lambda: int(self.host.status()["forward_queue_bytes"]) == 0, "the queue to be empty")
        self.assertEqual(self.host.status()["incomplete"], False, "the run degraded: the figure is of something else")


def zeroes(size):
    """Fills a disk so that its blocks exist, as those of a disk in use do."""

    def fill(file):
        for _ in range(size // MIB):
            file.write(bytes(MIB))

    return fill


def nothing(_):
    pass


def fio(*uris, seconds=None, **options):
    """One job for each URI, together; their `write` object. Without `seconds` until `io_size` is written."""
    command = ["fio", "--ioengine=nbd", "--group_reporting", "--randrepeat=0", "--output-format=json"]
    if seconds:
        command += ["--time_based", f"--runtime={seconds}"]
    command += [f"--{name}={value}" for name, value in options.items()]
    for number, uri in enumerate(uris):
        command += [f"--name=guest{number}", f"--uri={uri}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["write"]


def p99_ms(write):
    return write["clat_ns"]["percentile"]["99.000000"] / 1e6


def max_ms(write):
    return write["clat_ns"]["max"] / 1e6


def processor_seconds(daemon):
    """User and system, of all its threads."""
    stat = pathlib.Path(f"/proc/{daemon.pid}/stat").read_text()
    return sum(map(int, stat.rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(daemon):
    status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def timed(action):
    """(seconds, what the action returned)"""
    begun = time.monotonic()
    answer = action()
    return time.monotonic() - begun, answer


def row(*cells):
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def table(*head):
    print()
    row(*head)
    row("---", *["--:"] * (len(head) - 1))

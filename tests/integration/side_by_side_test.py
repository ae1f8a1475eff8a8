"""Understudy beside the original: one random sequence drives a pair of real QEMUs with block replication and a pair of ours.

No guest runs: both ends of both pairs are NBD exports, and the QEMUs are told what to do over QMP. After every step each byte of
what the secondary VM reads, and of what the primary VM reads, must be the same at both pairs; when both have ended their commit
jobs, also each byte of the raw secondary disks. A model of the semantics, three byte arrays, says who is wrong when they differ.

What is left out, and why:
  discards        QEMU's replication filter does not take them, so its two disks differ after one. Ours become zeroes.
  writes during a checkpoint
                  QEMU 7.2 aborts ("First cluster in emptied image is in use"): both VMs are stopped then, and so are our writers.
  the raw secondary disk before the end
                  QEMU keeps the primary's newest bytes on it (undo), we the last checkpoint's that is applied (redo).
"""

import json
import socket

import lib
import nbd
from lib import MIB

# The second volume ends in the middle of a cluster of QEMU's overlays (64 KiB) and of a block of ours (4 KiB).
SIZES = {"vda": 8 * MIB, "vdb": 2 * MIB + 20 * 1024 + 512}
STEPS = 30
# A QEMU that hangs before it has begun is started again.
STARTS_MAX = 3
GREETING_SECONDS = 15
QEMU = ("qemu-system-x86_64", "-S", "-machine", "none", "-nodefaults", "-display", "none")


class Qemu:
    """One QEMU without a guest, and its QMP connection."""

    def __init__(self, case, name, *options):
        self.case = case
        self.qmp_socket = case.dir / f"{name}.qmp"
        self.nbd_socket = case.dir / f"{name}.nbd"
        self.command = [*QEMU, "-name", name, "-qmp", f"unix:{self.qmp_socket},server=on,wait=off", *options]
        for _ in range(STARTS_MAX):
            self.daemon = lib.Daemon(name, self.command, case.dir / f"{name}.log", "")
            case.daemons.append(self.daemon)
            if self._greeted():
                break
            self.daemon.kill()
        else:
            raise AssertionError(f"{name} does not answer: {self.daemon.log()}")
        self.execute("nbd-server-start", addr={"type": "unix", "data": {"path": str(self.nbd_socket)}})

    def _greeted(self):
        """Seen with QEMU 7.2 on a busy machine, rarely: it greets, and does not answer the first command."""
        self.socket = lib.wait_for(self._connected, f"{self.qmp_socket.name} to be listened at")
        self.case.addCleanup(self.socket.close)
        self.lines = self.socket.makefile("rb")
        self.case.addCleanup(self.lines.close)
        self.socket.settimeout(GREETING_SECONDS)
        try:
            self.lines.readline()
            self.execute("qmp_capabilities")
        except TimeoutError:
            return False
        self.socket.settimeout(lib.PATIENCE_SECONDS)
        return True

    def _connected(self):
        assert self.daemon.running, self.daemon.log()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.qmp_socket))
        except OSError:
            connection.close()
            return None
        return connection

    def execute(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while line := self.lines.readline():
            answer = json.loads(line)
            if "event" not in answer:
                assert "return" in answer, f"{self.daemon.name}: {command}: {answer}"
                return answer["return"]
        raise AssertionError(f"{self.daemon.name} ended in {command}: {self.daemon.log()}")

    def replication(self, enable, primary, **arguments):
        self.execute("xen-set-replication", enable=enable, primary=primary, **arguments)

    def files(self):
        """Of every node in the block graph."""
        return {node["file"] for node in self.execute("query-named-block-nodes", flat=True)}


def quorum(name, child):
    """What the VM has: its copies are compared by vote in other uses, here the first one answers reads."""
    return f"if=none,id={name},driver=quorum,read-pattern=fifo,vote-threshold=1,{child},cache=writeback"


class QemuPair:
    """As QEMU's docs/COLO-FT.txt builds it: the primary's quorum writes to its disk and, over NBD, to the secondary's."""

    name = "QEMU"
    primary_reads = True

    def __init__(self, case, images):
        self.case = case
        self.primary_disks = {name: case.disk(f"qemu-p-{name}", len(data), data) for name, data in images.items()}
        self.secondary_disks = {name: case.disk(f"qemu-s-{name}", len(data), data) for name, data in images.items()}
        self.overlays = set()
        self.secondary = Qemu(case, "qemu-secondary", *self._secondary_drives(images))
        for name in images:
            for device in (f"parent-{name}", name):
                self.secondary.execute("nbd-server-add", device=device, writable=True)
        self.secondary.replication(True, False)
        self.primary = Qemu(case, "qemu-primary", *self._primary_drives())
        for name in images:
            self._attach(name)
            self.primary.execute("nbd-server-add", device=name, writable=True)
        self.primary.replication(True, True)
        self.guests = {name: self._export(self.primary, name) for name in images}
        self.standbys = {name: self._export(self.secondary, name) for name in images}

    def _secondary_drives(self, images):
        for name, data in images.items():
            active, hidden = (self.case.dir / f"{name}.{kind}.qcow2" for kind in ("active", "hidden"))
            for path in (active, hidden):
                lib.run("qemu-img", "create", "-q", "-f", "qcow2", path, len(data))
                self.overlays.add(str(path))
            yield from ("-drive", f"if=none,id=parent-{name},driver=raw,file.filename={self.secondary_disks[name]},cache=writeback")
            yield "-drive"
            yield (
                f"if=none,id=child-{name},driver=replication,mode=secondary,top-id={name},cache=writeback,file.driver=qcow2,"
                f"file.file.filename={active},file.backing.driver=qcow2,file.backing.file.filename={hidden},"
                f"file.backing.backing=parent-{name}"
            )
            yield from ("-drive", quorum(name, f"children.0=child-{name}"))

    def _primary_drives(self):
        for name, path in self.primary_disks.items():
            yield from ("-drive", quorum(name, f"children.0.driver=raw,children.0.file.filename={path}"))

    def _attach(self, name):
        drive = (
            f"driver=replication,mode=primary,file.driver=nbd,file.path={self.secondary.nbd_socket},"
            f"file.export=parent-{name},node-name=replication-{name}"
        )
        self.primary.execute("human-monitor-command", **{"command-line": f"drive_add -n buddy {drive}"})
        self.primary.execute("x-blockdev-change", parent=name, node=f"replication-{name}")

    def _export(self, qemu, name):
        disk = nbd.Disk(qemu.nbd_socket, name, lib.PATIENCE_SECONDS)
        self.case.addCleanup(disk.close)
        return disk

    def checkpoint(self):
        self.secondary.execute("xen-colo-do-checkpoint")

    def healthy(self):
        return all(not qemu.execute("query-xen-replication-status")["error"] for qemu in (self.primary, self.secondary))

    def kill_primary(self):
        self.primary.daemon.kill()

    def fail_over(self):
        self.secondary.replication(False, False, failover=True)

    def wait_done(self):
        """Its commit job sends no event; when it has ended, the overlays are gone from the block graph."""
        lib.wait_for(lambda: not self.overlays & self.secondary.files(), "QEMU's commit job")

    def late_requests(self):
        """Start as primary, checkpoint, stop, of a secondary that has been promoted: success, and nothing happens."""
        self.secondary.replication(True, True)
        self.secondary.execute("xen-colo-do-checkpoint")
        self.secondary.replication(False, False, failover=True)


class UnderstudyPair:
    """An agent with the primary disks (tee)."""

    name = "Understudy"
    primary_reads = True

    def __init__(self, case, images):
        self.case = case
        self.primary_disks = {name: case.disk(f"p-{name}", len(data), data) for name, data in images.items()}
        self.secondary_disks = {name: case.disk(f"s-{name}", len(data), data) for name, data in images.items()}
        self.service = case.service()
        self.service.start_group(*(f"{name},disk={path}" for name, path in self.secondary_disks.items()))
        self.agent = case.agent(self.service, *self.agent_volumes()).wait_connected()
        self.guests = {name: self.guest(name) for name in images}
        self.standbys = {name: self.service.connect(name) for name in images}

    def agent_volumes(self):
        return [f"{name},disk={path}" for name, path in self.primary_disks.items()]

    def guest(self, name):
        return self.agent.connect(name)

    def checkpoint(self):
        self.agent.call("checkpoint", "vm1")

    def healthy(self):
        return all(end.call("get-error", "vm1")["errors"] == [] for end in (self.agent, self.service))

    def kill_primary(self):
        self.agent.kill()

    def fail_over(self):
        self.service.call("stop", "vm1", "--failover")

    def wait_done(self):
        self.service.wait_stage("DONE")

    def late_requests(self):
        for call in (("start", "vm1", "--mode", "primary"), ("checkpoint", "vm1"), ("stop", "vm1", "--failover")):
            self.case.assertTrue(self.service.call(*call)["ignored"], call)


class ForwardingPair(UnderstudyPair):
    """An agent that only forwards (no primary disk to read)."""

    primary_reads = False

    def agent_volumes(self):
        return [f"{name},size={size}" for name, size in SIZES.items()]


class QuorumPair(ForwardingPair):
    """The forwarding agent where QEMU has its replication driver: as the second child of the quorum that the primary VM has."""

    primary_reads = True

    def __init__(self, case, images):
        self.quorums = []
        super().__init__(case, images)

    def guest(self, name):
        local = f"children.0.driver=raw,children.0.file.filename={self.primary_disks[name]}"
        forward = f"children.1.driver=nbd,children.1.path={self.agent.nbd_socket},children.1.export=vm1/{name}"
        qemu = Qemu(self.case, f"quorum-{name}", "-drive", quorum(name, f"{local},{forward}"))
        self.quorums.append(qemu)
        qemu.execute("nbd-server-add", device=name, writable=True)
        disk = nbd.Disk(qemu.nbd_socket, name, lib.PATIENCE_SECONDS)
        self.case.addCleanup(disk.close)
        return disk

    def kill_primary(self):
        for qemu in self.quorums:
            qemu.daemon.kill()
        super().kill_primary()


class SideBySideTest(lib.Case):
    def start(self, kind):
        images = {name: self.random_bytes(size) for name, size in SIZES.items()}
        self.pairs = (QemuPair(self, images), kind(self, images))
        # The model: the primary's disks, their state at the last checkpoint, and what the secondary VM sees.
        self.primary = {name: bytearray(data) for name, data in images.items()}
        self.standby = {name: bytearray(data) for name, data in images.items()}
        self.checkpoints = 0
        self.compare("at first")

    def write(self, end):
        """One request of a VM, "guests" or "standbys", to both pairs and to the model."""
        name = self.rng.choices(list(SIZES), [3, 1])[0]
        length = min(512 * self.rng.choice([1, 8, 8, self.rng.randint(1, 400)]), SIZES[name])
        offset = 512 * self.rng.randint(0, (SIZES[name] - length) // 512)
        if self.rng.random() < 0.1:  # the end of the disk is a special place
            offset = SIZES[name] - length
        zeroes = self.rng.random() < 0.25
        flags = self.rng.choices([0, nbd.FUA], [9, 1])[0] | (self.rng.choice([0, nbd.NO_HOLE]) if zeroes else 0)
        data = bytes(length) if zeroes else self.rng.randbytes(length)
        for pair in self.pairs:
            disk = getattr(pair, end)[name]
            if zeroes:
                disk.write_zeroes(offset, length, flags)
            else:
                disk.write(offset, data, flags)
        model = self.primary if end == "guests" else self.standby
        model[name][offset : offset + length] = data

    def checkpoint(self):
        for pair in self.pairs:
            pair.checkpoint()
            self.assertTrue(pair.healthy(), pair.name)
        self.standby = {name: bytearray(image) for name, image in self.primary.items()}
        self.checkpoints += 1

    def compare(self, when):
        """Both pairs' views of both ends with each other, then with the model; by MiB, which spares us arrays of whole disks."""
        for end, model in (("guests", self.primary), ("standbys", self.standby)):
            readers = [pair for pair in self.pairs if end == "standbys" or pair.primary_reads]
            for name, image in model.items():
                for start in range(0, len(image), MIB):
                    expected = image[start : start + MIB]
                    found = [getattr(pair, end)[name].read(start, len(expected)) for pair in readers]
                    what = f"{name}, {end}, {when}, from {start}"
                    self.assert_bytes(found[-1], found[0], f"{what}: ours and QEMU's")
                    self.assert_bytes(found[0], expected, f"{what}: both agree, the model does not")

    def compare_disks(self, when):
        for name, expected in self.standby.items():
            ours, theirs = (pair.secondary_disks[name].read_bytes() for pair in reversed(self.pairs))
            self.assert_bytes(ours, theirs, f"raw secondary disk {name}, {when}: ours and QEMU's")
            self.assert_bytes(ours, expected, f"raw secondary disk {name}, {when}: both agree, the model does not")

    def replicate(self):
        for step in range(1, STEPS + 1):
            if step > 3 and self.rng.random() < 0.3:
                self.checkpoint()
                self.compare(f"step {step}, checkpoint {self.checkpoints}")
                continue
            for _ in range(self.rng.randint(1, 6)):
                self.write(self.rng.choices(["guests", "standbys"], [2, 1])[0])
            self.compare(f"step {step}")

    def fail_over(self):
        """The primary host dies; the secondary VM writes while the commit jobs run, and after them."""
        for pair in self.pairs:
            pair.kill_primary()
        self.primary = {}
        for pair in self.pairs:
            pair.fail_over()
        self.compare("after the failover")
        for step in range(3):
            self.write("standbys")
            self.compare(f"failed over, write {step + 1}")
        for pair in self.pairs:
            pair.wait_done()
        self.compare("commit jobs done")
        self.compare_disks("commit jobs done")

    def end(self):
        for pair in self.pairs:
            pair.late_requests()
        for _ in range(5):
            self.write("standbys")
        for pair in self.pairs:
            for disk in pair.standbys.values():
                disk.flush()
        self.compare("in the end")
        self.compare_disks("in the end")

    def play(self, kind):
        self.start(kind)
        self.replicate()
        self.fail_over()
        self.end()

    # Every round has pairs and a sequence of its own.

    def test_tee(self):
        self.play(UnderstudyPair)

    def test_tee_again(self):
        self.play(UnderstudyPair)

    def test_forward(self):
        self.play(ForwardingPair)

    def test_forward_below_a_quorum(self):
        self.play(QuorumPair)


if __name__ == "__main__":
    lib.run_tests("qemu-system-x86_64", "qemu-img")

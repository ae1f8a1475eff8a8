"""A running VM is replicated without a reboot: attach, exact checkpoints, detach, with a real QEMU that mirrors by itself.

QEMU runs without a machine and holds a raw disk; what a guest would write comes through QEMU's own NBD server, so it takes the way
of a guest's writes, mirror included.
"""

import json
import signal
import socket
import subprocess
import threading

import lib
import nbd
from lib import CTL, MIB


class Qmp:
    """One client of QEMU's machine protocol; `events` are those that came so far."""

    def __init__(self, path):
        self.socket = lib.wait_for(lambda: self._connected(path), f"QEMU to listen on {path}")
        self.socket.settimeout(lib.PATIENCE_SECONDS)
        self.file = self.socket.makefile("rw")
        self.events = []
        json.loads(self.file.readline())
        self("qmp_capabilities")

    @staticmethod
    def _connected(path):
        # The file is there before anybody listens.
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            return None
        return connection

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "event" in answer:
                self.events.append(answer["event"])
            elif "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}")
            else:
                return answer["return"]

    def close(self):
        self.file.close()
        self.socket.close()


class Vm:
    """QEMU with two disks, node names disk0 and other, and two QMP sockets: one for understudyctl, one for the test.

    `quorum`: socket and export name of an agent; disk0 is then a quorum of the raw disk and that.
    """

    def __init__(self, case, image, throttle=None, quorum=None):
        self.qmp_socket = case.dir / "vm.qmp"
        self.other = case.random_bytes(case.size)
        own = case.dir / "test.qmp"
        self.log_path = case.dir / "qemu.log"
        log = open(self.log_path, "ab")
        file_node = f"driver=raw,node-name=below,file.driver=file,file.filename={image},discard=unmap"
        disk_nodes = ["-blockdev", "driver=throttle,node-name=disk0,throttle-group=group,file=below"]
        if quorum is not None:
            export = f"driver=nbd,node-name=standby,server.type=unix,server.path={quorum[0]},export={quorum[1]},reconnect-delay=20"
            both = "driver=quorum,node-name=disk0,read-pattern=fifo,vote-threshold=1,children.0=below,children.1=standby"
            disk_nodes = ["-blockdev", export, "-blockdev", both]
        self.process = subprocess.Popen(
            [
                "qemu-system-x86_64", "-S", "-machine", "none", "-nographic", "-nodefaults",
                "-qmp", f"unix:{self.qmp_socket},server=on,wait=off", "-qmp", f"unix:{own},server=on,wait=off",
                "-blockdev", f"driver=raw,node-name=other,file.driver=file,file.filename={case.disk('other.raw', case.size, self.other)}",
                "-object", f"throttle-group,id=group,x-bps-read={throttle or 0}", "-blockdev", file_node, *disk_nodes,
                "-trace", "qmp_block_job_cancel",  # for is_cancelling()
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        log.close()
        case.addCleanup(self.end)
        self.qmp = Qmp(own)
        guest = case.dir / "guest.nbd"
        self.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": str(guest)}})
        self.qmp("block-export-add", type="nbd", id="guest", **{"node-name": "disk0", "writable": True, "name": "disk0"})
        self.disk = nbd.Disk(guest, "disk0", lib.PATIENCE_SECONDS)
        self.qmp("cont")

    def running(self):
        return self.qmp("query-status")["running"]

    def jobs(self):
        return [job["device"] for job in self.qmp("query-block-jobs")]

    def attachments(self):
        nodes = [node["node-name"] for node in self.qmp("query-named-block-nodes", flat=True)]
        return [name for name in nodes if name.startswith("understudy-")]

    def full_speed(self):
        """No throttle any more. QEMU lets wait what waits already; stopping the VM lets it through."""
        self.qmp("qom-set", path="/objects/group", property="limits", value={"bps-read": 0})
        self.qmp("stop")
        self.qmp("cont")

    def is_cancelling(self):
        """Whether somebody has cancelled a job."""
        return "qmp_block_job_cancel" in self.log_path.read_text(errors="replace")

    def give_standby_a_second(self, quorum):
        """Opens the quorum's export anew, to be given up a second after its agent has gone, not 20 s. Nobody may be writing."""
        self.remove_standby()
        server = {"type": "unix", "path": str(quorum[0])}
        self.qmp("blockdev-add", driver="nbd", server=server, export=quorum[1], **{"node-name": "standby", "reconnect-delay": 1})
        self.qmp("x-blockdev-change", parent="disk0", node="standby")

    def remove_standby(self):
        self.qmp("x-blockdev-change", parent="disk0", child="children.1")
        self.qmp("blockdev-del", **{"node-name": "standby"})

    def end(self):
        if self.process.poll() is None:
            self.disk.close()
            self.qmp.close()
            self.process.kill()
            self.process.wait()


class Guest(threading.Thread):
    """Writes at random places of the disk until stop(); `image` is what it has made of it."""

    def __init__(self, case, vm, image):
        super().__init__()
        self.vm, self.image, self.rng = vm, image, case.rng
        self.stopping = threading.Event()
        self.writes = 0
        self.start()

    def run(self):
        while not self.stopping.is_set():
            self.write()

    def write(self):
        length = 512 * self.rng.randint(1, 64)
        offset = 512 * self.rng.randint(0, (len(self.image) - length) // 512)
        kind = self.rng.random()
        data = self.rng.randbytes(length) if kind < 0.8 else bytes(length)
        if kind < 0.8:
            self.vm.disk.write(offset, data)
        else:
            self.vm.disk.write_zeroes(offset, length)
        self.image[offset : offset + length] = data
        self.writes += 1

    def write_on(self, count=10):
        """Until it has written so many times more."""
        before = self.writes
        lib.wait_for(lambda: self.writes > before + count, "the guest to write")

    def stop(self):
        self.stopping.set()
        self.join()
        return self.writes


class AttachTest(lib.Case):
    size = 64 * MIB

    def pair(self, *volumes):
        """A standby that has nothing yet, and an agent in forward mode."""
        service = self.service()
        names = volumes or ("vda",)
        service.start_group(*(f"{name},disk={self.dir}/standby-{name},size={self.size},create,initial=sync" for name in names))
        agent = self.agent(service, *(f"{name},size={self.size}" for name in names)).wait_connected()
        return service, agent

    def vm(self, **options):
        image = bytearray(self.random_bytes(self.size))
        return Vm(self, self.disk("vm.raw", self.size, bytes(image)), **options), image

    def attach(self, agent, vm, *arguments):
        answer = agent.ctl("attach", "--qmp", vm.qmp_socket, "--device", "disk0", *arguments)
        self.assertEqual(answer.status, 0, answer.error)
        return answer.object

    def checkpoint(self, agent, vm):
        answer = agent.ctl("checkpoint", "vm1", "--qmp", vm.qmp_socket)
        self.assertEqual(answer.status, 0, answer.error)
        return int(answer.object["epoch"])

    def test_a_running_vm_is_attached_checkpointed_and_detached(self):
        service, agent = self.pair()
        vm, image = self.vm()
        guest = Guest(self, vm, image)
        attached = self.attach(agent, vm)
        self.assertEqual(attached["job"], "understudy-vda")
        self.assertEqual(attached["epoch"], service.status()["committed_epoch"])
        self.assertGreater(guest.stop(), 0, "the guest was stopped by the attach")
        self.assertEqual(vm.attachments(), ["understudy-vda"])

        epoch = self.checkpoint(agent, vm)
        self.assertGreater(epoch, int(attached["epoch"]))
        vm.qmp("query-status")
        self.assertEqual([e for e in vm.qmp.events if e in ("STOP", "RESUME")][-2:], ["STOP", "RESUME"])
        self.assertTrue(vm.running())
        self.assert_export(service.uri(), image, "the first checkpoint")

        guest = Guest(self, vm, image)
        guest.write_on(100)
        self.checkpoint(agent, vm)
        guest.stop()
        self.checkpoint(agent, vm)
        self.assert_export(service.uri(), image, "a later checkpoint")

        guest = Guest(self, vm, image)
        guest.write_on(100)
        guest.stop()
        before = bytes(image)
        self.assertEqual(agent.ctl("detach", "--qmp", vm.qmp_socket).status, 0)
        self.assertEqual((vm.jobs(), vm.attachments()), ([], []))
        vm.disk.write(0, b"\x5a" * MIB)
        image[:MIB] = b"\x5a" * MIB
        agent.call("checkpoint", "vm1")
        self.assert_export(service.uri(), before, "what was written until the detach")
        nothing = agent.ctl("detach", "--qmp", vm.qmp_socket)
        self.assert_refused(nothing, "NOT_FOUND", "nothing is attached")

        self.attach(agent, vm)
        self.assert_export(service.uri(), image, "attached again")
        self.assertEqual(agent.call_errors(), [])

    def test_the_standby_takes_no_half_copy(self):
        service, agent = self.pair()
        vm, image = self.vm(throttle=8 * MIB)
        self.attach(agent, vm, "--no-wait")
        self.assertEqual(vm.jobs(), ["understudy-vda"])
        early = agent.ctl("checkpoint", "vm1", "--qmp", vm.qmp_socket)
        self.assert_refused(early, "ABORTED", "")
        self.assertTrue(vm.running(), "after a checkpoint that failed")
        vm.full_speed()
        self.attach(agent, vm)
        self.assert_export(service.uri(), image, "after the copy")

    def test_a_copy_that_lost_writes_with_the_agent_is_not_declared_complete(self):
        """kill -9 of the agent loses writes that QEMU was told it has; the mirror job goes on and is ready all the time."""
        service, agent = self.pair()
        vm, image = self.vm()
        self.attach(agent, vm)
        guest = Guest(self, vm, image)
        guest.write_on(100)
        agent.kill()
        agent.restart()
        guest.write_on()
        guest.stop()
        agent.wait_connected()
        again = agent.ctl("attach", "--qmp", vm.qmp_socket, "--device", "disk0")
        self.assertEqual(again.status, 1, again.out)
        self.assertIn("ABORTED", again.error)
        self.assertEqual(agent.ctl("detach", "--qmp", vm.qmp_socket).status, 0)
        self.attach(agent, vm)
        self.assert_export(service.uri(), image, "copied anew")

    def test_an_agent_that_is_restarted_in_order_goes_on(self):
        service, agent = self.pair()
        vm, image = self.vm()
        self.attach(agent, vm)
        guest = Guest(self, vm, image)
        guest.write_on(100)
        agent.daemon.end()
        agent.restart()
        guest.write_on()
        guest.stop()
        self.checkpoint(agent, vm)
        self.assert_export(service.uri(), image, "after the restart")

    def test_a_group_of_two_volumes_is_complete_with_the_second(self):
        service, agent = self.pair("vda", "vdb")
        vm, image = self.vm()
        first = agent.ctl("attach", "vm1/vda", "--qmp", vm.qmp_socket, "--device", "disk0")
        self.assertEqual((first.status, int(first.object["epoch"])), (0, 0), first.error)
        self.assert_refused(agent.ctl("checkpoint", "vm1"), "ABORTED", "")
        second = agent.ctl("attach", "vm1/vdb", "--qmp", vm.qmp_socket, "--device", "other")
        self.assertEqual(second.status, 0, second.error)
        self.assertGreater(int(second.object["epoch"]), 0)
        guest = Guest(self, vm, image)
        guest.write_on(100)
        guest.stop()
        self.checkpoint(agent, vm)
        self.assert_export(service.uri("vda"), image, "the first volume")
        self.assert_export(service.uri("vdb"), vm.other, "the second volume")

    def test_a_quorum_outlives_its_agent_and_is_mirrored_anew(self):
        """The layout of COLO: QEMU writes to its own disk and to the agent. docs/operations.md, "Quorum"."""
        service = self.service()
        image = bytearray(self.random_bytes(self.size))
        service.start_group(f"vda,disk={self.disk('standby.raw', self.size, bytes(image))}")
        agent = self.agent(service, f"vda,size={self.size}", options=("--start", "--state-dir", self.dir / "state")).wait_connected()
        vm = Vm(self, self.disk("vm.raw", self.size, bytes(image)), quorum=(agent.nbd_socket, "vm1/vda"))
        guest = Guest(self, vm, image)
        lib.wait_for(lambda: guest.writes > 50, "the guest to write")
        self.checkpoint(agent, vm)
        agent.daemon.end()
        agent.restart()
        guest.write_on()
        guest.stop()
        self.checkpoint(agent.wait_connected(), vm)
        self.assert_export(service.uri(), image, "after an orderly restart of the agent")

        kept = bytes(image)
        vm.give_standby_a_second((agent.nbd_socket, "vm1/vda"))
        agent.kill()
        guest = Guest(self, vm, image)
        lib.wait_for(lambda: guest.writes > 50, "the guest to go on with its own disk")
        vm.qmp("query-status")
        self.assertIn("QUORUM_REPORT_BAD", vm.qmp.events)
        agent.restart()
        agent.wait_connected()
        self.assert_refused(agent.ctl("checkpoint", "vm1", "--qmp", vm.qmp_socket), "ABORTED", "")
        self.assert_export(service.uri(), kept, "the last whole checkpoint")
        vm.remove_standby()
        self.attach(agent, vm)
        guest.stop()
        self.checkpoint(agent, vm)
        self.assert_export(service.uri(), image, "mirrored anew")

    def test_an_interrupted_attach_leaves_nothing(self):
        _, agent = self.pair()
        vm, _ = self.vm(throttle=4 * MIB)
        attach = subprocess.Popen(
            [CTL, "--server", agent.address, "attach", "vm1/vda", "--qmp", str(vm.qmp_socket), "--device", "disk0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lib.wait_for(vm.jobs, "the mirror to begin")
        attach.send_signal(signal.SIGINT)
        lib.wait_for(vm.is_cancelling, "the mirror to be cancelled")
        vm.full_speed()  # the job ends once what it has begun is done
        _, error = attach.communicate(timeout=lib.PATIENCE_SECONDS)
        self.assertEqual(attach.returncode, 1)
        self.assertIn("vm1/vda: copy [", error)
        self.assertIn("undone: the VM is as it was before", error)
        self.assertEqual((vm.jobs(), vm.attachments()), ([], []))

    def test_a_wrong_device_is_told_and_leaves_nothing(self):
        _, agent = self.pair()
        vm, _ = self.vm()
        wrong = agent.ctl("attach", "--qmp", vm.qmp_socket, "--device", "disk9")
        self.assertEqual(wrong.status, 1)
        self.assertIn("disk9", wrong.error)
        self.assertEqual(vm.attachments(), [])


if __name__ == "__main__":
    lib.run_tests("qemu-system-x86_64", "nbdcopy", at_once=3)

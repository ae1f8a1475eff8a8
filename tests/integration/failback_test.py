"""A -> B -> A: the host of a VM dies, the standby takes over, the old host comes back as its standby, and the VM returns.

A guest writes all the time. The way back compares what may differ by the two ends' failback maps, and sends the blocks that differ and
no others: what A wrote after its last checkpoint, and what B has written since. The steps are those of docs/runbooks.md, "Going back after a failover".
"""

import subprocess
import threading

import lib
import nbd
from attach_test import Qmp
from lib import MIB

BLOCK = 4096
SLACK = 64 * MIB  # what a resync may send beyond what has changed, beside 5 %
# Where the guest writes: offset and length.
IN_BOTH, ONLY_IN_A, ONLY_IN_B = (0, 32 * MIB), (32 * MIB, 32 * MIB), (64 * MIB, 32 * MIB)


class Busy(threading.Thread):
    """A guest that writes to an area of its disk until it is stopped or its disk is gone. Keeps `image` up to date, and the blocks it
    has touched."""

    def __init__(self, case, uri, image, area):
        super().__init__()
        requests = lib.random_requests(case.rng, 2000, area[1], 64 * 1024)
        requests = [request._replace(offset=area[0] + request.offset) for request in requests]
        self.writer = lib.Writer(uri, requests, batch=20)
        self.image, self.batches, self.touched = image, 0, set()
        self.stopping, self.error = threading.Event(), None
        self.start()

    def run(self):
        try:
            while not self.stopping.is_set():
                self.keep(self.writer.write_batch())
            self.writer.close()
        except (AssertionError, OSError) as error:
            self.error = error

    def keep(self, requests):
        lib.apply_to(self.image, requests)
        for request in requests:
            self.touched.update(range(request.offset // BLOCK, (request.offset + request.length - 1) // BLOCK + 1))
        self.batches += 1

    def wait_batches(self, count):
        last = self.batches + count
        lib.wait_for(lambda: self.batches >= last or self.error, "the guest to write")

    def stop(self):
        """Every write has been answered and flushed."""
        self.stopping.set()
        self.join()
        assert self.error is None, self.error

    def die(self):
        """Its disk is gone."""
        self.writer.process.kill()
        self.writer.process.communicate()
        self.stopping.set()
        self.join()


class FailbackTest(lib.Case):
    size = 256 * MIB

    def different_blocks(self):
        """The numbers of the blocks in which the two raw disks differ."""
        with open(self.disk_a, "rb") as a, open(self.disk_b, "rb") as b:
            blocks = enumerate(zip(iter(lambda: a.read(BLOCK), b""), iter(lambda: b.read(BLOCK), b"")))
            return {number for number, (left, right) in blocks if left != right}

    def give_up_disks(self, agent):
        """The map of an agent that has ended."""
        path = self.dir / f"{agent.name}.failback"
        done = lib.run(*map(str, agent.command()), "--write-failback-map", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        return path

    def remove_with_map(self, service):
        path = self.dir / f"{service.name}.failback"
        service.call("remove", "vm1", "--failback-map", path)
        return path

    def test_there_and_back_again(self):
        content = self.random_bytes(self.size // 4)
        self.disk_a, self.disk_b = self.disk("a.raw", self.size, content), self.disk("b.raw", self.size, content)
        image = bytearray(content) + bytes(self.size - len(content))
        image = self.from_a_to_b(image)
        self.from_b_to_a(image)
        self.pair_as_before(image)

    def from_a_to_b(self, image):
        """A dies while its guest writes; the guest goes on at B. Returns what B's disk holds."""
        self.service_b = self.service(name="service-b")
        self.service_b.start_group(f"vda,disk={self.disk_b}")
        self.agent_a = self.agent(self.service_b, f"vda,disk={self.disk_a}", name="agent-a").wait_connected()
        guest = Busy(self, self.agent_a.uri(), image, IN_BOTH)
        guest.wait_batches(20)
        guest.stop()
        self.agent_a.call("checkpoint", "vm1")
        lost = Busy(self, self.agent_a.uri(), bytearray(image), ONLY_IN_A)
        lost.wait_batches(20)
        self.agent_a.kill()
        lost.die()

        self.service_b.call("stop", "vm1", "--failover")
        self.assert_export(self.service_b.uri(), image, "after the failover")
        guest = Busy(self, self.service_b.uri(), image, ONLY_IN_B)
        self.service_b.wait_stage("DONE")
        guest.wait_batches(20)
        guest.stop()
        self.assert_file(self.disk_b, image, "B's disk")
        shown = int(self.service_b.status("vm1")["volumes"][0]["failback_bytes"])
        self.assertEqual(self.service_b.metric("understudy_failback_bytes", volume="vda"), shown)
        self.assertLess(shown, self.size // 2)
        return image

    def from_b_to_a(self, image):
        """B's guest moves to an agent on B's disk, A becomes its standby, then the VM returns."""
        maps = [self.give_up_disks(self.agent_a), self.remove_with_map(self.service_b)]
        self.agent_a.restart()  # by mistake
        self.assertNotEqual(lib.qemu_io(self.agent_a.uri(), "write -P 1 0 4k", check=False).returncode, 0)
        self.agent_a.daemon.end()
        self.service_a = self.service(name="service-a")
        self.service_a.start_group(f"vda,disk={self.disk_a},initial=sync")
        differ = self.different_blocks()
        limit = ("--resync-bytes-per-second", "40M")  # so that the guest writes during all of it
        with_maps = [word for path in maps for word in ("--failback-map", path)]
        self.agent_b = self.agent(
            self.service_a, f"vda,disk={self.disk_b}", name="agent-b", options=("--start", *limit, *with_maps)
        )
        guest = Busy(self, self.agent_b.uri(), image, (0, self.size))
        answer = self.agent_b.ctl("sync", "vm1", "--wait")
        self.assertEqual(answer.status, 0, answer.error)
        self.assertEqual(answer.object["sync_state"], "ASSUMED")
        sent = int(self.agent_b.metric("understudy_resync_applied_bytes_total", volume="vda"))
        guest.wait_batches(1)
        touched = set(guest.touched)
        compared = int(self.agent_b.daemon.events("failback_begun")[0]["to_compare_bytes"])
        print(
            f"different: {len(differ)} blocks, compared: {compared // BLOCK}, sent: {sent / BLOCK:.0f}, "
            f"touched by the guest meanwhile: {len(touched)}, of {self.size // BLOCK}", flush=True,
        )  # fmt: skip
        self.assertGreater(len(differ) * BLOCK, 8 * MIB, "hardly anything to send")
        self.assertGreaterEqual(compared, BLOCK * len(differ))
        # All that was written since the pair began, and what the agent had marked ahead when it died: up to 64 MiB from its last region.
        self.assertLessEqual(compared, sum(ONLY_IN_A) + 64 * MIB)
        self.assertGreaterEqual(sent, BLOCK * len(differ - touched))
        self.assertLessEqual(sent, BLOCK * len(differ | touched))
        self.assertLessEqual(sent, 1.05 * BLOCK * len(differ) + SLACK)

        guest.wait_batches(20)
        guest.stop()
        self.agent_b.call("checkpoint", "vm1")
        self.service_a.call("stop", "vm1", "--failover")
        self.service_a.wait_stage("DONE")
        self.assert_file(self.disk_a, image, "A's disk")
        self.assert_file(self.disk_b, image, "B's disk at the end")

    def pair_as_before(self, image):
        """The first pair is set up again, and nothing has to be sent."""
        self.agent_b.daemon.end()
        maps = [self.remove_with_map(self.service_a), self.give_up_disks(self.agent_b)]
        self.service_a.daemon.end()
        self.service_b.start_group(f"vda,disk={self.disk_b},initial=sync")
        self.agent_a.options = ("--start", *[word for path in maps for word in ("--failback-map", path)])
        self.agent_a.restart()
        self.agent_a.wait_connected()
        guest = Busy(self, self.agent_a.uri(), image, (0, self.size))
        self.assertEqual(self.agent_a.ctl("sync", "vm1", "--wait").status, 0)
        guest.wait_batches(5)
        guest.stop()
        answer = self.agent_a.ctl("verify", "vm1", "--wait")
        self.assertEqual((answer.status, answer.object["outcome"]), (0, "EQUAL"), answer.error)
        self.agent_a.call("checkpoint", "vm1")
        self.assert_export(self.service_b.uri(), image, "B's view, as standby again")
        self.agent_a.daemon.end()
        self.assertEqual([path.exists() for path in maps], [False, False], "maps that were taken lie there")
        self.agent_a.restart()  # with maps that it has taken
        self.agent_a.wait_connected()
        self.assertEqual(self.agent_a.daemon.events("failback_begun"), [])

    def test_maps_that_do_not_fit_are_refused(self):
        disk_a, disk_b = self.disk("a.raw", MIB), self.disk("b.raw", MIB)
        service_b = self.service(name="service-b")
        service_b.start_group(f"vda,disk={disk_b}")
        agent_a = self.agent(service_b, f"vda,disk={disk_a}", name="agent-a").wait_connected()
        early = self.refused(agent_a, "--write-failback-map", self.dir / "early")
        self.assertIn("the agent must have ended before it gives up its disks", early)
        self.assertIn("is in use by another understudy-agent", early)
        self.assertIn("its failback map is whole in stage DONE", self.refused_ctl(service_b, "remove", "vm1", "--failback-map", self.dir / "early"))
        agent_a.call("checkpoint", "vm1")
        agent_a.kill()
        service_b.call("stop", "vm1", "--failover")
        service_b.wait_stage("DONE")
        lib.qemu_io(service_b.uri(), "write -P 7 0 64k")
        map_a, map_b = self.give_up_disks(agent_a), self.remove_with_map(service_b)
        service_a = self.service(name="service-a")
        service_a.start_group(f"vda,disk={disk_a},initial=sync")

        agent_b = lib.Agent(self, service_a, f"vda,disk={disk_b}", name="agent-b")
        self.assertIn("both ends of the old pair", self.refused(agent_b, "--failback-map", map_b))
        self.assertIn("take it again, or give none", self.refused(agent_b, "--failback-map", self.dir / "nowhere"))
        damaged = self.dir / "damaged"
        damaged.write_bytes(map_b.read_bytes()[:-9] + b"\0" + map_b.read_bytes()[-8:])
        self.assertIn("no whole failback map", self.refused(agent_b, "--failback-map", map_a, "--failback-map", damaged))
        agent_b.start()  # without: everything is compared, and the guest may write
        agent_b.daemon.end()
        self.assertIn("has run since the failback map was taken", self.refused(agent_b, "--failback-map", map_a, "--failback-map", map_b))

    def refused(self, agent, *flags):
        """What an agent says that does not start."""
        done = lib.run(*map(str, agent.command()), *flags, check=False)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def refused_ctl(self, daemon, *words):
        answer = daemon.ctl(*words)
        self.assertEqual(answer.status, 1)
        return answer.error

    def test_a_running_vm_moves_to_the_agents_export(self):
        """With a real QEMU that is paused meanwhile: the service gives the disk up before the agent can take it."""
        disk = self.disk("b.raw", self.size)
        service_b, service_a = self.service(name="service-b"), self.service(name="service-a")
        service_b.start_group(f"vda,disk={disk}")
        service_b.call("stop", "vm1", "--failover")
        service_b.wait_stage("DONE")
        service_a.start_group(f"vda,disk={self.disk('a.raw', self.size)},initial=sync")
        qmp, vm = self.qemu(service_b)
        vm.write(0, b"b" * BLOCK)
        vm.flush()

        qmp("stop")
        qmp("blockdev-add", driver="null-co", size=self.size, **{"node-name": "nothing"})
        qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "disk0", "file": "nothing"}])
        qmp("blockdev-del", **{"node-name": "standby"})
        service_b.call("remove", "vm1")
        agent_b = self.agent(service_a, f"vda,disk={disk}", name="agent-b")
        server = {"type": "unix", "path": str(agent_b.nbd_socket)}
        qmp("blockdev-add", driver="nbd", server=server, export="vm1/vda", **{"node-name": "agent", "reconnect-delay": 10})
        qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "disk0", "file": "agent"}])
        qmp("cont")

        vm.write(MIB, b"a" * BLOCK)
        vm.flush()
        self.assertEqual(agent_b.ctl("sync", "vm1", "--wait").status, 0)
        agent_b.call("checkpoint", "vm1")
        image = bytearray(self.size)
        image[:BLOCK], image[MIB : MIB + BLOCK] = b"b" * BLOCK, b"a" * BLOCK
        self.assert_file(disk, image, "B's disk")
        self.assert_export(service_a.uri(), image, "A's view")

    def qemu(self, service):
        """A QEMU without a machine whose disk0 is the service's export; returns its QMP and what a guest would write through."""
        socket, guest = self.dir / "vm.qmp", self.dir / "guest.nbd"
        node = f"driver=nbd,node-name=standby,server.type=unix,server.path={service.nbd_socket},export=vm1/vda"
        process = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-qmp", f"unix:{socket},server=on,wait=off",
             "-blockdev", node, "-blockdev", "driver=raw,node-name=disk0,file=standby"],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        qmp = Qmp(socket)
        self.addCleanup(qmp.close)
        qmp("nbd-server-start", addr={"type": "unix", "data": {"path": str(guest)}})
        qmp("block-export-add", type="nbd", id="guest", **{"node-name": "disk0", "writable": True, "name": "disk0"})
        vm = nbd.Disk(guest, "disk0", lib.PATIENCE_SECONDS)
        self.addCleanup(vm.close)
        return qmp, vm


if __name__ == "__main__":
    lib.run_tests("qemu-system-x86_64", "qemu-io", "nbdcopy", "stdbuf")

"""The csi-addons replication API, with the test in the part of an operator: real daemons, real NBD clients, every byte compared.

A planned role change is Demote, then Promote without force: whatever is killed in between, the standby has every write that was answered.
"""

import os
import resource
import threading
import time

import failing_disk
import lib
import nbd
import stub
from lib import MIB, qemu_io
from watcher import Watcher

SIZE = 4 * MIB


class CsiAddonsTest(lib.Case):
    def setUp(self):
        super().setUp()
        self.standby = self.service()

    def csi(self, method, group="vm1", **fields):
        source = {"volumegroup": {"volume_group_id": group}}
        return stub.csi_call(self.standby.address, method, **({"replication_source": source} | fields))

    def ok(self, method, **fields):
        answer, end = self.csi(method, **fields)
        self.assertEqual(end.code, "OK", f"{method}: {end}")
        return answer

    def refused(self, code, text, method, **fields):
        _, end = self.csi(method, **fields)
        self.assertEqual(end.code, code, f"{method}: {end}")
        self.assertIn(text, end.message)
        return end

    def pair(self, tee=True, agent_options=("--start",), volumes=("vda",)):
        """A running pair over disks that are equal; self.image is what the primary's vda holds."""
        content = self.random_bytes(SIZE)
        self.image = bytearray(content)
        self.secondary = {name: self.disk(f"s-{name}", SIZE, content) for name in volumes}
        self.primary = {name: self.disk(f"p-{name}", SIZE, content) for name in volumes}
        parameters = {f"disk.{name}": str(path) for name, path in self.secondary.items()}
        self.ok("EnableVolumeReplication", parameters=parameters | {"schedulingInterval": "5m"})
        specs = [f"{name},disk={path}" if tee else f"{name},size={SIZE}" for name, path in self.primary.items()]
        self.agent_ = self.agent(self.standby, *specs, options=agent_options)
        self.agent_.wait_connected()

    def test_enable_leaves_the_last_files_as_start_does(self):
        self.standby.call("open", "vm1", "--mode", "secondary", "--volume", f"vda,disk={self.disk('s', SIZE)}")
        self.refused("FAILED_PRECONDITION", "not running", "GetVolumeReplicationInfo")  # connects
        pid = self.standby.daemon.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 6, limits[1]))
        self.refused("RESOURCE_EXHAUSTED", "group vm1 needs 7 open files", "EnableVolumeReplication")
        self.assertEqual(self.standby.status()["stage"], "NONE")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        self.ok("EnableVolumeReplication")

    def write(self, count=20):
        requests = lib.random_requests(self.rng, count, SIZE)
        qemu_io(self.agent_.uri(), *map(lib.command_of, requests))
        lib.apply_to(self.image, requests)

    def watch(self, endpoint):
        watcher = Watcher(self, endpoint.address, "vm1", "--refresh", "0")
        watcher.wait_kind("CURRENT")
        return watcher

    def assert_handed_over_metric(self, value):
        for endpoint in (self.standby, self.agent_):
            self.assertEqual(endpoint.metric("understudy_replication_handed_over"), value, endpoint.name)

    def assert_vm_refused(self, tee=True):
        """The primary VM can write nothing, and reads what it had (tee)."""
        with nbd.Disk(self.agent_.nbd_socket, "vm1/vda") as vm:
            self.assertEqual(nbd.errno_of(vm.write, 0, b"x" * 4096), "EIO")
            self.assertEqual(nbd.errno_of(vm.write_zeroes, 0, 4096), "EIO")
            self.assertEqual(nbd.errno_of(vm.trim, 0, 4096), "EIO")
            self.assertEqual(nbd.errno_of(vm.flush), "ok")
            if tee:
                self.assertEqual(vm.read(0, 4096), bytes(self.image[:4096]))
        if tee:
            self.assert_file(self.primary["vda"], self.image, "the primary's disk")

    def assert_promoted(self, what):
        """At once for the VM, and in the end on the raw disk."""
        self.assert_export(self.standby.uri(), self.image, what)
        self.standby.wait_stage("DONE")
        self.assert_file(self.secondary["vda"], self.image, what)

    def test_a_planned_role_change(self):
        self.pair()
        self.ok("EnableVolumeReplication")  # again, as operators do
        self.write()
        self.agent_.call("checkpoint", "vm1")
        self.write()
        end = self.refused("FAILED_PRECONDITION", "has not handed over", "PromoteVolume")
        self.assertEqual(end.reason, "NOT_HANDED_OVER")
        self.assertEqual(self.standby.status()["stage"], "RUNNING")
        self.assertEqual(self.standby.metric("understudy_failovers_total", result="failed"), 0)
        self.write()
        ends = {endpoint: self.watch(endpoint) for endpoint in (self.standby, self.agent_)}
        self.assert_handed_over_metric(0)
        self.ok("DemoteVolume")
        self.assert_vm_refused()
        for endpoint, watcher in ends.items():
            told = watcher.wait_kind("HANDED_OVER")
            self.assertTrue(told["status"]["handed_over"], endpoint.name)
            self.assertTrue(endpoint.status()["handed_over"], endpoint.name)
        self.assert_handed_over_metric(1)
        answer = self.agent_.ctl("get-error", "vm1")
        self.assertEqual((answer.status, answer.object["handed_over"]), (3, True), "no error is no success here")
        self.assertEqual(len(self.agent_.daemon.events("handed_over")), 1)
        self.ok("DemoteVolume")
        self.ok("PromoteVolume")
        self.ok("PromoteVolume")
        self.assert_promoted("after a planned role change")
        for endpoint, watcher in ends.items():
            self.assertEqual(watcher.kinds().count("HANDED_OVER"), 1, endpoint.name)
            self.assertNotIn("HANDOVER_TAKEN_BACK", watcher.kinds(), endpoint.name)
        self.ok("DemoteVolume")  # what the old side's operator goes on saying
        lib.wait_for(lambda: self.agent_.call_errors(), "the old primary to be fenced")
        self.assertEqual(self.agent_.call_errors()[0]["reason"], "FENCED")

    def test_a_busy_primary_in_forward_mode_is_drained(self):
        self.pair(tee=False)
        requests = lib.random_requests(self.rng, 400, SIZE)
        done = []

        def write():
            with nbd.Disk(self.agent_.nbd_socket, "vm1/vda") as vm:
                for request in requests:
                    data = bytes([request.pattern]) * request.length if request.kind == "write" else None
                    ask = {"write": lambda: vm.write(request.offset, data),
                           "zero": lambda: vm.write_zeroes(request.offset, request.length),
                           "discard": lambda: vm.trim(request.offset, request.length)}  # fmt: skip
                    if nbd.errno_of(ask[request.kind]) != "ok":
                        return
                    done.append(request)

        writer = threading.Thread(target=write)
        writer.start()
        lib.wait_for(lambda: len(done) > 20, "some writes")
        self.ok("DemoteVolume")
        writer.join()
        lib.apply_to(self.image, done)
        self.assert_vm_refused(tee=False)
        self.ok("PromoteVolume")
        self.assert_promoted(f"after {len(done)} acknowledged writes")

    def test_it_survives_kills_of_both(self):
        self.pair()
        self.write()
        self.ok("DemoteVolume")
        self.agent_.kill()
        self.standby.kill()
        self.agent_.restart()
        self.assert_vm_refused()
        self.standby.restart()
        lib.wait_for(lambda: self.csi("GetVolumeReplicationInfo")[1].code != "UNAVAILABLE", "a new connection")
        self.assertTrue(self.standby.status()["handed_over"])
        self.ok("DemoteVolume")
        self.assert_vm_refused()
        time.sleep(3)  # the agent has knocked meanwhile
        self.assertFalse(self.standby.status()["connected"])
        self.assertTrue(self.agent_.status()["handed_over"])
        self.assertEqual(self.agent_.call_errors(), [])
        self.ok("PromoteVolume")
        self.assert_promoted("after two kills")

    def test_a_standby_that_differs_is_neither_healthy_nor_ready(self):
        self.pair()
        self.agent_.call("checkpoint", "vm1")
        self.assertEqual(self.ok("GetVolumeReplicationInfo")["status"], "HEALTHY")
        lib.wait_for(lambda: self.standby.status()["jobs"] == [], "the apply job")
        with open(self.secondary["vda"], "r+b") as file:
            file.write(bytes([self.image[0] ^ 1]))
        self.assertEqual(self.agent_.ctl("verify", "vm1", "--wait").status, 3)
        self.assertEqual(self.agent_.ctl("sync", "vm1", "--wait").status, 3)
        lib.wait_for(lambda: self.standby.status()["sync_state"] == "DIVERGED", "the standby to be told")
        info = self.ok("GetVolumeReplicationInfo")
        self.assertEqual((info["status"], info["status_message"][:29]), ("DEGRADED", "a verify has found difference"))
        self.assertFalse(self.ok("ResyncVolume", parameters={"takeover": "true"})["ready"])

    def test_taken_back(self):
        """The change of roles is called off: nothing is missing, and the primary goes on."""
        self.pair()
        self.write()
        self.ok("DemoteVolume")
        stored = self.dir / "agent.state" / "agent"  # killed before it knows where it can go on, the agent begins a new stream
        lib.wait_for(lambda: "next_sequence=" in stored.read_text(), "the agent to store where it can go on")
        self.agent_.kill()
        self.agent_.restart()
        self.refused("FAILED_PRECONDITION", "takeover=true", "ResyncVolume")
        self.refused("FAILED_PRECONDITION", "takeover=true", "ResyncVolume", force=True)
        self.assert_vm_refused()
        self.assert_handed_over_metric(1)
        watchers = [self.watch(endpoint) for endpoint in (self.standby, self.agent_)]
        self.ok("ResyncVolume", parameters={"takeover": "true"})
        lib.wait_for(lambda: self.ok("ResyncVolume", parameters={"takeover": "true"})["ready"], "the agent to be back")
        lib.wait_for(lambda: not self.agent_.status()["handed_over"], "the VM to be let write")
        self.assertFalse(self.standby.status()["handed_over"])
        self.assert_handed_over_metric(0)
        for watcher in watchers:
            self.assertFalse(watcher.wait_kind("HANDOVER_TAKEN_BACK")["status"]["handed_over"])
        self.refused("FAILED_PRECONDITION", "has not handed over", "PromoteVolume")
        self.write()
        self.agent_.call("checkpoint", "vm1")
        self.assert_export(self.standby.uri(), self.image, "after the hand-over was taken back")
        self.ok("DemoteVolume")
        self.ok("PromoteVolume")
        self.assert_promoted("after the second hand-over")
        self.refused("FAILED_PRECONDITION", "nothing to take back", "ResyncVolume", parameters={"takeover": "true"})

    def test_the_agent_takes_over_again(self):
        """The other way back: start --takeover at the agent."""
        self.pair()
        self.ok("DemoteVolume")
        answer = self.agent_.ctl("start", "vm1", "--mode", "primary")
        self.assert_refused(answer, "FAILED_PRECONDITION", "Block replication is running or done")
        before = int(self.standby.status()["term"])
        self.agent_.call("start", "vm1", "--mode", "primary", "--takeover")
        lib.wait_for(lambda: not self.agent_.status()["handed_over"], "the VM to be let write")
        self.assertEqual(int(self.standby.status()["term"]), before + 1)
        self.write()
        self.refused("FAILED_PRECONDITION", "has not handed over", "PromoteVolume")

    def test_with_force(self):
        """Promote with force is a failover: the last checkpoint, whatever came after it."""
        self.pair()
        self.write()
        self.agent_.call("checkpoint", "vm1")
        at_checkpoint = bytearray(self.image)
        self.write()
        self.ok("PromoteVolume", force=True)
        self.image = at_checkpoint
        self.assert_promoted("after a failover")
        self.refused("FAILED_PRECONDITION", "ended without a hand-over", "DemoteVolume")

    def test_demote_needs_the_agent_and_a_complete_standby(self):
        self.pair(tee=False)  # where a new stream stays incomplete
        self.write()
        self.agent_.kill()
        lib.wait_for(lambda: not self.standby.status()["connected"], "the loss")
        self.refused("UNAVAILABLE", "no agent is connected", "DemoteVolume")
        self.agent_.restart()  # after a kill -9 its stream is a new one
        lib.wait_for(lambda: self.standby.status()["incomplete"], "the new stream")
        self.refused("ABORTED", "are missing at the standby", "DemoteVolume")
        self.assertFalse(self.agent_.status()["handed_over"])
        qemu_io(self.agent_.uri(), "write -P 5 0 64k")
        self.refused("NOT_FOUND", "no checkpoint", "GetVolumeReplicationInfo")

    def test_info(self):
        self.pair()
        self.refused("NOT_FOUND", "no checkpoint", "GetVolumeReplicationInfo")
        qemu_io(self.agent_.uri(), "write -P 7 0 64k", "write -P 8 0 64k")
        before = time.time()
        self.agent_.call("checkpoint", "vm1")
        info = self.ok("GetVolumeReplicationInfo")
        synced = time.mktime(time.strptime(info["last_sync_time"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        self.assertLessEqual(abs(synced - before), 60)
        self.assertEqual(int(info["last_sync_bytes"]), 64 << 10)
        self.assertTrue(0 < float(info["last_sync_duration"].rstrip("s")) < 60, info)
        self.assertEqual(info["status"], "HEALTHY")
        self.agent_.daemon.end()
        lib.wait_for(lambda: self.ok("GetVolumeReplicationInfo")["status"] == "DEGRADED", "the loss to show")
        self.standby.kill()
        self.standby.restart()
        lib.wait_for(lambda: self.csi("GetVolumeReplicationInfo")[1].code != "UNAVAILABLE", "a new connection")
        after = self.ok("GetVolumeReplicationInfo")
        self.assertEqual(after["last_sync_time"], info["last_sync_time"])
        for field in ("last_sync_bytes", "last_sync_duration"):
            self.assertEqual(after[field], info[field], field)

    def destination(self, **fields):
        return self.ok("GetReplicationDestinationInfo", **fields)["replication_destination"]

    def test_the_destination_has_the_names_of_the_source(self):
        self.refused("NOT_FOUND", "not open here", "GetReplicationDestinationInfo")
        self.refused("INVALID_ARGUMENT", "Missing", "GetReplicationDestinationInfo", replication_source={})
        self.pair(volumes=("vda", "vdb"))
        expected = {"volume_group_id": "vm1", "volume_ids": {name: name for name in ("vm1/vda", "vm1/vdb")}}
        self.assertEqual(self.destination(), {"volumegroup": expected})
        one_of_two = {"replication_source": {"volume": {"volume_id": "vm1/vda"}}}
        self.refused("INVALID_ARGUMENT", "name the volume group", "GetReplicationDestinationInfo", **one_of_two)
        self.standby.call("open", "vm2", "--mode", "secondary", "--volume", f"vda,disk={self.disk('single', SIZE)}")
        single = {"replication_source": {"volume": {"volume_id": "vm2"}}}
        end = self.refused("FAILED_PRECONDITION", "not running", "GetReplicationDestinationInfo", **single)
        self.assertEqual(end.reason, "NOT_RUNNING")
        self.ok("EnableVolumeReplication", **single)
        self.assertEqual(self.destination(**single), {"volume": {"volume_id": "vm2/vda"}})
        self.ok("PromoteVolume", force=True)
        self.assertEqual(self.destination(), {"volumegroup": expected})
        parameters = {"disk.vda": str(self.dir / "fresh"), "size.vda": str(SIZE), "create.vda": "true"}
        self.ok("EnableVolumeReplication", group="vm3", parameters=parameters)
        self.refused("UNAVAILABLE", "first sync has not ended", "GetReplicationDestinationInfo", group="vm3")

    def test_sources(self):
        self.pair(volumes=("vda", "vdb"))
        volume = {"replication_source": {"volume": {"volume_id": "vm1/vda"}}}
        for method in ("PromoteVolume", "DemoteVolume", "ResyncVolume", "DisableVolumeReplication"):
            self.refused("INVALID_ARGUMENT", "name the volume group", method, **volume)
            self.refused("NOT_FOUND", "no volume vdz", method, replication_source={"volume": {"volume_id": "vm1/vdz"}})
            self.refused("NOT_FOUND", "not open here", method, group="vm9")
            self.refused("INVALID_ARGUMENT", "Missing", method, replication_source={})
        self.refused("NOT_FOUND", "disk.VOLUME=PATH", "EnableVolumeReplication", group="vm9")
        disk = self.disk("single", SIZE)
        parameters = {"disk.vda": str(disk), "initial.vda": "equal"}
        single = {"replication_source": {}, "volume_id": "vm2/vda"}
        self.refused("INVALID_ARGUMENT", "is no value", "EnableVolumeReplication", **single, parameters={"size.vda": "x"})
        self.ok("EnableVolumeReplication", **single, parameters=parameters)
        self.ok("EnableVolumeReplication", **single)
        self.refused("UNAVAILABLE", "no agent is connected", "DemoteVolume", **single)
        self.ok("DisableVolumeReplication", **single)
        self.refused("NOT_FOUND", "not open here", "DisableVolumeReplication", **single)

    def test_disable(self):
        self.pair()
        self.write()
        self.agent_.call("stop", "vm1")
        connection = self.standby.connect()
        self.refused("FAILED_PRECONDITION", "have its exports open", "DisableVolumeReplication")
        connection.close()
        lib.wait_for(lambda: int(self.standby.status()["nbd_connections"]) == 0, "the client to be gone")
        self.ok("DisableVolumeReplication")
        self.assertEqual(self.standby.ctl("list").objects, [])
        self.assert_file(self.secondary["vda"], self.image, "the disk stays, with everything")

    TAKE_BACK = {"parameters": {"takeover": "true"}}

    def test_before_start(self):
        self.standby.call("open", "vm1", "--mode", "secondary", "--volume", f"vda,disk={self.disk('s', SIZE)}")
        for fields in ({}, {"force": True}):
            self.refused("FAILED_PRECONDITION", "not running", "PromoteVolume", **fields)
            self.refused("FAILED_PRECONDITION", "not running", "DemoteVolume", **fields)
        self.refused("FAILED_PRECONDITION", "not running", "ResyncVolume", **self.TAKE_BACK)
        for method in ("GetVolumeReplicationInfo", "GetReplicationDestinationInfo"):
            self.assertEqual(self.refused("FAILED_PRECONDITION", "not running", method).reason, "NOT_RUNNING")
        self.ok("DisableVolumeReplication")
        self.refused("NOT_FOUND", "not open here", "DisableVolumeReplication")

    def test_while_the_commit_job_runs(self):
        self.standby = self.service("--apply-bytes-per-second", "256", name="slow")
        self.pair()
        self.write()
        self.agent_.call("checkpoint", "vm1")
        self.ok("PromoteVolume", force=True)
        self.assertEqual(self.standby.status()["stage"], "FAILOVER")
        self.refused("ABORTED", "try again later", "DisableVolumeReplication")
        self.refused("FAILED_PRECONDITION", "ended without a hand-over", "DemoteVolume")
        self.refused("FAILED_PRECONDITION", "nothing to take back", "ResyncVolume", **self.TAKE_BACK)
        for method in ("EnableVolumeReplication", "PromoteVolume", "GetReplicationDestinationInfo"):
            self.ok(method)
        self.assertEqual(self.ok("GetVolumeReplicationInfo")["status"], "DEGRADED")
        self.assertEqual(self.standby.status()["stage"], "FAILOVER")

    def test_when_the_commit_job_has_failed(self):
        missing = failing_disk.why_not()
        if missing:
            self.skipTest(missing)
        disk = failing_disk.FailingDisk(self, "failing", SIZE, bytes(SIZE))
        self.ok("EnableVolumeReplication", parameters={"disk.vda": str(disk.path)})
        with nbd.Disk(self.standby.nbd_socket, "vm1/vda") as vm:
            vm.write(0, b"x" * 65536)
        self.standby.call("checkpoint", "vm1")
        with nbd.Disk(self.standby.nbd_socket, "vm1/vda") as vm:
            vm.write(0, b"y" * 65536)
        disk.break_now()
        self.ok("PromoteVolume", force=True)
        self.standby.wait_stage("FAILOVER_FAILED")
        for fields in ({}, {"force": True}):  # the commit job again, however the failover was begun
            self.ok("PromoteVolume", **fields)
            self.standby.wait_stage("FAILOVER_FAILED")
        self.refused("FAILED_PRECONDITION", "not running", "DemoteVolume")
        self.refused("FAILED_PRECONDITION", "not running", "ResyncVolume", **self.TAKE_BACK)
        self.refused("FAILED_PRECONDITION", "Block device is in use", "DisableVolumeReplication")
        for method in ("EnableVolumeReplication", "GetReplicationDestinationInfo"):
            self.ok(method)
        self.assertEqual(self.ok("GetVolumeReplicationInfo")["status"], "ERROR")
        disk.heal()
        self.ok("PromoteVolume")
        self.standby.wait_stage("DONE")
        self.assert_file(disk.backing, b"y" * 65536 + bytes(SIZE - 65536), "the disk")
        self.ok("DisableVolumeReplication")

    def test_identity(self):
        def ask(method):
            answer, end = stub.csi_call(self.standby.address, method, service="CsiIdentity")
            self.assertEqual(end.code, "OK", end)
            return answer

        self.assertEqual(ask("GetIdentity")["name"], "understudy")
        self.assertTrue(ask("Probe")["ready"])
        kinds = ask("GetCapabilities")["capabilities"]
        for kind in ("VOLUME_REPLICATION", "GET_REPLICATION_DESTINATION_INFO"):
            self.assertIn({"volume_replication": {"type": kind}}, kinds)
        self.assertIn({"service": {"type": "CONTROLLER_SERVICE"}}, kinds)


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy")

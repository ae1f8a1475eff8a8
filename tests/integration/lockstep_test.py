"""A lock-step checkpoint in its three steps, with the test in the part of a COLO-like orchestrator. Real daemons and NBD clients.

The primary VM is paused, `prepare` seals the epoch, the state of the VM is loaded at the other host, `commit` shows the disks that
belong to it. Two volumes; every step compares both byte for byte.
"""

import signal

import lib
from lib import MIB, qemu_io

SIZE = 4 * MIB
VOLUMES = ("vda", "vdb")


class LockstepTest(lib.Case):
    def setUp(self):
        super().setUp()
        self.secondary = {name: self.disk(f"s-{name}", SIZE) for name in VOLUMES}
        self.primary = {name: self.disk(f"p-{name}", SIZE) for name in VOLUMES}
        self.standby = self.service()
        self.standby.start_group(*(f"{name},disk={path}" for name, path in self.secondary.items()))
        self.agent_ = self.agent(self.standby, *(f"{name},disk={path}" for name, path in self.primary.items()))
        self.agent_.wait_connected()
        self.written = {name: bytearray(SIZE) for name in VOLUMES}  # what the primary's disks hold
        self.shown = self.copy_of(self.written)  # what the standby shows

    @staticmethod
    def copy_of(images):
        return {name: bytes(image) for name, image in images.items()}

    def run_vm(self, count=20):
        """The primary VM runs for a while."""
        for name in VOLUMES:
            requests = lib.random_requests(self.rng, count, SIZE)
            qemu_io(self.agent_.uri(name), *map(lib.command_of, requests))
            lib.apply_to(self.written[name], requests)

    def prepare(self):
        answer = self.agent_.call("checkpoint", "vm1", "--prepare")
        self.assertFalse(answer["ignored"])
        self.assertEqual(self.standby.status()["prepared_epoch"], answer["epoch"])
        return int(answer["epoch"])

    def commit(self, epoch):
        answer = self.standby.call("checkpoint", "vm1", "--commit", epoch)
        self.assertEqual(int(answer["epoch"]), epoch)
        return answer

    def assert_shown(self, what):
        for name in VOLUMES:
            self.assert_export(self.standby.uri(name), self.shown[name], f"{name} {what}")

    def assert_not_prepared(self, epoch):
        answer = self.standby.ctl("checkpoint", "vm1", "--commit", epoch)
        self.assertEqual(answer.status, 1)
        self.assertIn("FAILED_PRECONDITION", answer.error)
        self.assertIn(f"epoch {epoch} is not prepared", answer.error)
        self.assertIn("prepare again", answer.error)

    def test_rounds(self):
        """Three rounds; the VM goes on as soon as the epoch is prepared, and the state is loaded late."""
        for number in (1, 2, 3):
            self.run_vm()
            epoch = self.prepare()
            self.assertEqual(epoch, number)
            at_marker = self.copy_of(self.written)
            self.run_vm()  # resumed at the primary
            qemu_io(self.standby.uri("vda"), "write -P 9 0 64k")  # the secondary VM still runs on the old state
            before = bytearray(self.shown["vda"])
            before[: 64 << 10] = b"\x09" * (64 << 10)
            self.shown["vda"] = bytes(before)
            self.assert_shown("before the commit")
            self.commit(epoch)
            self.shown = at_marker
            self.assert_shown("after the commit")
            self.assertEqual(int(self.commit(epoch)["epoch"]), epoch, "a repeated commit")
        lib.wait_for(lambda: int(self.agent_.status()["committed_epoch"]) == 3, "the agent to know the epoch")
        self.assertEqual(self.standby.metric("understudy_checkpoints_total", result="ok"), 3)
        self.agent_.call("checkpoint", "vm1")  # a full one takes the rest
        self.shown = self.copy_of(self.written)
        self.assert_shown("after a full checkpoint")

    def test_abandoned_and_overtaken(self):
        """The state could not be loaded: abandon. What was prepared goes with the next epoch, and cannot be committed any more."""
        self.run_vm()
        first = self.prepare()
        self.assertEqual(int(self.standby.call("checkpoint", "vm1", "--abandon")["epoch"]), first)
        self.assertTrue(self.standby.call("checkpoint", "vm1", "--abandon")["ignored"])
        self.assert_not_prepared(first)
        self.assert_shown("after the abandon")
        self.run_vm()
        second = self.prepare()
        self.run_vm()
        third = self.prepare()
        self.assert_not_prepared(second)
        self.commit(third)
        self.shown = self.copy_of(self.written)
        self.assert_shown("after the commit of the third")
        self.assert_not_prepared(first)

    def test_missed_deadline(self):
        """The standby hangs while the agent waits: the call fails, the orchestrator abandons, and the next round is whole."""
        self.run_vm()
        self.standby.daemon.signal(signal.SIGSTOP)
        answer = self.agent_.ctl("checkpoint", "vm1", "--prepare", timeout="2s")
        self.assertEqual(answer.status, 1)
        self.assertRegex(answer.error, "DEADLINE_EXCEEDED|UNAVAILABLE")
        self.standby.daemon.signal(signal.SIGCONT)
        self.agent_.wait_connected()
        lib.wait_for(lambda: int(self.standby.status()["prepared_epoch"]) == 1, "the late marker")
        self.assertFalse(self.standby.call("checkpoint", "vm1", "--abandon")["ignored"])
        self.assert_shown("after the abandon")
        self.run_vm()
        self.commit(self.prepare())
        self.shown = self.copy_of(self.written)
        self.assert_shown("after the next round")

    def test_the_service_is_killed_between_the_steps(self):
        self.run_vm()
        epoch = self.prepare()
        at_marker = self.copy_of(self.written)
        self.standby.kill()
        self.run_vm(5)
        self.standby.restart()
        self.agent_.wait_connected()
        self.assertEqual(int(self.standby.status()["prepared_epoch"]), epoch)
        self.assert_shown("after the restart")
        self.commit(epoch)
        self.shown = at_marker
        self.standby.kill()
        self.standby.restart()
        self.assert_shown("after a kill behind the commit")
        self.agent_.wait_connected()
        self.commit(self.prepare())
        self.shown = self.copy_of(self.written)
        self.assert_shown("after the next round")

    def test_the_agent_is_killed_between_the_steps(self):
        """The primary is gone after it prepared: the state was loaded, so the orchestrator commits and fails over to it."""
        self.run_vm()
        epoch = self.prepare()
        at_marker = self.copy_of(self.written)
        self.run_vm(5)
        self.agent_.kill()
        self.commit(epoch)
        self.shown = at_marker
        self.standby.call("stop", "vm1", "--failover")
        self.assert_shown("after the failover")
        self.standby.wait_stage("DONE")
        for name in VOLUMES:
            self.assert_file(self.secondary[name], at_marker[name], f"secondary disk {name}")

    def test_a_failover_drops_what_is_only_prepared(self):
        self.run_vm()
        epoch = self.prepare()
        self.standby.call("stop", "vm1", "--failover")
        self.assert_shown("after the failover")
        self.standby.wait_stage("DONE")
        self.assertTrue(self.standby.call("checkpoint", "vm1", "--commit", epoch)["ignored"])
        for name in VOLUMES:
            self.assert_file(self.secondary[name], self.shown[name], f"secondary disk {name}")

    def test_each_step_has_its_side(self):
        for daemon, arguments, text in (
            (self.standby, ["--prepare"], "only the agent can prepare"),
            (self.agent_, ["--commit", "1"], "at the service, not at the agent"),
            (self.agent_, ["--abandon"], "at the service, not at the agent"),
        ):
            answer = daemon.ctl("checkpoint", "vm1", *arguments)
            self.assertEqual(answer.status, 1)
            self.assertIn("INVALID_ARGUMENT", answer.error)
            self.assertIn(text, answer.error)
        self.assert_not_prepared(7)


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy")

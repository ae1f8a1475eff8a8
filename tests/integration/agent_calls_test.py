"""Control calls at the agent while the standby hangs: each ends at its deadline, none is done for a caller that has gone, and none takes
the others along."""

import signal
import subprocess

import lib
from lib import MIB, qemu_io

WAITING = 20  # calls at once, more than the agent has threads for them


class AgentCallsTest(lib.Case):
    size = MIB

    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.standby.start_group(f"vda,disk={self.disk('s', self.size)}")
        self.host = self.agent(self.standby, f"vda,disk={self.disk('p', self.size)}").wait_connected()
        self.standby.daemon.signal(signal.SIGSTOP)
        self.addCleanup(self.standby.daemon.signal, signal.SIGCONT)
        qemu_io(self.host.uri(), "write -q -P 1 0 64k")

    def spawn(self, *words, timeout):
        process = subprocess.Popen(
            [lib.CTL, "--server", self.host.address, "--json", "--timeout", timeout, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_begun(self, call, count):
        journal = self.dir / "agent.state" / "requests"
        lib.wait_for(lambda: journal.exists() and journal.read_text("latin-1").count(f"\t{call} ") >= count, f"{count} times {call}")

    def begin_drain(self, timeout):
        """A planned stop that waits for the standby."""
        drain = self.spawn("stop", "vm1", timeout=timeout)
        self.wait_begun("StopRequest", 1)
        return drain

    def stages(self):
        return [event["stage"] for event in self.host.daemon.events("stage")]

    def test_what_nobody_waits_for_any_more_is_not_done(self):
        drain = self.begin_drain("12s")
        self.assert_refused(self.host.ctl("stop", "vm1", timeout="4s"), "DEADLINE_EXCEEDED", "another control call has not ended yet")
        self.assert_refused(self.host.ctl("remove", "vm1"), "FAILED_PRECONDITION", "in use by internal backup job")
        self.assert_refused(self.host.ctl("start", "vm1", "--mode", "primary"), "FAILED_PRECONDITION", "running or done")
        _, error = drain.communicate(timeout=lib.PATIENCE_SECONDS)
        self.assertIn("could not be drained to the standby before the deadline", error)
        self.standby.daemon.signal(signal.SIGCONT)
        self.host.call("checkpoint", "vm1")
        self.assertEqual(self.stages(), ["RUNNING"])

    def test_a_failover_ends_a_drain(self):
        drain = self.begin_drain("60s")
        self.assertEqual(self.host.call("stop", "vm1", "--failover")["stage"], "DONE")
        _, error = drain.communicate(timeout=lib.PATIENCE_SECONDS)
        self.assertIn("CANCELLED: group vm1: a stop with failover came while this one drained", error)
        self.assertEqual(self.stages(), ["RUNNING", "DONE"])

    def test_waiting_calls_take_no_other_along(self):
        waiting = [self.spawn("checkpoint", "vm1", timeout="60s") for _ in range(WAITING)]
        self.wait_begun("CheckpointRequest", 16)
        for words in (("status", "vm1"), ("list",), ("get-error", "vm1")):
            self.assertEqual(self.host.ctl(*words, timeout="20s").status, 0, words)
        self.assertEqual(self.host.ctl("stop", "vm1", "--failover", timeout="20s").object["stage"], "DONE")
        for process in waiting:
            process.communicate(timeout=lib.PATIENCE_SECONDS)


if __name__ == "__main__":
    lib.run_tests("qemu-io")

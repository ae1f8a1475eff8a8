"""After a failover nobody with an older term changes a byte, and the late primary is told."""

import signal

import lib
from lib import MIB, qemu_io


class FencingTest(lib.Case):
    size = 4 * MIB

    def setUp(self):
        super().setUp()
        self.image = self.random_bytes(self.size)
        self.primary, self.secondary = (self.disk(name, self.size, self.image) for name in ("p", "s"))
        self.standby = self.service()
        self.standby.start_group(f"vda,disk={self.secondary}")

    def wait_fenced(self, agent):
        """The error of the fencing, which get-error prints with exit status 3."""

        def fenced():
            answer = agent.ctl("get-error", "vm1")
            errors = answer.object["errors"] if answer.status == 3 else []
            return [error for error in errors if error["reason"] == "FENCED"]

        return lib.wait_for(fenced, f"{agent.name} to be fenced")[0]

    def late_primary(self, *options):
        """An agent that is stopped over the failover and wakes up afterwards with a write of its guest in its queue."""
        agent = self.agent(self.standby, f"vda,disk={self.primary}", options=("--start", *options)).wait_connected()
        qemu_io(agent.uri(), "write -P 1 0 64k")
        agent.call("checkpoint", "vm1")
        agent.daemon.signal(signal.SIGSTOP)
        self.standby.call("stop", "vm1", "--failover")
        view = self.read_disk(self.standby.uri())
        agent.daemon.signal(signal.SIGCONT)
        return agent, view

    def test_a_late_agent_is_fenced_and_changes_no_byte(self):
        agent, view = self.late_primary()
        lib.wait_for(lambda: agent.daemon.events("fenced"), "the log line of the fenced agent")
        error = self.wait_fenced(agent)
        self.assertEqual((error["code"], error["reason"]), ("FAILED_PRECONDITION", "FENCED"))
        self.assertGreater(agent.metric("understudy_replication_errors_total", reason="fenced"), 0)
        status = agent.status()
        self.assertEqual((status["stage"], status["sync_state"], status["connected"]), ("RUNNING", "DIVERGED", False))

        # By default it does not go on alone: its guest gets EIO, on the tee volume too.
        before = self.primary.read_bytes()
        for command in ("write -P 9 0 64k", "read 0 512", "discard 0 64k"):
            done = qemu_io(agent.uri(), command, check=False)
            self.assertIn("Input/output error", done.stdout + done.stderr, command)
        self.assert_file(self.primary, before, "the disk of the fenced primary")
        self.assert_refused(agent.ctl("checkpoint", "vm1"), "FAILED_PRECONDITION", "FENCED")

        # It stays fenced over its own restart.
        self.assertEqual(agent.daemon.end(), 0)
        agent.restart()
        self.wait_fenced(agent)
        done = qemu_io(agent.uri(), "write -P 9 0 64k", check=False)
        self.assertIn("Input/output error", done.stdout + done.stderr)
        self.standby.wait_stage("DONE")
        self.assert_export(self.standby.uri(), view, "the standby")
        self.assert_file(self.secondary, view, "the secondary disk")

    def test_with_on_fenced_continue_the_guest_goes_on_alone(self):
        agent, view = self.late_primary("--on-fenced", "continue")
        self.wait_fenced(agent)
        qemu_io(agent.uri(), "write -P 9 0 64k", "read -P 9 0 64k")
        self.assert_export(self.standby.uri(), view, "the standby")

    def test_another_agent_is_fenced_until_it_takes_over(self):
        first = self.agent(self.standby, f"vda,disk={self.primary}").wait_connected()
        qemu_io(first.uri(), "write -P 1 0 64k")
        first.call("checkpoint", "vm1")
        second = self.agent(self.standby, f"vda,size={self.size}", name="second", options=())
        self.assert_refused(second.ctl("start", "vm1", "--mode", "primary"), "FAILED_PRECONDITION", "FENCED")
        self.assertEqual(second.status()["stage"], "NONE")
        self.assertGreater(self.standby.metric("understudy_fenced_requests_total"), 0)

        answer = second.call("start", "vm1", "--mode", "primary", "--takeover")
        self.assertEqual((answer["stage"], int(answer["term"])), ("RUNNING", 2))
        second.wait_connected()
        self.wait_fenced(first)
        done = qemu_io(first.uri(), "write -P 9 0 64k", check=False)
        self.assertIn("Input/output error", done.stdout + done.stderr)
        self.assert_export(self.standby.uri(), b"\1" * 65536 + self.image[65536:], "the standby")


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy")

"""Limits of the overlays: the soft mark that is seen, and what gives way at the limit, with every byte compared."""

import lib
from lib import MIB, qemu_io

SEGMENT = ("--segment-bytes", "4M")


# A window that is full while the service makes room is no outage here.
PATIENT = ("--stall-timeout", "30s")


class LimitsTest(lib.Case):
    size = 64 * MIB

    def start_pair(self, *options, agent_options=("--start",)):
        self.image = bytearray(self.size)
        self.secondary = self.disk("s", self.size)
        self.standby = self.service(*SEGMENT, *options)
        self.standby.start_group(f"vda,disk={self.secondary}")
        self.host = self.agent(self.standby, f"vda,size={self.size}", options=(*agent_options, *PATIENT)).wait_connected()

    def write(self, pattern, start_mib, end_mib):
        commands = [f"write -q -P {pattern} {at}M 1M" for at in range(start_mib, end_mib)]
        qemu_io(self.host.uri(), *commands)
        self.image[start_mib * MIB : end_mib * MIB] = bytes([pattern]) * ((end_mib - start_mib) * MIB)

    def wait_received(self):
        lib.wait_for(lambda: self.host.status()["forward_queue_bytes"] == 0, "everything received")

    def test_the_soft_mark_is_shown_until_a_checkpoint_makes_room(self):
        self.start_pair("--overlay-bytes-max", "40M", "--overlay-bytes-total", "100M")
        self.write(1, 0, 20)
        self.wait_received()
        status = self.standby.status()
        self.assertEqual((status["overlay_bytes_max"], status["overlay_soft_mark"]), (40 * MIB, False))
        self.assertGreaterEqual(status["overlay_bytes"], 20 * MIB)
        self.write(2, 20, 36)
        self.wait_received()
        self.assertTrue(self.standby.status()["overlay_soft_mark"])
        self.assertEqual(self.standby.metric("understudy_overlay_soft_mark"), 1)
        self.assertEqual(self.standby.metric("understudy_overlay_limit_bytes"), 40 * MIB)
        self.assertGreaterEqual(self.standby.metric("understudy_overlay_used_bytes"), 36 * MIB)
        text = lib.run(lib.CTL, "--server", self.standby.address, "status", "vm1").stdout
        self.assertRegex(text, r"overlays +3\d.* of 40 MiB, NEARLY FULL")

        self.host.call("checkpoint", "vm1")
        lib.wait_for(lambda: not self.standby.status()["overlay_soft_mark"], "space given back")
        self.assertEqual(self.standby.metric("understudy_overlay_soft_mark"), 0)
        self.assert_export(self.standby.uri(), self.image, "after the checkpoint")
        self.assertEqual(self.standby.ctl("get-error", "vm1").status, 0)

    def test_where_only_the_orchestrator_takes_checkpoints_the_stream_is_refused_until_it_does(self):
        self.start_pair("--overlay-bytes-max", "16M", agent_options=("--start", "--on-full", "block"))
        self.write(3, 0, 40)  # more than the limit, less than the agent's window

        def refused():
            errors = self.standby.ctl("get-error", "vm1").object["errors"]  # exit status 3 when there are any
            return [error for error in errors if error["code"] == "RESOURCE_EXHAUSTED"]

        (error,) = lib.wait_for(refused, "the refusal")
        self.assertIn("--overlay-bytes-max is 16777216", error["message"])
        self.assertGreater(self.standby.metric("understudy_replication_errors_total", reason="no_space"), 0)
        self.assertEqual(self.standby.status()["committed_epoch"], 0)
        self.assert_export(self.standby.uri(), bytes(self.size), "of which nothing is committed")
        while self.host.status()["forward_queue_bytes"] > 0:
            self.standby.ctl("checkpoint", "vm1")
        self.host.call("checkpoint", "vm1")
        self.assert_export(self.standby.uri(), self.image, "after checkpoints made room")

    def test_where_the_agent_takes_checkpoints_one_is_taken_early(self):
        self.start_pair("--overlay-bytes-max", "16M", agent_options=("--start", "--checkpoint-interval", "1h"))
        self.write(4, 0, 64)
        self.wait_received()
        self.assertGreater(self.standby.status()["committed_epoch"], 0)
        self.assertTrue(self.standby.daemon.events("early_checkpoint"))
        self.assertEqual(self.standby.ctl("get-error", "vm1").status, 0)
        self.host.call("checkpoint", "vm1")
        self.assert_export(self.standby.uri(), self.image, "after everything")

    def test_clones_and_history_give_way(self):
        self.start_pair(
            "--overlay-bytes-max", "24M", "--history-epochs", "100", agent_options=("--start", "--checkpoint-interval", "1h")
        )
        self.write(5, 0, 4)
        self.host.call("checkpoint", "vm1")
        self.standby.call("clone", "vm1", "--name", "drill")
        self.write(6, 4, 64)
        self.host.call("checkpoint", "vm1")
        self.assertEqual(self.standby.call("clone", "vm1", "--list")["clones"], [])
        self.assertEqual([e["why"] for e in self.standby.daemon.events("clone_ended")], ["the group needs the room"])
        self.assertEqual(self.standby.ctl("get-error", "vm1").status, 0)
        self.assert_export(self.standby.uri(), self.image, "after everything")


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy")

"""Live scrapes of both daemons: every metric that a panel or a rule uses exists, values move, promtool finds nothing."""

import shutil
import subprocess
import sys

import lib
from lib import MIB, qemu_io


class MetricsTest(lib.Case):
    size = 4 * MIB

    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.standby.start_group(f"vda,disk={self.disk('s', self.size)}")
        self.host = self.agent(self.standby, f"vda,disk={self.disk('p', self.size)}").wait_connected()

    def states(self, daemon):
        return {
            labels["state"]: value
            for name, labels, value in lib.samples(daemon.scrape())
            if name == "understudy_volume_state"
        }

    def test_values_move(self):
        received = self.standby.metric("understudy_replication_received_bytes_total")
        qemu_io(self.host.uri(), "write -P 1 0 1M", "flush")
        self.host.call("checkpoint", "vm1")
        self.assertEqual(self.standby.metric("understudy_replication_received_bytes_total") - received, MIB)
        self.assertEqual(self.host.metric("understudy_io_bytes_total", op="write"), MIB)
        for daemon in (self.standby, self.host):
            self.assertEqual(daemon.metric("understudy_checkpoints_total", result="ok"), 1, daemon.name)
            self.assertEqual(daemon.metric("understudy_replication_connected"), 1, daemon.name)
            self.assertEqual(daemon.metric("understudy_volume_epoch"), 2, daemon.name)
        self.assertEqual(self.standby.metric("understudy_checkpoint_duration_seconds_count", phase="commit"), 1)

        everything = dict.fromkeys(["none", "running", "failover", "failover_failed", "done"], 0)
        self.assertEqual(self.states(self.standby), {**everything, "running": 1})
        self.assertEqual(self.states(self.host)["running"], 1)
        self.standby.call("stop", "vm1", "--failover")
        self.standby.wait_stage("DONE")
        self.assertEqual(self.states(self.standby), {**everything, "done": 1})
        self.assertEqual(self.standby.metric("understudy_failovers_total", result="ok"), 1)

    def test_a_restart_makes_nobody_seem_younger_or_less_silent(self):
        """What alerts look at: each age is at least what it was when the other end died."""
        qemu_io(self.host.uri(), "write -P 1 0 64k")
        self.host.call("checkpoint", "vm1")
        names = [f"understudy_{name}_seconds" for name in ("replication_silence", "checkpoint_age", "replication_lag")]

        def ages(daemon):
            return {name: daemon.metric(name) for name in names}

        self.host.kill()
        lib.wait_for(lambda: ages(self.standby)["understudy_replication_silence_seconds"] > 2, "the service to miss the agent")
        last_contact = self.standby.metric("understudy_replication_last_contact_timestamp_seconds")
        before = ages(self.standby)
        self.assertEqual(self.standby.daemon.end(), 0)
        self.standby.restart()
        after = ages(self.standby)
        for name in names:
            self.assertGreaterEqual(after[name], before[name] - 0.1, name)
            self.assertLess(after[name], lib.PATIENCE_SECONDS * 5, name)
        self.assertAlmostEqual(
            self.standby.metric("understudy_replication_last_contact_timestamp_seconds"), last_contact, delta=0.001
        )

        # Killed, it knows at least how long it has run.
        self.standby.kill()
        self.standby.restart()
        lib.wait_for(lambda: ages(self.standby)["understudy_replication_silence_seconds"] > 1, "the silence to be counted")

    def test_every_metric_of_dashboard_and_rules_exists(self):
        qemu_io(self.host.uri(), "write -P 1 0 64k")
        self.host.call("checkpoint", "vm1")
        checker = lib.SOURCE / "tests" / "deploy" / "metrics_exist.py"
        done = lib.run(sys.executable, checker, self.standby.metrics_url, self.host.metrics_url, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_promtool_finds_nothing(self):
        if shutil.which("promtool") is None:
            self.skipTest("promtool is not installed")
        for daemon in (self.standby, self.host):
            done = subprocess.run(
                ["promtool", "check", "metrics"], input=daemon.scrape(), capture_output=True, text=True, timeout=60, check=False
            )
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""), daemon.name)


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy")

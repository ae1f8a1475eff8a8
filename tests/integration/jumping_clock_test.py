"""Somebody sets the hosts' clocks, an hour forward and an hour back, while things wait: checkpoints by interval, heartbeats, a call with a
deadline, a clone's time to live, a stream that is away. Nothing is late, nothing too early, and nobody thinks the other one dead.

Both daemons and understudyctl run with a clock of their own (jumping_clock.cc).
"""

import os
import signal
import struct
import subprocess
import time

import lib
from lib import wait_for

HOUR = 3600


class ClockTest(lib.Case):
    def setUp(self):
        super().setUp()
        library = os.environ.get("UNDERSTUDY_JUMPING_CLOCK_LIBRARY")
        if library is None:
            self.skipTest("UNDERSTUDY_JUMPING_CLOCK_LIBRARY is not set")
        self.set_by = self.dir / "clock"
        self.set_by.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": library, "UNDERSTUDY_JUMPING_CLOCK": str(self.set_by)}

    def jump(self, seconds, *ends):
        """Returns when these daemons have seen it: absl::Now() looks at the clock every two seconds."""
        set_by = struct.unpack("q", self.set_by.read_bytes())[0] + seconds
        with open(self.set_by, "r+b") as file:
            file.write(struct.pack("q", set_by))
        for end in ends:
            wait_for(lambda: abs(end.metric("understudy_clock_seconds") - time.time() - set_by) < HOUR / 2, "the clock")

    def begin(self, endpoint):
        endpoint.spawn(self.environment).wait_ready()
        return endpoint

    def start_pair(self, *options):
        self.standby = self.begin(lib.Service(self))
        self.standby.start_group(f"vda,disk={self.disk('standby.raw', 4 << 20)},initial=equal")
        primary = f"vda,disk={self.disk('primary.raw', 4 << 20)}"
        self.host = self.begin(lib.Agent(self, self.standby, primary, options=("--start", *options)))
        self.host.wait_connected()

    def test_checkpoints_and_heartbeats_go_on(self):
        self.start_pair("--checkpoint-interval", "200ms")
        for seconds in (HOUR, -HOUR, -HOUR, HOUR):
            wait_for(lambda: self.host.metric("understudy_checkpoints_total", result="ok") >= 2, "checkpoints")
            self.jump(seconds, self.host, self.standby)
            lib.qemu_io(self.host.uri(), "write -q -P 7 0 64k")
            after = self.standby.status()["committed_epoch"] + 3
            wait_for(lambda: self.standby.status()["committed_epoch"] >= after, f"checkpoints after {seconds} s")
            for end in (self.host, self.standby):
                self.assertTrue(end.status()["connected"])
                self.assertLess(end.metric("understudy_replication_lag_seconds"), HOUR / 2)
        self.assertEqual(self.standby.metric("understudy_replication_sessions_total"), 1, "the stream has broken")

    def test_a_call_waits_no_longer_and_no_shorter_than_it_may(self):
        self.start_pair()
        self.standby.daemon.signal(signal.SIGSTOP)  # SIGSTOP: no marker comes back
        for seconds in (HOUR, -HOUR):
            begun = time.monotonic()
            call = subprocess.Popen(
                [lib.CTL, "--server", self.host.address, "--timeout", "6s", "checkpoint", "vm1"],
                env={**os.environ, **self.environment}, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            time.sleep(1)
            self.jump(seconds, self.host)
            error = call.communicate(timeout=lib.PATIENCE_SECONDS)[1]
            self.assertNotEqual(call.returncode, 0)
            self.assertGreater(time.monotonic() - begun, 4, error)
        self.standby.daemon.signal(signal.SIGCONT)

    def test_a_clone_ends_in_time_and_a_standby_that_was_away_is_found(self):
        self.start_pair()
        self.host.call("checkpoint", "vm1")
        for seconds in (HOUR, -HOUR):
            self.standby.call("clone", "vm1", "--name", "look", "--ttl", "5s")
            begun = time.monotonic()
            self.jump(seconds, self.standby)
            wait_for(lambda: not self.standby.status()["clones"], "the clone to end")
            self.assertGreater(time.monotonic() - begun, 4, "ended early")
            self.standby.kill()
            wait_for(lambda: not self.host.status()["connected"], "the agent to notice")
            self.jump(-seconds, self.host)
            self.begin(self.standby)
            self.host.wait_connected()
            self.jump(seconds, self.host, self.standby)
        for end in (self.host, self.standby):
            self.jump(-HOUR, end)
            self.assertEqual(end.daemon.end(), 0)

    def test_an_agent_that_was_restarted_knows_how_old_the_newest_checkpoint_is(self):
        self.start_pair()
        for seconds in (HOUR, -2 * HOUR):
            self.jump(seconds, self.standby)
            begun = time.monotonic()
            self.host.call("checkpoint", "vm1")
            self.assertEqual(self.host.daemon.end(), 0)  # in order: no resync that ends in a checkpoint
            time.sleep(1)
            self.host.spawn().wait_ready()  # by the host's own clock
            self.host.wait_connected()
            age = self.host.metric("understudy_checkpoint_age_seconds")
            self.assertGreater(age, 1)
            self.assertLess(age, time.monotonic() - begun)
            self.assertLess(abs(self.host.status()["committed_unix_seconds"] - time.time()), HOUR / 2)


if __name__ == "__main__":
    lib.run_tests("qemu-io", at_once=3)

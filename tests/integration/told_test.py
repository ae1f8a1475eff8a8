"""What is told is so: nobody says that all is well because no problem is known. And an error that is over can be acknowledged."""

import json
import subprocess

import lib
from lib import MIB, qemu_io


class ToldTest(lib.Case):
    size = 4 * MIB

    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.volume = f"vda,disk={self.dir / 's'},size={self.size},create,initial=sync"

    def start_agent(self, *options):
        return self.agent(self.standby, f"vda,disk={self.disk('p', self.size)}", options=("--start", *options))

    def begin_sync(self, host):
        """sync --wait, once it has said that it waits for the standby."""
        process = subprocess.Popen(
            [lib.CTL, "--server", host.address, "--json", "sync", "vm1", "--wait"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertEqual(process.stderr.readline(), "vm1: waiting for the standby, which is not connected\n")
        self.assertIsNone(process.poll(), "it is not over")
        return process

    def end_sync(self, process):
        out, error = process.communicate(timeout=lib.PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 0, error)
        status = json.loads(out)
        self.assertTrue(status["connected"])
        self.assertFalse(status["incomplete"])
        self.assertGreater(int(status["committed_epoch"]), 0)

    def test_sync_waits_until_there_is_a_standby(self):
        """It was "nothing is missing at the standby", status 0, before the first one and while none was there."""
        self.standby.kill()
        host = self.start_agent()
        sync = self.begin_sync(host)
        self.standby.restart()
        self.standby.start_group(self.volume)
        self.end_sync(sync)
        self.standby.kill()
        lib.wait_for(lambda: not host.status()["connected"], "the agent to notice")
        sync = self.begin_sync(host)
        self.standby.restart()
        self.end_sync(sync)

    def test_get_error_tells_that_the_other_end_is_gone(self):
        self.standby.start_group(self.volume)
        host = self.start_agent()
        host.call("sync", "vm1", "--wait")
        for here, there in ((host, self.standby), (self.standby, host)):
            lib.wait_for(lambda: here.status()["connected"], "the connection")
            self.assertEqual(here.call("get-error", "vm1")["disconnected_seconds"], 0)
            there.kill()
            lib.wait_for(lambda: not here.status()["connected"], "the loss")
            first = here.call("get-error", "vm1")["disconnected_seconds"]
            text = lib.run(lib.CTL, "--server", here.address, "get-error", "vm1").stdout
            self.assertIn("vm1: no errors, stage RUNNING, but the other end is not there: not connected for ", text)
            self.assertGreater(here.call("get-error", "vm1")["disconnected_seconds"], first)
            there.restart()

    def test_an_error_that_is_over_can_be_acknowledged(self):
        self.standby.start_group(self.volume)
        host = self.start_agent("--ack", "durable")
        host.call("sync", "vm1", "--wait")
        self.assertTrue(host.call("clear-error", "vm1")["ignored"])
        self.standby.kill()
        qemu_io(host.uri(), "write -q -P 1 0 4k")
        (error,) = host.call_errors()
        self.assertEqual(error["operation"], "write")
        self.assert_refused(host.ctl("clear-error", "vm1"), "FAILED_PRECONDITION", "the standby is not connected")
        self.assertEqual(len(host.call_errors()), 1)
        failed = host.metric("understudy_replication_errors_total")
        self.standby.restart()
        host.wait_connected()
        (cleared,) = host.call("clear-error", "vm1")["errors"]
        self.assertEqual((cleared["operation"], cleared["count"]), ("write", error["count"]))
        self.assertEqual(host.ctl("get-error", "vm1").status, 0)
        self.assertEqual(host.metric("understudy_latched_errors"), 0)
        self.assertGreaterEqual(host.metric("understudy_replication_errors_total"), failed)
        host.kill()
        host.restart()
        self.assertEqual([e for e in host.call_errors() if e["operation"] == "write"], [], "it stays away")

    def test_a_refusal_names_the_group_and_what_to_do(self):
        self.standby.start_group(self.volume)
        host = self.start_agent().wait_connected()
        text = "FAILED_PRECONDITION: Block device is in use by internal backup job: group vm1 is in stage RUNNING; remedy: "
        for daemon in (self.standby, host):
            answer = daemon.ctl("remove", "vm1")
            self.assertIn(text + f"understudyctl --server {daemon.address} stop vm1 ends it", answer.error)
        # What differs is named, be it only what the disk holds at the beginning.
        equal = self.standby.ctl("start", "vm1", "--mode", "secondary", "--volume", f"vda,disk={self.dir / 's'}")
        self.assertIn(f"open with other volumes: vda ({self.size} bytes of {self.dir / 's'}, initial=sync)", equal.error)


if __name__ == "__main__":
    lib.run_tests("qemu-io")

"""GetError tells the truth over restarts of both daemons, and a missed write is never a silent divergence."""

import errno
import os
import signal

import lib
import nbd
from lib import MIB, qemu_io

SEGMENT = ("--segment-bytes", "4M")


class ErrorsTest(lib.Case):
    size = 64 * MIB

    def start_pair(self, *options, agent_options=(), tee=True):
        self.primary, self.secondary = (self.disk(name, self.size) for name in ("p", "s"))
        self.standby = self.service(*SEGMENT, *options)
        self.standby.start_group(f"vda,disk={self.secondary}")
        volume = f"vda,disk={self.primary}" if tee else f"vda,size={self.size}"
        self.host = self.agent(self.standby, volume, options=("--start", *agent_options)).wait_connected()

    def errors(self, daemon):
        """What get-error prints, by (volume, operation, code); its exit status is 3 exactly when there are any."""
        answer = daemon.ctl("get-error", "vm1")
        errors = answer.object["errors"]
        self.assertEqual(answer.status, 3 if errors else 0, answer.error)
        return {(error["volume"], error["operation"], error["code"]): error for error in errors}

    def wait_error(self, daemon, *key):
        return lib.wait_for(lambda: self.errors(daemon).get(key), f"{key} at {daemon.name}")

    def wait_stored(self, daemon):
        """Until a kill -9 loses nothing of what get-error says now."""
        file = self.standby.data_dir / "errors" / "vm1.errors" if daemon is self.standby else self.dir / "agent.state" / "errors"
        now = {(*key[:2], error["reason"]): int(error["count"]) for key, error in self.errors(daemon).items()}

        def stored():
            lines = file.read_text().splitlines() if file.exists() else []
            found = (line[len("error ") :].split("\t") for line in lines if line.startswith("error"))
            counts = {(*fields[:2], fields[3]): int(fields[8]) for fields in found}
            return all(counts.get(key, 0) >= count for key, count in now.items())

        lib.wait_for(stored, f"the errors of {daemon.name} to be in {file}")

    def assert_same_error(self, after, before, what):
        for field in ("message", "offset", "length", "first_unix_micros", "reason"):
            self.assertEqual(after[field], before[field], f"{what}: {field}")
        for field in ("count", "bytes", "last_unix_micros"):
            self.assertGreaterEqual(int(after[field]), int(before[field]), f"{what}: {field}")

    def restart(self, daemon, how):
        if how == "kill":
            self.wait_stored(daemon)
            daemon.kill()
        else:
            self.assertEqual(daemon.daemon.end(), 0)
        daemon.restart()

    def overflow(self):
        """The service does not answer while the guest writes more than the window holds."""
        qemu_io(self.host.uri(), "write -P 1 0 64k")
        self.host.call("checkpoint", "vm1")
        self.before = self.read_disk(self.standby.uri())
        self.standby.daemon.signal(signal.SIGSTOP)
        qemu_io(self.host.uri(), *(f"write -q -P 2 {at}M 1M" for at in range(4, 24)))
        self.wait_error(self.host, "vda", "forward", "ABORTED")

    # ---- missed writes ----------------------------------------------------------------------------------------------------

    # In forward mode, where nobody can send them again by himself: in tee mode a resync is quicker than a test can look.

    def check_overflow(self, how):
        self.start_pair(agent_options=("--window-bytes", "8M", "--on-full", "degrade"), tee=False)
        self.overflow()
        error = self.wait_error(self.host, "vda", "forward", "ABORTED")
        self.assertEqual(error["reason"], "INCOMPLETE")
        self.assertEqual(int(error["offset"]) + int(error["length"]), 24 * MIB, "the newest one")
        self.assertGreater(int(error["bytes"]), 5 * MIB)
        missed = f"volume vda: {error['count']} times, {error['bytes']} bytes, the newest ["
        self.standby.daemon.signal(signal.SIGCONT)
        named = self.wait_error(self.standby, "vda", "write", "ABORTED")
        self.assertEqual((named["reason"], named["count"]), ("INCOMPLETE", 1))
        self.assertGreaterEqual(int(named["offset"]), 4 * MIB, "the first one")
        self.assert_refused(self.host.ctl("checkpoint", "vm1"), "ABORTED", missed)
        self.assert_refused(self.standby.ctl("checkpoint", "vm1"), "ABORTED", "volume vda: 1 time, ")

        self.restart(self.standby, how)
        self.restart(self.host, how)
        self.host.wait_connected()
        self.assert_same_error(self.errors(self.host)["vda", "forward", "ABORTED"], error, "agent")
        self.assert_same_error(self.errors(self.standby)["vda", "write", "ABORTED"], named, "service")
        for daemon in (self.standby, self.host):
            (line,) = (e for e in daemon.daemon.events("error_restored") if e["volume"] == "vda")
            self.assertEqual(line["group"], "vm1")
            self.assertEqual(daemon.metric("understudy_latched_errors", volume="vda"), 1)
            for command in (("checkpoint", "vm1"), ("stop", "vm1")):
                answer = daemon.ctl(*command)
                self.assert_refused(answer, "ABORTED", "volume vda: ")
                self.assertIn("(INCOMPLETE)", answer.error)
        self.assert_refused(self.host.ctl("checkpoint", "vm1"), "ABORTED", missed)
        self.assert_export(self.standby.uri(), self.before, "the standby stays at its last checkpoint")

        # Stop clears, and what is cleared stays cleared over a restart.
        self.host.call("stop", "vm1", "--failover")
        self.assertEqual(self.errors(self.host), {})
        self.standby.call("stop", "vm1", "--failover")
        self.assertEqual(self.errors(self.standby), {})
        for daemon in (self.host, self.standby):
            daemon.kill()
            daemon.restart()
            self.assertEqual(self.errors(daemon), {})
            self.assertEqual(daemon.metric("understudy_latched_errors"), 0)

    def test_an_overflown_window_is_named_over_kill_9_of_both(self):
        self.check_overflow("kill")

    def test_an_overflown_window_is_named_over_orderly_restarts_of_both(self):
        self.check_overflow("end")

    def test_when_both_die_before_the_standby_was_told_it_still_refuses(self):
        self.start_pair(agent_options=("--window-bytes", "8M", "--on-full", "degrade"), tee=False)
        self.overflow()
        self.wait_stored(self.host)
        self.host.kill()
        self.standby.kill()
        self.standby.restart()
        self.host.restart()
        self.host.wait_connected()
        self.assert_refused(self.host.ctl("checkpoint", "vm1"), "ABORTED", "volume vda: ")
        self.assert_refused(self.standby.ctl("checkpoint", "vm1"), "ABORTED", "which ones is not known here")
        error = self.errors(self.standby)["", "write", "ABORTED"]
        self.assertIn("does not continue the stream of before", error["message"])
        self.assert_export(self.standby.uri(), self.before, "the standby stays at its last checkpoint")

    def test_a_full_overlay_is_named_and_never_a_silent_divergence(self):
        self.start_pair("--overlay-bytes-max", "16M", agent_options=("--window-bytes", "8M", "--on-full", "degrade"))
        qemu_io(self.host.uri(), *(f"write -q -P 3 {at}M 1M" for at in range(0, 48)))
        refused = self.wait_error(self.standby, "vda", "write", "RESOURCE_EXHAUSTED")
        self.assertIn("--overlay-bytes-max is 16777216", refused["message"])
        self.assertGreater(int(refused["length"]), 0)
        self.assertGreater(int(refused["offset"]), 8 * MIB, "what came before has room")
        self.wait_error(self.host, "vda", "forward", "ABORTED")
        self.restart(self.standby, "kill")
        self.restart(self.host, "kill")
        # Refused again each time: never connected for long.
        lib.wait_for(lambda: self.host.daemon.events("stream_connected"), "the agent's stream")
        after = self.errors(self.standby)["vda", "write", "RESOURCE_EXHAUSTED"]
        self.assertEqual(after["first_unix_micros"], refused["first_unix_micros"])
        for daemon in (self.standby, self.host):
            self.assert_refused(daemon.ctl("checkpoint", "vm1"), "ABORTED", "volume vda: ")
        self.assert_export(self.standby.uri(), bytes(self.size), "nothing was committed")

        # A new pairing begins without errors.
        self.host.call("stop", "vm1", "--failover")
        self.standby.call("stop", "vm1", "--failover")
        self.standby.wait_stage("DONE")
        self.standby.call("remove", "vm1")
        self.assertEqual(list((self.standby.data_dir / "errors").glob("*")), [])
        self.standby.start_group(f"vda,disk={self.secondary}")
        self.assertEqual(self.errors(self.standby), {})

    # ---- what else is kept ---------------------------------------------------------------------------------------------------

    def test_an_agent_without_a_state_directory_keeps_nothing(self):
        self.start_pair(tee=False, agent_options=("--window-bytes", "8M", "--on-full", "degrade"))
        command = self.host.command()
        at = command.index("--state-dir")
        self.host.command = lambda: command[:at] + command[at + 2 :]
        self.host.kill()
        self.host.restart()  # with an id of its own: fenced until it takes over
        self.host.call("start", "vm1", "--mode", "primary", "--takeover")
        self.host.wait_connected()
        self.wait_error(self.host, "", "forward", "ABORTED")  # the stream was replaced
        self.host.kill()
        self.host.restart()
        self.assertEqual([error["reason"] for error in self.host.status()["errors"]], ["FENCED"])  # of its own start

    def test_damage_to_the_file_keeps_no_group_from_opening(self):
        self.start_pair(agent_options=("--window-bytes", "8M", "--on-full", "degrade"), tee=False)
        self.overflow()
        self.standby.daemon.signal(signal.SIGCONT)
        self.wait_error(self.standby, "vda", "write", "ABORTED")
        self.assertEqual(self.standby.daemon.end(), 0)
        file = self.standby.data_dir / "errors" / "vm1.errors"
        self.assertIn("vda\twrite", file.read_text())
        file.write_bytes(file.read_bytes()[:-3] + b"xyz")
        self.standby.restart()
        self.assertTrue(self.standby.daemon.events("errors_not_read"))
        # The durable flag does not depend on it.
        self.assert_refused(self.standby.ctl("checkpoint", "vm1"), "ABORTED", "missing at the standby")

    def test_a_failed_write_of_the_secondary_vm(self):
        self.start_pair("--overlay-bytes-max", "16M")
        with nbd.Disk(self.standby.nbd_socket, "vm1/vda") as vm:
            failed = next(at for at in range(0, 48, 2) if nbd.errno_of(vm.write, at * MIB, b"x" * (2 * MIB)) != "ok")
            self.assertEqual(nbd.errno_of(vm.write, failed * MIB, b"x" * (2 * MIB)), "ENOSPC")
        error = self.wait_error(self.standby, "vda", "disk_write", "RESOURCE_EXHAUSTED")
        self.assertEqual((int(error["count"]), int(error["offset"]), int(error["length"])), (2, failed * MIB, 2 * MIB))
        self.assertIn("--overlay-bytes-max is 16777216", error["message"])
        self.restart(self.standby, "kill")
        self.assert_same_error(self.errors(self.standby)["vda", "disk_write", "RESOURCE_EXHAUSTED"], error, "service")
        # It is the VM's error, not the primary's: a checkpoint drops what the VM wrote, and gives the room back.
        self.host.wait_connected()
        self.host.call("checkpoint", "vm1")
        with nbd.Disk(self.standby.nbd_socket, "vm1/vda") as vm:
            self.assertEqual(nbd.errno_of(vm.write, failed * MIB, b"x" * (2 * MIB)), "ok")

    def test_an_errno_is_told_in_words(self):
        """A secondary disk that can grow no further: the apply job's error."""
        limit = 8 * MIB
        self.primary, self.secondary = (self.disk(name, self.size) for name in ("p", "s"))
        self.standby = lib.Service(self, options=SEGMENT)
        plain = self.standby.command
        self.standby.command = lambda: [
            "sh", "-c", 'trap "" 25; exec "$@"', "sh", "prlimit", f"--fsize={limit}", "--", *plain()
        ]  # 25: SIGXFSZ, which would end it
        self.standby.start()
        self.standby.start_group(f"vda,disk={self.secondary}")
        self.host = self.agent(self.standby, f"vda,disk={self.primary}").wait_connected()
        qemu_io(self.host.uri(), "write -P 1 32M 64k")
        self.host.call("checkpoint", "vm1")
        error = self.wait_error(self.standby, "vda", "apply", "INTERNAL")
        self.assertIn(os.strerror(errno.EFBIG), error["message"])
        self.restart(self.standby, "kill")
        self.assertIn(os.strerror(errno.EFBIG), self.wait_error(self.standby, "vda", "apply", "INTERNAL")["message"])


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", "prlimit")

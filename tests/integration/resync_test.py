"""A standby that was away, is new, or has been lost track of gets what it misses and no more, while the guest writes; all the time it
is at a complete checkpoint. A verify tells whether the disks are equal."""

import os
import random
import signal
import time

import lib
from lib import MIB, nbdcopy, qemu_io

SEGMENT = ("--segment-bytes", "4M")
# A busy machine may take longer than 500 ms over a sync; a standby that hangs is given up after 3 s anyway.
START = ("--start", "--stall-timeout", "5s")
SLACK = 64 * MIB  # what a resync may send beyond what has changed, beside 5 %


class ResyncTest(lib.Case):
    size = 256 * MIB

    def start_pair(self, *options, initial="", content=None):
        self.primary = self.disk("p", self.size)
        if content is not None:
            with open(self.primary, "r+b") as file:
                for offset, data in content.items():
                    file.seek(offset)
                    file.write(data)
        self.secondary = self.disk("s", self.size)
        self.standby = self.service(*SEGMENT)
        self.standby.start_group(f"vda,disk={self.secondary}{initial}")
        self.host = self.agent(self.standby, f"vda,disk={self.primary}", options=(*START, *options))
        return self.host

    def sent(self):
        return int(self.host.metric("understudy_resync_applied_bytes_total", volume="vda"))

    def sync(self):
        answer = self.host.ctl("sync", "vm1", "--wait")
        self.assertEqual(answer.status, 0, answer.error)
        return answer.object

    def assert_equal_at_checkpoint(self):
        """Nobody writes: what a checkpoint shows is the primary's disk."""
        self.host.call("checkpoint", "vm1")
        self.assert_export_is_file(self.standby.uri(), self.primary, "after a checkpoint")

    def keep_view(self):
        """What the standby shows now, as a file."""
        path = self.dir / "kept"
        nbdcopy(self.standby.uri(), path)
        return path

    def writer(self, seed):
        """A guest that writes until told to stop, on sectors of the first 64 MiB."""
        requests = lib.random_requests(random.Random(seed), 400, 64 * MIB)
        return lib.Writer(self.host.uri(), requests)

    # ---- the first sync -------------------------------------------------------------------------------------------------------

    def test_first_sync_sends_what_differs_while_the_guest_writes(self):
        content = {at * MIB: self.random_piece(MIB) for at in range(0, 96, 2)}
        # 48 MiB: slow enough to be at work still when the failover is asked for.
        host = self.start_pair("--resync-bytes-per-second", "8M", initial=",initial=sync", content=content)
        self.assert_refused(self.standby.ctl("stop", "vm1", "--failover"), "FAILED_PRECONDITION", "NO_CHECKPOINT")
        writer = self.writer(lib.SEED)
        writer.write_batch()
        status = self.sync()
        writer.write_batch()
        writer.close()
        self.assertEqual(status["sync_state"], "IN_SYNC")
        self.assertFalse(status["incomplete"])
        self.assert_equal_at_checkpoint()
        allocated = os.stat(self.primary).st_blocks * 512
        self.assertLessEqual(self.sent(), 1.05 * allocated + SLACK)
        self.assertLess(os.stat(self.secondary).st_blocks * 512, self.size // 2, "sparse stays sparse")
        self.assertEqual(host.call_errors(), [])

    def test_a_disk_that_is_nearly_there_costs_little(self):
        content = {at * MIB: self.random_piece(MIB) for at in range(64)}
        primary, secondary = self.disk("p", self.size), self.disk("s", self.size)
        for path in (primary, secondary):
            with open(path, "r+b") as file:
                for offset, data in content.items():
                    file.seek(offset)
                    file.write(data)
        with open(secondary, "r+b") as file:
            file.seek(10 * MIB + 5000)
            file.write(b"different")
        self.primary, self.secondary = primary, secondary
        self.standby = self.service(*SEGMENT)
        self.standby.start_group(f"vda,disk={secondary},initial=sync")
        self.host = self.agent(self.standby, f"vda,disk={primary}").wait_connected()
        self.sync()
        self.assertEqual(self.sent(), 4096)
        self.assert_equal_at_checkpoint()

    # ---- outages ----------------------------------------------------------------------------------------------------------------

    def test_a_long_outage_is_made_good_with_what_changed(self):
        host = self.start_pair("--window-bytes", "4M").wait_connected()
        qemu_io(host.uri(), "write -q -P 1 0 32M")
        epoch = host.call("checkpoint", "vm1")["epoch"]
        before = self.keep_view()
        self.standby.daemon.signal(signal.SIGSTOP)
        qemu_io(host.uri(), *(f"write -q -P {at + 2} {at}M 1M" for at in range(16, 48)))
        status = host.status()
        self.assertEqual(status["sync_state"], "BEHIND")
        self.assertGreater(int(status["volumes"][0]["dirty_bytes"]), 0)
        self.assertEqual(host.ctl("checkpoint", "vm1", timeout="1s").status, 1)
        (missed,) = [error for error in host.call_errors() if error["volume"] == "vda"]
        self.assertEqual((missed["operation"], missed["reason"]), ("forward", "INCOMPLETE"))
        self.assertGreater(host.metric("understudy_replication_lag_bytes", volume="vda"), 0)
        self.standby.daemon.signal(signal.SIGCONT)

        status = self.sync()
        self.assertLessEqual(self.sent(), 1.05 * 32 * MIB)
        self.assertGreater(int(status["committed_epoch"]), int(epoch), "it ended in a checkpoint of its own")
        self.assert_equal_at_checkpoint()
        self.assertIsNotNone(lib.first_difference(self.primary, before))
        self.assertEqual(host.call_errors(), [])
        self.assertEqual(host.metric("understudy_resync_remaining_bytes", volume="vda"), 0)
        self.assertGreaterEqual(host.metric("understudy_resyncs_total", volume="vda", result="ok"), 1)

    def test_a_failover_in_the_middle_of_a_resync_is_at_the_last_checkpoint(self):
        host = self.start_pair("--window-bytes", "4M", "--resync-bytes-per-second", "4M").wait_connected()
        qemu_io(host.uri(), "write -q -P 1 0 32M")
        host.call("checkpoint", "vm1")
        before = self.keep_view()
        self.standby.daemon.signal(signal.SIGSTOP)
        qemu_io(host.uri(), *(f"write -q -P {at + 2} {at}M 1M" for at in range(32)))
        self.standby.daemon.signal(signal.SIGCONT)
        lib.wait_for(lambda: self.sent() > 0, "the resync")
        self.assertEqual(host.status()["sync_state"], "RESYNCING")
        self.assertTrue(self.standby.status()["incomplete"])
        self.standby.call("stop", "vm1", "--failover")
        self.standby.wait_stage("DONE")
        self.assert_export_is_file(self.standby.uri(), before, "after the failover")

    def test_a_killed_service_under_load_and_its_return(self):
        host = self.start_pair("--window-bytes", "4M").wait_connected()
        writer = self.writer(lib.SEED + 1)
        for _ in range(3):
            writer.write_batch()
            self.standby.kill()
            for _ in range(4):
                writer.write_batch()
            self.standby.restart()
            self.sync()
            self.assert_equal_at_checkpoint()
        writer.close()
        self.assertEqual(host.call_errors(), [])

    def hang_syncs(self):
        """From now on, until the file that it returns is gone. The standby is restarted for it."""
        environment, hang = self.hanging_syncs()
        self.assertEqual(self.standby.daemon.end(), 0)
        self.standby.options = ()  # one large segment: to begin another takes a sync
        self.standby.spawn(environment).wait_ready()
        qemu_io(self.host.wait_connected().uri(), "write -q -P 1 0 8M")
        self.host.call("checkpoint", "vm1")
        hang.touch()
        return hang

    def test_a_standby_whose_syncs_hang_does_not_hold_the_guest(self):
        host = self.start_pair("--window-bytes", "4M").wait_connected()
        hang = self.hang_syncs()
        before = self.dir / "before"
        lib.run("cp", "--sparse=always", self.primary, before)
        begun = time.monotonic()
        qemu_io(host.uri(), *(f"write -q -P {at + 2} {at}M 1M" for at in range(24)))
        self.assertLess(time.monotonic() - begun, lib.PATIENCE_SECONDS / 2)
        lib.wait_for(lambda: int(host.status()["forward_queue_bytes"]) == 0, "everything queued to be received")
        status = host.status()
        self.assertEqual((status["sync_state"], status["connected"]), ("ASSUMED", True), "it has all, but not for sure")
        self.assertEqual(host.ctl("checkpoint", "vm1", timeout="1s").status, 1)
        self.assert_export_is_file(self.standby.uri(), before, "it stays at its last checkpoint")
        hang.unlink()
        self.assert_equal_at_checkpoint()
        self.assertEqual(self.sent(), 0, "nothing was missing")
        self.assertEqual(host.call_errors(), [])

    def test_in_forward_mode_it_holds_the_guest_for_a_while_and_then_misses_writes(self):
        self.standby = self.service(*SEGMENT)
        self.standby.start_group(f"vda,disk={self.disk('s', self.size)}")
        host = self.host = self.agent(self.standby, f"vda,size={self.size}", options=(*START, "--window-bytes", "4M"))
        hang = self.hang_syncs()
        before = self.keep_view()
        begun = time.monotonic()
        qemu_io(host.uri(), *(f"write -q -P {at + 2} {at}M 1M" for at in range(24)))
        self.assertLess(time.monotonic() - begun, lib.PATIENCE_SECONDS / 2)
        status = host.status()
        self.assertEqual((status["sync_state"], status["connected"]), ("BEHIND", True))
        self.assert_export_is_file(self.standby.uri(), before, "it stays at its last checkpoint")
        hang.unlink()
        copy = self.random_bytes(self.size)
        host.call("sync", "vm1", "--full")
        nbdcopy(self.disk("copy", self.size, copy), host.uri())
        self.assertGreater(int(host.call("sync", "vm1", "--declare-complete")["epoch"]), 0)
        self.assert_bytes(self.read_disk(self.standby.uri()), copy, "copied anew")

    # ---- the agent dies -----------------------------------------------------------------------------------------------------------

    def test_a_killed_agent_compares_what_was_hot(self):
        host = self.start_pair("--window-bytes", "8M", "--intent-regions", "16").wait_connected()
        qemu_io(host.uri(), *(f"write -q -P {at + 1} {at}M 1M" for at in range(0, 160)))
        # Where the guest will write is what was touched last.
        qemu_io(host.uri(), *(f"write -q -P {at + 1} {at}M 4k" for at in range(0, 64, 4)))
        host.call("checkpoint", "vm1")
        # Those written longest ago leave the write-intent log when it is over its limit.
        lib.wait_for(lambda: host.metric("understudy_intent_bytes") <= 64 * MIB, "the write-intent log to be cleaned")
        for _ in range(3):
            writer = self.writer(lib.SEED + 2)
            writer.write_batch()
            self.standby.daemon.signal(signal.SIGSTOP)  # what is on its way is lost with the agent
            writer.write_batch()
            writer.close()
            host.kill()
            self.standby.daemon.signal(signal.SIGCONT)
            host.restart()
            (unclean,) = host.daemon.events("unclean_restart")
            # What the guest has touched, and what one stretch of sequential writes marks ahead.
            self.assertLessEqual(int(unclean["to_compare_bytes"]), 128 * MIB, "not the whole disk")
            self.sync()
            self.assert_equal_at_checkpoint()

    def test_an_orderly_restart_compares_nothing(self):
        host = self.start_pair("--window-bytes", "4M").wait_connected()
        qemu_io(host.uri(), "write -q -P 1 0 8M")
        self.standby.daemon.signal(signal.SIGSTOP)
        qemu_io(host.uri(), *(f"write -q -P {at + 2} {at}M 1M" for at in range(16)))
        self.assertEqual(host.daemon.end(), 0)
        self.standby.daemon.signal(signal.SIGCONT)
        host.restart()
        self.assertEqual(host.daemon.events("unclean_restart"), [])
        self.sync()
        self.assertLessEqual(self.sent(), 17 * MIB)
        self.assert_equal_at_checkpoint()

    # ---- verify -------------------------------------------------------------------------------------------------------------------

    def assert_both_say(self, host, state):
        self.assertEqual(host.status()["sync_state"], state)
        lib.wait_for(lambda: self.standby.status()["sync_state"] == state, f"the standby to say {state}")

    def test_what_was_never_compared_is_not_said_to_be_equal(self):
        """Disks that were declared equal and are not, and a resync of a part of them."""
        host = self.start_pair().wait_connected()
        with open(self.secondary, "r+b") as file:
            file.seek(200 * MIB)
            file.write(b"\x01")
        qemu_io(host.uri(), "write -q -P 1 60M 4k")
        host.call("checkpoint", "vm1")
        host.kill()
        host.restart().wait_connected()
        self.sync()
        host.call("checkpoint", "vm1")
        self.assertEqual(self.standby.status()["sync_state"], "ASSUMED")
        self.assert_both_say(host, "ASSUMED")
        self.assertEqual(host.ctl("verify", "vm1", "--wait").status, 3)
        self.assert_both_say(host, "DIVERGED")
        self.assertEqual(host.ctl("sync", "vm1", "--full", "--wait").status, 0)
        self.assert_both_say(host, "IN_SYNC")

    def test_a_primary_disk_that_somebody_else_has_changed(self):
        """While no agent ran: restored from a backup, in place and as another file. Its own restarts cost nothing."""
        host = self.start_pair().wait_connected()
        qemu_io(host.uri(), "write -q -P 7 0 8M")
        host.call("checkpoint", "vm1")
        self.assertEqual(host.ctl("verify", "vm1", "--wait").status, 0)

        def written_to():
            with open(self.primary, "r+b") as file:
                file.seek(100 * MIB)
                file.write(bytes([self.rng.randrange(1, 256)]) * 8192)

        def replaced():
            self.primary.rename(f"{self.primary}.old")
            lib.run("cp", "--sparse=always", f"{self.primary}.old", self.primary)
            written_to()

        for killed, change in ((False, written_to), (False, replaced), (True, replaced)):
            host.daemon.end()
            host.restart().wait_connected()
            self.assertEqual((host.status()["sync_state"], host.daemon.events("primary_disk_changed")), ("IN_SYNC", []))
            host.kill() if killed else host.daemon.end()
            change()
            host.restart().wait_connected()
            self.assertEqual([event["volume"] for event in host.daemon.events("primary_disk_changed")], ["vda"])
            self.assertEqual(self.sync()["sync_state"], "IN_SYNC")
            self.assert_equal_at_checkpoint()

    def test_verify_finds_one_flipped_byte_and_a_full_sync_mends_it(self):
        host = self.start_pair().wait_connected()
        qemu_io(host.uri(), "write -q -P 7 0 64M")
        host.call("checkpoint", "vm1")
        self.assertEqual(host.status()["sync_state"], "ASSUMED")
        writer = self.writer(lib.SEED + 3)
        writer.write_batch()
        answer = host.ctl("verify", "vm1", "--wait")
        self.assertEqual(answer.status, 0, answer.error)
        self.assertEqual(answer.object["outcome"], "EQUAL")
        self.assertEqual(host.status()["sync_state"], "IN_SYNC")
        self.assertGreater(host.metric("understudy_verify_last_equal_timestamp_seconds"), 0)

        host.call("checkpoint", "vm1")
        lib.wait_for(lambda: self.standby.status()["jobs"] == [], "the apply job")
        with open(self.secondary, "r+b") as file:
            file.seek(200 * MIB + 17)
            file.write(b"\x01")
        answer = host.ctl("verify", "vm1", "--wait")
        self.assertEqual(answer.status, 3, answer.error)
        self.assertEqual((answer.object["outcome"], answer.object["different_bytes"]), ("DIFFERENT", 4096))
        self.assertEqual(host.status()["sync_state"], "DIVERGED")
        (error,) = host.call_errors()
        self.assertEqual((error["volume"], error["operation"], int(error["offset"])), ("vda", "verify", 200 * MIB))
        self.assertIn("understudyctl sync vm1 --full", error["message"])

        answer = host.ctl("sync", "vm1", "--full", "--wait")
        self.assertEqual(answer.status, 0, answer.error)
        writer.write_batch()
        writer.close()
        self.assertEqual(host.status()["sync_state"], "IN_SYNC")
        self.assert_equal_at_checkpoint()

    def test_what_is_known_to_be_equal_is_known_after_restarts(self):
        host = self.start_pair("--window-bytes", "8M").wait_connected()
        qemu_io(host.uri(), "write -q -P 7 0 32M")
        host.call("checkpoint", "vm1")
        self.assertEqual(host.daemon.end(), 0)
        self.assertEqual(host.restart().wait_connected().status()["sync_state"], "ASSUMED", "nobody has compared anything")
        self.assertEqual(host.ctl("verify", "vm1", "--wait").status, 0)
        for round_number in range(2):
            writer = self.writer(lib.SEED + 4 + round_number)
            writer.write_batch()
            writer.close()
            self.assertEqual(host.daemon.end(), 0)
            host.restart().wait_connected()
            self.assertEqual(host.status()["sync_state"], "IN_SYNC", "after an orderly end")
            self.assert_equal_at_checkpoint()
            writer = self.writer(lib.SEED + 8 + round_number)
            writer.write_batch()
            self.standby.daemon.signal(signal.SIGSTOP)  # what is on its way is lost with the agent
            writer.write_batch()
            writer.close()
            host.kill()
            self.standby.daemon.signal(signal.SIGCONT)
            host.restart().wait_connected()
            self.assertEqual(self.sync()["sync_state"], "IN_SYNC", "after a kill, once what was hot is compared")
            self.assert_equal_at_checkpoint()
            self.standby.kill()
            self.standby.restart()
            host.wait_connected()
            self.assertEqual(self.sync()["sync_state"], "IN_SYNC", "after a kill of the service")

        # Whatever was done to the standby's disk: a verify's refutation outlives a restart, too.
        lib.wait_for(lambda: self.standby.status()["jobs"] == [], "the apply job")
        with open(self.secondary, "r+b") as file:
            file.seek(200 * MIB + 17)
            file.write(b"\x01")
        self.assertEqual(host.ctl("verify", "vm1", "--wait").status, 3)
        host.kill()
        host.restart().wait_connected()
        answer = self.host.ctl("sync", "vm1", "--wait")
        self.assertEqual((answer.status, answer.object["sync_state"]), (3, "DIVERGED"))
        self.assertEqual(host.ctl("sync", "vm1", "--full", "--wait").object["sync_state"], "IN_SYNC")
        self.assert_equal_at_checkpoint()

    def test_forward_mode_cannot_compare(self):
        self.secondary = self.disk("s", self.size)
        self.standby = self.service(*SEGMENT)
        self.standby.start_group(f"vda,disk={self.secondary}")
        host = self.agent(self.standby, f"vda,size={self.size}").wait_connected()
        answer = host.ctl("verify", "vm1")
        self.assertEqual(answer.status, 1)
        self.assertIn("has no local disk", answer.error)
        answer = self.standby.ctl("verify", "vm1")
        self.assertIn("WRONG_MODE", answer.error)

    # ---- volumes with and without a local disk in one group ---------------------------------------------------------------------

    def start_mixed(self, *options):
        self.size = 64 * MIB
        self.primary = self.disk("p", self.size)
        self.standby = self.service(*SEGMENT)
        self.standby.start_group(*(f"{name},disk={self.disk(f's.{name}', self.size)}" for name in ("tee", "fwd")))
        volumes = (f"tee,disk={self.primary}", f"fwd,size={self.size}")
        self.host = self.agent(self.standby, *volumes, options=(*START, *options)).wait_connected()
        return self.host

    def miss_writes_to(self, *volumes):
        """The standby hangs; these volumes get more than the window takes."""
        self.standby.daemon.signal(signal.SIGSTOP)
        for volume in volumes:
            qemu_io(self.host.uri(volume), *(f"write -q -P {at + 2} {at}M 1M" for at in range(24)))
        self.standby.daemon.signal(signal.SIGCONT)

    def volume(self, name):
        return next(volume for volume in self.host.status()["volumes"] if volume["name"] == name)

    def assert_mixed_equal(self, forward):
        self.host.call("checkpoint", "vm1")
        self.assert_export_is_file(self.standby.uri("tee"), self.primary, "tee")
        self.assert_bytes(self.read_disk(self.standby.uri("fwd")), bytes(forward), "fwd")
        self.assertEqual(self.host.call_errors(), [])

    def test_a_tee_volume_beside_a_forward_volume_comes_back_by_itself(self):
        host = self.start_mixed("--window-bytes", "4M", "--intent-regions", "16")
        forward = bytearray(self.size)
        qemu_io(host.uri("fwd"), *(f"write -q -P 99 {at}M 64k" for at in range(0, self.size // MIB, 4)))
        for at in range(0, self.size, 4 * MIB):
            forward[at : at + 64 * 1024] = b"\x63" * 64 * 1024
        self.miss_writes_to("tee")
        self.sync()
        self.assert_mixed_equal(forward)
        # The log of regions being written is cleaned with a volume without a disk, too.
        lib.wait_for(lambda: host.metric("understudy_intent_bytes") <= 64 * MIB, "the write-intent log to be cleaned")

    def test_a_mixed_group_is_complete_when_both_kinds_of_volumes_are(self):
        host = self.start_mixed("--window-bytes", "4M")
        self.miss_writes_to("tee", "fwd")
        lib.wait_for(lambda: int(self.volume("tee")["dirty_bytes"]) == 0, "the resync of the tee volume")
        self.assertGreater(int(self.volume("fwd")["dirty_bytes"]), 0)
        self.assertEqual(host.status()["sync_state"], "BEHIND")
        answer = host.ctl("checkpoint", "vm1")
        self.assertTrue(answer.error.startswith("error: ABORTED"), answer.error)
        answer = host.ctl("sync", "vm1", "--declare-complete")
        self.assertIn("copy anew", answer.error)

        # What attach, or a person with QEMU, does.
        host.call("sync", "vm1", "--full")
        copy = self.random_bytes(self.size)
        source = self.disk("copy", self.size, copy)
        nbdcopy(source, host.uri("fwd"))
        self.assertGreater(int(host.call("sync", "vm1", "--declare-complete")["epoch"]), 0)
        self.assert_mixed_equal(copy)

    def test_a_killed_agent_of_a_mixed_group_compares_one_volume_and_asks_for_a_copy_of_the_other(self):
        host = self.start_mixed("--window-bytes", "4M")
        for volume in ("tee", "fwd"):
            qemu_io(host.uri(volume), "write -q -P 7 0 1M")
        host.call("checkpoint", "vm1")
        self.standby.daemon.signal(signal.SIGSTOP)  # what is on its way is lost with the agent
        qemu_io(host.uri("tee"), "write -q -P 8 8M 1M")
        host.kill()
        self.standby.daemon.signal(signal.SIGCONT)
        # Whoever wrote `fwd` may have gone on without it, as a quorum does.
        host.restart().wait_connected()
        lib.wait_for(lambda: host.metric("understudy_resync_remaining_bytes", volume="tee") == 0, "the resync")
        self.assertTrue(host.status()["incomplete"])
        host.call("sync", "vm1", "--full")
        copy = self.random_bytes(self.size)
        nbdcopy(self.disk("copy", self.size, copy), host.uri("fwd"))
        host.call("sync", "vm1", "--declare-complete")
        self.assert_mixed_equal(copy)


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", at_once=3)

"""A real Linux guest loses its host in the middle of writing, and goes on at the standby.

Debian's kernel, ext4 on two disks of one group, files, and a small database that acknowledges a record when it has fsynced it on both
disks (guest_init.sh). Checkpoints are the agent's own, one a second, without a pause. The host dies (kill -9 of QEMU and the
agent), the standby fails over, and a second guest boots from its exports at once, while the commit job runs. Inside it: journal
replay, every file of before the checkpoint, a database without a gap that has what was acknowledged before the last
checkpoint began. Afterwards the raw disks of the standby are checked on the host.
"""

import hashlib
import os
import time

import guest
import lib
from lib import MIB

SIZES = {"vda": 256 * MIB, "vdb": 64 * MIB}
EPOCHS_UNDER_LOAD = 5


def record_is_right(record):
    number, uuid, checksum = record.split(" ")
    return hashlib.md5(f"{number} {uuid}\n".encode()).hexdigest() == checksum


class GuestTest(lib.Case):
    def start_pair(self):
        self.primary, self.secondary = {}, {}
        for name, size in SIZES.items():
            self.primary[name] = self.disk(f"p-{name}", size)
            lib.run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.primary[name])
            self.secondary[name] = self.dir / f"s-{name}"
            lib.run("cp", "--sparse=always", self.primary[name], self.secondary[name])
        # Slow enough for the secondary guest to boot while the commit job runs.
        self.standby = self.service("--apply-bytes-per-second", "1M")
        self.standby.start_group(*(f"{name},disk={path}" for name, path in self.secondary.items()))
        volumes = (f"{name},disk={path}" for name, path in self.primary.items())
        self.host = self.agent(self.standby, *volumes, options=("--start", "--checkpoint-interval", "1s")).wait_connected()

    def boot(self, name, endpoint):
        begun = time.monotonic()
        booted = guest.Guest(self, name, [(endpoint.nbd_socket, f"vm1/{volume}") for volume in SIZES])
        print(f"{name}: Linux {booted.kernel_version}, up in {time.monotonic() - begun:.1f} s", flush=True)
        return booted

    def committed_epoch(self):
        return int(self.host.status()["committed_epoch"])

    def wait_epochs(self, count, watch=lambda epoch: None):
        """Until so many more checkpoints have been committed."""
        last = self.committed_epoch() + count

        def committed():
            epoch = self.committed_epoch()
            watch(epoch)
            return epoch >= last

        lib.wait_for(committed, f"{count} checkpoints")

    def test_a_guest_goes_on_at_the_standby(self):
        self.start_pair()
        vm = self.boot("primary", self.host)
        vm.run("mount_both discard && write_files")
        files = vm.run("checksums /mnt/a/files")
        self.assertEqual(len(files), 9)
        # The marker of the next checkpoint may have been sent before; the one after it comes later.
        self.wait_epochs(2)
        epoch_of_files = self.committed_epoch()
        promised = self.kill_while_it_writes(vm)

        begun = time.monotonic()
        self.standby.call("stop", "vm1", "--failover")
        print(f"failover answered in {1000 * (time.monotonic() - begun):.0f} ms", flush=True)
        committed = int(self.standby.status()["committed_epoch"])
        self.assertGreaterEqual(committed, epoch_of_files)
        vm2 = self.boot("secondary", self.standby)
        # The disks are as after a power cut of the primary at the checkpoint.
        vm2.run("mount_both discard")
        self.assertEqual(vm2.console_log().count("recovery complete"), len(SIZES), "journals replayed")
        self.assertEqual(vm2.run("checksums /mnt/a/files"), files)
        self.check_database(vm2, vm.acks, max(count for epoch, count in promised if epoch + 2 <= committed))
        self.check_goes_on(vm2)

    def kill_while_it_writes(self, vm):
        """Returns, for each epoch, how many records had been acknowledged before it was seen to be the newest one."""
        promised = []

        def watch(_):
            acknowledged = len(vm.acks)  # before the epoch is asked for
            promised.append((self.committed_epoch(), acknowledged))

        vm.run("replace_files & write_records 1 1000000 &")
        lib.wait_for(lambda: len(vm.acks) > 20, "the guest to have written")
        self.wait_epochs(EPOCHS_UNDER_LOAD, watch)
        moment = time.monotonic() + self.rng.uniform(0, 1.5)  # where between two checkpoints
        lib.wait_for(lambda: watch(None) or time.monotonic() > moment, "the moment of the kill")
        vm.kill()
        self.host.kill()
        return promised

    def check_database(self, vm, acknowledged, promised):
        journal, table = (vm.run(f"cat {path}") for path in ("/mnt/a/journal", "/mnt/b/table"))
        print(f"acknowledged: {len(acknowledged)} records, before the last checkpoint: {promised}, found: {len(journal)}", flush=True)
        self.assertGreater(promised, 10, "the guest hardly wrote")
        for number, record in enumerate(journal, 1):
            self.assertTrue(record.startswith(f"{number} ") and record_is_right(record), record)
        self.assertIn(len(journal) - len(table), (0, 1), "the disks are not from one instant")
        self.assertEqual(journal[: len(table)], table)
        # What the kill cut off may be on the disk without having been acknowledged.
        common = min(len(acknowledged), len(journal))
        self.assertEqual(journal[:common], acknowledged[:common])
        self.assertLessEqual(len(journal), len(acknowledged) + 1)
        self.assertGreaterEqual(len(table), promised)
        vm.run("check_replaced")

    def check_goes_on(self, vm):
        """The standby's guest writes, shuts down, and its disks are whole: to the guest, and raw to the host."""
        first = len(vm.run("cat /mnt/a/journal")) + 1
        vm.run("cp /mnt/a/journal /mnt/b/table; sync")
        vm.run(f"write_records {first} {first + 19}")
        self.assertEqual(len(vm.acks), 20)
        vm.run("unmount_both")
        for number in range(len(SIZES)):
            vm.run(f"e2fsck -fn /dev/vd{'ab'[number]}")
        vm.power_off()
        self.standby.wait_stage("DONE")
        for name, path in self.secondary.items():
            self.assert_export(self.standby.uri(name), path.read_bytes(), f"{name}: the raw disk")
            lib.run("e2fsck", "-fn", path)
        journal = lib.run("debugfs", "-R", "cat /journal", self.secondary["vda"]).stdout.splitlines()
        self.assertEqual(journal[-20:], vm.acks)
        self.assertEqual(lib.run("debugfs", "-R", "cat /table", self.secondary["vdb"]).stdout.splitlines(), journal)


if __name__ == "__main__":
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # e2fsprogs
    guest.skip_without_guest()
    lib.run_tests(guest.QEMU, "nbdcopy", "mke2fs", "e2fsck", "debugfs")

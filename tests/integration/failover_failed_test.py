"""FAILOVER_FAILED is not a dead end: the secondary disk fails in the middle of the commit job, the VM goes on, the retry ends in DONE.

The disk is a sparse file on a full file system, a file whose writes fail (FUSE), and a loop device over such a file. Each case needs root.
"""

import os

import failing_disk
import lib
from failing_disk import FailingDisk
from nbd import Disk, errno_of
from lib import MIB

SIZE = 16 * MIB
BLOCK = 64 * 1024


class FailoverFailedTest(lib.Case):
    def run_standby(self, disk, image, *options):
        """A group whose VM has written 8 MiB here and there."""
        self.standby = self.service("--disk-dir", "/dev", *options)
        self.standby.start_group(f"vda,disk={disk}")
        self.view = bytearray(image)
        self.guest = Disk(self.standby.nbd_socket, "vm1/vda")
        self.addCleanup(lambda: self.guest.close())
        for offset in range(0, SIZE, 2 * BLOCK):
            self.write(offset, self.rng.randbytes(BLOCK))
        self.guest.flush()

    def take_over(self, disk, image, break_disk):
        """Fails over to a disk that cannot take it all."""
        self.run_standby(disk, image)
        break_disk()
        self.assertIn(self.standby.call("stop", "vm1", "--failover")["stage"], ("FAILOVER", "FAILOVER_FAILED"))
        self.standby.wait_stage("FAILOVER_FAILED")

    def write(self, offset, data):
        self.guest.write(offset, data)
        self.view[offset : offset + len(data)] = data

    def assert_told(self, code, text):
        """GetError: volume, operation, range, code and the errno's text; exit status 3."""
        (error,) = self.standby.call_errors()
        self.assertEqual((error["volume"], error["operation"], error["code"]), ("vda", "commit", code), error)
        self.assertTrue(error["message"].startswith("I/O error occurred: "), error)
        self.assertIn(text, error["message"])
        self.assertLessEqual(int(error["offset"]) + int(error["length"]), SIZE)
        self.assertGreater(int(error["count"]), 0)
        for when in ("first_unix_micros", "last_unix_micros"):
            self.assertGreater(int(error[when]), 0)
        return error

    def assert_view(self, what):
        self.assert_bytes(self.guest.read(0, SIZE), bytes(self.view), what)

    def go_on(self, elsewhere):
        """The VM reads and writes: over what an overlay holds, and `elsewhere`."""
        self.assert_view("the view after the failure")
        for _ in range(20):
            offset = 2 * BLOCK * self.rng.randrange(SIZE // (2 * BLOCK)) + 512 * self.rng.randrange(64)
            self.write(offset, self.rng.randbytes(512 * self.rng.randint(1, 64)))
        for offset in elsewhere:
            self.write(offset, self.rng.randbytes(4096))
        for change, offset in ((self.guest.write_zeroes, 4 * BLOCK), (self.guest.trim, 8 * BLOCK)):
            change(offset, BLOCK)
            self.view[offset : offset + BLOCK] = bytes(BLOCK)
        self.assert_view("the view after the VM's writes")

    def restart(self):
        self.guest.close()
        self.standby.kill()
        self.standby.restart()
        self.guest = Disk(self.standby.nbd_socket, "vm1/vda")

    def retry_in_vain(self):
        self.assertIn(self.standby.call("stop", "vm1", "--failover")["stage"], ("FAILOVER", "FAILOVER_FAILED"))
        self.standby.wait_stage("FAILOVER_FAILED")
        self.assert_view("the view after a retry in vain")

    def retry_and_finish(self, raw):
        self.standby.call("stop", "vm1", "--failover")
        self.write(BLOCK, self.rng.randbytes(4096))  # while it copies
        self.standby.wait_stage("DONE")
        self.assertEqual(self.standby.call_errors(), [])
        self.assert_view("the view in DONE")
        self.guest.flush()
        self.guest.close()
        self.assertEqual(self.standby.daemon.end(), 0)
        self.assert_file(raw, bytes(self.view), "the raw disk in DONE")

    def test_full_file_system(self):
        small = self.dir / "small"
        small.mkdir()
        if os.geteuid() != 0 or lib.run("mount", "-t", "tmpfs", "-o", "size=20m", "none", small, check=False).returncode:
            self.skipTest("needs root and the right to mount a tmpfs")
        self.before_removal.append(lambda: lib.run("umount", small))
        image = bytearray(SIZE)  # sparse, but for one MiB at the end
        image[SIZE - MIB :] = self.rng.randbytes(MIB)
        disk = small / "disk.raw"
        with open(disk, "wb") as file:
            file.truncate(SIZE)
            file.seek(SIZE - MIB)
            file.write(image[SIZE - MIB :])

        def fill():
            """All but 2 MiB: the commit job comes as far as that."""
            free = os.statvfs(small).f_bavail * os.statvfs(small).f_bsize
            (small / "ballast").write_bytes(bytes(free - 2 * MIB))

        self.take_over(disk, image, fill)
        self.assert_told("RESOURCE_EXHAUSTED", "No space left on device")
        # Where the disk has no block it refuses, and active takes the write; where it has one, the disk takes it.
        self.go_on([3 * BLOCK, 5 * BLOCK, SIZE - BLOCK])
        self.assertEqual(errno_of(self.guest.flush), "ok")
        self.retry_in_vain()
        self.restart()
        self.assertEqual(self.standby.status()["stage"], "FAILOVER_FAILED")
        self.assertEqual(self.standby.ctl("get-error", "vm1").status, 3)
        self.go_on([7 * BLOCK])
        self.retry_in_vain()
        self.assert_told("RESOURCE_EXHAUSTED", "No space left on device")
        (small / "ballast").unlink()
        self.retry_and_finish(disk)

    def failing_disk(self, image, **named):
        missing = failing_disk.why_not()
        if missing:
            self.skipTest(missing)
        return FailingDisk(self, "disk", SIZE, image, **named)

    def test_a_file_whose_writes_fail(self):
        image = self.random_bytes(SIZE)
        disk = self.failing_disk(image)
        self.take_over(disk.path, image, disk.break_now)
        self.assert_told("INTERNAL", "Input/output error")
        self.go_on([3 * BLOCK, 5 * BLOCK])
        self.retry_in_vain()
        self.restart()
        self.assertEqual(self.standby.ctl("get-error", "vm1").status, 3)
        self.go_on([9 * BLOCK, 11 * BLOCK])
        disk.heal()
        self.retry_and_finish(disk.backing)

    def test_a_device_that_fails_while_the_job_is_at_work(self):
        """A loop device: writes land in the page cache, and it is the sync that fails."""
        image = self.random_bytes(SIZE)
        disk = self.failing_disk(image)
        found = lib.run("losetup", "-f", "--show", disk.path, check=False)
        if found.returncode:
            self.skipTest("no loop device to be had here")
        device = found.stdout.strip()

        def free():
            lib.run("losetup", "-d", device)
            lib.wait_for(lambda: lib.run("losetup", device, check=False).returncode != 0, "the device to be free")

        self.before_removal.append(free)

        self.run_standby(device, image, "--apply-bytes-per-second", "2M")
        self.standby.call("stop", "vm1", "--failover")

        def copied():
            jobs = self.standby.status()["jobs"]
            return any(job["kind"] == "commit" and int(job["done_bytes"]) > 0 for job in jobs)

        lib.wait_for(copied, "the commit job to have copied something")
        disk.break_now()
        self.standby.wait_stage("FAILOVER_FAILED")
        self.assert_told("INTERNAL", "Input/output error")
        self.go_on([])
        self.retry_in_vain()
        disk.heal()
        self.retry_and_finish(device)
        self.assertEqual(lib.run("blockdev", "--flushbufs", device).returncode, 0)
        self.assert_file(disk.backing, bytes(self.view), "what lies below the device")

    def test_a_dead_disk_can_be_given_up(self):
        image = self.random_bytes(SIZE)
        disk = self.failing_disk(image, reads_too=True)
        self.take_over(disk.path, image, disk.break_now)
        # What an overlay holds is read, what only the dead disk has is not; nothing else is told than that.
        self.assertEqual(self.guest.read(0, BLOCK), bytes(self.view[:BLOCK]))
        self.assert_refused(self.standby.ctl("remove", "vm1"), "FAILED_PRECONDITION", "Block device is in use")
        self.standby.call("remove", "vm1", "--force")
        self.assertEqual(self.standby.ctl("list").objects, [])
        self.assertNotEqual(errno_of(self.guest.read, 0, 512), "ok")
        # The service goes on with other groups, and with this name too.
        self.standby.start_group(f"vda,disk={self.disk('new', SIZE)}")


if __name__ == "__main__":
    lib.run_tests("nbdinfo", "losetup")

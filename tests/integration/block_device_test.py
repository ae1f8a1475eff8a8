"""A block device as the secondary disk: its lock, writes, zeroes and discards, kill -9, failover. Needs root and a free loop device."""

import pathlib
import shutil
import subprocess
import sys

import lib
from lib import MIB, qemu_io


class BlockDeviceTest(lib.Case):
    size = 32 * MIB

    def loop_device(self, image, name="backing"):
        backing = self.disk(name, self.size, image)
        device = lib.run("losetup", "-f", "--show", backing).stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=True)
        return device

    def test_it_is_locked_applied_to_and_failed_over_to(self):
        image = bytearray(self.random_bytes(self.size))
        device = self.loop_device(bytes(image))
        service = self.service("--disk-dir", "/dev")
        service.start_group(f"vda,disk={device}")
        again = service.ctl("start", "vm2", "--mode", "secondary", "--volume", f"vda,disk={device}")
        self.assert_refused(again, "FAILED_PRECONDITION", "Block device is in use by internal backup job")
        markers = self.dir / "service.data" / "devices"
        self.assertIn(f"{device}, device loop/backing_file {self.dir}/backing", next(markers.glob("*.understudy")).read_text())

        agent = self.agent(service, f"vda,disk={self.disk('p', self.size, bytes(image))}").wait_connected()
        qemu_io(agent.uri(), "write -P 7 1M 3M", "write -z 8M 4M", "discard 16M 1M")
        image[1 * MIB : 4 * MIB] = b"\x07" * (3 * MIB)
        image[8 * MIB : 12 * MIB] = bytes(4 * MIB)
        image[16 * MIB : 17 * MIB] = bytes(MIB)
        agent.call("checkpoint", "vm1")
        lib.wait_for(
            lambda: service.status()["volumes"][0]["committed_unapplied_bytes"] == 0, "the epoch to be applied"
        )
        self.assert_file(pathlib.Path(device), bytes(image), "the device after the checkpoint")

        qemu_io(service.uri(), "write -P 9 20M 1M")
        image[20 * MIB : 21 * MIB] = b"\x09" * MIB
        service.kill()
        agent.kill()
        service.restart()
        service.call("stop", "vm1", "--failover")
        service.wait_stage("DONE")
        self.assert_file(pathlib.Path(device), bytes(image), "the device after the failover")
        lib.wait_for(lambda: not list(markers.glob("*.understudy")), "the marker to go")
        self.assertEqual(service.daemon.end(), 0)  # before the device goes


    def test_it_is_known_by_what_names_it_not_by_its_number(self):
        """As after a reboot that has numbered the disks the other way round: of loop devices the file below is the name."""
        image = self.random_bytes(self.size)
        first = self.loop_device(image, "first")
        second = self.loop_device(self.random_bytes(self.size), "second")
        link = self.dir / "by-id"
        link.symlink_to(first)
        service = self.service("--disk-dir", "/dev")
        service.start_group(f"vda,disk={link}")
        self.assert_export(service.uri(), image, "the first device")
        self.assertEqual(service.daemon.end(), 0)
        for device in (first, second):
            lib.run("losetup", "-d", device)
            lib.wait_for(lambda: lib.run("losetup", device, check=False).returncode != 0, "the device to be free")
        lib.run("losetup", first, self.dir / "second")
        lib.run("losetup", second, self.dir / "first")
        service.restart()
        self.assertEqual([error["reason"] for error in service.call_errors()], ["WRONG_DISK"])
        self.assertNotEqual(qemu_io(service.uri(), "read 0 4k", check=False).returncode, 0)
        self.assertEqual(service.daemon.end(), 0)
        link.unlink()
        link.symlink_to(second)
        service.restart()  # the error stays latched, as every one
        self.assert_export(service.uri(), image, "the first device under its new number")
        self.assertEqual(service.daemon.end(), 0)

    def assert_given_back(self, found, expected):
        """But for blocks that were cut, and those in which the file below keeps its map."""
        self.assertLessEqual(found, expected)
        self.assertGreaterEqual(found, expected - 64 * 1024)

    def test_zeroes_and_discards_give_the_devices_space_back(self):
        """A loop device passes on what it is told to the file below, so that file's blocks tell which command it was."""
        image = self.random_bytes(self.size).replace(bytes(4096), b"\x55" * 4096)
        device = self.loop_device(image)
        backing = self.dir / "backing"

        def allocated():
            lib.run("sync", device)
            lib.run("sync", backing)
            return backing.stat().st_blocks * 512

        service = self.service("--disk-dir", "/dev")
        service.start_group(f"vda,disk={device}")
        agent = self.agent(service, f"vda,size={self.size}").wait_connected()
        expected = bytearray(image)
        before = allocated()
        # A discard, zeroes that may become a hole, zeroes that must not, zeroes written as data, and odd sectors.
        requests = ["discard 1M 2M", "write -z -u 4M 2M", "write -z 8M 2M", "write -P 0 12M 1M", "write -z 16777728 1047552"]
        qemu_io(agent.uri(), *requests)
        for start, length in ((1 * MIB, 2 * MIB), (4 * MIB, 2 * MIB), (8 * MIB, 2 * MIB), (12 * MIB, MIB), (16777728, 1047552)):
            expected[start : start + length] = bytes(length)
        agent.call("checkpoint", "vm1")
        lib.wait_for(
            lambda: int(service.status()["volumes"][0]["committed_unapplied_bytes"]) == 0, "the epoch to be applied"
        )
        self.assert_file(pathlib.Path(device), bytes(expected), "the device")
        self.assert_given_back(before - allocated(), 8 * MIB)
        # And the secondary VM's own, after the failover.
        service.call("stop", "vm1", "--failover")
        service.wait_stage("DONE")
        before = allocated()
        qemu_io(service.uri(), "discard 24M 1M", "write -z -u 26M 1M")
        for start in (24 * MIB, 26 * MIB):
            expected[start : start + MIB] = bytes(MIB)
        self.assert_file(pathlib.Path(device), bytes(expected), "the device after the VM's discard")
        self.assert_given_back(before - allocated(), 2 * MIB)
        before = allocated()
        qemu_io(service.uri(), "write -z 28M 2M")
        expected[28 * MIB : 30 * MIB] = bytes(2 * MIB)
        self.assert_file(pathlib.Path(device), bytes(expected), "the device after the VM's zeroes")
        self.assertGreaterEqual(allocated(), before)
        self.assertEqual(service.daemon.end(), 0)

    def test_the_primary_devices_zeroes_give_space_back_only_if_they_may(self):
        device = self.loop_device(b"\x55" * self.size)
        backing = self.dir / "backing"

        def allocated():
            lib.run("sync", device)
            lib.run("sync", backing)
            return backing.stat().st_blocks * 512

        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', self.size, bytes(self.size))},initial=sync")
        agent = self.agent(service, f"vda,disk={device}").wait_connected()
        before = allocated()
        qemu_io(agent.uri(), "write -z 0 8M")
        self.assertGreaterEqual(allocated(), before)
        qemu_io(agent.uri(), "write -z -u 8M 4M", "discard 16M 4M")
        self.assert_given_back(before - allocated(), 8 * MIB)
        self.assertEqual(agent.daemon.end(), 0)  # before the device goes


if __name__ == "__main__":
    if shutil.which("losetup") and subprocess.run(["losetup", "-f"], capture_output=True).returncode != 0:
        print("skipped: no loop device to be had here (not root, or a container)")
        sys.exit(lib.SKIPPED)
    lib.run_tests("qemu-io", "losetup")

"""A block device as the secondary disk: its lock, writes, zeroes and discards, kill -9, failover. Needs root and a free loop device."""

import pathlib
import shutil
import subprocess
import sys

import lib
from lib import MIB, qemu_io


class BlockDeviceTest(lib.Case):
    size = 32 * MIB

    def loop_device(self, image):
        backing = self.disk("backing", self.size, image)
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
        self.assertEqual(service.daemon.end(), 0)  # before the device goes


if __name__ == "__main__":
    if shutil.which("losetup") and subprocess.run(["losetup", "-f"], capture_output=True).returncode != 0:
        print("skipped: no loop device to be had here (not root, or a container)")
        sys.exit(lib.SKIPPED)
    lib.run_tests("qemu-io", "losetup")

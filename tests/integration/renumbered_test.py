"""The disks of a pair after a reboot that has numbered the devices anew: each file system comes back
at its place, on another device. Its disks are known, whatever the file system; one that really is
another is not. Needs root, free loop devices and the kinds' mkfs."""

import pathlib
import shutil
import subprocess
import sys

import lib
from lib import MIB, qemu_io

SIZE = 4 * MIB
KINDS = ("xfs", "ext4", "btrfs")


def succeeds(*command):
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class RenumberedTest(lib.Case):
    def setUp(self):
        super().setUp()
        self.devices = {}  # by the place where each is mounted

    def make(self, kind, name):
        """An image with an empty file system."""
        known = pathlib.Path("/proc/filesystems").read_text().split()
        if kind not in known and not succeeds("modprobe", kind):
            self.skipTest(f"this kernel knows no {kind}")
        if shutil.which(f"mkfs.{kind}") is None:
            self.skipTest(f"not installed: mkfs.{kind}")
        image = self.disk(name, 512 * MIB)
        lib.run(f"mkfs.{kind}", "-q", image)
        return image

    def mount(self, *places):
        """Each as (place, image). What was there frees its device when the new ones have theirs."""
        old = {place: self.devices.pop(place, None) for place, _ in places}
        for place, device in old.items():
            if device is not None:
                lib.run("umount", place)
        for place, image in places:
            self.devices[place] = lib.run("losetup", "-f", "--show", image).stdout.strip()
            place.mkdir(exist_ok=True)
            if old[place] is None:
                self.before_removal.append(lambda place=place: self.unmount(place))
        for device in old.values():
            if device is not None:
                lib.run("losetup", "-d", device)
        for place, _ in places:
            lib.run("mount", self.devices[place], place)

    def unmount(self, place):
        succeeds("umount", place)
        lib.run("losetup", "-d", self.devices[place])

    def fill(self, path, byte):
        path.write_bytes(bytes([byte]) * SIZE)
        return path

    def end_both(self, *daemons):
        for daemon in daemons:
            self.assertEqual(daemon.daemon.end(), 0)

    def test_the_disks_are_known_on_another_device(self):
        for kind in KINDS:
            with self.subTest(kind):
                self.assert_known(kind)

    def assert_known(self, kind):
        image = self.make(kind, f"{kind}.img")
        place = self.dir / kind
        self.mount((place, image))
        secondary, primary = self.fill(place / "s.raw", 1), self.fill(place / "p.raw", 1)
        service = self.service(name=f"{kind}-service")
        service.call("open", "vm1", "--mode", "secondary", "--volume", f"vda,disk={secondary}")
        self.end_both(service)
        self.mount((place, image))
        service.restart()
        service.call("start", "vm1", "--mode", "secondary")
        agent = self.agent(service, f"vda,disk={primary}", name=f"{kind}-agent").wait_connected()
        qemu_io(agent.uri(), "write -P 7 0 1M")
        agent.call("checkpoint", "vm1")
        self.end_both(agent, service)

        self.mount((place, image))
        service.restart()
        agent.restart()
        agent.wait_connected()
        self.assertEqual(service.call_errors(), [])
        self.assertEqual(agent.daemon.events("primary_disk_changed"), [])
        qemu_io(agent.uri(), "write -P 8 1M 1M")
        agent.call("checkpoint", "vm1")
        agent.kill()
        service.kill()

        self.mount((place, image))
        service.restart()
        service.call("stop", "vm1", "--failover")
        service.wait_stage("DONE")
        self.end_both(service)
        expected = b"\7" * MIB + b"\x08" * MIB + b"\1" * (2 * MIB)
        self.assert_file(secondary, expected, f"the disk on {kind}")

    def assert_wrong(self, service):
        self.assertEqual([error["reason"] for error in service.call_errors()], ["WRONG_DISK"])
        self.assertEqual(service.daemon.end(), 0)

    def test_two_disks_that_have_changed_places_are_not(self):
        """The first files of two file systems: inode number, length and group are the same."""
        images = {self.dir / name: self.make("xfs", f"{name}.img") for name in ("a", "b")}
        self.mount(*images.items())
        disks = [self.fill(place / "disk.raw", number) for number, place in enumerate(images)]
        self.assertEqual(*[disk.stat().st_ino for disk in disks])
        service = self.service()
        service.start_group(*[f"{disk.parent.name},disk={disk}" for disk in disks])
        self.end_both(service)
        self.mount(*zip(images, reversed(images.values())))
        service.restart()
        self.assert_wrong(service)
        self.mount(*images.items())
        service.restart()
        self.assert_export(service.uri("a"), bytes(SIZE), "the first disk, back in its place")

    def test_a_copy_is_not(self):
        """Of the disk and its marker, on a fresh file system: the same inode number again."""
        place = self.dir / "place"
        self.mount((place, self.make("xfs", "first.img")))
        disk = self.fill(place / "disk.raw", 1)
        inode = disk.stat().st_ino
        service = self.service()
        service.start_group(f"vda,disk={disk}")
        self.end_both(service)
        aside = self.dir / "aside"
        shutil.copytree(place, aside)
        self.mount((place, self.make("xfs", "second.img")))
        for name in ("disk.raw", "disk.raw.understudy"):
            shutil.copy(aside / name, place / name)
        self.assertEqual(disk.stat().st_ino, inode)
        service.restart()
        self.assert_wrong(service)

    def test_a_copy_under_the_same_inode_number_is_not(self):
        """Restored from a backup: ext4 gives the old file's number to the next one that is made."""
        place = self.dir / "place"
        self.mount((place, self.make("ext4", "ext4.img")))
        disk = self.fill(place / "disk.raw", 1)
        inode = disk.stat().st_ino
        service = self.service()
        service.start_group(f"vda,disk={disk}")
        self.end_both(service)
        disk.unlink()
        self.fill(disk, 1)
        self.assertEqual(disk.stat().st_ino, inode)
        service.restart()
        self.assert_wrong(service)

    def test_tmpfs_and_a_restart(self):
        place = self.dir / "tmpfs"
        place.mkdir()
        lib.run("mount", "-t", "tmpfs", "tmpfs", place)
        self.before_removal.append(lambda: lib.run("umount", place))
        service = self.service()
        service.start_group(f"vda,disk={self.fill(place / 'disk.raw', 1)}")
        service.kill()
        service.restart()
        self.assertEqual(service.call_errors(), [])
        self.assert_export(service.uri(), b"\1" * SIZE, "the disk on tmpfs")


if __name__ == "__main__":
    if shutil.which("losetup") and not succeeds("losetup", "-f"):
        print("skipped: no loop device to be had here (not root, or a container)")
        sys.exit(lib.SKIPPED)
    lib.run_tests("qemu-io", "losetup", "mount", "umount")

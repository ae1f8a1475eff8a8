"""Where the secondary disk's file system can share blocks (XFS), an epoch's data reaches it without being written again, and
stays right when its segments are used again. Needs root, a free loop device and mkfs.xfs."""

import subprocess
import sys

import lib
from lib import MIB


class SharedBlocksTest(lib.Case):
    size = 32 * MIB

    def setUp(self):
        super().setUp()
        image = self.disk("xfs.img", 512 * MIB)
        self.mount = self.dir / "xfs"
        self.mount.mkdir()
        lib.run("mkfs.xfs", "-q", "-m", "reflink=1", image)
        lib.run("mount", "-o", "loop", image, self.mount)

    def tearDown(self):
        for daemon in self.daemons:
            if daemon.running:
                daemon.kill()
        lib.run("umount", self.mount)
        super().tearDown()

    def write_everything(self, agent, content):
        image = self.dir / "content"
        image.write_bytes(content)
        lib.nbdcopy(image, agent.uri())
        agent.call("checkpoint", "vm1")

    def test_applied_data_is_shared_and_outlives_its_segment(self):
        secondary = self.mount / "secondary.raw"
        with open(secondary, "wb") as file:
            file.truncate(self.size)
        service = self.service("--segment-bytes", "8M", data_dir=self.mount / "data")
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, f"vda,size={self.size}").wait_connected()
        for round_number in range(4):  # from the second on, into the segments of the one before the last
            content = self.rng.randbytes(self.size)
            self.write_everything(agent, content)
            lib.wait_for(
                lambda: int(service.status()["volumes"][0]["committed_unapplied_bytes"]) == 0, "the epoch to be applied"
            )
            applied = service.daemon.events("epochs_applied")[-1]
            self.assertGreater(int(applied["cloned"]), self.size * 3 // 4, applied)
            self.assert_file(secondary, content, f"the secondary disk in round {round_number + 1}")
            if round_number == 0:
                self.assertIn("shared", lib.run("filefrag", "-v", secondary).stdout)
        # The segments are written over; the disk keeps what it has.
        lib.nbdcopy(self.disk("other", self.size, self.rng.randbytes(self.size)), agent.uri())
        self.assert_file(secondary, content, "the secondary disk while its segments are used again")
        agent.kill()
        service.call("stop", "vm1", "--failover")
        service.wait_stage("DONE")
        self.assertEqual(service.daemon.end(), 0)
        lib.run("umount", self.mount)  # what is on the medium
        lib.run("mount", "-o", "loop", self.dir / "xfs.img", self.mount)
        self.assert_file(secondary, content, "the secondary disk after the failover")


if __name__ == "__main__":
    if subprocess.run(["losetup", "-f"], capture_output=True).returncode != 0:
        print("skipped: no loop device to be had here (not root, or a container)")
        sys.exit(lib.SKIPPED)
    lib.run_tests("mkfs.xfs", "mount", "nbdcopy", "filefrag")

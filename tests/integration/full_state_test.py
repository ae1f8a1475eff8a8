"""A full file system under the agent's state directory does not keep the VM from its disk, nor the standby from what was written.

The file system is a small tmpfs, full to the last page: the state directory beside an image on its own file system. Needs root.
"""

import os
import sys

import lib
from lib import MIB

SIZE = 8 * MIB
BLOCK = 64 * 1024


class FullStateTest(lib.Case):
    def setUp(self):
        super().setUp()
        self.small = self.dir / "small"
        self.small.mkdir()
        lib.run("mount", "-t", "tmpfs", "-o", "size=512k", "none", self.small)
        self.before_removal.append(lambda: lib.run("umount", self.small))
        self.image = bytearray(self.random_bytes(SIZE))
        self.disk("primary.raw", SIZE, self.image)
        self.standby = self.service()
        self.standby.start_group(f"vda,disk={self.disk('secondary.raw', SIZE)},initial=sync")
        self.host = self.agent(
            self.standby, f"vda,disk={self.dir / 'primary.raw'}", options=("--start", "--state-dir", self.small / "state")
        )
        self.host.wait_connected()
        self.checkpoint()

    def checkpoint(self):
        lib.wait_for(lambda: self.host.ctl("checkpoint", "vm1").status == 0, "a checkpoint of everything")
        self.assert_export(self.standby.uri(), bytes(self.image), "the standby")

    def fill_up(self):
        with open(self.small / "ballast", "ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass
        self.assertEqual(os.statvfs(self.small).f_bfree, 0)

    def write(self, offset):
        data = self.rng.randbytes(BLOCK)
        disk = self.host.connect()
        disk.write(offset, data)
        disk.flush()
        disk.close()
        self.image[offset : offset + BLOCK] = data

    def test_restarts_on_a_full_file_system(self):
        """An upgrade, a crash, and an upgrade again; the standby is away when the guest writes, so nothing but the state tells of it."""
        self.fill_up()
        self.assertEqual(self.host.daemon.end(), 0)
        self.host.restart().wait_connected()
        self.write(0)
        self.checkpoint()
        self.standby.kill()
        self.write(3 * MIB)
        self.host.kill()
        self.host.restart()
        self.write(5 * MIB)
        self.standby.restart()
        self.host.wait_connected()
        self.checkpoint()
        self.assertEqual(self.host.daemon.end(), 0)
        self.host.restart().wait_connected()
        self.checkpoint()

    def test_a_lost_log(self):
        """What is told, while there is no room for a write-intent log, and how it ends."""
        self.fill_up()
        self.host.kill()
        self.write_past_the_agent(6 * MIB)
        (self.small / "state" / "intent").unlink()
        self.fill_up()
        self.host.restart()
        (error,) = [error for error in self.host.call_errors() if error["operation"] == "state"]
        self.assertEqual(error["code"], "RESOURCE_EXHAUSTED")
        self.assertIn(str(self.small / "state"), error["message"])
        self.assertEqual(self.host.ctl("get-error", "vm1").status, 3)
        self.assertEqual(self.host.metric("understudy_intent_bytes"), SIZE)
        self.assertEqual(self.host.metric("understudy_intent_log_lost"), 1)
        self.host.wait_connected()
        self.write(MIB)
        self.checkpoint()
        (self.small / "ballast").unlink()
        lib.wait_for(lambda: (self.small / "state" / "intent").exists(), "the write-intent log to be made anew")
        lib.wait_for(
            lambda: not [e for e in self.host.call_errors() if e["operation"] == "state"], "the error to be over"
        )
        self.assertEqual(self.host.metric("understudy_intent_log_lost"), 0)

    def write_past_the_agent(self, offset):
        """As a run of which nothing is known any more."""
        data = self.rng.randbytes(BLOCK)
        with open(self.dir / "primary.raw", "r+b") as file:
            file.seek(offset)
            file.write(data)
        self.image[offset : offset + BLOCK] = data


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("skipped: needs root, to mount a tmpfs")
        sys.exit(lib.SKIPPED)
    lib.run_tests("mount")

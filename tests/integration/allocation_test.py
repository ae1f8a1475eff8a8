"""Disks that were allocated in advance stay so: zeroes that must not become a hole (NBD_CMD_FLAG_NO_HOLE, what a guest sends without
permission to unmap) take nothing from them, at the primary and at the secondary VM after a failover. Blocks are counted, not only
bytes compared."""

import os

import lib
from lib import MIB, qemu_io

SIZE = 8 * MIB


class AllocationTest(lib.Case):
    def preallocated(self, name):
        path = self.disk(name, SIZE)
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
        self.assertGreaterEqual(self.allocated(path), SIZE)
        return path

    def allocated(self, path):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        return path.stat().st_blocks * 512

    def assert_zeroes_keep_their_blocks(self, uri, disk):
        qemu_io(uri, "write -P 5 0 8M", "flush")
        qemu_io(uri, "write -z 0 3M", "write -z -f 3145728 512", "flush")
        self.assertGreaterEqual(self.allocated(disk), SIZE)
        expected = bytearray(b"\5" * SIZE)
        expected[0 : 3 * MIB + 512] = bytes(3 * MIB + 512)
        self.assert_file(disk, bytes(expected), "the disk after zeroes that must not be a hole")
        qemu_io(uri, "write -z -u 4M 1M", "discard 6M 1M", "flush")
        self.assertLess(self.allocated(disk), SIZE - 2 * MIB + 128 * 1024)
        qemu_io(uri, "write -z 4M 4M", "flush")
        self.assertGreaterEqual(self.allocated(disk), SIZE)  # of holes, too

    def test_at_the_primary_and_after_a_failover(self):
        primary, secondary = self.preallocated("p.raw"), self.disk("s.raw", SIZE)
        service = self.service()
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, f"vda,disk={primary}").wait_connected()
        self.assert_zeroes_keep_their_blocks(agent.uri(), primary)
        agent.call("checkpoint", "vm1")
        agent.kill()
        service.call("stop", "vm1", "--failover")
        service.wait_stage("DONE")
        self.assert_file(secondary, primary.read_bytes(), "the standby's disk")
        # What an apply or commit job zeroes is a hole: operations.md says how to allocate it again.
        with open(secondary, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
        self.assert_zeroes_keep_their_blocks(service.uri(), secondary)


if __name__ == "__main__":
    lib.run_tests("qemu-io")

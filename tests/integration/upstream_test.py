"""The unit tests of QEMU's replication driver (tests/unit/test-replication.c there), told again over NBD and gRPC.

Same names, image size, patterns, offsets and order. There a test writes to the secondary's local disk as the NBD server of the
primary's writes would; here those writes come from a primary: an agent in forward mode, which is what mode=primary is. There
the comparison is memcmp(...) <= 0 with a buffer that was filled with the pattern before the read, which hardly anything fails;
here it is equality of the whole volume, at every step. Where the expectation is another than upstream's, a comment that begins
with "Differs:" says why.
"""

import errno
import functools

import lib
import nbd
from lib import MIB

IMG_SIZE = 64 * MIB
HALF = IMG_SIZE // 2
RUNNING = "FAILED_PRECONDITION", "Block replication is running or done"
NOT_RUNNING = "FAILED_PRECONDITION", "Block replication is not running"
IN_USE = "FAILED_PRECONDITION", "Block device is in use by internal backup job"


@functools.cache
def pattern(byte, length):
    return bytes([byte]) * length


def filled(first_half, second_half=None):
    """The image with one pattern, or with one in each half; by MiB, which is several times faster than 64 of them at once."""
    second_half = first_half if second_half is None else second_half
    return [pattern(first_half, MIB)] * (HALF // MIB) + [pattern(second_half, MIB)] * (HALF // MIB)


class UpstreamTest(lib.Case):
    """Each test has both daemons; the one it is about is at first in stage NONE, like a driver that was opened."""

    def open_secondary(self, format_byte=0x11):
        """Its local disk is formatted with 0x11."""
        self.local_disk = self.dir / "secondary.raw"
        with open(self.local_disk, "wb") as file:
            file.writelines(filled(format_byte))
        self.secondary = self.service()
        volume = f"vda,disk={self.local_disk},top-id=secondary-id"
        self.assert_stage(self.secondary.call("open", "vm1", "--mode", "secondary", "--volume", volume), "NONE")
        self.top = self.secondary.connect(export="secondary-id")
        self.assertEqual(self.top.size, IMG_SIZE)

    def open_primary(self):
        self.primary = self.agent(self.secondary, f"vda,size={IMG_SIZE}", options=("--stall-timeout", "30s"))
        self.guest = self.primary.connect()
        self.assertEqual(self.guest.size, IMG_SIZE)

    def open_pair(self):
        """For the primary's tests: a standby that runs, and holds zeroes."""
        self.open_secondary(0)
        self.start(self.secondary, "secondary")
        self.open_primary()

    def start_pair(self):
        """For the secondary's tests: replication_start_all(REPLICATION_MODE_SECONDARY), and a primary to write with."""
        self.open_secondary()
        self.start(self.secondary, "secondary")
        self.open_primary()
        self.start(self.primary, "primary")

    def start(self, daemon, mode):
        self.assert_stage(daemon.call("start", "vm1", "--mode", mode), "RUNNING")

    def assert_stage(self, answer, stage, ignored=False):
        self.assertEqual((answer["stage"], answer["ignored"]), (stage, ignored), answer)

    def assert_eio(self, disk, *commands):
        """The request for the whole image; in two, because a server need not take one of 64 MiB."""
        for command in commands:
            for start in (0, HALF):
                with self.assertRaises(OSError) as caught:
                    disk.request(command, start, HALF, pattern(0, HALF) if command == nbd.WRITE else b"")
                self.assertEqual(caught.exception.errno, errno.EIO, (command, start))

    def assert_top(self, expected, what):
        """What the secondary VM reads, the whole volume."""
        self.assertEqual(self.top.size, len(expected) * MIB)
        for number, part in enumerate(expected):
            self.assert_bytes(self.top.read(number * MIB, MIB), part, f"{what}: MiB {number}")

    def assert_local_disk(self, expected, what):
        """The secondary disk itself."""
        self.assertEqual(self.local_disk.stat().st_size, len(expected) * MIB)
        with open(self.local_disk, "rb") as file:
            for number, part in enumerate(expected):
                self.assert_bytes(file.read(MIB), part, f"{what}: MiB {number}")

    def primary_writes(self, byte, offset, count):
        """The primary's write has arrived at the standby. Upstream writes to the secondary's local disk here."""
        for start in range(offset, offset + count, HALF):
            self.guest.write(start, pattern(byte, HALF))
        lib.wait_for(lambda: int(self.primary.status()["forward_queue_bytes"]) == 0, "everything received")

    def end_secondary(self):
        """Upstream's teardown: stop with a failover ("unblock top_bs"), close."""
        self.secondary.wait_stage("DONE")
        self.top.close()
        self.secondary.call("remove", "vm1")
        self.assertEqual(self.secondary.export_names(), [])

    def end_primary(self):
        """Upstream's teardown closes a driver that runs, which stops it. A group that runs is not removed; it is stopped first."""
        if self.primary.status()["stage"] == "RUNNING":
            self.assert_refused(self.primary.ctl("remove", "vm1"), *IN_USE)
            self.assert_stage(self.primary.call("stop", "vm1"), "DONE")
        self.guest.close()
        self.primary.call("remove", "vm1")

    # ---- /replication/primary ----

    def test_primary_read(self):
        self.open_pair()
        self.assert_eio(self.guest, nbd.READ)
        self.end_primary()

    def test_primary_write(self):
        self.open_pair()
        self.assert_eio(self.guest, nbd.WRITE, nbd.WRITE_ZEROES, nbd.TRIM)
        self.end_primary()
        self.secondary.call("checkpoint", "vm1")
        self.assert_top(filled(0), "nothing of the refused writes")

    def test_primary_start(self):
        self.open_pair()
        self.start(self.primary, "primary")
        self.assert_eio(self.guest, nbd.READ)  # a primary only forwards writes
        self.primary_writes(0x22, 0, IMG_SIZE)
        # Upstream ends here, with the bytes in the primary's child. Ours must be the standby's next checkpoint.
        self.assert_top(filled(0), "before the checkpoint")
        self.assertEqual(int(self.primary.call("checkpoint", "vm1")["bytes"]), IMG_SIZE)
        self.assert_top(filled(0x22), "after the checkpoint")
        self.assert_refused(self.primary.ctl("start", "vm1", "--mode", "primary"), *RUNNING)
        self.end_primary()

    def test_primary_stop(self):
        self.open_pair()
        self.start(self.primary, "primary")
        self.assert_stage(self.primary.call("stop", "vm1", "--failover"), "DONE")
        self.assert_stage(self.primary.call("stop", "vm1", "--failover"), "DONE", ignored=True)
        self.assert_eio(self.guest, nbd.WRITE)
        self.end_primary()

    def test_primary_do_checkpoint(self):
        self.open_pair()
        self.assert_stage(self.primary.call("checkpoint", "vm1"), "NONE", ignored=True)
        self.start(self.primary, "primary")
        # Differs: upstream's primary has nothing to do at a checkpoint; ours is the whole checkpoint, the standby's included.
        answer = self.primary.call("checkpoint", "vm1")
        self.assert_stage(answer, "RUNNING")
        self.assertEqual((int(answer["epoch"]), int(answer["bytes"])), (1, 0))
        self.assertEqual(int(self.secondary.status()["committed_epoch"]), 1)
        self.assert_top(filled(0), "after a checkpoint of nothing")
        self.end_primary()

    def test_primary_get_error_all(self):
        self.open_pair()
        self.assert_refused(self.primary.ctl("get-error", "vm1"), *NOT_RUNNING)
        self.start(self.primary, "primary")
        self.assertEqual(self.primary.call("get-error", "vm1")["errors"], [])
        self.end_primary()

    # ---- /replication/secondary ----

    def test_secondary_read(self):
        self.open_secondary()
        self.assert_eio(self.top, nbd.READ)
        self.secondary.call("remove", "vm1")

    def test_secondary_write(self):
        self.open_secondary()
        self.assert_eio(self.top, nbd.WRITE, nbd.WRITE_ZEROES, nbd.TRIM)
        self.secondary.call("remove", "vm1")
        self.assert_local_disk(filled(0x11), "nothing of the refused writes")

    def test_secondary_start(self):
        self.start_pair()
        self.assert_top(filled(0x11), "started")
        self.primary_writes(0x22, HALF, HALF)
        self.assert_top(filled(0x11), "the primary's writes are hidden")
        # Differs: redo, not undo. Upstream's disk has them now and the hidden disk what was there before.
        self.assert_local_disk(filled(0x11), "the secondary disk before the checkpoint")
        self.top.write(0, pattern(0x33, HALF))
        self.assert_top(filled(0x33, 0x11), "with the secondary VM's own write")
        self.assertIn(self.secondary.call("stop", "vm1", "--failover")["stage"], ("FAILOVER", "DONE"))
        self.end_secondary()

    def write_both_halves_and_stop(self):
        self.start_pair()
        self.primary_writes(0x22, HALF, HALF)
        self.assert_top(filled(0x11), "the primary's writes are hidden")
        self.top.write(0, pattern(0x33, HALF))
        self.assertIn(self.secondary.call("stop", "vm1", "--failover")["stage"], ("FAILOVER", "DONE"))

    def assert_failed_over(self, what):
        # Differs: upstream expects 0x22 in the second half, and does not notice that its own driver says 0x11 there, as it
        # must: the primary's writes since the last checkpoint are undone by a failover.
        self.assert_top(filled(0x33, 0x11), what)

    def test_secondary_stop(self):
        self.write_both_halves_and_stop()
        self.assert_failed_over("at once after the failover")
        self.secondary.wait_stage("DONE")
        self.assert_failed_over("in stage DONE")
        self.assert_local_disk(filled(0x33, 0x11), "the secondary disk after the active commit")
        self.end_secondary()

    def test_secondary_continuous_replication(self):
        self.write_both_halves_and_stop()
        # It ignores all requests from now on, while the commit job is at work and when it has ended.
        requests = (("start", "vm1", "--mode", "primary"), ("checkpoint", "vm1"), ("stop", "vm1", "--failover"))
        for request in requests:
            self.assertTrue(self.secondary.call(*request)["ignored"], request)
        self.assert_failed_over("with the requests ignored")
        term = self.secondary.wait_stage("DONE")["term"]
        for request in requests:
            self.assert_stage(self.secondary.call(*request), "DONE", ignored=True)
        self.assertEqual(self.secondary.status()["term"], term)
        self.assert_failed_over("in stage DONE")
        self.assert_local_disk(filled(0x33, 0x11), "the secondary disk after the active commit")
        self.end_secondary()

    def test_secondary_do_checkpoint(self):
        self.start_pair()
        self.primary_writes(0x22, HALF, HALF)
        self.assert_top(filled(0x11), "the primary's writes are hidden")
        answer = self.secondary.call("checkpoint", "vm1")
        self.assertEqual((int(answer["epoch"]), int(answer["bytes"])), (1, HALF))
        self.assert_top(filled(0x11, 0x22), "after the checkpoint")
        # Upstream ends here. Its driver's other half of a checkpoint: the secondary VM's own writes are dropped.
        self.top.write(0, pattern(0x33, HALF))
        self.assert_top(filled(0x33, 0x22), "with the secondary VM's own write")
        self.secondary.call("checkpoint", "vm1")
        self.assert_top(filled(0x11, 0x22), "after the second checkpoint")
        self.secondary.call("stop", "vm1", "--failover")
        self.secondary.wait_stage("DONE")
        self.assert_local_disk(filled(0x11, 0x22), "the secondary disk, as the checkpoint was")
        self.end_secondary()

    def test_secondary_get_error_all(self):
        self.open_secondary()
        self.assert_refused(self.secondary.ctl("get-error", "vm1"), *NOT_RUNNING)
        self.start(self.secondary, "secondary")
        self.assertEqual(self.secondary.call("get-error", "vm1")["errors"], [])
        self.assertIn(self.secondary.call("stop", "vm1", "--failover")["stage"], ("FAILOVER", "DONE"))
        # Differs: upstream reports an error during every failover, the healthy ones too.
        self.assertEqual(self.secondary.call("get-error", "vm1")["errors"], [])
        self.end_secondary()


if __name__ == "__main__":
    lib.run_tests()

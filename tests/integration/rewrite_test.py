"""Overwrites within one epoch at the size that is promised: 64 MiB, written 100 times through both daemons as they are shipped, take
at most three times 64 MiB of the data directory at every moment. At a sixteenth of it, and at random: tests/storage/room_test.cc.
"""

import threading

import lib
from lib import MIB, nbdcopy

TIMES = 100


class Watch(threading.Thread):
    """Until it is stopped: the most that the segment files take, and the most that the service says overlays take."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service = service
        self.allocated = []
        self.overlay = []
        self._end = threading.Event()

    def run(self):
        while not self._end.wait(0.01):
            try:
                files = (self.service.data_dir / "segments").iterdir()
                self.allocated.append(sum(512 * file.stat().st_blocks for file in files))
            except FileNotFoundError:
                continue  # a file went in between
            if len(self.allocated) % 20 == 0:
                self.overlay.append(self.service.ctl("status", "vm1").object["overlay_bytes"])

    def stop(self):
        self._end.set()
        self.join()


class RewriteTest(lib.Case):
    size = 64 * MIB

    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.standby.start_group(f"vda,disk={self.disk('s', self.size)}")
        options = ("--start", "--on-full", "block")  # however long a sync takes here
        self.host = self.agent(self.standby, f"vda,size={self.size}", options=options).wait_connected()

    def rewrite(self):
        """Writes everything TIMES times, each time with other bytes than the time before; returns the last ones, which come only once."""
        image = self.rng.randbytes(self.size)
        images = [image[4096 * i :] + image[: 4096 * i] for i in range(4)]
        sources = [self.disk(f"source{i}", self.size, image) for i, image in enumerate(images)]
        for turn in range(1, TIMES):
            nbdcopy(sources[turn % 3], self.host.uri())
        image = images[3]
        nbdcopy(sources[3], self.host.uri())
        lib.wait_for(lambda: self.host.status()["forward_queue_bytes"] == 0, "everything received")
        return image

    def test_64_mib_written_100_times_take_192_mib_at_most(self):
        watch = Watch(self.standby)
        watch.start()
        image = self.rewrite()
        watch.stop()
        self.assertEqual(self.host.metric("understudy_io_bytes_total", op="write"), TIMES * self.size)
        self.assertGreater(len(watch.overlay), 20, "looks at the status")
        allocated, overlay = max(watch.allocated), max(watch.overlay)
        print(f"at most {allocated / MIB:.1f} MiB allocated, overlay_bytes {overlay / MIB:.1f} MiB", flush=True)
        self.assertTrue(self.size <= overlay <= 3 * self.size, overlay)
        self.assertTrue(self.size <= allocated <= 3 * self.size, allocated)
        self.assertEqual(self.standby.status()["committed_epoch"], 0, "in one epoch")
        self.assertEqual(self.standby.ctl("get-error", "vm1").status, 0)
        self.host.call("checkpoint", "vm1")
        self.assert_export(self.standby.uri(), image, "after the checkpoint")


if __name__ == "__main__":
    lib.run_tests("nbdcopy")

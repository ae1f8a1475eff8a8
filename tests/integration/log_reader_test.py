"""Whoever reads the log stops reading, or goes away: the guest, calls, metrics, new connections and SIGTERM do not wait for it."""

import contextlib
import time

import lib
import nbd
from lib import MIB

# Far above what a write takes on a busy machine, far below what a person calls a hang.
P99_MAX_SECONDS = 1
# NBD has names of up to 4096 bytes; each makes a line of its length.
UNKNOWN_EXPORT = "x" * 3800


class LogTest(lib.Case):
    size = 4 * MIB

    def setUp(self):
        super().setUp()
        image = self.random_bytes(self.size)
        self.standby = lib.Service(self)
        self.host = lib.Agent(self, self.standby, f"vda,disk={self.disk('p', self.size, image)}")
        self.ends = {end: lib.LogReader(self, end.log_path) for end in (self.standby, self.host)}
        self.expected = bytearray(image)
        self.spawn(self.standby)
        self.standby.daemon.wait_ready()
        self.standby.start_group(f"vda,disk={self.disk('s', self.size, image)}")
        self.spawn(self.host)
        self.host.daemon.wait_ready()
        self.host.wait_connected()

    def spawn(self, end):
        end.spawn(stderr=self.ends[end].pipe)

    def log_lines(self, end, count):
        for _ in range(count):
            with contextlib.suppress(ConnectionRefusedError):
                nbd.Disk(end.nbd_socket, UNKNOWN_EXPORT)

    def dropped(self, end):
        return end.metric("understudy_log_lines_dropped_total")

    def write(self, guest, count=300):
        """Returns the p99 of the time that a write takes."""
        times = []
        for _ in range(count):
            offset = 4096 * self.rng.randrange(self.size // 4096)
            data = self.random_piece(4096)
            begun = time.monotonic()
            guest.write(offset, data)
            times.append(time.monotonic() - begun)
            self.expected[offset : offset + 4096] = data
        return sorted(times)[count * 99 // 100]

    def assert_all_work(self, guest, what):
        self.assertLess(self.write(guest), P99_MAX_SECONDS, what)
        self.host.call("checkpoint", "vm1")
        self.assert_bytes(self.standby.connect().read(), self.expected, what)
        for end in self.ends:
            self.assertEqual(end.call_errors(), [], what)

    def test_a_reader_that_stands_still(self):
        guest = self.host.connect()
        self.assert_all_work(guest, "while the log is read")
        for end, reader in self.ends.items():
            reader.pause()
            self.log_lines(end, 10)  # the pipe is full
        self.assert_all_work(guest, "the pipe is full")
        for end in self.ends:
            self.log_lines(end, MIB // len(UNKNOWN_EXPORT) + 10)
            self.assertGreater(self.dropped(end), 0, f"{end.name}: the queue is full")
        self.assert_all_work(guest, "the queue is full")

        # A new agent comes up and is let in, though neither end can say so.
        self.host.kill()
        lost = self.dropped(self.standby)
        self.spawn(self.host)
        lib.wait_for(lambda: self.host.ctl("status", "vm1").status == 0, "the agent to answer")
        self.host.wait_connected()
        self.assertEqual(self.host.ctl("sync", "vm1", "--wait").status, 0)
        self.assert_all_work(self.host.connect(), "a new agent, while nobody reads")
        self.assertGreater(self.dropped(self.standby), lost, "the new stream was not logged")

        for reader in self.ends.values():
            reader.resume()
        lost = self.dropped(self.standby)
        told = lib.wait_for(lambda: self.standby.daemon.events("log_lines_dropped"), "the line about the lost ones")
        self.assertEqual(sum(int(line["lines"]) for line in told), lost)
        lib.wait_for(lambda: self.host.daemon.events("agent_ready"), "the new agent's lines, which were only late")
        before = self.standby.daemon.log().count(" export_unknown ")
        self.log_lines(self.standby, 1)
        lib.wait_for(lambda: self.standby.daemon.log().count(" export_unknown ") > before, "new lines")
        self.assertEqual(self.dropped(self.standby), lost)

        for end, reader in reversed(list(self.ends.items())):
            reader.pause()
            self.log_lines(end, 10)
            self.assertEqual(end.daemon.end(), 0, f"SIGTERM of {end.name}")

    def test_a_reader_that_goes_away(self):
        guest = self.host.connect()
        for end, reader in self.ends.items():
            reader.abandon()
            self.log_lines(end, 3)
            lib.wait_for(lambda end=end: self.dropped(end) >= 3, f"{end.name} to count what it could not write")
        self.assert_all_work(guest, "without a reader")
        for end in reversed(self.ends):
            self.assertEqual(end.daemon.end(), 0, f"SIGTERM of {end.name}")


if __name__ == "__main__":
    lib.run_tests()

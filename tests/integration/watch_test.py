"""Watch with real daemons: nothing is lost while watchers are cut off, gaps are said, and the live view on a terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import lib
from lib import CTL, MIB, qemu_io
from watcher import Watcher


class WatchTest(lib.Case):
    size = 4 * MIB

    def start_pair(self, *options):
        self.standby = self.service(*options)
        self.standby.start_group(f"vda,disk={self.disk('s', self.size)}")
        self.host = self.agent(self.standby, f"vda,disk={self.disk('p', self.size)}").wait_connected()

    def watch(self, daemon, *words, **options):
        return Watcher(self, daemon.address, *words, **options)

    def test_fifty_checkpoints_are_told_once_each_while_the_watcher_is_killed_again_and_again(self):
        self.start_pair()
        watcher = self.watch(self.standby, "vm1", "--refresh", "0")
        watcher.wait_kind("CURRENT")
        seen, committed = [], []
        for i in range(50):
            if i % 2:
                qemu_io(self.host.uri(), f"write -q -P {i} {i * 4096} 4096")
            committed.append(int(self.host.call("checkpoint", "vm1")["epoch"]))
            if i % 7 == 3:
                # Whatever it has printed counts: its token is that of the last line that came out whole.
                watcher.kill()
                seen += watcher.objects
                token = [o["resume_token"] for o in seen if o["resume_token"]][-1]
                watcher = self.watch(self.standby, "vm1", "--refresh", "0", "--resume", token)
        watcher.wait(lambda o: o["epoch"] == committed[-1], "the last checkpoint")
        self.assertEqual(watcher.interrupt(), 0)
        seen += watcher.objects
        self.assertEqual(committed, list(range(committed[0], committed[0] + 50)))
        told = [int(o["epoch"]) for o in seen if o["kind"] == "CHECKPOINT"]
        self.assertEqual(told, committed)
        numbers = [int(o["number"]) for o in seen if int(o["number"])]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))), "no event is left out or doubled")
        self.assertNotIn("GAP", [o["kind"] for o in seen])

    def test_one_watcher_lives_through_a_restart_and_is_told_of_the_gap(self):
        self.start_pair()
        watcher = self.watch(self.standby)
        watcher.wait_kind("CURRENT")
        self.host.call("checkpoint", "vm1")
        watcher.wait_kind("CHECKPOINT", epoch=1)
        self.standby.kill()
        self.standby.restart()
        self.host.wait_connected()
        gap = watcher.wait_kind("GAP")
        self.assertIn("another run", gap["detail"])
        after = lambda: watcher.objects[watcher.objects.index(gap):]
        lib.wait_for(lambda: "CURRENT" in [o["kind"] for o in after()], "the state after the gap")
        snapshot = next(o for o in after() if o["kind"] == "SNAPSHOT")
        self.assertEqual(int(snapshot["status"]["committed_epoch"]), 1)
        self.host.call("checkpoint", "vm1")
        watcher.wait_kind("CHECKPOINT", epoch=2)
        self.assertEqual(watcher.interrupt(), 0)
        # An orderly end is no other, and its last words say so.
        late = self.watch(self.standby, "--resume", watcher.token)
        late.wait_kind("CURRENT")
        begun = time.monotonic()
        self.assertEqual(self.standby.daemon.end(), 0)
        self.assertLess(time.monotonic() - begun, 10)
        self.standby.restart()
        late.wait_kind("GAP")

    def test_a_failover_is_seen_stage_by_stage(self):
        self.start_pair()
        qemu_io(self.host.uri(), "write -q -P 1 0 1M")
        self.host.call("checkpoint", "vm1")
        qemu_io(self.standby.uri(), "write -q -P 2 1M 1M")
        watcher = self.watch(self.standby, "vm1")
        watcher.wait_kind("CURRENT")
        self.standby.call("stop", "vm1", "--failover")
        watcher.wait_kind("STAGE", stage="DONE")
        watcher.wait_kind("JOB_ENDED", job="commit")
        stages = [o for o in watcher.objects if o["kind"] == "STAGE"]
        self.assertEqual([o["stage"] for o in stages], ["FAILOVER", "DONE"])
        self.assertEqual({o["term"] for o in stages}, {self.standby.status()["term"]})
        lost = watcher.wait_kind("DISCONNECTED")
        self.assertIn("the standby has taken over", lost["detail"])
        self.standby.call("remove", "vm1")
        self.assertIsNone(watcher.wait_kind("REMOVED", group="vm1")["status"])

    def test_a_prepared_epoch_is_told_when_it_is_committed_and_once(self):
        self.start_pair()
        qemu_io(self.host.uri(), "write -q -P 1 0 1M")
        watchers = [self.watch(daemon, "--refresh", "0") for daemon in (self.standby, self.host)]
        for watcher in watchers:
            watcher.wait_kind("CURRENT")
        self.assertEqual(int(self.host.call("checkpoint", "vm1", "--prepare")["epoch"]), 1)
        for watcher in watchers:
            self.assertNotIn("CHECKPOINT", watcher.kinds())
        self.standby.call("checkpoint", "vm1", "--commit", 1)
        self.standby.call("checkpoint", "vm1", "--commit", 1)
        self.host.call("checkpoint", "vm1")
        for watcher in watchers:
            watcher.wait_kind("CHECKPOINT", epoch=2)
            self.assertEqual([o["epoch"] for o in watcher.objects if o["kind"] == "CHECKPOINT"], [1, 2])

    def test_the_agent_tells_of_its_connection_and_of_being_fenced(self):
        self.start_pair()
        watcher = self.watch(self.host)
        self.assertEqual(watcher.wait_kind("SNAPSHOT")["status"]["mode"], "PRIMARY")
        watcher.wait_kind("CURRENT")
        self.host.call("checkpoint", "vm1")
        watcher.wait_kind("CHECKPOINT", epoch=1)
        self.standby.kill()
        watcher.wait_kind("DISCONNECTED")
        self.standby.restart()
        watcher.wait_kind("CONNECTED")
        self.standby.call("stop", "vm1", "--failover")
        watcher.wait_kind("FENCED")
        events = [o["kind"] for o in watcher.objects if int(o["number"])]
        # The error is latched when the stream ends, before the agent has stored that it is fenced.
        self.assertEqual(events, ["CHECKPOINT", "DISCONNECTED", "CONNECTED", "DISCONNECTED", "ERROR", "FENCED"])
        self.assertEqual(watcher.wait_kind("ERROR")["error"]["reason"], "FENCED")

    def test_figures_are_refreshed_and_an_idle_group_is_silent(self):
        self.start_pair("--apply-bytes-per-second", "256K")
        watcher = self.watch(self.standby, "vm1", "--refresh", "100ms")
        watcher.wait_kind("CURRENT")
        qemu_io(self.host.uri(), "write -q -P 1 0 1M")
        watcher.wait(lambda o: o["kind"] == "REFRESH" and int(o["status"]["received_bytes"]) == MIB, "the bytes received")
        self.host.call("checkpoint", "vm1")
        watcher.wait(
            lambda o: o["kind"] == "REFRESH" and any(0 < int(j["done_bytes"]) < MIB for j in o["status"]["jobs"]),
            "the apply job at work",
        )
        watcher.wait_kind("JOB_ENDED", job="apply")
        time.sleep(1)  # what is due after the job
        before = len(watcher.objects)
        time.sleep(1)
        self.assertEqual(len(watcher.objects), before, watcher.objects[before:])

    def test_who_cannot_be_reached_and_what_is_refused_end_with_one(self):
        nobody = Watcher(self, f"unix:{self.dir}/nobody", timeout="1s")
        self.assertEqual(nobody.process.wait(lib.PATIENCE_SECONDS), 1)
        self.assertIn("error: UNAVAILABLE: cannot reach", nobody.process.stderr.read())
        standby = self.service()
        unknown = Watcher(self, standby.address, "vm7")
        self.assertEqual(unknown.process.wait(lib.PATIENCE_SECONDS), 1)
        self.assertIn("error: NOT_FOUND", unknown.process.stderr.read())

    # ---- for people ---------------------------------------------------------------------------------------------------------------

    def test_without_a_terminal_it_prints_a_line_per_event(self):
        self.start_pair()
        log = self.dir / "watch.txt"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [CTL, "--server", self.standby.address, "watch", "vm1"], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.addCleanup(process.kill)
        lib.wait_for(lambda: "SNAPSHOT" in log.read_text(), "the first line")
        self.host.call("checkpoint", "vm1")
        lib.wait_for(lambda: "JOB_ENDED" in log.read_text(), "the checkpoint and its job")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(lib.PATIENCE_SECONDS), 0)
        text = log.read_text()
        stamp = r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
        self.assertRegex(text, stamp + r"SNAPSHOT +vm1: SECONDARY, RUNNING, ASSUMED, connected, epoch 1 open, committed none yet")
        self.assertRegex(text, stamp + r"CHECKPOINT +vm1: epoch 1 committed, 0 B in ")
        self.assertRegex(text, stamp + r"JOB_ENDED +vm1: apply job ended$")
        self.assertNotIn("\x1b", text)

    def test_the_live_view_is_drawn_in_place_and_survives_the_daemon(self):
        self.start_pair("--apply-bytes-per-second", "256K")
        screen = Screen(self, CTL, "--server", self.standby.address, "watch")
        screen.wait("live; Ctrl-C ends")
        screen.wait("vm1: SECONDARY, RUNNING")
        screen.wait("sync +ASSUMED, connected")
        qemu_io(self.host.uri(), "write -q -P 1 0 2M")
        self.host.call("checkpoint", "vm1")
        screen.wait("epoch +2 open")
        screen.wait("received +2 MiB in .* operations, .*/s")
        screen.wait(r"apply +\[#+\.+\] \d+ %, .* of 2 MiB, .*/s")
        screen.wait("CHECKPOINT +vm1: epoch 1 committed, 2 MiB in ")
        screen.resize(9, 60)
        screen.wait("GROUP +STAGE +SYNC")  # no room for all of it
        screen.resize(40, 140)
        self.standby.kill()
        screen.wait("CONNECTION LOST, trying again")
        self.standby.restart()
        self.host.wait_connected()
        screen.wait("live; Ctrl-C ends")
        screen.wait("GAP +events may be missing here")
        self.assertEqual(screen.interrupt(), 0)
        self.assertIn("vm1: SECONDARY, RUNNING", screen.text(), "the last view stays")
        self.assertTrue(screen.cursor_shown)


class Screen:
    """A program on a terminal of its own, and what a person sees there: as much of an emulator as the view needs."""

    def __init__(self, case, *command):
        self.rows, self.columns = 40, 140
        self.lines, self.row, self.column, self.cursor_shown = [""], 0, 0, True
        self.master, slave = pty.openpty()
        self._set_size()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        case.addCleanup(self._close)
        self._pending = ""

    def _set_size(self):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))

    def resize(self, rows, columns):
        self.rows, self.columns = rows, columns
        self._set_size()

    def _close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def _pump(self):
        while select.select([self.master], [], [], 0.02)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the program has ended
                break
            self._pending += data.decode()
        self._draw()

    def _draw(self):
        token = re.compile(r"\x1b\[(\??\d*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")
        while match := token.match(self._pending):
            self._pending = self._pending[match.end():]
            self._apply(match)

    def _apply(self, match):
        text, (argument, command) = match.group(), match.groups()
        if text == "\r":
            self.column = 0
        elif text == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
        elif command is None:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + text + line[self.column + len(text):]
            self.column += len(text)
        elif command == "A":
            self.row -= int(argument)
            assert self.row >= 0, "it went above its own view"
        elif command == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif command == "J" and argument == "2":
            self.lines = [""]
        elif command == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1:]
        elif command == "H":
            self.row = self.column = 0
        elif argument == "?25":
            self.cursor_shown = command == "h"
        else:
            raise AssertionError(f"unknown to this terminal: {text!r}")

    def text(self):
        self._pump()
        return "\n".join(self.lines)

    def wait(self, pattern):
        try:
            lib.wait_for(lambda: re.search(pattern, self.text()), f"{pattern!r} on the screen")
        except AssertionError as failure:
            raise AssertionError(f"{failure}; it shows\n{self.text()}") from None
        shown = self.text().split("\n")
        assert len(shown) <= self.rows and all(len(line) <= self.columns for line in shown), shown

    def interrupt(self):
        """Ctrl-C on the keyboard; returns the exit status."""
        os.write(self.master, b"\x03")
        status = self.process.wait(lib.PATIENCE_SECONDS)
        self.text()
        return status


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", at_once=2)

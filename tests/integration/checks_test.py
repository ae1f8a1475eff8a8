"""What is refused, with code, text and reason, in the order of docs/semantics.md#checks, and nothing left behind.

Each row is asked for twice (QEMU aborts on the second try), again after a restart of the service, and then, with its cause gone, the same
call succeeds. The rows of the write stream follow: what ends it, and that nothing of the frame was applied.
"""

import base64
import collections
import fcntl
import itertools
import os
import shutil
import time

import lib
import stub
from nbd import Disk, errno_of
from lib import MIB

SIZE = MIB
NOT_SAME = "Active disk, hidden disk, secondary disk's length are not the same"
IN_USE = "Block device is in use by internal backup job"

# One row of the table: what it puts into a good call, what must be true besides, and the refusal. `text` is how it begins.
Row = collections.namedtuple("Row", "name group call volume code text reason holds", defaults=("", None))


class StartChecksTest(lib.Case):
    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.standby.start_group(f"vda,disk={self.disk('other.raw', SIZE)},top-id=taken", group="other")
        self.disk("declared.raw", SIZE)
        self.standby.call("open", "declared", "--mode", "secondary", "--volume", f"vda,disk={self.dir}/declared.raw")
        self.good = self.disk("good.raw", SIZE)
        self.locked = self.disk("locked.raw", SIZE)
        self.lock_file = None
        os.symlink("/etc/hostname", self.dir / "link.raw")
        os.mkdir(self.dir / "directory.raw")

    def rows(self):
        """The table, in its order. An empty `group`: "vm1"."""
        here = str(self.dir)
        bad = "INVALID_ARGUMENT"
        wrong = "FAILED_PRECONDITION"
        disk = lambda path: {"disk_path": path}  # noqa: E731
        return [
            Row("mode missing", "", {"mode": 0}, {}, bad, "Missing the option mode"),
            Row("mode unknown", "", {"mode": 7}, {}, bad, "The option mode's value should be primary or secondary"),
            Row("top-id for a primary", "", {"mode": 1}, {}, bad, "The primary side does not support option top-id"),
            Row("top-id missing", "", {}, {"top_id": ""}, bad, "Missing the option top-id"),
            Row("name of the group", "Vm1", {}, {}, bad, 'group name "Vm1"'),
            Row("name of the group, end", "vm1.", {}, {}, bad, 'group name "vm1."'),
            Row("name of the group, length", "g" * 64, {}, {}, bad, "group name"),
            Row("name of a volume", "", {}, {"name": "-a"}, bad, 'volume name "-a"'),
            Row("name of a volume, length", "", {}, {"name": "v" * 64}, bad, "volume name"),
            Row("name of a top-id", "", {}, {"top_id": "/a"}, bad, 'top-id "/a"'),
            Row("name of a top-id, length", "", {}, {"top_id": "t" * 128}, bad, "top-id"),
            Row("path outside", "", {}, disk("/etc/hostname"), "PERMISSION_DENIED", "volume vda: /etc/hostname"),
            Row("path outside by a link", "", {}, disk(f"{here}/link.raw"), "PERMISSION_DENIED", f"volume vda: {here}/link.raw"),
            Row("disk missing", "", {}, disk(f"{here}/missing.raw"), "NOT_FOUND", f"volume vda: secondary disk {here}/missing.raw"),
            Row("disk is a directory", "", {}, disk(f"{here}/directory.raw"), bad, f"volume vda: {here}/directory.raw: Is a directory"),
            Row("disk of a running volume", "", {}, disk(f"{here}/other.raw"), wrong, IN_USE),
            Row("disk of a declared volume", "", {}, disk(f"{here}/declared.raw"), wrong, IN_USE),
            Row("disk of another process", "", {}, disk(f"{here}/locked.raw"), wrong, IN_USE, "", "lock"),
            Row("size", "", {}, {"size_bytes": 2 * SIZE}, wrong, NOT_SAME),
            Row("size in sectors", "", {}, {"size_bytes": 1000}, bad, "volume vda: size 1000 is not a positive multiple of 512"),
            Row("top-id taken", "", {}, {"top_id": "taken"}, wrong, "No top_bs or it is invalid"),
            Row("top-id is an export name", "", {}, {"top_id": "other/vda"}, wrong, "No top_bs or it is invalid"),
        ]  # fmt: skip

    def request(self, *rows):
        volume = {"name": "vda", "top_id": "vm1/vda", "disk_path": str(self.good)}
        request = {"group": "vm1", "mode": 2}
        for row in rows:
            request |= row.call
            request["group"] = row.group or request["group"]
            volume |= row.volume
        return request | {"volumes": [volume]}

    def start(self, request, *rows, method="Start"):
        """Asks with the causes of the rows in place."""
        with open(self.locked, "rb+") as file:
            if any(row.holds == "lock" for row in rows):
                fcntl.lockf(file, fcntl.LOCK_EX)
            return stub.call(self.standby.address, method, **request)

    def assert_row(self, row, end):
        self.assertEqual((end.code, end.reason), (row.code, row.reason), end)
        self.assertTrue(end.message.startswith(row.text), end)

    def left_behind(self):
        """Everything that a refused call could have changed."""
        files = {path.name: path.stat().st_size for path in self.dir.iterdir() if path.suffix in (".raw", ".understudy")}
        groups, _ = stub.call(self.standby.address, "GetStatus")
        for group in groups["groups"]:
            group["errors"], group["lag_seconds"], group["disconnected_seconds"] = [], 0, 0
        return files, groups, self.standby.export_names()

    def test_each_row(self):
        before = self.left_behind()
        for row in self.rows():
            with self.subTest(row.name):
                request = self.request(row)
                for method in ("Start", "Open", "Start"):
                    self.assert_row(row, self.start(request, row, method=method)[1])
                self.assertEqual(self.left_behind(), before)
        self.standby.kill()
        self.standby.restart()
        for row in self.rows():
            with self.subTest(row.name, after="a restart"):
                self.assert_row(row, self.start(self.request(row), row)[1])
        self.assertEqual(self.left_behind()[2], before[2])

    def test_the_same_call_succeeds_when_the_cause_is_gone(self):
        """Where the call itself is right: the world was wrong."""
        for name in (
            "path outside by a link", "disk missing", "disk of a running volume", "disk of a declared volume",
            "disk of another process", "size", "top-id taken",
        ):  # fmt: skip
            for restarted in (False, True):
                with self.subTest(name, restarted=restarted):
                    (row,) = (row for row in self.rows() if row.name == name)
                    self.assert_row(row, self.start(self.request(row), row)[1])
                    if restarted:
                        self.standby.kill()
                        self.standby.restart()
                    self.end_cause(name)
                    answer, end = self.start(self.request(row))
                    self.assertEqual((end.code, answer and answer["stage"]), ("OK", "STAGE_RUNNING"), end)
                self.tearDown()
                self.setUp()

    def end_cause(self, name):
        if name == "path outside by a link":
            os.unlink(self.dir / "link.raw")
            self.disk("link.raw", SIZE)
        elif name == "disk missing":
            self.disk("missing.raw", SIZE)
        elif name == "size":
            os.truncate(self.good, 2 * SIZE)
        elif name == "disk of a declared volume":
            self.standby.call("remove", "declared")
        elif name in ("disk of a running volume", "top-id taken"):
            self.end("other")

    def end(self, group):
        self.standby.call("stop", group)
        self.standby.call("remove", group)

    def test_the_rows_are_checked_in_their_order(self):
        """Two causes at once: the earlier row answers."""
        tried = 0
        for first, second in itertools.combinations(self.rows(), 2):
            if first.call and second.call or set(first.volume) & set(second.volume) or first.group and second.group:
                continue  # one call cannot be wrong in both ways
            if first.name == "top-id for a primary" and second.volume.get("top_id") == "":
                continue
            with self.subTest(first=first.name, second=second.name):
                self.assert_row(first, self.start(self.request(first, second), first, second)[1])
            tried += 1
        self.assertGreater(tried, 50)
        answer, end = self.start(self.request())
        self.assertEqual((end.code, answer["stage"]), ("OK", "STAGE_RUNNING"), end)

    def test_a_disk_that_was_replaced(self):
        """WRONG_DISK: at Start, and after a restart of a running group. With the right disk back everything goes on."""
        aside = self.dir / "aside.raw"
        self.standby.call("open", "vm1", "--mode", "secondary", "--volume", f"vda,disk={self.good}")
        os.rename(self.good, aside)
        shutil.copy(aside, self.good)
        _, end = stub.call(self.standby.address, "Start", group="vm1", mode=2)
        self.assertEqual((end.code, end.reason), ("FAILED_PRECONDITION", "WRONG_DISK"), end)
        self.assertIn(str(self.good), end.message)
        self.assertEqual(self.standby.status()["stage"], "NONE")
        os.rename(aside, self.good)
        self.standby.call("start", "vm1", "--mode", "secondary")

        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            guest.write(0, b"\1" * 4096)
            guest.flush()
        self.standby.kill()
        os.rename(self.good, aside)
        shutil.copy(aside, self.good)
        self.standby.restart()
        status = self.standby.status()
        self.assertEqual([error["reason"] for error in status["errors"]], ["WRONG_DISK"], status)
        answer = self.standby.ctl("get-error", "vm1")
        self.assertEqual((answer.status, answer.object["errors"][0]["reason"]), (3, "WRONG_DISK"), answer.error)
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            self.assertEqual(errno_of(guest.read, 0, 512), "EIO")
            self.assertEqual(errno_of(guest.write, 0, bytes(512)), "EIO")
        for call in (("checkpoint", "vm1"), ("stop", "vm1")):
            self.assert_refused(self.standby.ctl(*call), "FAILED_PRECONDITION", "put the old one back; with the disk there repeat the call")
        os.rename(aside, self.good)
        # No restart: the call opens it.
        self.assertIn(self.standby.call("stop", "vm1", "--failover")["stage"], ("FAILOVER", "DONE"))
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            self.assertEqual(guest.read(0, 4096), b"\1" * 4096)
        self.standby.wait_stage("DONE")
        self.assertEqual(self.standby.call_errors(), [])

    def test_a_disk_that_is_gone_for_good(self):
        """The group can be got rid of: failover, which keeps everything for a retry, then remove --force."""
        self.standby.call("open", "vm1", "--mode", "secondary", "--volume", f"vda,disk={self.good}")
        self.standby.call("start", "vm1", "--mode", "secondary")
        self.standby.kill()
        os.unlink(self.good)
        self.standby.restart()
        self.assert_refused(self.standby.ctl("remove", "vm1", "--force"), "FAILED_PRECONDITION", "Block device is in use")
        self.standby.call("stop", "vm1", "--failover")
        self.standby.wait_stage("FAILOVER_FAILED")
        (error,) = [e for e in self.standby.call_errors() if e["operation"] == "commit"]
        self.assertIn("I/O error occurred", error["message"])
        self.assertIn(str(self.good), error["message"])
        self.assert_refused(self.standby.ctl("stop", "vm1", "--failover"), "NOT_FOUND", "with the disk there repeat the call")
        self.standby.call("remove", "vm1", "--force")
        self.assert_refused(self.standby.ctl("status", "vm1"), "NOT_FOUND", "not open here")


class ExpectedTest(lib.Case):
    """Any RPC with another incarnation or term: FENCED with the current term, and the group is as it was."""

    def calls(self, daemon, mode):
        yield "Start", {"mode": mode}
        yield "Checkpoint", {}
        yield "Stop", {}
        yield "Stop", {"failover": True}
        yield "Remove", {"force": True}
        if mode == 2:
            yield "Scrub", {}
            yield "Clone", {"name": "c"}
            yield "RemoveClone", {"name": "c"}

    def test_every_call_with_every_wrong_expectation(self):
        standby = self.service()
        standby.start_group(f"vda,disk={self.disk('s', SIZE)}")
        agent = self.agent(standby, f"vda,size={SIZE}").wait_connected()
        status, _ = stub.call(standby.address, "GetStatus")
        incarnation = status["groups"][0]["incarnation"]
        wrong = [{"term": "2"}, {"incarnation": base64.b64encode(b"\7" * 16).decode()}]
        for daemon, mode in ((standby, 2), (agent, 1)):
            for method, fields in self.calls(daemon, mode):
                for expected in wrong + [{"term": "2", "incarnation": incarnation}]:
                    with self.subTest(daemon=daemon.name, method=method, fields=fields, expected=expected):
                        _, end = stub.call(daemon.address, method, group="vm1", expected=expected, **fields)
                        self.assertEqual((end.code, end.reason, end.term), ("FAILED_PRECONDITION", "FENCED", "1"), end)
            self.assertEqual(daemon.status()["stage"], "RUNNING")
        # The right ones, as a user passes them on.
        known = ("--expected-term", "1", "--expected-incarnation", standby.status()["incarnation"])
        self.assertEqual(agent.call("checkpoint", "vm1", *known)["epoch"], 1)
        agent.call("stop", "vm1", *known)
        self.assert_refused(standby.ctl("stop", "vm1", "--failover", "--expected-term", "2"), "FAILED_PRECONDITION", "(FENCED)")
        self.assertIn(standby.call("stop", "vm1", "--failover", *known)["stage"], ("FAILOVER", "DONE"))
        standby.wait_stage("DONE")
        # The failover has raised the term: a call that was on its way meanwhile comes too late.
        self.assert_refused(standby.ctl("remove", "vm1", *known), "FAILED_PRECONDITION", "(FENCED)")
        standby.call("remove", "vm1", "--expected-term", "2")


class StreamChecksTest(lib.Case):
    """A frame whose first operation is good and whose last one is not: the stream ends, and nothing of the frame was applied."""

    block = 4096
    good = b"\x11" * block

    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.secondary = self.disk("s", SIZE, b"\xdd" * SIZE)
        self.standby.start_group(f"vda,disk={self.secondary}")

    def rows(self):
        data = lambda volume, offset, length: [stub.operation(stub.DATA, volume, offset, length)]  # noqa: E731
        zero = lambda offset, length: [stub.operation(stub.ZERO, 0, offset, length)]  # noqa: E731
        size = self.block
        bad = "INVALID_ARGUMENT"
        return [
            # name, operations after the good one, their payload, more arguments of frame(), code, reason
            ("unknown volume", data(9, 0, size), self.good, {}, bad, ""),
            ("range past the end", data(0, SIZE - 512, 1024), b"x" * 1024, {}, "OUT_OF_RANGE", ""),
            ("range that wraps around", zero((1 << 64) - 512, 1024), b"", {}, "OUT_OF_RANGE", ""),
            ("zeroes past the end", zero(SIZE, 512), b"", {}, "OUT_OF_RANGE", ""),
            ("length 0", data(0, 0, 0), b"", {}, bad, ""),
            ("zeroes of length 0", zero(0, 0), b"", {}, bad, ""),
            ("offset in a sector", data(0, 256, 512), b"x" * 512, {}, bad, ""),
            ("length in a sector", data(0, 0, 513), b"x" * 513, {}, bad, ""),
            ("less payload than said", data(0, 0, size), b"x", {}, bad, ""),
            ("more payload than said", [], b"x" * 512, {}, bad, ""),
            ("unknown kind", [stub.operation(10)], b"", {}, bad, ""),
            ("an operation after CHECKPOINT", [stub.operation(stub.CHECKPOINT), stub.operation(stub.FLUSH)], b"", {}, bad, ""),
            ("an operation after PREPARE", [stub.operation(stub.PREPARE), stub.operation(stub.FLUSH)], b"", {}, bad, ""),
            ("bad CRC", [], b"", {"crc_flip": 1}, "DATA_LOSS", ""),
            ("sequence gap", [], b"", {"first": 4}, bad, ""),
            ("payload over the limit", data(0, 0, SIZE) + data(0, 0, 512), bytes(SIZE + 512), {}, bad, ""),
            ("operations over the limit", zero(0, 512) * 8192, b"", {}, bad, ""),
            ("another incarnation", [], b"", {"grant": (b"\7" * 16, 1)}, "FAILED_PRECONDITION", "FENCED"),
            ("an older term", [], b"", {"grant": 0}, "FAILED_PRECONDITION", "FENCED"),
            ("a higher term", [], b"", {"grant": 2}, "FAILED_PRECONDITION", "FENCED"),
        ]  # fmt: skip

    def joined(self, stream):
        primary = stub.Stream(self.standby.address)
        self.addCleanup(primary.__exit__)
        reply = primary.join({"vda": SIZE}, stream=stream)
        self.assertNotIsInstance(reply, stub.End, reply)
        return primary, int(reply["received_sequence"])

    def test_each_row_ends_the_stream_and_applies_nothing(self):
        view = bytearray(b"\xdd" * SIZE)
        sequence = 0
        for number, (name, operations, payload, more, code, reason) in enumerate(self.rows()):
            with self.subTest(name):
                primary, received = self.joined(1)
                self.assertEqual(received, sequence)
                offset = 16 * self.block + number * self.block
                primary.write(sequence + 1, offset, self.good)
                primary.received(sequence + 1)
                hidden = self.standby.status()["volumes"][0]["hidden_bytes"]

                grant = more.get("grant", primary.grant)
                arguments = {
                    "first": sequence + 1 + more.get("first", 1),
                    "crc_flip": more.get("crc_flip", 0),
                    "grant": (primary.grant[0], grant) if isinstance(grant, int) else grant,
                }
                first_operation = stub.operation(stub.DATA, 0, 0, self.block)
                primary.frame(operations=[first_operation, *operations], payload=b"\xee" * self.block + payload, **arguments)
                end = primary.end()
                self.assertEqual((end.code, end.reason), (code, reason), end)
                self.assertEqual(end.term, "1" if reason else "")
                self.assertTrue(end.message)
                status = self.standby.status()
                self.assertEqual(status["volumes"][0]["hidden_bytes"], hidden, "a part of the frame was applied")
                if number % 5 == 0:
                    self.standby.kill()
                    self.standby.restart()

                # The same stream goes on where it was, with the frame as it should have been.
                primary, received = self.joined(1)
                self.assertEqual(received, sequence + 1)
                value = bytes([number + 1]) * self.block
                primary.frame(
                    sequence + 2, [stub.operation(stub.DATA, 0, 0, self.block), stub.operation(stub.CHECKPOINT)], value
                )
                sequence += 3
                reply = primary.next(lambda a: "ack" in a and int(a["ack"]["committed_sequence"]) == sequence)
                self.assertNotIsInstance(reply, stub.End, reply)
                view[: self.block] = value
                view[offset : offset + self.block] = self.good
                with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
                    self.assert_bytes(guest.read(0, SIZE), bytes(view), "the standby after the right frame")

    def test_what_is_latched(self):
        """A refused write is told by GetError; a damaged frame the third time; a fenced one is its writer's affair."""
        latched = 0
        for name, operations, payload, more, code, reason in self.rows():
            primary, received = self.joined(1)
            grant = more.get("grant", primary.grant)
            tries = 3 if code == "DATA_LOSS" else 1
            for attempt in range(tries):
                if attempt:
                    self.assertEqual(self.standby.ctl("get-error", "vm1").status, 3 if latched else 0)
                    primary, received = self.joined(1)
                primary.frame(
                    received + more.get("first", 1), [stub.operation(stub.FLUSH), *operations], payload,
                    grant=(primary.grant[0], grant) if isinstance(grant, int) else grant, crc_flip=more.get("crc_flip", 0),
                )  # fmt: skip
                self.assertEqual(primary.end().code, code, name)
            latched += not reason
            errors = self.standby.call_errors()
            self.assertEqual(sum(int(error["count"]) for error in errors), latched, f"{name}: {errors}")
        self.assertGreater(self.standby.metric("understudy_fenced_requests_total"), 2)

    def test_a_replay_is_skipped(self):
        """Operations at or below the received sequence are no error and change nothing, whatever they say this time; and a marker
        among them is answered with the epoch it made."""
        primary, _ = self.joined(1)
        primary.frame(1, [stub.operation(stub.DATA, 0, 0, self.block), stub.operation(stub.CHECKPOINT)], self.good)
        primary.next(lambda a: "ack" in a and int(a["ack"]["committed_epoch"]) == 1)
        primary, received = self.joined(1)
        self.assertEqual(received, 2)
        primary.frame(1, [stub.operation(stub.DATA, 0, 0, self.block), stub.operation(stub.CHECKPOINT)], b"\xee" * self.block)
        primary.frame(2, [stub.operation(stub.CHECKPOINT)])
        primary.write(3, self.block, self.good)
        ack = primary.received(3)["ack"]
        self.assertEqual((int(ack["committed_epoch"]), int(ack["committed_sequence"])), (1, 2))
        primary.frame(4, [stub.operation(stub.CHECKPOINT)])
        primary.next(lambda a: "ack" in a and int(a["ack"]["committed_epoch"]) == 2)
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            self.assertEqual(guest.read(0, 3 * self.block), self.good * 2 + b"\xdd" * self.block)

    def test_handshakes(self):
        """Each is refused with its code, and a right one works next."""
        rows = [
            ({"group": "vm9"}, {"vda": SIZE}, "NOT_FOUND", "UNKNOWN_GROUP"),
            ({"agent": "Not-A-Name"}, {"vda": SIZE}, "INVALID_ARGUMENT", ""),
            ({"stream": 0}, {"vda": SIZE}, "INVALID_ARGUMENT", ""),
            ({}, {"vdx": SIZE}, "INVALID_ARGUMENT", "OTHER_VOLUMES"),
            ({}, {}, "INVALID_ARGUMENT", "OTHER_VOLUMES"),
            ({}, {"vda": SIZE, "vdb": SIZE}, "INVALID_ARGUMENT", "OTHER_VOLUMES"),
            ({}, {"vda": 2 * SIZE}, "FAILED_PRECONDITION", "OTHER_VOLUMES"),
            ({"grant": (b"\7" * 16, 1)}, {"vda": SIZE}, "FAILED_PRECONDITION", "FENCED"),
            ({"grant": (b"", 2)}, {"vda": SIZE}, "FAILED_PRECONDITION", "FENCED"),
        ]
        for named, volumes, code, reason in rows:
            with self.subTest(named=named, volumes=volumes), stub.Stream(self.standby.address) as primary:
                end = primary.join(volumes, **named)
                self.assertIsInstance(end, stub.End)
                self.assertEqual((end.code, end.reason), (code, reason), end)
        status = self.standby.status()
        self.assertEqual((status["agent_id"], status["incomplete"]), ("", False), "a refused handshake has bound its agent")
        primary, received = self.joined(1)
        self.assertEqual(received, 0)
        with stub.Stream(self.standby.address) as other:
            end = other.join({"vda": SIZE}, agent="another", stream=2)
            self.assertEqual((end.code, end.reason, end.term), ("FAILED_PRECONDITION", "FENCED", "1"), end)
        primary.write(1, 0, self.good)
        self.assertNotIsInstance(primary.received(1), stub.End, "the refused one has ended the rightful stream")


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdinfo")

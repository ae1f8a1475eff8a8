"""What each operation does in each stage: the tables of docs/semantics.md, cell by cell, over the running daemons.

A table below is the table of the document, and the words in its cells are explained in EXPECT. Each cell is run on a real group that has
been brought into the stage of its column. What is refused or ignored must leave that group as it was: the next cell finds it there.
"""

import collections
import re
import signal
import threading
import time

import failing_disk
import lib
import stub
from failing_disk import FailingDisk
from nbd import Disk, errno_of
from lib import MIB

SIZE = 8 * MIB
# What every group's disk holds at first, what the primary wrote before and after the last checkpoint, what the VM wrote.
DISK, COMMITTED, HIDDEN, ACTIVE = b"\xdd", b"\xcc", b"\x11", b"\xaa"
BLOCK = 64 * 1024

LATER = {"RUNNING": "DONE", "FAILOVER_FAILED": "FAILOVER_FAILED"}  # what the answer of a failover may say when the job was quicker
NOT_RUNNING = "Block replication is not running"
RUNNING_OR_DONE = "Block replication is running or done"
IN_USE = "Block device is in use by internal backup job"

SECONDARY = """
operation          | NONE          | RUNNING         | FAILOVER        | FAILOVER_FAILED | DONE
Start(SECONDARY)   | -> RUNNING    | running or done | ignored         | running or done | ignored
Start(PRIMARY)     | needs 1       | running or done | ignored         | running or done | ignored
Checkpoint         | not running   | an epoch        | ignored         | not running     | ignored
PREPARE            | at the agent  | at the agent    | at the agent    | at the agent    | at the agent
COMMIT             | not running   | not prepared    | ignored         | not running     | ignored
ABANDON            | not running   | ignored         | ignored         | not running     | ignored
GetError           | not running   | healthy         | healthy         | I/O error       | healthy
ClearError         | not running   | ignored         | ignored         | is not over     | ignored
Stop               | not running   | -> DONE         | ignored         | not running     | ignored
Stop(failover)     | not running   | -> FAILOVER     | ignored         | -> FAILOVER     | ignored
Stop(received)     | not running   | has written     | ignored         | -> FAILOVER     | ignored
Stop(epoch)        | not running   | -> FAILOVER     | ignored         | -> FAILOVER     | ignored
Remove             | gone          | in use          | in use          | in use          | gone
Remove(force)      | gone          | in use          | in use          | gone            | gone
Remove(map)        | not whole     | not whole       | not whole       | not whole       | gone
write stream       | not running   | accepted        | fenced          | fenced          | fenced
"""

VM_IO = """
request            | NONE          | RUNNING         | FAILOVER        | FAILOVER_FAILED | DONE
read               | EIO           | the view        | the view        | the view        | the view
write              | EIO           | active          | by range        | by range        | the disk
zeroes             | EIO           | active          | by range        | by range        | the disk
discard            | EIO           | active          | by range        | by range        | the disk
failback map       | nothing       | nothing         | every change    | every change    | every change
flush              | EIO           | ok              | ok              | ok              | ok
length             | the size      | the size        | the size        | the size        | the size
"""

PRIMARY = """
operation          | NONE          | RUNNING         | DONE
Start(PRIMARY)     | -> RUNNING    | running or done | ignored
Start(SECONDARY)   | needs 0       | running or done | ignored
Checkpoint         | ignored       | an epoch        | ignored
PREPARE            | ignored       | prepared        | ignored
COMMIT             | at the service | at the service | at the service
ABANDON            | at the service | at the service | at the service
GetError           | not running   | healthy         | healthy
ClearError         | not running   | ignored         | ignored
Stop               | not running   | -> DONE         | ignored
Stop(failover)     | not running   | -> DONE         | ignored
Remove             | ok            | in use          | -> NONE
"""

# With a local disk (tee) or without one (forward). "forwarded": it has arrived at the standby, too; "recorded": on the local disk and in
# the dirty map.
PRIMARY_IO = """
request            | NONE          | RUNNING         | DONE
forward read       | EIO           | EIO             | EIO
forward write      | EIO           | forwarded       | EIO
forward zeroes     | EIO           | forwarded       | EIO
forward discard    | EIO           | forwarded       | EIO
forward flush      | EIO           | ok              | EIO
forward length     | the size      | the size        | the size
tee read           | local         | local           | local
tee write          | recorded      | forwarded       | recorded
tee zeroes         | recorded      | forwarded       | recorded
tee discard        | recorded      | forwarded       | recorded
tee flush          | ok            | ok              | ok
tee length         | the size      | the size        | the size
"""

Refusal = collections.namedtuple("Refusal", "code text reason")
# What a cell stands for: a refusal (code, text, ErrorInfo reason), or a method of the test.
EXPECT = {
    "not running": Refusal("FAILED_PRECONDITION", NOT_RUNNING, "NOT_RUNNING"),
    "running or done": Refusal("FAILED_PRECONDITION", RUNNING_OR_DONE, ""),
    "is not over": Refusal("FAILED_PRECONDITION", "is not over: the failover has failed; remedy: ", ""),
    "in use": Refusal("FAILED_PRECONDITION", IN_USE, ""),
    "needs 1": Refusal("INVALID_ARGUMENT", "The parameter mode's value is invalid, needs 1, but got 0", "WRONG_MODE"),
    "needs 0": Refusal("INVALID_ARGUMENT", "The parameter mode's value is invalid, needs 0, but got 1", "WRONG_MODE"),
    "not whole": Refusal("FAILED_PRECONDITION", "its failback map is whole in stage DONE", ""),
    "not prepared": Refusal("FAILED_PRECONDITION", "epoch 7 is not prepared", "NOT_PREPARED"),
    "has written": Refusal("FAILED_PRECONDITION", "the secondary VM has written", ""),
    "at the agent": Refusal("INVALID_ARGUMENT", "only the agent can prepare", "WRONG_MODE"),
    "at the service": Refusal("INVALID_ARGUMENT", "at the service, not at the agent", "WRONG_MODE"),
    "fenced": Refusal("FAILED_PRECONDITION", "stop this primary", "FENCED"),
}

CALLS = {
    "Start(SECONDARY)": ("start", "--mode", "secondary"),
    "Start(PRIMARY)": ("start", "--mode", "primary"),
    "Checkpoint": ("checkpoint",),
    "PREPARE": ("checkpoint", "--prepare"),
    "COMMIT": ("checkpoint", "--commit", "7"),
    "ABANDON": ("checkpoint", "--abandon"),
    "GetError": ("get-error",),
    "ClearError": ("clear-error",),
    "Stop": ("stop",),
    "Stop(failover)": ("stop", "--failover"),
    "Stop(received)": ("stop", "--failover", "--received"),
    "Stop(epoch)": ("stop", "--failover", "--epoch", "1"),
    "Remove": ("remove",),
    "Remove(force)": ("remove", "--force"),
    "Remove(map)": ("remove", "--failback-map", "{dir}/map"),
}


def cells(table):
    """Yields (row, column, cell) of a table as above."""
    head, *rows = [[word.strip() for word in line.split("|")] for line in table.strip().splitlines()]
    for row in rows:
        for column, cell in zip(head[1:], row[1:], strict=True):
            yield row[0], column, cell


class TableCase(lib.Case):
    def assert_refusal(self, answer, expected):
        """understudyctl's `error: CODE: text (REASON)`, exit status 1, nothing on standard output."""
        self.assertEqual((answer.status, answer.out), (1, ""), answer.out + answer.error)
        found = re.match(r"error: ([A-Z_]+): (.*?)(?: \(([A-Z_]+)\))?\n", answer.error)
        self.assertIsNotNone(found, answer.error)
        self.assertEqual((found[1], found[3] or ""), (expected.code, expected.reason), answer.error)
        self.assertIn(expected.text, found[2])

    def call(self, daemon, group, operation):
        command, *flags = CALLS[operation]
        return daemon.ctl(command, group, *[flag.format(dir=self.dir) for flag in flags])


class SecondaryTest(TableCase):
    """Two services: one whose commit jobs never end in the time of a test, and one whose jobs do."""

    def setUp(self):
        super().setUp()
        missing = failing_disk.why_not()
        if missing:
            self.skipTest(missing)
        self.held = self.service("--apply-bytes-per-second", "256", name="held")
        self.free = self.service(name="free")
        self.count = 0
        self.kept = {}  # by stage: a group that the last cell has left as it was

    def group_in(self, stage, keep):
        """A group in this stage: (service, name, its raw disk). `keep`: what is done to it must leave it in this stage."""
        group = self.kept.pop(stage, None) or self.make_group(stage)
        if keep:
            self.kept[stage] = group
        return group

    def make_group(self, stage):
        self.count += 1
        name = f"g{self.count}"
        service = self.held if stage == "FAILOVER" else self.free
        failing = FailingDisk(self, name, SIZE, DISK * SIZE) if stage == "FAILOVER_FAILED" else None
        disk = failing.path if failing else self.disk(f"{name}.raw", SIZE, DISK * SIZE)
        service.call("open", name, "--mode", "secondary", "--volume", f"vda,disk={disk}")
        if stage == "NONE":
            return service, name, disk
        service.call("start", name, "--mode", "secondary")
        with stub.Stream(service.address) as primary:
            primary.join({"vda": SIZE}, group=name)
            primary.frame(1, [stub.operation(stub.DATA, 0, 0, BLOCK), stub.operation(stub.CHECKPOINT)], COMMITTED * BLOCK)
            self.assertNotIsInstance(primary.next(lambda a: "ack" in a and int(a["ack"]["committed_epoch"]) == 1), stub.End)
            primary.write(3, 2 * BLOCK, HIDDEN * BLOCK)
            primary.received(3)
        if stage != "FAILOVER":
            lib.wait_for(lambda: self.volume(service, name)["committed_unapplied_bytes"] == "0", "the apply job")
        with Disk(service.nbd_socket, f"{name}/vda") as guest:
            guest.write(4 * BLOCK, ACTIVE * BLOCK)
        if failing:
            failing.break_now()
        if stage != "RUNNING":
            service.call("stop", name, "--failover")
            service.wait_stage(stage, group=name)
        return service, name, disk

    def volume(self, service, name):
        return {key: str(value) for key, value in service.status(name)["volumes"][0].items()}

    def first_view(self):
        """What the VM's disk of a new group holds, in every stage."""
        view = bytearray(DISK * SIZE)
        view[:BLOCK] = COMMITTED * BLOCK
        view[4 * BLOCK : 5 * BLOCK] = ACTIVE * BLOCK
        return view

    def test_operations(self):
        for operation, stage, cell in cells(SECONDARY):
            with self.subTest(operation=operation, stage=stage, cell=cell):
                keep = cell in ("ignored", "healthy", "I/O error") or cell in EXPECT
                service, name, _ = self.group_in(stage, keep)
                if operation == "write stream":
                    self.check_stream(service, name, cell)
                else:
                    self.check_call(service, name, operation, stage, cell)

    def check_call(self, service, name, operation, stage, cell):
        answer = self.call(service, name, operation)
        if cell in EXPECT:
            self.assert_refusal(answer, EXPECT[cell])
        elif cell == "I/O error":
            self.assertEqual(answer.status, 3, answer.error)
            (error,) = answer.object["errors"]
            self.assertTrue(error["message"].startswith("I/O error occurred: "), error)
            self.assertEqual((error["volume"], error["operation"], error["code"]), ("vda", "commit", "INTERNAL"), error)
            self.assertIn("Input/output error", error["message"])
            self.assertGreater(int(error["length"]), 0)
        else:
            # No agent is connected: after a minute that is 3.
            self.assertIn(answer.status, (0, 3) if cell == "healthy" else (0,), answer.error)
            said = answer.object
            if cell == "healthy":
                self.assertEqual(said["errors"], [])
            elif operation.startswith("Remove"):
                self.assertEqual((said["ignored"], said["stage"]), (False, "NONE"), said)
            else:
                self.assertEqual(said["ignored"], cell == "ignored", said)
            if cell == "an epoch":
                self.assertEqual((said["stage"], int(said["epoch"])), ("RUNNING", 2))
        if cell == "gone":
            self.assert_refusal(service.ctl("status", name), Refusal("NOT_FOUND", f'group "{name}" is not open', "UNKNOWN_GROUP"))
            self.assertNotIn(f"{name}/vda", service.export_names())
            return
        after = cell.removeprefix("-> ") if cell.startswith("-> ") else stage
        if answer.out:
            self.assertIn(answer.object["stage"], (after, LATER[stage]) if cell == "-> FAILOVER" else (after,))
        if (cell, stage) == ("-> FAILOVER", "FAILOVER_FAILED"):
            service.wait_stage("FAILOVER_FAILED", group=name)  # the disk is as dead as before
        elif (cell, stage) == ("-> FAILOVER", "RUNNING"):
            service.wait_stage("DONE", group=name)
        else:
            self.assertEqual(service.status(name)["stage"], after)

    def check_stream(self, service, name, cell):
        with stub.Stream(service.address) as primary:
            reply = primary.join({"vda": SIZE}, group=name)
            if cell == "accepted":
                self.assertEqual((int(reply["term"]), int(reply["committed_epoch"])), (1, 1))
                return
            expected = EXPECT[cell]
            self.assertEqual((reply.code, reply.reason), (expected.code, expected.reason), reply)
            self.assertIn(expected.text, reply.message)
            if cell == "fenced":
                self.assertEqual(reply.term, "2")

    def test_vm_io(self):
        self.views = collections.defaultdict(self.first_view)
        for request, stage, cell in cells(VM_IO):
            with self.subTest(request=request, stage=stage, cell=cell):
                service, name, disk = self.group_in(stage, keep=True)
                with Disk(service.nbd_socket, f"{name}/vda") as guest:
                    self.check_io(service, name, disk, guest, request, stage, cell)

    def check_io(self, service, name, disk, guest, request, stage, cell):
        requests = {
            "read": lambda offset: guest.read(offset, BLOCK),
            "write": lambda offset: guest.write(offset, b"\x77" * BLOCK),
            "zeroes": lambda offset: guest.write_zeroes(offset, BLOCK),
            "discard": lambda offset: guest.trim(offset, BLOCK),
            "flush": lambda offset: guest.flush(),
        }
        if cell == "the size":
            self.assertEqual(guest.size, SIZE)
        elif cell == "EIO":
            self.assertEqual(errno_of(requests[request], 0), "EIO")
        elif cell == "ok":
            self.assertEqual(errno_of(requests[request], 0), "ok")
        elif cell == "the view":
            self.assert_bytes(guest.read(0, SIZE), bytes(self.views[name]), f"the view in {stage}")
        elif request == "failback map":
            # Beside what the failover gave up and what active held then: one region each of write, zeroes and discard.
            changed = 0 if cell == "nothing" else 5 * BLOCK
            self.assertEqual(int(self.volume(service, name)["failback_bytes"]), changed)
        else:
            self.check_routing(service, name, disk, guest, requests[request], request, stage, cell)

    def check_routing(self, service, name, disk, guest, change, request, stage, cell):
        """Where a write went to: the raw disk tells, and the bytes that active holds."""
        view = self.views[name]
        new = b"\x77" * BLOCK if request == "write" else bytes(BLOCK)
        raw = bytes(disk.read_bytes())
        in_overlay, elsewhere = 4 * BLOCK, {"write": 20, "zeroes": 30, "discard": 40}[request] * BLOCK
        for offset in (in_overlay, elsewhere):
            before = int(self.volume(service, name)["active_bytes"])
            self.assertEqual(errno_of(change, offset), "ok")
            view[offset : offset + BLOCK] = new
            self.assert_bytes(guest.read(0, SIZE), bytes(view), "the view after the request")
            grown = int(self.volume(service, name)["active_bytes"]) - before
            found = disk.read_bytes()[offset : offset + BLOCK]
            to_active = cell == "active" or (cell == "by range" and (offset == in_overlay or stage == "FAILOVER_FAILED"))
            if to_active:
                self.assertEqual(found, raw[offset : offset + BLOCK], "the disk was written to")
                self.assertEqual(grown, 0 if offset == in_overlay else BLOCK)
            else:
                self.assertEqual(found, new, "the disk was not written to")
                self.assertLessEqual(grown, 0)
        self.assertEqual(service.status(name)["stage"], stage)


class PrimaryTest(TableCase):
    """Agents of a group with two volumes: `fwd`, which is only forwarded, and `tee`, which has a local disk."""

    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.count = 0
        self.kept = {}

    def agent_in(self, stage, keep):
        """As SecondaryTest.group_in(): (agent, group)."""
        pair = self.kept.pop(stage, None) or self.make_agent(stage)
        if keep:
            self.kept[stage] = pair
        return pair

    def make_agent(self, stage):
        self.count += 1
        group = f"g{self.count}"
        disks = [f"{name},disk={self.disk(f'{group}.{name}', SIZE, DISK * SIZE)}" for name in ("fwd", "tee")]
        self.standby.start_group(*disks, group=group)
        local = self.disk(f"{group}.local", SIZE, DISK * SIZE)
        agent = self.agent(
            self.standby, f"fwd,size={SIZE}", f"tee,disk={local}", name=f"agent-{group}", group=group, options=()
        )
        if stage != "NONE":
            agent.call("start", group, "--mode", "primary")
            agent.wait_connected()
        if stage == "DONE":
            agent.call("stop", group)
        self.assertEqual(agent.status(group)["stage"], stage)
        return agent, group

    def test_operations(self):
        for operation, stage, cell in cells(PRIMARY):
            with self.subTest(operation=operation, stage=stage, cell=cell):
                keep = cell in ("ignored", "healthy", "ok", "an epoch", "prepared") or cell in EXPECT
                agent, group = self.agent_in(stage, keep)
                answer = self.call(agent, group, operation)
                after = cell.removeprefix("-> ") if cell.startswith("-> ") else stage
                if cell in EXPECT:
                    self.assert_refusal(answer, EXPECT[cell])
                else:
                    self.assertEqual(answer.status, 0, answer.error)
                    said = answer.object
                    if operation == "GetError":
                        self.assertEqual(said["errors"], [])
                    else:
                        self.assertEqual((said["ignored"], said["stage"]), (cell == "ignored", after))
                    if cell in ("an epoch", "prepared"):
                        self.assertGreater(int(said["epoch"]), 0)
                        which = "committed_epoch" if cell == "an epoch" else "prepared_epoch"
                        self.assertEqual(said["epoch"], self.standby.status(group)[which])
                self.assertEqual(agent.status(group)["stage"], after)

    def test_guest_io(self):
        for row, stage, cell in cells(PRIMARY_IO):
            volume, request = row.split()
            with self.subTest(volume=volume, request=request, stage=stage, cell=cell):
                agent, group = self.agent_in(stage, keep=True)
                name = "fwd" if volume == "forward" else "tee"
                with Disk(agent.nbd_socket, f"{group}/{name}") as guest:
                    self.check_io(agent, group, name, guest, request, cell)

    def check_io(self, agent, group, name, guest, request, cell):
        offset = {"write": 10, "zeroes": 20, "discard": 30}.get(request, 0) * BLOCK
        run = {
            "read": lambda: guest.read(offset, BLOCK),
            "write": lambda: guest.write(offset, b"\x77" * BLOCK),
            "zeroes": lambda: guest.write_zeroes(offset, BLOCK),
            "discard": lambda: guest.trim(offset, BLOCK),
            "flush": guest.flush,
        }.get(request)
        if cell == "the size":
            self.assertEqual(guest.size, SIZE)
            return
        operations = int(self.standby.status(group)["received_operations"])
        self.assertEqual(errno_of(run), "EIO" if cell == "EIO" else "ok")
        new = b"\x77" * BLOCK if request == "write" else bytes(BLOCK)
        if name == "tee" and request in ("write", "zeroes", "discard"):
            self.assertEqual(guest.read(offset, BLOCK), new)
            self.assertEqual((self.dir / f"{group}.local").read_bytes()[offset : offset + BLOCK], new)
        if request == "read" and cell == "local":
            self.assertEqual(guest.read(0, BLOCK), DISK * BLOCK)
        if cell == "forwarded":
            with Disk(self.standby.nbd_socket, f"{group}/{name}") as standby:
                self.assertEqual(standby.read(offset, BLOCK), DISK * BLOCK, "seen before the checkpoint")
                agent.call("checkpoint", group)
                self.assertEqual(standby.read(offset, BLOCK), new)
        elif cell == "recorded":
            (dirty,) = [int(v["dirty_bytes"]) for v in agent.status(group)["volumes"] if v["name"] == name]
            self.assertEqual(dirty, BLOCK * {"write": 1, "zeroes": 2, "discard": 3}[request])
        if cell not in ("ok", "forwarded"):
            self.assertEqual(int(self.standby.status(group)["received_operations"]), operations, "it was forwarded")


class BelowTheTablesTest(TableCase):
    """What a cell says in more words than fit into it."""

    def setUp(self):
        super().setUp()
        self.standby = self.service()

    def start(self, **named):
        return self.standby.start_group(f"vda,disk={self.disk('s', SIZE, DISK * SIZE)}", **named)

    def raw(self, stream=1):
        primary = stub.Stream(self.standby.address)
        self.addCleanup(primary.__exit__)
        primary.join({"vda": SIZE}, stream=stream)
        return primary

    def read(self, offset=0):
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            return guest.read(offset, BLOCK)

    def test_a_checkpoint_with_a_stream_waits_for_the_marker(self):
        self.start()
        primary = self.raw()
        primary.write(1, 0, HIDDEN * BLOCK)
        primary.received(1)
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            guest.write(BLOCK, ACTIVE * BLOCK)
        answers = []
        call = threading.Thread(target=lambda: answers.append(self.standby.ctl("checkpoint", "vm1")))
        begun = time.monotonic()
        call.start()
        primary.next(lambda answer: "checkpoint_wanted" in answer)
        primary.frame(2, [stub.operation(stub.DATA, 0, 2 * BLOCK, BLOCK), stub.operation(stub.CHECKPOINT)], COMMITTED * BLOCK)
        primary.write(4, 3 * BLOCK, HIDDEN * BLOCK)
        call.join()
        self.assertLess(0, int(answers[0].object["duration_micros"]))
        self.assertLess(int(answers[0].object["duration_micros"]), (time.monotonic() - begun) * 1_000_000)
        self.assertEqual((answers[0].object["epoch"], answers[0].object["sequence"], answers[0].object["bytes"]), (1, 3, 2 * BLOCK))
        self.assertEqual(
            [self.read(block * BLOCK) for block in range(4)],
            [HIDDEN * BLOCK, DISK * BLOCK, COMMITTED * BLOCK, DISK * BLOCK],
            "before the marker; active is dropped; the marker's frame; after the marker",
        )

    def test_nothing_commits_while_something_is_missing(self):
        """INCOMPLETE: Checkpoint and Stop at either daemon, and a failover with the received prefix; after a restart, too."""
        self.start()
        local = self.disk("p", SIZE, DISK * SIZE)
        agent = self.agent(self.standby, f"vda,disk={local}").wait_connected()
        with Disk(agent.nbd_socket, "vm1/vda") as guest:
            guest.write(0, COMMITTED * BLOCK)
            agent.call("checkpoint", "vm1")
        agent.kill()
        primary = self.raw_of_the_same_agent()
        primary.write(1, 0, HIDDEN * BLOCK)
        primary.received(1)
        incomplete = Refusal("ABORTED", "", "INCOMPLETE")
        for _ in range(2):
            self.assert_refusal(self.standby.ctl("checkpoint", "vm1"), incomplete)
            self.assert_refusal(self.standby.ctl("stop", "vm1"), incomplete)
            self.assert_refusal(self.standby.ctl("stop", "vm1", "--failover", "--received"), incomplete)
            status = self.standby.status()
            self.assertEqual((status["stage"], status["incomplete"], status["committed_epoch"]), ("RUNNING", True, 1))
            self.assertEqual(self.read(), COMMITTED * BLOCK)
            self.standby.kill()
            self.standby.restart()
        # The replica can take over with its last checkpoint all the same.
        self.standby.call("stop", "vm1", "--failover")
        self.standby.wait_stage("DONE")
        self.assertEqual(self.read(), COMMITTED * BLOCK)

    def raw_of_the_same_agent(self):
        """A stream of the same agent which does not continue its last one."""
        status = self.standby.status()
        primary = stub.Stream(self.standby.address)
        self.addCleanup(primary.__exit__)
        reply = primary.join({"vda": SIZE}, agent=status["agent_id"], stream=77)
        self.assertTrue(reply["incomplete"])
        return primary

    def test_stop_failover_received(self):
        """The received prefix is committed first; refused, and nothing changed, once active has data."""
        self.start()
        primary = self.raw()
        primary.write(1, 0, HIDDEN * BLOCK)
        primary.received(1)
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            guest.write(BLOCK, ACTIVE * BLOCK)
        answer = self.standby.ctl("stop", "vm1", "--failover", "--received")
        self.assert_refusal(answer, Refusal("FAILED_PRECONDITION", "the secondary VM has written", ""))
        self.assertEqual((self.standby.status()["stage"], self.read()), ("RUNNING", DISK * BLOCK))
        primary.frame(2, [stub.operation(stub.CHECKPOINT)])  # drops active
        primary.write(3, 2 * BLOCK, HIDDEN * BLOCK)
        primary.received(3)
        lib.wait_for(lambda: self.standby.status()["committed_epoch"] == 1, "the checkpoint")
        answer = self.standby.call("stop", "vm1", "--failover", "--received")
        self.assertEqual((answer["epoch"], answer["term"]), (2, 2))
        self.assertIn(answer["stage"], ("FAILOVER", "DONE"))
        self.standby.wait_stage("DONE")
        self.assertEqual([self.read(block * BLOCK) for block in (0, 1, 2)], [HIDDEN * BLOCK, DISK * BLOCK, HIDDEN * BLOCK])

    def test_a_stop_applies_what_was_received_and_drops_active(self):
        self.start()
        primary = self.raw()
        primary.write(1, 0, HIDDEN * BLOCK)
        primary.received(1)
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            guest.write(BLOCK, ACTIVE * BLOCK)
        self.assertEqual(self.standby.call("stop", "vm1")["stage"], "DONE")
        self.assert_file(self.dir / "s", HIDDEN * BLOCK + DISK * (SIZE - BLOCK), "the raw disk")
        end = primary.end()
        self.assertEqual((end.code, end.reason), ("FAILED_PRECONDITION", "FENCED"))

    def test_without_a_first_sync_there_is_no_state(self):
        """initial=sync and create: VM I/O is EIO, no checkpoint, no failover, over a restart as well."""
        for number, volume in enumerate((f"disk={self.disk('raw', SIZE)},initial=sync", f"disk={self.dir}/new,size={SIZE},create")):
            group = f"g{number}"
            self.standby.start_group(f"vda,{volume}", group=group)
            for _ in range(2):
                self.assert_refusal(
                    self.standby.ctl("stop", group, "--failover"), Refusal("FAILED_PRECONDITION", "no checkpoint", "NO_CHECKPOINT")
                )
                self.assert_refusal(self.standby.ctl("checkpoint", group), Refusal("ABORTED", "", "INCOMPLETE"))
                self.assert_refusal(self.standby.ctl("stop", group), Refusal("ABORTED", "", "INCOMPLETE"))
                self.assertEqual(self.standby.status(group)["stage"], "RUNNING")
                with Disk(self.standby.nbd_socket, f"{group}/vda") as guest:
                    self.assertEqual(guest.size, SIZE)
                    for request in (lambda: guest.read(0, 512), lambda: guest.write(0, bytes(512)), guest.flush):
                        self.assertEqual(errno_of(request), "EIO")
                self.standby.kill()
                self.standby.restart()

    def test_exports_come_with_open_and_go_with_remove(self):
        """A VM may be connected before Start; one that is still connected after Remove gets errors, not another group's bytes."""
        self.assertEqual(self.standby.export_names(), [])
        disk = self.disk("s", SIZE, DISK * SIZE)
        self.standby.call("open", "vm1", "--mode", "secondary", "--volume", f"vda,disk={disk},top-id=boot")
        self.assertEqual(self.standby.export_names(), ["boot", "vm1/vda"])
        with Disk(self.standby.nbd_socket, "boot") as guest:
            self.assertEqual(errno_of(guest.read, 0, 512), "EIO")
            self.standby.call("start", "vm1", "--mode", "secondary")
            self.assertEqual(guest.read(0, 512), DISK * 512)
            self.standby.call("stop", "vm1")
            self.standby.call("remove", "vm1")
            self.assertEqual(self.standby.export_names(), [])
            self.assertNotEqual(errno_of(guest.read, 0, 512), "ok")
            self.start()
            self.assertNotEqual(errno_of(guest.write, 0, bytes(512)), "ok")
        with self.assertRaises(ConnectionError):
            Disk(self.standby.nbd_socket, "boot")

    def test_a_start_of_the_agent_needs_no_standby(self):
        """It goes on trying; a checkpoint waits for the connection until its deadline, and may be repeated."""
        agent = self.agent(self.standby, f"vda,disk={self.disk('p', SIZE, DISK * SIZE)}", options=())
        self.start()
        self.standby.kill()
        self.assertEqual(agent.call("start", "vm1", "--mode", "primary")["stage"], "RUNNING")
        self.assertEqual(agent.ctl("get-error", "vm1").status, 0)
        with Disk(agent.nbd_socket, "vm1/vda") as guest:
            guest.write(0, COMMITTED * BLOCK)
        answer = agent.ctl("checkpoint", "vm1", timeout="4s")  # half a second of which is for the answer
        self.assertEqual((answer.status, answer.error.split(": ")[1]), (1, "UNAVAILABLE"), answer.error)
        self.standby.restart()
        epoch = agent.call("checkpoint", "vm1")["epoch"]
        self.assertEqual((self.standby.status()["committed_epoch"], self.read()), (epoch, COMMITTED * BLOCK))

    def test_a_local_error_of_a_tee_volume_is_the_guests_and_leaves_a_hole(self):
        missing = failing_disk.why_not()
        if missing:
            self.skipTest(missing)
        local = FailingDisk(self, "p", SIZE, DISK * SIZE)
        self.start()
        agent = self.agent(self.standby, f"vda,disk={local.path}").wait_connected()
        with Disk(agent.nbd_socket, "vm1/vda") as guest:
            guest.write(0, COMMITTED * BLOCK)
            agent.call("checkpoint", "vm1")
            local.break_now()
            self.assertEqual(errno_of(guest.write, BLOCK, HIDDEN * BLOCK), "EIO")
            errors = agent.call_errors()
            self.assertTrue(any(e["volume"] == "vda" and e["operation"] == "write" for e in errors), errors)
            # What the failed write has left on the local disk is what the standby gets: here the old data.
            agent.call("sync", "vm1", "--wait")
            agent.call("checkpoint", "vm1")
            self.assertEqual((self.read(), self.read(BLOCK)), (COMMITTED * BLOCK, DISK * BLOCK), "the primary's disk")

    def test_report_forward_errors(self):
        """A forward-mode volume whose standby is lost: by default the guest is not told, with the flag it is."""
        for options, expected in (((), "ok"), (("--report-forward-errors",), "EIO")):
            with self.subTest(options=options):
                name = f"agent{len(options)}"
                self.standby.start_group(f"vda,disk={self.disk(f'{name}.raw', SIZE)}", group=name)
                agent = self.agent(
                    self.standby, f"vda,size={SIZE}", name=name, group=name,
                    options=("--start", "--window-bytes", "2M", "--stall-timeout", "200ms", *options),
                ).wait_connected()  # fmt: skip
                self.standby.daemon.signal(signal.SIGSTOP)
                with Disk(agent.nbd_socket, f"{name}/vda") as guest:
                    found = {errno_of(guest.write, 0, HIDDEN * MIB) for _ in range(4)}
                self.standby.daemon.signal(signal.SIGCONT)
                self.assertIn(expected, found)
                if expected == "ok":
                    self.assertEqual(found, {"ok"})
                self.assertEqual(agent.ctl("get-error", name).status, 3)
                agent.kill()
                self.standby.call("stop", name, "--failover")
                self.standby.wait_stage("DONE", group=name)
                self.standby.call("remove", name)

    def test_stages_survive_restarts(self):
        """At both daemons, in every stage that lasts."""
        disks = {group: self.disk(f"{group}.raw", SIZE) for group in ("none", "running", "done")}
        for group, disk in disks.items():
            self.standby.call("open", group, "--mode", "secondary", "--volume", f"vda,disk={disk}")
        agents = {}
        for group in ("running", "done"):
            self.standby.call("start", group, "--mode", "secondary")
            agents[group] = self.agent(self.standby, f"vda,size={SIZE}", name=group, group=group, options=())
            agents[group].call("start", group, "--mode", "primary")
        agents["done"].call("stop", "done")
        self.standby.call("stop", "done", "--failover")
        self.standby.wait_stage("DONE", group="done")
        for daemon in (self.standby, *agents.values()):
            daemon.kill()
            daemon.restart()
        for group in disks:
            self.assertEqual(self.standby.status(group)["stage"], group.upper())
        for group, agent in agents.items():
            self.assertEqual(agent.status(group)["stage"], group.upper())


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdinfo", at_once=2)

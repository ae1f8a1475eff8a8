"""Many volumes in a group, many groups in a service, and a group that is whole under kill -9 at any instant.

The kills of AtomicTest are aimed: how long the operation takes undisturbed is measured first, then it is killed at a random part of
that time. Each run prints how many kills fell into an operation, and how it had come out; too few is a failure.
"""

import contextlib
import errno
import pathlib
import resource
import statistics
import subprocess
import time

import lib
import stub
from nbd import Disk
from lib import MIB

VOLUMES_MANY = 64
GROUPS_MANY = 200
KILLS = 64  # of the service
AGENT_KILLS = 24


class VolumesTest(lib.Case):
    """64 volumes, one order: every checkpoint and the failover are of all of them."""

    def random_writes(self, guests, images, count):
        for _ in range(count):
            name = self.rng.choice(list(guests))
            data = self.rng.randbytes(512 * self.rng.randint(1, 32))
            offset = 512 * self.rng.randrange((len(images[name]) - len(data)) // 512 + 1)
            guests[name].write(offset, data)
            images[name][offset : offset + len(data)] = data

    def test_sixty_four_volumes(self):
        names = [f"vd{i:02}" for i in range(VOLUMES_MANY)]
        images = {name: bytearray(self.random_bytes(MIB // 4)) for name in names}
        secondary = {name: self.disk(f"s-{name}", MIB // 4, image) for name, image in images.items()}
        primary = {name: self.disk(f"p-{name}", MIB // 4, image) for name, image in images.items()}
        service = self.service()
        service.start_group(*(f"{name},disk={path}" for name, path in secondary.items()))
        agent = self.agent(service, *(f"{name},disk={path}" for name, path in primary.items())).wait_connected()
        guests = {name: agent.connect(name) for name in names}
        for kill in (False, True, False):
            self.random_writes(guests, images, 300)
            agent.call("checkpoint", "vm1")
            shown = {name: bytes(image) for name, image in images.items()}
            self.random_writes(guests, images, 100)  # not to be seen
            if kill:
                service.kill()
                service.restart()
                agent.wait_connected()
            for name in names:
                self.assert_view(service, name, shown[name], "after the checkpoint")
        service.call("stop", "vm1", "--failover")
        for name in names:
            self.assert_view(service, name, shown[name], "after the failover")
        service.wait_stage("DONE")
        for name in names:
            self.assert_file(secondary[name], shown[name], f"{name}: the secondary disk")

    def test_an_outage_of_sixteen_volumes(self):
        """More is written than the window holds, to all of them; what each has missed is sent, and no more."""
        names = [f"vd{i:02}" for i in range(16)]
        images = {name: bytearray(self.random_bytes(2 * MIB)) for name in names}
        secondary = {name: self.disk(f"s-{name}", 2 * MIB, image) for name, image in images.items()}
        primary = {name: self.disk(f"p-{name}", 2 * MIB, image) for name, image in images.items()}
        service = self.service()
        service.start_group(*(f"{name},disk={path}" for name, path in secondary.items()))
        volumes = [f"{name},disk={path}" for name, path in primary.items()]
        agent = self.agent(service, *volumes, options=("--start", "--window-bytes", "2M")).wait_connected()
        guests = {name: agent.connect(name) for name in names}
        self.random_writes(guests, images, 300)
        service.kill()
        self.random_writes(guests, images, 1000)
        missing = {volume["name"]: int(volume["dirty_bytes"]) for volume in agent.status()["volumes"]}
        self.assertEqual([name for name in names if not missing[name]], [], "each has missed something")
        service.restart()
        answer = agent.ctl("sync", "vm1", "--wait")
        self.assertEqual(answer.status, 0, answer.error)
        sent = agent.metric("understudy_resync_applied_bytes_total")
        self.assertLessEqual(sent, sum(missing.values()) + 2 * MIB, "what was skipped, and at most the window")
        self.random_writes(guests, images, 100)
        agent.call("checkpoint", "vm1")
        for name in names:
            self.assert_view(service, name, images[name], "after the resync")
            self.assert_file(primary[name], images[name], f"{name}: the primary's disk")
        self.assertEqual(agent.call_errors(), [])
        service.call("stop", "vm1", "--failover")
        service.wait_stage("DONE")
        for name in names:
            self.assert_file(secondary[name], images[name], f"{name}: the secondary disk")

    def assert_view(self, service, name, expected, what):
        with Disk(service.nbd_socket, f"vm1/{name}") as vm:
            self.assert_bytes(vm.read(0, len(expected)), expected, f"{name} {what}")


class ManyGroupsTest(lib.Case):
    """What a group costs while nothing happens is counted, not timed."""

    def counts(self):
        process = pathlib.Path(f"/proc/{self.service_.daemon.pid}")
        status = (process / "status").read_text()
        return (
            int(status.partition("Threads:")[2].split()[0]),
            len(list((process / "fd").iterdir())),
        )

    def segment_bytes(self):
        return sum(int(group["overlay_bytes"]) for group in self.groups().values())

    def groups(self):
        return {answer["group"]: answer for answer in self.service_.ctl("status").objects}

    def start_groups(self, names):
        for name in names:
            path = self.disk(f"{name}.raw", MIB, name.encode())
            volume = {"name": "vda", "top_id": f"{name}/vda", "disk_path": str(path)}
            self.call("Start", group=name, mode="MODE_SECONDARY", volumes=[volume])

    def call(self, method, **fields):
        answer, end = stub.call(self.service_.address, method, **fields)
        self.assertEqual(end.code, "OK", f"{method} {fields}: {end}")
        return answer

    def write(self, name, first, data):
        with stub.Stream(self.service_.address) as stream:
            stream.join({"vda": MIB}, group=name)
            stream.write(first, 0, data)
            stream.received(first)
        lib.wait_for(lambda: not self.groups()[name]["connected"], "the stream's end")

    def test_idle_groups(self):
        # A soft limit such as shells and systemd give; the service raises it to the hard one itself.
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        self.service_ = self.service()
        names = [f"vm{i:03}" for i in range(GROUPS_MANY)]
        self.start_groups(names[: GROUPS_MANY // 2])
        before = self.counts()
        self.start_groups(names[GROUPS_MANY // 2 :])
        after = self.counts()
        print(f"threads and files: {before} with {GROUPS_MANY // 2} groups, {after} with {GROUPS_MANY}", flush=True)
        self.assertLess(after[0] - before[0], 5, "threads")
        self.assertLess(after[1] - before[1], GROUPS_MANY // 2 + 10, "files: the secondary disk's and no more")
        for name in names:
            self.call("Checkpoint", group=name)
        written = names[::20]
        for name in written:
            self.write(name, 1, b"#" * 65536)
            self.call("Checkpoint", group=name)
        epochs = {name: group["committed_epoch"] for name, group in self.groups().items()}
        # Not at once: who goes on shortly would need them again.
        lib.wait_for(lambda: self.segment_bytes() == 0, "idle groups to give their segments back")
        lib.wait_for(lambda: self.counts()[1] < GROUPS_MANY + 50, "their files to be closed")
        self.assertLess(self.counts()[0], 60, "threads")
        for end in ("kill", "end"):
            getattr(self.service_.daemon, end)()
            stub.disconnect()
            self.service_.restart()
            found = self.groups()
            self.assertEqual({name: group["committed_epoch"] for name, group in found.items()}, epochs)
            self.assertEqual({group["stage"] for group in found.values()}, {"RUNNING"})
            self.assertEqual([group["errors"] for group in found.values() if group["errors"]], [])
            self.assertLess(self.counts()[0], 60, "threads")
            self.assertLess(self.counts()[1], GROUPS_MANY + 50, "files")
            for name in names:
                start = b"#" * 65536 if name in written else name.encode()
                with Disk(self.service_.nbd_socket, f"{name}/vda") as vm:
                    self.assertEqual(vm.read(0, 65536), start.ljust(65536, b"\0"), name)

    def test_few_files(self):
        """The group that would take the last files is refused, so that those which exist can all be reached at once."""
        self.service_ = lib.Service(self)
        plain = self.service_.command
        self.service_.command = lambda: ["prlimit", "--nofile=96:96", "--", *plain()]
        self.service_.start()
        started = []
        while len(started) < 96:
            name = f"vm{len(started):02}"
            path = self.disk(f"{name}.raw", MIB, name.encode())
            volume = {"name": "vda", "top_id": f"{name}/vda", "disk_path": str(path)}
            _, end = stub.call(self.service_.address, "Start", group=name, mode="MODE_SECONDARY", volumes=[volume])
            if end.code != "OK":
                break
            started.append(name)
        print(f"{len(started)} groups started with 96 files", flush=True)
        self.assertEqual(end.code, "RESOURCE_EXHAUSTED", end)
        for text in (f"group {name} needs 7 open files; of the 96", "LimitNOFILE="):
            self.assertIn(text, end.message)
        self.assertGreater(len(started), 2)
        self.assertEqual(sorted(self.groups()), started)
        data = b"#" * 65536
        with contextlib.ExitStack() as stack:
            guests = [stack.enter_context(Disk(self.service_.nbd_socket, f"{name}/vda")) for name in started]
            for name in started:
                stream = stack.enter_context(stub.Stream(self.service_.address))
                stream.join({"vda": MIB}, group=name)
                stream.write(1, 0, data)
                stream.received(1)
            for name, guest in zip(started, guests, strict=True):
                self.call("Checkpoint", group=name)
                self.assertEqual(guest.read(0, len(data)), data, name)
                guest.write(MIB // 2, data)

    def test_busy_groups_leave_as_many_files_as_idle_ones(self):
        self.service_ = self.service()
        names = [f"vm{i}" for i in range(4)]
        self.start_groups(names)
        pid = self.service_.daemon.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        spare = 5  # a connection, files of the index
        limit = self.counts()[1] + 6 * len(names) + 7 + spare
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(Disk(self.service_.nbd_socket, f"{name}/vda")).write(MIB // 2, b"v" * 4096)
                stream = stack.enter_context(stub.Stream(self.service_.address))
                stream.join({"vda": MIB}, group=name)
                stream.write(1, 0, b"#" * 4096)
                stream.received(1)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
            self.start_groups(["another"])


class Caller:
    """A connection of its own: a call that nobody repeats when the daemon dies under it."""

    def __init__(self, address):
        self.process = subprocess.Popen(
            [stub.STUB, address, "Replication"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.send("GetStatus", "{}")
        while '"end"' not in self.process.stdout.readline():
            pass

    def send(self, method, fields):
        self.process.stdin.write(f"{method} {fields}\n")
        self.process.stdin.flush()

    def wait(self):
        """Whether it succeeded; None when the daemon had died."""
        while '"end"' not in (line := self.process.stdout.readline()):
            pass
        self.close()
        return None if '"UNAVAILABLE"' in line else '"OK"' in line

    def close(self):
        self.process.kill()
        self.process.communicate()


def at(seconds):
    """Waits without sleeping: the operations take a few milliseconds."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class AtomicTest(lib.Case):
    """kill -9 in the middle of start, checkpoint and both kinds of stop, of a group of three volumes."""

    SIZE = 16384
    NAMES = ("vda", "vdb", "vdc")

    def setUp(self):
        super().setUp()
        self.hits = {}
        self.came_out = {}

    # ---- the service --------------------------------------------------------------------------------------------------------

    def image(self, letter):
        """Each volume's own, so that none can pass for another."""
        return {name: (f"{letter} {name} ".encode() * self.SIZE)[: self.SIZE] for name in self.NAMES}

    def prepare_group(self, operation):
        """A group in which the operation can be called; what the standby shows, and what was received since."""
        group = f"g{len(self.came_out)}-{operation}-{self.rng.randrange(1 << 32):08x}"
        self.disks = {name: self.disk(f"{group}.{name}", self.SIZE, data) for name, data in self.image("a").items()}
        if operation == "start":
            return group
        self.ctl_start(group)
        with stub.Stream(self.service_.address) as stream:
            stream.join({name: self.SIZE for name in self.NAMES}, group=group)
            data = self.image("b")
            operations = [stub.operation(stub.DATA, i, 0, self.SIZE) for i in range(len(self.NAMES))]
            stream.frame(1, operations, b"".join(data.values()))
            stream.received(len(self.NAMES))
        lib.wait_for(lambda: not self.status(group)["connected"], "the stream's end")
        return group

    def start_fields(self, group):
        volumes = [
            {"name": name, "top_id": f"{group}/{name}", "disk_path": str(path)} for name, path in self.disks.items()
        ]
        return {"group": group, "mode": "MODE_SECONDARY", "volumes": volumes}

    def ctl_start(self, group):
        _, end = stub.call(self.service_.address, "Start", **self.start_fields(group))
        self.assertEqual(end.code, "OK", end)

    def status(self, group):
        answer, end = stub.call(self.service_.address, "GetStatus", group=group)
        if end.code == "NOT_FOUND":
            return None
        self.assertEqual(end.code, "OK", end)
        return answer["groups"][0]

    def call_of(self, operation, group):
        return {
            "start": lambda: ("Start", stub.json.dumps(self.start_fields(group))),
            "checkpoint": lambda: ("Checkpoint", f'{{"group": "{group}"}}'),
            "stop": lambda: ("Stop", f'{{"group": "{group}"}}'),
            "failover": lambda: ("Stop", f'{{"group": "{group}", "failover": true}}'),
        }[operation]()

    def usual_time(self, operation):
        took = []
        for _ in range(5):
            group = self.prepare_group(operation)
            caller = Caller(self.service_.address)
            begun = time.perf_counter()
            caller.send(*self.call_of(operation, group))
            self.assertTrue(caller.wait())
            took.append(time.perf_counter() - begun)
        return statistics.median(took)

    def kill_within(self, daemon, operation, call, address, usual):
        """Whether the call had been answered; None: the daemon died under it. `usual` times follow what the machine does meanwhile."""
        caller = Caller(address)
        caller.send(*call)
        at(usual[operation] * 1.1 * self.rng.random() ** 2)  # more of them early: most is decided there
        daemon.kill()
        answered = caller.wait()
        usual[operation] *= 1.1 if answered is None else 0.8
        hits, calls = self.hits.get(operation, (0, 0))
        self.hits[operation] = (hits + (answered is None), calls + 1)
        return answered

    def views(self, group):
        """What the VM reads from each volume: bytes, or the name of an error."""
        views = {}
        for name in self.NAMES:
            try:
                with Disk(self.service_.nbd_socket, f"{group}/{name}") as vm:
                    views[name] = vm.read(0, self.SIZE)
            except ConnectionError:
                views[name] = "no export"
            except OSError as error:
                views[name] = errno.errorcode[error.errno]
        return views

    def all_alike(self, views, group):
        """The letter that all volumes show, or the error they all give; anything else is a mix."""
        for letter in ("a", "b"):
            if views == self.image(letter):
                return letter
        found = set(views.values())
        if len(found) == 1 and isinstance(only := found.pop(), str):
            return only
        self.fail(f"{group} shows a mix: { {name: view[:8] for name, view in views.items()} }")

    def raw_disks(self):
        return {name: path.read_bytes() for name, path in self.disks.items()}

    def check_start(self, group, status, view, answered):
        if status is None:
            self.assertEqual((view, answered), ("no export", None))
        else:
            self.assertEqual(view, "a" if status["stage"] == "STAGE_RUNNING" else "EIO", status)
            self.assertIn(status["stage"], ("STAGE_NONE", "STAGE_RUNNING"))
        if answered:
            self.assertEqual(view, "a", status)
        if view != "a":
            self.ctl_start(group)
        self.assertEqual(self.views(group), self.image("a"))

    def check_checkpoint(self, group, status, view, answered):
        self.assertEqual(status["stage"], "STAGE_RUNNING")
        self.assertEqual((view, status["committed_epoch"]), ("b", "1") if view == "b" else ("a", "0"), status)
        if answered:
            self.assertEqual(view, "b", status)

    def check_stop(self, group, status, view, answered):
        self.assertIn(status["stage"], ("STAGE_RUNNING", "STAGE_DONE"))
        if answered or status["stage"] == "STAGE_DONE":
            self.assertEqual((status["stage"], view), ("STAGE_DONE", "b"))
        _, end = stub.call(self.service_.address, "Stop", group=group)
        self.assertEqual(end.code, "OK", end)
        self.assertEqual(self.status(group)["stage"], "STAGE_DONE")
        self.assertEqual(self.all_alike(self.raw_disks(), group), "b")

    def check_failover(self, group, status, view, answered):
        self.assertEqual(view, "a", "what was never committed, or a mix")
        running = status["stage"] == "STAGE_RUNNING"
        self.assertEqual(status["term"], "1" if running else "2", status)
        self.assertFalse(answered and running, "the answer is forgotten")
        _, end = stub.call(self.service_.address, "Stop", group=group, failover=True)
        self.assertEqual(end.code, "OK", end)
        lib.wait_for(lambda: self.status(group)["stage"] == "STAGE_DONE", "DONE")
        self.assertEqual(self.all_alike(self.raw_disks(), group), "a")

    def test_service_killed_within_operations(self):
        self.service_ = self.service()
        operations = ("start", "checkpoint", "stop", "failover")
        usual = {operation: self.usual_time(operation) for operation in operations}
        print("undisturbed, ms:", {name: round(1000 * seconds, 1) for name, seconds in usual.items()}, flush=True)
        begun = time.monotonic()
        for kill in range(KILLS):
            operation = operations[kill % len(operations)]
            group = self.prepare_group(operation)
            call = self.call_of(operation, group)
            answered = self.kill_within(
                self.service_.daemon, operation, call, self.service_.address, usual
            )
            self.assertIsNot(answered, False, f"{operation} of {group} failed")
            stub.disconnect()
            self.service_.restart()
            status = self.status(group)
            view = self.all_alike(self.views(group), group)
            outcome = (operation, status["stage"].removeprefix("STAGE_") if status else "UNKNOWN", view)
            self.came_out[outcome] = self.came_out.get(outcome, 0) + 1
            getattr(self, f"check_{operation}")(group, status, view, answered)
        print(f"{KILLS} kills in {time.monotonic() - begun:.0f} s; within the operation: {self.hits}", flush=True)
        for outcome, times in sorted(self.came_out.items()):
            print("  found:", *outcome, f"{times} times", flush=True)
        for operation, (hits, calls) in self.hits.items():
            self.assertGreaterEqual(hits, calls // 4, f"too few kills fell into {operation}")

    # ---- the agent ----------------------------------------------------------------------------------------------------------

    def agent_for(self, operation, number):
        """A pair of its own: an agent that is about to be started, or one whose VM has written to every volume."""
        group = f"p{number}"
        self.disks = {name: self.disk(f"{group}.{name}", self.SIZE, data) for name, data in self.image("a").items()}
        self.ctl_start(group)
        volumes = [f"{name},size={self.SIZE}" for name in self.NAMES]
        agent = self.agent(self.service_, *volumes, name=group, group=group, options=("--ack", "received"))
        if operation != "start":
            agent.call("start", group, "--mode", "primary")
            agent.wait_connected()
            self.write_all(agent, group)
        return agent

    def write_all(self, agent, group):
        """The VM writes image b; when it returns, the service has received it."""
        for name, data in self.image("b").items():
            with Disk(agent.nbd_socket, f"{group}/{name}") as vm:
                vm.write(0, data)

    def call_of_agent(self, operation, group):
        return {
            "start": ("Start", f'{{"group": "{group}", "mode": "MODE_PRIMARY"}}'),
            "stop": ("Stop", f'{{"group": "{group}"}}'),
            "drop": ("Stop", f'{{"group": "{group}", "failover": true}}'),
        }[operation]

    def usual_time_of_agent(self, operation):
        took = []
        for number in range(3):
            agent = self.agent_for(operation, f"{operation}-usual{number}")
            caller = Caller(agent.address)
            begun = time.perf_counter()
            caller.send(*self.call_of_agent(operation, agent.group))
            self.assertTrue(caller.wait())
            took.append(time.perf_counter() - begun)
            agent.kill()
        return statistics.median(took)

    def check_agent_started(self, agent, answered):
        group = agent.group
        agent.restart()
        stage = agent.status(group)["stage"]
        self.assertIn(stage, ("RUNNING",) if answered else ("NONE", "RUNNING"))
        self.assertEqual(self.all_alike(self.views(group), group), "a")
        if stage == "NONE":
            agent.call("start", group, "--mode", "primary")
        agent.wait_connected()
        self.write_all(agent, group)
        # Whether the dead one's stream may have carried writes is known by the service; if so, nothing may be committed.
        checkpoint = agent.ctl("checkpoint", group)
        if checkpoint.status != 0:
            self.assert_refused(checkpoint, "ABORTED", "INCOMPLETE")
        self.assertEqual(self.all_alike(self.views(group), group), "b" if checkpoint.status == 0 else "a")
        return stage

    def check_agent_stopped(self, agent, answered):
        group = agent.group
        self.assertEqual(self.all_alike(self.views(group), group), "a", "no checkpoint was taken")
        _, end = stub.call(self.service_.address, "Stop", group=group, failover=True, received=True)
        self.assertEqual(end.code, "OK", end)
        self.assertEqual(self.all_alike(self.views(group), group), "b")
        lib.wait_for(lambda: self.status(group)["stage"] == "STAGE_DONE", "DONE")
        self.assertEqual(self.all_alike(self.raw_disks(), group), "b")
        agent.restart()
        stage = agent.status(group)["stage"]
        self.assertIn(stage, ("DONE",) if answered else ("RUNNING", "DONE"))
        return stage

    def test_agent_killed_within_start_and_stop(self):
        self.service_ = self.service()
        operations = ("start", "stop", "drop")
        usual = {operation: self.usual_time_of_agent(operation) for operation in operations}
        print("undisturbed, ms:", {name: round(1000 * seconds, 1) for name, seconds in usual.items()}, flush=True)
        for kill in range(AGENT_KILLS):
            operation = operations[kill % len(operations)]
            agent = self.agent_for(operation, f"{operation}-{kill}")
            call = self.call_of_agent(operation, agent.group)
            answered = self.kill_within(agent, operation, call, agent.address, usual)
            self.assertIsNot(answered, False, f"{operation} of {agent.group} failed")
            check = self.check_agent_started if operation == "start" else self.check_agent_stopped
            outcome = (operation, check(agent, answered))
            self.came_out[outcome] = self.came_out.get(outcome, 0) + 1
            agent.kill()
        print(f"{AGENT_KILLS} kills; within the operation: {self.hits}", flush=True)
        for outcome, times in sorted(self.came_out.items()):
            print("  found:", *outcome, f"{times} times", flush=True)
        self.assertGreaterEqual(sum(hits for hits, _ in self.hits.values()), AGENT_KILLS // 4, "too few kills fell into an operation")


if __name__ == "__main__":
    lib.run_tests("prlimit")

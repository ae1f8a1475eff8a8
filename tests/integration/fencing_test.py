"""After a failover nobody with an older term changes a byte, and the late primary is told."""

import shutil
import signal

import lib
import stub
from nbd import Disk, errno_of
from lib import MIB, qemu_io


class FencingTest(lib.Case):
    size = 4 * MIB

    def setUp(self):
        super().setUp()
        self.image = self.random_bytes(self.size)
        self.primary, self.secondary = (self.disk(name, self.size, self.image) for name in ("p", "s"))
        self.standby = self.service()
        self.standby.start_group(f"vda,disk={self.secondary}")

    def wait_fenced(self, agent):
        """The error of the fencing, which get-error prints with exit status 3."""

        def fenced():
            answer = agent.ctl("get-error", "vm1")
            errors = answer.object["errors"] if answer.status == 3 else []
            return [error for error in errors if error["reason"] == "FENCED"]

        return lib.wait_for(fenced, f"{agent.name} to be fenced")[0]

    def late_primary(self, *options):
        """An agent that is stopped over the failover and wakes up afterwards with a write of its guest in its queue."""
        agent = self.agent(self.standby, f"vda,disk={self.primary}", options=("--start", *options)).wait_connected()
        qemu_io(agent.uri(), "write -P 1 0 64k")
        agent.call("checkpoint", "vm1")
        self.assertIsNotNone(agent.metric("understudy_checkpoint_age_seconds"))
        agent.daemon.signal(signal.SIGSTOP)
        self.standby.call("stop", "vm1", "--failover")
        view = self.read_disk(self.standby.uri())
        agent.daemon.signal(signal.SIGCONT)
        return agent, view

    def test_a_late_agent_is_fenced_and_changes_no_byte(self):
        agent, view = self.late_primary()
        lib.wait_for(lambda: agent.daemon.events("fenced"), "the log line of the fenced agent")
        error = self.wait_fenced(agent)
        self.assertEqual((error["code"], error["reason"]), ("FAILED_PRECONDITION", "FENCED"))
        self.assertGreater(agent.metric("understudy_replication_errors_total", reason="fenced"), 0)
        # No checkpoint is due here. The pair that has taken over may be in order, and the alert
        # takes the older age.
        self.assertIsNone(agent.metric("understudy_checkpoint_age_seconds"))
        status = agent.status()
        self.assertEqual((status["stage"], status["sync_state"], status["connected"]), ("RUNNING", "DIVERGED", False))

        # By default it does not go on alone: its guest gets EIO, on the tee volume too.
        before = self.primary.read_bytes()
        for command in ("write -P 9 0 64k", "read 0 512", "discard 0 64k"):
            done = qemu_io(agent.uri(), command, check=False)
            self.assertIn("Input/output error", done.stdout + done.stderr, command)
        self.assert_file(self.primary, before, "the disk of the fenced primary")
        self.assert_refused(agent.ctl("checkpoint", "vm1"), "FAILED_PRECONDITION", "FENCED")

        # It stays fenced over its own restart.
        self.assertEqual(agent.daemon.end(), 0)
        agent.restart()
        self.wait_fenced(agent)
        refused = agent.ctl("clear-error", "vm1")
        self.assertEqual(refused.status, 1, refused.error)
        self.assertIn("the standby has another primary", refused.error)
        done = qemu_io(agent.uri(), "write -P 9 0 64k", check=False)
        self.assertIn("Input/output error", done.stdout + done.stderr)
        self.standby.wait_stage("DONE")
        self.assert_export(self.standby.uri(), view, "the standby")
        self.assert_file(self.secondary, view, "the secondary disk")

    def test_with_on_fenced_continue_the_guest_goes_on_alone(self):
        agent, view = self.late_primary("--on-fenced", "continue")
        self.wait_fenced(agent)
        qemu_io(agent.uri(), "write -P 9 0 64k", "read -P 9 0 64k")
        self.assert_export(self.standby.uri(), view, "the standby")

    def test_another_agent_is_fenced_until_it_takes_over(self):
        first = self.agent(self.standby, f"vda,disk={self.primary}").wait_connected()
        qemu_io(first.uri(), "write -P 1 0 64k")
        first.call("checkpoint", "vm1")
        second = self.agent(self.standby, f"vda,size={self.size}", name="second", options=())
        self.assert_refused(second.ctl("start", "vm1", "--mode", "primary"), "FAILED_PRECONDITION", "FENCED")
        self.assertEqual(second.status()["stage"], "NONE")
        self.assertGreater(self.standby.metric("understudy_fenced_requests_total"), 0)

        answer = second.call("start", "vm1", "--mode", "primary", "--takeover")
        self.assertEqual((answer["stage"], int(answer["term"])), ("RUNNING", 2))
        second.wait_connected()
        self.wait_fenced(first)
        done = qemu_io(first.uri(), "write -P 9 0 64k", check=False)
        self.assertIn("Input/output error", done.stdout + done.stderr)
        self.assert_export(self.standby.uri(), b"\1" * 65536 + self.image[65536:], "the standby")


class TakeoverTest(lib.Case):
    """A fenced primary that is to take over serves its VM when that is granted, and not before."""

    size = MIB

    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.standby.start_group(f"vda,disk={self.disk('s', self.size)}")
        self.agent_a = self.agent(self.standby, f"vda,disk={self.disk('p', self.size)}").wait_connected()

    def take_over(self):
        return self.agent_a.ctl("start", "vm1", "--mode", "primary", "--takeover")

    def assert_stopped(self):
        with Disk(self.agent_a.nbd_socket, "vm1/vda") as guest:
            self.assertEqual(errno_of(guest.write, 0, b"\x99" * 512), "EIO")
        self.assertEqual(self.agent_a.status()["stage"], "RUNNING")
        self.assertEqual([error["reason"] for error in self.agent_a.call_errors()], ["FENCED"])

    def test_one_that_is_refused_changes_nothing(self):
        self.standby.call("stop", "vm1", "--failover")
        lib.wait_for(self.agent_a.call_errors, "the agent to be fenced")
        for restarted in (False, True):
            if restarted:
                self.agent_a.kill()
                self.agent_a.restart()
            self.assert_refused(self.take_over(), "FAILED_PRECONDITION", "takes no more writes: stop this primary (FENCED)")
            self.assert_stopped()

    def test_while_the_standby_is_away(self):
        second = self.agent(self.standby, f"vda,size={self.size}", name="second", options=())
        second.call("start", "vm1", "--mode", "primary", "--takeover")
        lib.wait_for(self.agent_a.call_errors, "the agent to be fenced")
        second.kill()
        self.standby.kill()
        answer = self.take_over()
        self.assertEqual((answer.status, answer.object["stage"], answer.object["term"]), (0, "RUNNING", 0), answer.error)
        self.assert_stopped()
        self.standby.restart()
        self.agent_a.wait_connected()
        self.assertEqual((self.agent_a.status()["term"], self.agent_a.call_errors()), (3, []))
        qemu_io(self.agent_a.uri(), "write -q -P 5 0 64k")
        self.agent_a.call("checkpoint", "vm1")
        self.assert_export(self.standby.uri(), b"\5" * 65536 + bytes(self.size - 65536), "the standby")


class FencedTest(lib.Case):
    """Each way in which an old primary may come back: no byte of the standby changes, and the one who came is told FENCED."""

    size = 2 * MIB

    def setUp(self):
        super().setUp()
        self.image = self.random_bytes(self.size)
        self.primary, self.secondary = (self.disk(name, self.size, self.image) for name in ("p", "s"))
        self.standby = self.service()
        self.start_standby()

    def start_standby(self):
        return self.standby.start_group(f"vda,disk={self.secondary}")

    def tee(self, *options, name="agent"):
        disk = self.primary if name == "agent" else self.disk(f"{name}.raw", self.size, self.image)
        return self.agent(self.standby, f"vda,disk={disk}", name=name, options=options)

    def forward(self, *options, name="agent"):
        return self.agent(self.standby, f"vda,size={self.size}", name=name, options=options)

    def checkpointed(self, agent):
        """Something of it is at the standby, committed."""
        agent.wait_connected()
        qemu_io(agent.uri(), "write -q -P 1 0 64k")
        agent.call("checkpoint", "vm1")
        return agent

    def fail_over(self):
        self.standby.call("stop", "vm1", "--failover")
        self.standby.wait_stage("DONE")

    def bytes_now(self):
        """What must not change: the VM's view and the raw disk."""
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            return guest.read(0, self.size), self.secondary.read_bytes()

    def fenced_errors(self, agent):
        answer = agent.ctl("get-error", "vm1")
        return [e for e in answer.object["errors"] if e["reason"] == "FENCED"] if answer.status == 3 else []

    def assert_told(self, agent):
        """In its log, GetError, status and metrics."""
        error = lib.wait_for(lambda: self.fenced_errors(agent), f"{agent.name} to be fenced")[0]
        self.assertEqual((error["code"], error["operation"]), ("FAILED_PRECONDITION", "connect"))
        status = agent.status()
        self.assertEqual((status["stage"], status["sync_state"], status["connected"]), ("RUNNING", "DIVERGED", False))
        self.assertTrue(agent.daemon.events("fenced"), agent.daemon.log())
        self.assertGreater(agent.metric("understudy_replication_errors_total", reason="fenced"), 0)

    def assert_stopped(self, agent):
        """Its guest gets EIO, for reads and flushes, too."""
        before = self.primary.read_bytes()
        with Disk(agent.nbd_socket, "vm1/vda") as guest:
            for request in (
                lambda: guest.read(0, 512), lambda: guest.write(0, b"\x99" * 512), lambda: guest.write_zeroes(0, 512),
                lambda: guest.trim(0, 512), guest.flush,
            ):  # fmt: skip
                self.assertEqual(errno_of(request), "EIO")
        self.assert_file(self.primary, before, "the disk of the fenced primary")

    def test_a_late_agent_with_writes_in_its_queue(self):
        """Stopped over the failover, then continued: tee and forward, --on-fenced=stop and continue."""
        for make in (self.tee, self.forward):
            for on_fenced in ("stop", "continue"):
                with self.subTest(make.__name__, on_fenced=on_fenced):
                    agent = self.checkpointed(make("--start", "--on-fenced", on_fenced, name=f"{make.__name__}-{on_fenced}"))
                    # The service hears nothing of these: they stay in the queue.
                    self.standby.daemon.signal(signal.SIGSTOP)
                    with Disk(agent.nbd_socket, "vm1/vda") as guest:
                        for offset in range(0, self.size, 128 * 1024):
                            guest.write(offset, b"\x99" * 4096)
                    agent.daemon.signal(signal.SIGSTOP)
                    self.standby.daemon.signal(signal.SIGCONT)
                    self.fail_over()
                    before = self.bytes_now()
                    agent.daemon.signal(signal.SIGCONT)
                    self.assert_told(agent)
                    with Disk(agent.nbd_socket, "vm1/vda") as guest:
                        goes_on = make == self.tee and on_fenced == "continue"
                        self.assertEqual(errno_of(guest.write, 0, b"\x98" * 512), "ok" if goes_on else "EIO")
                        if goes_on:
                            self.assertEqual(guest.read(0, 512), b"\x98" * 512)
                            guest.flush()
                    self.assertEqual(self.bytes_now(), before)
                    agent.kill()
                    self.standby.call("remove", "vm1")
                    self.start_standby()

    def test_an_agent_that_its_supervisor_starts_again_after_the_failover(self):
        """After kill -9 and after an orderly end, whose stream could be continued if nothing had happened; again and again."""
        for orderly in (False, True):
            with self.subTest(orderly=orderly):
                agent = self.checkpointed(self.tee("--start"))
                agent.daemon.end() if orderly else agent.kill()
                self.fail_over()
                before = self.bytes_now()
                for _ in range(2):
                    agent.restart()
                    self.assert_stopped_when_told(agent)
                    agent.kill()
                self.assertEqual(self.bytes_now(), before)
                shutil.rmtree(self.dir / "agent.state")
                self.standby.call("remove", "vm1")
                self.start_standby()

    def assert_stopped_when_told(self, agent):
        lib.wait_for(lambda: self.fenced_errors(agent), "the agent to be fenced")
        self.assert_stopped(agent)

    def test_remove_and_a_new_start_let_no_old_agent_in(self):
        agent = self.checkpointed(self.tee("--start"))
        agent.daemon.signal(signal.SIGSTOP)
        self.fail_over()
        old = self.standby.status()["incarnation"]
        self.standby.call("remove", "vm1")
        self.start_standby()
        self.assertNotEqual(self.standby.status()["incarnation"], old)
        before = self.bytes_now()
        agent.daemon.signal(signal.SIGCONT)
        self.assert_told(agent)
        self.assert_stopped(agent)
        self.assertEqual(self.bytes_now(), before)
        self.assertEqual(self.standby.status()["agent_id"], "", "the old agent was bound")

    def test_a_wiped_data_directory_lets_no_old_agent_in(self):
        agent = self.checkpointed(self.tee("--start"))
        self.standby.kill()
        shutil.rmtree(self.standby.data_dir)
        self.standby.restart()
        lib.wait_for(
            lambda: any(e["code"] == "NOT_FOUND" for e in agent.call_errors()), "the agent to say that its group is unknown"
        )
        started = self.start_standby()
        self.assertEqual(int(started["term"]), 1, "the same term as before: only the incarnation tells")
        before = self.bytes_now()
        self.assert_told(agent)
        self.assert_stopped(agent)
        self.assertEqual(self.bytes_now(), before)

    def restored(self, agent, then):
        """The service with the data directory of before `then`, which changed the world; the agent as it was then."""
        agent.daemon.end()  # in order: its stream could be continued, which is the worst case
        self.standby.kill()
        for original in (self.standby.data_dir, self.dir / "agent.state"):
            shutil.copytree(original, f"{original}.copy")
        self.standby.restart()
        then()
        self.standby.kill()
        for original in (self.standby.data_dir, self.dir / "agent.state"):
            shutil.rmtree(original)
            shutil.move(f"{original}.copy", original)
        self.standby.restart()

    def assert_not_let_in(self, agent):
        """The group says that its data directory is old; nobody can write, and nothing of the disk is changed."""
        raw = self.secondary.read_bytes()
        (error,) = self.standby.call_errors()
        self.assertEqual((error["operation"], error["code"]), ("open", "DATA_LOSS"), error)
        self.assertIn("an older copy", error["message"])
        agent.restart()
        qemu_io(agent.uri(), "write -q -P 153 0 64k")
        with Disk(self.standby.nbd_socket, "vm1/vda") as guest:
            self.assertEqual(errno_of(guest.read, 0, 512), "EIO")
            self.assertEqual(errno_of(guest.write, 0, bytes(512)), "EIO")
        answer = agent.ctl("checkpoint", "vm1", timeout="2s")
        self.assertEqual((answer.status, answer.out), (1, ""))
        self.assertFalse(agent.status()["connected"])
        self.assert_file(self.secondary, raw, "the raw disk")
        agent.kill()
        # The way out: give it up, and start afresh.
        self.standby.call("stop", "vm1", "--failover")
        self.standby.wait_stage("FAILOVER_FAILED")
        self.assert_file(self.secondary, raw, "the raw disk after the failover")
        self.standby.call("remove", "vm1", "--force")
        self.start_standby()

    def test_a_data_directory_of_before_the_failover(self):
        agent = self.checkpointed(self.tee("--start"))

        def failover():
            self.fail_over()
            qemu_io(self.standby.uri(), "write -q -P 3 1M 64k")

        self.restored(agent, failover)
        self.assert_not_let_in(agent)

    def test_a_data_directory_of_before_a_takeover(self):
        agent = self.checkpointed(self.tee("--start"))

        def takeover():
            second = self.forward(name="second")
            self.assertEqual(int(second.call("start", "vm1", "--mode", "primary", "--takeover")["term"]), 2)
            second.wait_connected()
            self.assertEqual(second.daemon.end(), 0)

        self.restored(agent, takeover)
        self.assert_not_let_in(agent)

    def test_a_second_agent_changes_nothing_and_is_told(self):
        first = self.checkpointed(self.tee("--start"))
        before, refused = self.bytes_now(), self.standby.metric("understudy_fenced_requests_total")
        second = self.forward(name="second")
        answer = second.ctl("start", "vm1", "--mode", "primary")
        self.assert_refused(answer, "FAILED_PRECONDITION", "(FENCED)")
        self.assertGreater(self.standby.metric("understudy_fenced_requests_total"), refused)
        self.assertGreater(second.metric("understudy_replication_errors_total", reason="fenced"), 0)
        self.assertEqual([event["reason"] for event in second.daemon.events("start_refused")], ["FENCED"])
        self.assert_refused(second.ctl("get-error", "vm1"), "FAILED_PRECONDITION", "not running; its last start was refused: group vm1")
        self.assertEqual([error["reason"] for error in second.status()["errors"]], ["FENCED"])
        self.assertEqual(self.bytes_now(), before)
        # The first one has not noticed.
        qemu_io(first.uri(), "write -q -P 2 0 64k")
        self.assertEqual(int(first.call("checkpoint", "vm1")["epoch"]), 2)

    def test_a_takeover_after_the_death_of_the_old_host_is_one_call(self):
        first = self.checkpointed(self.tee("--start"))
        first.kill()
        second = self.forward(name="second")
        self.assert_refused(second.ctl("start", "vm1", "--mode", "primary"), "FAILED_PRECONDITION", "(FENCED)")
        answer = second.call("start", "vm1", "--mode", "primary", "--takeover")
        self.assertEqual((answer["stage"], int(answer["term"])), ("RUNNING", 2))
        second.wait_connected()
        before = self.bytes_now()
        first.restart()  # the host was not as dead as it seemed
        self.assert_told(first)
        self.assert_stopped(first)
        self.assertEqual(self.bytes_now(), before)
        self.assertTrue(second.status()["connected"])

    def test_a_takeover_fences_the_running_primary_at_once(self):
        """Its stream ends with FENCED, not with something that it would try again after."""
        first = self.checkpointed(self.tee("--start"))
        second = self.forward(name="second")
        second.call("start", "vm1", "--mode", "primary", "--takeover")
        self.assert_told(first)
        closed = first.daemon.events("stream_closed")
        self.assertEqual(len(closed), 1, closed)
        self.assertIn("has taken over", closed[0]["status"])
        self.assertEqual([error["reason"] for error in first.call_errors()], ["FENCED"])

    def test_a_replayed_stream(self):
        """The very messages of an earlier stream, sent again by somebody who has recorded them."""
        volumes = {"vda": self.size}

        def replay(known, agent="raw", stream=1, **frame):
            """A handshake with this grant, and if it is let in, a frame: how it ends."""
            before = self.bytes_now()
            with stub.Stream(self.standby.address) as old:
                end = old.join(volumes, agent=agent, stream=stream, grant=known)
                if not isinstance(end, stub.End):
                    sequence = int(end["received_sequence"]) + 1
                    old.frame(sequence, [stub.operation(stub.DATA, 0, 0, 512), stub.operation(stub.CHECKPOINT)], b"\x99" * 512, **frame)
                    end = old.end()
            self.assertEqual((end.code, end.reason), ("FAILED_PRECONDITION", "FENCED"), end)
            self.assertEqual(self.bytes_now(), before)
            return end

        with stub.Stream(self.standby.address) as raw:
            raw.join(volumes)
            first = raw.grant
            raw.frame(1, [stub.operation(stub.DATA, 0, 0, 512), stub.operation(stub.CHECKPOINT)], b"\x01" * 512)
            raw.next(lambda a: "ack" in a and int(a["ack"]["committed_epoch"]) == 1)
        with stub.Stream(self.standby.address) as other:
            other.join(volumes, agent="other", stream=2, takeover=True)
            second = other.grant
        self.assertEqual((second[0], second[1]), (first[0], 2))
        self.assertEqual(replay(first).term, "2", "the old handshake after a takeover")
        replay(first, agent="other", stream=2)  # in the new owner's name
        replay(second, agent="other", stream=2, grant=first)  # old frames in a new stream
        replay(second, agent="other", stream=2, grant=(second[0], 3))  # from the future
        replay(second)  # the old agent with the new grant
        self.assertGreaterEqual(self.standby.metric("understudy_fenced_requests_total"), 5)
        self.fail_over()
        self.assertEqual(replay(second, agent="other", stream=2).term, "3", "after the failover")
        replay((b"", 0))  # as if it were new
        self.standby.call("remove", "vm1")
        self.start_standby()
        replay(first)
        replay(second, agent="other", stream=2)


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", at_once=2)

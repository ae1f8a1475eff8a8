"""Control calls whose answer is lost on the way, or whose daemon dies under them, are repeated under their request id."""

import signal
import socket
import subprocess
import threading

import lib
from lib import MIB, qemu_io


class LossyProxy:
    """Between understudyctl and a daemon: passes everything on, but of `lose` answers nothing, and breaks the connection instead.

    HTTP/2 frames are told apart, so that the connection is set up and the call is sent: the first HEADERS or DATA that comes back
    is the answer.
    """

    def __init__(self, case, target):
        self.target = str(target).removeprefix("unix:")
        path = case.dir / f"proxy{id(self)}.sock"
        self.address = f"unix:{path}"
        self.lose = 0
        self.lost = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        case.addCleanup(self.listener.close)

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.target)
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._copy, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    @staticmethod
    def _shut(*sockets):
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()

    def _copy(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        self._shut(source, target)

    @staticmethod
    def _exactly(source, count):
        data = b""
        while len(data) < count:
            more = source.recv(count - len(data))
            if not more:
                raise OSError("closed")
            data += more
        return data

    def _answers(self, source, target):
        try:
            while True:
                head = self._exactly(source, 9)
                body = self._exactly(source, int.from_bytes(head[:3], "big"))
                if head[3] in (0, 1) and self.lose > 0:
                    self.lose -= 1
                    self.lost += 1
                    break
                target.sendall(head + body)
        except OSError:
            pass
        self._shut(source, target)


class RepeatTest(lib.Case):
    size = 4 * MIB

    def setUp(self):
        super().setUp()
        self.secondary = self.disk("s", self.size)
        self.standby = self.service("--history-epochs", "10")
        self.proxy = LossyProxy(self, self.standby.address)

    def start_pair(self):
        self.standby.start_group(f"vda,disk={self.secondary}")
        self.host = self.agent(self.standby, f"vda,disk={self.disk('p', self.size)}").wait_connected()

    def lose(self, request_id, *words, at=None):
        """The call is done, and its caller never hears of it."""
        proxy = at or self.proxy
        proxy.lose, before = 1000, proxy.lost
        caller = subprocess.Popen(
            [lib.CTL, "--server", proxy.address, "--timeout", "60s", "--request-id", request_id, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        lib.wait_for(lambda: proxy.lost > before or caller.poll() is not None, "the answer to be lost")
        caller.kill()
        out, _ = caller.communicate()
        proxy.lose = 0
        self.assertGreater(proxy.lost, before, "the call was never answered")
        self.assertEqual(out, b"")

    def repeat(self, request_id, *words):
        answer = self.standby.ctl("--request-id", request_id, *words)
        self.assertEqual(answer.status, 0, f"{words}: {answer.error}")
        return answer.object

    def life(self, between):
        """Every call once, its answer lost, then `between`, then the same call again."""
        declared = ("vm1", "--mode", "secondary", "--volume", f"vda,disk={self.secondary}")
        self.lose("open-1", "open", *declared)
        self.proxy.lose = 1000
        answer = lib.ctl(self.proxy.address, "--request-id", "open-1", "open", *declared, timeout="5s")
        self.proxy.lose = 0
        self.assertEqual(answer.status, 1, answer.out)
        self.assertTrue(answer.error.startswith(("error: UNAVAILABLE", "error: DEADLINE_EXCEEDED")), answer.error)
        between()
        opened = self.repeat("open-1", "open", *declared)
        self.assertEqual((opened["stage"], opened["ignored"]), ("NONE", False))
        self.assertTrue(self.standby.call("open", *declared)["ignored"])

        start = ("start", *declared)
        self.lose("start-1", *start)
        status = self.standby.status()
        between()
        started = self.repeat("start-1", *start)
        self.assertEqual(started["incarnation"], status["incarnation"])
        self.assertEqual((started["stage"], started["term"], started["ignored"]), ("RUNNING", status["term"], False))
        self.assert_refused(self.standby.ctl(*start), "FAILED_PRECONDITION", "running or done")

        self.lose("checkpoint-1", "checkpoint", "vm1")
        between()
        self.assertEqual(self.repeat("checkpoint-1", "checkpoint", "vm1")["epoch"], 1)
        self.assertEqual(self.repeat("checkpoint-1", "checkpoint", "vm1")["epoch"], 1)
        self.assertEqual(self.repeat("checkpoint-2", "checkpoint", "vm1")["epoch"], 2)
        self.assertEqual(self.standby.status()["committed_epoch"], 2)

        self.assert_refused(
            self.standby.ctl("--request-id", "checkpoint-1", "stop", "vm1"), "INVALID_ARGUMENT", "names another call"
        )
        self.assertEqual(self.standby.status()["stage"], "RUNNING")

        self.lose("stop-1", "stop", "vm1", "--failover")
        between()
        stopped = self.repeat("stop-1", "stop", "vm1", "--failover")
        self.assertEqual((stopped["ignored"], stopped["epoch"]), (False, 2))
        self.assertEqual(stopped["term"], status["term"] + 1)
        self.standby.wait_stage("DONE")

        self.lose("remove-1", "remove", "vm1")
        between()
        self.assertEqual(self.repeat("remove-1", "remove", "vm1")["stage"], "NONE")
        self.assert_refused(self.standby.ctl("remove", "vm1"), "NOT_FOUND", "vm1")

    def steps(self, between):
        """The same with the steps of a lock-step checkpoint, and with a planned stop."""
        self.start_pair()
        agents = LossyProxy(self, self.host.address)
        self.lose("prepare-1", "checkpoint", "vm1", "--prepare", at=agents)
        between()
        answer = self.host.ctl("--request-id", "prepare-1", "checkpoint", "vm1", "--prepare")
        self.assertEqual((answer.status, answer.object["epoch"]), (0, 1), answer.error)
        self.assertEqual(self.standby.status()["prepared_epoch"], 1, "not a second one")
        for _ in range(2):
            self.lose("commit-1", "checkpoint", "vm1", "--commit", "1")
            between()
            self.assertEqual(self.repeat("commit-1", "checkpoint", "vm1", "--commit", "1")["epoch"], 1)
        self.assertEqual(self.standby.status()["committed_epoch"], 1)

        self.host.wait_connected()
        self.assertEqual(self.host.call("checkpoint", "vm1", "--prepare")["epoch"], 2)
        self.lose("abandon-1", "checkpoint", "vm1", "--abandon")
        between()
        abandoned = self.repeat("abandon-1", "checkpoint", "vm1", "--abandon")
        self.assertEqual((abandoned["ignored"], abandoned["epoch"]), (False, 2))
        self.assertTrue(self.standby.call("checkpoint", "vm1", "--abandon")["ignored"])

        self.host.call("stop", "vm1")
        self.lose("stop-1", "stop", "vm1")
        between()
        stopped = self.repeat("stop-1", "stop", "vm1")
        self.assertEqual((stopped["stage"], stopped["ignored"]), ("DONE", False))
        self.assertTrue(self.standby.call("stop", "vm1")["ignored"])

    def kill_and_restart(self):
        self.standby.kill()
        self.standby.restart()

    def test_every_answer_that_is_lost_can_be_had_again(self):
        self.life(lambda: None)

    def test_and_over_kill_9(self):
        self.life(self.kill_and_restart)

    def test_the_steps_of_a_checkpoint_and_a_planned_stop(self):
        self.steps(lambda: None)

    def test_and_these_over_kill_9(self):
        self.steps(self.kill_and_restart)

    def test_clones_and_scrubs(self):
        self.start_pair()
        self.host.call("checkpoint", "vm1")
        self.lose("clone-1", "clone", "vm1", "--name", "drill")
        clone = self.repeat("clone-1", "clone", "vm1", "--name", "drill")["clone"]
        self.assertEqual((clone["name"], clone["epoch"]), ("drill", 1))
        self.assert_refused(self.standby.ctl("clone", "vm1", "--name", "drill"), "ALREADY_EXISTS", "drill")
        self.lose("remove-clone-1", "clone", "vm1", "--remove", "drill")
        self.repeat("remove-clone-1", "clone", "vm1", "--remove", "drill")
        self.assert_refused(self.standby.ctl("clone", "vm1", "--remove", "drill"), "NOT_FOUND", "drill")
        self.lose("scrub-1", "scrub", "vm1")
        number = self.standby.status()["scrub"]["number"]
        self.repeat("scrub-1", "scrub", "vm1", "--wait")
        self.assertEqual(self.standby.status()["scrub"]["number"], number, "no second scrub")

        # A restart ends clones: the same call makes one, it does not tell of one that is gone.
        self.repeat("clone-2", "clone", "vm1", "--name", "drill")
        self.standby.kill()
        self.standby.restart()
        self.assertEqual(self.standby.call("clone", "vm1", "--list")["clones"], [])
        self.repeat("clone-2", "clone", "vm1", "--name", "drill")
        self.assertEqual(len(self.standby.call("clone", "vm1", "--list")["clones"]), 1)

    def test_understudyctl_asks_again_by_itself(self):
        self.standby.start_group(f"vda,disk={self.secondary}")
        self.proxy.lose = 2
        answer = lib.ctl(self.proxy.address, "checkpoint", "vm1")
        self.assertEqual(answer.status, 0, answer.error)
        self.assertEqual(self.proxy.lost, 2)
        self.assertEqual((answer.object["epoch"], self.standby.status()["committed_epoch"]), (1, 1))

    def test_the_agents_calls_too(self):
        self.start_pair()
        proxy = LossyProxy(self, self.host.address)
        qemu_io(self.host.uri(), "write -P 1 0 64k")
        self.lose("c1", "checkpoint", "vm1", at=proxy)
        epoch = self.standby.status()["committed_epoch"]
        for restarted in (False, True):
            if restarted:
                self.assertEqual(self.host.daemon.end(), 0)
                self.host.restart()
                self.host.wait_connected()
            answer = self.host.ctl("--request-id", "c1", "checkpoint", "vm1")
            self.assertEqual((answer.status, answer.object["epoch"]), (0, epoch), answer.error)
            self.assertEqual(self.standby.status()["committed_epoch"], epoch)
        self.lose("s1", "stop", "vm1", at=proxy)
        self.assertFalse(self.host.ctl("--request-id", "s1", "stop", "vm1").object["ignored"])
        self.assertTrue(self.host.ctl("stop", "vm1").object["ignored"])
        self.host.kill()
        self.host.restart()
        self.assertFalse(self.host.ctl("--request-id", "s1", "stop", "vm1").object["ignored"])
        self.lose("r1", "remove", "vm1", at=proxy)
        self.assertEqual(self.host.ctl("--request-id", "r1", "remove", "vm1").status, 0)
        start = ("start", "vm1", "--mode", "primary")
        self.lose("s2", *start, at=proxy)
        self.assertEqual(self.host.ctl("--request-id", "s2", *start).object["stage"], "RUNNING")
        self.assert_refused(self.host.ctl(*start), "FAILED_PRECONDITION", "running or done")

    def test_a_takeover_whose_agent_dies_under_it(self):
        """It waits for a little of the resync of the disk, which another one may have written to."""
        self.secondary.unlink()
        self.secondary, self.size = self.disk("s", 256 * MIB), 256 * MIB
        self.start_pair()
        second = self.agent(self.standby, f"vda,size={self.size}", name="second", options=())
        second.call("start", "vm1", "--mode", "primary", "--takeover")
        lib.wait_for(self.host.call_errors, "the first one to be fenced")
        second.kill()
        words = ("--request-id", "t1", "start", "vm1", "--mode", "primary", "--takeover")
        process = self.spawn(*words, timeout="30s", at=self.host.address)
        lib.wait_for(lambda: len(self.host.daemon.events("stream_connected")) > 1, "the takeover to be granted")
        self.host.kill()
        self.host.restart()
        self.assertEqual(self.finish(process)["term"], 3)
        self.assertEqual(self.host.ctl(*words).object["term"], 3)
        self.assert_refused(self.host.ctl(*words[2:]), "FAILED_PRECONDITION", "running or done")

    # ---- while the first one is at work -----------------------------------------------------------------------------------

    def spawn(self, *words, timeout="60s", at=None):
        process = subprocess.Popen(
            [lib.CTL, "--server", at or self.standby.address, "--json", "--timeout", timeout, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(process.kill)
        return process

    def wait_begun(self):
        journal = self.standby.data_dir / "requests"
        lib.wait_for(lambda: b"\tCheckpointRequest " in (journal.read_bytes() if journal.exists() else b""), "the call to be at work")

    def finish(self, process):
        out, error = process.communicate(timeout=lib.PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 0, error)
        return lib.json.loads(out)

    def test_a_second_call_joins_the_first_and_a_gone_caller_stops_nothing(self):
        self.start_pair()
        self.host.daemon.signal(signal.SIGSTOP)
        first, second, gone = (self.spawn("--request-id", "c1", "checkpoint", "vm1") for _ in range(3))
        self.addCleanup(gone.communicate)
        self.wait_begun()
        lib.time.sleep(0.5)
        gone.kill()
        self.host.daemon.signal(signal.SIGCONT)
        self.assertEqual((self.finish(first)["epoch"], self.finish(second)["epoch"]), (1, 1))
        self.assertEqual(self.standby.status()["committed_epoch"], 1)

    def test_what_was_begun_before_the_deadline_is_waited_for_by_the_next_call(self):
        self.start_pair()
        self.host.daemon.signal(signal.SIGSTOP)
        late = self.standby.ctl("--request-id", "c1", "checkpoint", "vm1", timeout="700ms")
        self.assertEqual(late.status, 1)
        self.assertTrue(late.error.startswith("error: DEADLINE_EXCEEDED: "), late.error)
        self.host.daemon.signal(signal.SIGCONT)
        self.assertEqual(self.repeat("c1", "checkpoint", "vm1")["epoch"], 1)
        self.assertEqual(self.standby.status()["committed_epoch"], 1, "one marker, one epoch")

    def test_a_daemon_that_is_slow_to_take_a_connection_is_waited_for(self):
        self.start_pair()
        self.standby.daemon.signal(signal.SIGSTOP)
        call = self.spawn("status", "vm1")
        lib.time.sleep(2.5)
        self.standby.daemon.signal(signal.SIGCONT)
        self.finish(call)

    def test_a_service_that_is_killed_under_a_call_is_asked_again_by_understudyctl(self):
        self.start_pair()
        self.host.daemon.signal(signal.SIGSTOP)
        call = self.spawn("checkpoint", "vm1")
        self.wait_begun()
        self.standby.kill()
        self.host.daemon.signal(signal.SIGCONT)
        self.standby.restart()
        self.assertEqual(self.finish(call)["epoch"], self.standby.status()["committed_epoch"])


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", at_once=2)

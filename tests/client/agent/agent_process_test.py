"""The agent as a process: where its flags come from, checkpoints by itself, SIGTERM in the middle of a load."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "integration"))

import lib  # noqa: E402
from lib import MIB, qemu_io, run  # noqa: E402


class FlagsTest(lib.Case):
    def refused(self, *flags, **environment):
        """What the program says of a command line that it refuses; nothing is started."""
        variables = {f"UNDERSTUDY_{key.upper()}": value for key, value in environment.items()}
        done = run(lib.AGENT, *flags, check=False, env={**os.environ, **variables})
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr

    def test_a_flag_beats_the_file_and_the_file_beats_the_environment(self):
        config = self.dir / "agent.toml"
        config.write_text('ack = "of-file"\non-full = "of-file"\n')
        said = self.refused("--config", config, "--ack", "of-flag", ack="of-env", on_full="of-env", on_fenced="of-env")
        self.assertIn('--ack: "of-flag" is not one of durable, forwarded, received', said)
        self.assertIn('--on-full: "of-file" is not one of block, degrade', said)
        self.assertIn('--on-fenced: "of-env" is not one of continue, stop', said)
        self.assertEqual(said.count("is not one of"), 3, said)

    def test_everything_wrong_is_said_at_once(self):
        config = self.dir / "agent.toml"
        config.write_text('no-such-key = "1"\n')
        said = self.refused(
            "--config", config, "--no-such-flag", "--window-bytes=1M", "--start=perhaps", "--volume", "vda", stall_timeout="soon"
        )  # fmt: skip
        for problem in (
            "--no-such-flag", "no-such-key", "--window-bytes", "--start", "--stall-timeout", "volume vda has no disk",
            "--server is required", "--nbd-socket is required", "--group is required",
        ):  # fmt: skip
            self.assertIn(problem, said)


class RunningTest(lib.Case):
    size = 8 * MIB

    def pair(self, *options):
        image = self.random_bytes(self.size)
        self.primary = self.disk("p", self.size, image)
        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', self.size, image)}")
        agent = self.agent(service, f"vda,disk={self.primary}", options=("--start", *options)).wait_connected()
        return service, agent

    def load(self, agent):
        """A guest that writes as fast as it can; it ends with an error when the agent goes."""
        process = subprocess.Popen(
            [
                "fio", "--name=load", "--ioengine=nbd", f"--uri={agent.uri()}", "--rw=randwrite", "--bsrange=4k-32k", "--iodepth=16",
                f"--size={self.size}", f"--randseed={self.rng.randrange(1 << 31)}", "--refill_buffers", "--norandommap",
                "--time_based", "--runtime=60",
            ],
            cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_checkpoints_by_itself(self):
        service, agent = self.pair("--checkpoint-interval", "100ms")
        qemu_io(agent.uri(), "write -P 3 0 1M")
        written = int(agent.status()["epoch"])
        lib.wait_for(lambda: int(agent.status()["epoch"]) >= written + 3, "three checkpoints that nobody asked for")
        self.assert_export(service.uri(), self.primary.read_bytes(), "after checkpoints by interval")
        self.assertGreaterEqual(agent.metric("understudy_checkpoints_total", group="vm1", result="ok"), 3)
        self.assertEqual(agent.metric("understudy_checkpoint_interval_target_seconds", volume="vda"), 0.1)
        self.assertEqual(agent.ctl("get-error", "vm1").status, 0)

    def test_sigterm_under_load_leaves_nothing_behind_that_the_standby_lacks(self):
        """What was answered before the end is on both disks, and the stream goes on: not once INCOMPLETE."""
        service, agent = self.pair()
        for round_number in range(6):
            load = self.load(agent)
            start = agent.metric("understudy_io_requests_total", op="write")
            lib.wait_for(lambda: agent.metric("understudy_io_requests_total", op="write") > start + 500, "the load")
            self.assertIsNone(load.poll())
            self.assertEqual(agent.daemon.end(), 0)
            load.wait(lib.PATIENCE_SECONDS)
            agent.restart()
            agent.wait_connected()
            self.assertFalse(service.status()["incomplete"], f"round {round_number}")
            answer = agent.ctl("checkpoint", "vm1")
            self.assertEqual(answer.status, 0, f"round {round_number}: {answer.error}")
            self.assert_export(service.uri(), self.primary.read_bytes(), f"round {round_number}")
            self.assertEqual(agent.ctl("get-error", "vm1").status, 0, f"round {round_number}")

    def test_state_that_lies_beside_the_disk_is_not_forgotten(self):
        """As the unit does it now, and did not before: with a new state directory the agent would be another one, which is fenced."""
        service, agent = self.pair()
        self.assertEqual(agent.daemon.end(), 0)
        (self.dir / "agent.state").rename(f"{self.primary}.state")
        refused = agent.spawn()
        self.assertEqual(refused.process.wait(lib.PATIENCE_SECONDS), 1)
        for text in (f"{self.primary}.state", f"{self.dir}/agent.state", "move the files"):
            self.assertIn(text, refused.log())
        pathlib.Path(f"{self.primary}.state").rename(self.dir / "agent.state")
        agent.restart().wait_connected()

    def test_who_may_connect_to_the_socket(self):
        service, agent = self.pair()
        for socket in (service.nbd_socket, agent.nbd_socket):
            self.assertEqual(socket.stat().st_mode & 0o777, 0o660)
            self.assertEqual(socket.stat().st_gid, os.getegid())
        for end in (service, agent):
            end.daemon.end()
            end.options = (*end.options, "--nbd-socket-mode", "606", "--nbd-socket-group", str(os.getegid()))
            end.restart()
            self.assertEqual(end.nbd_socket.stat().st_mode & 0o777, 0o606)
            plain = end.command()
            for flag, value in (("--nbd-socket-mode", "rw"), ("--nbd-socket-group", "no-such-group")):
                answer = run(*plain, flag, value, check=False)
                self.assertEqual(answer.returncode, 2, answer.stderr)
                self.assertIn(flag, answer.stderr)
                self.assertIn(value, answer.stderr)

    def test_stop_and_remove_at_both_ends_then_start_afresh(self):
        """The agent's process stays, so it must not go on with the stream that it had."""
        service, agent = self.pair()
        for fill in (1, 2, 3):
            qemu_io(agent.uri(), f"write -P {fill} {fill * 64}k 64k")
            self.assertEqual(int(agent.call("checkpoint", "vm1")["epoch"]), 1)
            self.assert_export(service.uri(), self.primary.read_bytes(), f"start {fill}")
            for end in (agent, service):
                end.call("stop", "vm1")
                end.call("remove", "vm1")
            service.start_group(f"vda,disk={self.dir / 's'}")
            agent.call("start", "vm1", "--mode", "primary")
            agent.wait_connected()
            self.assertFalse(service.status()["incomplete"], f"start {fill}")


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", "fio")

"""kill -9 of either daemon at any instant loses no acknowledged checkpoint, and replication goes on by itself."""

import threading
import time

import lib
from lib import MIB, Writer, qemu_io

KILLS = 6


class CrashTest(lib.Case):
    def wait_resumed(self, agent):
        def resumed():
            status = agent.status()
            return status["connected"] and int(status["forward_queue_bytes"]) == 0

        lib.wait_for(resumed, "the agent to have resumed by itself")

    def assert_healthy(self, *daemons):
        """Nothing was missed: no INCOMPLETE, no resync, nothing latched."""
        for daemon in daemons:
            status = daemon.status()
            self.assertFalse(status["incomplete"], status)
            self.assertEqual((status["stage"], status["sync_state"]), ("RUNNING", "ASSUMED"), status)
            self.assertEqual([volume["dirty_bytes"] for volume in status["volumes"]], [0] * len(status["volumes"]))
            answer = daemon.ctl("get-error", "vm1")
            self.assertEqual(answer.status, 0, answer.out)

    def test_service_killed_in_the_middle_of_a_write_stream(self):
        """A guest writes on without a failed request while the service is killed again and again, every time at another instant
        of the stream; after each restart a checkpoint shows exactly the primary's disk."""
        size = 16 * MIB
        image = self.random_bytes(size)
        primary, secondary = self.disk("p", size, image), self.disk("s", size, image)
        service = self.service("--segment-bytes", "4M")
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, f"vda,disk={primary}").wait_connected()
        expected = bytearray(image)
        guest = Writer(agent.uri(), lib.random_requests(self.rng, 400, size, length_max=32 * 1024), batch=20)
        committed = 0
        for kill in range(KILLS):
            killer = threading.Timer(self.rng.uniform(0.0, 0.3), service.kill)
            killer.start()
            while killer.is_alive():
                lib.apply_to(expected, guest.write_batch())
            killer.join()
            if kill % 2:  # also while it is away
                lib.apply_to(expected, guest.write_batch())
            service.restart()
            self.assertGreaterEqual(int(service.status()["committed_epoch"]), committed, "an acknowledged checkpoint is lost")
            if kill % 3 == 0:  # at once, so that the marker meets the reconnection
                lib.apply_to(expected, guest.write_batch())
            else:
                self.wait_resumed(agent)
            committed = int(agent.call("checkpoint", "vm1")["epoch"])
            self.assert_export(service.uri(), expected, f"the standby after kill {kill + 1}")
            self.assert_healthy(service, agent)
        guest.close()
        self.assert_file(primary, expected, "the primary's disk")
        service.call("stop", "vm1", "--failover")
        service.wait_stage("DONE")
        self.assert_file(secondary, expected, "the secondary disk in the end")

    def test_service_killed_while_checkpoints_are_taken(self):
        """The answer that got through is the promise: the epoch is there after the restart, with its bytes on both volumes."""
        size = 4 * MIB
        volumes = ("vda", "vdb")
        service = self.service()
        service.start_group(*(f"{name},disk={self.disk(f's-{name}', size)}" for name in volumes))
        agent = self.agent(service, *(f"{name},disk={self.disk(f'p-{name}', size)}" for name in volumes)).wait_connected()
        epoch = 0
        for round_number in range(1, KILLS + 1):
            pattern = round_number
            for name in volumes:
                qemu_io(agent.uri(name), f"write -q -P {pattern} 0 {size}")
            killer = threading.Timer(self.rng.uniform(0.0, 0.05), service.kill)
            answers = []
            call = threading.Thread(target=lambda: answers.append(agent.ctl("checkpoint", "vm1")))
            call.start()
            killer.start()
            killer.join()
            service.restart()
            call.join()
            # The call outlives the restart: it waited for the connection and the marker was sent again.
            self.assertEqual(answers[0].status, 0, answers[0].error)
            found = int(answers[0].object["epoch"])
            self.assertEqual(found, epoch + 1)
            epoch = found
            self.assertEqual(int(service.status()["committed_epoch"]), epoch)
            for name in volumes:
                self.assert_export(service.uri(name), bytes([pattern]) * size, f"{name} at epoch {epoch}")
        self.wait_resumed(agent)
        self.assert_healthy(service, agent)

    def test_service_killed_during_the_apply_job(self):
        """Killed again and again in the middle of an apply, with another checkpoint behind it each time; the disk ends with the
        right bytes, and whoever fails over before that sees them too."""
        size = 64 * MIB
        image = self.random_bytes(size)
        secondary = self.disk("s", size, image)
        service = self.service("--apply-bytes-per-second", "1M")
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, f"vda,size={size}").wait_connected()
        expected = bytearray(image)
        killed_at_work = 0
        for kill in range(KILLS):
            requests = lib.random_requests(self.rng, 200, size)
            qemu_io(agent.uri(), *map(lib.command_of, requests))
            lib.apply_to(expected, requests)
            agent.call("checkpoint", "vm1")
            time.sleep(self.rng.uniform(0, 0.3))
            service.kill()
            service.restart()
            killed_at_work += int(service.status()["volumes"][0]["committed_unapplied_bytes"]) > 0
            self.wait_resumed(agent)
            if kill % 3 == 0:
                self.assert_export(service.uri(), expected, f"the view after kill {kill + 1}")
        print(f"{killed_at_work} of {KILLS} kills hit the apply job", flush=True)
        self.assertGreaterEqual(killed_at_work, KILLS - 1)
        service.kill()
        service.options = ()
        service.restart()
        lib.wait_for(
            lambda: int(service.status()["volumes"][0]["committed_unapplied_bytes"]) == 0, "the epochs to be applied"
        )
        self.assert_export(service.uri(), expected, "the view in the end")
        service.kill()  # with it goes whatever was only in its memory
        self.assert_file(secondary, expected, "the secondary disk in the end")

    def test_service_killed_during_the_commit_job(self):
        """Killed again and again after the failover, also while the secondary VM writes; it ends in DONE with the right bytes."""
        size = 64 * MIB
        secondary = self.disk("s", size, self.random_bytes(size))
        service = self.service("--apply-bytes-per-second", "1M")  # so that the job outlives the kills
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, f"vda,size={size}").wait_connected()
        expected = bytearray(secondary.read_bytes())
        # Far more than the apply job takes at once, all of it still to be copied after the failover: in active.
        requests = lib.random_requests(self.rng, 300, size)
        qemu_io(agent.uri(), *map(lib.command_of, requests))
        lib.apply_to(expected, requests)
        agent.call("checkpoint", "vm1")
        lost = lib.random_requests(self.rng, 50, size)
        qemu_io(agent.uri(), *map(lib.command_of, lost))
        requests = [lib.Request("write", offset, 4096, self.rng.randint(1, 255)) for offset in range(0, size, 8192)]
        qemu_io(service.uri(), *map(lib.command_of, requests), "flush")
        lib.apply_to(expected, requests)
        agent.kill()
        service.call("stop", "vm1", "--failover")
        killed_at_work = 0
        for kill in range(2 * KILLS):
            time.sleep(self.rng.choice([0, 0.01, 0.03, 0.3]))
            service.kill()
            service.restart()
            stage = service.status()["stage"]
            self.assertIn(stage, ("FAILOVER", "DONE"))
            killed_at_work += stage == "FAILOVER"
            requests = lib.random_requests(self.rng, 10, size)
            qemu_io(service.uri(), *map(lib.command_of, requests), "flush")
            lib.apply_to(expected, requests)
            if kill % 4 == 0:
                self.assert_export(service.uri(), expected, f"the view after kill {kill + 1}")
        print(f"{killed_at_work} of {2 * KILLS} kills hit the commit job", flush=True)
        self.assertGreaterEqual(killed_at_work, 2 * KILLS - 2, "the commit job was over too soon: make it longer")
        service.kill()
        service.options = ()
        service.restart()
        service.wait_stage("DONE")
        self.assert_export(service.uri(), expected, "the view in stage DONE")
        self.assert_file(secondary, expected, "the secondary disk in stage DONE")

    def test_agent_killed_then_failover(self):
        """What came after the last checkpoint is dropped, however much of it had arrived."""
        size = 8 * MIB
        image = self.random_bytes(size)
        primary, secondary = self.disk("p", size, image), self.disk("s", size, image)
        service = self.service()
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, f"vda,disk={primary}").wait_connected()
        expected = bytearray(image)
        guest = Writer(agent.uri(), lib.random_requests(self.rng, 200, size))
        lib.apply_to(expected, guest.write_batch())
        agent.call("checkpoint", "vm1")
        guest.write_batch()
        agent.kill()
        guest.process.kill()
        guest.process.communicate()
        lib.wait_for(lambda: not service.status()["connected"], "the service to see that the agent is gone")
        self.assertEqual(service.status()["sync_state"], "DISCONNECTED")
        self.assertEqual(service.ctl("get-error", "vm1").status, 0, "a disconnect is not an error")
        self.assert_export(service.uri(), expected, "the view when the agent is dead")
        service.call("stop", "vm1", "--failover")
        self.assert_export(service.uri(), expected, "the view after the failover")
        service.wait_stage("DONE")
        self.assert_file(secondary, expected, "the secondary disk")

    def test_failover_with_the_received_prefix(self):
        """stop --failover --received keeps what the dead agent had got through."""
        size = 4 * MIB
        secondary = self.disk("s", size)
        service = self.service()
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, f"vda,size={size}", options=("--start", "--ack", "received")).wait_connected()
        qemu_io(agent.uri(), "write -P 1 0 1M")
        agent.call("checkpoint", "vm1")
        qemu_io(agent.uri(), "write -P 2 512k 1M", "flush")
        agent.kill()
        service.call("stop", "vm1", "--failover", "--received")
        service.wait_stage("DONE")
        self.assert_file(secondary, b"\1" * 524288 + b"\2" * MIB + bytes(size - MIB - 524288), "the secondary disk")

    def test_an_agent_killed_in_its_writes(self):
        """Nobody knows which of its last writes got through. In forward mode no checkpoint may commit until the volume is mirrored
        again, and the standby keeps the last one; in tee mode the agent compares what it was writing, and all is well."""
        size = 4 * MIB
        for tee in (False, True):
            with self.subTest(tee=tee):
                name = "t" if tee else "f"
                service = self.service(name=f"service-{name}")
                service.start_group(f"vda,disk={self.disk('s' + name, size)}")
                volume = f"vda,disk={self.disk('p', size)}" if tee else f"vda,size={size}"
                agent = self.agent(service, volume, name=f"agent-{name}").wait_connected()
                qemu_io(agent.uri(), "write -P 1 0 1M")
                agent.call("checkpoint", "vm1")
                qemu_io(agent.uri(), "write -P 2 0 1M")
                agent.kill()
                agent.restart()
                agent.wait_connected()
                if tee:
                    agent.call("sync", "vm1", "--wait")
                    agent.call("checkpoint", "vm1")
                else:
                    for daemon in (agent, service):
                        self.assert_refused(daemon.ctl("checkpoint", "vm1"), "ABORTED", "INCOMPLETE")
                shown = bytes([2 if tee else 1]) * MIB + bytes(size - MIB)
                self.assert_export(service.uri(), shown, "the standby")


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy")

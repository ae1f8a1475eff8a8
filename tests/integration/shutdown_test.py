"""SIGTERM of both daemons: exit status 0, no socket left behind, and replication goes on after the restart."""

import os
import pathlib
import re
import signal

import lib
from lib import MIB, qemu_io


class ShutdownTest(lib.Case):
    size = 4 * MIB

    def pair(self):
        image = self.random_bytes(self.size)
        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', self.size, image)}")
        agent = self.agent(service, f"vda,disk={self.disk('p', self.size, image)}").wait_connected()
        return service, agent, bytearray(image)

    def write(self, agent, expected, count=20):
        requests = lib.random_requests(self.rng, count, self.size)
        qemu_io(agent.uri(), *map(lib.command_of, requests))
        lib.apply_to(expected, requests)

    def assert_gone(self, daemon):
        self.assertFalse(daemon.nbd_socket.exists(), "the NBD socket is left behind")
        self.assertFalse((self.dir / f"{daemon.name}.grpc").exists(), "the gRPC socket is left behind")
        self.assertTrue(daemon.daemon.events("shutdown_finished"))

    def assert_checkpoint(self, service, agent, expected, what):
        lib.wait_for(lambda: agent.status()["connected"], "the agent to be connected again")
        agent.call("checkpoint", "vm1")
        self.assert_export(service.uri(), expected, what)
        self.assertFalse(service.status()["incomplete"])
        self.assertEqual(agent.ctl("get-error", "vm1").status, 0)

    def test_each_daemon_ends_in_order_and_goes_on(self):
        service, agent, expected = self.pair()
        self.write(agent, expected)
        self.assertEqual(agent.daemon.end(), 0)
        self.assert_gone(agent)
        agent.restart()
        self.write(agent, expected)
        self.assert_checkpoint(service, agent, expected, "after the agent's restart")

        self.write(agent, expected)
        self.assertEqual(service.daemon.end(), 0)
        self.assert_gone(service)
        self.write(agent, expected)  # into the window
        service.restart()
        self.assert_checkpoint(service, agent, expected, "after the service's restart")

        self.write(agent, expected)
        self.assertEqual((agent.daemon.end(), service.daemon.end()), (0, 0))
        service.restart()
        agent.restart()
        self.assert_checkpoint(service, agent, expected, "after the restart of both")

    def all_copied(self, jobs):
        return bool(jobs) and all(job["done_bytes"] == job["total_bytes"] for job in jobs)

    def assert_ends_hung(self, service):
        """The service ends although the disk of its data directory stands still, and the next one goes on."""
        self.assertEqual(service.daemon.end(), 0)
        self.assert_gone(service)
        self.assertTrue(service.daemon.events("store_left_open"))
        service.restart()

    def test_a_data_directory_that_stands_still(self):
        """Not even its last files can be written, and a stream and a call are stuck in it."""
        service, agent, expected = self.pair()
        environment, hang = self.hanging_syncs()
        self.assertEqual(service.daemon.end(), 0)
        service.spawn(environment).wait_ready()
        agent.wait_connected()
        self.write(agent, expected)
        hang.touch()
        self.assertEqual(agent.ctl("checkpoint", "vm1", timeout="1s").status, 1)
        self.assert_ends_hung(service)
        self.assert_checkpoint(service, agent, expected, "after the service's restart")

    def test_a_data_directory_that_stands_still_under_a_call(self):
        """Nothing is to be written at the end."""
        service, agent, expected = self.pair()
        environment, hang = self.hanging_syncs()
        self.write(agent, expected)
        self.assertEqual((agent.daemon.end(), service.daemon.end()), (0, 0))
        service.spawn(environment).wait_ready()
        hang.touch()
        self.assertEqual(service.ctl("checkpoint", "vm1", timeout="1s").status, 1)
        self.assert_ends_hung(service)
        agent.restart()
        self.assert_checkpoint(service, agent, expected, "after the service's restart")

    def test_a_disk_that_stands_still_under_an_apply(self):
        """Nobody asks for anything, but the store cannot be closed."""
        service, agent, expected = self.pair()
        environment, hang = self.hanging_syncs()
        self.assertEqual(service.daemon.end(), 0)
        service.options = ("--apply-bytes-per-second", "1")
        service.restart()
        agent.wait_connected()
        data = self.rng.randbytes(MIB)
        (self.dir / "data").write_bytes(data)
        qemu_io(agent.uri(), f"write -q -s {self.dir / 'data'} 0 1M")
        expected[:MIB] = data
        agent.call("checkpoint", "vm1")
        self.assertEqual((agent.daemon.end(), service.daemon.end()), (0, 0))
        service.options = ("--apply-bytes-per-second", "512K")
        service.spawn(environment).wait_ready()
        hang.touch()
        lib.wait_for(lambda: self.all_copied(service.status()["jobs"]), "the apply's sync")
        self.assert_ends_hung(service)
        agent.restart()
        self.assert_checkpoint(service, agent, expected, "after the service's restart")

    def test_with_clients_connected(self):
        """They do not hold the end up."""
        service, agent, expected = self.pair()
        guests = [lib.Writer(daemon.uri(), lib.random_requests(self.rng, 5, self.size), batch=5) for daemon in (service, agent)]
        for guest in guests:
            guest.write_batch()
        for daemon in (agent, service):
            self.assertEqual(daemon.daemon.end(), 0)
            self.assert_gone(daemon)
        for guest in guests:
            guest.process.kill()
            guest.process.communicate()

    def test_a_process_says_what_it_is(self):
        """In ps, top and systemctl status; the kernel keeps 15 letters of a name."""
        service, agent, _ = self.pair()
        for daemon, name in ((service, "understudyd"), (agent, "understudy-agent")):
            process = pathlib.Path(f"/proc/{daemon.daemon.pid}")
            self.assertEqual((process / "comm").read_text().strip(), name[:15])
            self.assertEqual(pathlib.Path(os.readlink(process / "exe")).name, name)
        service.daemon.signal(signal.SIGINT)
        self.assertEqual(service.daemon.process.wait(lib.PATIENCE_SECONDS), 0)

    def test_signals_that_are_no_request_to_end(self):
        """A terminal that is closed, a script that wants files opened anew: neither takes the VM's disk away."""
        service, agent, expected = self.pair()
        alone = lib.Service(self, name="alone")
        alone.nbd_socket = None
        alone.start()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            for daemon in (service, agent, alone):
                daemon.daemon.signal(number)
        self.write(agent, expected)
        self.assert_checkpoint(service, agent, expected, "after the signals")
        self.assertEqual(alone.ctl("list").status, 0)
        for daemon in (agent, service, alone):
            self.assertEqual(daemon.daemon.end(), 0)
            self.assertEqual([event["signal"] for event in daemon.daemon.events("shutdown_started")], ["Terminated"])

    def test_a_hangup_before_the_daemon_serves(self):
        """From the beginning of main() on."""
        service, agent, _ = self.pair()
        for daemon in (agent, service):
            self.assertEqual(daemon.daemon.end(), 0)
            for _ in range(3):
                daemon.spawn()
                lib.wait_for(lambda daemon=daemon: self.keeps_hangups_off(daemon.daemon.pid), "main()")
                while not daemon.daemon.events(daemon.ready_event):
                    daemon.daemon.signal(signal.SIGHUP)
                    self.assertTrue(daemon.daemon.running, daemon.daemon.log())
                self.assertEqual(daemon.daemon.end(), 0)

    def keeps_hangups_off(self, pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        bit = 1 << (signal.SIGHUP - 1)
        return any(int(re.search(rf"{mask}:\s*(\w+)", status).group(1), 16) & bit for mask in ("SigBlk", "SigIgn"))


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", at_once=3)

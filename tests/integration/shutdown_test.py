"""SIGTERM of both daemons: exit status 0, no socket left behind, and replication goes on after the restart."""

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

    def test_with_clients_connected(self):
        """nbdkit alone would wait for its clients without limit."""
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

    def test_the_launchers_process_id_stays(self):
        service, agent, _ = self.pair()
        for daemon in (service, agent):
            with open(f"/proc/{daemon.daemon.pid}/comm", encoding="ascii") as file:
                self.assertEqual(file.read().strip(), "nbdkit")
        service.daemon.signal(signal.SIGINT)
        self.assertEqual(service.daemon.process.wait(lib.PATIENCE_SECONDS), 0)


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy")

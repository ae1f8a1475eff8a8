"""NBD clients that are killed with -9 at a random instant, again and again: whoever else is served by the daemon notices nothing.

The clients read, write or do both, with 1 to 64 requests under way on one to three connections. Meanwhile a client of another group
(at the agent: of another volume) writes and verifies. Before that, the same clients end by themselves: what the kills cost others is
the difference. UNDERSTUDY_KILLS: how many clients are killed at each daemon, default 60.
"""

import os
import random
import signal
import statistics
import struct
import threading
import time

import lib
import nbd
from lib import MIB

KILLS = int(os.environ.get("UNDERSTUDY_KILLS", "60"))
DISK = 32 * MIB
# Of a daemon that has served them all: its threads' stacks and malloc's arenas, and no more.
RESIDENT_GROWTH_MAX = 96 * MIB


def request(command, cookie, offset, length):
    return struct.pack(">IHHQQI", nbd.REQUEST_MAGIC, 0, command, cookie, offset, length)


def attack(socket_path, export, rng, seconds):
    """What the child does until it is killed, or for so long and then to the end of what it has begun."""
    until = time.monotonic() + seconds
    depth, kind, length = rng.choice((1, 2, 8, 32, 64)), rng.choice("rwm"), 512 * rng.choice((1, 8, 8, 128, 512))
    disks = [nbd.Disk(socket_path, export) for _ in range(rng.randint(1, 3))]
    data = bytes([rng.randrange(256)]) * length
    while time.monotonic() < until:
        for disk in disks:
            parts, payload_of = [], {}
            for cookie in range(depth):
                offset = 512 * rng.randrange((DISK - length) // 512)
                if kind == "r" or (kind == "m" and rng.random() < 0.5):
                    parts.append(request(nbd.READ, cookie, offset, length))
                    payload_of[cookie] = length
                else:
                    parts += [request(nbd.WRITE, cookie, offset, length), data]
                    payload_of[cookie] = 0
            # What waits for its answer must not keep the answers from being read.
            sender = threading.Thread(target=disk.socket.sendall, args=(b"".join(parts),), daemon=True)
            sender.start()
            while payload_of:
                _, error, cookie = struct.unpack(">IIQ", disk._receive(16))
                payload = payload_of.pop(cookie)
                disk._receive(0 if error else payload)
            sender.join()


class Verifier(threading.Thread):
    """Writes and reads back, one request at a time; `seconds` has what each took, `failure` why it ended early."""

    def __init__(self, disk, rng):
        super().__init__(daemon=True)
        self.disk, self.rng, self.seconds, self.failure, self.ending = disk, rng, [], None, False
        self.image = bytearray(disk.read())

    def run(self):
        try:
            while not self.ending:
                data = self.rng.randbytes(4096)
                offset = 4096 * self.rng.randrange(len(self.image) // 4096)
                begun = time.monotonic()
                self.disk.write(offset, data)
                self.image[offset : offset + 4096] = data
                offset = 4096 * self.rng.randrange(len(self.image) // 4096)
                found = self.disk.read(offset, 4096)
                self.seconds.append(time.monotonic() - begun)
                if found != self.image[offset : offset + 4096]:
                    raise AssertionError(f"other bytes at {offset}")
        except Exception as error:
            self.failure = error

    def take_p99(self):
        taken, self.seconds = self.seconds, []
        return statistics.quantiles(taken, n=100)[98]


def sockets(pid):
    links = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(entry.path))
        except FileNotFoundError:
            pass
    return sum(link.startswith("socket:") for link in links)


class KilledClientsTest(lib.Case):
    def fork_client(self, endpoint, export, seed, seconds):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                attack(endpoint.nbd_socket, export, random.Random(seed), seconds)
                status = 0
            finally:
                os._exit(status)
        return pid

    def kill_clients(self, endpoint, exports, verified):
        daemon = endpoint.daemon
        disk = nbd.Disk(endpoint.nbd_socket, verified, lib.PATIENCE_SECONDS)
        verifier = Verifier(disk, self.rng)
        before, resident = sockets(daemon.pid), daemon.resident_bytes
        verifier.start()
        time.sleep(1)
        quiet = verifier.take_p99()
        seeds = [(self.rng.random(), self.rng.choice(exports), self.rng.uniform(0.005, 0.06)) for _ in range(KILLS)]
        for seed, export, seconds in seeds:
            pid = self.fork_client(endpoint, export, seed, seconds)
            self.assertEqual(os.waitpid(pid, 0)[1], 0, "a client failed")
        orderly = verifier.take_p99()
        killed = set()
        for seed, export, seconds in seeds:
            pid = self.fork_client(endpoint, export, seed, lib.PATIENCE_SECONDS)
            time.sleep(seconds)
            os.kill(pid, signal.SIGKILL)
            self.assertEqual(os.WTERMSIG(os.waitpid(pid, 0)[1]), signal.SIGKILL, "the client ended before it was killed")
            killed.add(pid)
            self.assertIsNone(verifier.failure)
        beside = verifier.take_p99()
        verifier.ending = True
        verifier.join(lib.PATIENCE_SECONDS)
        self.assertIsNone(verifier.failure)
        self.assertTrue(daemon.running)
        self.assert_bytes(bytes(disk.read()), bytes(verifier.image), "the other client's disk")
        lib.wait_for(lambda: endpoint.metric("understudy_nbd_connections") == 1, "the connections of those that were killed to end")
        vanished = endpoint.metric("understudy_nbd_disconnects_total", reason="vanished")
        growth = daemon.resident_bytes - resident
        print(f"{endpoint.name}: {KILLS} killed, {vanished:.0f} connections with requests under way; p99 of the other client "
              f"{quiet * 1e3:.2f} ms alone, {orderly * 1e3:.2f} ms beside clients that end by themselves, {beside * 1e3:.2f} ms beside those that "
              f"are killed ({beside / orderly:.1f} times); {growth / MIB:.0f} MiB more resident",
              flush=True)  # fmt: skip
        self.assertLess(beside, max(20 * orderly, 0.2), "the other client stood still")
        self.assertGreater(vanished, KILLS // 4, "too few were killed while they worked")
        self.assertEqual(endpoint.metric("understudy_nbd_disconnects_total", reason="protocol_error"), 0)
        lines = [line for line in daemon.events("nbd_client_ended") if line["why"] == "vanished"]
        self.assertGreater(len(lines), 0)
        for line in lines:
            self.assertIn(int(line["pid"]), killed)
            self.assertEqual((int(line["uid"]), line["export"] in exports), (os.getuid(), True), line)
        self.assertLess(growth, RESIDENT_GROWTH_MAX)
        lib.wait_for(lambda: sockets(daemon.pid) <= before, "as many sockets as before")
        disk.close()

    def test_at_the_service(self):
        service = self.service()
        for group in ("vm1", "vm2"):
            service.start_group(f"vda,disk={self.disk(group, DISK, self.random_bytes(DISK))}", group=group)
        self.kill_clients(service, ["vm1/vda"], "vm2/vda")

    def test_at_the_agent(self):
        service = self.service()
        names = ("vda", "vdb", "vdc")
        service.start_group(*(f"{name},disk={self.disk(f's-{name}', DISK)}" for name in names))
        tee = [f"{name},disk={self.disk(f'p-{name}', DISK)}" for name in ("vda", "vdc")]
        agent = self.agent(service, *tee, f"vdb,size={DISK}").wait_connected()
        self.kill_clients(agent, ["vm1/vda", "vm1/vdb"], "vm1/vdc")


if __name__ == "__main__":
    lib.run_tests()

"""A network that fails in every way between agent and service, under full load: what the standby shows is never wrong.

Writers fill the volumes of a group with blocks that say what they are, through an agent whose connection runs through a fault proxy: delays,
stalls, cuts, silence, damaged bytes, at random. All the while every block that the standby shows must be whole and not older than it
was; and whenever the writers rest, a checkpoint must give the standby exactly the bytes of the primary's disks. UNDERSTUDY_SEED replays
the choice of faults (not their exact place in the stream: the load is as fast as it can be).
"""

import mmap
import multiprocessing
import os
import random
import struct
import time
import traceback

import lib
import nbd
from fault_proxy import FaultProxy
from lib import MIB

BLOCK_BYTES = 4096
SIZE = 16 * MIB
BLOCKS = SIZE // BLOCK_BYTES
VOLUMES = ("vda", "vdb", "vdc")
RUN_BLOCKS_MAX = 64
# Under a sanitizer half of it is enough to bring the daemons to the same code.
SECONDS = 30 if "ASAN_OPTIONS" in os.environ else 60
# No word for 3 s is a lost peer, and then a second for another connection; the rest is for a busy machine.
RECONNECT_SECONDS = 10
FAULTS_IN_A_ROUND = 6


def block(number, volume, index):
    """Any byte of it that is changed shows."""
    return struct.pack("<QII", number, volume, index) * (BLOCK_BYTES // 16)


class Writers:
    """A process for each volume that writes runs of blocks at random places, as fast as it can, except when told to rest."""

    RUN, REST, STOP = range(3)

    def __init__(self, agent, rng):
        self.agent = agent
        self.shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")  # what to do, then for each: rests, bytes written
        context = multiprocessing.get_context("fork")
        seeds = [rng.getrandbits(64) for _ in VOLUMES]
        self.processes = [context.Process(target=self._run, args=(v, seeds[v]), daemon=True) for v in range(len(VOLUMES))]
        for process in self.processes:
            process.start()

    def _run(self, volume, seed):
        try:
            rng = random.Random(seed)
            disk = nbd.Disk(self.agent.nbd_socket, f"vm1/{VOLUMES[volume]}", lib.PATIENCE_SECONDS)
            number = 0
            while self.shared[0] != self.STOP:
                self.shared[1 + 2 * volume] = self.shared[0] == self.REST
                if self.shared[0] == self.REST:
                    time.sleep(0.005)
                    continue
                number += 1
                count = 1 if rng.random() < 0.5 else rng.randint(1, RUN_BLOCKS_MAX)
                first = rng.randint(0, BLOCKS - count)
                disk.write(first * BLOCK_BYTES, b"".join(block(number, volume, first + i) for i in range(count)))
                self.shared[2 + 2 * volume] += count * BLOCK_BYTES
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def tell(self, what):
        self.shared[0] = what

    def rest(self):
        """Returns when every write has been answered."""
        self.tell(self.REST)
        lib.wait_for(lambda: not self.alive() or all(self.shared[1 + 2 * v] for v in range(len(VOLUMES))), "the writers to rest")
        assert self.alive(), "a writer has failed"

    def written_bytes(self):
        return sum(self.shared[2 + 2 * v] for v in range(len(VOLUMES)))

    def alive(self):
        return all(process.is_alive() for process in self.processes)

    def kill(self):
        for process in self.processes:
            process.kill()
            process.join()


class FaultsTest(lib.Case):
    writers = None

    def setUp(self):
        super().setUp()
        self.steps = []
        self.answer_damages = 0  # and of handshakes

    def tearDown(self):
        if any(case is self for case, _ in self._outcome.result.failures + self._outcome.result.errors):
            print("faults:", *self.steps, sep="\n  ", flush=True)
        if self.writers is not None:
            self.writers.kill()
        super().tearDown()

    def start(self, *agent_options):
        self.standby = self.service("--segment-bytes", "4M")
        self.standby.start_group(*(f"{name},disk={self.disk(f's-{name}', SIZE)}" for name in VOLUMES))
        self.proxy = FaultProxy(self.standby.address, self.rng.getrandbits(64)).__enter__()
        self.addCleanup(self.proxy.__exit__)
        self.primary = {name: self.disk(f"p-{name}", SIZE) for name in VOLUMES}
        self.host = self.agent(
            self.standby, *(f"{name},disk={path}" for name, path in self.primary.items()),
            options=("--start", "--server", self.proxy.address, "--on-full", "block", *agent_options),
        ).wait_connected()  # fmt: skip
        self.views = [self.standby.connect(name) for name in VOLUMES]
        self.shown = [[0] * BLOCKS for _ in VOLUMES]
        self.writers = Writers(self.host, self.rng)

    # ---- what must hold -----------------------------------------------------------------------------------------------------------

    def check_view(self, volume):
        """Every block that the standby shows is whole, in its place, and not older than the last time."""
        content = self.views[volume].read()
        shown = self.shown[volume]
        for index in range(BLOCKS):
            found = content[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            (number,) = struct.unpack_from("<Q", found)
            expected = block(number, volume, index) if number else bytes(BLOCK_BYTES)
            if found != expected or number < shown[index]:
                self.fail(f"volume {volume}, block {index}: {found[:16].hex()}..., the last time it was write {shown[index]}")
            shown[index] = number

    def check_all(self):
        """At rest: the standby's next checkpoint is the primary's disks, byte for byte."""
        self.writers.rest()
        self.host.call("checkpoint", "vm1")
        for volume, (name, path) in enumerate(self.primary.items()):
            self.check_view(volume)
            self.assert_bytes(self.views[volume].read(), path.read_bytes(), f"{name} at rest")
        for daemon in (self.host, self.standby):
            status = daemon.status()
            self.assertEqual(status["stage"], "RUNNING")
            self.assertFalse(status["incomplete"], status)
            self.assertEqual([int(volume["dirty_bytes"]) for volume in status["volumes"]], [0] * len(VOLUMES))

    # ---- faults -------------------------------------------------------------------------------------------------------------------

    def rest_between(self, low, high):
        time.sleep(self.rng.uniform(low, high))

    def delayed(self):
        self.proxy.delay(self.rng.uniform(0.001, 0.1))
        self.rest_between(0.2, 1)
        self.proxy.delay(0)

    def stalled(self):
        """At times for longer than a heartbeat may be late."""
        self.proxy.stall()
        self.rest_between(0.1, 1 if self.rng.random() < 0.8 else 4.5)
        self.proxy.resume()

    def cut(self):
        self.proxy.cut()

    def cut_again_and_again(self):
        for _ in range(self.rng.randint(2, 10)):
            self.proxy.cut()
            self.rest_between(0, 0.3)

    def dropped(self):
        self.proxy.drop()

    def hung(self):
        self.proxy.hang()

    def away(self):
        self.proxy.refuse(True)
        self.proxy.cut()
        self.rest_between(0.1, 1.5)
        self.proxy.refuse(False)

    def damaged(self):
        """Most of what is sent is payload. Waits for the byte to go through, or the next fault would come in its way."""
        before = len(self.proxy.damages)
        self.proxy.damage(bytes_between=self.rng.choice((4 << 10, 256 << 10, 1 << 20)))
        lib.wait_for(lambda: len(self.proxy.damages) > before, "a damaged byte", 20)

    def answers_damaged(self):
        """Acknowledgements, most of them; and the frames of HTTP/2 that they travel in."""
        before = len(self.proxy.damages)
        self.proxy.damage(bytes_between=2 << 10, from_client=False)
        lib.wait_for(lambda: len(self.proxy.damages) > before, "a damaged byte", 20)
        self.answer_damages += 1

    def handshake_damaged(self):
        """Or what comes right before or after it."""
        before = len(self.proxy.damages)
        self.proxy.cut()
        self.proxy.damage(bytes_between=1 << 10)
        lib.wait_for(lambda: len(self.proxy.damages) > before, "a damaged byte", 20)
        self.answer_damages += 1

    def faults(self):
        return [
            (self.delayed, 3), (self.stalled, 3), (self.cut, 4), (self.cut_again_and_again, 2), (self.dropped, 1),
            (self.hung, 1), (self.away, 2), (self.damaged, 10), (self.answers_damaged, 3), (self.handshake_damaged, 3),
        ]  # fmt: skip

    # ---- one fault at a time ------------------------------------------------------------------------------------------------------

    def assert_reconnects_after(self, fault):
        """Under full load; and nothing is lost."""
        self.start()
        lib.wait_for(lambda: self.writers.written_bytes() > 32 * MIB, "some load")
        connections = self.proxy.accepted
        fault()
        lib.wait_for(lambda: self.proxy.accepted > connections, "another connection", RECONNECT_SECONDS)
        written = self.writers.written_bytes()
        lib.wait_for(lambda: self.writers.written_bytes() > written + 32 * MIB, "writes after the fault")
        self.assertTrue(self.writers.alive())
        self.check_all()
        for daemon in (self.host, self.standby):
            self.assertEqual(daemon.call_errors(), [])

    def test_a_connection_that_takes_no_bytes_any_more_is_left(self):
        """A host that is cut off says nothing: the agent's bytes pile up in its socket, and gRPC would wait for TCP to give up."""
        self.assert_reconnects_after(self.hung)

    def test_a_connection_that_swallows_everything_is_left(self):
        self.assert_reconnects_after(self.dropped)

    def damaged_frames(self):
        return len(self.proxy.damages) - self.answer_damages

    # ---- runs ---------------------------------------------------------------------------------------------------------------------

    def run_faults(self, seconds):
        faults, weights = zip(*self.faults())
        counts = {fault.__name__: 0 for fault in faults}
        end = time.monotonic() + seconds
        rounds = 0
        # On a slow machine, or by chance, few of the faults were damaged frames until then.
        while time.monotonic() < end or self.damaged_frames() <= 5:
            self.writers.tell(Writers.RUN)
            for fault in self.rng.choices(faults, weights, k=self.rng.randint(1, FAULTS_IN_A_ROUND)):
                counts[fault.__name__] += 1
                self.steps.append(f"{time.strftime('%T')} {fault.__name__}")
                fault()
                self.assertTrue(self.writers.alive())
                self.check_view(self.rng.randrange(len(VOLUMES)))
                self.rest_between(0, 0.5)
            self.check_all()
            rounds += 1
        caught = self.standby.metric("understudy_checksum_failures_total", where="wire")
        print(
            f"{rounds} rounds, {self.writers.written_bytes() // MIB} MiB written, {self.proxy.accepted} connections, faults {counts}, "
            f"{len(self.proxy.damages)} bytes damaged, {caught:.0f} found by a frame's CRC",
            flush=True,
        )
        return caught

    def test_nothing_wrong_is_ever_shown(self):
        acknowledge = self.rng.choice(("forwarded", "forwarded", "received", "durable"))
        options = ["--ack", acknowledge]
        if self.rng.random() < 0.7:
            options += ["--checkpoint-interval", "200ms"]
        print(*options, flush=True)
        self.start(*options)
        caught = self.run_faults(SECONDS)
        self.assertGreater(self.damaged_frames(), 5)
        self.assertGreaterEqual(caught, self.damaged_frames() // 2)
        errors = self.standby.metric("understudy_replication_errors_total", reason="checksum")
        self.assertGreaterEqual(errors, caught)
        # A byte outside of what the CRC covers makes a message that is refused as malformed, which is latched. No write is missing.
        for daemon in (self.host, self.standby):
            for error in daemon.call_errors():
                print(f"latched at the {daemon.name}: {error}", flush=True)
                self.assertNotIn("INCOMPLETE", str(error))


if __name__ == "__main__":
    lib.run_tests()

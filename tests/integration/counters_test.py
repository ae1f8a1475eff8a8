"""Checkpoints of a guest that is not paused are crash-consistent across volumes: counters that are written in a fixed order.

Each writer is a process with a connection of its own to every volume, writing without pause: its n-th block to v0, then to v1,
then to v2, each when the one before has been answered. Its blocks go round a small ring of places, so that a volume's content
says exactly through which n it holds that writer's blocks: a volume that lost one, or has one too early, is no state of any order.
At every state that the standby shows, the last numbers of one writer on the three volumes must be v0 >= v1 >= v2 >= v0 - 1.
"""

import mmap
import multiprocessing
import os
import struct
import subprocess
import time
import traceback

import lib
import nbd

CHECKPOINTER = os.environ.get("UNDERSTUDY_CHECKPOINTER", "understudy-checkpointer")
# Under a sanitizer everything is several times slower.
CHECKPOINTS = 200 if "ASAN_OPTIONS" in os.environ else 1000
VOLUMES = ("v0", "v1", "v2")
# Of a writer's blocks: below and above a page, not aligned to one, and a few large ones.
BLOCK_SIZES = (4096, 4096, 512, 4608, 16384, 65536)
PLACES = 4
REGION_BYTES = 512 * 1024
SIZE = REGION_BYTES * len(BLOCK_SIZES)


class Region:
    """What one writer does with one volume."""

    def __init__(self, writer, volume):
        self.writer, self.volume = writer, volume
        self.block_bytes = BLOCK_SIZES[writer]
        self.offset = writer * REGION_BYTES + 512 * writer * 7

    def block(self, number):
        """Number 0 is what the disk holds at first."""
        return struct.pack("<QII", number, self.writer if number else 0, self.volume if number else 0) * (self.block_bytes // 16)

    def place(self, number):
        return self.offset + number % PLACES * self.block_bytes

    def range(self):
        return self.offset, PLACES * self.block_bytes

    def last(self, content):
        """The number through which these bytes of a disk hold the writer's blocks. Fails when that is no prefix of them."""
        numbers = [struct.unpack_from("<Q", content, place * self.block_bytes)[0] for place in range(PLACES)]
        last = max(numbers)
        for place in range(PLACES):
            number = max(0, last - (last - place) % PLACES)
            found = content[place * self.block_bytes : (place + 1) * self.block_bytes]
            assert found == self.block(number), (
                f"writer {self.writer}, volume {self.volume}, place {place}: {found[:16].hex()}... and numbers {numbers}: "
                f"not the state through {last}, which has {number} there, whole"
            )
        return last


REGIONS = [[Region(writer, volume) for volume in range(len(VOLUMES))] for writer in range(len(BLOCK_SIZES))]


class Writers:
    """The processes, which write until they are told to stop."""

    # What the processes are told: an error is a failure; an error is the end; stop after this round.
    WRITE, WRITE_WHILE_IT_LASTS, STOP = range(3)

    def __init__(self, agent):
        self.agent = agent
        self.shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        context = multiprocessing.get_context("fork")
        self.processes = [context.Process(target=self._run, args=(w,), daemon=True) for w in range(len(BLOCK_SIZES))]
        for process in self.processes:
            process.start()

    def tell(self, what):
        self.shared[0] = what

    def answered(self):
        """By writer and volume: the number of the last block that was acknowledged."""
        return [[self.shared[1 + w * len(VOLUMES) + v] for v in range(len(VOLUMES))] for w in range(len(BLOCK_SIZES))]

    def _run(self, writer):
        try:
            disks = [nbd.Disk(self.agent.nbd_socket, f"vm1/{name}", lib.PATIENCE_SECONDS) for name in VOLUMES]
            number = 0
            while self.shared[0] != self.STOP:
                number += 1
                for volume, (disk, region) in enumerate(zip(disks, REGIONS[writer])):
                    disk.write(region.place(number), region.block(number))
                    self.shared[1 + writer * len(VOLUMES) + volume] = number
        except OSError:
            if self.shared[0] == self.WRITE:
                traceback.print_exc()
                os._exit(1)
        os._exit(0)

    def alive(self):
        return all(process.is_alive() for process in self.processes)

    def join(self):
        """True if all ended as they should."""
        for process in self.processes:
            process.join(lib.PATIENCE_SECONDS)
        return [process.exitcode for process in self.processes] == [0] * len(self.processes)

    def kill(self):
        for process in self.processes:
            process.kill()


class Checkpointer:
    """One connection to a daemon, over which any number of checkpoints are taken."""

    def __init__(self, case, daemon):
        self.process = subprocess.Popen(
            [CHECKPOINTER, daemon.address, "vm1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        case.addCleanup(self.process.communicate)

    def take(self):
        """Returns the epoch it committed."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer.isdigit(), f"checkpoint: {answer}"
        return int(answer)


class CountersTest(lib.Case):
    def start(self, *agent_options, tag=""):
        primary = {name: self.disk(f"p{tag}-{name}", SIZE) for name in VOLUMES}
        self.secondary = {name: self.disk(f"s{tag}-{name}", SIZE) for name in VOLUMES}
        self.standby = self.service(name=f"service{tag}")
        self.standby.start_group(*(f"{name},disk={path}" for name, path in self.secondary.items()))
        volumes = (f"{name},disk={path}" for name, path in primary.items())
        options = ("--start", "--on-full", "block", *agent_options)
        self.host = self.agent(self.standby, *volumes, name=f"agent{tag}", options=options).wait_connected()
        self.views = [self.standby.connect(name) for name in VOLUMES]
        self.writers = Writers(self.host)

    def tearDown(self):
        self.writers.kill()  # before the daemons, or each would complain
        super().tearDown()

    def state(self, disks):
        """The last number of each writer on each volume; a state that its order allows."""
        by_volume = []
        for regions, disk in zip(zip(*REGIONS), disks):
            contents = disk.read_ranges([region.range() for region in regions])
            by_volume.append([region.last(content) for region, content in zip(regions, contents)])
        state = [list(numbers) for numbers in zip(*by_volume)]
        for writer, (v0, v1, v2) in enumerate(state):
            self.assertTrue(v0 >= v1 >= v2 >= v0 - 1, f"writer {writer} wrote v0, v1, v2 in this order; found {v0}, {v1}, {v2}")
        return state

    def assert_between(self, low, state, high, what):
        for writer, numbers in enumerate(zip(low, state, high)):
            for volume, (at_least, found, at_most) in enumerate(zip(*numbers)):
                where = f"{what}: writer {writer}, volume {volume}"
                self.assertTrue(at_least <= found <= at_most, f"{where}: {found} is not in {at_least}..{at_most}")

    def assert_raw_disks(self, state):
        """The secondary disks themselves, without a service, in stage DONE."""
        disks = [FileDisk(path) for path in self.secondary.values()]
        self.assertEqual(self.state(disks), state, "the raw secondary disks")

    def take_checkpoints(self, count):
        """At random instants, one in four at the service, which gets its marker from the agent. Returns the last state."""
        takers = [Checkpointer(self, self.host)] * 3 + [Checkpointer(self, self.standby)]
        state = [[0] * len(VOLUMES) for _ in BLOCK_SIZES]
        cut = 0
        for epoch in range(1, count + 1):
            time.sleep(self.rng.uniform(0, 0.01))
            asked = self.writers.answered()
            self.assertEqual(self.rng.choice(takers).take(), epoch)
            # A block can be there before its answer is counted: one more than was answered.
            answered = [[last + 1 for last in numbers] for numbers in self.writers.answered()]
            before, state = state, self.state(self.views)
            self.assert_between(before, state, answered, f"checkpoint {epoch} after the one before")
            self.assert_between(asked, state, answered, f"checkpoint {epoch} with what was answered before it was asked for")
            cut += sum(v0 > v2 for v0, _, v2 in state)
            self.assertTrue(self.writers.alive())
        blocks = sum(map(sum, state))
        print(f"{count} checkpoints, {blocks} blocks, {cut} times between the first and the last write of a round", flush=True)
        # There was load, and the checkpoints did fall between the writes of rounds.
        self.assertGreater(blocks, 10 * count)
        self.assertGreater(cut, count // 10)
        self.assertFalse(self.standby.status()["incomplete"])
        for daemon in (self.host, self.standby):
            self.assertEqual(daemon.call("get-error", "vm1")["errors"], [])
        return state

    def fail_over(self, expected):
        """Under load: the last checkpoint, and nothing of what came after it; the old primary's guest is stopped by its fencing."""
        self.writers.tell(Writers.WRITE_WHILE_IT_LASTS)
        self.standby.call("stop", "vm1", "--failover")
        self.assertEqual(self.state(self.views), expected, "after the failover")
        self.assertTrue(self.writers.join())
        self.standby.wait_stage("DONE")
        self.assertEqual(self.state(self.views), expected, "in stage DONE")
        self.assert_raw_disks(expected)

    def test_every_checkpoint_is_a_state_that_the_order_of_writes_allows(self):
        """With a small window, so that a marker does not wait behind 64 MiB: the writers wait for the standby instead."""
        self.start("--window-bytes", "2M")
        self.fail_over(self.take_checkpoints(CHECKPOINTS))

    def test_with_a_full_window_ahead_of_every_marker(self):
        self.start()
        self.fail_over(self.take_checkpoints(CHECKPOINTS // 50))

    def test_what_was_received_when_the_primary_died_is_such_a_state_too(self):
        """And with --ack=received it holds whatever the guest was told is written."""
        for tag in range(1, 6):
            self.start("--ack", "received", tag=tag)
            lib.wait_for(lambda: min(map(min, self.writers.answered())) > 3, "every writer's first blocks")
            time.sleep(self.rng.uniform(0, 0.3))
            self.writers.tell(Writers.WRITE_WHILE_IT_LASTS)
            self.host.kill()
            self.assertTrue(self.writers.join())
            answered = self.writers.answered()
            self.standby.call("stop", "vm1", "--failover", "--received")
            state = self.state(self.views)
            self.assert_between(answered, state, [[last + 1 for last in numbers] for numbers in answered], f"death {tag}")
            self.standby.wait_stage("DONE")
            self.assert_raw_disks(state)
            self.assertEqual(self.standby.daemon.end(), 0)


class FileDisk:
    """A raw file with the read_ranges() of an NBD connection."""

    def __init__(self, path):
        self.content = path.read_bytes()

    def read_ranges(self, ranges):
        return [self.content[offset : offset + length] for offset, length in ranges]


if __name__ == "__main__":
    lib.run_tests()

"""What must hold at every instant (docs/semantics.md), under a random workload over a group of three volumes.

A model of a few bytearrays knows what the primary wrote, what the last checkpoint holds and what the secondary VM wrote over it. After each
step the daemons must agree with it byte for byte. A failure prints the steps; UNDERSTUDY_SEED replays them.
"""

import threading
import time

import lib
from nbd import FUA, Disk
from lib import MIB

VOLUMES = ("vda", "vdb", "vdc")
SIZE = MIB
LIVES = 2
STEPS = 20


class Model:
    """`primary`: the primary's disks; `view`: what the secondary VM sees; by volume."""

    def __init__(self, images):
        self.primary = {name: bytearray(image) for name, image in images.items()}
        self.view = {name: bytearray(image) for name, image in images.items()}
        self.epoch = 0

    def commit(self):
        self.view = {name: bytearray(image) for name, image in self.primary.items()}


class PropertiesTest(lib.Case):
    def setUp(self):
        super().setUp()
        self.steps = []
        self.standby = self.service("--segment-bytes", "4M", "--apply-bytes-per-second", "8M")
        self.primary_guests, self.standby_guests = {}, {}

    def tearDown(self):
        if any(case is self for case, _ in self._outcome.result.failures + self._outcome.result.errors):
            print("steps:", *self.steps, sep="\n  ", flush=True)
        self.hang_up()
        super().tearDown()

    # ---- the two VMs --------------------------------------------------------------------------------------------------------------

    def hang_up(self):
        for guests in (self.primary_guests, self.standby_guests):
            for guest in guests.values():
                guest.close()
            guests.clear()

    def guest(self, daemon, name):
        guests = self.standby_guests if daemon is self.standby else self.primary_guests
        if name not in guests:
            guests[name] = Disk(daemon.nbd_socket, f"vm1/{name}")
        return guests[name]

    def change(self, daemon, images, count):
        """A VM's requests, on all volumes; what they make of `images`."""
        for _ in range(count):
            name = self.rng.choice(VOLUMES)
            (request,) = lib.random_requests(self.rng, 1, SIZE, length_max=32 * 1024)
            guest = self.guest(daemon, name)
            if request.kind == "write":
                guest.write(request.offset, bytes([request.pattern]) * request.length, FUA if self.rng.random() < 0.1 else 0)
            else:
                (guest.write_zeroes if request.kind == "zero" else guest.trim)(request.offset, request.length)
            lib.apply_to(images[name], [request])
        if self.rng.random() < 0.3:
            self.guest(daemon, self.rng.choice(VOLUMES)).flush()

    def assert_views(self, expected, what):
        for name in VOLUMES:
            found = self.guest(self.standby, name).read(0, SIZE)
            self.assert_bytes(found, bytes(expected[name]), f"{name}: {what}")

    # ---- steps --------------------------------------------------------------------------------------------------------------------

    def primary_writes(self):
        self.change(self.agent_, self.model.primary, self.rng.randint(1, 30))

    def secondary_writes(self):
        self.change(self.standby, self.model.view, self.rng.randint(1, 20))

    def checkpoint(self):
        """At either daemon."""
        daemon = self.rng.choice((self.agent_, self.standby))
        if daemon is self.standby:
            self.agent_.wait_connected()  # else it would commit what has been received
        answer = daemon.ctl("checkpoint", "vm1")
        self.assertEqual(answer.status, 0, answer.error)
        self.assertGreater(int(answer.object["epoch"]), self.model.epoch)
        self.model.epoch = int(answer.object["epoch"])
        self.model.commit()

    def service_killed(self):
        self.standby.kill()
        if self.rng.random() < 0.5:
            self.change(self.agent_, self.model.primary, 5)  # while it is away
        self.hang_up_standby()
        self.standby.restart()

    def service_restarted(self):
        self.assertEqual(self.standby.daemon.end(), 0)
        self.hang_up_standby()
        self.standby.restart()

    def hang_up_standby(self):
        for guest in self.standby_guests.values():
            guest.close()
        self.standby_guests.clear()

    def service_killed_in_a_checkpoint(self):
        """The old checkpoint or the new one, on every volume; and when the call has succeeded, the new one."""
        answers = []
        call = threading.Thread(target=lambda: answers.append(self.agent_.ctl("checkpoint", "vm1")))
        call.start()
        time.sleep(self.rng.uniform(0, 0.15))
        self.standby.kill()
        self.hang_up_standby()
        self.standby.restart()
        committed = int(self.standby.status()["committed_epoch"])
        found = {name: self.guest(self.standby, name).read(0, SIZE) for name in VOLUMES}
        if int(self.standby.status()["committed_epoch"]) == committed:  # else it was committed while we looked
            expected = self.model.view if committed == self.model.epoch else self.model.primary
            for name in VOLUMES:
                self.assert_bytes(found[name], bytes(expected[name]), f"{name} after the kill, epoch {committed}")
        call.join()
        self.assertEqual(answers[0].status, 0, answers[0].error)
        self.model.epoch = int(answers[0].object["epoch"])
        self.model.commit()

    def agent_restarted(self):
        """In order: the stream goes on, and nothing is missing."""
        for guest in self.primary_guests.values():
            guest.close()
        self.primary_guests.clear()
        self.assertEqual(self.agent_.daemon.end(), 0)
        self.agent_.restart()

    def agent_killed(self):
        """Nobody knows what was under way. Until a resync has found out no checkpoint commits; its own is the primary's disks."""
        for guest in self.primary_guests.values():
            guest.close()
        self.primary_guests.clear()
        self.agent_.kill()
        self.agent_.restart()
        self.agent_.wait_connected()
        epoch = int(self.agent_.call("sync", "vm1", "--wait")["committed_epoch"])
        if epoch > self.model.epoch:
            self.model.epoch = epoch
            self.model.commit()

    def check_states(self):
        """In sync is said only when it is known."""
        for daemon in (self.standby, self.agent_):
            status = daemon.status()
            self.assertEqual(status["stage"], "RUNNING")
            self.assertIn(status["sync_state"], ("ASSUMED", "DISCONNECTED", "BEHIND", "RESYNCING", "IN_SYNC"))
            if status["sync_state"] in ("IN_SYNC", "ASSUMED"):
                self.assertFalse(status["incomplete"], status)
                self.assertEqual([int(volume["dirty_bytes"]) for volume in status["volumes"]], [0] * len(VOLUMES))

    # ---- lives --------------------------------------------------------------------------------------------------------------------

    def begin(self, life, images):
        self.model = Model(images)
        disks = {}
        for side in ("p", "s"):
            for name in VOLUMES:
                disks[side, name] = self.disk(f"{side}-{life}-{name}", SIZE, bytes(images[name]))
        self.standby.start_group(*(f"{name},disk={disks['s', name]}" for name in VOLUMES))
        self.agent_ = self.agent(
            self.standby, *(f"{name},disk={disks['p', name]}" for name in VOLUMES), name=f"agent{life}"
        ).wait_connected()
        return disks

    def take_over(self, disks):
        """It sees what it saw; the disk becomes that; the old primary changes no byte any more."""
        before = {name: bytes(image) for name, image in self.model.view.items()}
        self.standby.call("stop", "vm1", "--failover")
        self.assert_views(before, "right after the failover")
        for _ in range(3):
            self.change(self.standby, self.model.view, 10)
            if self.rng.random() < 0.5:
                self.service_restarted() if self.rng.random() < 0.5 else self.kill_standby()
            self.assert_views(self.model.view, "while the commit job is at work")
        try:
            self.change(self.agent_, self.model.primary, 3)
        except OSError:
            pass  # it knows already that it is fenced
        self.standby.wait_stage("DONE")
        self.change(self.standby, self.model.view, 5)
        self.assert_views(self.model.view, "in DONE")
        for name in VOLUMES:
            self.guest(self.standby, name).flush()
            self.assert_file(disks["s", name], bytes(self.model.view[name]), f"the raw disk of {name}")

    def kill_standby(self):
        self.standby.kill()
        self.hang_up_standby()
        self.standby.restart()

    def test_every_byte_agrees_with_the_model(self):
        steps = [
            (self.primary_writes, 8), (self.secondary_writes, 5), (self.checkpoint, 6), (self.service_killed, 2),
            (self.service_restarted, 1), (self.service_killed_in_a_checkpoint, 2), (self.agent_restarted, 1),
        ]  # fmt: skip
        images = {name: self.random_bytes(SIZE) for name in VOLUMES}
        for life in range(LIVES):
            disks = self.begin(life, images)
            for number in range(STEPS):
                (step,) = self.rng.choices([s for s, _ in steps], [w for _, w in steps])
                if number == STEPS - 4 and life % 2 == 1:
                    step = self.agent_killed
                self.steps.append(f"{life}.{number} {step.__name__}")
                step()
                if step is not self.primary_writes:
                    self.assert_views(self.model.view, f"after step {self.steps[-1]}")
                    self.check_states()
            self.steps.append(f"{life} failover")
            self.take_over(disks)
            # The new primary has the standby's disks.
            images = {name: bytes(image) for name, image in self.model.view.items()}
            self.hang_up()
            self.agent_.kill()
            self.standby.call("remove", "vm1")


if __name__ == "__main__":
    lib.run_tests("nbdinfo")

"""History and clones: going back to a checkpoint, and testing one, with every byte compared with the primary's at that time."""

import re
import subprocess
import time

import lib
from lib import CTL, MIB, qemu_io, run


class HistoryTest(lib.Case):
    """A pair with two volumes. `self.at[epoch]` is what both disks held at that checkpoint, `self.changed` what it changed."""

    def start_pair(self, *options, agent_options=("--start",)):
        self.now = {"vda": bytearray(self.random_bytes(6 * MIB)), "vdb": bytearray(self.random_bytes(2 * MIB + 512))}
        self.secondary = {name: self.disk(f"s-{name}", len(data), data) for name, data in self.now.items()}
        primary = {name: self.disk(f"p-{name}", len(data), data) for name, data in self.now.items()}
        self.standby = self.service(*options)
        self.standby.start_group(*(f"{name},disk={path}" for name, path in self.secondary.items()))
        volumes = (f"{name},disk={path}" for name, path in primary.items())
        self.host = self.agent(self.standby, *volumes, options=agent_options).wait_connected()
        self.at, self.changed = {}, {}

    def write_some(self, count=20):
        """A guest's requests on both volumes; returns how many bytes they cover, by volume."""
        covered = {}
        for name, image in self.now.items():
            requests = lib.random_requests(self.rng, count, len(image))
            qemu_io(self.host.uri(name), *map(lib.command_of, requests))
            lib.apply_to(image, requests)
            sectors = {s for r in requests for s in range(r.offset // 512, (r.offset + r.length) // 512)}
            covered[name] = 512 * len(sectors)
        return covered

    def commit(self, times=1):
        for _ in range(times):
            changed = self.write_some()
            epoch = int(self.host.call("checkpoint", "vm1")["epoch"])
            self.at[epoch] = {name: bytes(image) for name, image in self.now.items()}
            self.changed[epoch] = changed
        return epoch

    def history(self):
        return self.standby.call("history", "vm1")["epochs"]

    def wait_history(self, *epochs):
        return lib.wait_for(
            lambda: (lambda h: h if tuple(e["epoch"] for e in h) == epochs else None)(self.history()), f"history {epochs}"
        )

    def unapplied(self, status):
        return sum(volume["committed_unapplied_bytes"] + volume["history_bytes"] for volume in status["volumes"])

    def clone(self, name, *flags):
        return self.standby.call("clone", "vm1", "--name", name, *flags)["clone"]

    def clone_names(self):
        return [clone["name"] for clone in self.standby.call("clone", "vm1", "--list")["clones"]]

    def clone_uri(self, name, volume="vda"):
        return self.standby.uri(export=f"vm1@{name}/{volume}")

    def assert_clone(self, name, images, what):
        for volume, image in images.items():
            self.assert_export(self.clone_uri(name, volume), image, f"clone {name}, {volume}: {what}")

    def assert_standby(self, images, what):
        for volume, image in images.items():
            self.assert_export(self.standby.uri(volume), image, f"{volume} {what}")

    def assert_secondary(self, images, what):
        for volume, path in self.secondary.items():
            self.assert_file(path, images[volume], f"secondary disk {volume} {what}")

    def connect(self, uri):
        """A client that keeps its connection open; returns its process."""
        client = subprocess.Popen(
            ["stdbuf", "-oL", "qemu-io", "-f", "raw", uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(client.communicate)
        self.ask(client, "read 0 512")
        return client

    def ask(self, client, command):
        """What the client says to one command."""
        client.stdin.write(command + "\n")
        client.stdin.flush()
        while line := client.stdout.readline():
            if "failed" in line or "ops; " in line:
                return line
        raise AssertionError("qemu-io ended")

    # ---- history ----------------------------------------------------------------------------------------------------------------

    def test_the_list_is_right_and_survives_kill_9_and_a_stop_applies_all(self):
        self.start_pair("--history-epochs", "3")
        self.assertEqual(self.history(), [])
        begun = time.time()
        self.commit(times=5)
        self.wait_history(5, 4, 3, 2)
        # Nothing is on the disk while epoch 2 is being applied.
        lib.wait_for(lambda: self.history()[-1]["on_disk"], "epoch 2 to be applied")
        epochs = self.history()
        on_disk = [(epoch["epoch"], epoch["on_disk"]) for epoch in epochs]
        self.assertEqual(on_disk, [(5, False), (4, False), (3, False), (2, True)])
        self.assert_secondary(self.at[2], "holds the checkpoint that is on_disk")
        for epoch in epochs[:3]:
            changed = self.changed[epoch["epoch"]]
            self.assertEqual({v["volume"]: v["bytes"] for v in epoch["volumes"]}, changed)
            self.assertEqual(epoch["bytes"], sum(changed.values()))
        times = [epoch["committed_unix_micros"] / 1e6 for epoch in epochs]
        self.assertEqual(times, sorted(times, reverse=True))
        self.assertTrue(begun <= times[-1] and times[0] <= time.time(), times)

        status = self.standby.status()
        self.assertEqual(status["history_epochs"], 3)
        for volume in status["volumes"]:
            kept = sum(self.changed[epoch][volume["name"]] for epoch in (3, 4, 5))
            self.assertEqual(volume["history_bytes"], kept, volume["name"])
            metric = self.standby.metric("understudy_overlay_bytes", volume=volume["name"], overlay="history")
            self.assertEqual(metric, kept)
        self.assertEqual(self.standby.metric("understudy_history_epochs"), 3)
        text = run(CTL, "--server", self.standby.address, "history", "vm1").stdout
        self.assertRegex(text, r"(?m)^3 +20\d\d-.* ago .*vda .*, vdb ")
        self.assertIn(f"understudyctl --server {self.standby.address} clone vm1 --epoch 2 --name NAME\n", text)
        self.assertNotIn("understudyctl stop", text, "nothing to paste that ends replication")

        self.standby.kill()
        self.standby.restart()
        self.assertEqual(self.history(), epochs)
        self.assert_standby(self.at[5], "after kill -9")
        self.host.wait_connected()
        self.commit()
        self.wait_history(6, 5, 4, 3)

        self.host.call("stop", "vm1")
        self.assertEqual(self.standby.call("stop", "vm1")["stage"], "DONE")
        self.assert_secondary(self.at[6], "after a stop")
        self.assertEqual(self.history(), [])
        self.assertEqual(self.standby.status()["history_epochs"], 0)

    def test_history_bytes_limit_what_is_kept(self):
        self.start_pair("--history-bytes", "1M")
        for pattern in range(1, 6):
            qemu_io(self.host.uri(), f"write -P {pattern} 0 400k")
            self.host.call("checkpoint", "vm1")
        self.wait_history(5, 4, 3)
        self.assertEqual(self.standby.status()["history_epochs"], 2)

    # ---- failover to an older epoch -----------------------------------------------------------------------------------------------

    def test_a_failover_to_an_older_epoch_while_a_vm_is_connected_needs_force(self):
        self.start_pair("--history-epochs", "8")
        self.commit(times=4)
        target = 2
        vm = self.connect(self.standby.uri("vdb"))
        qemu_io(self.standby.uri("vda"), "write -P 99 64k 64k")
        lib.wait_for(lambda: self.standby.status()["nbd_connections"] == 1, "the second one to be gone")

        refused = self.standby.ctl("stop", "vm1", "--failover", "--epoch", "77")
        self.assert_refused(refused, "NOT_FOUND", "1 to 4 can be chosen")
        self.assertIn(f"understudyctl --server {self.standby.address} history vm1", refused.error)
        refused = self.standby.ctl("stop", "vm1", "--failover", "--epoch", str(target))
        self.assert_refused(refused, "FAILED_PRECONDITION", "in use over NBD, and epoch 2 is older than the newest, 4")
        self.assertIn("--force", refused.error)
        self.assertEqual(self.standby.status()["stage"], "RUNNING")
        self.commit()  # and replication has not noticed

        answer = self.standby.call("stop", "vm1", "--failover", "--epoch", str(target), "--force")
        self.assertEqual(answer["epoch"], target)
        self.assertIn(answer["stage"], ("FAILOVER", "DONE"))
        expected = {name: bytearray(image) for name, image in self.at[target].items()}
        self.assert_standby(expected, "after going back")
        self.assertIn("ops; ", self.ask(vm, "read 0 512"))
        for name, image in expected.items():
            requests = lib.random_requests(self.rng, 20, len(image))
            qemu_io(self.standby.uri(name), *map(lib.command_of, requests), "flush")
            lib.apply_to(image, requests)
        self.standby.wait_stage("DONE")
        self.assert_standby(expected, "in stage DONE")
        self.assert_secondary(expected, "in stage DONE")

    def test_each_kept_epoch_can_be_gone_back_to_and_survives_kill_9(self):
        for target in (1, 3, 4):  # on the disk, in the middle, the newest
            with self.subTest(epoch=target):
                self.setUp()
                self.start_pair("--history-epochs", "3")
                self.commit(times=4)
                self.wait_history(4, 3, 2, 1)
                self.write_some()
                self.assertEqual(self.standby.call("stop", "vm1", "--failover", "--epoch", str(target))["epoch"], target)
                self.standby.kill()
                self.standby.restart()
                self.assert_standby(self.at[target], "after kill -9")
                self.standby.wait_stage("DONE")
                self.assert_secondary(self.at[target], "in stage DONE")
                if target != 4:
                    self.tearDown()

    # ---- clones -----------------------------------------------------------------------------------------------------------------

    def test_a_clone_keeps_its_bytes_while_replication_goes_on(self):
        self.start_pair("--history-epochs", "2")
        self.commit(times=3)
        clone = self.clone("drill", "--epoch", "2")
        self.assertEqual((clone["epoch"], clone["exports"]), (2, ["vm1@drill/vda", "vm1@drill/vdb"]))
        exports = ["vm1/vda", "vm1/vdb", "vm1@drill/vda", "vm1@drill/vdb"]
        self.assertEqual(self.standby.export_names(), exports)
        self.assert_clone("drill", self.at[2], "as made")

        mine = {name: bytearray(image) for name, image in self.at[2].items()}
        written = 0
        for _ in range(4):  # more than history keeps
            for name, image in mine.items():
                requests = lib.random_requests(self.rng, 10, len(image))
                qemu_io(self.clone_uri("drill", name), *map(lib.command_of, requests), "flush")
                lib.apply_to(image, requests)
                written += sum(r.length for r in requests if r.kind == "write")
            newest = self.commit()
            self.assert_clone("drill", mine, f"after checkpoint {newest}")
            self.assert_standby(self.at[newest], "beside a clone")
        (shown,) = self.standby.status()["clones"]
        self.assertEqual((shown["name"], shown["written_bytes"]), ("drill", written))
        self.assertEqual(self.standby.metric("understudy_clones"), 1)
        self.assertEqual(self.standby.metric("understudy_clone_written_bytes"), written)
        self.assertEqual(self.standby.metric("understudy_clone_io_errors_total"), 0)

        ctl = f"understudyctl --server {self.standby.address}"
        again = self.standby.ctl("clone", "vm1", "--name", "drill")
        self.assert_refused(again, "ALREADY_EXISTS", f"{ctl} clone vm1 --remove drill")
        client = self.connect(self.clone_uri("drill"))
        self.standby.call("clone", "vm1", "--remove", "drill")
        self.assertIn("Input/output error", self.ask(client, "read 0 512"))
        self.assertEqual(self.standby.export_names(), exports[:2])
        self.assertEqual(self.standby.status()["clones"], [])
        gone = self.standby.ctl("clone", "vm1", "--remove", "drill")
        self.assert_refused(gone, "NOT_FOUND", f"{ctl} clone vm1 --list")
        self.wait_history(newest, newest - 1, newest - 2)  # apply went on
        self.assert_secondary(self.at[newest - 2], "once the clone was gone")
        self.assertEqual(self.standby.ctl("get-error", "vm1").status, 0)

    def test_the_commands_that_clone_prints_work(self):
        self.start_pair()
        self.commit()
        text = run(CTL, "--server", self.standby.address, "clone", "vm1", "--name", "drill").stdout
        uris = re.findall(r"^ +uri +(\S+)$", text, re.MULTILINE)
        self.assertEqual(len(uris), 2, text)
        for uri, image in zip(uris, self.at[1].values()):
            self.assert_export(uri, image, uri)
        run("sh", "-c", re.search(r"look at it +(.*)", text)[1])
        end = re.search(r"end it +understudyctl (.*)", text)[1].split()
        self.assertEqual(end[:2], ["--server", self.standby.address], "it leads to the same daemon")
        run(CTL, *end)
        self.assertEqual(self.clone_names(), [])

    def test_without_history_a_clone_of_the_newest_holds_the_apply_job(self):
        self.start_pair()
        self.commit()
        self.assertEqual(self.clone("drill")["epoch"], 1)
        self.commit(times=2)
        status = self.standby.status()
        self.assertGreater(self.unapplied(status), 0)
        self.assert_clone("drill", self.at[1], "after two checkpoints")
        self.assert_standby(self.at[3], "beside a clone")
        self.standby.call("clone", "vm1", "--remove", "drill")
        self.wait_history(3)
        # Epoch 3 is the only one from the last step of the apply job on: it may still write.
        lib.wait_for(lambda: self.unapplied(self.standby.status()) == 0, "the end of the apply job")
        self.assert_secondary(self.at[3], "after the clone")

    def test_a_clone_ends_at_its_time_and_a_restart(self):
        self.start_pair()
        self.commit()
        self.clone("long", "--ttl", "2d")
        self.clone("brief", "--ttl", "5s")
        client = self.connect(self.clone_uri("brief"))
        lib.wait_for(lambda: self.clone_names() == ["long"], "the end of its time")
        self.assertIn("Input/output error", self.ask(client, "read 0 512"))
        self.standby.kill()
        self.standby.restart()
        self.assertEqual(self.clone_names(), [])
        self.assert_standby(self.at[1], "after the restart")

    def test_a_full_clone_says_so_to_its_client_only(self):
        self.start_pair()
        self.commit()
        self.clone("small", "--bytes-max", "1M")
        uri = self.clone_uri("small")
        qemu_io(uri, "write -P 1 0 1M", "flush")
        full = qemu_io(uri, "write -P 2 0 4k", check=False)
        self.assertIn("No space left on device", full.stdout + full.stderr)
        self.assert_clone("small", {"vda": b"\1" * MIB + self.at[1]["vda"][MIB:]}, "when full")
        self.assertEqual(self.standby.ctl("get-error", "vm1").status, 0)
        self.commit()

    def test_a_failover_ends_clones_and_is_what_they_showed(self):
        self.start_pair("--history-epochs", "4")
        self.commit(times=3)
        self.clone("drill", "--epoch", "2")
        client = self.connect(self.clone_uri("drill"))  # does not count as a VM
        qemu_io(self.clone_uri("drill"), "write -P 77 0 1M")
        self.standby.call("stop", "vm1", "--failover", "--epoch", "2")
        self.assertEqual(self.clone_names(), [])
        self.assertIn("Input/output error", self.ask(client, "read 0 512"))
        self.assert_standby(self.at[2], "after the failover")
        self.standby.wait_stage("DONE")
        self.assert_secondary(self.at[2], "in stage DONE")

    def test_what_cannot_be_cloned_is_refused(self):
        self.start_pair("--history-epochs", "2")
        early = self.standby.ctl("clone", "vm1", "--name", "drill")
        self.assert_refused(early, "FAILED_PRECONDITION", f"understudyctl --server {self.standby.address} checkpoint vm1")
        self.commit()
        for name, epoch, code, text in (
            ("drill", "9", "NOT_FOUND", "1 to 1 can be chosen"),
            ("a/b", "1", "INVALID_ARGUMENT", 'clone name "a/b" is invalid'),
        ):
            answer = self.standby.ctl("clone", "vm1", "--name", name, "--epoch", epoch)
            self.assert_refused(answer, code, text)
        for command in (("history", "vm1"), ("clone", "vm1", "--name", "drill"), ("clone", "vm1", "--list")):
            self.assert_refused(self.host.ctl(*command), "FAILED_PRECONDITION", "ask the standby's service")
        self.assertEqual(self.standby.ctl("stop", "vm1", "--failover", "--epoch", "1", "--received").status, 2)
        self.standby.call("stop", "vm1", "--failover")
        late = self.standby.ctl("clone", "vm1", "--name", "drill")
        self.assert_refused(late, "FAILED_PRECONDITION", "Block replication is not running")


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", "nbdinfo", at_once=2)

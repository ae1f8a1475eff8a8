"""What the daemons refuse: code, text and exit status as docs/semantics.md says, nothing left behind, the right call works next."""

import fcntl
import json
import os
import socket

import lib
from lib import AGENT, CTL, MIB, SERVICE, Agent, Service, qemu_io
from nbd import Disk, errno_of

INSPECT = os.environ.get("UNDERSTUDY_INSPECT", "understudy-inspect")
SIZE = MIB


class RefusedCallsTest(lib.Case):
    """The checks of Open and Start, in the order of SEMANTICS.md section 3."""

    def setUp(self):
        super().setUp()
        self.standby = self.service()
        self.good = f"vda,disk={self.disk('good.raw', SIZE)}"

    def start(self, *volumes, group="vm1", mode="secondary"):
        flags = [word for volume in volumes for word in ("--volume", volume)]
        return self.standby.ctl("start", group, "--mode", mode, *flags)

    def test_each_row_is_refused_and_leaves_nothing_behind(self):
        self.standby.start_group(f"vda,disk={self.disk('taken.raw', SIZE)},top-id=taken", group="other")
        (self.dir / "odd.raw").write_bytes(bytes(1000))
        (self.dir / "empty-dir").mkdir()
        os.symlink("/etc/hostname", self.dir / "link.raw")
        good = self.good
        not_same = "Active disk, hidden disk, secondary disk's length are not the same"
        in_use = "Block device is in use by internal backup job"
        rows = [
            # volumes, code, text
            ([f"UPPER,disk={self.dir}/good.raw"], "INVALID_ARGUMENT", "UPPER"),
            ([f"-vda,disk={self.dir}/good.raw"], "INVALID_ARGUMENT", "-vda"),
            ([f"{'v' * 64},disk={self.dir}/good.raw"], "INVALID_ARGUMENT", "v" * 64),
            ([f"{good},top-id=/slash"], "INVALID_ARGUMENT", "/slash"),
            ([f"{good},top-id={'t' * 128}"], "INVALID_ARGUMENT", "t" * 128),
            (["vda,disk=/etc/hostname"], "PERMISSION_DENIED", "/etc/hostname"),
            ([f"vda,disk={self.dir}/link.raw"], "PERMISSION_DENIED", "link.raw"),
            ([f"vda,disk={self.dir}/../../etc/hostname"], "PERMISSION_DENIED", "hostname"),
            ([f"vda,disk={self.dir}/missing.raw"], "NOT_FOUND", f"{self.dir}/missing.raw"),
            ([f"vda,disk={self.dir}/taken.raw"], "FAILED_PRECONDITION", in_use),
            ([good, f"vdb,disk={self.dir}/good.raw"], "FAILED_PRECONDITION", in_use),
            ([f"{good},size=2M"], "FAILED_PRECONDITION", not_same),
            ([f"{good},size=1000"], "INVALID_ARGUMENT", "512"),
            ([f"vda,disk={self.dir}/odd.raw"], "INVALID_ARGUMENT", "512"),
            ([f"{good},top-id=taken"], "FAILED_PRECONDITION", "No top_bs or it is invalid"),
            # All or nothing: the good volume of a refused group is not kept either.
            ([good, f"vdb,disk={self.dir}/missing.raw"], "NOT_FOUND", "missing.raw"),
        ]
        for volumes, code, text in rows:
            with self.subTest(volumes=volumes):
                for _ in range(2):  # QEMU 7.2 aborts on the second try
                    self.assert_refused(self.start(*volumes), code, text)
                self.assert_refused(self.standby.ctl("status", "vm1"), "NOT_FOUND", "vm1")
        for group in ("UPPER", "vm-", "g" * 64):
            with self.subTest(group=group):
                self.assert_refused(self.start(good, group=group), "INVALID_ARGUMENT", group)
        self.assertFalse((self.dir / "missing.raw").exists())
        # And now the same call, right.
        answer = self.start(good)
        self.assertEqual((answer.status, answer.object["stage"]), (0, "RUNNING"), answer.error)

    def test_a_disk_whose_name_is_not_utf8_behind_a_link(self):
        """As the refusal of its name says. Protobuf sends no such string: nobody could read an answer that has it."""
        os.rename(self.dir / "good.raw", os.fsencode(self.dir) + b"/\xfc.raw")
        os.symlink(b"\xfc.raw", os.fsencode(self.dir / "good.raw"))
        self.standby.start_group(self.good)
        self.standby.start_group(f"vda,disk={self.disk('other.raw', SIZE)}", group="other")
        for restarted in (False, True):
            paths = [group["volumes"][0]["disk_path"] for group in self.standby.ctl("status").objects]
            self.assertEqual(paths, [f"{self.dir}/other.raw", f"{self.dir}/\\xfc.raw"], restarted)
            self.assertEqual(self.standby.daemon.end(), 0)
            self.assertIn(f"{self.dir}/\\xfc.raw", self.inspected_paths())
            self.standby.restart()

    def inspected_paths(self):
        report = json.loads(lib.run(INSPECT, "--json", self.standby.data_dir).stdout)
        return [group["volumes"][0]["disk_path"] for group in report["groups"]]

    def test_a_disk_that_another_process_holds(self):
        with open(self.dir / "good.raw", "rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            self.assert_refused(self.start(self.good), "FAILED_PRECONDITION", "Block device is in use by internal backup job")
        answer = self.start(self.good)
        self.assertEqual(answer.status, 0, answer.error)

    def test_stages_and_modes(self):
        not_running = "Block replication is not running"
        self.assert_refused(self.standby.ctl("checkpoint", "vm1"), "NOT_FOUND", "vm1")
        self.standby.call("open", "vm1", "--mode", "secondary", "--volume", self.good)
        for call in (["checkpoint", "vm1"], ["get-error", "vm1"], ["stop", "vm1"], ["stop", "vm1", "--failover"]):
            self.assert_refused(self.standby.ctl(*call), "FAILED_PRECONDITION", not_running)
        self.assert_refused(
            self.start(mode="primary"), "INVALID_ARGUMENT", "The parameter mode's value is invalid, needs 1, but got 0"
        )
        self.assertEqual(self.start().status, 0)
        self.assert_refused(self.start(), "FAILED_PRECONDITION", "Block replication is running or done")
        self.assert_refused(
            self.standby.ctl("remove", "vm1"), "FAILED_PRECONDITION", "Block device is in use by internal backup job"
        )
        agent = self.agent(self.standby, f"vda,size={SIZE}", options=())
        self.assert_refused(
            agent.ctl("start", "vm1", "--mode", "secondary"),
            "INVALID_ARGUMENT", "The parameter mode's value is invalid, needs 0, but got 1",
        )  # fmt: skip
        for call in (["get-error", "vm1"], ["stop", "vm1"]):
            self.assert_refused(agent.ctl(*call), "FAILED_PRECONDITION", not_running)
        self.assert_refused(agent.ctl("status", "vm2"), "NOT_FOUND", "vm2")
        self.assertEqual(agent.call("start", "vm1", "--mode", "primary")["stage"], "RUNNING")
        self.assert_refused(
            agent.ctl("start", "vm1", "--mode", "primary"), "FAILED_PRECONDITION", "Block replication is running or done"
        )

    def test_an_agent_whose_volume_is_unknown_or_of_another_size_is_refused(self):
        self.start(self.good)
        for name, volume in (("unknown", f"vdx,size={SIZE}"), ("longer", f"vda,size={2 * SIZE}")):
            with self.subTest(name):
                agent = self.agent(self.standby, volume, name=name)
                answer = lib.wait_for(
                    lambda: (lambda a: a if a.status == 3 else None)(agent.ctl("get-error", "vm1")), "a latched error"
                )
                self.assertTrue(answer.object["errors"][0]["message"])
                self.assertFalse(agent.status()["connected"])
                agent.kill()
        agent = self.agent(self.standby, f"vda,size={SIZE}", name="right").wait_connected()
        qemu_io(agent.uri(), "write -P 1 0 4k")
        self.assertEqual(int(agent.call("checkpoint", "vm1")["epoch"]), 1)

    def test_a_path_with_commas(self):
        """They are written twice, at both ends."""
        secondary, primary = self.disk("s,1.raw", SIZE), self.disk("p,,1.raw", SIZE)
        self.standby.start_group(f"vda,disk={str(secondary).replace(',', ',,')}")
        agent = self.agent(self.standby, f"vda,disk={str(primary).replace(',', ',,')}").wait_connected()
        self.assertEqual(agent.status()["volumes"][0]["disk_path"], str(primary))
        self.assertEqual(self.standby.status()["volumes"][0]["disk_path"], str(secondary))
        qemu_io(agent.uri(), "write -P 1 0 4k")
        agent.call("checkpoint", "vm1")
        self.assertEqual(self.read_disk(self.standby.uri())[:4096], b"\1" * 4096)

    def test_a_thin_image_larger_than_its_file_system_is_warned_of(self):
        """It would be accepted, and nothing ever be replicated."""
        size = 8 << 40  # ext4 takes no larger file
        answer = self.standby.start_group(f"vda,disk={self.dir}/thin.raw,size={size},create")
        self.assertEqual(answer["stage"], "RUNNING")
        (warning,) = answer["warnings"]
        self.assertIn("--reserve-disk-space=false", warning)
        people = lib.run(CTL, "--server", self.standby.address, "start", "vm2", "--mode", "secondary", "--volume", self.good)
        self.assertIn("\nwarning: nothing can be received: ", people.stdout)

    def test_a_request_within_a_sector_is_refused_alike_at_both_ends(self):
        """Reads, too, on a disk that could do it: a VM is moved from one to the other."""
        self.standby.start_group(self.good)
        agent = self.agent(self.standby, f"vda,disk={self.disk('p.raw', SIZE)}").wait_connected()
        for end in (self.standby, agent):
            with self.subTest(end.name), Disk(end.nbd_socket, "vm1/vda") as disk:
                for request in (
                    lambda: disk.read(0, 100), lambda: disk.read(100, 512),
                    lambda: disk.write(0, bytes(100)), lambda: disk.write(100, bytes(512)),
                    lambda: disk.write_zeroes(100, 512), lambda: disk.trim(0, 100),
                ):  # fmt: skip
                    self.assertEqual(errno_of(request), "EINVAL")
                self.assertEqual(disk.read(0, 512), bytes(512))
            self.assertEqual(end.call_errors(), [], "the caller's affair")

    def test_nobody_listens(self):
        answer = lib.ctl(f"unix:{self.dir}/nobody", "status", timeout="2s")
        self.assertEqual(answer.status, 1)
        self.assertTrue(answer.error.startswith("error: UNAVAILABLE: "), answer.error)


class WrongUsageTest(lib.Case):
    """Exit status 2, and every problem of the command line in one go."""

    def refused(self, *command, environment=None):
        done = lib.run(*command, check=False, env={**os.environ, **(environment or {})})
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        return done.stderr

    def test_every_problem_is_listed_at_once(self):
        rows = [
            ([SERVICE, "--listen", "nonsense", "--metrics-listen", "unix:/x", "--durability", "maybe", "--frobnicate"],
             ["--data-dir", "nonsense", "unix:/x", "maybe", "--frobnicate"]),
            ([AGENT, "--volume", "vda", "--ack", "never", "--on-full", "explode", "--window-bytes", "x", "--frobnicate"],
             ["--server", "--nbd-socket", "--group", "vda", "never", "explode", "--window-bytes", "--frobnicate"]),
            ([CTL, "--server", "nowhere", "--timeout", "soon", "start", "--mode", "tertiary", "--volume", "disk", "--frobnicate"],
             ["nowhere", "soon", "GROUP", "primary or secondary", "--frobnicate"]),
        ]  # fmt: skip
        for command, problems in rows:
            with self.subTest(program=os.path.basename(command[0])):
                error = self.refused(*command)
                for problem in problems:
                    self.assertIn(problem, error)

    def test_what_is_not_utf8_is_refused_by_name(self):
        """Whichever flag or variable it is. Protobuf would print a line of its own, and gRPC answer UNIMPLEMENTED without a text."""
        odd = os.fsdecode(b"/srv/\xfc")
        rows = [
            ([CTL, "start", "vm1", "--mode", "secondary", "--volume", f"vda,disk={odd}"], {}, "--volume"),
            ([CTL, "status", odd], {}, "argument 2"),
            ([CTL, "--request-id", odd, "checkpoint", "vm1"], {}, "--request-id"),
            ([CTL, "clone", "vm1", f"--name={odd}"], {}, "argument 3"),
            ([CTL, "list"], {"UNDERSTUDY_SERVER": f"unix:{odd}"}, "--server"),
            ([AGENT, "--volume", f"vda,disk={odd}"], {}, "--volume"),
            ([AGENT], {"UNDERSTUDY_STATE_DIR": odd}, "--state-dir"),
            ([SERVICE, "--disk-dir", odd], {}, "--disk-dir"),
            ([SERVICE], {"UNDERSTUDY_DATA_DIR": odd}, "--data-dir"),
        ]
        for command, environment, flag in rows:
            with self.subTest(command=command[1:], environment=environment):
                error = self.refused(*command, environment=environment)
                self.assertIn(f"{flag}: ", error)
                self.assertIn("/srv/\\xfc", error)
                self.assertIn("is not UTF-8", error)
                self.assertNotIn("libprotobuf", error)

    def test_a_missing_mode_is_named_as_in_qemu(self):
        self.assertIn("Missing the option mode", self.refused(CTL, "start", "vm1"))
        error = self.refused(CTL, "start", "vm1", "--mode", "both")
        self.assertIn("The option mode's value should be primary or secondary", error)

    def test_help_is_no_error(self):
        for program in (SERVICE, AGENT, CTL):
            self.assertEqual(lib.run(program, "--help").returncode, 0)


class RefusedStartsTest(lib.Case):
    """A daemon that cannot start says why and what to do, and damages nothing."""

    def assert_exits(self, endpoint, *texts, environment=None):
        daemon = endpoint.spawn(environment)
        self.assertNotEqual(daemon.process.wait(lib.PATIENCE_SECONDS), 0, daemon.log())
        for text in texts:
            self.assertIn(text, daemon.log())

    def test_data_directory_of_a_newer_version(self):
        service = Service(self)
        service.data_dir.mkdir()
        (service.data_dir / "VERSION").write_text("understudy 999\n")
        self.assert_exits(service, str(service.data_dir), "999", "newer")
        self.assertEqual((service.data_dir / "VERSION").read_text(), "understudy 999\n")
        self.assertFalse((service.data_dir / "index").exists())
        self.assertFalse(service.nbd_socket.exists())

    def test_locked_data_directory(self):
        first = self.service()
        second = Service(self, name="second", data_dir=first.data_dir)
        self.assert_exits(second, str(first.data_dir), "in use")
        self.assertEqual(first.ctl("list").status, 0)
        first.kill()
        second.restart()
        self.assertEqual(second.ctl("list").status, 0)

    def test_no_other_program_is_needed(self):
        """Nothing is found in PATH; and the service does without an NBD socket."""
        empty = {"PATH": str(self.dir / "nothing")}
        service = Service(self)
        service.spawn(empty).wait_ready()
        service.start_group(f"vda,disk={self.disk('s', SIZE)}")
        agent = Agent(self, service, f"vda,size={SIZE}")
        agent.spawn(empty).wait_ready()
        for daemon in (service, agent):
            self.assertEqual(lib.run("nbdinfo", "--size", daemon.uri()).stdout.strip(), str(SIZE))
        self.assertEqual(service.daemon.end(), 0)
        command = service.command()
        at = command.index("--nbd-socket")
        service.command = lambda: command[:at] + command[at + 2 :]
        self.assertEqual(service.spawn(empty).wait_ready().ready["nbd"], "")
        self.assertEqual(service.ctl("list").status, 0)

    def test_a_stale_socket_is_replaced_and_a_live_one_refused(self):
        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', SIZE)}")
        agent = self.agent(service, f"vda,disk={self.disk('p', SIZE)}").wait_connected()
        for live, name in ((service, "service"), (agent, "agent")):
            rival = Service(self, name="rival") if live is service else Agent(
                self, service, f"vda,size={SIZE}", name="rival")
            rival.nbd_socket = live.nbd_socket
            self.assert_exits(rival, str(live.nbd_socket), "listens")
            self.assertTrue(live.nbd_socket.exists(), name)
            if live is service:
                self.assertFalse(rival.data_dir.exists(), "refused before anything else is touched")
            rival = Service(self, name="rival2") if live is service else Agent(
                self, service, f"vda,size={SIZE}", name="rival2")
            rival.address = live.address
            self.assert_exits(rival, live.address.removeprefix("unix:"))
            self.assertEqual(live.ctl("list").status, 0)
        for daemon in (agent, service):
            daemon.kill()
            self.assertTrue(daemon.nbd_socket.exists(), "kill -9 leaves the socket file")
            with socket.socket(socket.AF_UNIX) as client, self.assertRaises(ConnectionRefusedError):
                client.connect(str(daemon.nbd_socket))
        service.restart()
        agent.restart()
        self.assertEqual(service.status()["stage"], "RUNNING")

    def test_a_file_in_the_place_of_the_socket_is_kept(self):
        service = Service(self)
        service.nbd_socket.write_text("precious")
        self.assert_exits(service, str(service.nbd_socket), "not a socket")
        self.assertEqual(service.nbd_socket.read_text(), "precious")

    def test_a_port_in_use(self):
        first = self.service()
        command = Service(self, name="second")
        command.options = ("--metrics-listen", first.daemon.ready["metrics"])
        self.assert_exits(command, first.daemon.ready["metrics"])


class FullDiskTest(lib.Case):
    """ENOSPC under the data directory: refused and told, the standby stays at its checkpoint, the guest goes on."""

    def setUp(self):
        super().setUp()
        self.full = self.dir / "small"
        self.full.mkdir()
        if os.geteuid() != 0 or lib.run("mount", "-t", "tmpfs", "-o", "size=48m", "none", self.full, check=False).returncode:
            self.skipTest("needs root and the right to mount a tmpfs")

    def tearDown(self):
        for daemon in self.daemons:
            if daemon.running:
                daemon.kill()
        lib.run("umount", self.full, check=False)
        super().tearDown()

    def test_full_data_directory(self):
        size = 128 * MIB
        service = self.service("--segment-bytes", "4M", data_dir=self.full / "data")
        service.start_group(f"vda,disk={self.disk('s', size)}")
        primary = self.disk("p", size)
        agent = self.agent(service, f"vda,disk={primary}").wait_connected()
        qemu_io(agent.uri(), "write -P 1 0 1M")
        agent.call("checkpoint", "vm1")
        view = self.read_disk(service.uri())
        qemu_io(agent.uri(), "write -P 2 0 32M", "write -P 2 32M 32M", "write -P 2 64M 32M", "flush")
        answer = lib.wait_for(
            lambda: (lambda a: a if a.status == 3 else None)(service.ctl("get-error", "vm1")), "the service to tell", 30
        )
        self.assertIn("RESOURCE_EXHAUSTED", [error["code"] for error in answer.object["errors"]])
        # The agent cannot get through, so it is a missed deadline or a known hole; a checkpoint it is not.
        answer = agent.ctl("checkpoint", "vm1", timeout="3s")
        self.assertEqual((answer.status, answer.out), (1, ""))
        self.assertRegex(answer.error, "^error: (ABORTED|UNAVAILABLE): ")
        self.assertEqual(int(service.status()["committed_epoch"]), 1)
        self.assert_export(service.uri(), view, "the standby, still at its checkpoint")
        qemu_io(agent.uri(), "read -P 2 0 96M")

        service.call("stop", "vm1", "--failover")
        service.wait_stage("DONE")
        self.assert_file(self.dir / "s", view, "the secondary disk")


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", "nbdinfo")

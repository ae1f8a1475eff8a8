#!/usr/bin/env python3
"""The shipped systemd units, booted in a container: they start as docs/operations.md says, and an ordinary user of group kvm, as QEMU is,
reaches the exports of both ends. The disks lie in directories of root's.

The container is namespaces and a root of its own on a tmpfs, with this machine's /usr and the built programs over it; systemd is its
first process. Exit status 77 (skipped) where that cannot be: not root, no systemd, or it does not come up.

usage: units_test.py UNDERSTUDYD UNDERSTUDY_AGENT UNDERSTUDYCTL
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

SKIPPED = 77
PATIENCE_SECONDS = 120
DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
HERE = pathlib.Path(__file__).resolve().parent
SYSTEMD = pathlib.Path("/lib/systemd/systemd")
PROGRAMS = [pathlib.Path(path) for path in sys.argv[1:4]]

PASSWD = """root:x:0:0::/root:/bin/sh
understudy:x:990:990::/var/lib/understudy:/usr/sbin/nologin
vm:x:1000:1000::/tmp:/bin/sh
stranger:x:1001:1001::/tmp:/bin/sh
"""
GROUP = "root:x:0:\nkvm:x:108:vm\nunderstudy:x:990:\nvm:x:1000:\nstranger:x:1001:\n"

# What a container has no use for, and what would change this machine's kernel.
MASKED = """systemd-sysctl.service systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service
systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-random-seed.service systemd-binfmt.service
systemd-hwdb-update.service systemd-update-utmp.service systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service
systemd-sysusers.service systemd-firstboot.service systemd-remount-fs.service systemd-machine-id-commit.service
systemd-timesyncd.service systemd-networkd.service systemd-resolved.service systemd-journald-audit.socket
kmod-static-nodes.service modprobe@.service ldconfig.service dev-hugepages.mount dev-mqueue.mount
sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount""".split()


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_SECONDS} s for: {what}")
        time.sleep(0.1)
    return answer


class Cgroups:
    """A control group below our own, in each hierarchy that the container's systemd writes to: what it leaves there goes with it."""

    def __init__(self):
        mount = pathlib.Path("/sys/fs/cgroup")
        unified = (mount / "cgroup.controllers").exists()
        self.paths = []
        for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if names == "":
                self.paths.append((mount if unified else mount / "unified") / path[1:])
            elif names == "name=systemd":
                self.paths.append(mount / "systemd" / path[1:])
        self.paths = [path / f"understudy-units-{os.getpid()}" for path in self.paths]
        for path in self.paths:
            path.mkdir()

    def join(self):
        for path in self.paths:
            (path / "cgroup.procs").write_text("0")

    def remove(self):
        for path in self.paths:
            for directory, _, _ in os.walk(path, topdown=False):
                wait_for(lambda directory=directory: self._rmdir(directory), f"{directory} to be empty")

    @staticmethod
    def _rmdir(directory):
        try:
            os.rmdir(directory)
            return True
        except OSError:
            return False


class Container:
    def __init__(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="us-units-"))
        units = self.work / "etc/systemd/system"
        units.mkdir(parents=True)
        for unit in (DEPLOY / "systemd").iterdir():
            shutil.copy(unit, units)
        for name in MASKED:
            (units / name).symlink_to("/dev/null")
        (self.work / "etc/passwd").write_text(PASSWD)
        (self.work / "etc/group").write_text(GROUP)
        (self.work / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (self.work / "usr/bin").mkdir(parents=True)
        for program in PROGRAMS:
            shutil.copy(program, self.work / "usr/bin")
        self.cgroups = self.process = self.pid = None

    def boot(self):
        """False, and why is printed, when systemd does not come up."""
        try:
            self.cgroups = Cgroups()
        except OSError as error:
            print(f"no control groups: {error}")
            return False
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--net", "--cgroup",
             "sh", HERE / "units_container.sh", self.work],
            stdin=subprocess.DEVNULL, preexec_fn=self.cgroups.join,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if children:
                self.pid = children[0]
                # Not before it has a root of its own.
                own = pathlib.Path(f"/proc/{self.pid}/comm").read_text().strip() == "systemd"
                if own and self.run("systemctl", "is-active", "basic.target", check=False).stdout.strip() == "active":
                    return True
            time.sleep(0.1)
        print("systemd does not come up in a container here")
        return False

    def run(self, *command, user=None, check=True):
        """Runs a command in the container, as a user or root."""
        if user is not None:
            command = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command)
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--root", "--wd",
             "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"exit status {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}")
        return done

    def write(self, path, text):
        self.run("sh", "-c", f'mkdir -p "$(dirname {path})" && printf %s "$0" > {path}', text)

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.cgroups is not None:
            self.cgroups.remove()
        shutil.rmtree(self.work)


class UnitsTest(unittest.TestCase):
    def tearDown(self):
        result = self._outcome.result
        if any(case is self for case, _ in result.failures + result.errors):
            print(CONTAINER.run("journalctl", "--no-pager", "--lines=60", check=False).stdout)

    def image(self, path):
        """One that the daemons' user owns, in a directory of root's."""
        CONTAINER.run("sh", "-c", f"mkdir -p $(dirname {path}) && truncate -s 4M {path} && chown understudy:kvm {path} && chmod 660 {path}")

    def io(self, socket, command, user):
        return CONTAINER.run("qemu-io", "-f", "raw", "-c", command, f"nbd+unix:///vm1/vda?socket={socket}", user=user, check=False)

    def start(self, unit):
        CONTAINER.run("systemctl", "start", unit)
        wait_for(lambda: self.is_ready(unit), f"{unit} to be ready")

    def is_ready(self, unit):
        """Whether this run of it has logged that it is."""
        run = CONTAINER.run("systemctl", "show", "--value", "--property=InvocationID", unit).stdout.strip()
        log = CONTAINER.run("journalctl", "--no-pager", f"_SYSTEMD_INVOCATION_ID={run}", check=False).stdout
        state = CONTAINER.run("systemctl", "is-active", unit, check=False).stdout.strip()
        self.assertIn(state, ("active", "activating"), log)
        return "_ready " in log

    def assert_reached(self, socket, command):
        done = self.io(socket, command, "vm")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(" 65536/65536 bytes", done.stdout)
        self.assertNotIn("verification failed", done.stdout)

    def test_both_units_with_disks_in_directories_of_root(self):
        standby, agent = "/run/understudy/nbd.sock", "/run/understudy-vm1/nbd.sock"
        self.image("/srv/standby/vm1.raw")
        self.image("/srv/images/vm1.raw")
        CONTAINER.write("/etc/understudy/understudyd.env", "UNDERSTUDY_DISK_DIR=/srv/standby\n")
        CONTAINER.write(
            "/etc/systemd/system/understudyd.service.d/disks.conf", "[Service]\nReadWritePaths=/srv/standby\n"
        )
        CONTAINER.write(
            "/etc/understudy/agent-vm1.env",
            "SERVER=127.0.0.1:7410\nVOLUMES=--volume=vda,disk=/srv/images/vm1.raw\n"
            "FLAGS=--listen=127.0.0.1:7420 --metrics-listen=127.0.0.1:7421\n",
        )
        CONTAINER.run("systemctl", "daemon-reload")
        self.start("understudyd")
        volume = "vda,disk=/srv/standby/vm1.raw"
        CONTAINER.run("understudyctl", "start", "vm1", "--mode", "secondary", "--volume", volume)
        self.start("understudy-agent@vm1")

        for socket in (standby, agent):
            self.assertEqual(CONTAINER.run("stat", "-c", "%a %U %G", socket).stdout.strip(), "660 understudy kvm")
            self.assertIn("Permission denied", self.io(socket, "read 0 64k", "stranger").stdout)
        self.assert_reached(agent, "write -P 7 0 64k")
        wait_for(
            lambda: CONTAINER.run("understudyctl", "--server", "127.0.0.1:7420", "checkpoint", "vm1", check=False).returncode == 0,
            "a checkpoint",
        )
        self.assert_reached(standby, "read -P 7 0 64k")

        # A restart finds everything where it was, and nothing lies in the directories of root.
        for unit in ("understudyd", "understudy-agent@vm1"):
            CONTAINER.run("systemctl", "stop", unit)
            self.start(unit)
        self.assert_reached(agent, "read -P 7 0 64k")
        self.assert_reached(standby, "read -P 7 0 64k")
        for directory in ("/srv/standby", "/srv/images"):
            self.assertEqual(CONTAINER.run("ls", directory).stdout.split(), ["vm1.raw"])
        self.assertIn("agent", CONTAINER.run("ls", "/var/lib/understudy-agent/vm1").stdout.split())
        self.assertIn("file--srv-standby-vm1.raw-", CONTAINER.run("ls", "/var/lib/understudy/devices").stdout)


if __name__ == "__main__":
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "qemu-io") if shutil.which(tool) is None]
    if os.geteuid() != 0 or not SYSTEMD.exists() or missing:
        print("skipped: needs root, systemd and", *(missing or ["all of it"]))
        sys.exit(SKIPPED)
    CONTAINER = Container()
    try:
        if not CONTAINER.boot():
            sys.exit(SKIPPED)
        done = unittest.main(argv=sys.argv[:1], verbosity=2, exit=False)
    finally:
        CONTAINER.end()
    sys.exit(0 if done.result.wasSuccessful() else 1)

"""A larger disk and one more disk: what is refused on the way says both sizes and where to read on, and the runbook leads there.

docs/runbooks.md#grow-a-disk-add-a-disk
"""

import os
import shutil
import subprocess

import lib
from attach_test import Qmp
from lib import MIB, Agent, qemu_io

SMALL, LARGE = 4 * MIB, 8 * MIB
RUNBOOK = 'docs/runbooks.md, "Grow a disk, add a disk"'


class GrowTest(lib.Case):
    def setUp(self):
        super().setUp()
        self.standby = self.service()
        content = os.urandom(SMALL)
        self.primary, self.secondary = self.disk("p.raw", SMALL, content), self.disk("s.raw", SMALL, content)
        self.standby.start_group(f"vda,disk={self.secondary}")
        self.host = self.agent(self.standby, f"vda,disk={self.primary}").wait_connected()
        qemu_io(self.host.uri(), "write -q -P 1 0 64k")
        self.host.call("checkpoint", "vm1")

    def assert_leads_on(self, text):
        for part in (str(SMALL), str(LARGE), RUNBOOK):
            self.assertIn(part, text)

    def synced(self, agent):
        lib.run(lib.CTL, "--server", agent.address, "sync", "vm1", "--wait")
        agent.call("checkpoint", "vm1")

    def test_what_is_refused_names_both_sizes_and_the_runbook_and_can_be_taken_back(self):
        self.assertEqual(self.host.daemon.end(), 0)
        os.truncate(self.primary, LARGE)
        refused = self.host.spawn()
        self.assertNotEqual(refused.process.wait(lib.PATIENCE_SECONDS), 0)
        self.assert_leads_on(refused.log())

        # An agent that knows nothing of before: the standby refuses it.
        fresh = self.agent(self.standby, f"vda,disk={self.primary}", name="fresh")
        (error,) = lib.wait_for(fresh.call_errors, "the standby to refuse another size")
        self.assertEqual(error["reason"], "OTHER_VOLUMES", error)
        self.assert_leads_on(error["message"])
        self.assertGreater(fresh.metric("understudy_replication_errors_total", reason="not_declared"), 0)
        fresh.kill()

        more = self.standby.ctl(
            "start", "vm1", "--mode", "secondary", "--volume", f"vda,disk={self.secondary}",
            "--volume", f"vdb,disk={self.disk('more.raw', MIB)}",
        )  # fmt: skip
        self.assert_refused(more, "ALREADY_EXISTS", RUNBOOK)
        self.assertIn(f"vda ({SMALL} bytes", more.error)

        self.standby.kill()
        os.truncate(self.secondary, LARGE)
        self.standby.restart()
        (error,) = self.standby.call_errors()
        self.assertEqual(error["reason"], "WRONG_DISK", error)
        self.assert_leads_on(error["message"])

        # With the old length the old pair goes on, when the primary's disk, which somebody has changed, was compared.
        os.truncate(self.primary, SMALL)
        os.truncate(self.secondary, SMALL)
        self.host.restart().wait_connected()
        qemu_io(self.host.uri(), "write -q -P 2 64k 64k")
        self.synced(self.host)
        self.assert_bytes(self.read_disk(self.standby.uri()), self.primary.read_bytes(), "the standby")

    def qemu(self):
        """A QEMU without a machine whose node vda is the agent's export; returns its QMP."""
        socket = self.dir / "vm.qmp"
        server = f"server.type=unix,server.path={self.host.nbd_socket}"
        process = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-qmp", f"unix:{socket},server=on,wait=off",
             "-blockdev", f"driver=nbd,node-name=vda,{server},export=vm1/vda,reconnect-delay={lib.PATIENCE_SECONDS}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.addCleanup(lambda: (process.kill(), process.wait()))
        qmp = lib.wait_for(lambda: socket.exists() and Qmp(socket), "QEMU")
        self.addCleanup(qmp.close)
        return qmp

    def test_the_runbook(self):
        """A disk that is grown and one that is added, in one go, under a QEMU that stays."""
        qmp = self.qemu()
        io = lambda command: qmp("human-monitor-command", **{"command-line": f'qemu-io vda "{command}"'})  # noqa: E731
        self.host.call("stop", "vm1")
        io("write -P 3 128k 64k")  # the VM goes on, unprotected
        self.standby.call("stop", "vm1")
        self.standby.call("remove", "vm1")
        self.assertEqual(self.host.daemon.end(), 0)
        shutil.rmtree(self.dir / "agent.state")

        os.truncate(self.primary, LARGE)
        os.truncate(self.secondary, LARGE)
        added = self.disk("q.raw", MIB, os.urandom(MIB))
        volumes = [f"vda,disk={self.secondary},initial=sync", f"vdb,disk={self.dir}/t.raw,size={MIB},create,initial=sync"]
        self.standby.start_group(*volumes)
        host = Agent(self, self.standby, f"vda,disk={self.primary}", f"vdb,disk={added}").start()
        io("write -P 4 256k 64k")
        qmp("block_resize", size=LARGE, **{"node-name": "vda"})
        io(f"write -P 5 {LARGE - 65536} 64k")
        qemu_io(host.uri("vdb"), "write -q -P 5 0 64k")
        self.synced(host)
        content = self.primary.read_bytes()
        for value, offset in ((3, 128 << 10), (4, 256 << 10), (5, LARGE - 65536)):
            self.assert_bytes(content[offset : offset + 65536], bytes([value]) * 65536, f"what QEMU wrote at {offset}")
        for volume, disk in (("vda", self.primary), ("vdb", added)):
            self.assert_bytes(self.read_disk(self.standby.uri(volume)), disk.read_bytes(), f"the standby's {volume}")


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", "qemu-system-x86_64")

"""The NBD exports of both daemons with clients nobody here wrote: libnbd, qemu-io, qemu-img, nbdcopy, nbdinfo, nbdfuse, fio."""

import json
import os
import struct
import subprocess

import lib
import nbd
from lib import MIB

DISK = 8 * MIB
# Debian's, which has libnbd's module; -I: that module is called as nbd.py beside this file.
PYTHON = ["/usr/bin/python3", "-I", "-c"]

# Says what libnbd sees of an export, as JSON: handshake, every command, every error. Arguments:
# socket, export, "map" or "".
LIBNBD = r"""
import errno, json, sys, nbd
socket, export, has_map = sys.argv[1:]
h = nbd.NBD()
h.set_export_name(export)
h.add_meta_context("base:allocation")
h.set_strict_mode(0)  # what is wrong is sent, too
h.set_opt_mode(True)
h.connect_unix(socket)
found = {"listed": []}
h.opt_list(lambda name, description: found["listed"].append(name))
contexts = []
h.opt_list_meta_context(contexts.append)
h.opt_info()
found["info_size"] = h.get_size()
found["description"] = h.get_export_description()
h.opt_go()
found["name"] = h.get_canonical_export_name()
found["contexts"] = contexts
found["size"] = h.get_size()
found["blocks"] = [h.get_block_size(kind) for kind in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
found["structured"] = h.get_structured_replies_negotiated()
for what in ("read_only", "rotational"):
    found[what] = getattr(h, "is_" + what)()
for what in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
    found["can_" + what] = getattr(h, "can_" + what)()
found["can_map"] = h.can_meta_context("base:allocation")

def outcome(call, *arguments, **named):
    try:
        answer = call(*arguments, **named)
        return "ok" if answer is None else answer
    except nbd.Error as error:
        return error.errno

size, MIB = h.get_size(), 1 << 20
data = bytes(range(256)) * 256
found["write"] = [outcome(h.pwrite, data, 65536), outcome(h.pwrite, data, 3 * 65536, nbd.CMD_FLAG_FUA)]
found["read"] = [outcome(h.pread, len(data), at) == bytearray(data) for at in (65536, 3 * 65536)]
found["read_df"] = outcome(h.pread, 4 * len(data), 0, nbd.CMD_FLAG_DF) == bytearray(len(data)) + data + bytes(len(data)) + data
chunks = []
h.pread_structured(4 * len(data), 0, lambda part, offset, kind, error: chunks.append([offset, len(part), kind]))
found["chunks"] = sorted(chunks)
found["flush"] = outcome(h.flush)
found["cache"] = outcome(h.cache, MIB, 0)
found["zero"] = [outcome(h.zero, 4096, 65536), outcome(h.zero, 4096, 3 * 65536, nbd.CMD_FLAG_NO_HOLE)]
found["trim"] = outcome(h.trim, 4096, 65536 + 8192, nbd.CMD_FLAG_FUA)
found["zeroed"] = [not any(h.pread(4096, at)) for at in (65536, 3 * 65536, 65536 + 8192)]
found["kept"] = h.pread(4096, 65536 + 4096) == bytearray(data[4096:8192])
def runs(*arguments):
    answer = []
    code = outcome(h.block_status, *arguments, lambda context, offset, entries, error: answer.extend(entries) or 0)
    return answer if code == 0 or code == "ok" else code
if has_map:
    found["map"] = runs(4 * 65536, 0)
errors = found["errors"] = {}
errors["unaligned"] = [outcome(h.pread, 100, 0), outcome(h.pwrite, b"x" * 100, 0), outcome(h.zero, 512, 100), outcome(h.trim, 100, 0)]
errors["beyond"] = [outcome(h.pread, 512, size), outcome(h.pwrite, b"x" * 512, size), outcome(h.zero, 512, size), outcome(h.trim, 512, size)]
errors["empty"] = [outcome(h.pread, 0, 0), outcome(h.zero, 0, 0), outcome(h.trim, 0, 0)]
errors["after"] = outcome(h.pread, 512, 512) == bytearray(512)
h.shutdown()
print(json.dumps(found))
"""
EINVAL, ENOSPC, EIO = "EINVAL", "ENOSPC", "EIO"


class NbdClientsTest(lib.Case):
    def libnbd(self, endpoint, export, has_map=True):
        done = lib.run(*PYTHON, LIBNBD, str(endpoint.nbd_socket), export, "map" if has_map else "")
        return json.loads(done.stdout)

    def pair(self, *agent_volumes):
        """A service in stage RUNNING and its agent; each with a zeroed disk."""
        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', DISK)},top-id=top-a")
        return service, self.agent(service, *agent_volumes).wait_connected()

    def assert_libnbd(self, endpoint, export, name, description, hole_bits):
        found = self.libnbd(endpoint, export)
        expected = {
            "info_size": DISK, "size": DISK, "name": name, "contexts": ["base:allocation"], "blocks": [512, 4096, 32 * MIB],
            "structured": True, "read_only": False, "rotational": False, "can_fast_zero": False, "can_map": True,
            **{f"can_{what}": True for what in ("cache", "df", "flush", "fua", "multi_conn", "trim", "zero")},
            "write": ["ok", "ok"], "read": [True, True], "read_df": True, "flush": "ok", "cache": "ok", "zero": ["ok", "ok"],
            "trim": "ok", "zeroed": [True] * 3, "kept": True,
            "chunks": [[0, 65536, 2], [65536, 65536, 1], [2 * 65536, 65536, 2], [3 * 65536, 65536, 1]],
            "errors": {"unaligned": [EINVAL] * 4, "beyond": [EINVAL, ENOSPC, ENOSPC, EINVAL], "empty": [EINVAL] * 3, "after": True},
        }  # fmt: skip
        self.assertEqual({key: found[key] for key in expected}, expected)
        self.assertIn(description, found["description"])
        self.assertEqual(sum(found["map"][0::2]), 4 * 65536)
        self.assertEqual(found["map"][:2], [65536 + 4096, 3])  # what was never written, and what was zeroed behind it
        return found

    def test_libnbd_at_the_service(self):
        service, _ = self.pair(f"vda,size={DISK}")
        for export in ("vm1/vda", "top-a"):
            found = self.assert_libnbd(service, export, export, "standby", 3)
            self.assertEqual(sorted(found["listed"]), ["top-a", "vm1/vda"])
            if export == "vm1/vda":
                service.call("stop", "vm1", "--failover")
                service.wait_stage("DONE")
                with service.connect() as disk:
                    disk.trim(0, DISK)

    def test_libnbd_at_the_agent(self):
        _, agent = self.pair(f"vda,disk={self.disk('p', DISK)}")
        found = self.assert_libnbd(agent, "vm1/vda", "vm1/vda", "primary", 3)
        self.assertEqual(found["listed"], ["vm1/vda"])
        self.assert_libnbd_default(agent)

    def assert_libnbd_default(self, endpoint):
        """The only volume is the default export."""
        self.assertEqual(int(lib.run("nbdinfo", "--size", f"nbd+unix:///?socket={endpoint.nbd_socket}").stdout), DISK)

    def test_forward_mode_takes_writes_and_has_no_map(self):
        _, agent = self.pair(f"vda,size={DISK}")
        info = json.loads(lib.run("nbdinfo", "--json", agent.uri()).stdout)["exports"][0]
        self.assertNotIn("contexts", {key: value for key, value in info.items() if value})
        self.assertEqual((info["block_size_minimum"], info["block_size_maximum"]), (512, 32 * MIB))
        lib.qemu_io(agent.uri(), "write -P 1 0 64k", "write -z 64k 64k", "discard 128k 64k", "flush")
        answer = lib.qemu_io(agent.uri(), "read 0 4k", check=False)
        self.assertIn("Input/output error", answer.stdout + answer.stderr)

    def test_before_start_and_unknown_names(self):
        service = self.service()
        for uri in (service.uri(), service.uri(export="")):
            done = lib.run("nbdinfo", uri, check=False)
            self.assertNotEqual(done.returncode, 0)
        self.assertEqual(service.export_names(), [])
        self.assertGreaterEqual(len(service.daemon.events("export_unknown")), 2)

    def test_qemu_img_and_nbdcopy(self):
        image = self.random_bytes(DISK)
        service, agent = self.pair(f"vda,disk={self.disk('p', DISK)}")
        source, back = self.disk("source", DISK, image), self.dir / "back"
        lib.run("nbdcopy", "--flush", "--connections=4", "--requests=64", source, agent.uri())
        lib.run("nbdcopy", "--connections=4", agent.uri(), back)
        self.assert_file(back, image, "nbdcopy")
        agent.call("checkpoint", "vm1")
        for endpoint in (service, agent):
            uri = endpoint.uri()
            lib.run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)
            lib.run("qemu-img", "convert", "-f", "raw", "-O", "raw", "-m", "8", uri, back)
            self.assert_file(back, image, "qemu-img convert")
            self.assertEqual(json.loads(lib.run("qemu-img", "info", "--output=json", uri).stdout)["virtual-size"], DISK)
            runs = json.loads(lib.run("qemu-img", "map", "--output=json", uri).stdout)
            self.assertEqual(sum(run["length"] for run in runs), DISK)
            self.assertTrue(all(not any(image[run["start"] : run["start"] + run["length"]]) for run in runs if run["zero"]))
            self.assertLess(sum(run["length"] for run in runs if not run["zero"]), DISK)
        # From one end into the other's disk, as a backup does.
        lib.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", service.uri(), agent.uri())
        self.assert_export(agent, image, "after a copy of itself")

    def assert_export(self, endpoint, expected, what):
        self.assert_bytes(self.read_disk(endpoint.uri()), expected, what)

    def assert_counted(self, endpoint, before, requests, size, window):
        """What the metrics say of `requests` (op: how many), each of `size` bytes, since `before`; `window`: the ops that enter it."""
        found = {op: self.figures(endpoint, op) for op in requests}
        for op, count in requests.items():
            more = {name: found[op][name] - before[op][name] for name in found[op]}
            expected = {"requests": count, "errors": 0, "bytes": 0 if op == "flush" else count * size}
            expected |= {stage: count for stage in ("queued", "local", "replied")} | {"window": count if op in window else 0}
            self.assertEqual(more, expected, f"{endpoint.name}: {op}")

    def figures(self, endpoint, op):
        latency = {stage: endpoint.metric("understudy_nbd_latency_seconds_count", op=op, stage=stage)
                   for stage in ("queued", "local", "window", "replied")}  # fmt: skip
        return {name: endpoint.metric(f"understudy_nbd_{name}_total", op=op) for name in ("requests", "errors", "bytes")} | latency

    def test_metrics_count_what_was_done(self):
        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', DISK)}", f"vdb,disk={self.disk('t', DISK)}")
        agent = self.agent(service, f"vda,disk={self.disk('p', DISK)}", f"vdb,size={DISK}").wait_connected()
        done = {"write": 5, "read": 3, "flush": 2, "discard": 1, "write_zeroes": 4}
        for endpoint, window in ((service, ()), (agent, ("write", "discard", "write_zeroes", "flush"))):
            before = {op: self.figures(endpoint, op) for op in done}
            with endpoint.connect() as disk:
                for op, command in (("write", nbd.WRITE), ("flush", nbd.FLUSH), ("discard", nbd.TRIM), ("write_zeroes", nbd.WRITE_ZEROES)):
                    for i in range(done[op]):
                        data = b"x" * 4096 if op == "write" else b""
                        # A flush with nothing new never enters the window: there is something new.
                        if op == "flush":
                            disk.request(nbd.WRITE_ZEROES, i * 4096, 4096)
                        disk.request(command, 0 if op == "flush" else i * 4096, 0 if op == "flush" else 4096, data)
                for i in range(done["read"]):
                    disk.read(i * 4096, 4096)
            counted = done | {"write_zeroes": done["write_zeroes"] + done["flush"]}
            lib.wait_for(lambda: endpoint.metric("understudy_nbd_connections") == 0, "the connection to end")
            self.assert_counted(endpoint, before, counted, 4096, window)
        # What came together in forward mode, too; and an error counts as one, and no bytes.
        before = {op: self.figures(agent, op) for op in ("write", "read")}
        with agent.connect("vdb") as disk:
            lib.wait_for(lambda: agent.metric("understudy_nbd_connections") == 1, "the connection")
            header = lambda cookie: struct.pack(">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.WRITE, cookie, cookie * 4096, 4096)  # noqa: E731
            disk.socket.sendall(b"".join(header(i) + b"y" * 4096 for i in range(8)))
            disk._receive(8 * 16)
            with self.assertRaises(OSError):
                disk.read(0, 4096)
        lib.wait_for(lambda: agent.metric("understudy_nbd_connections") == 0, "the connection to end")
        self.assert_counted(agent, before, {"write": 8}, 4096, ("write",))
        self.assertEqual(self.figures(agent, "read")["errors"] - before["read"]["errors"], 1)
        self.assertEqual(self.figures(agent, "read")["bytes"], before["read"]["bytes"])

    def test_nbdinfo(self):
        service, agent = self.pair(f"vda,disk={self.disk('p', DISK)}")
        self.assertEqual(service.export_names(), ["top-a", "vm1/vda"])
        for endpoint in (service, agent):
            lib.qemu_io(endpoint.uri(), "write -P 5 1M 64k")
            for can in ("cache", "df", "flush", "fua", "multi-conn", "trim", "zero", "write", "structured-reply"):
                lib.run("nbdinfo", "--can", can, endpoint.uri())
            runs = json.loads(lib.run("nbdinfo", "--json", "--map", endpoint.uri()).stdout)
            self.assertEqual([(run["offset"], run["length"], run["type"]) for run in runs],
                             [(0, MIB, 3), (MIB, 65536, 0), (MIB + 65536, DISK - MIB - 65536, 3)])  # fmt: skip

    def test_fio_verifies_what_it_writes(self):
        service, agent = self.pair(f"vda,disk={self.disk('p', DISK)}")
        for endpoint in (service, agent):
            lib.run("fio", "--ioengine=nbd", f"--uri={endpoint.uri()}", "--name=verify", "--rw=randrw", "--bsrange=512-256k",
                    "--blockalign=512", "--iodepth=32", f"--size={DISK}", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--fsync=16",
                    "--output-format=terse")  # fmt: skip

    def test_nbdfuse(self):
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            self.skipTest("/dev/fuse cannot be opened")
        if os.getuid() != 0:
            self.skipTest("to mount needs root")
        service, _ = self.pair(f"vda,size={DISK}")
        mount = self.dir / "mount"
        mount.mkdir()
        nbdfuse = subprocess.Popen(["nbdfuse", mount, service.uri()])
        self.before_removal.append(lambda: (subprocess.run(["umount", mount], check=False), nbdfuse.terminate(), nbdfuse.wait(60)))
        lib.wait_for(lambda: (mount / "nbd").exists(), "nbdfuse")
        data = self.rng.randbytes(MIB)
        with open(mount / "nbd", "r+b") as file:
            file.seek(MIB)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with service.connect() as disk:
            self.assertEqual(disk.read(MIB, MIB), data)


if __name__ == "__main__":
    lib.run_tests("qemu-io", "qemu-img", "nbdcopy", "nbdinfo", "fio")

"""A primary's writes reach the standby, a checkpoint shows them, a failover hands the disk over. Real daemons and NBD clients."""

import json

import lib
from lib import MIB, qemu_io, run


class EndToEndTest(lib.Case):
    def test_tee_mode_two_volumes(self):
        """Each step compares both volumes byte for byte: hidden, checkpoint, again hidden, failover, the VM's writes, DONE."""
        content = {"vda": self.random_bytes(24 * MIB), "vdb": self.random_bytes(3 * MIB + 512)}
        primary = {name: self.disk(f"p-{name}", len(data), data) for name, data in content.items()}
        secondary = {name: self.disk(f"s-{name}", len(data), data) for name, data in content.items()}
        service = self.service()
        service.start_group(*(f"{name},disk={path}" for name, path in secondary.items()))
        agent = self.agent(service, *(f"{name},disk={path}" for name, path in primary.items())).wait_connected()
        expected = {name: bytearray(data) for name, data in content.items()}

        def write_some(count):
            for name, image in expected.items():
                requests = lib.random_requests(self.rng, count, len(image))
                qemu_io(agent.uri(name), *map(lib.command_of, requests))
                lib.apply_to(image, requests)
                self.assert_export(agent.uri(name), image, f"{name} read by the primary VM")
            lib.wait_for(lambda: int(agent.status()["forward_queue_bytes"]) == 0, "everything received")

        def assert_standby(images, what):
            for name, image in images.items():
                self.assert_export(service.uri(name), image, f"{name} {what}")

        write_some(60)
        assert_standby(content, "before the checkpoint")
        for name, path in secondary.items():
            self.assert_file(path, content[name], f"secondary disk {name} before the checkpoint")
        self.assertGreater(int(service.status()["volumes"][0]["hidden_bytes"]), 0)

        for epoch in (1, 2, 3):
            answer = agent.call("checkpoint", "vm1")
            self.assertEqual((int(answer["epoch"]), answer["stage"], answer["ignored"]), (epoch, "RUNNING", False))
            assert_standby(expected, f"after checkpoint {epoch}")
            write_some(25)
        before_failover = {name: bytearray(image) for name, image in expected.items()}
        agent.call("checkpoint", "vm1")
        for name, path in primary.items():
            self.assert_file(path, expected[name], f"primary disk {name}")
        write_some(25)

        answer = service.call("stop", "vm1", "--failover")
        self.assertIn(answer["stage"], ("FAILOVER", "DONE"))
        self.assertEqual((int(answer["epoch"]), int(answer["term"])), (4, 2))
        assert_standby(before_failover, "after the failover")
        for name, image in before_failover.items():
            requests = lib.random_requests(self.rng, 30, len(image))
            qemu_io(service.uri(name), *map(lib.command_of, requests), "flush")
            lib.apply_to(image, requests)
        assert_standby(before_failover, "with the secondary VM's writes")
        service.wait_stage("DONE")
        assert_standby(before_failover, "in stage DONE")
        for name, path in secondary.items():
            self.assert_file(path, before_failover[name], f"secondary disk {name} in stage DONE")
        self.assertEqual(service.ctl("get-error", "vm1").status, 0)

    def test_forward_mode(self):
        """Without a local disk writes are forwarded and reads fail; nbdcopy fills the standby through it."""
        size = 16 * MIB
        secondary = self.disk("s", size)
        service = self.service()
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, f"vda,size={size}").wait_connected()
        image = self.random_bytes(size)
        lib.nbdcopy(self.disk("image", size, image), agent.uri())
        agent.call("checkpoint", "vm1")
        self.assert_export(service.uri(), image, "after nbdcopy and a checkpoint")

        expected = bytearray(image)
        requests = lib.random_requests(self.rng, 100, size)
        qemu_io(agent.uri(), *map(lib.command_of, requests), "flush")
        lib.apply_to(expected, requests)
        self.assert_export(service.uri(), image, "before the second checkpoint")
        agent.call("checkpoint", "vm1")
        self.assert_export(service.uri(), expected, "after the second checkpoint")
        read = qemu_io(agent.uri(), "read 0 4096", check=False)
        self.assertIn("Input/output error", read.stdout + read.stderr)

        answer = agent.call("stop", "vm1")
        self.assertEqual(answer["stage"], "DONE")
        answer = service.call("stop", "vm1")
        self.assertEqual(answer["stage"], "DONE")
        self.assert_file(secondary, expected, "the secondary disk after Stop without failover")

    def test_checkpoint_at_the_service_asks_the_agent_for_a_marker(self):
        image = self.random_bytes(2 * MIB)
        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', len(image))}")
        agent = self.agent(service, f"vda,size={len(image)}").wait_connected()
        qemu_io(agent.uri(), "write -P 7 0 2M")
        answer = service.call("checkpoint", "vm1")
        self.assertEqual((int(answer["epoch"]), int(answer["bytes"])), (1, 2 * MIB))
        self.assert_export(service.uri(), b"\7" * 2 * MIB, "after the service's checkpoint")

    def test_a_checkpoint_drops_the_secondary_vms_writes(self):
        size = MIB
        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', size)}")
        agent = self.agent(service, f"vda,size={size}").wait_connected()
        qemu_io(agent.uri(), "write -P 1 0 64k")
        qemu_io(service.uri(), "write -P 2 32k 64k")
        self.assert_export(service.uri(), bytes(32768) + b"\2" * 65536 + bytes(size - 98304), "the secondary VM's own view")
        agent.call("checkpoint", "vm1")
        self.assert_export(service.uri(), b"\1" * 65536 + bytes(size - 65536), "after the checkpoint")

    def test_exports(self):
        """What nbdinfo says of both daemons' exports, by each of their names (all are listed); they come and go with open and remove."""
        size = 5 * MIB + 512
        secondary = self.disk("s", size)
        service = self.service()
        self.assertEqual(service.export_names(), [])
        volume = f"vda,disk={secondary},top-id=top/of.vda"
        service.call("open", "vm1", "--mode", "secondary", "--volume", volume)
        self.assertEqual(service.export_names(), ["top/of.vda", "vm1/vda"])
        agent = self.agent(service, f"vda,size={size}", options=())
        self.assertEqual(agent.export_names(), ["vm1/vda"])

        for uri in (service.uri(), service.uri(export="top/of.vda"), agent.uri()):
            (info,) = json.loads(run("nbdinfo", "--json", "--no-content", uri).stdout)["exports"]
            facts = {
                "export-size": size,
                "block_size_minimum": 512,
                "block_size_preferred": 4096,
                "is_read_only": False,
                **{f"can_{what}": True for what in ("multi_conn", "flush", "fua", "zero", "trim")},
            }
            self.assertEqual({key: info[key] for key in facts}, facts, uri)

        # Stage NONE: connected, but no I/O, at either end.
        for uri in (service.uri(), agent.uri()):
            for command in ("read 0 512", "write 0 512", "write -z 0 512", "discard 0 512"):
                done = qemu_io(uri, command, check=False)
                self.assertIn("Input/output error", done.stdout + done.stderr, f"{command} on {uri}")

        service.call("remove", "vm1")
        self.assertEqual(service.export_names(), [])
        self.assertNotEqual(run("nbdinfo", service.uri(), check=False).returncode, 0)
        self.assertEqual(secondary.stat().st_size, size)

    def test_extents_of_the_standby(self):
        """A client that asks for block status sees zeroes where a checkpoint brought zeroes, and the data."""
        size = 4 * MIB
        service = self.service()
        service.start_group(f"vda,disk={self.disk('s', size, self.rng.randbytes(size))}")
        agent = self.agent(service, f"vda,size={size}").wait_connected()
        qemu_io(agent.uri(), "discard 1M 1M", "write -P 5 1280k 64k")
        agent.call("checkpoint", "vm1")
        extents = json.loads(run("nbdinfo", "--map", "--json", service.uri()).stdout)
        zero = set()
        for extent in extents:
            if extent["type"] & 2:
                zero |= set(range(extent["offset"] // 65536, (extent["offset"] + extent["length"]) // 65536))
        self.assertEqual(zero, set(range(16, 32)) - {20})


if __name__ == "__main__":
    lib.run_tests("qemu-io", "nbdcopy", "nbdinfo")

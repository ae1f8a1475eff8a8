"""understudy-inspect over the data directory of a real service: what it prints, what it finds, and that it writes nothing."""

import hashlib
import json
import os

import lib
from lib import MIB, qemu_io

INSPECT = os.environ.get("UNDERSTUDY_INSPECT", "understudy-inspect")


def contents(directory):
    """Every file below the directory with a digest of what is in it."""
    return {
        os.path.join(folder, name): hashlib.sha256(open(os.path.join(folder, name), "rb").read()).hexdigest()
        for folder, _, names in os.walk(directory)
        for name in names
    }


class InspectTest(lib.Case):
    def test_a_clean_directory_a_running_service_and_damage(self):
        secondary = self.disk("s", 4 * MIB, bytes(4 * MIB))
        service = self.service("--segment-bytes", "4M", "--apply-bytes-per-second", "1000")
        service.start_group(f"vda,disk={secondary}")
        agent = self.agent(service, "vda,size=4M").wait_connected()
        qemu_io(agent.uri(), "write -P 7 64k 256k")
        agent.call("checkpoint", "vm1")
        qemu_io(agent.uri(), "write -P 8 1M 64k")
        data_dir = service.data_dir

        busy = lib.run(INSPECT, data_dir, check=False)
        self.assertEqual(busy.returncode, 1)
        self.assertIn("is in use by understudyd", busy.stderr)
        self.assertEqual(lib.run(INSPECT, check=False).returncode, 2)
        self.assertEqual(lib.run(INSPECT, data_dir / "nothing", check=False).returncode, 2)
        agent.kill()
        service.kill()

        before = contents(data_dir)
        text = lib.run(INSPECT, data_dir, "--verify").stdout
        self.assertIn("group vm1 (number ", text)
        self.assertIn("0 damages found", text)
        report = json.loads(lib.run(INSPECT, data_dir, "--json", "--extents", "--group", "vm1").stdout)
        (group,) = report["groups"]
        self.assertEqual((group["stage"], group["committed_epoch"]), ("RUNNING", 1))
        (committed,) = [overlay for overlay in group["overlays"] if overlay["state"] == "committed"]
        self.assertEqual((committed["epoch"], committed["bytes"]), (1, 256 * 1024))
        self.assertEqual(min(extent["start"] for extent in committed["extents"]), 64 * 1024)
        live = sum(segment["live_bytes"] for segment in group["segments"])
        self.assertLessEqual(live, sum(segment["written_bytes"] for segment in group["segments"]))
        self.assertEqual(contents(data_dir), before, "nothing is written")

        for segment in (data_dir / "segments").iterdir():
            with open(segment, "r+b") as file:
                at = file.read().find(b"\x07" * 8192)
                if at >= 0:
                    file.seek(at + 5000)
                    file.write(b"\x06")
        damaged = lib.run(INSPECT, data_dir, "--verify", check=False)
        self.assertEqual(damaged.returncode, 1, damaged.stdout)
        self.assertIn("damage: volume vm1/vda epoch 1 range ", damaged.stdout)
        self.assertIn("checksum mismatch", damaged.stdout)
        self.assertEqual(lib.run(INSPECT, data_dir).returncode, 0, "without --verify data is not read")

        # The service finds the same, serves the rest and says so; a scrub ends with 3.
        service.restart()
        scrub = service.ctl("scrub", "vm1", "--wait")
        self.assertEqual(scrub.status, 3, scrub.out)
        errors = service.ctl("get-error", "vm1")
        self.assertEqual(errors.status, 3)
        self.assertIn("DATA_LOSS", errors.out)
        qemu_io(service.uri(), "read -P 0 2M 1M")


if __name__ == "__main__":
    lib.run_tests("qemu-io")

#!/usr/bin/env python3
"""What block status costs, beside qemu-nbd: docs/performance.md#nbd.

    python3 tests/bench/map.py [--bin DIR] [--blocks 100000]

Called by run.sh. So many scattered blocks of 4 KiB in 4 GiB; `qemu-img map` asks for each run by itself, nbdinfo for as many as the
server likes. At the service while replication runs (the blocks are in an overlay) and after a failover (they are on the disk), at the
agent in tee mode, and at qemu-nbd for a file with the same blocks. Two rounds; the second is told.
"""

import subprocess

import bench
from bench import GIB, Place, row, table, timed
import lib
import nbd

bench.PARSER.add_argument("--blocks", type=int, default=100_000)
OPTIONS = bench.PARSER.parse_args()
SIZE = 4 * GIB
STEP = SIZE // OPTIONS.blocks // 4096 * 4096
BLOCK = b"x" * 4096


def write_file(path):
    with open(path, "r+b") as file:
        for number in range(OPTIONS.blocks):
            file.seek(number * STEP)
            file.write(BLOCK)


def ask(uri):
    """Seconds of qemu-img map and of nbdinfo --map; both must tell every run."""
    took = []
    for command in (["qemu-img", "map", "--output=json", uri], ["nbdinfo", "--map", uri]):
        seconds, done = timed(lambda command=command: lib.run(*command))
        if len(done.stdout.splitlines()) < OPTIONS.blocks:
            raise AssertionError(f"{command}: too few runs")
        took.append(seconds)
    return took


def tell(name, uri, peer):
    ask(uri)
    image, info = ask(uri)
    row(name, f"{image:.1f}", f"{image / peer[0]:.2f}", f"{info:.2f}", f"{info / peer[1]:.2f}")


def main():
    table(f"{OPTIONS.blocks:,} scattered blocks", "qemu-img map, s", "to qemu-nbd", "nbdinfo --map, s", "to qemu-nbd")
    with Place() as place:
        peer_disk, disk = place.disk("peer", SIZE), place.disk("s", SIZE)
        write_file(peer_disk)
        socket = place.dir / "peer.nbd"
        peer = subprocess.Popen(["qemu-nbd", "--format=raw", "--persistent", "--shared=8", f"--socket={socket}", peer_disk])
        try:
            uri = f"nbd+unix:///?socket={socket}"
            lib.wait_for(lambda: lib.run("nbdinfo", "--size", uri, check=False).returncode == 0, "qemu-nbd")
            ask(uri)
            figures = ask(uri)
            row("qemu-nbd", f"{figures[0]:.1f}", "1", f"{figures[1]:.2f}", "1")
            service = lib.Service(place).start()
            service.start_group(f"vda,disk={disk}")
            with nbd.Disk(service.nbd_socket, "vm1/vda", lib.PATIENCE_SECONDS) as export:
                for number in range(OPTIONS.blocks):
                    export.write(number * STEP, BLOCK)
            tell("service, replicating", service.uri(), figures)
            service.call("stop", "vm1", "--failover")
            service.wait_stage("DONE")
            tell("service, after a failover", service.uri(), figures)
        finally:
            peer.terminate()
            peer.wait()
        agent = lib.Agent(place, service, f"vda,disk={peer_disk}", options=()).start()
        tell("agent, tee", agent.uri(), figures)


main()

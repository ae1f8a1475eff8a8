#!/usr/bin/env python3
"""Two builds of the daemons beside each other: docs/performance.md#nbd.

    python3 tests/bench/builds.py --bin DIR --other DIR [--seconds 4] [--rounds 5] [--jobs 4k/1,4k/32,64k/8,1m/4] [--modes forward,tee]

Random writes of fio through the agent to the service, by turns with the programs in --bin and in --other. Each ratio is the median of
the rounds. Needs fio with its nbd engine.
"""

import pathlib
import statistics

import bench
from bench import GIB, Pair, fio, processor_seconds, row, table, zeroes
import lib

bench.PARSER.add_argument("--other", type=pathlib.Path, required=True)
bench.PARSER.add_argument("--seconds", type=int, default=4)
bench.PARSER.add_argument("--rounds", type=int, default=5)
bench.PARSER.add_argument("--jobs", default="4k/1,4k/32,64k/8,1m/4")
bench.PARSER.add_argument("--modes", default="forward,tee")
OPTIONS = bench.PARSER.parse_args()


def use(directory):
    lib.SERVICE, lib.AGENT, lib.CTL = (str((directory / name).resolve()) for name in ("understudyd", "understudy-agent", "understudyctl"))


def measure(directory, tee, size, depth):
    """(requests a second, processor microseconds of agent and service for each)"""
    use(directory)
    with Pair(zeroes(GIB), zeroes(GIB), disk_bytes=GIB, tee=tee) as pair:
        host = pair.host.start().wait_connected()
        daemons = host.daemon, pair.standby.daemon
        before = sum(map(processor_seconds, daemons))
        figures = fio(host.uri(), rw="randwrite", bs=size, iodepth=depth, size=GIB, norandommap=1, seconds=OPTIONS.seconds)
        return figures["iops"], (sum(map(processor_seconds, daemons)) - before) * 1e6 / figures["total_ios"]


def main():
    table("agent and service", "other, a second", "this", "ratio", "other, us of processor", "this", "ratio")
    for mode in OPTIONS.modes.split(","):
        for job in OPTIONS.jobs.split(","):
            size, depth = job.split("/")
            rounds = [
                (measure(OPTIONS.other, mode == "tee", size, depth), measure(OPTIONS.bin, mode == "tee", size, depth))
                for _ in range(OPTIONS.rounds)
            ]
            figure = lambda of, what: statistics.median(pair[of][what] for pair in rounds)  # noqa: E731
            ratio = lambda what: statistics.median(pair[1][what] / pair[0][what] for pair in rounds)  # noqa: E731
            row(f"{mode}, {size}, queue depth {depth}", f"{figure(0, 0):,.0f}", f"{figure(1, 0):,.0f}", f"{ratio(0):.2f}",
                f"{figure(0, 1):.1f}", f"{figure(1, 1):.1f}", f"{ratio(1):.2f}")  # fmt: skip


main()

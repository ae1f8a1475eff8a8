#!/usr/bin/env python3
"""Checks that every metric in a dashboard panel or a rule is one that the daemons really export.

usage: metrics_exist.py [--dashboard FILE]... [--rules FILE]... SCRAPE...

SCRAPE is the text of a /metrics page, as a file or an http:// address; a metric must have a sample in one of them.
Without --dashboard and --rules all of deploy/grafana and deploy/prometheus is checked. Exit status 1 if one is missing.
"""

import argparse
import pathlib
import sys
import urllib.request

import expressions

# Made by Prometheus for every target.
BUILT_IN = {"up", "scrape_duration_seconds", "scrape_samples_scraped"}


def scrape(source):
    if source.startswith(("http://", "https://")):
        with urllib.request.urlopen(source, timeout=10) as answer:
            return answer.read().decode()
    return pathlib.Path(source).read_text()


def samples(text):
    """The names that have a sample: as a rule sees them, with _bucket, _sum and _count."""
    lines = (line.strip() for line in text.splitlines())
    return {line.split("{")[0].split()[0] for line in lines if line and not line.startswith("#")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dashboard", action="append", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--rules", action="append", type=pathlib.Path, metavar="FILE")
    parser.add_argument("scrape", nargs="+", metavar="SCRAPE")
    options = parser.parse_args()
    everything = not options.dashboard and not options.rules
    dashboards = options.dashboard or (expressions.DASHBOARDS if everything else [])
    rules = options.rules or (expressions.RULES if everything else [])

    known = set(BUILT_IN)
    for source in options.scrape:
        known |= samples(scrape(source))
    for path in rules or expressions.RULES:
        known |= expressions.recorded(path)

    used = [(path, *use) for path in dashboards for use in expressions.of_dashboard(path)]
    used += [(path, *use) for path in rules for use in expressions.of_rules(path)]
    missing = 0
    for path, where, expression in used:
        for metric in sorted(expressions.metrics(expression) - known):
            print(f"{path.name}: {where}: {metric} is in no scrape")
            missing += 1
    print(f"{len(used)} expressions, {missing} missing metrics")
    return 1 if missing or not used else 0


if __name__ == "__main__":
    sys.exit(main())

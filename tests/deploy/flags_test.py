#!/usr/bin/env python3
"""Checks that every flag which deploy/ passes to a daemon is one that the daemon's --help lists.

usage: flags_test.py UNDERSTUDYD UNDERSTUDY_AGENT
"""

import pathlib
import re
import subprocess
import sys

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"

# Binary -> the files that start it.
USES = {
    "understudyd": [
        "container/Containerfile",
        "kustomize/base/statefulset.yaml",
        "systemd/understudyd.service",
    ],
    "understudy-agent": [
        "kustomize/components/sidecar/agent.patch.yaml",
        "systemd/understudy-agent@.service",
    ],
}
# A Containerfile has commands of its own; there only the default arguments count.
ARGUMENTS = {"container/Containerfile": r"^CMD .*$"}
# The file whose UNDERSTUDY_* variables the service reads.
CONFIGURATION = "kustomize/base/kustomization.yaml"


def flags_in(file):
    """The flags a file passes; those its comments speak of had better exist too."""
    text = (DEPLOY / file).read_text()
    if file in ARGUMENTS:
        text = "\n".join(re.findall(ARGUMENTS[file], text, re.MULTILINE))
    return set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)(?==|\s|$)", text))


def flags_of(binary):
    shown = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--([a-z][a-z-]+)", shown))


def main():
    known = {name: flags_of(binary) for name, binary in zip(USES, sys.argv[1:3], strict=True)}
    problems = []
    checked = 0
    for name, files in USES.items():
        for file in files:
            used = flags_in(file)
            checked += len(used)
            if not used:
                problems.append(f"{file}: no flag found, so nothing was checked")
            problems += [f"{file}: {name} has no flag --{flag}" for flag in sorted(used - known[name])]
    for variable in re.findall(r"UNDERSTUDY_([A-Z_]+)=", (DEPLOY / CONFIGURATION).read_text()):
        checked += 1
        if (flag := variable.lower().replace("_", "-")) not in known["understudyd"]:
            problems.append(f"{CONFIGURATION}: understudyd has no flag --{flag}")
    print("\n".join(problems) or f"{checked} flags are known")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

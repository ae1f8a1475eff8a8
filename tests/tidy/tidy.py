#!/usr/bin/env python3
"""Checks the house rules that a machine can see.

  tidy.py CHECK [--root DIR] [--build DIR]

One problem per line, exit status 1; 77 when a tool that the check needs is missing. The self test plants one violation of every
rule and sees it found.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from cpp_text import code_only, functions

TOP = ("storage", "proto", "server", "client", "tests")
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
LONG_FUNCTIONS = "tests/tidy/long_functions.txt"  # those that are longer, with the length they may not exceed

# Which folders of ours a folder may include from, itself left out. The longest prefix counts; tests may include anything.
ARROWS = {
    "storage/base": (),
    "storage/base/metrics": ("storage/base",),
    "storage": ("storage/base",),
    "proto": ("storage/base",),
    "proto/nbd": ("storage/base",),
    "server": ("storage", "storage/base"),
    "server/metrics": ("server", "storage", "storage/base", "storage/base/metrics"),
    "server/rpc": ("server", "storage", "storage/base", "proto"),
    "server/nbd": ("server", "storage", "storage/base", "proto/nbd"),
    "server/main": ("server", "server/metrics", "server/nbd", "server/rpc", "storage", "storage/base", "storage/base/metrics", "proto",
                    "proto/nbd"),
    "client": ("storage/base",),
    "client/metrics": ("client", "storage/base", "storage/base/metrics"),
    "client/rpc": ("client", "storage/base", "proto"),
    "client/agent": ("client", "client/rpc", "client/metrics", "storage/base", "storage/base/metrics", "proto", "proto/nbd"),
    "client/ctl": ("client", "client/rpc", "storage/base", "proto"),
}
# What puts a program together may use all of it; no core includes it.
MAINS = dict.fromkeys(("server/main.cc", "server/daemon.h", "server/daemon.cc"), "server/main")

# Third-party headers that only some places may include: (what, header, who may).
THIRD_PARTY = (
    ("gRPC and protobuf", r"(grpc|grpcpp|grpc\+\+|google/protobuf|google/rpc)/|.*\.pb\.h$",
     r"proto/(?!nbd/)|(server|client)/rpc/|client/ctl/"),
    ("RocksDB", r"rocksdb/", r"storage/(?!base/)|tests/testing/"),
    ("Prometheus", r"prometheus/", r"storage/base/metrics/|proto/nbd/metrics/|storage/(?!base/)|server/|client/"),
    ("CLI11", r"CLI/", r"storage/base/command_line\.cc$"),
    ("absl::Mutex, which ThreadSanitizer cannot see: use storage/base/mutex.h", r"absl/synchronization/mutex\.h", r"$"),
)

CHANNELS = "proto/grpc_channel.cc"

# The weight of a header is the preprocessed lines that it adds to the common ones: those that nearly every file of ours reads, which
# the build precompiles (UNDERSTUDY_COMMON_HEADERS). All lines cannot be what is bounded: every signature of ours returns
# absl::Status, Abseil asks not to forward declare its types, and with GCC 12 on Debian 12 absl/status/statusor.h alone reads 114,740
# lines, absl/time/time.h 69,615, absl/functional/any_invocable.h 72,312. WEIGHT_MAX is a little above the heaviest header.
COMMON = re.compile(r"set\(UNDERSTUDY_COMMON_HEADERS([^)]*)\)")
WEIGHT_MAX = 11_000
WEIGHED = re.compile(r"(storage|client|server)/(?!(.*/)?rpc/).*\.h$")
HEAVY = re.compile(r"(grpc|grpcpp|grpc\+\+|google/protobuf|google/rpc|rocksdb)/|.*\.pb\.h$")  # may be read in a .cc only
MADE_OF_MESSAGES = ("client/ctl/invocation.h",)  # a variant of requests: whoever reads it works with them

# The wall clock is for what people read and for records. Whoever else reads it breaks when it is
# set.
WALL_CLOCK = re.compile(r"absl::Now\(|system_clock|CLOCK_REALTIME|gettimeofday\(|GetCurrentTimeNanos|[\s(]time\((nullptr|NULL|0)\)"
                        r"|\bwait_until\(|WaitWithDeadline|\bNow\(\)\s*[-+]|[-+]\s+[\w.>()-]*\bNow\(\)")
MAY_READ_WALL_CLOCK = {
    "storage/base/clock.cc": "it is the clock",
    "storage/base/log.cc": "the time of a line",
    "proto/watch_stream.cc": "the time of a message",
    "server/rpc/convert.cc": "when a failback map was taken",
    "client/failback.cc": "the same, at the other end",
    "storage/replica_history.cc": "when a clone ends, for people; a timer ends it",
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


class Tree:
    def __init__(self, root, build):
        self.root = os.path.realpath(root)
        self.build = build
        self.sources = sorted(self._find((".cc", ".h")))

    def _find(self, endings):
        for top in TOP:
            for folder, folders, names in os.walk(os.path.join(self.root, top)):
                folders[:] = [f for f in folders if f not in ("node_modules", "build")]
                for name in names:
                    if name.endswith(endings):
                        yield os.path.relpath(os.path.join(folder, name), self.root)

    def text(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8") as file:
            return file.read()

    def exists(self, path):
        return os.path.exists(os.path.join(self.root, path))

    def includes(self, path):
        return INCLUDE.findall(self.text(path))


def folder_of(path):
    """The longest prefix of `path` that ARROWS knows."""
    folder = MAINS.get(path, os.path.dirname(path))
    while folder and folder not in ARROWS:
        folder = os.path.dirname(folder)
    return folder


def check_arrows(tree):
    """server/{rpc,nbd} -> server -> storage -> storage/base <- client <- client/{rpc,agent,ctl}; proto <- */rpc and mains"""
    for path in tree.sources:
        if path.startswith("tests/"):
            continue
        own = folder_of(path)
        for _, header in tree.includes(path):
            ours = tree.exists(header) and header.split("/")[0] in TOP
            target = folder_of(header)
            if ours and (header.startswith("tests/") or target not in (own, *ARROWS.get(own, ()))):
                yield f"{path}: includes {header}: {own} may not use {target or 'tests'}"


def check_third_party(tree):
    for path in tree.sources:
        if path.startswith("tests/"):
            continue
        for _, header in tree.includes(path):
            for what, pattern, allowed in THIRD_PARTY:
                if re.match(pattern, header) and not re.match(allowed, path):
                    yield f"{path}: includes {header}: no place for {what}"


def check_headers(tree):
    for path in tree.sources:
        if not path.endswith(".h"):
            continue
        text = tree.text(path)
        guard = "UNDERSTUDY_" + re.sub(r"[/.]", "_", path).upper() + "_"
        if f"#ifndef {guard}\n#define {guard}\n" not in text or not text.endswith(f"#endif  // {guard}\n"):
            yield f"{path}: the include guard is not {guard}"
        if not text.startswith(f"// {path}\n"):
            yield f"{path}: does not begin with // {path} and what it is for"


def compiled(tree):
    commands = os.path.join(tree.build or "", "compile_commands.json")
    if not os.path.exists(commands):
        return set()
    with open(commands, encoding="utf-8") as file:
        paths = {os.path.realpath(os.path.join(c["directory"], c["file"])) for c in json.load(file)}
    return {os.path.relpath(path, tree.root) for path in paths}


def mentioned(tree, path):
    """Whether the nearest CMakeLists.txt above the file names it."""
    folder = os.path.dirname(path)
    while folder:
        lists = os.path.join(folder, "CMakeLists.txt")
        if tree.exists(lists):
            name = re.escape(os.path.relpath(path, folder))
            return re.search(rf"(?<![\w./-]){name}(?![\w.-])", tree.text(lists)) is not None
        folder = os.path.dirname(folder)
    return False


def included_somewhere(tree, path):
    return any(header == path for source in tree.sources for _, header in tree.includes(source))


def check_listed(tree):
    """Sources and tests are built, headers are in a list or, in tests, included by somebody."""
    built = compiled(tree)
    for path in tree.sources:
        if path in built or mentioned(tree, path):
            continue
        if path.startswith("tests/") and path.endswith(".h") and included_somewhere(tree, path):
            continue
        yield f"{path}: in no CMakeLists.txt"


def check_namespaces(tree):
    """A test file has a namespace of its own, called as the file, so that its names meet no others where it is compiled with them."""
    for path in tree.sources:
        name = os.path.basename(path).removesuffix(".cc")
        if path.endswith("_test.cc") and not re.search(rf"^namespace understudy(::\w+)*::{name} {{$", tree.text(path), re.MULTILINE):
            yield f"{path}: has no namespace understudy::...::{name}"


def check_size(tree):
    for path in tree.sources:
        lines = tree.text(path).count("\n")
        if lines > FILE_LINES_MAX:
            yield f"{path}: {lines} lines; at {FILE_LINES_MAX} look for the missing noun"


def allowed_lengths(tree):
    if not tree.exists(LONG_FUNCTIONS):
        return {}
    rows = [line.split() for line in tree.text(LONG_FUNCTIONS).splitlines() if line and line[0] != "#"]
    return {(path, name): int(lines) for path, name, lines in rows}


def check_functions(tree):
    """The ratchet: what is listed may only become shorter, nothing new may become as long."""
    allowed = allowed_lengths(tree)
    for path in tree.sources:
        for name, line, lines in functions(tree.text(path)):
            limit = allowed.pop((path, name), FUNCTION_LINES_MAX)
            if lines > limit:
                yield f"{path}:{line}: {name} has {lines} lines, more than {limit}"
            elif limit > FUNCTION_LINES_MAX and lines < limit:
                yield f"{path}:{line}: {name} has only {lines} lines now: write that into {LONG_FUNCTIONS}"
    for path, name in allowed:
        yield f"{LONG_FUNCTIONS}: {path} {name} is no more: remove the line"


def check_words(tree):
    """Work left lying about, and what the toolchain cannot do."""
    for path in tree.sources:
        text = tree.text(path)
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b", line):
                yield f"{path}:{number}: unfinished work belongs into an issue"
            if "\t" in line:
                yield f"{path}:{number}: a tab"
        if not path.startswith("tests/") and re.search(r"\babsl::(Mutex|MutexLock|CondVar)\b", code_only(text)):
            yield f"{path}: absl::Mutex is invisible to ThreadSanitizer: use base::Mutex"


def check_channels(tree):
    """gRPC's channels are made in one place, with one list of arguments."""
    for path in tree.sources:
        if path.startswith("tests/") or path == CHANNELS:
            continue
        if re.search(r"\bCreate(Custom)?Channel\w*\(|\bInProcessChannel\(|\bgrpc::ChannelArguments\s+\w+\s*;", code_only(tree.text(path))):
            yield f"{path}: makes a channel with arguments of its own: use proto::MakeChannel()"


REQUIRES_LOCK = re.compile(r"(\w+Locked)\([^;{]*\bABSL_(?:EXCLUSIVE|SHARED)_LOCKS_REQUIRED\(")
HOLDS_OR_LOGS = re.compile(
    r"[{};]|\b(?:MutexLock|WriterLock|ReaderLock) \w+\(|\bmutex_\.(?:Unl|L)ock\(|\bLog(?:Info|Warning|Error)\(")


def logged_under_lock(code, locked):
    """The lines of code that log while a lock is held: by a guard of the block, or because the function, one of `locked`, requires it."""
    guards = [0]  # held in each open block
    header = 0
    for match in HOLDS_OR_LOGS.finditer(code):
        symbol = match.group()
        if symbol == "{":
            name = re.search(r"(\w+)\([^;{}]*$", code[header:match.start()])
            guards.append(1 if name and name.group(1) in locked else 0)
        elif symbol == "}" and len(guards) > 1:
            guards.pop()
        elif symbol == "mutex_.Unlock(":
            guards[-1] -= 1
        elif "Log" in symbol and sum(guards) > 0:
            yield code.count("\n", 0, match.start()) + 1
        elif "Lock" in symbol:
            guards[-1] += 1
        if symbol in "{};":
            header = match.end()


def check_locks(tree):
    """Nobody logs under a leaf lock: where lines are not queued, in a forked child, whoever reads them would be waited for."""
    codes = {path: code_only(tree.text(path)) for path in tree.sources if not path.startswith("tests/")}
    locked = {name for code in codes.values() for name in REQUIRES_LOCK.findall(code)}
    for path, code in codes.items():
        for line in logged_under_lock(code, locked):
            yield f"{path}:{line}: logs under a lock: take what the line says, and say it when the lock is free"


def check_clocks(tree):
    """Durations, deadlines and what is due are measured on the steady clock: base::Clock::Monotonic() and base::Deadline."""
    unused = set(MAY_READ_WALL_CLOCK)
    for path in tree.sources:
        if path.startswith("tests/"):
            continue
        for number, line in enumerate(code_only(tree.text(path)).splitlines(), 1):
            if not WALL_CLOCK.search(line):
                continue
            unused.discard(path)
            if path not in MAY_READ_WALL_CLOCK:
                yield f"{path}:{number}: the wall clock jumps when it is set: base::Deadline, or Clock::Monotonic()"
    for path in sorted(unused):
        if tree.exists(path):
            yield f"{path}: reads the wall clock no more: remove it from MAY_READ_WALL_CLOCK"


def check_format(tree):
    if shutil.which("clang-format") is None:
        print("skipped: no clang-format; apt-get install clang-format")
        sys.exit(77)
    result = subprocess.run(["clang-format", "--dry-run", "-Werror", "--ferror-limit=1", *tree.sources],
                            cwd=tree.root, capture_output=True, text=True, check=False)
    found = sorted(set(re.findall(r"^([^\s:]+):\d+:\d+: error", result.stderr, re.MULTILINE)))
    for path in found:
        yield f"{path}: not as clang-format has it; clang-format -i {path}"
    if result.returncode != 0 and not found:
        yield f"clang-format failed: {result.stderr.strip()}"


def compiler(tree):
    """What the build compiles with, else what is installed."""
    commands = os.path.join(tree.build or "", "compile_commands.json")
    words = []
    if os.path.exists(commands):
        with open(commands, encoding="utf-8") as file:
            words = next((c["command"].split()[:2] for c in json.load(file) if "command" in c), [])
    words = [word for word in words if os.path.basename(word) != "ccache"]
    return shutil.which(words[0] if words else "c++") or shutil.which("g++")


MARKER = re.compile(rb'^# \d+ "(.*?)".*\n', re.MULTILINE)  # before the lines of a file, in what a preprocessor prints


def preprocessed(program, root, text):
    """The lines of a translation unit by the file they come from; and the errors, if there are any."""
    result = subprocess.run([program, "-std=c++20", "-I", root, "-E", "-x", "c++", "-"], cwd=root, input=text.encode(),
                            capture_output=True, check=False)
    lines = Counter()
    # Millions of lines in all: a loop over them would take as long as the compiler.
    _, *pieces = MARKER.split(result.stdout)
    for file, piece in zip(pieces[::2], pieces[1::2]):
        lines[file.decode()] += piece.count(b"\n")
    return lines, "" if result.returncode == 0 else result.stderr.decode(errors="replace")


def include_name(tree, file):
    """As an #include would name it."""
    if file.startswith(tree.root + "/"):
        return os.path.relpath(file, tree.root)
    return file.rpartition("/include/")[2]


def check_weight(tree):
    """Headers are cheap to read: none brings gRPC, protobuf or RocksDB, none much beyond the common ones."""
    program = compiler(tree)
    if program is None:
        print("skipped: no compiler")
        sys.exit(77)
    common = COMMON.search(tree.text("CMakeLists.txt")).group(1).split()
    shared, failed = preprocessed(program, tree.root, "".join(f"#include {header}\n" for header in common))
    if failed:
        print(f"skipped: the common headers are not installed: {failed.splitlines()[0]}")
        sys.exit(77)
    headers = [path for path in tree.sources if WEIGHED.match(path) and path not in MADE_OF_MESSAGES]
    with ThreadPoolExecutor(max_workers=2) as two:
        results = list(two.map(lambda path: preprocessed(program, tree.root, f'#include "{path}"\n'), headers))
    for path, (lines, failed) in zip(headers, results):
        if failed:
            yield f"{path}: cannot be read alone: {failed.splitlines()[0]}"
            continue
        own = Counter({include_name(tree, file): count for file, count in lines.items() if file not in shared})
        heavy = [file for file in own if HEAVY.match(file)]
        if heavy:
            yield f"{path}: reads {heavy[0]}: declare forward what it names, or keep it in the .cc"
        elif own.total() > WEIGHT_MAX:
            most = ", ".join(f"{file} {count}" for file, count in own.most_common(4))
            yield f"{path}: reads {own.total()} lines beyond the common ones, more than {WEIGHT_MAX}; most: {most}"


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=sorted(CHECKS))
    parser.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    parser.add_argument("--build", help="build directory, for its compile_commands.json")
    arguments = parser.parse_args()
    tree = Tree(arguments.root, arguments.build)
    if not tree.sources:
        sys.exit(f"no sources under {tree.root}")
    problems = list(CHECKS[arguments.check](tree))
    for problem in problems:
        print(problem)
    print(f"{arguments.check}: {len(tree.sources)} files, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

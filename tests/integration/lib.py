"""What the integration tests share: real daemons in a directory of their own, real NBD clients, answers as JSON.

A test case starts daemons with Case.service() and Case.agent(); whatever still runs when it ends is killed by its pid, and if
the case failed the daemons' logs are printed. A report of a sanitizer in a log fails the case.

The programs come from the environment (see CMakeLists.txt): UNDERSTUDYD, UNDERSTUDY_AGENT, UNDERSTUDYCTL.
Standard library only.
"""

import collections
import concurrent.futures
import fcntl
import hashlib
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

import nbd

MIB = 1 << 20
SKIPPED = 77
# A sanitizer makes everything several times slower; a test that passes does not wait for any of these.
PATIENCE_SECONDS = 60

SERVICE = os.environ.get("UNDERSTUDYD", "understudyd")
AGENT = os.environ.get("UNDERSTUDY_AGENT", "understudy-agent")
CTL = os.environ.get("UNDERSTUDYCTL", "understudyctl")
SOURCE = pathlib.Path(__file__).resolve().parents[2]


def run_tests(*tools, at_once=1):
    """The main() of a test file: skips (77) when a tool is missing, prints the seed, runs the cases.

    `at_once`: so many cases beside each other, each in a process of its own; for cases that wait more than they work.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        print("skipped, not installed:", *missing)
        sys.exit(SKIPPED)
    print(f"UNDERSTUDY_SEED={SEED}", flush=True)
    if at_once > 1 and len(sys.argv) == 1:
        sys.exit(run_beside_each_other(at_once))
    unittest.main(verbosity=2)


def run_beside_each_other(at_once):
    """Each case of the test file: a line when it has ended, and in the end what it said, first of those that failed. Returns the exit
    status."""
    suites = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    names = [case.id().removeprefix("__main__.") for suite in suites for case in suite]
    environment = {**os.environ, "UNDERSTUDY_SEED": str(SEED)}

    def run_case(name):
        begun = time.monotonic()
        with tempfile.TemporaryFile() as output:  # a pipe would wait for whatever a case that failed has left running, too
            done = subprocess.run(
                [sys.executable, sys.argv[0], name], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            failed = done.returncode != 0
            print(f"{'FAILED' if failed else 'ended'} after {time.monotonic() - begun:.1f} s: {name}", flush=True)
            output.seek(0)
            return failed, output.read().decode(errors="replace")

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        ended = list(pool.map(run_case, names))
    for _, said in sorted(ended, key=lambda case: not case[0]):
        print(said)
    count = sum(failed for failed, _ in ended)
    print(f"{len(ended)} cases, {count} failed")
    return 1 if count or not ended else 0


SEED = int(os.environ.get("UNDERSTUDY_SEED", random.SystemRandom().randrange(1 << 32)))


def wait_for(condition, what, seconds=PATIENCE_SECONDS):
    """Asks until the condition is true and returns what it said: for states that no daemon announces to us."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for: {what}")
        time.sleep(0.02)


def run(*command, check=True, **options):
    """Runs a command to its end; its output is in the exception when it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, **options
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"exit status {done.returncode}: {shlex.join(map(str, command))}\n{done.stdout}{done.stderr}"
        )
    return done


# ---- understudyctl ------------------------------------------------------------------------------------------------------------


class Answer:
    """What one call of understudyctl said."""

    def __init__(self, done):
        self.status = done.returncode
        self.out = done.stdout
        self.error = done.stderr

    @property
    def objects(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def object(self):
        (only,) = self.objects
        return only


def ctl(address, *arguments, timeout="60s"):
    """Calls understudyctl --json; never raises."""
    return Answer(run(CTL, "--server", address, "--json", "--timeout", timeout, *arguments, check=False))


# ---- daemons --------------------------------------------------------------------------------------------------------------------


class LogReader:
    """Stands between a daemon's standard error, a pipe of the smallest size, and its log file; may stand still."""

    def __init__(self, case, log_path):
        self.log_path = log_path
        self.source, self.pipe = os.pipe()
        fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, 4096)
        self.reads = threading.Event()
        self.reads.set()
        self.gone = False
        self.thread = threading.Thread(target=self._copy)
        self.thread.start()
        case.addCleanup(self.close)

    def _copy(self):
        with open(self.log_path, "ab", buffering=0) as log:
            while self.reads.wait() and (data := os.read(self.source, 4096)) and not self.gone:
                log.write(data)
        os.close(self.source)

    def pause(self):
        """One more piece may be read."""
        self.reads.clear()

    def resume(self):
        self.reads.set()

    def abandon(self):
        """As the reader's death: writes to the pipe fail."""
        self.gone = True
        os.write(self.pipe, b"\n")
        self.thread.join()

    def close(self):
        """After the end of the daemons that write to it."""
        os.close(self.pipe)
        self.resume()
        self.thread.join()


class Daemon:
    """One run of a daemon. `ready` holds the keys of its ready line."""

    def __init__(self, name, command, log_path, ready_event, environment=None, stderr=None):
        self.name = name
        self.log_path = log_path
        self.ready_event = ready_event
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if stderr is None else stderr,
                env={**os.environ, **(environment or {})},
            )
        self.pid = self.process.pid
        self.ready = {}

    def log(self):
        """What this run has logged so far."""
        with open(self.log_path, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def events(self, event):
        """The log lines of one event, each as a dictionary of its keys."""
        found = []
        for line in self.log().splitlines():
            words = line.split(" ", 3)
            if len(words) >= 3 and words[2] == event:
                rest = shlex.split(words[3]) if len(words) == 4 else []
                found.append(dict(word.split("=", 1) for word in rest if "=" in word))
        return found

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode} before it was ready:\n{self.log()}")
            return self.events(self.ready_event)

        self.ready = wait_for(ready, f"{self.name} to be ready")[0]
        return self

    def kill(self):
        """As the death of a host: SIGKILL, and gone."""
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)

    @property
    def resident_bytes(self):
        """0 under ASan, which keeps for a while what was freed."""
        if "ASAN_OPTIONS" in os.environ:
            return 0
        with open(f"/proc/{self.pid}/status") as file:
            return int(file.read().split("VmRSS:")[1].split()[0]) * 1024

    @property
    def running(self):
        return self.process.poll() is None


class Endpoint:
    """A daemon that can be started again with the same addresses. Base of Service and Agent."""

    ready_event = ""
    name = ""

    def __init__(self, case, name):
        self.case = case
        self.name = name
        self.address = f"unix:{case.dir / name}.grpc"
        self.nbd_socket = case.dir / f"{name}.nbd"
        self.log_path = case.dir / f"{name}.log"
        self.daemon = None

    def command(self):
        raise NotImplementedError

    def spawn(self, environment=None, stderr=None):
        """Starts it without waiting, for tests of what it refuses."""
        self.daemon = Daemon(self.name, self.command(), self.log_path, self.ready_event, environment, stderr)
        self.case.daemons.append(self.daemon)
        return self.daemon

    def start(self):
        self.spawn().wait_ready()
        return self

    def kill(self):
        self.daemon.kill()

    def restart(self):
        """After kill() or an orderly end."""
        return self.start()

    def ctl(self, *arguments, **options):
        return ctl(self.address, *arguments, **options)

    def call(self, *arguments):
        """A call that must succeed; returns the JSON object it printed."""
        answer = self.ctl(*arguments)
        self.case.assertEqual(answer.status, 0, f"{arguments}: {answer.error}")
        return answer.object

    def status(self, group="vm1"):
        return self.call("status", group)

    def call_errors(self, group="vm1"):
        """What GetError lists."""
        answer = self.ctl("get-error", group)
        self.case.assertIn(answer.status, (0, 3), answer.error)
        return answer.object["errors"]

    def wait_stage(self, stage, group="vm1"):
        return wait_for(
            lambda: (lambda s: s if s["stage"] == stage else None)(self.status(group)), f"{self.name} in stage {stage}"
        )

    def uri(self, volume="vda", group="vm1", export=None):
        name = urllib.parse.quote(export or f"{group}/{volume}")
        return f"nbd+unix:///{name}?socket={self.nbd_socket}"

    def connect(self, volume="vda", group="vm1", export=None):
        """An NBD connection that stays open until the test ends."""
        disk = nbd.Disk(self.nbd_socket, export or f"{group}/{volume}", PATIENCE_SECONDS)
        self.case.addCleanup(disk.close)
        return disk

    def export_names(self):
        """What an NBD client that asks for the list is told."""
        answer = run("nbdinfo", "--json", "--list", f"nbd+unix:///?socket={self.nbd_socket}", check=False)
        if answer.returncode != 0:  # nbdinfo's way to say that the list is empty
            return []
        return sorted(export["export-name"] for export in json.loads(answer.stdout)["exports"])

    def scrape(self):
        """The text of /metrics."""
        with urllib.request.urlopen(self.metrics_url, timeout=30) as answer:
            return answer.read().decode()

    @property
    def metrics_url(self):
        return f"http://{self.daemon.ready['metrics']}/metrics"

    def metric(self, name, **labels):
        """The sum of the samples of `name` that carry these labels; None when there is none."""
        values = [
            value
            for sample, sample_labels, value in samples(self.scrape())
            if sample == name and labels.items() <= sample_labels.items()
        ]
        return sum(values) if values else None


class Service(Endpoint):
    """understudyd on its data directory."""

    ready_event = "understudyd_ready"

    def __init__(self, case, name="service", options=(), data_dir=None):
        super().__init__(case, name)
        self.options = options
        self.data_dir = data_dir or case.dir / f"{name}.data"

    def command(self):
        return [
            SERVICE, "--data-dir", self.data_dir, "--listen", self.address, "--metrics-listen", "127.0.0.1:0",
            "--nbd-socket", self.nbd_socket, "--disk-dir", self.case.dir, *self.options,
        ]  # fmt: skip

    def start_group(self, *volumes, group="vm1"):
        """start --mode secondary; each volume as NAME,disk=PATH..."""
        flags = [word for volume in volumes for word in ("--volume", volume)]
        return self.call("start", group, "--mode", "secondary", *flags)


class Agent(Endpoint):
    """understudy-agent of one group; each volume as NAME,disk=PATH or NAME,size=BYTES."""

    ready_event = "agent_ready"

    def __init__(self, case, service, *volumes, name="agent", group="vm1", options=("--start",)):
        super().__init__(case, name)
        self.service, self.volumes, self.group, self.options = service, volumes, group, options

    def command(self):
        flags = [word for volume in self.volumes for word in ("--volume", volume)]
        return [
            AGENT, "--server", self.service.address, "--group", self.group, *flags, "--nbd-socket", self.nbd_socket,
            "--listen", self.address, "--metrics-listen", "127.0.0.1:0",
            "--state-dir", self.case.dir / f"{self.name}.state", *self.options,
        ]  # fmt: skip

    def wait_connected(self):
        wait_for(lambda: self.status(self.group)["connected"], "the agent's stream")
        return self


def samples(text):
    """Yields (name, labels, value) of a Prometheus text page."""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        head, value = line.rsplit(" ", 1)
        name, _, inside = head.partition("{")
        labels = {}
        for pair in inside.rstrip("}").split('",'):
            if "=" in pair:
                key, _, text_value = pair.partition("=")
                labels[key.strip()] = text_value.strip().strip('"')
        yield name.strip(), labels, float(value)


# ---- NBD clients ----------------------------------------------------------------------------------------------------------------


def qemu_io(uri, *commands, check=True):
    """Runs qemu-io's commands in order on one connection, then flushes; every one must succeed."""
    words = [word for command in commands for word in ("-c", command)]
    done = run("qemu-io", "-t", "writeback", "-f", "raw", *words, uri, check=check)
    return done


def nbdcopy(source, target):
    """Copies everything; one of the two is a local file."""
    return run("nbdcopy", "--requests=16", source, target)


def data_from(file, offset, size):
    """Where the next data of a file is, at or behind `offset`; before it is a hole."""
    try:
        return os.lseek(file.fileno(), offset, os.SEEK_DATA)
    except OSError:  # ENXIO: there is none
        return size


def first_difference(left, right):
    """The first byte in which two files differ, None if they are equal. What is a hole in both is not read."""
    with open(left, "rb", buffering=0) as a, open(right, "rb", buffering=0) as b:
        size, other_size = (os.fstat(file.fileno()).st_size for file in (a, b))
        if size != other_size:
            return min(size, other_size)
        found, expected, offset = bytearray(MIB), bytearray(MIB), 0
        while (offset := min(data_from(a, offset, size), data_from(b, offset, size))) < size:
            length = os.preadv(a.fileno(), [found], offset)
            if length != os.preadv(b.fileno(), [expected], offset) or found[:length] != expected[:length]:
                return offset + next(i for i in range(length) if found[i] != expected[i])
            offset += length
    return None


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(MIB):
            sha.update(chunk)
    return sha.hexdigest()


# One request of a guest: kind is write, zero or discard.
Request = collections.namedtuple("Request", "kind offset length pattern")


def random_requests(rng, count, size, length_max=128 * 1024):
    """Requests of a guest: sector-aligned, mostly writes, often on the same places."""
    requests = []
    for _ in range(count):
        length = min(512 * rng.randint(1, length_max // 512), size)
        if rng.random() < 0.4:
            length = min(4096, size)
        offset = 512 * rng.randint(0, (size - length) // 512)
        kind = rng.choices(["write", "zero", "discard"], [8, 1, 1])[0]
        requests.append(Request(kind, offset, length, rng.randint(1, 255)))
    return requests


def command_of(request):
    if request.kind == "write":
        return f"write -q -P {request.pattern} {request.offset} {request.length}"
    if request.kind == "zero":
        return f"write -q -z {request.offset} {request.length}"
    return f"discard -q {request.offset} {request.length}"


def apply_to(image, requests):
    """What the requests make of a bytearray. A discarded range reads as zeroes: that is what Understudy promises."""
    for request in requests:
        fill = request.pattern if request.kind == "write" else 0
        image[request.offset : request.offset + request.length] = bytes([fill]) * request.length


class Writer:
    """A guest that writes without pause on one connection until it is told to stop.

    Plays `requests` round and round through one qemu-io; `done` counts the requests that were answered.
    """

    def __init__(self, uri, requests, batch=50):
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "qemu-io", "-t", "writeback", "-f", "raw", uri],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.requests = requests
        self.batch = batch
        self.done = 0

    def write_batch(self):
        """Sends one batch and returns when every request of it has been answered."""
        start = self.done % len(self.requests)
        chosen = [self.requests[(start + i) % len(self.requests)] for i in range(self.batch)]
        for request in chosen:
            self._play(request)
        self.done += len(chosen)
        return chosen

    def _play(self, request):
        # One at a time: qemu-io polls its input, so a second line in the same read would wait for a third.
        self.process.stdin.write(command_of(request).replace(" -q", "", 1) + "\n")
        self.process.stdin.flush()
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"qemu-io ended at {request}")
            if "failed" in line:
                raise AssertionError(f"a guest request failed: {request}: {line}")
            if "ops; " in line:
                return

    def close(self):
        """Flushes and ends; every request has been answered."""
        self.process.communicate("flush\n", timeout=PATIENCE_SECONDS)
        if self.process.returncode != 0:
            raise AssertionError(f"qemu-io ended with {self.process.returncode}")


# ---- a test case ----------------------------------------------------------------------------------------------------------------


class Case(unittest.TestCase):
    """A directory, the daemons in it, and comparisons of whole disks."""

    maxDiff = 2000

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="us-"))
        self.daemons = []
        self.before_removal = []  # what must be undone before the directory can go: mounts
        self.rng = random.Random(f"{SEED} {self.id()}")
        self.pool = None

    def tearDown(self):
        for daemon in self.daemons:
            if daemon.running:
                daemon.signal(signal.SIGCONT)
                daemon.kill()
        for undo in reversed(self.before_removal):
            undo()
        logs = {path: path.read_text(errors="replace") for path in sorted(self.dir.glob("*.log"))}
        result = self._outcome.result
        if any(case is self for case, _ in result.failures + result.errors):
            for path, text in logs.items():
                print(f"---- {path.name}\n{text[-6000:]}", flush=True)
        shutil.rmtree(self.dir)
        for path, text in logs.items():
            for report in ("AddressSanitizer", "LeakSanitizer", "runtime error:", "CHECK failed"):
                self.assertNotIn(report, text, path.name)

    def disk(self, name, size, fill=None):
        """A raw file of `size` bytes, sparse or with the given bytes."""
        path = self.dir / name
        with open(path, "wb") as file:
            if fill is not None:
                file.write(fill)
            file.truncate(size)
        return path

    def random_bytes(self, size):
        """Like a disk in use: random data and some empty places."""
        blocks = []
        for start in range(0, size, 64 * 1024):
            length = min(64 * 1024, size - start)
            blocks.append(bytes(length) if self.rng.random() < 0.3 else self.random_piece(length))
        return b"".join(blocks)

    def random_piece(self, length):
        """Random bytes, 2 MiB at most, from a random place of a pool, as to make new ones takes long: pieces share bytes, not places."""
        if self.pool is None:
            self.pool = self.rng.randbytes(4 * MIB)
        start = self.rng.randrange(2 * MIB)
        return self.pool[start : start + length]

    def service(self, *options, name="service", **named):
        return Service(self, name=name, options=options, **named).start()

    def agent(self, service, *volumes, **named):
        return Agent(self, service, *volumes, **named).start()

    def hanging_syncs(self):
        """For spawn(), and a file: while it is there, the daemon's syncs hang (hung_sync.cc)."""
        library = os.environ.get("UNDERSTUDY_HUNG_SYNC_LIBRARY")
        if library is None:
            self.skipTest("UNDERSTUDY_HUNG_SYNC_LIBRARY is not set")
        hang = self.dir / "hang"
        return {"LD_PRELOAD": library, "UNDERSTUDY_HUNG_SYNC": str(hang)}, hang

    def read_disk(self, uri):
        """The bytes of a whole export, read by nbdcopy."""
        target = self.dir / "read.tmp"
        nbdcopy(uri, target)
        content = target.read_bytes()
        target.unlink()
        return content

    def assert_bytes(self, found, expected, what):
        """Equality of disks, with the first difference instead of megabytes of output."""
        self.assertEqual(len(found), len(expected), f"{what}: length")
        if found == expected:
            return
        for start in range(0, len(expected), 512):
            if found[start : start + 512] != expected[start : start + 512]:
                different = sum(
                    found[i : i + 512] != expected[i : i + 512] for i in range(0, len(expected), 512)
                )
                self.fail(
                    f"{what}: {different} sectors differ, the first at byte {start}: "
                    f"{found[start:start + 16].hex()} instead of {expected[start:start + 16].hex()}"
                )

    def assert_export(self, uri, expected, what):
        copy = self.dir / "read.tmp"
        nbdcopy(uri, copy)
        self.assert_file(copy, expected, what)
        copy.unlink()

    def assert_export_is_file(self, uri, path, what):
        """As assert_export(), for disks that are large and mostly empty."""
        copy = self.dir / "read.tmp"
        nbdcopy(uri, copy)
        difference = first_difference(copy, path)
        copy.unlink()
        self.assertIsNone(difference, f"{what}: the first byte in which {uri} is not {path}")

    def assert_file(self, path, expected, what):
        # By MiB: to get memory for all of a large disk takes longer than to read it.
        part = bytearray(MIB)
        with open(path, "rb", buffering=0) as file:
            self.assertEqual(file.seek(0, os.SEEK_END), len(expected), f"{what}: length")
            for start in range(0, len(expected), MIB):
                length = os.preadv(file.fileno(), [part], start)
                self.assert_bytes(part[:length], expected[start : start + MIB], f"{what}, from byte {start}")

    def assert_refused(self, answer, code, text):
        """The call failed with `error: CODE: ...text...` on standard error, printed nothing else and exited with 1."""
        self.assertEqual(answer.status, 1, answer.out + answer.error)
        self.assertTrue(answer.error.startswith(f"error: {code}: "), answer.error)
        self.assertIn(text, answer.error)
        self.assertEqual(answer.out, "")

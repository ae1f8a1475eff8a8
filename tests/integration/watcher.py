"""understudyctl watch beside a test."""

import json
import signal
import subprocess
import threading

import lib


class Watcher:
    """understudyctl --json watch in a process of its own; `objects` grows as it prints."""

    def __init__(self, case, address, *words, timeout="60s"):
        self.objects = []
        self.process = subprocess.Popen(
            [lib.CTL, "--server", address, "--json", "--timeout", timeout, "watch", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        case.addCleanup(self.kill)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line.endswith("\n"):  # the last one of a killed process may be cut
                self.objects.append(json.loads(line))

    def wait(self, condition, what):
        """The first object that the condition likes."""
        return lib.wait_for(lambda: next((o for o in list(self.objects) if condition(o)), None), what)

    def wait_kind(self, kind, **fields):
        return self.wait(
            lambda o: o["kind"] == kind and all(o[key] == value for key, value in fields.items()), f"{kind} {fields}"
        )

    def kinds(self):
        return [o["kind"] for o in list(self.objects)]

    @property
    def token(self):
        return [o["resume_token"] for o in self.objects if o["resume_token"]][-1]

    def interrupt(self):
        """As Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self._end()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self._end()

    def _end(self):
        status = self.process.wait(lib.PATIENCE_SECONDS)
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return status

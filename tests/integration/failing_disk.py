"""A disk that fails when it is told to: a file whose writes, syncs and zeroes fail with EIO while break_now() lasts.

    backing file <- nbdkit --filter=error <- nbdfuse, which shows it as a file again [<- a loop device]

Reads go on working unless `reads_too`. Needs root, /dev/fuse and nbdfuse (libnbd-bin): why_not() says what is missing.
"""

import os
import shutil
import subprocess

import lib


class FailingDisk:
    def __init__(self, case, name, size, image=None, reads_too=False):
        self.backing = case.disk(f"{name}.backing", size, image)
        self._switch = case.dir / f"{name}.broken"
        self.path = case.dir / f"{name}.fuse"
        self.path.touch()
        socket, listening = case.dir / f"{name}.sock", case.dir / f"{name}.pid"
        rates = ["error-rate=100%"] + ([] if reads_too else ["error-pread-rate=0%"])
        self._processes = [
            subprocess.Popen(
                ["nbdkit", "-f", "-U", socket, "-P", listening, "--filter=error", "file", self.backing, f"error-file={self._switch}", *rates],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        ]  # fmt: skip
        lib.wait_for(listening.exists, "nbdkit")  # the socket is there before anybody listens
        self._processes.append(
            subprocess.Popen(
                ["nbdfuse", self.path, f"nbd+unix:///?socket={socket}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )
        case.before_removal.append(self.close)
        lib.wait_for(lambda: self.path.stat().st_size == size, "nbdfuse")

    def break_now(self):
        self._switch.touch()

    def heal(self):
        self._switch.unlink()

    def close(self):
        try:
            # The kernel may not have closed it yet for a daemon that was killed while its disk failed.
            lib.wait_for(lambda: lib.run("umount", self.path, check=False).returncode == 0, f"{self.path} to be unmounted")
        finally:
            for process in reversed(self._processes):
                process.terminate()
                process.wait()


def why_not():
    """What is missing here for a FailingDisk; empty: nothing."""
    if shutil.which("nbdfuse") is None:
        return "nbdfuse is not installed"
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        return "a FUSE mount needs root and /dev/fuse"
    return ""

"""A real Linux guest under QEMU: Debian's kernel, an initramfs of busybox and guest_init.sh, and a serial port to talk over.

It is emulated, up in some seconds: a machine may have /dev/kvm and hang when it is used.
"""

import lzma
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading

import lib

QEMU = "qemu-system-x86_64"
INIT = pathlib.Path(__file__).with_name("guest_init.sh")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "understudy" / "guest"
# What the guest needs of the kernel's modules, beside what they depend on; a kernel may have some built in.
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")


class Kernel:
    """The newest kernel under one root directory that has what the guest needs."""

    def __init__(self, root):
        found = [path for path in (root / "boot").glob("vmlinuz-*") if os.access(path, os.R_OK)]
        self.image = max(found, key=lambda path: [int(word) for word in re.findall(r"\d+", path.name)], default=None)
        self.modules = {}
        if self.image is None:
            return
        version = self.image.name.removeprefix("vmlinuz-")
        for base in (root / "lib/modules", root / "usr/lib/modules"):
            for path in (base / version / "kernel").rglob("*.ko*"):
                self.modules[path.name.split(".")[0].replace("-", "_")] = path

    def module(self, name):
        path = self.modules[name]
        return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()

    def insert_order(self):
        """The modules that the guest needs, each behind those it depends on."""
        order = []

        def add(name):
            if name in order or name not in self.modules:
                return
            depends = re.search(rb"\0depends=([^\0]*)\0", self.module(name))
            for needed in filter(None, depends.group(1).decode().replace("-", "_").split(",")):
                add(needed)
            order.append(name)

        for name in MODULES:
            add(name)
        return order


def roots():
    """Where kernel and busybox may be: what deploy/install-deps.sh --tests has unpacked, or the running system."""
    return [pathlib.Path(os.environ["UNDERSTUDY_GUEST"])] if "UNDERSTUDY_GUEST" in os.environ else [CACHE, pathlib.Path("/")]


def find_kernel():
    return next((kernel for kernel in map(Kernel, roots()) if kernel.image and "virtio_blk" in kernel.modules), None)


def find_busybox():
    return next((path for path in (root / "bin/busybox" for root in roots()) if path.exists()), None)


def skip_without_guest():
    """Ends the test program with "skipped" when there is no guest to boot."""
    missing = [
        what
        for what, found in (("linux-image-cloud-amd64", find_kernel()), ("busybox-static", find_busybox()))
        if found is None
    ]
    if missing:
        print("skipped, no guest to boot:", *missing, "(deploy/install-deps.sh --tests unpacks them)")
        sys.exit(lib.SKIPPED)


# ---- the initramfs ------------------------------------------------------------------------------------------------------------


def cpio(files):
    """An archive in the format `newc`, of (name, mode, content)."""
    archive = bytearray()

    def pad():
        archive.extend(bytes(-len(archive) % 4))

    for number, (name, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")]):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        pad()
        archive.extend(content)
        pad()
    return bytes(archive)


def with_libraries(path):
    """A program and the shared libraries that it needs, each where the program expects it."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    return [path, *re.findall(r"(/\S+) \(0x", listed)]


def initramfs(kernel):
    """Everything the guest has: busybox, e2fsck, the modules, and guest_init.sh as /init."""
    files = {"init": INIT.read_bytes(), "bin/busybox": find_busybox().read_bytes()}
    for path in with_libraries(shutil.which("e2fsck")):
        files[str(path).lstrip("/")] = pathlib.Path(path).read_bytes()
    for path in with_libraries(str(find_busybox()))[1:]:
        files[path.lstrip("/")] = pathlib.Path(path).read_bytes()
    order = kernel.insert_order()
    files.update({f"modules/{name}.ko": kernel.module(name) for name in order})
    files["modules/order"] = "".join(f"{name}\n" for name in order).encode()
    folders = {"dev"} | {str(parent) for name in files for parent in pathlib.Path(name).parents if str(parent) != "."}
    entries = [(folder, 0o40755, b"") for folder in sorted(folders)]
    return cpio(entries + [(name, 0o100755, content) for name, content in files.items()])


# ---- the machine --------------------------------------------------------------------------------------------------------------


class Guest:
    """A guest on NBD exports, /dev/vda and so on in their order. `acks` are the records it has acknowledged so far."""

    def __init__(self, case, name, disks):
        """`disks`: (NBD socket, export name)."""
        kernel = find_kernel()
        archive = case.dir / f"{name}.initramfs"
        archive.write_bytes(initramfs(kernel))
        serial = case.dir / f"{name}.serial"
        command = [
            QEMU, "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot", "-no-user-config",
            "-kernel", kernel.image, "-initrd", archive, "-append", "console=ttyS0 panic=-1 random.trust_cpu=on",
            "-serial", f"file:{case.dir / name}.console.log",
            "-chardev", f"socket,id=control,path={serial},server=on,wait=on", "-serial", "chardev:control",
        ]  # fmt: skip
        for number, (nbd_socket, export) in enumerate(disks):
            node = f"driver=nbd,node-name=disk{number},server.type=unix,server.path={nbd_socket},export={export}"
            command += ["-blockdev", f"{node},discard=unmap,reconnect-delay=10", "-device", f"virtio-blk-pci,drive=disk{number}"]
        self.daemon = lib.Daemon(name, command, case.dir / f"{name}.log", "")
        case.daemons.append(self.daemon)
        self.console = case.dir / f"{name}.console.log"
        self.acks = []
        self._answers = []
        self._ended = False
        self._changed = threading.Condition()
        self.socket = lib.wait_for(lambda: self._connected(serial), f"{name}'s serial port")
        case.addCleanup(self.socket.close)
        threading.Thread(target=self._read, daemon=True).start()
        (line,) = self._take(lambda line: line.startswith("ready "))
        self.kernel_version = line.split()[1]

    def _connected(self, path):
        assert self.daemon.running, self.daemon.log()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            return None
        return connection

    def _read(self):
        try:
            with self.socket.makefile("r", errors="replace") as lines:
                for line in lines:
                    self._arrived(line.rstrip("\r\n"))
        except OSError:
            pass  # a guest that was killed
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _arrived(self, line):
        with self._changed:
            if line.startswith("ack "):
                self.acks.append(line.removeprefix("ack "))
            else:
                self._answers.append(line)
            self._changed.notify_all()

    def _take(self, last):
        """Takes the lines up to the one that is `last`."""

        def found():
            return self._ended or any(map(last, self._answers))

        with self._changed:
            in_time = self._changed.wait_for(found, lib.PATIENCE_SECONDS)
            taken = self._answers
            if not in_time or not any(map(last, taken)):
                raise AssertionError(f"{self.daemon.name} does not answer; it said {taken[-20:]}, {self.console_log()[-2000:]}")
            end = next(number for number, line in enumerate(taken) if last(line)) + 1
            self._answers = taken[end:]
            return taken[:end]

    def run(self, command, status=0):
        """Runs a command of the guest's shell to its end; returns the lines it printed."""
        self.socket.sendall(command.encode() + b"\n")
        *lines, end = self._take(lambda line: line.startswith("done "))
        if int(end.split()[1]) != status:
            raise AssertionError(f"{command} ended with {end}: {lines}")
        return lines

    def console_log(self):
        """What the kernel has said."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def power_off(self):
        """After the file systems have been unmounted; waits for QEMU's end."""
        self.socket.sendall(b"poweroff -f\n")
        self.daemon.process.wait(lib.PATIENCE_SECONDS)

    def kill(self):
        self.daemon.kill()

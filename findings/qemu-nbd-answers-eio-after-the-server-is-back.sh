#!/usr/bin/env bash
# Debian 12: qemu-system-x86 1:7.2+dfsg-7+deb12u18, nbdkit 1.32.5.
#
# One would expect a guest's requests to work again as soon as its NBD server is back. With
# `reconnect-delay` they wait that long, and when it has passed QEMU answers EIO until its next try
# to connect: tries come after 1, 2, 4, 8 and then every 16 seconds, whatever requests come
# meanwhile. So a server that was away for 8 s is used again after 15, and one that was away for
# long up to 16 s after it is back. A guest takes the EIO for a dead disk. With
# rerror=stop,werror=stop at the device QEMU pauses the VM instead, and each `cont` sends the
# requests again; it is "running" for a moment each time before it stops again.
#
# Output seen: "with the server away: io-error", "the server is back; cont works N s later" with N
# from 4 to 9. Needs: bash, python3, qemu-system-x86_64, nbdkit. Takes 20 s. Exits with 1 when the
# behaviour has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > try.py <<'CODE'
import json, os, socket, subprocess, sys, time


def server():
    process = subprocess.Popen(["nbdkit", "-f", "-U", "nbd", "memory", "1M"])
    while not os.path.exists("nbd"):
        time.sleep(0.05)
    return process


def end(process):
    process.kill()
    process.wait()


def call(command):
    qmp.write(json.dumps({"execute": command}) + "\n")
    qmp.flush()
    while "event" in (answer := json.loads(qmp.readline())):
        pass
    return answer["return"]


def stays(status):
    """The firmware reads the disk at once, and again and again."""
    if call("query-status")["status"] != status:
        return False
    time.sleep(1)
    return call("query-status")["status"] == status


first = server()
qemu = subprocess.Popen([
    "qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-S", "-qmp", "unix:qmp,server=on,wait=off",
    "-blockdev", "driver=nbd,node-name=vda,server.type=unix,server.path=nbd,reconnect-delay=1",
    "-device", "virtio-blk-pci,drive=vda,bootindex=1,werror=stop,rerror=stop",
])
while not os.path.exists("qmp"):
    time.sleep(0.05)
connection = socket.socket(socket.AF_UNIX)
connection.connect("qmp")
qmp = connection.makefile("rw")
qmp.readline()
call("qmp_capabilities")

end(first)
os.unlink("nbd")
call("cont")
gone = time.monotonic()
while not stays("io-error"):
    assert time.monotonic() - gone < 7, "EIO was not answered"
print("with the server away: io-error")
time.sleep(gone + 8.5 - time.monotonic())
second = server()
back = time.monotonic()
while not stays("running"):
    assert time.monotonic() - back < 60, "it never works again"
    call("cont")
    time.sleep(0.2)
seconds = time.monotonic() - 1 - back
print(f"the server is back; cont works {seconds:.0f} s later")
end(qemu)
end(second)
sys.exit(seconds < 4)
CODE
python3 try.py

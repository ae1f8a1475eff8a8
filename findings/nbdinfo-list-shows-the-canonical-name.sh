#!/usr/bin/env bash
# Debian 12: libnbd-bin 1.14.2-1.
#
# One would expect `nbdinfo --list` to print the names that the server lists: they are what one
# connects to. It asks for each listed name, and where the server answers with a canonical name of
# its own (NBD_INFO_NAME, which the protocol allows to differ from the asked one) it prints that one
# and drops the listed one. So of an export that has two names, "vda" and "vm1/vda", it shows one
# name twice, and a script that reads its JSON never learns the other. What it prints may even be a
# name under which the server exports nothing.
#
# Output seen: "listed: alias, disk; nbdinfo shows: disk, disk". Needs: bash, python3, nbdinfo.
# Takes 1 s. Exits with 1 when the behaviour has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "$server" 2> /dev/null || true; rm -rf "$work"' EXIT
cd "$work"
cat > server.py <<'CODE'
"""An NBD server's handshake: two names of one empty export, whose canonical name is the second."""
import socket, struct, threading

NAMES, CANONICAL, SIZE = [b"alias", b"disk"], b"disk", 1 << 20


def receive(client, length):
    data = b""
    while len(data) < length:
        part = client.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def serve(client):
    def reply(option, kind, data=b""):
        client.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data)

    client.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
    receive(client, 4)
    while True:
        _, option, length = struct.unpack(">QII", receive(client, 16))
        data = receive(client, length)
        if option == 2:  # ABORT
            return reply(option, 1)
        if option == 3:  # LIST
            for name in NAMES:
                reply(option, 2, struct.pack(">I", len(name)) + name)
            reply(option, 1)
        elif option in (6, 7):  # INFO, GO
            reply(option, 3, struct.pack(">HQH", 0, SIZE, 1))
            reply(option, 3, struct.pack(">H", 1) + CANONICAL)
            reply(option, 1)
            if option == 7:
                return receive(client, 28)  # the good-bye
        else:
            reply(option, (1 << 31) + 1)


def run(client):
    with client:
        try:
            serve(client)
        except (EOFError, ConnectionError):
            pass


listener = socket.socket(socket.AF_UNIX)
listener.bind("nbd")
listener.listen()
while True:
    threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()
CODE
python3 server.py &
server=$!
for _ in $(seq 100); do [[ -S nbd ]] && break; sleep 0.05; done
shown=$(nbdinfo --list --json "nbd+unix:///?socket=$work/nbd" |
  python3 -c 'import json, sys; print(", ".join(e["export-name"] for e in json.load(sys.stdin)["exports"]))')
echo "listed: alias, disk; nbdinfo shows: $shown"
[[ $shown == "disk, disk" ]]

"""NBD clients that mean harm, or are broken: what they send ends their own connection only, what they hold is bounded, and the log
names them. Meanwhile a client of another group (at the agent: of another volume) reads and writes."""

import os
import socket
import struct
import subprocess
import threading
import time

import lib
import nbd
from lib import MIB

DISK = 64 * MIB
OF_A_PROCESS = 256  # connections; proto/nbd/server.h


def header(command, length, magic=nbd.REQUEST_MAGIC, offset=0, cookie=1):
    return struct.pack(">IHHQQI", magic, 0, command, cookie, offset, length)


def option(number, data, length=None):
    return nbd.OPTION_MAGIC + struct.pack(">II", number, len(data) if length is None else length) + data


class Hostile:
    """The tests; `self.attacked`: the daemon's end, whose vm1/vda they use; `self.victim`: a connection to another disk."""

    def connect(self):
        """A socket, before the handshake."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.attacked.nbd_socket))  # waits while the backlog is full
        connection.settimeout(lib.PATIENCE_SECONDS)
        self.addCleanup(connection.close)
        return connection

    def assert_others_are_served(self):
        data = self.rng.randbytes(64 * 1024)
        self.victim.write(MIB, data)
        self.assertEqual(self.victim.read(MIB, len(data)), data)
        self.assertTrue(self.attacked.daemon.running)

    def assert_ended(self, connection, why, text, seconds=lib.PATIENCE_SECONDS):
        """The server has closed it, and one line says why."""
        connection.settimeout(seconds)
        try:
            while connection.recv(1 << 20):
                pass
        except ConnectionResetError:
            pass
        lines = lib.wait_for(lambda: self.attacked.daemon.events("nbd_client_ended")[self.lines_before :], "the log line")
        self.assertEqual(len(lines), 1, lines)
        self.assertEqual((lines[0]["why"], int(lines[0]["pid"]), int(lines[0]["uid"])), (why, os.getpid(), os.getuid()))
        self.assertIn(text, lines[0]["reason"])

    @property
    def lines_before(self):
        return self._lines

    def mark_log(self):
        self._lines = len(self.attacked.daemon.events("nbd_client_ended"))

    def test_what_is_no_nbd_ends_its_connection(self):
        for what, sent, text in (
            ("client flags", struct.pack(">I", 1 << 20), "flags"),
            ("no option", struct.pack(">I", 3) + b"GET / HTTP/1.1\r\n", "magic"),
            ("a huge option", struct.pack(">I", 3) + option(nbd.OPTION_GO, b"", 0xFFFFFFFF), "4294967295"),
        ):
            with self.subTest(what):
                self.mark_log()
                connection = self.connect()
                connection.sendall(sent)
                self.assert_ended(connection, "protocol_error", text)
                self.assert_others_are_served()
        for what, sent, text in (
            ("no request", b"\x00" * 28, "begins with"),
            ("a simple reply", struct.pack(">IIQ", nbd.REPLY_MAGIC, 0, 0) + b"\x00" * 12, "begins with"),
            ("a huge write", header(nbd.WRITE, 0xFFFFFE00), "4294966784"),
        ):
            with self.subTest(what):
                self.mark_log()
                disk = self.attacked.connect()
                disk.socket.sendall(sent)
                self.assert_ended(disk.socket, "protocol_error", text)
                self.assert_others_are_served()
        ends = self.attacked.metric("understudy_nbd_disconnects_total", reason="protocol_error")
        self.assertEqual(ends, 6)

    def test_a_handshake_takes_ten_seconds_at_most(self):
        """Of who says nothing, and of who says a byte now and then."""
        begun = time.monotonic()
        silent, trickling = self.connect(), self.connect()

        def trickle():
            try:
                for byte in struct.pack(">I", 3) + option(nbd.OPTION_GO, b"\x00" * 4096):
                    trickling.send(bytes([byte]))
                    time.sleep(0.5)
            except OSError:
                pass

        threading.Thread(target=trickle, daemon=True).start()
        for connection in (silent, trickling):
            try:
                while connection.recv(1 << 20):
                    pass
            except ConnectionResetError:
                pass
        self.assertGreater(time.monotonic() - begun, 9)
        lines = lib.wait_for(lambda: self.attacked.daemon.events("nbd_client_ended")[1:], "the log lines")
        for line in self.attacked.daemon.events("nbd_client_ended"):
            self.assertEqual((line["why"], int(line["pid"]), line["reason"]), ("slow", os.getpid(), "the handshake takes too long"))
        self.assertEqual(len(lines), 1)
        self.assert_others_are_served()

    def send_until_full(self, disk, chunk):
        """How many chunks the server took before it read no more for a second."""
        disk.socket.settimeout(1)
        count = 0
        while count < 100_000:
            try:
                disk.socket.sendall(chunk)
            except TimeoutError:
                break
            count += 1
        return count

    def test_who_never_reads_is_read_no_more(self):
        before = self.attacked.daemon.resident_bytes
        self.victim.write(0, self.rng.randbytes(32 * MIB))
        readers = self.attacked.connect()
        readers.write(0, self.rng.randbytes(32 * MIB))
        self.assertLess(self.send_until_full(readers, header(nbd.READ, MIB)), 20_000)  # headers, as many as a socket holds
        writer = self.attacked.connect()
        self.assertLess(self.send_until_full(writer, header(nbd.WRITE, 4096) + b"x" * 4096), 5_000)
        self.assert_others_are_served()
        self.assertLess(self.attacked.metric("understudy_nbd_held_bytes"), 66 * MIB)
        self.assertLess(self.attacked.daemon.resident_bytes - before, 256 * MIB)

    def test_a_payload_that_never_comes_holds_no_one_up(self):
        """More of them than there is memory for: who waits for it has those ended that let it wait."""
        for _ in range(20):
            disk = self.attacked.connect()
            disk.socket.sendall(header(nbd.WRITE, 32 * MIB))
        self.assert_others_are_served()
        self.mark_log()
        data = self.rng.randbytes(32 * MIB)
        self.victim.request(nbd.WRITE, 0, len(data), data)
        self.assertEqual(self.victim.read(0, len(data)), data)
        lines = self.attacked.daemon.events("nbd_client_ended")
        self.assertGreater(len(lines), 0)
        self.assertEqual({line["why"] for line in lines}, {"slow"})

    def test_who_says_good_bye_and_takes_no_answers_holds_no_one_up(self):
        reader = self.attacked.connect()
        reader.write(0, self.rng.randbytes(32 * MIB))
        silent = [self.attacked.connect() for _ in range(20)]
        for disk in silent:
            disk.socket.sendall(2 * header(nbd.READ, 31 * MIB) + header(nbd.DISCONNECT, 0))
        self.assert_others_are_served()
        data = self.rng.randbytes(32 * MIB)
        self.victim.request(nbd.WRITE, 0, len(data), data)
        self.assertEqual(self.victim.read(0, len(data)), data)
        for disk in silent:
            disk.socket.close()
        lib.wait_for(lambda: self.attacked.metric("understudy_nbd_held_bytes") == 0, "the memory to be given back")
        self.victim.request(nbd.WRITE, 0, 2 * MIB, data[: 2 * MIB])

    def test_who_reads_a_byte_at_a_time_hurts_nobody(self):
        before = self.attacked.daemon.resident_bytes
        slow = self.attacked.connect()
        slow.write(0, self.rng.randbytes(32 * MIB))
        for cookie in range(8):
            slow.socket.sendall(header(nbd.READ, 32 * MIB, cookie=cookie))
        for _ in range(20):
            slow.socket.recv(1)
            self.assert_others_are_served()
        self.assertLess(self.attacked.metric("understudy_nbd_held_bytes"), 66 * MIB)
        self.assertLess(self.attacked.daemon.resident_bytes - before, 256 * MIB)
        self.assertEqual(len(slow._receive(8 * (16 + 32 * MIB) - 20)), 8 * (16 + 32 * MIB) - 20)  # patience is no error

    def test_who_sends_no_more_still_gets_its_answers(self):
        disk = self.attacked.connect()
        data = self.rng.randbytes(4096)
        disk.socket.sendall(b"".join(header(nbd.WRITE, 4096, offset=i * 4096, cookie=i) + data for i in range(64)))
        disk.socket.sendall(header(nbd.FLUSH, 0, cookie=64))
        disk.socket.shutdown(socket.SHUT_WR)
        answers = disk._receive(65 * 16)
        self.assertEqual(disk.socket.recv(1), b"", "it is closed after the last one")
        self.assertEqual(sorted(struct.unpack_from(">IIQ", answers, 16 * i)[1:] for i in range(65)), [(0, i) for i in range(65)])
        self.assertEqual(self.attacked.connect().read(0, 64 * 4096), 64 * data)
        self.assertEqual(self.attacked.metric("understudy_nbd_disconnects_total", reason="vanished"), 0)

    def test_a_thousand_connections(self):
        before = self.attacked.daemon.resident_bytes
        connections = [self.connect() for _ in range(1000)]
        greeted = 0
        for connection in connections:
            try:
                greeted += len(connection.recv(18)) == 18
            except ConnectionResetError:
                pass
        self.assertEqual(greeted, OF_A_PROCESS - 1)  # one is the victim's
        self.assert_others_are_served()
        self.assertLess(self.attacked.daemon.resident_bytes - before, 64 * MIB)
        # Another process still gets in.
        done = subprocess.run(["qemu-io", "-f", "raw", self.attacked.uri(), "-c", "write -P 3 0 4k"], capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = self.attacked.daemon.events("nbd_client_ended")
        self.assertEqual({line["why"] for line in lines}, {"refused"})
        self.assertLessEqual(len(lines), 20)  # a minute
        self.assertIn(f"the process has {OF_A_PROCESS} connections", lines[0]["reason"])
        for connection in connections:
            connection.close()
        lib.wait_for(lambda: self.attacked.metric("understudy_nbd_connections") == 1, "the connections to end")


class AtTheServiceTest(Hostile, lib.Case):
    def setUp(self):
        super().setUp()
        self.attacked = self.service()
        for group in ("vm1", "vm2"):
            self.attacked.start_group(f"vda,disk={self.disk(group, DISK)}", group=group)
        self.victim = self.attacked.connect(group="vm2")


class AtTheAgentTest(Hostile, lib.Case):
    def setUp(self):
        super().setUp()
        service = self.service()
        service.start_group(*(f"{name},disk={self.disk(f's-{name}', DISK)}" for name in ("vda", "vdb")))
        volumes = (f"{name},disk={self.disk(f'p-{name}', DISK)}" for name in ("vda", "vdb"))
        self.attacked = self.agent(service, *volumes).wait_connected()
        self.victim = self.attacked.connect("vdb")


if __name__ == "__main__":
    lib.run_tests("qemu-io", at_once=3)

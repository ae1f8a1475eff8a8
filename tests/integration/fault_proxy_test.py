"""The proxy that the fault tests rely on does what it says."""

import socket
import threading
import time
import unittest

import lib
from fault_proxy import FaultProxy


class EchoServer:
    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(client,), daemon=True).start()

    def _echo(self, client):
        try:
            while data := client.recv(65536):
                client.sendall(data)
        except OSError:
            pass
        client.close()

    def close(self):
        self.socket.close()


class FaultProxyTest(unittest.TestCase):
    def setUp(self):
        self.server = EchoServer()
        self.addCleanup(self.server.close)
        self.proxy = FaultProxy(self.server.address, lib.SEED).__enter__()
        self.addCleanup(self.proxy.__exit__)

    def connect(self):
        host, port = self.proxy.address.split(":")
        client = socket.create_connection((host, int(port)), timeout=10)
        self.addCleanup(client.close)
        return client

    def receive(self, client, length):
        data = b""
        while len(data) < length:
            part = client.recv(length - len(data))
            self.assertTrue(part, "the connection was closed")
            data += part
        return data

    def assert_echoes(self, client, data=b"hello" * 20000):
        client.sendall(data)
        self.assertEqual(self.receive(client, len(data)), data)

    def fastest_echo(self, client, *data):
        """In seconds, of five: a busy machine is slow now and then."""
        times = []
        for _ in range(5):
            begun = time.monotonic()
            self.assert_echoes(client, *data)
            times.append(time.monotonic() - begun)
        return min(times)

    def assert_silent(self, client):
        client.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            client.recv(1)
        client.settimeout(10)

    def test_passes_everything_on_and_the_end_too(self):
        client = self.connect()
        self.assert_echoes(client)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(client.recv(1), b"")

    def test_a_limit_is_bandwidth_not_latency(self):
        self.proxy.limit(4 << 20)
        client = self.connect()
        self.assertLess(self.fastest_echo(client), 1)
        sender = threading.Thread(target=client.sendall, args=(bytes(4 << 20),))
        begun = time.monotonic()
        sender.start()
        self.receive(client, 4 << 20)
        self.assertGreater(time.monotonic() - begun, 0.9)
        sender.join()

    def test_a_delay_is_latency_not_bandwidth(self):
        client = self.connect()
        self.assert_echoes(client)
        self.proxy.delay(0.1)
        taken = self.fastest_echo(client, b"x" * (1 << 20))
        self.assertGreaterEqual(taken, 0.2)
        self.assertLess(taken, 2)

    def test_a_stall_holds_bytes_and_loses_none(self):
        client = self.connect()
        self.assert_echoes(client)
        self.proxy.stall()
        client.sendall(b"held")
        self.assert_silent(client)
        self.proxy.resume()
        self.assertEqual(self.receive(client, 4), b"held")

    def test_a_cut_resets_and_a_new_connection_works(self):
        client = self.connect()
        self.assert_echoes(client)
        self.proxy.cut()
        with self.assertRaises(ConnectionResetError):
            while client.recv(1):
                pass
        self.assert_echoes(self.connect())

    def test_a_dropped_connection_swallows_everything_and_a_new_one_works(self):
        client = self.connect()
        self.assert_echoes(client)
        self.proxy.drop()
        client.sendall(b"gone")
        self.assert_silent(client)
        self.assert_echoes(self.connect())
        self.assert_silent(client)

    def test_a_hung_connection_takes_nothing_and_a_new_one_works(self):
        client = self.connect()
        self.assert_echoes(client)
        self.proxy.hang()
        client.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            client.sendall(bytes(64 << 20))
        self.assert_echoes(self.connect())

    def test_refused_connections_are_reset(self):
        self.proxy.refuse(True)
        with self.assertRaises(ConnectionError):
            client = self.connect()
            client.sendall(b"x")
            if not client.recv(1):
                raise ConnectionError("closed")
        self.proxy.refuse(False)
        self.assert_echoes(self.connect())

    def test_damage_changes_one_byte(self):
        for from_client in (True, False):
            with self.subTest(from_client=from_client):
                self.check_damage(from_client)

    def check_damage(self, from_client):
        client = self.connect()
        self.proxy.damages.clear()
        self.proxy.damage(bytes_between=100000, not_before=4096, from_client=from_client)
        sent = bytes(200000)
        client.sendall(sent)
        received = self.receive(client, len(sent))
        (damage,) = self.proxy.damages
        self.assertEqual([i for i, byte in enumerate(received) if byte], [damage.position])
        self.assertGreaterEqual(damage.position, 4096)
        self.assert_echoes(client)


if __name__ == "__main__":
    lib.run_tests()

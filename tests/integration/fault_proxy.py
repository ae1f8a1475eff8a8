"""A TCP proxy that does to a connection what networks do: delay, be slow, stall, cut, go silent, damage a byte. It never reorders.

    with FaultProxy(target="unix:/run/standby.sock") as proxy:   # target: host:port or unix:/path
        agent = start_agent(server=proxy.address)                # 127.0.0.1 and a free port
        proxy.delay(0.02)

It runs in a thread of its own; its methods may be called from any other. Standard library only.
"""

import asyncio
import collections
import random
import socket
import struct
import threading

CHUNK_BYTES = 64 << 10
# What may be on its way in one direction of a connection; then the sender is held up, as by a full socket buffer.
IN_FLIGHT_CHUNKS = 64

# A byte that was changed: how far into its direction of its connection, and the connection's number.
Damage = collections.namedtuple("Damage", "connection position")


class _Connection:
    def __init__(self, number):
        self.number = number
        self.writers = []
        self.silent = False
        self.hung = False
        self.sent_bytes = {True: 0, False: 0}  # by whether they are the client's
        self.end = asyncio.Event()


class FaultProxy:
    def __init__(self, target, seed=0):
        self.target = target
        self.damages = []  # in order
        self.accepted = 0  # connections so far
        self.address = None
        self._random = random.Random(seed)
        self._delay_seconds = 0
        self._bytes_per_second = 0  # 0: no limit
        self._damage_wanted = 0  # so many bytes on, counted from 1; 0: nowhere
        self._damage_after = 0
        self._damage_from_client = True
        self._refusing = False
        self._connections = set()
        self._tasks = set()  # asyncio itself holds them only weakly
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    # ---- from outside -------------------------------------------------------------------------------------------------------------

    def __enter__(self):
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_):
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, seconds):
        """Each byte arrives that much later, in both directions; order and bandwidth stay."""
        self._call(self._set("_delay_seconds", seconds))

    def limit(self, bytes_per_second):
        """Bandwidth of each direction of each connection; 0: no limit."""
        self._call(self._set("_bytes_per_second", bytes_per_second))

    def stall(self):
        """Nothing arrives any more, nothing is lost; until resume()."""
        self._call(self._pass(False))

    def resume(self):
        self._call(self._pass(True))

    def cut(self):
        """Every connection is reset, at both ends; what is on its way is lost. New ones are taken."""
        self._call(self._cut())

    def drop(self):
        """Every connection goes silent: it swallows all that is sent and is never closed. New ones work."""
        self._call(self._drop())

    def hang(self):
        """As drop(), but nothing is taken any more either, so that the senders' buffers fill: a host that is cut off."""
        self._call(self._drop(hung=True))

    def refuse(self, refusing):
        """New connections are reset at once, or are taken again."""
        self._call(self._set("_refusing", refusing))

    def damage(self, bytes_between=256 << 10, not_before=0, from_client=True):
        """Changes one byte of what a client sends, or is sent, at a random place of the next `bytes_between`, but not in the first
        `not_before` of its connection. `damages` says when it has happened."""
        self._call(self._want_damage(bytes_between, not_before, from_client))

    # ---- in the loop --------------------------------------------------------------------------------------------------------------

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self):
        self._passing = asyncio.Event()
        self._passing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def _stop(self):
        self._server.close()
        self._reset_all()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _set(self, name, value):
        setattr(self, name, value)

    async def _pass(self, passing):
        (self._passing.set if passing else self._passing.clear)()

    async def _cut(self):
        self._reset_all()

    async def _drop(self, hung=False):
        for connection in self._connections:
            connection.silent = True
            connection.hung = hung

    async def _want_damage(self, bytes_between, not_before, from_client):
        self._damage_from_client = from_client
        self._damage_wanted = 1 + self._random.randrange(bytes_between)
        self._damage_after = not_before

    def _reset_all(self):
        for connection in list(self._connections):
            self._reset(connection)

    def _reset(self, connection):
        connection.end.set()
        for writer in connection.writers:
            if writer.is_closing():
                continue
            raw = writer.get_extra_info("socket")
            if raw.family == socket.AF_INET:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _open_target(self):
        if self.target.startswith("unix:"):
            return await asyncio.open_unix_connection(self.target[len("unix:") :])
        host, _, port = self.target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _serve(self, client_reader, client_writer):
        self.accepted += 1
        connection = _Connection(self.accepted)
        connection.writers.append(client_writer)
        self._connections.add(connection)
        tasks = []
        self._tasks.add(asyncio.current_task())
        try:
            if self._refusing:
                return
            target_reader, target_writer = await self._open_target()
            connection.writers.append(target_writer)
            tasks = [
                *self._direction(connection, client_reader, target_writer, True),
                *self._direction(connection, target_reader, client_writer, False),
            ]
            # One end that has closed is told to the other; when either is reset, both are.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except (OSError, asyncio.CancelledError):
            pass  # the target is not there, a connection was reset, or the proxy ends
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._connections.discard(connection)
            self._tasks.discard(asyncio.current_task())
            self._reset(connection)

    def _direction(self, connection, reader, writer, from_client):
        queue = asyncio.Queue(IN_FLIGHT_CHUNKS)
        yield asyncio.ensure_future(self._receive(connection, reader, queue))
        yield asyncio.ensure_future(self._send(connection, queue, writer, from_client))

    async def _receive(self, connection, reader, queue):
        data = b"more"
        while data:
            if connection.hung:
                await connection.end.wait()
            data = await reader.read(CHUNK_BYTES)
            await queue.put((self._loop.time() + self._delay_seconds, data))

    async def _send(self, connection, queue, writer, from_client):
        free = 0  # when a limited line can take the next
        while True:
            due, data = await queue.get()
            if due > self._loop.time():
                await asyncio.sleep(due - self._loop.time())
            await self._passing.wait()
            if connection.silent:
                if not data:
                    await connection.end.wait()
                continue
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(self._spoil(connection, data, from_client))
            await writer.drain()
            if self._bytes_per_second:
                free = max(free, self._loop.time()) + len(data) / self._bytes_per_second
                await asyncio.sleep(free - self._loop.time())

    def _spoil(self, connection, data, from_client):
        at = connection.sent_bytes[from_client]
        connection.sent_bytes[from_client] += len(data)
        if not self._damage_wanted or from_client != self._damage_from_client or at < self._damage_after:
            return data
        if self._damage_wanted > len(data):
            self._damage_wanted -= len(data)
            return data
        index = self._damage_wanted - 1
        self._damage_wanted = 0
        spoilt = bytearray(data)
        spoilt[index] ^= self._random.randrange(1, 256)
        self.damages.append(Damage(connection.number, at + index))
        return bytes(spoilt)

"""A small NBD client (fixed newstyle, unix socket): one connection, one request at a time but for reads, every byte in the caller's hands.

For tests that need what a command line cannot give: connections that stay open over checkpoints and failovers, many requests
without a process for each, and disks as bytes. Anything a server answers but success is an OSError with the errno it sent.
Protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. Standard library only.
"""

import errno
import os
import socket
import struct

READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FUA, NO_HOLE = 1, 2
# What every server takes in one request (QEMU: no more).
REQUEST_BYTES_MAX = 32 << 20
# What a read of more is taken apart into: small enough for everybody's caches.
READ_BYTES = 1 << 20

OPTION_MAGIC, REQUEST_MAGIC, REPLY_MAGIC = b"IHAVEOPT", 0x25609513, 0x67446698
OPTION_GO = 7
REPLY_ACK, REPLY_INFO, REPLY_ERROR = 1, 3, 1 << 31
INFO_EXPORT = 0


class Disk:
    """An export that is open until close(). `size` is its length in bytes."""

    def __init__(self, socket_path, export, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(socket_path))
        self.cookie = 0
        try:
            self.size = self._negotiate(export.encode())
        except OSError:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _negotiate(self, export):
        if self._receive(16) != b"NBDMAGIC" + OPTION_MAGIC:
            raise ConnectionError("not a newstyle NBD server")
        self._receive(2)  # fixed newstyle, no zeroes: every server of today
        self.socket.sendall(struct.pack(">I", 3))
        data = struct.pack(">I", len(export)) + export + struct.pack(">H", 0)
        self.socket.sendall(OPTION_MAGIC + struct.pack(">II", OPTION_GO, len(data)) + data)
        size = None
        while True:
            _, _, kind, length = struct.unpack(">QIII", self._receive(20))
            payload = bytes(self._receive(length))
            if kind & REPLY_ERROR:
                raise ConnectionRefusedError(f"export {export.decode()}: {payload.decode(errors='replace')}")
            if kind == REPLY_INFO and payload[:2] == struct.pack(">H", INFO_EXPORT):
                size = struct.unpack(">Q", payload[2:10])[0]
            if kind == REPLY_ACK:
                return size

    def _receive(self, length):
        data = bytearray(length)
        self._receive_into(memoryview(data))
        return data

    def _receive_into(self, view):
        while view:
            count = self.socket.recv_into(view)
            if count == 0:
                raise ConnectionError("the NBD server closed the connection")
            view = view[count:]

    def request(self, command, offset=0, length=0, data=b"", flags=0):
        """Sends one request of any kind and waits for its answer; the data of a READ is still to be received when it returns."""
        self.cookie += 1
        header = struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, self.cookie, offset, length)
        self.socket.sendall(header + data if len(data) <= 65536 else header)
        if len(data) > 65536:
            self.socket.sendall(data)
        magic, error, cookie = struct.unpack(">IIQ", self._receive(16))
        if (magic, cookie) != (REPLY_MAGIC, self.cookie):
            raise ConnectionError("an answer to something else")
        if error:
            raise OSError(error, os.strerror(error))

    def read(self, offset=0, length=None):
        """`length` bytes, or all that follow."""
        data = bytearray(self.size - offset if length is None else length)
        for start in range(0, len(data), READ_BYTES):
            part = memoryview(data)[start : start + READ_BYTES]
            self.request(READ, offset + start, len(part))
            self._receive_into(part)
        return data

    def read_ranges(self, ranges):
        """The bytes of each (offset, length), in this order; all are asked for at once, whichever is answered first."""
        data = {}
        for offset, length in ranges:
            self.cookie += 1
            data[self.cookie] = bytearray(length)
            self.socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, READ, self.cookie, offset, length))
        waiting = set(data)
        while waiting:
            magic, error, cookie = struct.unpack(">IIQ", self._receive(16))
            if magic != REPLY_MAGIC or cookie not in waiting:
                raise ConnectionError("an answer to something else")
            if error:
                raise OSError(error, os.strerror(error))
            self._receive_into(memoryview(data[cookie]))
            waiting.remove(cookie)
        return list(data.values())

    def write(self, offset, data, flags=0):
        for start in range(0, len(data), REQUEST_BYTES_MAX):
            part = data[start : start + REQUEST_BYTES_MAX]
            self.request(WRITE, offset + start, len(part), part, flags)

    def write_zeroes(self, offset, length, flags=0):
        self.request(WRITE_ZEROES, offset, length, flags=flags)

    def trim(self, offset, length):
        self.request(TRIM, offset, length)

    def flush(self):
        self.request(FLUSH)

    def close(self):
        """Says good-bye; the server has answered everything before."""
        try:
            self.socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, DISCONNECT, 0, 0, 0))
        except OSError:
            pass  # it is gone already
        self.socket.close()


def errno_of(request, *arguments):
    """The name of the errno that the server answers a request with; "ok" when it does not fail."""
    try:
        request(*arguments)
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

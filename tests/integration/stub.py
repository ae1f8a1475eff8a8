"""What a generated stub can say to a daemon and understudyctl or the agent never would: any field, any frame.

Goes through understudy_stub (stub_main.cc), whose path is in UNDERSTUDY_STUB. Standard library only.
"""

import atexit
import base64
import collections
import json
import os
import queue
import struct
import subprocess
import threading
import time

STUB = os.environ.get("UNDERSTUDY_STUB", "understudy_stub")

# How a call or a stream ended. `term` is the current one, which FENCED carries; else "".
End = collections.namedtuple("End", "code message reason term")

DATA, ZERO, DISCARD, FLUSH, CHECKPOINT, INCOMPLETE, COMPLETE, PREPARE, HANDOVER = range(1, 10)


def _end(line):
    return End(line["code"], line["message"], line["reason"], line["volume"])


class _Calls:
    """One process for all calls to an address: starting one for each would take longer than the calls."""

    known = {}

    def __init__(self, address, service):
        self.process = subprocess.Popen([STUB, address, service], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @classmethod
    def to(cls, address, service):
        if (address, service) not in cls.known:
            cls.known[address, service] = cls(address, service)
        return cls.known[address, service]

    @classmethod
    def end_all(cls):
        for calls in cls.known.values():
            calls.process.kill()
            calls.process.communicate()
        cls.known.clear()


atexit.register(_Calls.end_all)


def disconnect():
    """Before or after a daemon is restarted: a connection that has noticed would wait a second before its next try."""
    _Calls.end_all()


def call(address, method, **fields):
    """One call of the Replication service: (answer or None, End). A connection that a restart of the daemon has broken is made anew."""
    deadline = time.monotonic() + 20
    while True:
        answer, end = _call(address, "Replication", method, fields)
        if end.code != "UNAVAILABLE" or time.monotonic() > deadline:
            return answer, end


def csi_call(address, method, service="CsiAddons", **fields):
    """One call of a csi-addons service, made once: UNAVAILABLE is an answer like any other."""
    return _call(address, service, method, fields)


def _call(address, service, method, fields):
    process = _Calls.to(address, service).process
    process.stdin.write(f"{method} {json.dumps(fields)}\n")
    process.stdin.flush()
    answer = None
    for text in process.stdout:
        line = json.loads(text)
        if "end" in line:
            return answer, _end(line["end"])
        answer = line["answer"]
    _Calls.known.pop((address, service))
    raise AssertionError(f"understudy_stub could not make the call {method} {fields}")


# ---- frames -----------------------------------------------------------------------------------------------------------------------

_CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = (_byte >> 1) ^ (0x82F63B78 if _byte & 1 else 0)
    _CRC_TABLE.append(_byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def operation(kind, volume=0, offset=0, length=0):
    """24 bytes, as docs/protocol.md says."""
    return struct.pack("<IB3xQQ", volume, kind, offset, length)


def _text(data):
    return base64.b64encode(data).decode()


class Stream:
    """One write stream, message by message. `grant` is (incarnation, term), which Stream.join() learns."""

    def __init__(self, address):
        self.process = subprocess.Popen(
            [STUB, address, "PrimaryWrites"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answers = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._answers.put(json.loads(line))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdin.close()
        self.process.stdout.close()

    def send(self, message):
        """A WriteRequest; after the stream's end it goes nowhere, as with any stub."""
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def join(self, volumes, group="vm1", agent="raw", stream=1, grant=None, **more):
        """The handshake; `volumes` is {name: size}. Returns its reply, or the End of the stream."""
        handshake = {
            "group": group, "agent_id": agent, "stream_id": str(stream), "first_available_sequence": "1",
            "volumes": [{"name": name, "size_bytes": str(size)} for name, size in volumes.items()], **more,
        }  # fmt: skip
        if grant is not None:
            handshake |= {"incarnation": _text(grant[0]), "term": str(grant[1])}
        self.send({"handshake": handshake})
        reply = self.next(lambda answer: "handshake" in answer)
        if isinstance(reply, End):
            return reply
        reply = reply["handshake"]
        self.grant = (base64.b64decode(reply["incarnation"]), int(reply["term"]))
        return reply

    def frame(self, first, operations, payload=b"", grant=None, crc_flip=0):
        """Sends a frame: operations as operation() makes them."""
        incarnation, term = grant or self.grant
        high, low = struct.unpack(">QQ", incarnation)
        packed = b"".join(operations)
        covered = struct.pack("<QQQQ", term, high, low, first) + packed + payload
        self.send(
            {
                "frame": {
                    "term": str(term), "incarnation_high": str(high), "incarnation_low": str(low),
                    "first_sequence": str(first), "crc32c": crc32c(covered) ^ crc_flip,
                    "operations": _text(packed), "payload": _text(payload),
                }
            }
        )  # fmt: skip

    def write(self, first, offset, data, volume=0, **named):
        self.frame(first, [operation(DATA, volume, offset, len(data))], data, **named)

    def next(self, wanted, seconds=60):
        """The next answer for which wanted() is true; the End when the stream ends before it."""
        while True:
            answer = self._answers.get(timeout=seconds)
            if "end" in answer:
                return _end(answer["end"])
            if wanted(answer["answer"]):
                return answer["answer"]

    def received(self, sequence):
        """Waits until the service says that it has this operation; the End when the stream ends instead."""
        return self.next(lambda answer: "ack" in answer and int(answer["ack"]["received_sequence"]) >= sequence)

    def end(self):
        """Waits for the end of the stream."""
        return self.next(lambda answer: False)

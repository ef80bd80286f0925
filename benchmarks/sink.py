"""A carrier that takes every message at once: the answering end of a benchmark, in a process of its own.

It speaks the protocol of docs/guides/own-gateway.md. `GET /stats` tells what it has, `GET /reset` makes it forget.
`python -m benchmarks.sink PORT` serves until SIGTERM and prints one line when it can be called.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import signal
import sys
import time
from typing import Final

import uvloop

_ID: Final = re.compile(rb'"id"\s*:\s*"([^"]+)"')
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ANSWER: Final = b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


class Arrivals:
    """What has arrived since the last reset. Times are those of the machine's monotonic clock."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.ids: set[bytes] = set()
        self.total = 0
        self.first_at = 0.0
        self.last_at = 0.0
        self.per_second: dict[int, int] = {}

    def take(self, body: bytes) -> int:
        """Count one message; return its number."""
        now = time.monotonic()
        self.first_at = self.first_at or now
        self.last_at = now
        self.total += 1
        second = int(now)
        self.per_second[second] = self.per_second.get(second, 0) + 1
        if found := _ID.search(body):
            self.ids.add(found[1])
        return self.total

    def stats(self) -> dict[str, object]:
        """Return the counts, and the CPU that this process has used."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "total": self.total,
            "distinct": len(self.ids),
            "first_at": self.first_at,
            "last_at": self.last_at,
            "per_second": self.per_second,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with keep-alive."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]  # what asyncio hands to a TCP server

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._buffer += data
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:head_end]
            length = _LENGTH.search(head)
            end = head_end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < end:
                return
            body, self._buffer = self._buffer[head_end + 4 : end], self._buffer[end:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport
        if head.startswith(b"POST"):
            answer = b'{"id":"carrier-%d"}' % self._arrivals.take(body)
            self._transport.write(_ANSWER % (len(answer), answer))
            return
        if head.startswith(b"GET /reset"):
            self._arrivals.reset()
        text = json.dumps(self._arrivals.stats()).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    arrivals = Arrivals()
    server = await loop.create_server(lambda: Connection(arrivals), "127.0.0.1", port)
    print("ready", flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1])))

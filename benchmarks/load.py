"""The load generator, in a process of its own: closed loop, or open loop at a fixed rate.

`python -m benchmarks.load` reads one `Load` as JSON from standard input and prints one `Outcome` as JSON. In a closed
loop each connection sends its next request when it has the answer to the last. In an open loop requests are due at
fixed moments, whatever the server does, and latency counts from the moment at which a request was due, so that a server
that stands still is charged for all who wait.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import struct
import sys
import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass
from typing import Final

import uvloop

from benchmarks.figures import percentile, percentiles, worst_second
from benchmarks.payloads import Payloads

# After the last request was due, for the answers that are still to come.
LAST_ANSWERS_SECONDS: Final = 30.0
_TFD_NONBLOCK: Final = 0o4000
_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send, where, how much and for how long."""

    port: int
    path: str
    connections: int
    seconds: float
    rate: float = 0.0  # requests a second in all; 0 for a closed loop
    secret: str = ""  # signs each body; empty for no signature
    items: int = 1  # messages in one request
    first_number: int = 0  # recipients and references count up from here
    success: str = "202"  # the status of what is accepted


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it. Times are those of the machine's monotonic clock, latencies milliseconds."""

    requests: int
    accepted: int  # messages
    refused: dict[str, int]  # answers of another status than what is accepted has, by status
    broken: int  # connections that ended before their answer
    started_at: float
    ended_at: float
    latency_ms: dict[str, float]
    lag_ms_p99: float  # how late this process itself sent what was due, where a connection was free
    worst_second: int  # messages accepted in the poorest whole second
    cpu_seconds: float

    @property
    def accepted_per_second(self) -> float:
        """Messages accepted a second."""
        return self.accepted / (self.ended_at - self.started_at)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with keep-alive and one request under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._due_at = 0.0
        self._is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]  # what asyncio hands to a TCP client

    def send(self, request: bytes, due_at: float) -> None:
        """Send one request; its answer goes to the run."""
        assert self._transport
        self._due_at = due_at
        self._is_waiting = True
        self._transport.write(request)

    def close(self) -> None:
        """Hang up."""
        if self._transport:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Hand on the answer once it is whole."""
        self._buffer = self._buffer + data if self._buffer else data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        end = _end_of_answer(self._buffer, head_end)
        if end is None or len(self._buffer) < end:
            return
        answer, self._buffer = self._buffer[:end], self._buffer[end:]
        self._is_waiting = False
        self._run.take(self, answer[9:12], answer[head_end + 4 :], self._due_at)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the signature is asyncio's
        """Tell the run, if somebody waits."""
        self._run.lose(self, is_waiting=self._is_waiting)


class Run:
    """One load, from the first request to the last answer."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._success = load.success.encode()
        self._payloads = Payloads(
            path=load.path, secret=load.secret, items=load.items, first_number=load.first_number, port=load.port
        )
        self._latencies = array("d")
        self._moments = array("d")
        self._lags = array("d")
        self._refused: dict[str, int] = {}
        self._accepted = 0
        self._broken = 0
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self._under_way = 0
        self._stop_at = 0.0
        self._all_due = False
        self._done = asyncio.Event()

    async def __call__(self) -> Outcome:
        """Send it all and return what came of it."""
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._load.port))[1]
            for _ in range(self._load.connections)
        ]
        before, started_at = _cpu_seconds(), time.monotonic()
        self._stop_at = started_at + self._load.seconds
        self._idle.extend(connections)
        if self._load.rate:
            await self._send_at_fixed_moments(started_at)
        else:
            while self._idle:
                self._send(self._idle.popleft(), time.monotonic())
        try:
            await asyncio.wait_for(self._done.wait(), self._load.seconds + LAST_ANSWERS_SECONDS)
        except TimeoutError:
            self._broken += self._under_way
        ended_at, used = max(self._moments, default=time.monotonic()), _cpu_seconds() - before
        self._done.set()
        for connection in connections:
            connection.close()
        return self._outcome(started_at, ended_at, used)

    def take(self, connection: Connection, status: bytes, body: bytes, due_at: float) -> None:
        """Count one answer, and give the connection something to do."""
        now = time.monotonic()
        self._under_way -= 1
        self._latencies.append((now - due_at) * 1000)
        if status == self._success:
            self._accepted += 1 if self._load.items == 1 else body.count(b'"id":"msg_')
            self._moments.append(now)
        else:
            self._refused[status.decode()] = self._refused.get(status.decode(), 0) + 1
        if self._due:
            self._send(connection, self._due.popleft())
        elif not self._load.rate and now < self._stop_at:
            self._send(connection, now)
        else:
            self._idle.append(connection)
            self._look_whether_done(now)

    def lose(self, connection: Connection, *, is_waiting: bool) -> None:
        """Count a connection that broke."""
        if connection in self._idle:
            self._idle.remove(connection)
        if is_waiting and not self._done.is_set():
            self._broken += 1
            self._under_way -= 1
            self._look_whether_done(time.monotonic())

    def _send(self, connection: Connection, due_at: float) -> None:
        self._under_way += 1
        connection.send(next(self._payloads), due_at)

    def _look_whether_done(self, now: float) -> None:
        finished = self._all_due if self._load.rate else now >= self._stop_at
        if finished and not self._under_way and not self._due:
            self._done.set()

    async def _send_at_fixed_moments(self, started_at: float) -> None:
        """Let the kernel's own timer wake us at each moment: the event loop's is a whole millisecond coarse."""
        interval = 1 / self._load.rate
        total = round(self._load.rate * self._load.seconds)
        timer, sent, all_due = _periodic_timer(started_at, interval), 0, asyncio.Event()

        def wake() -> None:
            nonlocal sent
            (moments,) = struct.unpack("Q", os.read(timer, 8))
            for _ in range(min(moments, total - sent)):
                due_at = started_at + (sent + 1) * interval
                sent += 1
                if self._idle:
                    self._send(self._idle.popleft(), due_at)
                    self._lags.append((time.monotonic() - due_at) * 1000)
                else:
                    self._due.append(due_at)
            if sent == total:
                all_due.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(timer, wake)
        await all_due.wait()
        loop.remove_reader(timer)
        os.close(timer)
        self._all_due = True
        self._look_whether_done(time.monotonic())

    def _outcome(self, started_at: float, ended_at: float, cpu_seconds: float) -> Outcome:
        return Outcome(
            requests=len(self._latencies),
            accepted=self._accepted,
            refused=self._refused,
            broken=self._broken,
            started_at=started_at,
            ended_at=ended_at,
            latency_ms=percentiles(self._latencies),
            lag_ms_p99=percentile(sorted(self._lags), 0.99),
            worst_second=worst_second(self._moments, started_at, ended_at) * self._load.items,
            cpu_seconds=cpu_seconds,
        )


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Time), ("first", _Time))


def _periodic_timer(start: float, interval: float) -> int:
    """Return a descriptor that becomes readable at `start + interval` and every interval after that."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK))
    timer = _Timer(_split(interval), _split(start + interval))
    if descriptor < 0 or libc.timerfd_settime(descriptor, 1, ctypes.byref(timer), None):  # 1: `first` is a moment
        raise OSError(ctypes.get_errno(), "no timer can be had")
    return descriptor


def _split(seconds: float) -> _Time:
    nanoseconds = round(seconds * _NANOSECONDS)
    return _Time(nanoseconds // _NANOSECONDS, nanoseconds % _NANOSECONDS)


def _end_of_answer(buffer: bytes, head_end: int) -> int | None:
    head = buffer[:head_end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        return (
            head_end + 4 + int(head[at + 17 : head.find(b"\r\n", at + 2) if head.find(b"\r\n", at + 2) > 0 else None])
        )
    last_chunk = buffer.find(b"\r\n0\r\n\r\n", head_end)
    return None if last_chunk < 0 else last_chunk + 7


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Read, run, print."""
    load = Load(**json.load(sys.stdin))

    async def run() -> Outcome:
        return await Run(load)()

    json.dump(asdict(uvloop.run(run())), sys.stdout)


if __name__ == "__main__":
    main()

"""A TCP proxy that goes wrong on demand: latency, resets, half-open connections, a black hole."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

CHUNK = 65_536


@dataclass(frozen=True, kw_only=True)
class Toxic:
    """What is wrong with the connections. The default is nothing."""

    latency_seconds: float = 0.0  # before each piece of the way back
    refuse: bool = False  # a new connection is reset at once
    reset_request: bool = False  # reset when the first byte of a request comes, which goes nowhere
    reset_answer: bool = False  # the request goes through; reset instead of the answer
    swallow_answer: bool = False  # half open: the request goes through, and nothing comes back, ever
    black_hole: bool = False  # connections are taken, and nothing goes anywhere


HEALTHY = Toxic()


class FaultProxy:
    """Stands before a server, in a thread of its own. `toxic` may be changed at any time, also for open connections."""

    def __init__(self, target_url: str) -> None:
        target = urlsplit(target_url)
        self._host, self._port = target.hostname or "127.0.0.1", target.port or 80
        self._path = target.path
        self.toxic = HEALTHY
        self.connections = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._path}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @contextlib.contextmanager
    def not_listening(self) -> Iterator[None]:
        """Refuse connections, as a server that is not running does; those that stand are reset."""
        port = self._server.sockets[0].getsockname()[1]
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        try:
            yield
        finally:
            self._server = asyncio.run_coroutine_threadsafe(self._listen(port), self._loop).result(5)

    async def _listen(self, port: int = 0) -> asyncio.Server:
        return await asyncio.start_server(self._handle, "127.0.0.1", port)

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            _reset(writer)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.toxic.refuse:
                return
            answers, upstream = await asyncio.open_connection(self._host, self._port)
            self._writers.add(upstream)
            there = asyncio.create_task(self._carry_requests(reader, upstream))
            back = asyncio.create_task(self._carry_answers(answers, writer))
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
        finally:
            for each in (writer, upstream):
                if each is not None:
                    self._writers.discard(each)
                    _reset(each)

    async def _carry_requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(CHUNK):
                if self.toxic.reset_request:
                    return
                if self.toxic.black_hole:
                    continue
                sink.write(data)
                await sink.drain()

    async def _carry_answers(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(CHUNK):
                if self.toxic.reset_answer:
                    return
                if self.toxic.swallow_answer or self.toxic.black_hole:
                    continue
                await asyncio.sleep(self.toxic.latency_seconds)
                sink.write(data)
                await sink.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    # Lingering for no time at all makes the kernel send RST in place of FIN.
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

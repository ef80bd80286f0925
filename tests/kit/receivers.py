"""Receivers of webhooks, on real sockets beside the test: one that is well, and one that is bad in many ways."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Self

from aiohttp import web

STARTED_WITHIN_SECONDS = 10
BOMB_BYTES: Final = 300 * 2**20


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]  # by their names in lower case
    body: bytes
    at: float = field(default_factory=time.time)

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a receiver says."""

    status: int = 200
    body: str = "OK"
    headers: Mapping[str, str] = field(default_factory=dict)


class _InThread:
    """Runs a server's event loop beside the test."""

    def __init__(self) -> None:
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STARTED_WITHIN_SECONDS)
        self._loop.close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def _start(self) -> None:
        raise NotImplementedError

    async def _stop(self) -> None:
        raise NotImplementedError

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(STARTED_WITHIN_SECONDS)


class Receiver(_InThread):
    """Keeps every call, and answers 200 unless `answers` has something else for the path."""

    def __init__(self, *, pause_seconds: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.answers: dict[str, Answer | Callable[[Call], Answer]] = {}
        self._pause_seconds = pause_seconds
        self._runner: web.AppRunner | None = None

    def calls_to(self, path: str) -> list[Call]:
        return [call for call in list(self.calls) if call.path == path]

    def events_at(self, path: str) -> list[str]:
        return [call.event["event"] for call in self.calls_to(path)]

    async def _start(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(path=request.path, headers=headers, body=await request.read())
        self.calls.append(call)
        await asyncio.sleep(self._pause_seconds())
        chosen = self.answers.get(call.path, Answer())
        answer = chosen if isinstance(chosen, Answer) else chosen(call)
        return web.Response(status=answer.status, text=answer.body, headers=dict(answer.headers))


class BadReceiver(_InThread):
    """Does to each call what its path says, and measures for how long the caller stayed."""

    def __init__(self) -> None:
        super().__init__()
        self.stayed_seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.begun: defaultdict[str, int] = defaultdict(int)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        began = time.monotonic()
        path = ""
        misbehaving: asyncio.Task[None] | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            self.begun[path] += 1
            misbehaving = asyncio.create_task(_keep_on(BAD_WAYS[path.partition("?")[0]], writer))
            # The caller has sent all that it sends, so that the next end of what comes is its leaving.
            while await reader.read(65536):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.stayed_seconds[path].append(time.monotonic() - began)
            self._open.discard(task)
            writer.transport.abort()
            if misbehaving:
                misbehaving.cancel()
                await asyncio.gather(misbehaving, return_exceptions=True)


Misbehave = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def _keep_on(misbehave: Misbehave, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await misbehave(writer)


async def _hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _drip(writer: asyncio.StreamWriter) -> None:
    await _drip_bytes(writer, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nOK")


async def _drip_a_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    await _drip_bytes(writer, b"x" * 100_000)


async def _drip_bytes(writer: asyncio.StreamWriter, content: bytes) -> None:
    for byte in content:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def _send_a_bomb(writer: asyncio.StreamWriter) -> None:
    bomb = _bomb()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: application/json\r\n")
    writer.write(f"Content-Length: {len(bomb)}\r\n\r\n".encode() + bomb)
    await writer.drain()


async def _send_chunks_without_end(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        await writer.drain()


async def _send_headers_without_end(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"y" * 1000 + b"\r\n")
        await writer.drain()


async def _redirect_to_itself(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /redirect?again\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def _fail(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nOops")
    await writer.drain()


BAD_WAYS: Final[Mapping[str, Misbehave]] = {
    "/hang": _hang,
    "/drip": _drip,
    "/drip-body": _drip_a_body,
    "/bomb": _send_a_bomb,
    "/chunks": _send_chunks_without_end,
    "/headers": _send_headers_without_end,
    "/redirect": _redirect_to_itself,
    "/500": _fail,
}


@cache
def _bomb() -> bytes:
    """Return what unpacks to 300 MiB: members of 1 MiB, one behind the other."""
    return gzip.compress(bytes(2**20)) * (BOMB_BYTES // 2**20)

"""Where Prometheus reads a process's metrics: `GET /metrics` on an address of its own, and nothing else.

HTTP by hand: a server for one fixed answer needs little more than a limit and a deadline on everything, and those are
what servers for applications leave open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from servicekit.metrics import watch_event_loop
from servicekit.settings import SettingsError

PATH: Final = b"/metrics"
MAX_REQUEST_BYTES: Final = 8_192
MAX_CONNECTIONS: Final = 16
# For the whole exchange: a scrape that takes longer is given up by Prometheus too.
DEADLINE_SECONDS: Final = 5.0

_PLAIN: Final = "text/plain; charset=utf-8"

log = structlog.get_logger(__name__)


class MetricsEndpoint:
    """Answers scrapes on some addresses, and watches the event loop for them."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}  # by what it was told to listen on, with the port that it got for 0
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._watch: asyncio.Task[None] | None = None

    async def start(self, listens: Iterable[str]) -> None:
        """Listen on each address that is not empty; raise SettingsError when one can not be had."""
        try:
            for listen in dict.fromkeys(listens):
                if listen:
                    await self._listen(listen)
        except BaseException:
            await self.stop()
            raise
        if self.addresses:
            self._watch = asyncio.create_task(watch_event_loop())

    async def stop(self) -> None:
        """Close everything at once."""
        for server in self._servers:
            server.close()
        for writer in list(self._open):
            writer.transport.abort()
        if self._watch:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    async def _listen(self, listen: str) -> None:
        host, _, port = listen.rpartition(":")
        try:
            server = await asyncio.start_server(self._serve, host.strip("[]"), int(port), limit=MAX_REQUEST_BYTES)
        except OSError as error:
            raise SettingsError(
                f"{listen} can not be listened on for metrics ({error.strerror or error}):"
                " is something else using that port?"
            ) from None
        self._servers.append(server)
        self.addresses[listen] = f"{host}:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                # All that is written must be read within the deadline too.
                writer.transport.set_write_buffer_limits(0)
                writer.write(await _answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, EOFError):
            writer.transport.abort()
        finally:
            self._open.discard(writer)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return _response("431 Request Header Fields Too Large", b"The request is too large.\n")
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    target, _, version = rest.rpartition(b" ")
    if not version.startswith(b"HTTP/1."):
        return _response("400 Bad Request", b"This is no HTTP/1.1 request.\n")
    if target.partition(b"?")[0] != PATH:
        return _response("404 Not Found", b"There is nothing here but /metrics.\n")
    if method != b"GET":
        return _response("405 Method Not Allowed", b"Only GET is allowed.\n", "Allow: GET\r\n")
    return _response("200 OK", generate_latest(), content_type=CONTENT_TYPE_LATEST)


def _response(status: str, body: bytes, headers: str = "", content_type: str = _PLAIN) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}"
    return f"{head}Connection: close\r\n\r\n".encode() + body

"""Makes HTTP calls to one carrier over kept connections, one call at a time on each.

No redirects, no proxies, no cookies, no compressed answers. Written for this one use, because a general client takes
longer for a call than all else that is done for a message (docs/decisions/0029-calls-to-carriers.md). Deadlines are the
caller's, who cancels; only connecting has its own.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from yarl import URL

from services.delivery.carriers.http.answer_reader import AnswerReader, UnreadableAnswerError
from services.delivery.carriers.http.answers import HttpAnswer
from services.delivery.carriers.http.requests import Prepared

# Shorter than the time after which common servers close an idle connection: a POST that meets the closing is ambiguous.
KEEP_IDLE_SECONDS: Final = 4.0
# An address that does not answer within this is passed over for the next one of the same name.
NEXT_ADDRESS_SECONDS: Final = 1.0
ADDRESSES_KEPT_SECONDS: Final = 10.0


@dataclass
class Progress:
    """How far a call has come."""

    begun: bool = False  # the connection stands, and the next thing is the request's first byte


class _Place(NamedTuple):
    """Where connections lead."""

    host: str
    port: int
    is_tls: bool


class CarrierCalls:
    """A pool of connections, as many as calls are under way at a time."""

    def __init__(self, *, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._idle: dict[_Place, deque[_Connection]] = {}
        self._addresses: dict[_Place, tuple[float, list[str]]] = {}
        self._tls: ssl.SSLContext | None = None

    def close(self) -> None:
        """Close what is idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def call(self, request: Prepared, progress: Progress, *, origin: str | None = None) -> HttpAnswer:
        """Make a call, once; `origin` stands in for the address's scheme, host and port.

        Raises OSError, as UnreadableAnswerError is one, and ValueError for a request that can not be written.
        """
        written = request.written
        url = URL(origin) if origin else request.head.url
        place = _Place(url.raw_host or "", url.port or 0, url.scheme == "https")
        connection = self._kept(place) or await self._connected(place)
        progress.begun = True
        try:
            answer = await connection.exchange(written)
        except BaseException:
            connection.close()
            raise
        if connection.can_go_on:
            self._idle.setdefault(place, deque()).append(connection)
        else:
            connection.close()
        return answer

    def _kept(self, place: _Place) -> _Connection | None:
        idle = self._idle.get(place)
        oldest = asyncio.get_running_loop().time() - KEEP_IDLE_SECONDS
        while idle and (idle[0].idle_since < oldest or not idle[0].can_go_on):
            idle.popleft().close()
        while idle:
            # The one that was used last, so that those which are not needed grow old.
            connection = idle.pop()
            if connection.can_go_on:
                return connection
            connection.close()
        return None

    async def _connected(self, place: _Place) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_seconds):
            *others, last = await self._addresses_of(place)
            for address in others:
                try:
                    async with asyncio.timeout(NEXT_ADDRESS_SECONDS):
                        return await self._dialled(loop, place, address)
                except OSError:  # a deadline that has passed is one too
                    continue
            return await self._dialled(loop, place, last)

    async def _dialled(self, loop: asyncio.AbstractEventLoop, place: _Place, address: str) -> _Connection:
        if place.is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        _, connection = await loop.create_connection(
            _Connection,
            address,
            place.port,
            ssl=self._tls if place.is_tls else None,
            server_hostname=place.host if place.is_tls else None,
        )
        return connection

    async def _addresses_of(self, place: _Place) -> list[str]:
        loop = asyncio.get_running_loop()
        known = self._addresses.get(place)
        if known and loop.time() - known[0] < ADDRESSES_KEPT_SECONDS:
            return known[1]
        found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if not addresses:
            raise OSError("the name has no address")
        self._addresses[place] = (loop.time(), addresses)
        return addresses


class _Connection(asyncio.Protocol):
    """One connection, on which one call is made at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._whole: asyncio.Future[HttpAnswer] | None = None
        self.can_go_on = True
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    async def exchange(self, request: bytes) -> HttpAnswer:
        loop = asyncio.get_running_loop()
        if self._transport is None or not self.can_go_on:
            raise ConnectionError("the connection is closed")
        self._reader, self._whole = AnswerReader(), loop.create_future()
        self._transport.write(request)
        try:
            return await self._whole
        finally:
            self._reader = self._whole = None
            self.idle_since = loop.time()

    def data_received(self, data: bytes) -> None:
        if self._reader is None or self._whole is None or self._whole.done():
            self.close()  # nobody asked
            return
        try:
            if self._reader.feed(data):
                self.can_go_on = self._reader.can_go_on
                self._whole.set_result(self._reader.answer)
        except UnreadableAnswerError as error:
            self._whole.set_exception(error)

    def eof_received(self) -> None:
        self.can_go_on = False

    def connection_lost(self, error: Exception | None) -> None:
        self.can_go_on = False
        if self._reader is None or self._whole is None or self._whole.done():
            return
        try:
            if error is not None:
                raise ConnectionResetError("the connection broke off") from error
            self._reader.end()
            self._whole.set_result(self._reader.answer)
        except OSError as broken:
            self._whole.set_exception(broken)

    def close(self) -> None:
        self.can_go_on = False
        if self._transport is not None:
            self._transport.abort()

"""One call of `servicekit.egress`, by aiohttp; imported with the first of them, for it weighs 8 MiB."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any, Final

import aiohttp
from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from servicekit.egress import Answer, Limits, Problem
from servicekit.egress_names import Names, check_addresses
from servicekit.egress_urls import (
    Address,
    BlockedAddressError,
    CheckedUrl,
    EgressPolicy,
    UrlNotAllowedError,
    check_url,
)

USER_AGENT: Final = "Textway"

# What may come beside an answer's body: its headers, the lines of its chunks, answers that announce it (1xx).
BESIDE_BODY_BYTES: Final = 65_536

_IPV6: Final = 6


class _NameError(OSError):
    """A name has no address, or nobody said so in time."""


# The first that fits; several are subclasses of later ones.
_PROBLEMS: Final[tuple[tuple[type[Exception], Problem], ...]] = (
    (BlockedAddressError, Problem.BLOCKED_ADDRESS),
    (UrlNotAllowedError, Problem.URL_NOT_ALLOWED),
    (_NameError, Problem.DNS_FAILED),
    (aiohttp.ClientSSLError, Problem.TLS_ERROR),
    (aiohttp.ClientConnectorCertificateError, Problem.TLS_ERROR),
    (aiohttp.ClientConnectorError, Problem.CONNECT_FAILED),
    (aiohttp.ConnectionTimeoutError, Problem.CONNECT_FAILED),
    (TimeoutError, Problem.TIMEOUT),
    (aiohttp.ClientResponseError, Problem.ANSWER_UNREADABLE),
    (aiohttp.ClientError, Problem.CONNECTION_LOST),
    (OSError, Problem.CONNECTION_LOST),
)


class Exchanges:
    """Makes single calls."""

    def __init__(self, policy: EgressPolicy, names: Names, limits: Limits, tls: ssl.SSLContext | None) -> None:
        self._policy = policy
        self._names = names
        self._limits = limits
        self._tls = tls or ssl.create_default_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, answer: Answer) -> Problem | None:
        """POST once, and write down what comes as it comes; return what was wrong. Only a deadline ends it."""
        try:
            await self._exchange(url, headers, body, answer)
        except (UrlNotAllowedError, aiohttp.ClientError, OSError) as error:
            return next(problem for kind, problem in _PROBLEMS if isinstance(error, kind))
        return None

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes, answer: Answer) -> None:
        checked = check_url(url, self._policy)
        addresses = await self._addresses_of(checked)
        async with (
            self._session_to(addresses) as session,
            session.post(
                URL(checked.text, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            answer.status = response.status
            answer.retry_after = response.headers.get("Retry-After", "").strip()
            await self._read(response, answer.body)

    async def _addresses_of(self, url: CheckedUrl) -> Sequence[Address]:
        if url.address is not None:
            return [url.address]
        try:
            async with asyncio.timeout(self._limits.look_up_seconds):
                addresses = await self._names.addresses_of(url.host)
        except OSError as error:  # a deadline that has passed is one too
            raise _NameError from error
        check_addresses(addresses, url, self._policy)
        return addresses

    def _session_to(self, addresses: Sequence[Address]) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(
                self._limits.answer_bytes + BESIDE_BODY_BYTES,
                resolver=_CheckedAddresses(addresses),
                socket_factory=partial(_socket_to, frozenset(addresses)),
                use_dns_cache=False,
                force_close=True,
                ssl=self._tls,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_seconds),
            auto_decompress=False,
            trust_env=False,
        )

    async def _read(self, response: aiohttp.ClientResponse, body: bytearray) -> None:
        if response.headers.get("Content-Encoding", "identity").strip().lower() == "identity":
            async for chunk in response.content.iter_any():
                body += chunk[: self._limits.answer_bytes - len(body)]
                if len(body) >= self._limits.answer_bytes:
                    break
        response.close()


class _Connector(aiohttp.TCPConnector):
    """Reads so many bytes from a connection, and no more."""

    def __init__(self, room: int, **options: Any) -> None:  # Any: they are aiohttp's own
        super().__init__(**options)
        self._factory = partial(_BoundedConnection, room, self._loop)  # type: ignore[assignment]  # a subclass is one too


class _BoundedConnection(ResponseHandler):
    """Hands on what there is room for.

    aiohttp makes an answer of every 25 bytes that look like one, at once and for as long as they come: a receiver that
    sends nothing else would have the process for itself until the deadline, and its memory too.
    """

    def __init__(self, room: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._room = room

    def data_received(self, data: bytes) -> None:
        """Take what comes. When there is no more room, who waits for an answer is told that there is none."""
        is_last = len(data) > self._room
        data, self._room = data[: self._room], max(0, self._room - len(data))
        super().data_received(data)
        if is_last:
            self.set_exception(aiohttp.http.HttpProcessingError(message="the answer has no end"))
            if self.transport is not None:
                self.transport.pause_reading()


class _CheckedAddresses(AbstractResolver):
    """Answers with the addresses that were checked, whatever it is asked; a literal address never gets here."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002  # each address says what it is
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET6 if address.version == _IPV6 else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _socket_to(addresses: frozenset[Address], where: AddrInfoType) -> socket.socket:
    """Make the socket for an address that is about to be dialled: the last place where a wrong one can be stopped."""
    family, kind, protocol, _, to = where
    if ip_address(to[0]) not in addresses:
        raise BlockedAddressError("was about to be called at an address that nobody checked")
    return socket.socket(family, kind, protocol)

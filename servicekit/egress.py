"""Calls URLs that customers give, and nothing that they should not lead to.

Each call looks its name up once, checks every address, and dials one of those; there is no second look-up that could
answer otherwise. Connections are not kept: a kept one would go on with an address that the name may have left. No
redirects, no proxies or passwords from the environment, no compressed answers, one deadline for the whole exchange.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

import aiohttp
from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from servicekit.clock import Clock
from servicekit.egress_names import Names, SystemNames, check_addresses
from servicekit.egress_urls import (
    Address,
    BlockedAddressError,
    CheckedUrl,
    EgressPolicy,
    UrlNotAllowedError,
    check_url,
)

USER_AGENT: Final = "Textway"

_IPV6: Final = 6


class Problem(StrEnum):
    """Why a call was not made, or what broke it off."""

    URL_NOT_ALLOWED = "url_not_allowed"  # its form, scheme or port; nothing was sent
    BLOCKED_ADDRESS = "blocked_address"  # it leads to an address that is not public; nothing was sent
    DNS_FAILED = "dns_failed"  # its name has no address, or nobody said so in time; nothing was sent
    CONNECT_FAILED = "connect_failed"  # refused, unreachable, or no connection in time; nothing was sent
    TLS_ERROR = "tls_error"  # the certificate is not good for the name, or no TLS was spoken; nothing was sent
    TIMEOUT = "timeout"  # no whole answer by the deadline
    CONNECTION_LOST = "connection_lost"  # the connection broke off before the answer was whole
    ANSWER_UNREADABLE = "answer_unreadable"  # what came back is no HTTP, or has headers without end
    REDIRECT_REFUSED = "redirect_refused"  # the answer points elsewhere; redirects are not followed


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


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a call may take, and how much of an answer is read."""

    look_up_seconds: float = 5.0
    connect_seconds: float = 5.0  # to one address, TLS included
    total_seconds: float = 15.0
    answer_bytes: int = 65_536


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One call and what came of it. With a status and a problem, the answer broke off after its status line."""

    milliseconds: int
    status: int = 0  # 0 when no status line came
    retry_after: str = ""  # the header as it came
    body: bytes = field(default=b"", repr=False)  # what was read of it; empty when it was compressed
    problem: Problem | None = None


@dataclass
class _Answer:
    status: int = 0
    retry_after: str = ""
    body: bytearray = field(default_factory=bytearray)


class EgressClient:
    """Makes the calls; has no connection open between them."""

    def __init__(
        self,
        policy: EgressPolicy,
        clock: Clock,
        *,
        names: Names | None = None,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._names = names or SystemNames()
        self._limits = limits or Limits()
        self._tls = tls or ssl.create_default_context()

    def close(self) -> None:
        """Take no more calls."""
        self._names.close()

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> Exchange:
        """POST once. Whatever the other side does, this ends by the deadline, with an Exchange."""
        started = self._clock.monotonic()
        answer = _Answer()
        problem: Problem | None = None
        try:
            async with asyncio.timeout(self._limits.total_seconds):
                await self._exchange(url, headers, body, answer)
        except (UrlNotAllowedError, aiohttp.ClientError, OSError) as error:
            problem = next(problem for kind, problem in _PROBLEMS if isinstance(error, kind))
        if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
            problem = Problem.REDIRECT_REFUSED
        return Exchange(
            milliseconds=round((self._clock.monotonic() - started) * 1000),
            status=answer.status,
            retry_after=answer.retry_after,
            body=bytes(answer.body),
            problem=problem,
        )

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes, answer: _Answer) -> None:
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
            connector=aiohttp.TCPConnector(
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

"""Calls URLs that customers give, and nothing that they should not lead to.

Each call looks its name up once, checks every address, and dials one of those; there is no second look-up that could
answer otherwise. Connections are not kept: a kept one would go on with an address that the name may have left. No
redirects, no proxies or passwords from the environment, no compressed answers, one deadline for the whole exchange.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING

from servicekit.clock import Clock
from servicekit.egress_names import Names, SystemNames
from servicekit.egress_urls import EgressPolicy

if TYPE_CHECKING:
    from servicekit.egress_exchange import Exchanges


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
class Answer:
    """What has come so far."""

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
        self._tls = tls
        self._exchanges: Exchanges | None = None

    def close(self) -> None:
        """Take no more calls."""
        self._names.close()

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> Exchange:
        """POST once. Whatever the other side does, this ends by the deadline, with an Exchange."""
        started = self._clock.monotonic()
        answer = Answer()
        problem: Problem | None = None
        try:
            async with asyncio.timeout(self._limits.total_seconds):
                if self._exchanges is None:
                    # Nobody else is to wait while libraries and authorities are loaded.
                    self._exchanges = await asyncio.to_thread(self._load)
                problem = await self._exchanges.post(url, headers, body, answer)
        except TimeoutError:
            problem = Problem.TIMEOUT
        if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
            problem = Problem.REDIRECT_REFUSED
        return Exchange(
            milliseconds=round((self._clock.monotonic() - started) * 1000),
            status=answer.status,
            retry_after=answer.retry_after,
            body=bytes(answer.body),
            problem=problem,
        )

    def _load(self) -> Exchanges:
        from servicekit.egress_exchange import Exchanges  # noqa: PLC0415  # see there

        return Exchanges(self._policy, self._names, self._limits, self._tls)

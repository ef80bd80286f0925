"""One try to bring an event to a customer's URL: signed, sent, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from servicekit import tracing
from servicekit.clock import to_milliseconds
from servicekit.egress import Exchange, Problem
from servicekit.retry_after import seconds_asked
from services.delivery.webhook_signatures import signed_headers
from services.delivery.webhooks import CallResult, WebhookDelivery

# What the owner of the endpoint reads beside the word; it names no address, since the network inside is not theirs.
SENTENCES: Final[Mapping[Problem, str]] = {
    Problem.URL_NOT_ALLOWED: "the URL may not be called: its form, its scheme or its port is not allowed",
    Problem.BLOCKED_ADDRESS: "the URL leads to an address that is not public",
    Problem.DNS_FAILED: "the host's name has no address, or its name server did not answer in time",
    Problem.CONNECT_FAILED: "the connection was refused, or not made within 5 s",
    Problem.TLS_ERROR: "the certificate is not valid for this host, or the endpoint speaks no TLS",
    Problem.TIMEOUT: "no whole answer came within 15 s",
    Problem.CONNECTION_LOST: "the connection broke off before the answer was there",
    Problem.ANSWER_UNREADABLE: "what came back is no HTTP, or has too many headers",
    Problem.REDIRECT_REFUSED: "the endpoint answered with a redirect, and redirects are not followed",
}


class SignedTarget(Protocol):
    """Where an event goes."""

    @property
    def url(self) -> str:
        """The customer's URL."""

    @property
    def secrets(self) -> Sequence[str]:
        """The secrets in force, newest first; without any, what goes there is not signed."""


class Posts(Protocol):
    """Who makes the call, to addresses that may be called."""

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> Exchange:
        """POST once and return what came of it by the deadline; raise nothing."""


class EndpointCaller:
    """Calls endpoints. Whoever retries decides when; this does it once."""

    def __init__(self, egress: Posts, sentences: Mapping[Problem, str] = SENTENCES) -> None:
        self._egress = egress
        self._sentences = sentences

    async def call(self, target: SignedTarget, delivery: WebhookDelivery, at: datetime) -> CallResult:
        """POST a delivery's body, signed as of a time; return what came of it, and raise nothing.

        The status line is the answer: an endpoint that says 2xx and then breaks off, or goes on for too long, has the
        event.
        """
        exchange = await self._egress.post(
            target.url, headers=request_headers(target, delivery, at), body=delivery.body
        )
        return CallResult(
            status_code=exchange.status or None,
            milliseconds=exchange.milliseconds,
            problem=f"{exchange.problem}: {self._sentences[exchange.problem]}" if exchange.problem else "",
            body=exchange.body,
            retry_after_seconds=seconds_asked(exchange.retry_after, at),
        )


def request_headers(target: SignedTarget, delivery: WebhookDelivery, at: datetime) -> dict[str, str]:
    """Return the headers of a call as of a time: what the body is, which event it tells, and the signatures."""
    signature = signed_headers(
        delivery.body,
        webhook_id=delivery.event_id,
        timestamp=to_milliseconds(at) // 1000,
        secrets=target.secrets,
    )
    return {"Content-Type": "application/json", **signature, **tracing.headers()}

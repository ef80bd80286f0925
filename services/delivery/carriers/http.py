"""A gateway of one's own as a carrier: each message is one POST of JSON to an address from the settings.

Documentation: docs/guides/own-gateway.md. Limits: the answer is read up to 64 KiB; a connection must stand within 5 s;
the call as a whole has the caller's deadline. No redirects, no proxies, no compressed answers.

    POST <url>        {"id", "to", "from", "text"}, Idempotency-Key: <id>
    2xx               it has the message; its own id is the answer's "id", or else ours
    429, 503          it does not have the message; Retry-After says when it may take it
    other 4xx         it never will; "error" may say why, in the codes of `FailureReason`
    301, 302, 307, 308  it does not have the message, and is not where the settings say
    anything else     it may have the message, or not
    GET <url>/<id>    {"status": "sent" | "delivered" | "undelivered", "error"?}, or 404, when it is `reconcilable`
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import Final

import aiohttp

from servicekit.clock import Clock
from services.delivery.carriers.base import (
    Capability,
    CarrierEvents,
    CarrierReceipt,
    Failure,
    FailureReason,
    OutboundMessage,
    Refused,
    SendResult,
    Status,
    Taken,
    TryLater,
    Unknown,
)

NAME: Final = "http"
MAX_ANSWER_BYTES: Final = 65_536
CONNECT_SECONDS: Final = 5.0
LOOK_UP_SECONDS: Final = 5.0
# Shorter than the time after which common servers close an idle connection: a POST that meets the closing is ambiguous.
KEEP_IDLE_SECONDS: Final = 4.0
LONGEST_WAIT_SECONDS: Final = 86_400.0
MAX_CARRIER_ID_LENGTH: Final = 128
MAX_EXCERPT_LENGTH: Final = 200

REASONS: Final = {reason.code: reason for reason in FailureReason}
REASON_BY_HTTP_STATUS: Final[Mapping[int, FailureReason]] = {
    HTTPStatus.PAYMENT_REQUIRED: FailureReason.INSUFFICIENT_FUNDS,
    HTTPStatus.TOO_MANY_REQUESTS: FailureReason.THROTTLED,
}
STATUSES: Final[Mapping[str, Status]] = {
    "sent": Status.SENT,
    "delivered": Status.DELIVERED,
    "undelivered": Status.UNDELIVERED,
}
TRY_LATER: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
# See Other is not among them: it follows a request that was carried out.
MOVED: Final = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Where the gateway is and what it promises."""

    url: str
    sender: str
    capability: Capability
    token: str = field(default="", repr=False)  # empty: no Authorization header


@dataclass(frozen=True, kw_only=True)
class _Answer:
    status: int
    fields: Mapping[str, object]  # the JSON object in the body; empty when there is none
    excerpt: str
    retry_after: str

    @property
    def detail(self) -> str:
        return f"HTTP {self.status}: {self.excerpt}" if self.excerpt else f"HTTP {self.status}"


class HttpCarrier:
    """Hands messages to one gateway over a pool of kept connections."""

    name = NAME

    def __init__(self, gateway: Gateway, clock: Clock) -> None:
        self.sender = gateway.sender
        self.capability = gateway.capability
        self.can_look_up = gateway.capability is Capability.RECONCILABLE
        self._url = gateway.url.rstrip("/")
        self._headers = {"Accept-Encoding": "identity"}
        if gateway.token:
            self._headers["Authorization"] = f"Bearer {gateway.token}"
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def start(self, events: CarrierEvents) -> None:  # noqa: ARG002  # it is asked for receipts, and has no replies
        """Make the pool; connections are made when they are needed."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_mark_begun)
        self._session = aiohttp.ClientSession(
            # The dispatcher bounds how many calls there are; a second bound here would use up their deadlines.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
            auto_decompress=False,
            trust_env=False,
            trace_configs=[trace],
        )

    async def stop(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def send(self, message: OutboundMessage) -> SendResult:
        """POST the message once."""
        body = {"id": message.message_id, "to": message.to, "from": message.sender, "text": message.text}
        progress = SimpleNamespace(begun=False)
        try:
            async with self._opened.post(
                self._url,
                json=body,
                headers={"Idempotency-Key": message.message_id},
                allow_redirects=False,
                trace_request_ctx=progress,
            ) as response:
                answer = await _read(response)
        except (aiohttp.ClientError, OSError) as error:
            return _broken_off(error, begun=progress.begun)
        return _result(answer, message, self._clock.now())

    async def look_up(self, message: OutboundMessage) -> CarrierReceipt | None:
        """GET what became of the message; None as well when the gateway can not be asked just now."""
        try:
            async with (
                asyncio.timeout(LOOK_UP_SECONDS),
                self._opened.get(f"{self._url}/{message.message_id}", allow_redirects=False) as response,
            ):
                answer = await _read(response)
        except (aiohttp.ClientError, OSError):  # a deadline that has passed is an OSError too
            return None
        status = STATUSES.get(_clean(answer.fields.get("status"))) if answer.status == HTTPStatus.OK else None
        if status is None:
            return None
        code = _clean(answer.fields.get("error"))
        reason = REASONS.get(code, FailureReason.UNREACHABLE)
        return CarrierReceipt(
            message_id=message.message_id,
            status=status,
            failure=Failure(reason=reason, carrier_code=code) if status is Status.UNDELIVERED else None,
            detail=answer.detail,
        )

    @property
    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None  # noqa: S101  # `start` comes before everything else
        return self._session


async def _mark_begun(_session: object, context: SimpleNamespace, _headers: object) -> None:
    # Called when the connection stands and the next thing is the request's first byte.
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.begun = True


def _broken_off(error: Exception, *, begun: bool) -> SendResult:
    kind = type(error).__name__
    if begun:
        return Unknown(detail=f"the connection broke off before the answer was there ({kind})")
    failure = Failure(reason=FailureReason.CARRIER_UNAVAILABLE, carrier_code=kind)
    return TryLater(failure=failure, detail=f"the gateway could not be reached, so nothing was sent ({kind})")


async def _read(response: aiohttp.ClientResponse) -> _Answer:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk[: MAX_ANSWER_BYTES - len(body)]
        if len(body) >= MAX_ANSWER_BYTES:
            response.close()
            break
    text = body.decode("utf-8", "replace")
    return _Answer(
        status=response.status,
        fields=_json_object(text),
        excerpt=_clean(text, MAX_EXCERPT_LENGTH),
        retry_after=response.headers.get("Retry-After", "").strip(),
    )


def _json_object(text: str) -> Mapping[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _result(answer: _Answer, message: OutboundMessage, now: datetime) -> SendResult:
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        carrier_id = _clean(answer.fields.get("id")) or message.message_id
        return Taken(carrier_message_id=carrier_id, detail=answer.detail)
    if status in TRY_LATER or status in MOVED:
        wait = _wait_seconds(answer.retry_after, now)
        return TryLater(
            failure=_failure(answer, FailureReason.CARRIER_UNAVAILABLE), detail=answer.detail, after_seconds=wait
        )
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Refused(failure=_failure(answer, FailureReason.CARRIER_REJECTED), detail=answer.detail)
    return Unknown(detail=answer.detail)


def _failure(answer: _Answer, default: FailureReason) -> Failure:
    code = _clean(answer.fields.get("error"))
    reason = REASONS.get(code) or REASON_BY_HTTP_STATUS.get(answer.status, default)
    return Failure(reason=reason, carrier_code=code or str(answer.status))


def _wait_seconds(retry_after: str, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), at most a day; None if none."""
    if retry_after.isascii() and retry_after.isdecimal():
        return min(float(retry_after[:10]), LONGEST_WAIT_SECONDS)
    try:
        until = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_WAIT_SECONDS)


def _clean(value: object, length: int = MAX_CARRIER_ID_LENGTH) -> str:
    # What comes from outside goes into the database and onto screens: no control characters, no lone surrogates.
    if not isinstance(value, str | int):
        return ""
    return "".join(each if each.isprintable() else " " for each in str(value)[:length]).strip()

"""Webhook deliveries: one event on its way to one URL, and the log of the attempts to bring it there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

MAX_EXCERPT_BYTES: Final = 1024
MAX_PROBLEM_LENGTH: Final = 500


class Event(StrEnum):
    """What a webhook tells."""

    MESSAGE_RECEIVED = "message.received"
    MESSAGE_SENT = "message.sent"
    MESSAGE_DELIVERED = "message.delivered"
    MESSAGE_UNDELIVERED = "message.undelivered"
    MESSAGE_FAILED = "message.failed"
    MESSAGE_EXPIRED = "message.expired"


class DestinationKind(StrEnum):
    """Whose URL an event goes to."""

    INTEGRATION = "integration"  # an integration's outboundUrl
    TENANT = "tenant"  # the tenant's forward-all webhook
    CALLBACK = "callback"  # the URL that one message was sent with


class WebhookStatus(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"  # on disk, waiting for its next attempt or in the midst of one
    DELIVERED = "delivered"  # the endpoint answered 2xx
    FAILED = "failed"  # the last attempt of its schedule failed
    MISSED = "missed"  # its webhook was disabled or gone when its turn came


REPLAYABLE: Final = frozenset({WebhookStatus.FAILED, WebhookStatus.MISSED})


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where an event goes. The URL and the secrets of a webhook are asked for anew at every attempt."""

    kind: DestinationKind
    # The integration's or the tenant's; of a callback, the integration whose secret signs, or empty for the tenant's.
    id: str
    url: str = ""  # of a callback; empty for webhooks, which know theirs

    def endpoint(self, tenant_id: str) -> str:
        """Return the name of what answers there: what shares it shares the limit on concurrent calls."""
        if self.kind is DestinationKind.CALLBACK:
            # Callbacks differ from message to message in path and query; what can be overloaded is the host.
            return f"{self.kind}:{tenant_id}:{_origin(self.url)}"
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True, kw_only=True)
class WebhookDelivery:
    """One event on its way to one destination."""

    id: str  # `whd_` and 26 characters
    tenant_id: str
    destination: Destination
    event: Event
    event_id: str  # `evt_` and 26 characters: the webhook-id, the same on every attempt and at every destination
    message_id: str  # the message that the event is about, or that the reply answers; empty for none
    reply_id: str  # empty for status events
    body: bytes  # what is signed and sent, byte for byte
    created_at: datetime
    status: WebhookStatus = WebhookStatus.PENDING
    attempts: int = 0
    attempts_before: int = 0  # made before the last replay: its schedule began anew after these
    problem: str = ""  # what was wrong with the last attempt, or why there was none
    next_at: datetime | None = None  # when the next attempt is due; None when there is none to come
    finished_at: datetime | None = None
    traceparent: str = ""  # of the request that its message came by

    @property
    def endpoint(self) -> str:
        """The name of what answers at its destination."""
        return self.destination.endpoint(self.tenant_id)


@dataclass(frozen=True, kw_only=True)
class WebhookAttempt:
    """One call to an endpoint, or the attempt to make one."""

    number: int  # from 1
    started_at: datetime
    finished_at: datetime | None  # None while it is under way
    url: str  # where it went; empty while it is under way
    status_code: int | None  # None when there was no HTTP answer
    milliseconds: int | None
    problem: str  # empty when the answer was 2xx
    excerpt: str  # the first 1 KiB of the answer's body


@dataclass(frozen=True, kw_only=True)
class WebhookLog:
    """A delivery with every attempt, in their order."""

    delivery: WebhookDelivery
    attempts: tuple[WebhookAttempt, ...]


@dataclass(frozen=True, kw_only=True)
class WebhookFilter:
    """Which deliveries to list; None means that it does not matter."""

    status: WebhookStatus | None = None
    message_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class CallResult:
    """What came of calling an endpoint."""

    status_code: int | None  # None when no answer came: no connection, no time, no valid certificate
    milliseconds: int
    problem: str = ""  # in one sentence, without secrets; empty when nothing went wrong but what the status says
    body: bytes = b""  # of the answer, as far as it was read
    retry_after_seconds: float | None = None

    @property
    def is_success(self) -> bool:
        """Whether the endpoint has taken the event: 2xx and nothing else."""
        return self.status_code is not None and 200 <= self.status_code < 300  # noqa: PLR2004  # RFC 9110, 15.3

    @property
    def excerpt(self) -> str:
        """The beginning of the answer, for the log: what is no UTF-8 is replaced, and so is U+0000."""
        return self.body[:MAX_EXCERPT_BYTES].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        # It was checked when it came in, and is checked again before the call; naming it must not fail in between.
        return url.lower()
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()

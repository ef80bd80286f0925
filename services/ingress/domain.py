"""What Ingress works with: an integration as it is now, a payload as it came, a message to submit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from servicekit.errors import IdempotencyMismatchError, ServiceError
from servicekit.sms_fitting import Overflow, TextChange

MAX_BODY_BYTES: Final = 262_144
# Counted in Unicode code points, as the sender's language counts a string.
MAX_REF_CHARACTERS: Final = 64
# A longer dedupe value goes on as its hash.
MAX_DEDUPE_CHARACTERS: Final = 256
# Of all texts of an answer together, as JSON: it has to pass the gateway, which takes 4 MiB.
MAX_ANSWERED_TEXT_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class MappingPaths:
    """Where an integration's payloads have their recipient, text and reference, as its owner wrote it.

    `dedupe` is where they have what tells that two of them mean the same message; empty for nowhere. `for_each` is
    where they have the items at which the other paths start; empty to start at the root, or at the elements of an array
    there.
    """

    to: str
    text: str
    ref: str = ""
    dedupe: str = ""
    for_each: str = ""
    default_region: str = ""


@dataclass(frozen=True, kw_only=True)
class IngressKey:
    """An address that leads to an integration, known by its hash only."""

    sha256: bytes = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class DedupeRule:
    """For how long a payload's dedupe value is remembered, and what is done about a repeat."""

    window_seconds: int
    mode: str


@dataclass(frozen=True, kw_only=True)
class TextLimit:
    """How many SMS parts a text may take (0: any number), and what becomes of one that takes more."""

    max_segments: int = 0
    on_overflow: Overflow = Overflow.REJECT

    @property
    def truncates(self) -> bool:
        """Whether a text that is too long is cut, however long it is."""
        return self.on_overflow is Overflow.TRUNCATE


NO_LIMIT: Final = TextLimit()


@dataclass(frozen=True, kw_only=True)
class OldSecret:
    """A signing secret that has been replaced, and when it no longer counts."""

    secret: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Integration:
    """One connected system, with all that it takes to turn its payloads into messages."""

    id: str
    tenant_id: str
    tenant_active: bool = True
    ingress_keys: tuple[IngressKey, ...] = ()
    paths: MappingPaths
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    old_secrets: tuple[OldSecret, ...] = ()
    signing_header: str = "X-Webhook-Signature"
    priority: str = ""
    on_unknown: str = ""
    dedupe: DedupeRule | None = None
    sender: str = ""
    tag: str = ""
    text_limit: TextLimit = NO_LIMIT
    revision: int = 0

    def answers_to(self, sha256: bytes, now: datetime) -> bool:
        """Tell whether an address leads here at this moment."""
        return any(
            key.sha256 == sha256 and (key.expires_at is None or now < key.expires_at) for key in self.ingress_keys
        )

    def secrets_at(self, now: datetime) -> tuple[str, ...]:
        """Return the secrets of which one must have signed a payload; none when signatures are not asked for."""
        return (*self.signing_secrets, *(old.secret for old in self.old_secrets if now < old.expires_at))


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A body as it came, and its headers by their names in lower case."""

    body: bytes = field(repr=False)
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def header(self, name: str) -> tuple[str, ...]:
        """Return every value of one header."""
        return self.headers.get(name.lower(), ())


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """The sender's own key for a request, and what the request's body was."""

    key: str
    request_sha256: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class DedupeKey:
    """What a payload is compared by, and under which rule."""

    value: str
    rule: DedupeRule


@dataclass(frozen=True, kw_only=True)
class NewMessage:
    """What Delivery is asked to send, and by what it knows a repeat. Empty words stand for Delivery's defaults."""

    tenant_id: str
    integration_id: str
    to: str
    text: str = field(repr=False)
    ref: str
    priority: str = ""
    on_unknown: str = ""
    sender: str = ""
    tag: str = ""
    idempotency: Idempotency | None = None
    dedupe: DedupeKey | None = None


@dataclass(frozen=True, kw_only=True)
class AcceptedMessage:
    """What Delivery has on disk: the message that was submitted, or the first one of which it is a repeat."""

    id: str
    status: str
    to: str
    text: str = field(repr=False)
    ref: str
    # The sender's key was known.
    replayed: bool = False
    # The dedupe value was known.
    duplicate: bool = False
    # What the integration's limit made of the text; None when it is as the payload had it.
    text_changed: TextChange | None = None


@dataclass(frozen=True, kw_only=True)
class NewBatch:
    """The messages of one payload, which are stored together or not at all.

    `places` says where each stands among all that the payload means, of which some may be no messages.
    """

    messages: tuple[NewMessage, ...]
    places: tuple[int, ...]
    idempotency: Idempotency | None = None


@dataclass(frozen=True, kw_only=True)
class StoredBatch:
    """What Delivery has on disk for a batch, message by message; IdempotencyMismatchError where it has nothing.

    That is so for a message that the first request with the same key did not have.
    """

    id: str
    replayed: bool
    outcomes: tuple[AcceptedMessage | IdempotencyMismatchError, ...]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A message of a batch that is none, and the place of its item in the payload."""

    index: int
    error: ServiceError


@dataclass(frozen=True, kw_only=True)
class AcceptedBatch:
    """The answer to a payload that means several messages, in the payload's order. At least one is accepted."""

    id: str
    replayed: bool
    outcomes: tuple[AcceptedMessage | Refused, ...]

    @property
    def refused(self) -> int:
        """How many are not accepted."""
        return sum(isinstance(outcome, Refused) for outcome in self.outcomes)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What would become of a message."""

    segments: int
    encoding: str
    carrier: str

"""What a definition of an HTTP carrier says, once it is read and found sound.

Documentation: docs/guides/new-carrier.md has every member's meaning and default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path

from services.delivery.carriers.base import Capability, FailureReason, Status
from services.delivery.carriers.http.places import Expectation, Format, Places
from services.delivery.carriers.http.templates import Member, Template

SettingValues = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an installation gives, or may give."""

    required: bool = False
    secret: bool = False
    several: bool = False
    is_url: bool = False
    choices: tuple[str, ...] = ()
    default: Template | None = None
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the carrier takes; None where it does not say."""

    text_characters: int | None = None
    segments: int | None = None
    in_flight: int | None = None
    segments_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class BasicAuth:
    """HTTP basic authentication (RFC 7617)."""

    user: Template
    password: Template


@dataclass(frozen=True, kw_only=True)
class HeaderAuth:
    """A secret in a header."""

    name: str
    value: Template


@dataclass(frozen=True, kw_only=True)
class QueryAuth:
    """A secret in the query."""

    name: str
    value: Template


Auth = BasicAuth | HeaderAuth | QueryAuth


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call to the carrier."""

    method: str
    url: Template
    headers: Mapping[str, Member] = field(default_factory=dict)
    auth: Auth | None = None
    query: Mapping[str, Member] = field(default_factory=dict)
    form: Mapping[str, Member] | None = None
    json: Member | None = None


class OutcomeWord(Enum):
    """What an answer that is no yes means for the message."""

    REFUSED = "refused"
    TRY_LATER = "try_later"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a code or an HTTP status means; None where it does not say."""

    outcome: OutcomeWord | None = None
    reason: FailureReason | None = None
    after_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How the answer to a send reads."""

    format: Format = Format.JSON
    taken_statuses: tuple[str, ...] = ("2xx",)
    taken_where: tuple[Expectation, ...] = ()
    message_id: Places = ()
    code: Places = ()
    detail: Places = ()
    retry_after: Places = ()
    codes: Mapping[str, Verdict] = field(default_factory=dict)
    statuses: Mapping[str, Verdict] = field(default_factory=dict)  # by `429` or `5xx`


@dataclass(frozen=True, kw_only=True)
class ReceiptStatus:
    """What a carrier's word for a status means; None for nothing of interest."""

    status: Status | None
    reason: FailureReason | None = None


@dataclass(frozen=True, kw_only=True)
class ReceiptPlaces:
    """How a receipt reads, in a callback or in the answer to a look-up."""

    status: Places
    statuses: Mapping[str, ReceiptStatus]
    message_id: Places = ()
    carrier_message_id: Places = ()
    code: Places = ()
    detail: Places = ()
    codes: Mapping[str, FailureReason] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """How the carrier is asked what became of a message."""

    request: Request
    format: Format
    receipt: ReceiptPlaces


@dataclass(frozen=True, kw_only=True)
class Verify:
    """How a callback is verified: a scheme of `callback_signatures`, and what it is given."""

    scheme: str
    texts: Mapping[str, Template] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    claims: Mapping[str, Template] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AnswerTemplate:
    """What the carrier wants to hear."""

    status: int = 204
    content_type: str = ""
    body: str = ""


@dataclass(frozen=True, kw_only=True)
class CallbackForm:
    """What receipts and inbound SMS have in common."""

    methods: tuple[str, ...]
    format: Format
    verify: Verify
    only: tuple[Expectation, ...]
    each: Places
    answer: AnswerTemplate


@dataclass(frozen=True, kw_only=True)
class StatusCallback:
    """How the carrier tells receipts."""

    form: CallbackForm
    receipt: ReceiptPlaces


@dataclass(frozen=True, kw_only=True)
class TextEncoding:
    """How the bytes of an inbound text are read: one way, or by a word that the callback has."""

    otherwise: str = "utf-8"
    by: Places = ()
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class InboundCallback:
    """How the carrier brings inbound SMS."""

    form: CallbackForm
    sender: Places
    recipient: Places
    text: Places
    id: Places = ()
    region: Template | None = None
    encoding: TextEncoding = TextEncoding()


@dataclass(frozen=True, kw_only=True)
class Definition:
    """An HTTP carrier as data."""

    name: str
    title: str
    documentation: tuple[str, ...]
    capability: Capability
    settings: Mapping[str, Setting]
    limits: Limits
    request: Request
    answer: Answer
    look_up: LookUp | None = None
    status_callback: StatusCallback | None = None
    inbound_callback: InboundCallback | None = None
    path: Path | None = None  # the file that it comes from

    @cached_property
    def addresses(self) -> frozenset[str]:
        """The names of the settings that are addresses, as templates have them."""
        return frozenset(f"settings.{name}" for name, setting in self.settings.items() if setting.is_url)

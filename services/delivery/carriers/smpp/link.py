"""What an installation says of its link to an SMSC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from servicekit import phone_numbers
from servicekit.errors import Issue, ValidationError
from services.delivery.carriers.base import Capability

MAX_WINDOW: Final = 1000
MAX_ADDRESS_LENGTH: Final = 20
MAX_OCTET: Final = 255
MAX_VALIDITY_MINUTES: Final = 63 * 7 * 24 * 60
LEAST_ENQUIRE_SECONDS: Final = 1
MOST_ENQUIRE_SECONDS: Final = 3600
# What the fields of a bind hold (4.1.1). A password has eight characters by the book, and more at many SMSCs.
LONGEST: Final = {"system_id": 15, "password": 64, "system_type": 12}


class BindAs(StrEnum):
    """How to bind."""

    TRANSCEIVER = "transceiver"  # one connection for both directions
    TRANSMITTER = "transmitter"  # sends only: no receipts, no replies
    PAIR = "pair"  # a transmitter and a receiver, for SMSCs without transceivers


class LongMessages(StrEnum):
    """How a text that does not fit into one SMS goes out."""

    UDH = "udh"  # we cut it: one `submit_sm` for each part, with a user data header
    PAYLOAD = "payload"  # the SMSC cuts it: one `submit_sm` with a `message_payload`


class Alphabet(StrEnum):
    """What the SMSC takes an octet for under its default data coding."""

    GSM7 = "gsm7"  # the GSM default alphabet, one septet an octet
    LATIN1 = "latin1"  # ISO 8859-1


class IdForm(StrEnum):
    """How the SMSC writes message ids."""

    AUTO = "auto"  # found out from the ids themselves
    HEX = "hex"
    DECIMAL = "decimal"
    TEXT = "text"  # no number at all


class AnswerParts(StrEnum):
    """When to answer a part of an inbound message of which others are missing."""

    WHEN_STORED = "when_stored"
    AT_ONCE = "at_once"  # for SMSCs that send the next part only after the answer to the last


@dataclass(frozen=True, kw_only=True)
class MessageIdFormat:
    """How message ids are written when a message is taken, and in its receipts."""

    submit: IdForm = IdForm.AUTO
    receipt: IdForm = IdForm.AUTO


@dataclass(frozen=True, kw_only=True)
class SmppLink:
    """Where the SMSC is and how it is to be talked to. Raises ValidationError with every wrong setting."""

    name: str
    sender: str
    host: str
    system_id: str
    password: str = field(default="", repr=False)
    port: int = 2775
    system_type: str = ""
    tls: bool = False
    ca_file: str = ""  # PEM; empty for the machine's own authorities
    bind: BindAs = BindAs.TRANSCEIVER
    window: int = 16  # `submit_sm` without an answer, at most
    enquire_link_seconds: float = 30.0  # after so much silence the SMSC is asked whether it is there
    long_messages: LongMessages = LongMessages.UDH
    message_id_format: MessageIdFormat = field(default_factory=MessageIdFormat)
    # Whether the SMSC promises a receipt for every message, with our user_message_reference in it: without that, it can
    # not be told that a receipt is of a message whose answer was lost, since it names the SMSC's own id.
    receipts: bool = False
    alphabet: Alphabet = Alphabet.GSM7
    data_coding: int = 0  # for texts in that alphabet
    source_ton: int | None = None  # None: from the look of the sender
    source_npi: int | None = None
    destination_ton: int | None = None
    destination_npi: int | None = None
    validity_minutes: int | None = None  # None: the SMSC's own
    answer_parts: AnswerParts = AnswerParts.WHEN_STORED
    default_region: str = ""  # ISO 3166: reads inbound numbers that come without their country

    def __post_init__(self) -> None:
        issues = [Issue(path=path, message=message) for path, holds, message in self._rules() if not holds]
        if issues:
            raise ValidationError(issues)

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Yield each rule: the setting, whether it holds, and what to say if it does not."""
        yield "host", bool(self.host), "is empty: give the SMSC's name or address"
        yield "port", 1 <= self.port <= 65_535, "must be from 1 to 65535"  # noqa: PLR2004  # TCP
        yield "system_id", bool(self.system_id), "is empty: the SMSC's operator gives it"
        for name, longest in LONGEST.items():
            text = getattr(self, name)
            yield name, len(text) <= longest, f"is longer than the {longest} characters that it may have"
            yield name, text.isascii() and text.isprintable(), "must be printable ASCII"
        yield "window", 1 <= self.window <= MAX_WINDOW, f"must be from 1 to {MAX_WINDOW}"
        heartbeat = LEAST_ENQUIRE_SECONDS <= self.enquire_link_seconds <= MOST_ENQUIRE_SECONDS
        yield "enquire_link_seconds", heartbeat, f"must be from {LEAST_ENQUIRE_SECONDS} to {MOST_ENQUIRE_SECONDS}"
        for name in ("data_coding", "source_ton", "source_npi", "destination_ton", "destination_npi"):
            yield name, 0 <= (getattr(self, name) or 0) <= MAX_OCTET, f"must be from 0 to {MAX_OCTET}"
        validity = self.validity_minutes is None or 1 <= self.validity_minutes <= MAX_VALIDITY_MINUTES
        yield "validity_minutes", validity, f"must be from 1 to {MAX_VALIDITY_MINUTES}, which is 63 weeks"
        hears = not self.receipts or self.bind is not BindAs.TRANSMITTER
        yield "receipts", hears, "a transmitter gets none: bind as transceiver or pair"
        yield "ca_file", not self.ca_file or self.tls, "is of no use without `tls: true`"
        region = not self.default_region or phone_numbers.is_region(self.default_region)
        yield "default_region", region, "is no ISO 3166 code of a region, such as SG"

    @property
    def capability(self) -> Capability:
        """What the link offers for the case that an answer is lost: SMPP has no key that drops a second message."""
        return Capability.RECONCILABLE if self.receipts else Capability.BLIND

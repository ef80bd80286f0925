"""What an SMSC's statuses mean: of a command that it refuses, and of a message that it took.

Documentation: SMPP 3.4 issue 1.2, 5.1.3 (command_status) and 5.2.28 (message_state). Codes from 0x400 are each SMSC's
own, and say nothing that holds elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.delivery.carriers.base import FailureReason, Status

OK: Final = 0x00
INVALID_COMMAND_LENGTH: Final = 0x02
INVALID_COMMAND_ID: Final = 0x03
TEMPORARY_APPLICATION_ERROR: Final = 0x64
PERMANENT_APPLICATION_ERROR: Final = 0x65
UNKNOWN_ERROR: Final = 0xFF
THROTTLED: Final = frozenset({0x14, 0x58})


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a refusal means: its name, the canonical reason, and whether the message may be tried again."""

    name: str
    reason: FailureReason
    retryable: bool = False


def _never(name: str, reason: FailureReason = FailureReason.CARRIER_REJECTED) -> Meaning:
    return Meaning(name=name, reason=reason)


def _later(name: str, reason: FailureReason = FailureReason.CARRIER_UNAVAILABLE) -> Meaning:
    return Meaning(name=name, reason=reason, retryable=True)


REFUSALS: Final[Mapping[int, Meaning]] = {
    0x01: _never("ESME_RINVMSGLEN"),
    0x02: _never("ESME_RINVCMDLEN"),
    0x03: _never("ESME_RINVCMDID"),
    0x04: _later("ESME_RINVBNDSTS"),
    0x05: _later("ESME_RALYBND"),
    0x06: _never("ESME_RINVPRTFLG"),
    0x07: _never("ESME_RINVREGDLVFLG"),
    0x08: _later("ESME_RSYSERR"),
    0x0A: _never("ESME_RINVSRCADR", FailureReason.SENDER_REJECTED),
    0x0B: _never("ESME_RINVDSTADR", FailureReason.INVALID_NUMBER),
    0x0C: _never("ESME_RINVMSGID"),
    0x0D: _later("ESME_RBINDFAIL", FailureReason.ACCOUNT_REJECTED),
    0x0E: _later("ESME_RINVPASWD", FailureReason.ACCOUNT_REJECTED),
    0x0F: _later("ESME_RINVSYSID", FailureReason.ACCOUNT_REJECTED),
    0x11: _never("ESME_RCANCELFAIL"),
    0x13: _never("ESME_RREPLACEFAIL"),
    0x14: _later("ESME_RMSGQFUL", FailureReason.THROTTLED),
    0x15: _never("ESME_RINVSERTYP"),
    0x33: _never("ESME_RINVNUMDESTS"),
    0x34: _never("ESME_RINVDLNAME"),
    0x40: _never("ESME_RINVDESTFLAG"),
    0x42: _never("ESME_RINVSUBREP"),
    0x43: _never("ESME_RINVESMCLASS"),
    0x44: _never("ESME_RCNTSUBDL"),
    0x45: _later("ESME_RSUBMITFAIL"),
    0x48: _never("ESME_RINVSRCTON", FailureReason.SENDER_REJECTED),
    0x49: _never("ESME_RINVSRCNPI", FailureReason.SENDER_REJECTED),
    0x50: _never("ESME_RINVDSTTON", FailureReason.INVALID_NUMBER),
    0x51: _never("ESME_RINVDSTNPI", FailureReason.INVALID_NUMBER),
    0x53: _later("ESME_RINVSYSTYP", FailureReason.ACCOUNT_REJECTED),
    0x54: _never("ESME_RINVREPFLAG"),
    0x55: _never("ESME_RINVNUMMSGS"),
    0x58: _later("ESME_RTHROTTLED", FailureReason.THROTTLED),
    0x61: _never("ESME_RINVSCHED"),
    0x62: _never("ESME_RINVEXPIRY"),
    0x63: _never("ESME_RINVDFTMSGID"),
    0x64: _later("ESME_RX_T_APPN"),
    0x65: _never("ESME_RX_P_APPN"),
    0x66: _never("ESME_RX_R_APPN"),
    0x67: _never("ESME_RQUERYFAIL"),
    0xC0: _never("ESME_RINVOPTPARSTREAM"),
    0xC1: _never("ESME_ROPTPARNOTALLWD"),
    0xC2: _never("ESME_RINVPARLEN"),
    0xC3: _never("ESME_RMISSINGOPTPARAM"),
    0xC4: _never("ESME_RINVOPTPARAMVAL"),
    0xFE: _never("ESME_RDELIVERYFAILURE", FailureReason.UNREACHABLE),
    0xFF: _later("ESME_RUNKNOWNERR"),
    # SMPP 5.0, 4.7.6, which some SMSCs use on 3.4 links too.
    0x100: _never("ESME_RSERTYPUNAUTH", FailureReason.ACCOUNT_REJECTED),
    0x101: _never("ESME_RPROHIBITED", FailureReason.DESTINATION_NOT_ALLOWED),
    0x102: _later("ESME_RSERTYPUNAVAIL"),
    0x103: _later("ESME_RSERTYPDENIED"),
    0x104: _never("ESME_RINVDCS"),
    0x105: _never("ESME_RINVSRCADDRSUBUNIT", FailureReason.SENDER_REJECTED),
    0x106: _never("ESME_RINVDSTADDRSUBUNIT", FailureReason.INVALID_NUMBER),
}


def meaning_of(status: int) -> Meaning:
    """Return what a refusal means; an SMSC's own code is a refusal for good, by that code."""
    return REFUSALS.get(status) or Meaning(name=f"0x{status:08X}", reason=FailureReason.CARRIER_REJECTED)


@dataclass(frozen=True, kw_only=True)
class StateMeaning:
    """What a message's state in a receipt means; no reason where it did not fail."""

    status: Status
    reason: FailureReason | None = None


_ON_ITS_WAY: Final = StateMeaning(status=Status.SENT)
_EXPIRED: Final = StateMeaning(status=Status.UNDELIVERED, reason=FailureReason.UNREACHABLE)
_GONE: Final = StateMeaning(status=Status.UNDELIVERED, reason=FailureReason.CARRIER_REJECTED)

# By the word in a receipt's text. UNKNOWN says that the SMSC lost track: neither delivered nor known not to be.
STATES: Final[Mapping[str, StateMeaning]] = {
    "SCHEDULED": _ON_ITS_WAY,
    "ENROUTE": _ON_ITS_WAY,
    "DELIVRD": StateMeaning(status=Status.DELIVERED),
    "EXPIRED": _EXPIRED,
    "DELETED": _GONE,
    "UNDELIV": StateMeaning(status=Status.UNDELIVERED, reason=FailureReason.UNREACHABLE),
    "ACCEPTD": _ON_ITS_WAY,
    "UNKNOWN": _ON_ITS_WAY,
    "REJECTD": _GONE,
}
# What some SMSCs write instead.
SPELLINGS: Final[Mapping[str, str]] = {
    "DELIVERED": "DELIVRD",
    "UNDELIVERABLE": "UNDELIV",
    "UNDELIVERED": "UNDELIV",
    "FAILED": "UNDELIV",
    "ACCEPTED": "ACCEPTD",
    "REJECTED": "REJECTD",
    "EN_ROUTE": "ENROUTE",
}
# By the number in the message_state parameter.
STATE_NAMES: Final = (
    "SCHEDULED",
    "ENROUTE",
    "DELIVRD",
    "EXPIRED",
    "DELETED",
    "UNDELIV",
    "ACCEPTD",
    "UNKNOWN",
    "REJECTD",
)

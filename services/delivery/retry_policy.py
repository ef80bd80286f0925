"""What to do after an attempt: a pure rule that returns a value, which the dispatcher then acts on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.delivery.carrier_health import LONGEST_PAUSE_SECONDS
from services.delivery.carriers.base import Capability, Refused, SendResult, Taken, TryLater
from services.delivery.domain import FINAL_EVERYWHERE, Failure, FailureReason, OnUnknown, Status

FIRST_DELAY_SECONDS: Final = 2.0
LONGEST_DELAY_SECONDS: Final = 600.0
EVIDENCE_SECONDS: Final = 90.0


@dataclass(frozen=True, kw_only=True)
class Settle:
    """Nothing more is to be sent: the message has this status."""

    status: Status
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Look at the message again then, and send it unless a receipt has told meanwhile what became of it."""

    at: datetime
    status: Status
    failure: Failure | None


NextStep = Settle | Retry


def next_step(
    result: SendResult,
    *,
    attempt_number: int,
    capability: Capability,
    on_unknown: OnUnknown,
    now: datetime,
    jitter: float,
    evidence_seconds: float = EVIDENCE_SECONDS,
    others: bool = False,
    fresh_others: bool = False,
) -> NextStep:
    """Decide what follows from a carrier's answer.

    `jitter` is a random number in [0, 1); `evidence_seconds` is how long a reconcilable carrier's word is waited for.
    `others` says that another carrier of the route may take the message, `fresh_others` that one can do so now.
    """
    match result:
        case Taken():
            return Settle(status=Status.SENT)
        case Refused(failure=failure):
            if others and failure.reason not in FINAL_EVERYWHERE:
                return Retry(at=now, status=Status.QUEUED, failure=failure)
            return Settle(status=Status.FAILED, failure=failure)
        case TryLater(failure=failure) if fresh_others:
            return Retry(at=now, status=Status.QUEUED, failure=failure)
        case TryLater(failure=failure, after_seconds=after_seconds):
            asked = min(after_seconds or 0.0, LONGEST_PAUSE_SECONDS)
            delay = max(backoff_seconds(attempt_number, jitter), asked)
            return Retry(at=now + timedelta(seconds=delay), status=Status.QUEUED, failure=failure)
        case _:
            least = evidence_seconds if capability is Capability.RECONCILABLE else 0.0
            delay = max(backoff_seconds(attempt_number, jitter), least)
            return _after_unknown(capability, on_unknown, now + timedelta(seconds=delay))


def backoff_seconds(attempt_number: int, jitter: float) -> float:
    """Return the wait after so many attempts: exponential, capped, with full jitter but never less than a tenth.

    Full jitter spreads a recovering carrier's load best (Brooker, "Exponential Backoff And Jitter", 2015).
    """
    ceiling = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt_number - 1, 30))
    return ceiling * (0.1 + 0.9 * jitter)


def _after_unknown(capability: Capability, on_unknown: OnUnknown, retry_at: datetime) -> NextStep:
    failure = Failure(reason=FailureReason.NO_ANSWER)
    if capability is Capability.BLIND and on_unknown is OnUnknown.HOLD:
        return Settle(status=Status.UNKNOWN, failure=failure)
    return Retry(at=retry_at, status=Status.SENDING, failure=failure)

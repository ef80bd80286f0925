"""What to do after an attempt: a pure rule that returns a value, which the dispatcher then acts on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.delivery.carriers.base import Capability, Refused, SendResult, Taken, TryLater
from services.delivery.domain import Failure, FailureReason, Status

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
    result: SendResult, *, attempt_number: int, capability: Capability, now: datetime, jitter: float
) -> NextStep:
    """Decide what follows from a carrier's answer.

    `jitter` is a random number in [0, 1).
    """
    match result:
        case Taken():
            return Settle(status=Status.SENT)
        case Refused(failure=failure):
            return Settle(status=Status.FAILED, failure=failure)
        case TryLater(failure=failure, after_seconds=after_seconds):
            delay = max(backoff_seconds(attempt_number, jitter), after_seconds or 0.0)
            return Retry(at=now + timedelta(seconds=delay), status=Status.QUEUED, failure=failure)
        case _:
            return _after_unknown(capability, attempt_number, now, jitter)


def backoff_seconds(attempt_number: int, jitter: float) -> float:
    """Return the wait after so many attempts: exponential, capped, with full jitter but never less than a tenth.

    Full jitter spreads a recovering carrier's load best (Brooker, "Exponential Backoff And Jitter", 2015).
    """
    ceiling = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt_number - 1, 30))
    return ceiling * (0.1 + 0.9 * jitter)


def _after_unknown(capability: Capability, attempt_number: int, now: datetime, jitter: float) -> Retry:
    failure = Failure(reason=FailureReason.NO_ANSWER)
    delay = backoff_seconds(attempt_number, jitter)
    if capability is Capability.RECONCILABLE:
        delay = max(delay, EVIDENCE_SECONDS)
    return Retry(at=now + timedelta(seconds=delay), status=Status.SENDING, failure=failure)

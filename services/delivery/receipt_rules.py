"""What a receipt does to its message: pure rules over what is known of the message's attempts and parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, NamedTuple

from services.delivery.domain import Outcome, Status, status_after_receipt

# How long, and how many of one carrier, receipts are kept of whose message nothing is known.
PARKED_FOR: Final = timedelta(hours=24)
PARKED_PER_CARRIER: Final = 10_000
# Nothing of such an attempt can reach the handset any more.
OVER: Final = frozenset({Outcome.REFUSED, Outcome.TRY_LATER})


class Place(NamedTuple):
    """What a receipt is about. Of two places the greater one is newer, and a part is greater than the whole."""

    message_id: str
    attempt: int
    part: int  # 0 for the whole


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a message stands, as far as receipts can move it and what decides how far."""

    status: Status
    attempts: Mapping[int, Outcome]  # by number
    parts: Mapping[tuple[int, int], Status]  # by attempt and part


def after_receipt(standing: Standing, *, attempt: int, part: int, told: Status) -> Standing:
    """Return how a message stands after a receipt for one of its attempts, or for a part of it.

    The parts of an attempt speak with one voice: `delivered` when all of them are, `undelivered` as soon as one is. Any
    attempt can say `delivered`; an older one can not say `undelivered` for a newer one that may still arrive.
    """
    parts = standing.parts
    if part:
        parts = {**parts, (attempt, part): status_after_receipt(parts[attempt, part], told)}
        told = rolled_up(status for (number, _), status in parts.items() if number == attempt)
    newest = max(standing.attempts)
    newer_may_arrive = attempt < newest and standing.attempts[newest] not in OVER
    status = status_after_receipt(standing.status, told, newer_may_arrive=newer_may_arrive)
    return replace(standing, status=status, parts=parts)


def rolled_up(parts: Iterable[Status]) -> Status:
    """Return the one status of an attempt that was taken in parts."""
    statuses = set(parts)
    if Status.UNDELIVERED in statuses:
        return Status.UNDELIVERED
    return Status.DELIVERED if statuses == {Status.DELIVERED} else Status.SENT

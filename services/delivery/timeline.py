"""A message's life as a list of steps, made from what is stored about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.delivery.domain import Attempt, History, Outcome, Receipt, Reply, Status


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step. What does not belong to its kind is None."""

    at: datetime
    event: str
    detail: str
    status: Status | None = None
    attempt: int | None = None
    carrier: str | None = None
    outcome: Outcome | None = None
    possible_duplicate: bool | None = None


def timeline(history: History) -> list[Step]:
    """Return every step, oldest first; steps of the same millisecond stay in the order in which they must have been."""
    message = history.message
    steps = [Step(at=message.created_at, event="accepted", status=Status.QUEUED, detail="accepted, and on disk")]
    for attempt in history.attempts:
        steps.extend(_attempt_steps(attempt))
    if message.status is Status.UNKNOWN:
        detail = "held: nobody can know whether the carrier has it; resolve it as sent, failed or resend"
        steps.append(Step(at=message.updated_at, event="held", status=Status.UNKNOWN, detail=detail))
    steps.extend(_receipt_step(receipt) for receipt in history.receipts)
    steps.extend(_reply_step(reply) for reply in history.replies)
    if message.status is Status.CANCELED:
        steps.append(
            Step(at=message.updated_at, event="canceled", status=Status.CANCELED, detail="stopped by its sender")
        )
    if message.status is Status.EXPIRED:
        detail = "no carrier took it before its validity ended"
        steps.append(Step(at=message.updated_at, event="expired", status=Status.EXPIRED, detail=detail))
    return sorted(steps, key=lambda step: step.at)


def _attempt_steps(attempt: Attempt) -> list[Step]:
    begun = Step(
        at=attempt.started_at,
        event="attempt_started",
        status=Status.SENDING,
        attempt=attempt.number,
        carrier=attempt.carrier,
        detail=f"handed to {attempt.carrier}",
    )
    if attempt.finished_at is None:
        return [begun]
    ended = Step(
        at=attempt.finished_at,
        event="attempt_finished",
        status=_STATUS_AFTER[attempt.outcome],
        attempt=attempt.number,
        carrier=attempt.carrier,
        outcome=attempt.outcome,
        detail=attempt.detail,
        possible_duplicate=attempt.possible_duplicate or None,
    )
    return [begun, ended]


_STATUS_AFTER = {
    Outcome.STARTED: Status.SENDING,
    Outcome.TAKEN: Status.SENT,
    Outcome.REFUSED: Status.FAILED,
    Outcome.TRY_LATER: Status.QUEUED,
    Outcome.UNKNOWN: Status.SENDING,
}


def _receipt_step(receipt: Receipt) -> Step:
    return Step(at=receipt.received_at, event="receipt", status=receipt.status, detail=receipt.detail)


def _reply_step(reply: Reply) -> Step:
    return Step(at=reply.received_at, event="reply", carrier=reply.carrier, detail=reply.text)

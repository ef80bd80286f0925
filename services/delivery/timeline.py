"""A message's life as a list of steps, made from what is stored about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.delivery.domain import (
    RESOLVED_STATUS,
    Attempt,
    Failure,
    History,
    Outcome,
    RecordedReceipt,
    Reply,
    Resolution,
    Status,
)
from services.delivery.webhooks import DestinationKind, WebhookAttempt, WebhookLog, WebhookStatus

MAX_DETAIL_LENGTH: Final = 500


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
    webhook_delivery_id: str | None = None


def timeline(history: History, webhooks: Sequence[WebhookLog] = ()) -> list[Step]:
    """Return every step, oldest first; steps of the same millisecond stay in the order in which they must have been."""
    message = history.message
    steps = [Step(at=message.created_at, event="accepted", status=Status.QUEUED, detail="accepted, and on disk")]
    for attempt in history.attempts:
        steps.extend(_attempt_steps(attempt))
    for resolved in history.resolved:
        steps.append(_held_step(resolved.held_at))
        if resolved.resolution:
            steps.append(_resolved_step(resolved.at, resolved.resolution))
    if message.status is Status.UNKNOWN:
        steps.append(_held_step(message.updated_at))
    steps.extend(_receipt_step(receipt, history.attempts) for receipt in history.receipts)
    steps.extend(_reply_step(reply) for reply in history.replies)
    if message.status is Status.CANCELED:
        steps.append(
            Step(at=message.updated_at, event="canceled", status=Status.CANCELED, detail="stopped by its sender")
        )
    if message.status is Status.EXPIRED:
        detail = "no carrier took it before its validity ended"
        steps.append(Step(at=message.updated_at, event="expired", status=Status.EXPIRED, detail=detail))
    if message.status is Status.SUPPRESSED:
        detail = "not sent: the recipient has opted out of messages from this sender"
        steps.append(Step(at=message.updated_at, event="suppressed", status=Status.SUPPRESSED, detail=detail))
    for log in webhooks:
        steps.extend(_webhook_steps(log))
    return sorted(steps, key=lambda step: step.at)


def _attempt_steps(attempt: Attempt) -> list[Step]:
    begun = Step(
        at=attempt.started_at,
        event="attempt_started",
        status=Status.SENDING,
        attempt=attempt.number,
        carrier=attempt.carrier,
        detail=f"handed to {attempt.carrier}" + (f": {attempt.why}" if attempt.why else ""),
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
        # What nobody knows is no failure that a carrier told of.
        detail=_with_failure(attempt.detail, None if attempt.outcome is Outcome.UNKNOWN else attempt.failure),
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


def _held_step(at: datetime) -> Step:
    detail = "held: nobody can know whether the carrier has it; resolve it as sent, failed or resend"
    return Step(at=at, event="held", status=Status.UNKNOWN, detail=detail)


def _resolved_step(at: datetime, resolution: Resolution) -> Step:
    return Step(at=at, event="resolved", status=RESOLVED_STATUS[resolution], detail=_DECIDED[resolution])


_DECIDED = {
    Resolution.SENT: "resolved as sent: the carrier had it",
    Resolution.FAILED: "resolved as failed: the carrier had it not",
    Resolution.RESEND: "resolved as resend: it goes again, whether the carrier had it or not",
}


def _receipt_step(receipt: RecordedReceipt, attempts: Sequence[Attempt]) -> Step:
    part = f"part {receipt.part} of {receipt.parts}: " if receipt.part else ""
    return Step(
        at=receipt.received_at,
        event="receipt",
        status=receipt.status,
        attempt=receipt.attempt or None,
        carrier=_carrier_of(receipt, attempts),
        detail=part + _with_failure(receipt.detail, receipt.failure),
    )


def _carrier_of(receipt: RecordedReceipt, attempts: Sequence[Attempt]) -> str | None:
    # A receipt of before its attempt was kept is any attempt's, and its carrier is known when there was but one.
    about = {attempt.carrier for attempt in attempts if receipt.attempt in (0, attempt.number)}
    return about.pop() if len(about) == 1 else None


def _with_failure(detail: str, failure: Failure | None) -> str:
    if failure is None:
        return detail
    codes = failure.reason.code + (f", carrier code {failure.carrier_code}" if failure.carrier_code else "")
    return f"{detail} ({codes})" if detail else codes


def _reply_step(reply: Reply) -> Step:
    return Step(at=reply.received_at, event="reply", carrier=reply.carrier, detail=reply.text)


def _webhook_steps(log: WebhookLog) -> list[Step]:
    delivery = log.delivery
    what = f"{delivery.event} to {_WHOSE_URL[delivery.destination.kind]}"
    steps = [
        Step(
            at=attempt.finished_at or attempt.started_at,
            event="webhook_attempt",
            attempt=attempt.number,
            detail=f"{what}: {_answer(attempt)}"[:MAX_DETAIL_LENGTH],
            webhook_delivery_id=delivery.id,
        )
        for attempt in log.attempts
    ]
    if delivery.finished_at and delivery.status in _LAST_STEP:
        why = f": {delivery.problem}" if delivery.problem else ""
        step = Step(
            at=delivery.finished_at,
            event=_LAST_STEP[delivery.status],
            detail=f"{what}{why}"[:MAX_DETAIL_LENGTH],
            webhook_delivery_id=delivery.id,
        )
        steps.append(step)
    return steps


_WHOSE_URL = {
    DestinationKind.INTEGRATION: "the integration's webhook",
    DestinationKind.TENANT: "the tenant's webhook",
    DestinationKind.CALLBACK: "the message's callback",
}
_LAST_STEP = {
    WebhookStatus.DELIVERED: "webhook_delivered",
    WebhookStatus.FAILED: "webhook_failed",
    WebhookStatus.MISSED: "webhook_missed",
}


def _answer(attempt: WebhookAttempt) -> str:
    if attempt.finished_at is None:
        return "under way"
    if attempt.status_code is None:
        return attempt.problem
    return f"answered {attempt.status_code} in {attempt.milliseconds} ms"

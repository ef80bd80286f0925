"""Rows to domain objects and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.sms_text import Encoding
from services.delivery.domain import (
    REASON_BY_CODE,
    Attempt,
    Failure,
    Message,
    NewMessage,
    OnUnknown,
    Outcome,
    Priority,
    Receipt,
    RecordedReceipt,
    Reply,
    Resolution,
    Resolved,
    Status,
    shard_of,
)
from services.delivery.receipt_rules import Place
from services.delivery.store import FinishedAttempt, StartedAttempt

_STATUSES: Final = {each.value: each for each in Status}
_ENCODINGS: Final = {each.value: each for each in Encoding}
_PRIORITIES: Final = {each.value: each for each in Priority}
_POLICIES: Final = {each.value: each for each in OnUnknown}
_QUEUED: Final = Status.QUEUED.value
_SENDING: Final = Status.SENDING.value
_STARTED: Final = Outcome.STARTED.value


def new_message(message: NewMessage, begun: StartedAttempt | None, now_ms: int) -> tuple[Any, ...]:
    """Return the row of a message that was just accepted, in the order of the table's columns.

    `begun` is the attempt that begins in the same moment.
    """
    created_at_ms = to_milliseconds(message.created_at)
    status, sender, carrier, attempts, updated_at_ms = (
        (_SENDING, begun.sender, begun.carrier, begun.number, now_ms) if begun else (_QUEUED, "", "", 0, created_at_ms)
    )
    return (
        shard_of(message.id),
        message.id,
        message.tenant_id,
        message.integration_id,
        status,
        message.to,
        sender,
        message.text,
        message.ref,
        message.callback,
        carrier,
        "",  # carrier_message_id
        message.segments,
        message.encoding.value,
        attempts,
        "",  # failure_reason
        "",  # failure_code
        created_at_ms,
        updated_at_ms,
        to_milliseconds(message.valid_until),
        message.priority.value,
        message.on_unknown.value,
        None,  # sent_at_ms
        None,  # delivered_at_ms
        message.wanted_sender,
        message.tag,
        message.despite_opt_out,
        message.request_id,
        message.traceparent,
    )


def new_attempt(attempt: StartedAttempt, started_at_ms: int) -> tuple[Any, ...]:
    """Return the ledger's row of an attempt that is about to be made, in the order of the table's columns."""
    return (
        shard_of(attempt.message.id),
        attempt.message.id,
        attempt.number,
        attempt.carrier,
        _STARTED,
        attempt.token,
        started_at_ms,
        None,  # finished_at_ms
        "",  # detail
        bool(attempt.doubles),  # possible_duplicate
        attempt.sender,
        attempt.why,
        "",  # failure_reason
        "",  # failure_code
        "",  # carrier_message_id
    )


def finished_attempt(attempt: FinishedAttempt) -> tuple[Any, ...]:
    """Return what an attempt's outcome changes in the ledger, behind what names the attempt."""
    return (
        shard_of(attempt.message_id),
        attempt.message_id,
        attempt.number,
        attempt.outcome.value,
        to_milliseconds(attempt.finished_at),
        attempt.detail,
        *_failure_values(attempt.failure),
        attempt.carrier_message_id,
    )


def parts(message_id: str, number: int, carrier: str, part_ids: Sequence[str]) -> list[dict[str, object]]:
    """Return the rows of an attempt that was taken in parts; none when it was taken as a whole."""
    return [
        {
            "shard": shard_of(message_id),
            "message_id": message_id,
            "attempt": number,
            "part": part,
            "carrier": carrier,
            "carrier_message_id": carrier_message_id,
            "status": Status.SENT.value,
        }
        for part, carrier_message_id in enumerate(part_ids, 1)
    ]


def finished_message(attempt: FinishedAttempt) -> tuple[Any, ...]:
    """Return what an attempt's outcome changes in its message, behind what names the message."""
    finished_at_ms = to_milliseconds(attempt.finished_at)
    return (
        shard_of(attempt.message_id),
        attempt.message_id,
        attempt.status.value,
        *_failure_values(attempt.failure),
        attempt.carrier_message_id,
        finished_at_ms if attempt.outcome is Outcome.TAKEN else None,
        finished_at_ms,
    )


def new_receipt(receipt: Receipt, place: Place) -> tuple[Any, ...]:
    """Return the row of a receipt about a message, or a part of it, in the order of its columns."""
    return (
        shard_of(place.message_id),
        *place,
        receipt.status.value,
        *_failure_values(receipt.failure),
        receipt.detail,
        to_milliseconds(receipt.received_at),
    )


def parked_receipt(receipt: Receipt) -> dict[str, object]:
    """Return the row of a receipt whose message is not known yet."""
    return {
        "carrier": receipt.carrier,
        "carrier_message_id": receipt.carrier_message_id,
        "message_id": receipt.message_id,
        "status": receipt.status.value,
        **failure_columns(receipt.failure),
        "detail": receipt.detail,
        "received_at_ms": to_milliseconds(receipt.received_at),
    }


def message_after_receipt(message_id: str, receipt: Receipt, status: Status) -> tuple[Any, ...]:
    """Return what a receipt changes in its message: its key, then what its columns become."""
    received_at_ms = to_milliseconds(receipt.received_at)
    return (
        shard_of(message_id),
        message_id,
        status.value,
        *_failure_values(receipt.failure),
        received_at_ms,
        received_at_ms if status is Status.DELIVERED else None,
    )


def settled_by_receipt(message_id: str, held_at_ms: int, receipt: Receipt) -> tuple[Any, ...]:
    """Return the row of a held message that a receipt settles, its values in the order of the table's columns."""
    return shard_of(message_id), message_id, to_milliseconds(receipt.received_at), held_at_ms, ""


def failure_columns(failure: Failure | None) -> dict[str, str]:
    """Return the two columns of a failure, empty for none."""
    reason, code = _failure_values(failure)
    return {"failure_reason": reason, "failure_code": code}


def _failure_values(failure: Failure | None) -> tuple[str, str]:
    return (failure.reason.code, failure.carrier_code) if failure else ("", "")


def message(row: Sequence[Any]) -> Message:
    """Return the message of a whole row."""
    (
        _, message_id, tenant_id, integration_id, status, recipient, sender, body, ref, callback, carrier,
        carrier_message_id, segments, encoding, attempts, failure_reason, failure_code, created_at_ms, updated_at_ms,
        valid_until_ms, priority, on_unknown, sent_at_ms, delivered_at_ms, wanted_sender, tag, despite_opt_out,
        request_id, traceparent,
    ) = row  # fmt: skip  # by place, because names take ten times as long
    return Message(
        id=message_id,
        tenant_id=tenant_id,
        integration_id=integration_id,
        status=_STATUSES[status],
        to=recipient,
        sender=sender,
        text=body,
        ref=ref,
        callback=callback,
        carrier=carrier,
        carrier_message_id=carrier_message_id,
        segments=segments,
        encoding=_ENCODINGS[encoding],
        attempts=attempts,
        failure=_failure(failure_reason, failure_code),
        created_at=from_milliseconds(created_at_ms),
        updated_at=from_milliseconds(updated_at_ms),
        valid_until=from_milliseconds(valid_until_ms),
        priority=_PRIORITIES[priority],
        on_unknown=_POLICIES[on_unknown],
        wanted_sender=wanted_sender,
        tag=tag,
        despite_opt_out=bool(despite_opt_out),
        request_id=request_id,
        traceparent=traceparent,
        sent_at=None if sent_at_ms is None else from_milliseconds(sent_at_ms),
        delivered_at=None if delivered_at_ms is None else from_milliseconds(delivered_at_ms),
    )


def attempt(row: Sequence[Any]) -> Attempt:
    """Return the attempt of a whole row."""
    (
        _, _, number, carrier, outcome, _, started_at_ms, finished_at_ms, detail, possible_duplicate, sender, why,
        failure_reason, failure_code, _,
    ) = row  # fmt: skip  # by place, as above
    return Attempt(
        number=number,
        carrier=carrier,
        outcome=Outcome(outcome),
        started_at=from_milliseconds(started_at_ms),
        finished_at=None if finished_at_ms is None else from_milliseconds(finished_at_ms),
        detail=detail,
        possible_duplicate=bool(possible_duplicate),
        sender=sender,
        why=why,
        failure=_failure(failure_reason, failure_code),
    )


def parked(row: Sequence[Any]) -> Receipt:
    """Return the parked receipt of a row, in the order of the table's columns."""
    carrier, carrier_message_id, message_id, status, reason, code, detail, received_at_ms = row
    return Receipt(
        message_id=message_id,
        carrier=carrier,
        carrier_message_id=carrier_message_id,
        status=Status(status),
        failure=_failure(reason, code),
        detail=detail,
        received_at=from_milliseconds(received_at_ms),
    )


def receipt(row: Row[Any], parts: int) -> RecordedReceipt:
    """Return the receipt of a row, about an attempt that was taken in so many parts."""
    return RecordedReceipt(
        attempt=row.attempt,
        part=row.part,
        parts=parts,
        status=Status(row.status),
        failure=_failure(row.failure_reason, row.failure_code),
        detail=row.detail,
        received_at=from_milliseconds(row.received_at_ms),
    )


def reply(row: Row[Any]) -> Reply:
    """Return the reply of a row."""
    return Reply(
        id=row.id,
        carrier=row.carrier,
        carrier_reply_id=row.carrier_reply_id,
        sender=row.sender,
        recipient=row.recipient,
        text=row.body,
        received_at=from_milliseconds(row.received_at_ms),
    )


def resolved(row: Row[Any]) -> Resolved:
    """Return how a held message was settled."""
    return Resolved(
        held_at=from_milliseconds(row.held_at_ms),
        at=from_milliseconds(row.resolved_at_ms),
        resolution=Resolution(row.resolution) if row.resolution else None,
    )


def _failure(reason: str, code: str) -> Failure | None:
    return Failure(reason=REASON_BY_CODE[reason], carrier_code=code) if reason else None

"""Rows to domain objects and back."""

from __future__ import annotations

from typing import Any

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
    Status,
    shard_of,
)
from services.delivery.receipt_rules import Place
from services.delivery.store import FinishedAttempt, StartedAttempt


def new_message(message: NewMessage) -> dict[str, object]:
    """Return the row of a message that was just accepted."""
    created_at_ms = to_milliseconds(message.created_at)
    return {
        "shard": shard_of(message.id),
        "id": message.id,
        "tenant_id": message.tenant_id,
        "integration_id": message.integration_id,
        "status": Status.QUEUED.value,
        "recipient": message.to,
        "sender": "",
        "body": message.text,
        "ref": message.ref,
        "callback": message.callback,
        "carrier": "",
        "carrier_message_id": "",
        "segments": message.segments,
        "encoding": message.encoding.value,
        "attempts": 0,
        "failure_reason": "",
        "failure_code": "",
        "created_at_ms": created_at_ms,
        "updated_at_ms": created_at_ms,
        "valid_until_ms": to_milliseconds(message.valid_until),
        "priority": message.priority.value,
        "on_unknown": message.on_unknown.value,
        "wanted_sender": message.wanted_sender,
        "tag": message.tag,
        "despite_opt_out": message.despite_opt_out,
        "request_id": message.request_id,
        "traceparent": message.traceparent,
        "sent_at_ms": None,
        "delivered_at_ms": None,
    }


def new_attempt(attempt: StartedAttempt, started_at_ms: int) -> dict[str, object]:
    """Return the ledger's row of an attempt that is about to be made."""
    return {
        "shard": shard_of(attempt.message.id),
        "message_id": attempt.message.id,
        "number": attempt.number,
        "carrier": attempt.carrier,
        "outcome": Outcome.STARTED.value,
        "token": attempt.token,
        "started_at_ms": started_at_ms,
        "finished_at_ms": None,
        "detail": "",
        "possible_duplicate": attempt.possible_duplicate,
        "sender": attempt.sender,
        "why": attempt.why,
        "failure_reason": "",
        "failure_code": "",
        "carrier_message_id": "",
    }


def finished_attempt(attempt: FinishedAttempt) -> dict[str, object]:
    """Return what an attempt's outcome changes in the ledger."""
    failure = failure_columns(attempt.failure)
    return {
        "at_shard": shard_of(attempt.message_id),
        "at_id": attempt.message_id,
        "at_number": attempt.number,
        "to_outcome": attempt.outcome.value,
        "to_finished_at_ms": to_milliseconds(attempt.finished_at),
        "to_detail": attempt.detail,
        "to_reason": failure["failure_reason"],
        "to_code": failure["failure_code"],
        "to_carrier_message_id": attempt.carrier_message_id,
    }


def parts(attempt: FinishedAttempt) -> list[dict[str, object]]:
    """Return the rows of a message that was taken in parts; none when it was taken as a whole."""
    return [
        {
            "shard": shard_of(attempt.message_id),
            "message_id": attempt.message_id,
            "attempt": attempt.number,
            "part": part,
            "carrier": attempt.carrier,
            "carrier_message_id": carrier_message_id,
            "status": Status.SENT.value,
        }
        for part, carrier_message_id in enumerate(attempt.part_ids, 1)
    ]


def finished_message(attempt: FinishedAttempt) -> dict[str, object]:
    """Return what an attempt's outcome changes in its message."""
    finished_at_ms = to_milliseconds(attempt.finished_at)
    failure = failure_columns(attempt.failure)
    return {
        "at_shard": shard_of(attempt.message_id),
        "at_id": attempt.message_id,
        "to_status": attempt.status.value,
        "to_reason": failure["failure_reason"],
        "to_code": failure["failure_code"],
        "to_carrier_message_id": attempt.carrier_message_id,
        "to_sent_at_ms": finished_at_ms if attempt.outcome is Outcome.TAKEN else None,
        "to_updated_at_ms": finished_at_ms,
    }


def new_receipt(receipt: Receipt, place: Place) -> dict[str, object]:
    """Return the row of a receipt about a message, or a part of it."""
    return {
        "shard": shard_of(place.message_id),
        "message_id": place.message_id,
        "attempt": place.attempt,
        "part": place.part,
        "status": receipt.status.value,
        **failure_columns(receipt.failure),
        "detail": receipt.detail,
        "received_at_ms": to_milliseconds(receipt.received_at),
    }


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


def message_after_receipt(message_id: str, receipt: Receipt, status: Status) -> dict[str, object]:
    """Return what a receipt changes in its message."""
    received_at_ms = to_milliseconds(receipt.received_at)
    failure = failure_columns(receipt.failure)
    return {
        "at_shard": shard_of(message_id),
        "at_id": message_id,
        "to_status": status.value,
        "to_reason": failure["failure_reason"],
        "to_code": failure["failure_code"],
        "to_updated_at_ms": received_at_ms,
        "to_delivered_at_ms": received_at_ms if status is Status.DELIVERED else None,
    }


def failure_columns(failure: Failure | None) -> dict[str, str]:
    """Return the two columns of a failure, empty for none."""
    return {
        "failure_reason": failure.reason.code if failure else "",
        "failure_code": failure.carrier_code if failure else "",
    }


def message(row: Row[Any]) -> Message:
    """Return the message of a row."""
    return Message(
        id=row.id,
        tenant_id=row.tenant_id,
        integration_id=row.integration_id,
        status=Status(row.status),
        to=row.recipient,
        sender=row.sender,
        text=row.body,
        ref=row.ref,
        callback=row.callback,
        carrier=row.carrier,
        carrier_message_id=row.carrier_message_id,
        segments=row.segments,
        encoding=Encoding(row.encoding),
        attempts=row.attempts,
        failure=_failure(row),
        created_at=from_milliseconds(row.created_at_ms),
        updated_at=from_milliseconds(row.updated_at_ms),
        valid_until=from_milliseconds(row.valid_until_ms),
        priority=Priority(row.priority),
        on_unknown=OnUnknown(row.on_unknown),
        wanted_sender=row.wanted_sender,
        tag=row.tag,
        despite_opt_out=row.despite_opt_out,
        request_id=row.request_id,
        traceparent=row.traceparent,
        sent_at=None if row.sent_at_ms is None else from_milliseconds(row.sent_at_ms),
        delivered_at=None if row.delivered_at_ms is None else from_milliseconds(row.delivered_at_ms),
    )


def attempt(row: Row[Any]) -> Attempt:
    """Return the attempt of a row."""
    return Attempt(
        number=row.number,
        carrier=row.carrier,
        outcome=Outcome(row.outcome),
        started_at=from_milliseconds(row.started_at_ms),
        finished_at=None if row.finished_at_ms is None else from_milliseconds(row.finished_at_ms),
        detail=row.detail,
        possible_duplicate=row.possible_duplicate,
        sender=row.sender,
        why=row.why,
        failure=_failure(row),
    )


def parked(row: Row[Any]) -> Receipt:
    """Return the parked receipt of a row."""
    return Receipt(
        message_id=row.message_id,
        carrier=row.carrier,
        carrier_message_id=row.carrier_message_id,
        status=Status(row.status),
        failure=_failure(row),
        detail=row.detail,
        received_at=from_milliseconds(row.received_at_ms),
    )


def receipt(row: Row[Any], parts: int) -> RecordedReceipt:
    """Return the receipt of a row, about an attempt that was taken in so many parts."""
    return RecordedReceipt(
        attempt=row.attempt,
        part=row.part,
        parts=parts,
        status=Status(row.status),
        failure=_failure(row),
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


def _failure(row: Row[Any]) -> Failure | None:
    if not row.failure_reason:
        return None
    return Failure(reason=REASON_BY_CODE[row.failure_reason], carrier_code=row.failure_code)

"""How long carriers take to tell what became of a message: for the metrics, and in the message's trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from servicekit import tracing
from services.delivery import metrics
from services.delivery.domain import Message, Status

_LAST_WORDS: Final = (Status.DELIVERED, Status.UNDELIVERED)


def measure_receipts(moved: Sequence[Message]) -> None:
    """Count the time since a carrier took each message that a receipt has just ended."""
    for message in moved:
        tracing.record(
            "receipt",
            parent=message.traceparent,
            started_at=message.updated_at,
            carrier=message.carrier,
            message_id=message.id,
            status=message.status.value,
        )
        if message.status in _LAST_WORDS and message.sent_at:
            metrics.receipt_lag(message.carrier).observe((message.updated_at - message.sent_at).total_seconds())

"""Rows of replies and opt-outs to domain objects and back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from servicekit.clock import from_milliseconds, to_milliseconds
from services.delivery.replies import AnsweredMessage, OptOut, OptOutSource, ReceivedReply


def new_reply(received: ReceivedReply, carrier_reply_id: str) -> dict[str, object]:
    """Return the row of a reply that has just come, with what it was matched to."""
    answered = received.in_reply_to
    return {
        "id": received.id,
        "tenant_id": received.tenant_id or None,
        "message_id": answered.id if answered else None,
        "carrier": received.carrier,
        "carrier_reply_id": carrier_reply_id,
        "sender": received.sender,
        "recipient": received.recipient,
        "body": received.text,
        "received_at_ms": to_milliseconds(received.received_at),
        "integration_id": answered.integration_id if answered else "",
        "ref": answered.ref if answered else "",
        "sent_at_ms": to_milliseconds(answered.sent_at) if answered else None,
        "candidates": " ".join(received.other_candidates),
        "keyword": received.keyword,
    }


def received_reply(row: Row[Any]) -> ReceivedReply:
    """Return the reply of a row, with what it was matched to."""
    return ReceivedReply(
        id=row.id,
        tenant_id=row.tenant_id or "",
        sender=row.sender,
        recipient=row.recipient,
        text=row.body,
        received_at=from_milliseconds(row.received_at_ms),
        in_reply_to=AnsweredMessage(
            id=row.message_id,
            ref=row.ref,
            integration_id=row.integration_id,
            sent_at=from_milliseconds(row.sent_at_ms),
        )
        if row.message_id
        else None,
        other_candidates=tuple(row.candidates.split()),
        keyword=row.keyword,
        carrier=row.carrier,
    )


def new_opt_out(opt_out: OptOut) -> dict[str, object]:
    """Return the row of an opt-out."""
    return {
        "id": opt_out.id,
        "tenant_id": opt_out.tenant_id or None,
        "ours": opt_out.ours,
        "theirs": opt_out.theirs,
        "source": opt_out.source.value,
        "word": opt_out.word,
        "reply_id": opt_out.reply_id,
        "created_at_ms": to_milliseconds(opt_out.created_at),
    }


def opt_out(row: Row[Any]) -> OptOut:
    """Return the opt-out of a row."""
    return OptOut(
        id=row.id,
        tenant_id=row.tenant_id or "",
        ours=row.ours,
        theirs=row.theirs,
        source=OptOutSource(row.source),
        word=row.word,
        reply_id=row.reply_id,
        created_at=from_milliseconds(row.created_at_ms),
    )

"""Slots in SQL: attempts that are to begin find theirs under the lock of the lines that they wait in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from servicekit.clock import from_microseconds
from servicekit.connection import Connection
from services.delivery import sql_carriers
from services.delivery.pacing import Limits, Slots, Wish, find_slots, lines_of
from services.delivery.store import Begin, Decision, DueMessage, Leave, Postpone

Plan = Sequence[tuple[DueMessage, Decision]]


class Paced(NamedTuple):
    """What becomes of a plan under the carriers' limits."""

    plan: Plan
    go_at: Mapping[str, datetime]  # the slots of what begins, by the messages' ids
    full_until: Mapping[str, datetime]  # carriers without a free slot before a time


async def paced(connection: Connection, plan: Plan, limits: Mapping[str, Limits], now_ms: int) -> Paced:
    """Find slots for what is to begin, and move the lines on."""
    wishes = [
        Wish(entry.message.id, decision.carrier, decision.sender, entry.message.segments)
        for entry, decision in plan
        if isinstance(decision, Begin)
    ]
    lines = lines_of(wishes, limits)
    before = await sql_carriers.lock_lines(connection, sorted(lines)) if lines else {}
    slots = find_slots(wishes, limits, before, now_ms * 1000)
    await sql_carriers.move_lines(connection, before, list(slots.lines.items()))
    return Paced(
        plan=[(entry, _decided(entry, decision, slots)) for entry, decision in plan],
        go_at={message_id: from_microseconds(moment) for message_id, moment in slots.go_at_us.items()},
        full_until={carrier: from_microseconds(until) for carrier, until in slots.full_until_us.items()},
    )


def _decided(entry: DueMessage, decision: Decision, slots: Slots) -> Decision:
    message_id = entry.message.id
    if not isinstance(decision, Begin) or message_id in slots.go_at_us:
        return decision
    if message_id in slots.put_off_until_us:
        return Postpone(until=from_microseconds(slots.put_off_until_us[message_id]))
    return Leave()

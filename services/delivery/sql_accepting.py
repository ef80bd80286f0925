"""New messages in SQL: their keys, their places in the queue, and the first attempts of those that find it empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.hot_statements import inserting
from services.delivery import rows, sql_keys, sql_ledger, sql_messages, sql_opt_outs, sql_queue, sql_senders
from services.delivery.domain import Accepted, IdempotencyKey, Message, NewMessage
from services.delivery.fair_order import lane_of
from services.delivery.sql_keys import Repeat
from services.delivery.sql_queue import Entry, Lease
from services.delivery.sql_senders import Sender
from services.delivery.store import Added, Begin, Beginning, DueMessage, StartedAttempt
from services.delivery.tables import MESSAGES

_ADD: Final = inserting(MESSAGES)


async def add_and_begin(
    connection: Connection,
    messages: Sequence[NewMessage],
    beginnings: Mapping[str, Beginning],
    *,
    now_ms: int,
    lease_until_ms: int,
    senders: frozenset[Sender],
) -> tuple[Added, frozenset[Sender]]:
    """Claim keys, see what waits, then insert messages, due rows and attempts.

    `senders` are those that are known to be on disk; they are returned with those that are now.
    """
    known = await _repeats(connection, messages)
    fresh = [message for message in messages if _is_stored(message, known.get(message.id))]
    entries = [_queue_entry(message) for message in fresh]
    queues = await sql_queue.look(connection, entries)
    free = [it for e in entries if queues[e.queue].is_empty and (it := beginnings.get(e.message_id))]
    started = {attempt.message.id: attempt for attempt in await _first_attempts(connection, free)}
    leases = {id_: Lease(attempt.token, lease_until_ms) for id_, attempt in started.items()}
    await _ADD.each(connection, [rows.new_message(each, started.get(each.id), now_ms) for each in fresh])
    await sql_queue.enter(connection, entries, queues, leases)
    attempts = list(started.values())
    await sql_ledger.open_attempts(connection, attempts, now_ms)
    senders = await sql_senders.keep(connection, attempts, known=senders)
    firsts = await _first_messages(connection, known)
    answers = [_answer(message, known.get(message.id), firsts) for message in messages]
    waiting = frozenset(message.route for message in fresh if message.id not in started)
    return Added(answers=answers, started=attempts, waiting=waiting), senders


async def first_answer(connection: Connection, tenant_id: str, key: IdempotencyKey, now_ms: int) -> Accepted | None:
    """Return the answer to who holds the key, as a repeat gets it; None when it has no message with this body."""
    repeat = await sql_keys.known_request(connection, key, now_ms)
    if repeat is None or repeat.mismatch:
        return None
    first = await sql_messages.one(connection, tenant_id, repeat.first_id)
    return _answer_of(first, repeat) if first else None


async def _repeats(connection: Connection, messages: Sequence[NewMessage]) -> dict[str, Repeat]:
    if not any(message.idempotency or message.dedupe for message in messages):
        return {}
    return await sql_keys.repeats(connection, messages, to_milliseconds(messages[-1].created_at))


def _is_stored(message: NewMessage, repeat: Repeat | None) -> bool:
    if repeat is None:
        return True
    return not repeat.replayed and message.dedupe is not None and not message.dedupe.suppresses


def _queue_entry(message: NewMessage) -> Entry:
    lane = lane_of(message.integration_id or message.tenant_id, message.priority)
    return Entry(message.id, message.route, lane, to_milliseconds(message.created_at))


async def _first_attempts(connection: Connection, free: Sequence[Beginning]) -> list[StartedAttempt]:
    """Return the first attempts of new messages, those left out whose recipients have opted out."""
    plan = await sql_opt_outs.suppress(connection, [(DueMessage(message=message), begin) for message, begin in free])
    return [StartedAttempt.of(entry.message, it, token=1) for entry, it in plan if isinstance(it, Begin)]


async def _first_messages(connection: Connection, known: Mapping[str, Repeat]) -> dict[str, Message]:
    ids = sorted({repeat.first_id for repeat in known.values()})
    return {message.id: message for message in await sql_messages.several(connection, ids)}


def _answer(message: NewMessage, repeat: Repeat | None, firsts: Mapping[str, Message]) -> Accepted:
    if repeat is None or _is_stored(message, repeat):
        return Accepted(
            message_id=message.id,
            to=message.to,
            text=message.text,
            ref=message.ref,
            created_at=message.created_at,
            duplicate=repeat is not None,
        )
    # A first message that retention has removed meanwhile is answered in the words of its repeat.
    return _answer_of(firsts.get(repeat.first_id, message), repeat)


def _answer_of(first: Message | NewMessage, repeat: Repeat) -> Accepted:
    return Accepted(
        message_id=repeat.first_id,
        to=first.to,
        text=first.text,
        ref=first.ref,
        created_at=first.created_at,
        replayed=repeat.replayed,
        duplicate=repeat.duplicate,
        mismatch=repeat.mismatch,
        batch_id=repeat.batch_id,
    )

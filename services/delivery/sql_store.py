"""The message store in SQL: one implementation for every engine, in Core statements, because rows pass in thousands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import delete, func, select, update

from servicekit.clock import from_microseconds, from_milliseconds, to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.hot_statements import inserting
from servicekit.ids import new_id
from servicekit.paging import PageRequest
from services.delivery import (
    rows,
    sql_carriers,
    sql_keys,
    sql_ledger,
    sql_opt_outs,
    sql_overdue,
    sql_parked_receipts,
    sql_queue,
    sql_receipts,
    sql_senders,
    sql_webhook_queue,
)
from services.delivery.domain import (
    TERMINAL,
    Accepted,
    Failure,
    FailureReason,
    History,
    IdempotencyKey,
    Message,
    MessageFilter,
    NewMessage,
    OnUnknown,
    Receipt,
    Resolution,
    Status,
    shard_of,
)
from services.delivery.fair_order import lane_of
from services.delivery.pacing import Limits, Slots, Wish, find_slots, lines_of
from services.delivery.sql_keys import Repeat
from services.delivery.sql_opt_outs import Refused
from services.delivery.sql_queue import Entry, Lease
from services.delivery.sql_senders import Sender
from services.delivery.sql_statements import DELETE_DUE, UPDATE_DUE, UPDATE_MESSAGE, at, newest_first, shards_of
from services.delivery.store import (
    Added,
    Begin,
    Beginning,
    CancelResult,
    Claimed,
    Decision,
    DueMessage,
    Finish,
    FinishedAttempt,
    Leave,
    Postpone,
    ReceiptResult,
    ResolveResult,
    Share,
    StartedAttempt,
)
from services.delivery.tables import ATTEMPTS, DUE, MESSAGES, PARTS, RECEIPTS, REPLIES
from services.delivery.webhooks import WebhookDelivery

Result = TypeVar("Result")
Announce = Callable[[Message], Sequence[WebhookDelivery]]

_ADD: Final = inserting(MESSAGES)


class SqlMessageStore:
    """Keeps the guarantees of `store.MessageStore` on a `Database`."""

    def __init__(
        self,
        database: Database,
        announce: Announce = lambda _message: (),
        on_announced: Callable[[], None] = lambda: None,
        on_moved: Callable[[Sequence[Message]], None] = lambda _messages: None,
        is_awaited: Callable[[Message, Status], bool] = lambda _message, _status: True,
    ) -> None:
        """Take whoever knows which webhooks want to hear of a message's status, and whoever brings that to them.

        `on_moved` is told of the messages to which receipts have given another status, once that is on disk.
        `is_awaited` tells quickly, and at first, whether anybody wants to hear that a message has come to a status.
        """
        self._database = database
        self._announce = announce
        self._is_awaited = is_awaited
        self._senders: frozenset[Sender] = frozenset()  # those that this process knows to be on disk
        self._on_announced = on_announced
        self._on_moved = on_moved

    async def add(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Begin nothing."""
        if not messages:
            return []
        now = messages[-1].created_at
        return list((await self.add_and_begin(messages, {}, now=now, lease_until=now)).answers)

    async def add_and_begin(
        self,
        messages: Sequence[NewMessage],
        beginnings: Mapping[str, Beginning],
        *,
        now: datetime,
        lease_until: datetime,
    ) -> Added:
        """Claim keys, see what waits, then insert messages, due rows and attempts, in one transaction."""
        now_ms, lease_until_ms = to_milliseconds(now), to_milliseconds(lease_until)

        async def work(connection: Connection) -> tuple[Added, frozenset[Sender]]:
            known = await self._repeats(connection, messages)
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
            senders = await sql_senders.keep(connection, attempts, known=self._senders)
            firsts = await _first_messages(connection, known)
            answers = [_answer(message, known.get(message.id), firsts) for message in messages]
            waiting = frozenset(message.route for message in fresh if message.id not in started)
            return Added(answers=answers, started=attempts, waiting=waiting), senders

        added, self._senders = await self._database.run_write(work)
        return added

    async def _repeats(self, connection: Connection, messages: Sequence[NewMessage]) -> dict[str, Repeat]:
        if not any(message.idempotency or message.dedupe for message in messages):
            return {}
        return await sql_keys.repeats(connection, messages, to_milliseconds(messages[-1].created_at))

    async def claim(
        self,
        *,
        shard: int,
        now: datetime,
        lease_until: datetime,
        shares: Sequence[Share],
        decide: Callable[[DueMessage], Decision],
        limits: Mapping[str, Limits],
    ) -> Claimed:
        """Lock due rows, decide, find slots, and write the ledger, in one transaction."""
        now_ms, lease_until_ms = to_milliseconds(now), to_milliseconds(lease_until)

        async def work(connection: Connection) -> tuple[tuple[Claimed, frozenset[Sender]], bool]:
            await sql_queue.promote(connection, shard, now_ms)
            tokens: dict[str, int] = {}
            for share in shares:
                tokens |= await sql_queue.take(connection, shard, share.route, share.limit)
            if not tokens:
                return (Claimed(started=()), self._senders), False
            due = await sql_ledger.due_messages(connection, shard, list(tokens))
            plan = await sql_opt_outs.suppress(connection, [(entry, decide(entry)) for entry in due])
            slots = await _find_slots(connection, plan, limits, now_ms)
            plan = [(entry, _decided(entry, decision, slots)) for entry, decision in plan]
            await sql_ledger.close_lost(connection, [entry for entry, it in plan if not isinstance(it, Leave)], now_ms)
            started = [
                _started(entry.message, it, token=tokens[entry.message.id] + 1, slots=slots)
                for entry, it in plan
                if isinstance(it, Begin)
            ]
            await sql_ledger.start(connection, started, now_ms, lease_until_ms)
            settled = await sql_ledger.settle_without_attempt(connection, plan, now_ms)
            has_told = await self._tell(connection, _ended(plan, now))
            senders = await sql_senders.keep(connection, started, known=self._senders)
            full_until = {name: from_microseconds(until) for name, until in slots.full_until_us.items()}
            claimed = Claimed(started=tuple(started), settled=settled, full_until=full_until)
            return (claimed, senders), has_told

        claimed, self._senders = await self._write(work)
        return claimed

    async def _write(self, work: Callable[[Connection], Awaitable[tuple[Result, bool]]]) -> Result:
        """Run a transaction that tells whether it has left webhook deliveries; have those brought once it is over."""
        result, has_told = await self._database.run_write(work)
        if has_told:
            self._on_announced()
        return result

    async def _tell(self, connection: Connection, messages: Sequence[Message]) -> bool:
        """Leave the webhook deliveries of messages that have come to a new status; return whether there are any."""
        deliveries = [delivery for message in messages for delivery in self._announce(message)]
        if deliveries:
            await sql_webhook_queue.enter(connection, deliveries)
        return bool(deliveries)

    async def renew(self, attempts: Sequence[StartedAttempt], lease_until: datetime) -> set[str]:
        """Move the end of the leases that still carry the caller's token."""
        async with self._database.write() as connection:
            held = await sql_queue.lock(connection, [attempt.message.id for attempt in attempts])
            mine = [a.message.id for a in attempts if held.get(a.message.id) == a.token]
            if mine:
                due_at_ms = to_milliseconds(lease_until)
                await connection.execute(
                    UPDATE_DUE.values(due_at_ms=due_at_ms), [at(message_id) for message_id in mine]
                )
            return set(mine)

    async def finish(self, attempts: Sequence[FinishedAttempt]) -> list[bool]:
        """Close the attempts that are still open under the caller's token, and move their messages on."""
        ids = [attempt.message_id for attempt in attempts]

        async def work(connection: Connection) -> tuple[list[bool], bool]:
            await sql_queue.lock(connection, ids)
            open_tokens = await sql_ledger.open_tokens(connection, ids)
            verdicts = [open_tokens.get((a.message_id, a.number)) == a.token for a in attempts]
            mine = [attempt for attempt, is_mine in zip(attempts, verdicts, strict=True) if is_mine]
            mine.sort(key=lambda attempt: attempt.message_id)
            has_told = False
            if mine:
                await sql_ledger.close(connection, mine)
                await sql_ledger.leave_or_requeue(connection, mine)
                has_told = await self._tell(connection, [after for each in mine if (after := self._awaited(each))])
            late = [attempt for attempt, is_mine in zip(attempts, verdicts, strict=True) if not is_mine]
            await sql_ledger.keep_carrier_ids(connection, late)
            # Last, because it locks out every claim. It is the carrier's word, however late the outcome came.
            await sql_opt_outs.bind_refused(connection, _opted_out(attempts))
            return verdicts, has_told

        return await self._write(work)

    def _awaited(self, attempt: FinishedAttempt) -> Message | None:
        if attempt.message is None or not self._is_awaited(attempt.message, attempt.status):
            return None
        return attempt.message_after

    async def release_leases(self, now: datetime) -> int:
        """Make claimed rows due."""
        async with self._database.write() as connection:
            released = await connection.execute(
                update(DUE).where(DUE.c.claimed).values(due_at_ms=to_milliseconds(now), claimed=False)
            )
            return released.rowcount

    async def next_due(self, shard: int, routes: Sequence[str]) -> datetime | None:
        """Read the heads of the two kinds of due indexes."""
        head = await sql_queue.next_due_ms(self._database, shard, routes)
        return None if head is None else from_milliseconds(head)

    async def adopt_queues(self, routes: Sequence[str], into: str, now: datetime) -> int:
        """Rename the queues, and let the messages find their ranks anew."""
        async with self._database.write() as connection:
            return await sql_queue.adopt(connection, routes, into, to_milliseconds(now))

    async def expire(self, shard: int, now: datetime, limit: int) -> int:
        """Walk the primary key of the due-queue, whose ids sort by time, as far as messages have expired."""
        now_ms = to_milliseconds(now)
        oldest = (
            select(DUE.c.message_id)
            .where(DUE.c.shard == shard, DUE.c.claimed.is_(False))
            .order_by(DUE.c.message_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        async def work(connection: Connection) -> tuple[int, bool]:
            ids = (await connection.scalars(oldest)).all()
            expired = await connection.execute(
                select(MESSAGES).where(
                    MESSAGES.c.shard == shard,
                    MESSAGES.c.id.in_(ids),
                    MESSAGES.c.status == Status.QUEUED.value,
                    MESSAGES.c.valid_until_ms <= now_ms,
                )
            )
            plan = [(DueMessage(message=message), _expiry(message)) for message in map(rows.message, expired)]
            has_told = await self._tell(connection, _ended(plan, now))
            return await sql_ledger.settle_without_attempt(connection, plan, now_ms), has_told

        return await self._write(work)

    async def apply_receipts(self, receipts: Sequence[Receipt]) -> list[ReceiptResult]:
        """Find what they are about, then record those that are new and move their messages forward."""

        async def work(connection: Connection) -> tuple[tuple[list[ReceiptResult], list[Message]], bool]:
            results, moved_ids = await sql_receipts.take_in(connection, receipts)
            moved = await _messages(connection, moved_ids)
            return (results, moved), await self._tell(connection, moved)

        results, moved = await self._write(work)
        self._on_moved(moved)
        return results

    async def has_parked(self, *, since: datetime) -> bool:
        """Read one row of the index by age."""
        since_ms = to_milliseconds(since)
        return await self._database.run_read(lambda connection: sql_parked_receipts.any_since(connection, since_ms))

    async def settle_parked(self, limit: int, *, since: datetime) -> int:
        """Read what may be applied, and apply it like any other receipt."""
        since_ms = to_milliseconds(since)
        parked = await sql_parked_receipts.due(self._database, since_ms, limit)
        if not parked:
            return 0

        async def work(connection: Connection) -> tuple[tuple[int, list[Message]], bool]:
            results, moved_ids = await sql_receipts.take_in(connection, parked)
            moved = await _messages(connection, moved_ids)
            has_told = await self._tell(connection, moved)
            settled = [each for each, result in zip(parked, results, strict=True) if result is not ReceiptResult.PARKED]
            await sql_parked_receipts.remove(connection, settled)
            return (len(settled), moved), has_told

        count, moved = await self._write(work)
        self._on_moved(moved)
        return count

    async def remove_parked(self, before: datetime, *, kept: int, limit: int) -> int:
        """Rank each carrier's by time."""
        async with self._database.write() as connection:
            return await sql_parked_receipts.remove_surplus(connection, to_milliseconds(before), kept, limit)

    async def in_doubt(
        self, carrier: str, *, unchanged_since: datetime, after: Message | None, limit: int
    ) -> list[Message]:
        """Read one page."""
        before_ms = to_milliseconds(unchanged_since)
        return await self._database.run_read(
            lambda connection: sql_overdue.in_doubt(connection, carrier, before_ms, after, limit)
        )

    async def awaiting_receipt(
        self, carrier: str, *, sent_before: datetime, after: Message | None, limit: int
    ) -> list[Message]:
        """Read one page."""
        before_ms = to_milliseconds(sent_before)
        return await self._database.run_read(
            lambda connection: sql_overdue.awaiting_receipt(connection, carrier, before_ms, after, limit)
        )

    async def get(self, tenant_id: str, message_id: str) -> Message | None:
        """Read one row by its whole key and its owner."""
        async with self._database.read() as connection:
            return await _message(connection, tenant_id, message_id)

    async def history(self, tenant_id: str, message_id: str) -> History | None:
        """Read the message and all that hangs on it, in one snapshot."""
        async with self._database.read() as connection:
            message = await _message(connection, tenant_id, message_id)
            if message is None:
                return None
            shard = shard_of(message_id)
            attempts = await connection.execute(
                select(ATTEMPTS)
                .where(ATTEMPTS.c.shard == shard, ATTEMPTS.c.message_id == message_id)
                .order_by(ATTEMPTS.c.number)
            )
            receipts = await connection.execute(
                select(RECEIPTS)
                .where(RECEIPTS.c.shard == shard, RECEIPTS.c.message_id == message_id)
                .order_by(RECEIPTS.c.received_at_ms, RECEIPTS.c.attempt, RECEIPTS.c.part)
            )
            counted = await connection.execute(
                select(PARTS.c.attempt, func.count().label("parts"))
                .where(PARTS.c.shard == shard, PARTS.c.message_id == message_id)
                .group_by(PARTS.c.attempt)
            )
            parts = {row.attempt: row.parts for row in counted}
            replies = await connection.execute(select(REPLIES).where(REPLIES.c.message_id == message_id))
            return History(
                message=message,
                attempts=tuple(rows.attempt(row) for row in attempts),
                receipts=tuple(rows.receipt(row, parts.get(row.attempt, 0)) for row in receipts),
                replies=tuple(rows.reply(row) for row in replies),
            )

    async def list_messages(self, tenant_id: str, wanted: MessageFilter, page: PageRequest) -> list[Message]:
        """Read one page by its key, never by an offset."""
        query = select(MESSAGES).where(MESSAGES.c.tenant_id == tenant_id, *_conditions(wanted))
        query = newest_first(query, MESSAGES.c.created_at_ms, MESSAGES.c.id, page)
        async with self._database.read() as connection:
            return [rows.message(row) for row in await connection.execute(query)]

    async def resolve(
        self,
        tenant_id: str,
        message_id: str,
        resolution: Resolution,
        now: datetime,
        idempotency: IdempotencyKey | None = None,
        *,
        queue_of: Callable[[Message], str],
    ) -> ResolveResult:
        """Settle or requeue under the message's lock."""
        now_ms = to_milliseconds(now)

        async def work(connection: Connection) -> tuple[ResolveResult, bool]:
            await sql_queue.lock(connection, [message_id])
            message = await _message(connection, tenant_id, message_id, for_update=True)
            if message is None:
                return ResolveResult.NOT_FOUND, False
            if idempotency and (repeat := await sql_keys.known_request(connection, idempotency, now_ms)):
                return (ResolveResult.MISMATCH if repeat.mismatch else ResolveResult.REPLAYED), False
            if message.status is not Status.UNKNOWN:
                return ResolveResult.NOT_HELD, False
            changes: dict[str, object] = {"status": _STATUS_RESOLVED[resolution].value, "updated_at_ms": now_ms}
            if resolution is Resolution.SENT:
                changes |= {"sent_at_ms": now_ms, **rows.failure_columns(None)}
            if resolution is Resolution.RESEND:
                # The operator has decided: from now on this one message is to be sent, whatever the policy was.
                changes |= {"on_unknown": OnUnknown.RESEND.value}
                lane = lane_of(message.integration_id or message.tenant_id, message.priority)
                entries = [Entry(message_id, queue_of(message), lane, now_ms)]
                await sql_queue.enter(connection, entries, await sql_queue.look(connection, entries))
            await connection.execute(UPDATE_MESSAGE.values(**changes), [at(message_id)])
            has_told = await self._tell(connection, await _messages(connection, [message_id]))
            if idempotency:
                await sql_keys.remember_request(connection, idempotency, message_id, now_ms)
            return ResolveResult.RESOLVED, has_told

        return await self._write(work)

    async def remove_finished(self, shard: int, before: datetime, limit: int) -> int:
        """Walk the primary key, whose ids sort by time, and delete what hangs on a message before the message."""
        ended = [status.value for status in (*TERMINAL, Status.SENT, Status.UNKNOWN)]
        async with self._database.write() as connection:
            found = await connection.scalars(
                select(MESSAGES.c.id)
                .where(MESSAGES.c.shard == shard, MESSAGES.c.id < new_id("msg", before), MESSAGES.c.status.in_(ended))
                .order_by(MESSAGES.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            ids = found.all()
            if ids:
                for table in (ATTEMPTS, PARTS, RECEIPTS):
                    await connection.execute(delete(table).where(table.c.shard == shard, table.c.message_id.in_(ids)))
                await connection.execute(delete(REPLIES).where(REPLIES.c.message_id.in_(ids)))
                await connection.execute(delete(MESSAGES).where(MESSAGES.c.shard == shard, MESSAGES.c.id.in_(ids)))
            return len(ids)

    async def remove_expired_keys(self, now: datetime, limit: int) -> int:
        """Walk the index by expiry."""
        async with self._database.write() as connection:
            return await sql_keys.remove_expired(connection, to_milliseconds(now), limit)

    async def cancel(
        self, tenant_id: str, message_id: str, now: datetime, idempotency: IdempotencyKey | None = None
    ) -> CancelResult:
        """Cancel under the same lock that a claim takes."""
        now_ms = to_milliseconds(now)
        async with self._database.write() as connection:
            await sql_queue.lock(connection, [message_id])
            message = await _message(connection, tenant_id, message_id, for_update=True)
            if message is None:
                return CancelResult.NOT_FOUND
            if idempotency and (repeat := await sql_keys.known_request(connection, idempotency, now_ms)):
                return CancelResult.MISMATCH if repeat.mismatch else CancelResult.REPLAYED
            if message.status is not Status.QUEUED or message.attempts:
                return CancelResult.BEGUN
            await connection.execute(
                UPDATE_MESSAGE.values(status=Status.CANCELED.value, updated_at_ms=now_ms),
                [at(message_id)],
            )
            await connection.execute(DELETE_DUE, [at(message_id)])
            if idempotency:
                await sql_keys.remember_request(connection, idempotency, message_id, now_ms)
            return CancelResult.CANCELED


_STATUS_RESOLVED: Final = {
    Resolution.SENT: Status.SENT,
    Resolution.FAILED: Status.FAILED,
    Resolution.RESEND: Status.QUEUED,
}


def _is_stored(message: NewMessage, repeat: Repeat | None) -> bool:
    if repeat is None:
        return True
    return not repeat.replayed and message.dedupe is not None and not message.dedupe.suppresses


async def _first_attempts(connection: Connection, free: Sequence[Beginning]) -> list[StartedAttempt]:
    """Return the first attempts of new messages, those left out whose recipients have opted out."""
    plan = await sql_opt_outs.suppress(connection, [(DueMessage(message=message), begin) for message, begin in free])
    return [_started(entry.message, it, token=1) for entry, it in plan if isinstance(it, Begin)]


def _started(message: Message, begin: Begin, *, token: int, slots: Slots | None = None) -> StartedAttempt:
    return StartedAttempt(
        message=message,
        number=message.attempts + 1,
        carrier=begin.carrier,
        sender=begin.sender,
        token=token,
        possible_duplicate=begin.possible_duplicate,
        why=begin.why,
        not_before=from_microseconds(slots.go_at_us[message.id]) if slots else None,
        others=begin.others,
        fresh_others=begin.fresh_others,
    )


def _queue_entry(message: NewMessage) -> Entry:
    lane = lane_of(message.integration_id or message.tenant_id, message.priority)
    return Entry(message.id, message.route, lane, to_milliseconds(message.created_at))


def _ended(plan: Sequence[tuple[DueMessage, Decision]], now: datetime) -> list[Message]:
    return [
        replace(entry.message, status=decision.status, failure=decision.failure, updated_at=now)
        for entry, decision in plan
        if isinstance(decision, Finish)
    ]


def _opted_out(attempts: Sequence[FinishedAttempt]) -> list[Refused]:
    return [
        Refused(attempt.message_id, attempt.number, attempt.finished_at)
        for attempt in attempts
        if attempt.failure and attempt.failure.reason is FailureReason.OPTED_OUT
    ]


def _expiry(message: Message) -> Finish:
    return Finish(status=Status.EXPIRED, failure=message.failure or Failure(reason=FailureReason.EXPIRED))


async def _find_slots(
    connection: Connection, plan: Sequence[tuple[DueMessage, Decision]], limits: Mapping[str, Limits], now_ms: int
) -> Slots:
    wishes = [
        Wish(entry.message.id, decision.carrier, decision.sender, entry.message.segments)
        for entry, decision in plan
        if isinstance(decision, Begin)
    ]
    lines = lines_of(wishes, limits)
    before = await sql_carriers.lock_lines(connection, sorted(lines)) if lines else {}
    slots = find_slots(wishes, limits, before, now_ms * 1000)
    await sql_carriers.move_lines(connection, before, list(slots.lines.items()))
    return slots


def _decided(entry: DueMessage, decision: Decision, slots: Slots) -> Decision:
    message_id = entry.message.id
    if not isinstance(decision, Begin) or message_id in slots.go_at_us:
        return decision
    if message_id in slots.put_off_until_us:
        return Postpone(until=from_microseconds(slots.put_off_until_us[message_id]))
    return Leave()


async def _first_messages(connection: Connection, known: Mapping[str, Repeat]) -> dict[str, Message]:
    ids = {repeat.first_id for repeat in known.values()}
    if not ids:
        return {}
    found = await connection.execute(
        select(MESSAGES).where(MESSAGES.c.shard.in_(shards_of(ids)), MESSAGES.c.id.in_(ids))
    )
    return {row.id: rows.message(row) for row in found}


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
    first = firsts.get(repeat.first_id)
    return Accepted(
        message_id=repeat.first_id,
        to=first.to if first else message.to,
        text=first.text if first else message.text,
        ref=first.ref if first else message.ref,
        created_at=first.created_at if first else message.created_at,
        replayed=repeat.replayed,
        duplicate=repeat.duplicate,
        mismatch=repeat.mismatch,
        batch_id=repeat.batch_id,
    )


async def _messages(connection: Connection, message_ids: Sequence[str]) -> list[Message]:
    if not message_ids:
        return []
    found = await connection.execute(
        select(MESSAGES).where(MESSAGES.c.shard.in_(shards_of(message_ids)), MESSAGES.c.id.in_(message_ids))
    )
    return [rows.message(row) for row in found]


async def _message(
    connection: Connection, tenant_id: str, message_id: str, *, for_update: bool = False
) -> Message | None:
    query = select(MESSAGES).where(
        MESSAGES.c.shard == shard_of(message_id), MESSAGES.c.id == message_id, MESSAGES.c.tenant_id == tenant_id
    )
    row = (await connection.execute(query.with_for_update() if for_update else query)).first()
    return None if row is None else rows.message(row)


def _conditions(wanted: MessageFilter) -> list[Any]:
    conditions: list[Any] = []
    if wanted.status is not None:
        conditions.append(MESSAGES.c.status == wanted.status.value)
    if wanted.ref is not None:
        conditions.append(MESSAGES.c.ref == wanted.ref)
    if wanted.to is not None:
        conditions.append(MESSAGES.c.recipient == wanted.to)
    if wanted.integration_id is not None:
        conditions.append(MESSAGES.c.integration_id == wanted.integration_id)
    if wanted.created_after is not None:
        conditions.append(MESSAGES.c.created_at_ms >= to_milliseconds(wanted.created_after))
    if wanted.created_before is not None:
        conditions.append(MESSAGES.c.created_at_ms < to_milliseconds(wanted.created_before))
    return conditions

"""Opt-outs in SQL: binding at once, and ending messages that must not go.

Whoever binds an opt-out holds a lock that no claim can share, from before it writes until it has committed; a claim
takes its half of the lock before it looks, and keeps it until its attempts are committed as started. So an attempt
either is started before the opt-out, or its claim sees the opt-out. Claims do not wait for each other, and whoever
binds waits for nothing more once it has the lock, so that nobody waits in a circle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import and_, delete, literal, or_, select, text, tuple_

from servicekit.connection import Connection
from servicekit.hot_statements import HotStatement, one_of
from servicekit.ids import new_id
from servicekit.paging import PageRequest
from services.delivery import reply_rows
from services.delivery.domain import Failure, FailureReason, Status
from services.delivery.replies import OptOut, OptOutSource, comparable_number, spellings
from services.delivery.sql_statements import insert_ignoring, newest_first, shards_of
from services.delivery.store import Begin, Decision, DueMessage, Finish
from services.delivery.tables import ATTEMPTS, MESSAGES, OPT_OUTS, SENDERS

# In conflict with itself and with the lock of `SELECT ... FOR SHARE`, and not with plain reads.
_LOCK: Final = text("LOCK TABLE delivery_opt_outs IN EXCLUSIVE MODE")
_BOUND: Final = HotStatement(
    select(OPT_OUTS.c.theirs, OPT_OUTS.c.ours)
    .where(one_of(OPT_OUTS.c.theirs, "recipients"))
    .order_by(OPT_OUTS.c.theirs, OPT_OUTS.c.ours)
    .with_for_update(read=True),
    ("recipients",),
)
_SUPPRESSED: Final = Finish(status=Status.SUPPRESSED, failure=Failure(reason=FailureReason.OPTED_OUT))


class Refused(NamedTuple):
    """An attempt of which a carrier says that its recipient has opted out."""

    message_id: str
    number: int
    told_at: datetime


async def suppress(
    connection: Connection, plan: Sequence[tuple[DueMessage, Decision]]
) -> list[tuple[DueMessage, Decision]]:
    """Return the plan with an end for every message that would begin an attempt to somebody who has opted out."""
    recipients = {entry.message.to for entry, decision in plan if isinstance(decision, Begin)}
    if not recipients:
        return list(plan)
    # PostgreSQL locks the table before it takes the statement's snapshot; SQLite has one writer at a time.
    found = await _BOUND.rows(connection, sorted(recipients))
    if not found:
        return list(plan)
    bound: dict[str, set[str]] = defaultdict(set)
    for theirs, ours in found:
        bound[theirs].add(ours)
    unnamed = {entry.message.to for entry, decision in plan if isinstance(decision, Begin) and not decision.sender}
    numbers = {ours for theirs, ours in found if theirs in unnamed and _is_number(ours)}
    carriers = await _carriers_of(connection, numbers) if numbers else {}
    return [
        (
            entry,
            _SUPPRESSED if isinstance(decision, Begin) and _is_bound(entry, decision, bound, carriers) else decision,
        )
        for entry, decision in plan
    ]


async def _carriers_of(connection: Connection, numbers: set[str]) -> dict[str, set[str]]:
    """Return each of these numbers of ours with the carriers by which somebody has sent from it."""
    carriers: dict[str, set[str]] = {number: set() for number in numbers}
    written = sorted(spelling for number in numbers for spelling in spellings(number))
    for sender, carrier in await connection.execute(
        select(SENDERS.c.sender, SENDERS.c.carrier).where(SENDERS.c.sender.in_(written))
    ):
        carriers[comparable_number(sender)].add(carrier)
    return carriers


async def lock(connection: Connection) -> None:
    """Wait for the claims under way, and let no other begin before this transaction has ended."""
    if connection.dialect.name == "postgresql":
        await connection.execute(_LOCK)


async def bind(connection: Connection, opt_outs: Sequence[OptOut]) -> list[str]:
    """Keep opt-outs, and return the ids of those that are new. The caller has locked."""
    if not opt_outs:
        return []
    bound = await connection.scalars(
        insert_ignoring(connection, OPT_OUTS).returning(OPT_OUTS.c.id),
        [reply_rows.new_opt_out(each) for each in opt_outs],
    )
    return list(bound)


async def bind_refused(connection: Connection, refused: Sequence[Refused]) -> None:
    """Keep what carriers say of attempts; the last thing that a transaction does, because it locks."""
    if not refused:
        return
    told_at = {(each.message_id, each.number): each.told_at for each in refused}
    found = await connection.execute(
        select(ATTEMPTS.c.message_id, ATTEMPTS.c.number, ATTEMPTS.c.sender, MESSAGES.c.tenant_id, MESSAGES.c.recipient)
        .join(MESSAGES, and_(MESSAGES.c.shard == ATTEMPTS.c.shard, MESSAGES.c.id == ATTEMPTS.c.message_id))
        .where(
            ATTEMPTS.c.shard.in_(shards_of(each.message_id for each in refused)),
            tuple_(ATTEMPTS.c.message_id, ATTEMPTS.c.number).in_(sorted(told_at)),
        )
    )
    opt_outs = [
        OptOut(
            id=new_id("opt", told_at[row.message_id, row.number]),
            tenant_id=row.tenant_id,
            ours=comparable_number(row.sender),
            theirs=row.recipient,
            source=OptOutSource.CARRIER,
            word="",
            reply_id="",
            created_at=told_at[row.message_id, row.number],
        )
        for row in found
    ]
    await lock(connection)
    await bind(connection, opt_outs)


async def lift(connection: Connection, theirs: str, ours: Iterable[str]) -> None:
    """Forget that a person has opted out from these numbers of ours, and what else a word to one of them has bound."""
    from_these = OPT_OUTS.c.ours.in_(sorted(ours))
    words = select(OPT_OUTS.c.reply_id).where(
        OPT_OUTS.c.theirs == theirs, from_these, OPT_OUTS.c.ours != "", OPT_OUTS.c.reply_id != ""
    )
    these = and_(OPT_OUTS.c.theirs == theirs, or_(from_these, OPT_OUTS.c.reply_id.in_(words)))
    # Row by row in the order in which claims look at them.
    await connection.execute(select(OPT_OUTS.c.id).where(these).order_by(OPT_OUTS.c.ours).with_for_update())
    await connection.execute(delete(OPT_OUTS).where(these))


async def is_bound(connection: Connection, theirs: str, ours: Iterable[str]) -> bool:
    """Tell whether a person has opted out from one of these numbers of ours."""
    bound = select(OPT_OUTS.c.id).where(OPT_OUTS.c.theirs == theirs, OPT_OUTS.c.ours.in_(sorted(ours))).limit(1)
    return await connection.scalar(bound) is not None


async def brought_by(connection: Connection, reply_id: str) -> str:
    """Return the id of the opt-out that a reply brought about, empty for none."""
    found: str | None = await connection.scalar(
        # The second condition is in the first, and lets the partial index be used.
        select(OPT_OUTS.c.id)
        .where(OPT_OUTS.c.reply_id == reply_id, OPT_OUTS.c.reply_id != literal("", literal_execute=True))
        .order_by(OPT_OUTS.c.id)
        .limit(1)
    )
    return found or ""


async def page_of(connection: Connection, tenant_id: str, theirs: str | None, page: PageRequest) -> list[OptOut]:
    """Return a page of a tenant's opt-outs, newest first."""
    query = select(OPT_OUTS).where(OPT_OUTS.c.tenant_id == tenant_id)
    if theirs is not None:
        query = query.where(OPT_OUTS.c.theirs == theirs)
    query = newest_first(query, OPT_OUTS.c.created_at_ms, OPT_OUTS.c.id, page)
    return [reply_rows.opt_out(row) for row in await connection.execute(query)]


async def remove(connection: Connection, tenant_id: str, opt_out_id: str) -> bool:
    """Forget one opt-out of a tenant's; tell whether it was there."""
    removed = await connection.execute(
        delete(OPT_OUTS).where(OPT_OUTS.c.id == opt_out_id, OPT_OUTS.c.tenant_id == tenant_id)
    )
    return removed.rowcount > 0


def _is_number(ours: str) -> bool:
    return ours.isascii() and ours.removeprefix("+").isdecimal()


def _is_bound(entry: DueMessage, begin: Begin, bound: Mapping[str, set[str]], carriers: Mapping[str, set[str]]) -> bool:
    ours = bound.get(entry.message.to, set())
    if entry.message.despite_opt_out:
        return False
    if begin.sender:
        return comparable_number(begin.sender) in ours
    # The carrier may choose any number but one that is known as another carrier's.
    return "" in ours or any(
        not carriers[number] or begin.carrier in carriers[number] for number in ours if _is_number(number)
    )

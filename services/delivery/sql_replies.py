"""Inbound messages and opt-outs in SQL: stored once, with what they answer and what they bind, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Table, and_, delete, exists, func, insert, or_, select

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.ids import new_id
from servicekit.paging import PageRequest
from services.delivery import reply_rows, rows, sql_opt_outs, sql_webhook_queue
from services.delivery.answer_replies import Conversation
from services.delivery.domain import Message, Outcome, Reply
from services.delivery.optouts import Keyword, OptOutWords
from services.delivery.replies import (
    LONGEST_VALIDITY,
    LONGEST_WINDOW,
    MAX_OTHER_CANDIDATES,
    AnsweredMessage,
    InboundFilter,
    OptOut,
    OptOutSource,
    ReceivedReply,
    WindowOf,
    answered,
    spellings,
    went_at,
)
from services.delivery.reply_store import AddedReply, AnnounceReply
from services.delivery.sql_statements import insert_ignoring, newest_first, wanted_of, within
from services.delivery.tables import ATTEMPTS, MESSAGES, REPLIES, SENDERS

CANDIDATES_READ: Final = 20

# The person has it, or may have it.
_MAY_HAVE_ARRIVED: Final = and_(
    ATTEMPTS.c.shard == MESSAGES.c.shard,
    ATTEMPTS.c.message_id == MESSAGES.c.id,
    ATTEMPTS.c.outcome.in_([Outcome.STARTED.value, Outcome.TAKEN.value, Outcome.UNKNOWN.value]),
)


class SqlReplyStore:
    """Keeps the guarantees of `reply_store.ReplyStore` on a `Database`."""

    def __init__(self, database: Database, on_announced: Callable[[], None] = lambda: None) -> None:
        """Take whoever brings the deliveries to their webhooks."""
        self._database = database
        self._on_announced = on_announced

    async def add_reply(
        self, reply: Reply, *, window_of: WindowOf, announce: AnnounceReply, words: OptOutWords
    ) -> AddedReply:
        """Match, insert unless it is there, and then do all that follows from it."""
        async with self._database.write() as connection:
            candidates = answered(await _candidates(connection, reply), reply.received_at, window_of)
            ours = await _numbers_of_ours(connection, reply, candidates)
            keyword = words.keyword(
                reply.text, is_opted_out=await sql_opt_outs.is_bound(connection, reply.sender, ours)
            )
            received = await _received(connection, reply, candidates, keyword)
            stored = await connection.execute(
                insert_ignoring(connection, REPLIES).returning(REPLIES.c.id),
                [reply_rows.new_reply(received, reply.carrier_reply_id)],
            )
            if stored.first() is None:
                if not await _is_said_again(connection, reply, keyword, ours):
                    return await _as_it_is_stored(connection, reply)
                again = reply_rows.new_reply(received, f"{reply.carrier_reply_id}/{reply.id}")
                await connection.execute(insert(REPLIES), [again])
            entered = await sql_webhook_queue.enter(connection, announce(received))
            opt_out_id = ""
            # Last, because it locks out every claim.
            if keyword is Keyword.STOP:
                opt_out_id = await _bind(connection, received, ours)
            if keyword is Keyword.START:
                await sql_opt_outs.lift(connection, reply.sender, ours)
        if entered:
            self._on_announced()
        return AddedReply(reply=received, opt_out_id=opt_out_id)

    async def list_inbound(self, tenant_id: str, wanted: InboundFilter, page: PageRequest) -> list[ReceivedReply]:
        """Read one page by its key, never by an offset."""
        query = select(REPLIES).where(REPLIES.c.tenant_id == tenant_id, *_conditions(wanted))
        query = newest_first(query, REPLIES.c.received_at_ms, REPLIES.c.id, page)
        async with self._database.read() as connection:
            return [reply_rows.received_reply(row) for row in await connection.execute(query)]

    async def conversation(self, reply_id: str, since: datetime) -> Conversation | None:
        """Read the reply with the message that it answers, and count what came from there."""
        found = (
            select(REPLIES, MESSAGES.c.integration_id)
            .join(MESSAGES, MESSAGES.c.id == REPLIES.c.message_id, isouter=True)
            .where(REPLIES.c.id == reply_id)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(found)).first()
            if row is None or not row.tenant_id:
                return None
            lately = await connection.scalar(
                select(func.count()).where(
                    REPLIES.c.tenant_id == row.tenant_id,
                    REPLIES.c.received_at_ms >= to_milliseconds(since),
                    REPLIES.c.sender == row.sender,
                    REPLIES.c.recipient == row.recipient,
                )
            )
        return Conversation(
            tenant_id=row.tenant_id,
            integration_id=row.integration_id or "",
            theirs=row.sender,
            ours=row.recipient,
            inbound_lately=lately or 0,
        )

    async def remove_unmatched(self, before: datetime, limit: int) -> int:
        """Walk the partial index over those that answer no message."""
        async with self._database.write() as connection:
            found = await connection.scalars(
                select(REPLIES.c.id)
                .where(REPLIES.c.message_id.is_(None), REPLIES.c.received_at_ms < to_milliseconds(before))
                .order_by(REPLIES.c.received_at_ms)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            ids = found.all()
            if ids:
                await connection.execute(delete(REPLIES).where(REPLIES.c.id.in_(ids)))
            return len(ids)

    async def list_opt_outs(self, tenant_id: str, theirs: str | None, page: PageRequest) -> list[OptOut]:
        """Read one page by its key."""
        async with self._database.read() as connection:
            return await sql_opt_outs.page_of(connection, tenant_id, theirs, page)

    async def delete_opt_out(self, tenant_id: str, opt_out_id: str) -> bool:
        """Delete one row by its key and its owner."""
        async with self._database.write() as connection:
            return await sql_opt_outs.remove(connection, tenant_id, opt_out_id)


async def _candidates(connection: Connection, reply: Reply) -> list[Message]:
    """Return the newest messages that went to whoever wrote from where it was written to, or may have gone."""
    written = spellings(reply.recipient)
    by_another_attempt = and_(_MAY_HAVE_ARRIVED, ATTEMPTS.c.sender.in_(written))
    found = await connection.execute(
        select(MESSAGES)
        .where(
            MESSAGES.c.recipient == reply.sender,
            MESSAGES.c.created_at_ms >= to_milliseconds(reply.received_at - LONGEST_WINDOW - LONGEST_VALIDITY),
            or_(_is_ours(MESSAGES, reply), exists().where(by_another_attempt)),
            or_(MESSAGES.c.sent_at_ms.is_not(None), exists().where(_MAY_HAVE_ARRIVED)),
        )
        .order_by(MESSAGES.c.created_at_ms.desc(), MESSAGES.c.id.desc())
        .limit(CANDIDATES_READ)
    )
    return [rows.message(row) for row in found]


def _is_ours(table: Table, reply: Reply) -> ColumnElement[bool]:
    # A carrier that chooses the number by itself does not tell which one it chose.
    chosen_by_carrier = and_(table.c.sender == "", table.c.carrier == reply.carrier)
    return or_(table.c.sender.in_(spellings(reply.recipient)), chosen_by_carrier)


async def _numbers_of_ours(connection: Connection, reply: Reply, candidates: Sequence[Message]) -> set[str]:
    """Return the senders that an opt-out binds: also the unnamed one, where the carrier chose the number.

    That is asked of what outlives messages: STOP holds, and START lifts it, however long ago the last one went. A
    number that somebody has named as a sender there is that one and no other.
    """
    of_carrier = SENDERS.c.carrier == reply.carrier
    is_named = exists().where(SENDERS.c.sender.in_(spellings(reply.recipient)), of_carrier)
    chosen_by_carrier = select(and_(exists().where(SENDERS.c.sender == "", of_carrier), ~is_named))
    if any(not message.sender for message in candidates) or await connection.scalar(chosen_by_carrier):
        return {reply.recipient, ""}
    return {reply.recipient}


async def _received(
    connection: Connection, reply: Reply, candidates: Sequence[Message], keyword: Keyword | None
) -> ReceivedReply:
    newest = candidates[0] if candidates else None
    return ReceivedReply(
        id=reply.id,
        tenant_id=newest.tenant_id if newest else await _only_user(connection, reply),
        sender=reply.sender,
        recipient=reply.recipient,
        text=reply.text,
        received_at=reply.received_at,
        in_reply_to=AnsweredMessage(
            id=newest.id,
            ref=newest.ref,
            integration_id=newest.integration_id,
            sent_at=went_at(newest),
            traceparent=newest.traceparent,
        )
        if newest
        else None,
        # Another tenant's messages are none of this one's business.
        other_candidates=tuple(
            message.id for message in candidates[1:] if newest and message.tenant_id == newest.tenant_id
        )[:MAX_OTHER_CANDIDATES],
        keyword=keyword.value if keyword else "",
        carrier=reply.carrier,
    )


async def _only_user(connection: Connection, reply: Reply) -> str:
    """Return the tenant that alone has ever sent from a number of ours; empty when several have, or none."""
    tenants = await connection.scalars(select(SENDERS.c.tenant_id).where(_is_ours(SENDERS, reply)).distinct().limit(2))
    found = tenants.all()
    return found[0] if len(found) == 1 else ""


async def _is_said_again(connection: Connection, reply: Reply, keyword: Keyword | None, ours: set[str]) -> bool:
    """Tell whether what looks like a repeat is a word that would change something: an id of words proves no repeat."""
    if reply.has_own_id:
        return False
    if keyword is Keyword.STOP:
        return not await sql_opt_outs.is_bound(connection, reply.sender, {reply.recipient})
    return keyword is Keyword.START and await sql_opt_outs.is_bound(connection, reply.sender, ours)


async def _as_it_is_stored(connection: Connection, reply: Reply) -> AddedReply:
    found = await connection.execute(
        select(REPLIES).where(REPLIES.c.carrier == reply.carrier, REPLIES.c.carrier_reply_id == reply.carrier_reply_id)
    )
    stored = reply_rows.received_reply(found.one())
    return AddedReply(reply=stored, is_new=False, opt_out_id=await sql_opt_outs.brought_by(connection, stored.id))


async def _bind(connection: Connection, received: ReceivedReply, ours: set[str]) -> str:
    opt_outs = [
        OptOut(
            id=new_id("opt", received.received_at),
            tenant_id=received.tenant_id,
            ours=number,
            theirs=received.sender,
            source=OptOutSource.REPLY,
            word=received.text,
            reply_id=received.id,
            created_at=received.received_at,
        )
        for number in sorted(ours)
    ]
    await sql_opt_outs.lock(connection)
    bound = await sql_opt_outs.bind(connection, opt_outs)
    return min(bound, default="")


def _conditions(wanted: InboundFilter) -> list[ColumnElement[bool]]:
    columns = {
        REPLIES.c.sender: wanted.sender,
        REPLIES.c.recipient: wanted.recipient,
        REPLIES.c.message_id: wanted.message_id,
    }
    return [*wanted_of(columns), *within(REPLIES.c.received_at_ms, wanted.received_after, wanted.received_before)]

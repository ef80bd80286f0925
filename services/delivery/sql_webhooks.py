"""The store of webhook deliveries in SQL: one implementation for every engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, bindparam, delete, func, insert, select, update

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery import sql_webhook_queue as queue
from services.delivery import webhook_rows as rows
from services.delivery.sql_statements import newest_first
from services.delivery.webhook_schedule import STREAK_ENDS_AFTER, streak_after_failure
from services.delivery.webhook_store import ClaimedWebhook, FinishedWebhook, Limits, Recorded
from services.delivery.webhook_tables import WEBHOOK_ATTEMPTS as ATTEMPTS
from services.delivery.webhook_tables import WEBHOOK_DUE as DUE
from services.delivery.webhook_tables import WEBHOOK_ENDPOINTS as ENDPOINTS
from services.delivery.webhook_tables import WEBHOOKS
from services.delivery.webhooks import WebhookDelivery, WebhookFilter, WebhookLog, WebhookStatus

CUT_OFF: Final = "the process that made this attempt stopped before it knew the outcome"

# Parameters are named so as not to be taken for columns: `at_` for which row, `to_` for what it becomes.
_THIS_ATTEMPT: Final = and_(ATTEMPTS.c.delivery_id == bindparam("at_id"), ATTEMPTS.c.number == bindparam("at_number"))
_FINISH_ATTEMPT: Final = (
    update(ATTEMPTS)
    .where(_THIS_ATTEMPT)
    .values(
        finished_at_ms=bindparam("to_finished_at_ms"),
        url=bindparam("to_url"),
        status_code=bindparam("to_status_code"),
        milliseconds=bindparam("to_milliseconds"),
        problem=bindparam("to_problem"),
        excerpt=bindparam("to_excerpt"),
    )
)
_FINISH_DELIVERY: Final = (
    update(WEBHOOKS)
    .where(WEBHOOKS.c.id == bindparam("at_id"))
    .values(
        status=bindparam("to_status"),
        attempts=bindparam("to_attempts"),
        problem=bindparam("to_problem"),
        next_at_ms=bindparam("to_next_at_ms"),
        finished_at_ms=bindparam("to_finished_at_ms"),
        given_up_at_ms=bindparam("to_given_up_at_ms"),
    )
)
_GIVEN_UP: Final = WEBHOOKS.c.given_up_at_ms.is_not(None)


class SqlWebhookStore:
    """Keeps the guarantees of `webhook_store.WebhookStore` on a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, deliveries: Sequence[WebhookDelivery]) -> int:
        """Insert deliveries and due rows."""
        async with self._database.write() as connection:
            return await queue.enter(connection, deliveries)

    async def claim(self, *, now: datetime, lease_until: datetime, limits: Limits) -> list[ClaimedWebhook]:
        """Let lines fill, take turns, and write the log, in one transaction."""
        now_ms = to_milliseconds(now)
        async with self._database.write() as connection:
            await queue.promote(connection, now_ms)
            tokens = await queue.take(connection, limits, now_ms)
            return await _begun(connection, tokens, now_ms, to_milliseconds(lease_until))

    async def fill_lines(self, now: datetime) -> bool:
        """Promote once more, in a transaction of its own, so that messages can be written in between."""
        async with self._database.write() as connection:
            return await queue.promote(connection, to_milliseconds(now))

    async def renew(self, claimed: Sequence[ClaimedWebhook], lease_until: datetime) -> set[str]:
        """Move the end of the leases that still carry the caller's token."""
        async with self._database.write() as connection:
            held = await queue.lock(connection, [each.delivery.id for each in claimed])
            mine = [each.delivery.id for each in claimed if held.get(each.delivery.id) == each.token]
            if mine:
                await connection.execute(
                    update(DUE).where(DUE.c.delivery_id.in_(mine)).values(due_at_ms=to_milliseconds(lease_until))
                )
            return set(mine)

    async def finish(self, finished: Sequence[FinishedWebhook]) -> list[Recorded]:
        """Close attempts that still carry the caller's token, and move their deliveries and endpoints on."""
        async with self._database.write() as connection:
            streaks = await _lock_streaks(connection, finished)
            held = await queue.lock(connection, [each.delivery_id for each in finished])
            verdicts = [held.get(each.delivery_id) == each.token for each in finished]
            mine = [each for each, is_mine in zip(finished, verdicts, strict=True) if is_mine]
            if not mine:
                return [Recorded(kept=False)] * len(finished)
            await _close(connection, sorted(mine, key=lambda each: each.delivery_id))
            await _forget(connection, [each.delivery_id for each in mine if not each.is_wanted])
            await _keep_streaks(connection, mine, streaks)
            now_ms = to_milliseconds(max(each.finished_at for each in mine))
            await queue.give_turns(connection, {each.endpoint for each in mine}, now_ms)
            return [
                Recorded(kept=is_mine, failing_since=rows.moment(streaks[each.endpoint].since_ms) if is_mine else None)
                for each, is_mine in zip(finished, verdicts, strict=True)
            ]

    async def release_leases(self, now: datetime) -> int:
        """Make claimed rows wait for now."""
        async with self._database.write() as connection:
            released = await connection.execute(
                update(DUE)
                .where(DUE.c.leased_at_ms.is_not(None))
                .values(due_at_ms=to_milliseconds(now), leased_at_ms=None)
            )
            return released.rowcount

    async def next_due(self) -> datetime | None:
        """Read the heads of two indexes."""
        head = await queue.next_due_ms(self._database)
        return None if head is None else from_milliseconds(head)

    async def get(self, tenant_id: str, delivery_id: str) -> WebhookLog | None:
        """Read one row by its key and its owner, and its log."""
        async with self._database.read() as connection:
            found = await connection.execute(
                select(WEBHOOKS).where(WEBHOOKS.c.id == delivery_id, WEBHOOKS.c.tenant_id == tenant_id)
            )
            logs = await _with_attempts(connection, [rows.delivery(row) for row in found])
        return logs[0] if logs else None

    async def list_deliveries(self, tenant_id: str, wanted: WebhookFilter, page: PageRequest) -> list[WebhookLog]:
        """Read one page by its key, never by an offset, and its logs."""
        query = select(WEBHOOKS).where(WEBHOOKS.c.tenant_id == tenant_id)
        if wanted.status is not None:
            query = query.where(WEBHOOKS.c.status == wanted.status.value)
        if wanted.message_id is not None:
            # The second condition is in the first, and lets SQLite use the partial index.
            query = query.where(WEBHOOKS.c.message_id == wanted.message_id, WEBHOOKS.c.message_id != "")
        query = newest_first(query, WEBHOOKS.c.created_at_ms, WEBHOOKS.c.id, page)
        async with self._database.read() as connection:
            found = [rows.delivery(row) for row in await connection.execute(query)]
            return await _with_attempts(connection, found)

    async def replay(self, tenant_id: str, delivery_id: str, now: datetime) -> WebhookDelivery | None:
        """Enter the queue again under the endpoint's lock, unless it is leased."""
        wanted = and_(WEBHOOKS.c.id == delivery_id, WEBHOOKS.c.tenant_id == tenant_id)
        async with self._database.write() as connection:
            found = (await connection.execute(select(WEBHOOKS.c.endpoint).where(wanted))).first()
            if found is None:
                return None
            await queue.lock_endpoints(connection, {found.endpoint: tenant_id})
            is_sent_now = delivery_id in await queue.lock(connection, [delivery_id])
            # Looked at again, because it may have been removed meanwhile.
            if (await connection.execute(select(WEBHOOKS.c.id).where(wanted).with_for_update())).first() is None:
                return None
            if not is_sent_now:
                await _replay(connection, [(delivery_id, found.endpoint, tenant_id)], to_milliseconds(now))
            return rows.delivery((await connection.execute(select(WEBHOOKS).where(wanted))).one())

    async def count_replayable(self, tenant_id: str, since: datetime) -> int:
        """Count in the partial index over what was given up."""
        query = select(func.count()).where(
            WEBHOOKS.c.tenant_id == tenant_id, _GIVEN_UP, WEBHOOKS.c.given_up_at_ms >= to_milliseconds(since)
        )
        async with self._database.read() as connection:
            counted: int | None = await connection.scalar(query)
        return counted or 0

    async def replay_since(self, tenant_id: str, since: datetime, now: datetime, limit: int) -> int:
        """Enter the queue again, in the order in which they were given up."""
        given_up = and_(
            WEBHOOKS.c.tenant_id == tenant_id, _GIVEN_UP, WEBHOOKS.c.given_up_at_ms >= to_milliseconds(since)
        )
        async with self._database.write() as connection:
            found = await connection.execute(
                select(WEBHOOKS.c.id, WEBHOOKS.c.endpoint)
                .where(given_up)
                .order_by(WEBHOOKS.c.given_up_at_ms, WEBHOOKS.c.id)
                .limit(limit)
            )
            endpoints = {row.id: row.endpoint for row in found}
            if not endpoints:
                return 0
            await queue.lock_endpoints(connection, dict.fromkeys(endpoints.values(), tenant_id))
            # Looked at again, because somebody else may have replayed them meanwhile.
            still = await connection.scalars(
                select(WEBHOOKS.c.id)
                .where(WEBHOOKS.c.id.in_(list(endpoints)), given_up)
                .order_by(WEBHOOKS.c.id)
                .with_for_update()
            )
            ids = still.all()
            if ids:
                entries = [(delivery_id, endpoints[delivery_id], tenant_id) for delivery_id in ids]
                await _replay(connection, entries, to_milliseconds(now))
            return len(ids)

    async def miss_waiting(self, endpoint: str, problem: str, now: datetime, limit: int) -> int:
        """Take what is not leased out of the queue, and end the streak, under the endpoint's lock."""
        now_ms = to_milliseconds(now)
        async with self._database.write() as connection:
            # This locks the endpoint too. One without a row has nothing in the queue that anybody could have seen.
            await connection.execute(
                update(ENDPOINTS)
                .where(ENDPOINTS.c.endpoint == endpoint)
                .values(failing_since_ms=None, failed_at_ms=None, failing_url_sha256=None)
            )
            ids = await queue.take_out(connection, endpoint, limit)
            if ids:
                await connection.execute(
                    update(WEBHOOKS)
                    .where(WEBHOOKS.c.id.in_(ids))
                    .values(
                        status=WebhookStatus.MISSED.value,
                        problem=problem,
                        next_at_ms=None,
                        finished_at_ms=now_ms,
                        given_up_at_ms=now_ms,
                    )
                )
            return len(ids)

    async def remove_finished(self, before: datetime, limit: int) -> int:
        """Walk the index of finished deliveries, and delete attempts before their delivery."""
        before_ms = to_milliseconds(before)
        async with self._database.write() as connection:
            found = await connection.scalars(
                select(WEBHOOKS.c.id)
                .where(WEBHOOKS.c.finished_at_ms.is_not(None), WEBHOOKS.c.finished_at_ms < before_ms)
                .order_by(WEBHOOKS.c.finished_at_ms)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            ids = found.all()
            if ids:
                await connection.execute(delete(ATTEMPTS).where(ATTEMPTS.c.delivery_id.in_(ids)))
                await connection.execute(delete(WEBHOOKS).where(WEBHOOKS.c.id.in_(ids)))
            await queue.remove_idle_endpoints(connection, to_milliseconds(before - STREAK_ENDS_AFTER), limit)
            return len(ids)


async def _begun(
    connection: Connection, tokens: Mapping[str, int], now_ms: int, lease_until_ms: int
) -> list[ClaimedWebhook]:
    """Lease chosen deliveries, given with their tokens, and write their attempts as begun."""
    if not tokens:
        return []
    await queue.lease(connection, list(tokens), now_ms, lease_until_ms)
    found = await connection.execute(select(WEBHOOKS).where(WEBHOOKS.c.id.in_(list(tokens))))
    deliveries = {row.id: rows.delivery(row) for row in found}
    if removed := tokens.keys() - deliveries.keys():
        # Somebody has deleted rows by hand: a place in the queue without a delivery must not stop all others.
        await queue.leave(connection, sorted(removed))
    claimed = [
        ClaimedWebhook(delivery=deliveries[each], number=deliveries[each].attempts + 1, token=token + 1)
        for each, token in tokens.items()
        if each in deliveries
    ]
    if claimed:
        await _log_begin(connection, claimed, now_ms)
    return claimed


async def _log_begin(connection: Connection, claimed: Sequence[ClaimedWebhook], now_ms: int) -> None:
    ids = [each.delivery.id for each in claimed]
    tried = [each.delivery.id for each in claimed if each.number > 1]
    if tried:
        await connection.execute(
            update(ATTEMPTS)
            .where(ATTEMPTS.c.delivery_id.in_(tried), ATTEMPTS.c.finished_at_ms.is_(None))
            .values(finished_at_ms=now_ms, problem=CUT_OFF)
        )
    await connection.execute(
        update(WEBHOOKS).where(WEBHOOKS.c.id.in_(ids)).values(attempts=WEBHOOKS.c.attempts + 1, next_at_ms=None)
    )
    await connection.execute(
        insert(ATTEMPTS), [rows.new_attempt(each.delivery.id, each.number, now_ms) for each in claimed]
    )


async def _close(connection: Connection, finished: Sequence[FinishedWebhook]) -> None:
    """Write outcomes into the log and into the deliveries, and let these leave the queue or wait again."""
    called = [rows.finished_attempt(each) for each in finished if each.called]
    if called:
        await connection.execute(_FINISH_ATTEMPT, called)
    uncalled = [{"at_id": each.delivery_id, "at_number": each.number} for each in finished if not each.called]
    if uncalled:
        await connection.execute(delete(ATTEMPTS).where(_THIS_ATTEMPT), uncalled)
    await connection.execute(_FINISH_DELIVERY, [rows.finished_delivery(each) for each in finished])
    done = [each.delivery_id for each in finished if each.retry_at is None]
    if done:
        await queue.leave(connection, done)
    again = {each.delivery_id: to_milliseconds(each.retry_at) for each in finished if each.retry_at is not None}
    if again:
        await queue.wait_again(connection, again)


class _Streak(NamedTuple):
    """The failures of an endpoint since it last succeeded, all of them of one URL."""

    since_ms: int | None = None
    last_ms: int | None = None
    url_sha256: bytes | None = None

    def after(self, finished: FinishedWebhook) -> _Streak:
        if finished.status is WebhookStatus.DELIVERED:
            return _NO_STREAK
        url_sha256 = hashlib.sha256(finished.url.encode()).digest()
        # Its owner may have given it another URL, which has not failed yet.
        goes_on = self.url_sha256 in (None, url_sha256)
        since, last = (rows.moment(each) if goes_on else None for each in (self.since_ms, self.last_ms))
        since = streak_after_failure(since, last, finished.finished_at)
        return _Streak(to_milliseconds(since), to_milliseconds(finished.finished_at), url_sha256)


_NO_STREAK: Final = _Streak()


async def _lock_streaks(connection: Connection, finished: Sequence[FinishedWebhook]) -> dict[str, _Streak]:
    names = sorted({each.endpoint for each in finished})
    found = await connection.execute(
        select(
            ENDPOINTS.c.endpoint, ENDPOINTS.c.failing_since_ms, ENDPOINTS.c.failed_at_ms, ENDPOINTS.c.failing_url_sha256
        )
        .where(ENDPOINTS.c.endpoint.in_(names))
        .order_by(ENDPOINTS.c.endpoint)
        .with_for_update()
    )
    return dict.fromkeys(names, _NO_STREAK) | {endpoint: _Streak(*streak) for endpoint, *streak in found}


async def _forget(connection: Connection, delivery_ids: Sequence[str]) -> None:
    if delivery_ids:
        await connection.execute(delete(ATTEMPTS).where(ATTEMPTS.c.delivery_id.in_(delivery_ids)))
        await connection.execute(delete(WEBHOOKS).where(WEBHOOKS.c.id.in_(delivery_ids)))


async def _keep_streaks(
    connection: Connection, finished: Sequence[FinishedWebhook], streaks: dict[str, _Streak]
) -> None:
    """Move the streaks of failures on, and write those that have changed."""
    before = dict(streaks)
    for each in sorted(finished, key=lambda each: each.finished_at):
        if each.called:
            streaks[each.endpoint] = streaks[each.endpoint].after(each)
    changed: list[dict[str, Any]] = [
        {"at_endpoint": endpoint, "to_since_ms": since, "to_failed_ms": failed, "to_url_sha256": url_sha256}
        for endpoint, (since, failed, url_sha256) in sorted(streaks.items())
        if before[endpoint] != streaks[endpoint]
    ]
    if changed:
        await connection.execute(
            update(ENDPOINTS)
            .where(ENDPOINTS.c.endpoint == bindparam("at_endpoint"))
            .values(
                failing_since_ms=bindparam("to_since_ms"),
                failed_at_ms=bindparam("to_failed_ms"),
                failing_url_sha256=bindparam("to_url_sha256"),
            ),
            changed,
        )


async def _replay(connection: Connection, entries: Sequence[tuple[str, str, str]], now_ms: int) -> None:
    await connection.execute(
        update(WEBHOOKS)
        .where(WEBHOOKS.c.id.in_([delivery_id for delivery_id, _, _ in entries]))
        .values(
            status=WebhookStatus.PENDING.value,
            attempts_before=WEBHOOKS.c.attempts,
            next_at_ms=now_ms,
            finished_at_ms=None,
            given_up_at_ms=None,
        )
    )
    await queue.enter_again(connection, entries, now_ms)


async def _with_attempts(connection: Connection, found: Sequence[WebhookDelivery]) -> list[WebhookLog]:
    if not found:
        return []
    log = await connection.execute(
        select(ATTEMPTS)
        .where(ATTEMPTS.c.delivery_id.in_([each.id for each in found]))
        .order_by(ATTEMPTS.c.delivery_id, ATTEMPTS.c.number)
    )
    attempts: dict[str, list[Any]] = {each.id: [] for each in found}
    for row in log:
        attempts[row.delivery_id].append(rows.attempt(row))
    return [WebhookLog(delivery=each, attempts=tuple(attempts[each.id])) for each in found]

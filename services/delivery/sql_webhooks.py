"""The store of webhook deliveries in SQL: one implementation for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, delete, func, select, update

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery import sql_webhook_attempts, sql_webhook_turns
from services.delivery import sql_webhook_queue as queue
from services.delivery import webhook_rows as rows
from services.delivery.sql_statements import newest_first
from services.delivery.webhook_schedule import STREAK_ENDS_AFTER
from services.delivery.webhook_store import ClaimedWebhook, FinishedWebhook, Limits, Recorded
from services.delivery.webhook_tables import WEBHOOK_ATTEMPTS as ATTEMPTS
from services.delivery.webhook_tables import WEBHOOK_DUE as DUE
from services.delivery.webhook_tables import WEBHOOK_ENDPOINTS as ENDPOINTS
from services.delivery.webhook_tables import WEBHOOKS
from services.delivery.webhooks import WebhookDelivery, WebhookFilter, WebhookLog, WebhookStatus

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

        async def work(connection: Connection) -> list[ClaimedWebhook]:
            await queue.promote(connection, now_ms)
            tokens = await sql_webhook_turns.take(connection, limits, now_ms)
            return await sql_webhook_attempts.begin(connection, tokens, now_ms, to_milliseconds(lease_until))

        return await self._database.run_write(work, rows=limits.in_all)

    async def fill_lines(self, now: datetime) -> bool:
        """Promote once more, in a transaction of its own, so that messages can be written in between."""
        async with self._database.write() as connection:
            return await queue.promote(connection, to_milliseconds(now))

    async def renew(self, claimed: Sequence[ClaimedWebhook], lease_until: datetime) -> set[str]:
        """Move the end of the leases that still carry the caller's token."""
        async with self._database.write() as connection:
            # A claim that has made an expired one ready holds its endpoint, and may have any of its deliveries.
            await queue.lock_endpoints(
                connection, {each.delivery.endpoint: each.delivery.tenant_id for each in claimed}
            )
            held = await queue.lock(connection, [each.delivery.id for each in claimed])
            mine = [each.delivery.id for each in claimed if held.get(each.delivery.id) == each.token]
            if mine:
                await connection.execute(
                    update(DUE).where(DUE.c.delivery_id.in_(mine)).values(due_at_ms=to_milliseconds(lease_until))
                )
            return set(mine)

    async def finish(self, finished: Sequence[FinishedWebhook]) -> list[Recorded]:
        """Close attempts that still carry the caller's token, and move their deliveries and endpoints on."""

        async def work(connection: Connection) -> list[Recorded]:
            streaks = await sql_webhook_attempts.lock_streaks(connection, finished)
            held = await queue.lock(connection, [each.delivery_id for each in finished])
            verdicts = [held.get(each.delivery_id) == each.token for each in finished]
            mine = [each for each, is_mine in zip(finished, verdicts, strict=True) if is_mine]
            if not mine:
                return [Recorded(kept=False)] * len(finished)
            await sql_webhook_attempts.close(connection, sorted(mine, key=lambda each: each.delivery_id))
            await sql_webhook_attempts.keep_streaks(connection, mine, streaks)
            now_ms = to_milliseconds(max(each.finished_at for each in mine))
            await queue.give_turns(connection, {each.endpoint for each in mine}, now_ms)
            return [
                Recorded(kept=is_mine, failing_since=rows.moment(streaks[each.endpoint].since_ms) if is_mine else None)
                for each, is_mine in zip(finished, verdicts, strict=True)
            ]

        return await self._database.run_write(work, rows=len(finished))

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

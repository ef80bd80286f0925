"""Attempts to call webhooks in SQL: begun under a lease, closed with what came of them, and held against endpoints.

The caller's transaction holds the deliveries, and for closing their endpoints too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import and_, bindparam, delete, select, update

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.hot_statements import HotStatement, inserting, one_of
from services.delivery import sql_webhook_queue as queue
from services.delivery import webhook_rows as rows
from services.delivery.webhook_schedule import streak_after_failure
from services.delivery.webhook_store import ClaimedWebhook, FinishedWebhook
from services.delivery.webhook_tables import WEBHOOK_ATTEMPTS as ATTEMPTS
from services.delivery.webhook_tables import WEBHOOK_ENDPOINTS as ENDPOINTS
from services.delivery.webhook_tables import WEBHOOKS
from services.delivery.webhooks import WebhookStatus

CUT_OFF: Final = "the process that made this attempt stopped before it knew the outcome"

# Parameters are named so as not to be taken for columns: `at_` for which row, `to_` for what it becomes.
_THIS_ATTEMPT: Final = and_(ATTEMPTS.c.delivery_id == bindparam("at_id"), ATTEMPTS.c.number == bindparam("at_number"))
_THESE: Final = one_of(WEBHOOKS.c.id, "ids")
_DELIVERIES: Final = HotStatement(select(WEBHOOKS).where(_THESE), ("ids",))
_CUT_OFF: Final = HotStatement(
    update(ATTEMPTS)
    .where(one_of(ATTEMPTS.c.delivery_id, "ids"), ATTEMPTS.c.finished_at_ms.is_(None))
    .values(finished_at_ms=bindparam("to_finished_at_ms"), problem=CUT_OFF),
    ("ids", "to_finished_at_ms"),
)
_COUNT_ATTEMPT: Final = HotStatement(
    update(WEBHOOKS).where(_THESE).values(attempts=WEBHOOKS.c.attempts + 1, next_at_ms=None), ("ids",)
)
_BEGIN: Final = inserting(ATTEMPTS)
_FINISH_ATTEMPT: Final = HotStatement(
    update(ATTEMPTS)
    .where(_THIS_ATTEMPT)
    .values(
        finished_at_ms=bindparam("to_finished_at_ms"),
        url=bindparam("to_url"),
        status_code=bindparam("to_status_code"),
        milliseconds=bindparam("to_milliseconds"),
        problem=bindparam("to_problem"),
        excerpt=bindparam("to_excerpt"),
    ),
    (
        "at_id", "at_number", "to_finished_at_ms", "to_url", "to_status_code", "to_milliseconds", "to_problem",
        "to_excerpt",
    ),
)  # fmt: skip  # one line per name hides that this is one row
_FINISH_DELIVERY: Final = HotStatement(
    update(WEBHOOKS)
    .where(WEBHOOKS.c.id == bindparam("at_id"))
    .values(
        status=bindparam("to_status"),
        attempts=bindparam("to_attempts"),
        problem=bindparam("to_problem"),
        next_at_ms=bindparam("to_next_at_ms"),
        finished_at_ms=bindparam("to_finished_at_ms"),
        given_up_at_ms=bindparam("to_given_up_at_ms"),
    ),
    (
        "at_id", "to_status", "to_attempts", "to_problem", "to_next_at_ms", "to_finished_at_ms", "to_given_up_at_ms",
    ),
)  # fmt: skip  # as above
_FORGET_ATTEMPT: Final = HotStatement(delete(ATTEMPTS).where(_THIS_ATTEMPT), ("at_id", "at_number"))
_FORGET_ATTEMPTS: Final = HotStatement(delete(ATTEMPTS).where(one_of(ATTEMPTS.c.delivery_id, "ids")), ("ids",))
_FORGET_DELIVERIES: Final = HotStatement(delete(WEBHOOKS).where(_THESE), ("ids",))
_STREAKS: Final = HotStatement(
    select(ENDPOINTS.c.endpoint, ENDPOINTS.c.failing_since_ms, ENDPOINTS.c.failed_at_ms, ENDPOINTS.c.failing_url_sha256)
    .where(one_of(ENDPOINTS.c.endpoint, "endpoints"))
    .order_by(ENDPOINTS.c.endpoint)
    .with_for_update(),
    ("endpoints",),
)
_KEEP_STREAK: Final = HotStatement(
    update(ENDPOINTS)
    .where(ENDPOINTS.c.endpoint == bindparam("at_endpoint"))
    .values(
        failing_since_ms=bindparam("to_since_ms"),
        failed_at_ms=bindparam("to_failed_ms"),
        failing_url_sha256=bindparam("to_url_sha256"),
    ),
    ("at_endpoint", "to_since_ms", "to_failed_ms", "to_url_sha256"),
)


class Streak(NamedTuple):
    """The failures of an endpoint since it last succeeded, all of them of one URL."""

    since_ms: int | None = None
    last_ms: int | None = None
    url_sha256: bytes | None = None

    def after(self, finished: FinishedWebhook) -> Streak:
        """Return what it is with one more outcome."""
        if finished.status is WebhookStatus.DELIVERED:
            return NO_STREAK
        url_sha256 = hashlib.sha256(finished.url.encode()).digest()
        # Its owner may have given it another URL, which has not failed yet.
        goes_on = self.url_sha256 in (None, url_sha256)
        since, last = (rows.moment(each) if goes_on else None for each in (self.since_ms, self.last_ms))
        since = streak_after_failure(since, last, finished.finished_at)
        return Streak(to_milliseconds(since), to_milliseconds(finished.finished_at), url_sha256)


NO_STREAK: Final = Streak()


async def begin(
    connection: Connection, tokens: Mapping[str, int], now_ms: int, lease_until_ms: int
) -> list[ClaimedWebhook]:
    """Lease chosen deliveries, given with their tokens, and write their attempts as begun."""
    if not tokens:
        return []
    await queue.lease(connection, list(tokens), now_ms, lease_until_ms)
    deliveries = {
        delivery.id: delivery for delivery in map(rows.delivery, await _DELIVERIES.rows(connection, list(tokens)))
    }
    if removed := tokens.keys() - deliveries.keys():
        # Somebody has deleted rows by hand: a place in the queue without a delivery must not stop all others.
        await queue.give_up_places(connection, sorted(removed), now_ms)
    claimed = [
        ClaimedWebhook(delivery=deliveries[each], number=deliveries[each].attempts + 1, token=token + 1)
        for each, token in tokens.items()
        if each in deliveries
    ]
    if claimed:
        await _log(connection, claimed, now_ms)
    return claimed


async def close(connection: Connection, finished: Sequence[FinishedWebhook]) -> None:
    """Write outcomes into the log and into the deliveries, and let these leave the queue or wait again.

    Of a delivery that nobody asks for nothing is left.
    """
    await _FINISH_ATTEMPT.each(connection, [rows.finished_attempt(each) for each in finished if each.called])
    await _FORGET_ATTEMPT.each(connection, [(each.delivery_id, each.number) for each in finished if not each.called])
    await _FINISH_DELIVERY.each(connection, [rows.finished_delivery(each) for each in finished])
    done = [each.delivery_id for each in finished if each.retry_at is None]
    if done:
        await queue.leave(connection, done)
    again = {each.delivery_id: to_milliseconds(each.retry_at) for each in finished if each.retry_at is not None}
    if again:
        await queue.wait_again(connection, again)
    unwanted = [each.delivery_id for each in finished if not each.is_wanted]
    if unwanted:
        await _FORGET_ATTEMPTS.rows(connection, unwanted)
        await _FORGET_DELIVERIES.rows(connection, unwanted)


async def lock_streaks(connection: Connection, finished: Sequence[FinishedWebhook]) -> dict[str, Streak]:
    """Lock the endpoints of attempts; return the streak of each."""
    names = sorted({each.endpoint for each in finished})
    found = await _STREAKS.rows(connection, names)
    return dict.fromkeys(names, NO_STREAK) | {endpoint: Streak(*streak) for endpoint, *streak in found}


async def keep_streaks(connection: Connection, finished: Sequence[FinishedWebhook], streaks: dict[str, Streak]) -> None:
    """Move the streaks of failures on, and write those that have changed."""
    before = dict(streaks)
    for each in sorted(finished, key=lambda each: each.finished_at):
        if each.called:
            streaks[each.endpoint] = streaks[each.endpoint].after(each)
    changed = [
        (endpoint, *streak) for endpoint, streak in sorted(streaks.items()) if before[endpoint] != streaks[endpoint]
    ]
    await _KEEP_STREAK.each(connection, changed)


async def _log(connection: Connection, claimed: Sequence[ClaimedWebhook], now_ms: int) -> None:
    tried = [each.delivery.id for each in claimed if each.number > 1]
    if tried:
        await _CUT_OFF.rows(connection, tried, now_ms)
    await _COUNT_ATTEMPT.rows(connection, [each.delivery.id for each in claimed])
    await _BEGIN.each(connection, [rows.new_attempt(each.delivery.id, each.number, now_ms) for each in claimed])

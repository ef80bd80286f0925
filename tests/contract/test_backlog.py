"""What is said of the queues' length and age, on every engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.delivery import sql_backlog
from services.delivery.backlog import MessageBacklog, WebhookBacklog
from services.delivery.sql_backlog import SqlBacklog
from services.delivery.sql_store import SqlMessageStore
from services.delivery.sql_webhooks import SqlWebhookStore
from services.delivery.store import FinishedAttempt, StartedAttempt
from services.delivery.webhooks import WebhookStatus
from tests.contract import test_webhook_store as webhooks
from tests.contract.test_claiming_at_scale import new_message, refused_for_now
from tests.kit.claims import ROUTE, claim

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)


@pytest.fixture
def backlog(database) -> SqlBacklog:
    return SqlBacklog(database, shards=range(32), routes=[ROUTE, "another"])


def put_off(attempt: StartedAttempt) -> FinishedAttempt:
    return replace(refused_for_now(attempt, NOW), retry_at=NOW + timedelta(minutes=5))


async def test_says_nothing_of_an_empty_queue(backlog):
    assert await backlog.messages(NOW) == MessageBacklog(ready=0, waiting=0, in_hand=0, oldest_due_at=None)
    assert await backlog.webhooks() == WebhookBacklog(pending=0, failing_endpoints=0)


async def test_counts_messages_by_what_they_wait_for(database, backlog):
    store = SqlMessageStore(database)
    await store.add([new_message(NOW - timedelta(seconds=each)) for each in (50, 40, 30, 20, 10)])
    taken = await claim(store, now=NOW, limit=2)
    await store.finish([put_off(taken[0])])

    found = await backlog.messages(NOW)

    assert (found.ready, found.waiting, found.in_hand, found.depth) == (3, 1, 1, 5)
    assert found.oldest_due_at == NOW - timedelta(seconds=30)


async def test_counts_a_message_as_late_whose_second_try_nobody_makes(database, backlog):
    store = SqlMessageStore(database)
    await store.add([new_message(NOW)])
    (taken,) = await claim(store, now=NOW)
    await store.finish([put_off(taken)])

    before = await backlog.messages(NOW + timedelta(minutes=1))
    after = await backlog.messages(NOW + timedelta(minutes=10))

    assert before.oldest_due_at is None
    assert after.oldest_due_at == NOW + timedelta(minutes=5)


async def test_finds_the_oldest_behind_many_of_another_integration(database, backlog):
    store = SqlMessageStore(database)
    many = [new_message(NOW, integration_id="wkh_many") for _ in range(120)]
    await store.add(many)
    await store.add([new_message(NOW - timedelta(minutes=9), integration_id="wkh_few")])

    found = await backlog.messages(NOW)

    assert found.oldest_due_at == NOW - timedelta(minutes=9)


async def test_stops_counting_where_an_exact_number_is_of_no_use(database, monkeypatch):
    monkeypatch.setattr(sql_backlog, "COUNTED_AT_MOST", 4)
    monkeypatch.setattr(sql_backlog, "_COUNT_MESSAGES", sql_backlog._count_messages())
    backlog = SqlBacklog(database, shards=range(1), routes=[ROUTE])
    await SqlMessageStore(database).add([new_message(NOW) for _ in range(6)])

    found = await backlog.messages(NOW)

    assert found.ready == 4


async def test_counts_webhook_deliveries_and_the_endpoints_that_fail(database, backlog):
    store = SqlWebhookStore(database)
    await store.add([webhooks.new_delivery(owner) for owner in ("wkh_1", "wkh_1", "wkh_2")])
    first, *_ = await webhooks.claim(store, now=webhooks.NOW)
    again = webhooks.NOW + timedelta(minutes=5)
    await store.finish([webhooks.failed(first, status=WebhookStatus.PENDING, retry_at=again)])

    found = await backlog.webhooks()

    assert found == WebhookBacklog(pending=3, failing_endpoints=1)

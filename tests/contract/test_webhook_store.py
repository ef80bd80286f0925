"""What every store of webhook deliveries guarantees, on every engine."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from servicekit import ids
from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery import sql_webhook_queue
from services.delivery.sql_webhook_attempts import CUT_OFF
from services.delivery.sql_webhooks import SqlWebhookStore
from services.delivery.webhook_store import ClaimedWebhook, FinishedWebhook, Limits
from services.delivery.webhooks import (
    Destination,
    DestinationKind,
    Event,
    WebhookDelivery,
    WebhookFilter,
    WebhookStatus,
)
from tests.contract.test_claiming_at_scale import explain, statements_of_a_claim
from tests.kit import locks

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
LEASE = NOW + timedelta(seconds=30)
TENANT = "ten_a"
EVERYTHING = WebhookFilter()
DIALLED = "https://receiver.example/sms"
ROUNDS = 30
numbers = itertools.count()


@pytest.fixture
def store(database) -> SqlWebhookStore:
    return SqlWebhookStore(database)


def new_delivery(integration_id: str = "wkh_1", **changes: object) -> WebhookDelivery:
    created_at = changes.get("created_at", NOW)
    delivery = WebhookDelivery(
        id=ids.new_id("whd", created_at, lambda _bits: next(numbers)),
        tenant_id=TENANT,
        destination=Destination(kind=DestinationKind.INTEGRATION, id=integration_id),
        event=Event.MESSAGE_RECEIVED,
        event_id=ids.new_id("evt", created_at),
        message_id="msg_1",
        reply_id="mo_1",
        body=b'{"text":"YES \xc3\xa9"}',
        created_at=NOW,
        next_at=created_at,
    )
    return replace(delivery, **changes)


async def claim(
    store: SqlWebhookStore, now: datetime = NOW, limit: int = 100, per_endpoint: int = 4, per_tenant: int = 20
) -> list[ClaimedWebhook]:
    return await store.claim(
        now=now,
        lease_until=now + timedelta(seconds=30),
        limits=Limits(in_all=limit, per_endpoint=per_endpoint, per_failing_endpoint=1, per_tenant=per_tenant),
    )


def finished(claimed: ClaimedWebhook, **changes: object) -> FinishedWebhook:
    outcome = FinishedWebhook(
        delivery_id=claimed.delivery.id,
        endpoint=claimed.delivery.endpoint,
        number=claimed.number,
        token=claimed.token,
        called=True,
        url=DIALLED,
        status_code=200,
        milliseconds=12,
        problem="",
        excerpt="OK",
        status=WebhookStatus.DELIVERED,
        retry_at=None,
        finished_at=NOW + timedelta(seconds=1),
    )
    return replace(outcome, **changes)


def failed(claimed: ClaimedWebhook, **changes: object) -> FinishedWebhook:
    outcome = finished(
        claimed, status_code=500, problem="the endpoint answered 500", excerpt="", status=WebhookStatus.FAILED
    )
    return replace(outcome, **changes)


def ids_of(claimed: list[ClaimedWebhook]) -> list[str]:
    return [each.delivery.id for each in claimed]


def owners_of(claimed: list[ClaimedWebhook]) -> Counter[str]:
    return Counter(each.delivery.destination.id for each in claimed)


# Entering


async def test_keeps_a_delivery_as_it_was_given(store):
    delivery = new_delivery(
        destination=Destination(kind=DestinationKind.CALLBACK, id="wkh_1", url="https://a.example/x?y=1")
    )

    await store.add([delivery])

    assert (await store.get(TENANT, delivery.id)).delivery == delivery


async def test_stores_a_delivery_once_however_often_it_is_told(store):
    delivery, other = new_delivery(), new_delivery("wkh_2")

    assert await store.add([delivery]) == 1
    assert await store.add([delivery, other]) == 1
    (first, _) = await claim(store)
    await store.finish([finished(first)])

    assert await store.add([delivery]) == 0
    assert (await store.get(TENANT, delivery.id)).delivery.status is WebhookStatus.DELIVERED
    assert await claim(store) == []


async def test_commits_deliveries_with_what_they_tell_of_or_not_at_all(store, database):
    kept, dropped = new_delivery(), new_delivery("wkh_2")

    async with database.write() as connection:
        await sql_webhook_queue.enter(connection, [kept])
    with contextlib.suppress(ZeroDivisionError):
        async with database.write() as connection:
            await sql_webhook_queue.enter(connection, [dropped])
            raise ZeroDivisionError

    assert ids_of(await claim(store)) == [kept.id]
    assert await store.get(TENANT, dropped.id) is None


# Claims and leases


async def test_gives_no_delivery_to_two_workers(store):
    await store.add([new_delivery(f"wkh_{number}", tenant_id=f"ten_{number % 8}") for number in range(40)])

    batches = []
    while len(list(itertools.chain(*batches))) < 40:
        batches += await asyncio.gather(*(claim(store, limit=7) for _ in range(6)))

    claimed = [delivery_id for batch in batches for delivery_id in ids_of(batch)]
    assert len(set(claimed)) == len(claimed) == 40


async def test_commits_an_attempt_as_begun_before_it_is_made(store):
    delivery = new_delivery()
    await store.add([delivery])

    (claimed,) = await claim(store)

    log = await store.get(TENANT, delivery.id)
    assert (claimed.number, claimed.tries) == (1, 1)
    assert claimed.delivery.body == delivery.body
    assert log.delivery.attempts == 1
    assert [(each.number, each.finished_at) for each in log.attempts] == [(1, None)]


async def test_waits_for_the_time_of_a_delivery(store):
    later = NOW + timedelta(seconds=5)
    await store.add([new_delivery(next_at=later)])

    assert await store.next_due() == later
    assert await claim(store, later - timedelta(milliseconds=1)) == []
    assert len(await claim(store, later)) == 1


async def test_gives_a_delivery_again_when_its_lease_is_over_and_closes_the_lost_attempt(store):
    delivery = new_delivery()
    await store.add([delivery])
    await claim(store)

    assert await claim(store, LEASE - timedelta(milliseconds=1)) == []
    (second,) = await claim(store, LEASE)

    log = await store.get(TENANT, delivery.id)
    assert second.number == 2
    assert [each.problem for each in log.attempts] == [CUT_OFF, ""]


async def test_ignores_the_outcome_of_a_worker_whose_lease_was_lost(store):
    delivery = new_delivery()
    await store.add([delivery])
    (lost,) = await claim(store)
    (current,) = await claim(store, LEASE)

    (verdict,) = await store.finish([failed(lost)])

    assert not verdict.kept
    assert (await store.get(TENANT, delivery.id)).delivery.status is WebhookStatus.PENDING
    assert (await store.finish([finished(current)]))[0].kept
    assert (await store.get(TENANT, delivery.id)).delivery.status is WebhookStatus.DELIVERED


async def test_does_not_take_a_lease_from_before_a_replay_for_one_of_after_it(store):
    delivery = new_delivery()
    await store.add([delivery])
    (stale,) = await claim(store)
    (current,) = await claim(store, LEASE)
    await store.finish([failed(current, called=False, status=WebhookStatus.MISSED)])
    await store.replay(TENANT, delivery.id, LEASE)
    (replayed,) = await claim(store, LEASE)

    verdicts = await store.finish([finished(replace(stale, number=replayed.number)), failed(current)])

    assert [each.kept for each in verdicts] == [False, False]
    assert (await store.finish([finished(replayed)]))[0].kept


async def test_records_an_outcome_once(store):
    delivery = new_delivery()
    await store.add([delivery])
    (claimed,) = await claim(store)

    assert [each.kept for each in await store.finish([finished(claimed)])] == [True]
    assert [each.kept for each in await store.finish([failed(claimed)])] == [False]

    log = await store.get(TENANT, delivery.id)
    assert log.delivery.status is WebhookStatus.DELIVERED
    assert log.delivery.finished_at == NOW + timedelta(seconds=1)
    (attempt,) = log.attempts
    assert (attempt.status_code, attempt.milliseconds, attempt.excerpt, attempt.url) == (200, 12, "OK", DIALLED)
    assert await store.next_due() is None


async def test_renews_only_leases_that_are_still_the_callers(store):
    kept, lost = new_delivery(), new_delivery()
    await store.add([kept, lost])
    first = {each.delivery.id: each for each in await claim(store)}
    await store.finish([finished(first[lost.id])])

    held = await store.renew(list(first.values()), LEASE + timedelta(seconds=30))

    assert held == {kept.id}
    assert await claim(store, LEASE) == []
    assert len(await claim(store, LEASE + timedelta(seconds=30))) == 1


async def test_makes_a_delivery_due_again_at_its_retry_time(store):
    delivery = new_delivery()
    await store.add([delivery])
    (claimed,) = await claim(store)
    retry_at = NOW + timedelta(minutes=5)

    await store.finish([failed(claimed, status=WebhookStatus.PENDING, retry_at=retry_at)])

    log = await store.get(TENANT, delivery.id)
    assert (log.delivery.next_at, log.delivery.problem) == (retry_at, "the endpoint answered 500")
    assert await store.next_due() == retry_at
    assert await claim(store, retry_at - timedelta(milliseconds=1)) == []
    (again,) = await claim(store, retry_at)
    assert (again.number, again.delivery.event_id) == (2, delivery.event_id)


async def test_takes_an_attempt_back_that_was_not_made(store):
    delivery = new_delivery()
    await store.add([delivery])
    (claimed,) = await claim(store)

    await store.finish([failed(claimed, called=False, status=WebhookStatus.PENDING, retry_at=LEASE)])

    log = await store.get(TENANT, delivery.id)
    assert (log.delivery.attempts, log.attempts) == (0, ())
    (again,) = await claim(store, LEASE)
    assert again.number == 1


async def test_releases_the_leases_of_a_process_that_is_gone(store):
    await store.add([new_delivery(), new_delivery()])
    await claim(store)

    assert await store.release_leases(NOW) == 2
    assert len(await claim(store)) == 2


# Fairness and limits


async def test_leases_no_more_of_an_endpoint_than_it_may_have(store):
    await store.add([new_delivery() for _ in range(10)])

    first = await claim(store)

    assert len(first) == 4
    assert await claim(store) == []
    await store.finish([failed(first[0]), finished(first[1])])
    assert len(await claim(store)) == 2
    assert await claim(store) == []


async def test_leases_no_more_of_a_tenant_than_it_may_have(store):
    await store.add([new_delivery(f"wkh_{number % 10}") for number in range(60)])
    await store.add([new_delivery("wkh_other", tenant_id="ten_b")])

    first = await claim(store)
    second = await claim(store)

    assert sum(each.delivery.tenant_id == TENANT for each in first + second) == 20
    assert owners_of(first + second)["wkh_other"] == 1
    await store.finish([finished(each) for each in first if each.delivery.tenant_id == TENANT][:7])
    assert len(await claim(store) + await claim(store)) == 7


async def test_leases_one_at_a_time_of_an_endpoint_that_fails_until_a_call_succeeds(store):
    await store.add([new_delivery() for _ in range(14)])

    await store.finish([failed(each) for each in await claim(store)])
    tried = await claim(store)
    assert len(tried) == 1
    assert await claim(store) == []
    await store.finish([failed(tried[0])])
    tried = await claim(store)
    await store.finish([finished(tried[0])])

    assert len(await claim(store)) == 4


async def test_leaves_a_healthy_endpoint_its_place_beside_many_that_hang(store):
    hanging = [f"wkh_hangs_{number}" for number in range(5)]
    await store.add([new_delivery(name) for name in hanging for _ in range(10)])
    await store.finish([failed(each) for each in await claim(store)])

    await claim(store)  # of these, none ends
    await store.add([new_delivery("wkh_healthy") for _ in range(4)])

    assert owners_of(await claim(store)) == {"wkh_healthy": 4}


async def test_sends_an_endpoints_deliveries_in_the_order_in_which_they_came(store):
    deliveries = [new_delivery() for _ in range(12)]
    await store.add(deliveries)

    claimed = []
    for _ in range(3):
        batch = await claim(store)
        claimed += ids_of(batch)
        await store.finish([finished(each) for each in batch])

    assert claimed == [each.id for each in deliveries]


async def test_lets_endpoints_take_turns(store):
    await store.add([new_delivery("wkh_flood", tenant_id="ten_b") for _ in range(50)])
    await claim(store, limit=2)
    await store.add([new_delivery("wkh_small", created_at=NOW + timedelta(seconds=1))])

    claimed = await claim(store, NOW + timedelta(seconds=1), limit=3)

    assert owners_of(claimed) == {"wkh_flood": 2, "wkh_small": 1}


async def test_gives_a_new_endpoint_its_turn_when_each_of_the_others_had_one(store):
    flooded = [f"wkh_{number:02}" for number in range(30)]
    await store.add([new_delivery(name, tenant_id=name) for name in flooded for _ in range(8)])
    await claim(store, limit=10, per_endpoint=1)
    await store.add([new_delivery("wkh_new", tenant_id="ten_new", created_at=NOW + timedelta(seconds=1))])

    order = []
    for second in range(1, 5):
        batch = await claim(store, NOW + timedelta(seconds=second), limit=10, per_endpoint=1)
        order += [each.delivery.destination.id for each in batch]
        ended_at = NOW + timedelta(seconds=second + 0.5)
        await store.finish([finished(each, finished_at=ended_at) for each in batch])

    assert order[:20] == flooded[10:]
    assert order[20] == "wkh_new"


async def test_goes_on_with_an_endpoint_whose_process_died_with_all_that_it_may_have(store):
    await store.add([new_delivery() for _ in range(8)])
    await claim(store)

    claimed = await claim(store, LEASE)

    assert len(claimed) == 4
    assert [each.number for each in claimed] == [2, 2, 2, 2]


# 100,000 deliveries wait for one endpoint


async def flood(database: Database, store: SqlWebhookStore, count: int, *, ready: bool) -> None:
    """Let so many deliveries wait for one endpoint: in its line, or all to be tried again at once after a long stop."""
    (one,) = [new_delivery("wkh_flood", tenant_id="ten_flood", created_at=NOW - timedelta(days=1))]
    await store.add([one])
    series = f"WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {count}) "
    async with database.write(patience_seconds=60) as connection:
        for table, key in (("delivery_webhooks", "id"), ("delivery_webhook_due", "delivery_id")):
            row = (await connection.execute(text(f"SELECT * FROM {table}"))).mappings().one()
            names = ", ".join(row)
            given = {key: "'whd_0' || (1000000 + n)", "tried": "true"} | ({"ready_at_ms": "due_at_ms"} if ready else {})
            values = ", ".join(given.get(name, name) for name in row)
            statement = f"INSERT INTO {table} ({names}) {series} SELECT {values} FROM {table}, series"
            if connection.dialect.name == "sqlite":
                statement = f"{series} INSERT INTO {table} ({names}) SELECT {values} FROM {table}, series"
            await connection.execute(text(statement))


@pytest.mark.parametrize("ready", [True, False], ids=["in line", "to be tried again"])
async def test_a_hundred_thousand_waiting_do_not_delay_another_endpoints_first(store, database, ready):
    await flood(database, store, 100_000, ready=ready)
    await claim(store)
    await store.add([new_delivery("wkh_new")])

    with statements_of_a_claim() as statements:
        claimed = await claim(store)
    steps = await explain(database, statements)

    assert owners_of(claimed)["wkh_new"] == 1
    for statement, step in steps:
        if "detail" in step:
            # What is leased is counted, and there is never much of it.
            is_scan = "SCAN delivery" in step["detail"] and "due_leased" not in step["detail"]
            assert not is_scan, (statement, step)
        else:
            read = step.get("Actual Rows", 0) + step.get("Rows Removed by Filter", 0)
            assert step["Node Type"] != "Seq Scan" or "delivery" not in step["Relation Name"], (statement, step)
            assert read <= 2 * sql_webhook_queue.PROMOTED_AT_ONCE, (statement, step)


async def test_fills_lines_bit_by_bit_when_much_has_become_due(store, database):
    await flood(database, store, 1_200, ready=False)

    more = [await store.fill_lines(NOW) for _ in range(4)]

    assert more == [True, True, False, False]
    assert len(await claim(store)) == 4


async def test_keeps_both_limits_when_many_processes_claim_at_once(postgres_database):
    async with contextlib.AsyncExitStack() as stack:
        databases = [Database.open(postgres_database) for _ in range(4)]
        for database in databases:
            stack.push_async_callback(database.close)
        stores = [SqlWebhookStore(database) for database in databases]
        await stores[0].add([new_delivery(f"wkh_{number % 12}", tenant_id="ten_a") for number in range(240)])
        in_flight: dict[str, ClaimedWebhook] = {}
        most_of_endpoint = most_of_tenant = done = 0

        async def work(store: SqlWebhookStore) -> None:
            nonlocal most_of_endpoint, most_of_tenant, done
            while done < 240:
                claimed = await claim(store)
                in_flight.update((each.delivery.id, each) for each in claimed)
                most_of_tenant = max(most_of_tenant, len(in_flight))
                most_of_endpoint = max([most_of_endpoint, *owners_of(list(in_flight.values())).values()])
                await asyncio.sleep(0.01)
                for each in claimed:
                    del in_flight[each.delivery.id]
                if claimed:
                    await store.finish([finished(each) for each in claimed])
                done += len(claimed)

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(store) for store in stores))

    assert done == 240
    assert most_of_endpoint <= 4
    assert most_of_tenant <= 20


async def test_renews_in_the_order_in_which_all_lock_endpoints_and_their_deliveries(postgres_database):
    async with contextlib.AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(Database.open(postgres_database)) for _ in range(3)]
        store = SqlWebhookStore(databases[0])
        await store.add([new_delivery(), new_delivery()])
        claimed = await claim(store)
        one, other = sorted(ids_of(claimed))
        lock = text("SELECT 1 FROM delivery_webhook_due WHERE delivery_id = :id FOR UPDATE")

        # Somebody who moves the endpoint's line, and has the second delivery before the first.
        async with databases[1].write() as moving:
            await moving.execute(text("SELECT 1 FROM delivery_webhook_endpoints FOR UPDATE"))
            await moving.execute(lock, {"id": other})
            renewing = asyncio.create_task(store.renew(claimed, LEASE + timedelta(seconds=30)))
            await locks.until_somebody_waits(databases[2])
            await moving.execute(lock, {"id": one})

        assert await renewing == {one, other}


class Actors:
    """Add, claim, renew, finish, miss, replay and remove, at random and all at once, over the same endpoints."""

    def __init__(self, stores: list[SqlWebhookStore]) -> None:
        self.stores = stores
        self.known: list[str] = []
        self.started = datetime.now(UTC)

    async def add(self, store: SqlWebhookStore) -> None:
        for number in range(ROUNDS):
            deliveries = [new_delivery(f"wkh_{each % 9}", created_at=datetime.now(UTC)) for each in range(20)]
            await locks.until_available(store.add, deliveries)
            self.known += [each.id for each in deliveries]
            if number % 10 == 9:
                endpoint = deliveries[0].endpoint
                await locks.until_available(store.miss_waiting, endpoint, "disabled", datetime.now(UTC), 50)

    async def work(self, store: SqlWebhookStore, lease_seconds: float) -> None:
        lease = timedelta(seconds=lease_seconds)
        for _ in range(ROUNDS):
            now = datetime.now(UTC)
            limits = Limits(in_all=30, per_endpoint=4, per_failing_endpoint=1, per_tenant=20)
            claimed = await locks.until_available(store.claim, now=now, lease_until=now + lease, limits=limits)
            await asyncio.sleep(0.02)
            if claimed:
                await locks.until_available(store.renew, claimed[::-1], datetime.now(UTC) + lease)
                again = {"status": WebhookStatus.PENDING, "retry_at": datetime.now(UTC)}
                outcomes = [failed(each, **again if number % 2 else {}) for number, each in enumerate(claimed)]
                await locks.until_available(store.finish, outcomes[::-1])

    async def replay(self, store: SqlWebhookStore) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0.02)
            await locks.until_available(store.replay_since, TENANT, self.started, datetime.now(UTC), 30)
            if self.known:
                await locks.until_available(store.replay, TENANT, self.known[-1], datetime.now(UTC))
            await locks.until_available(store.remove_finished, self.started, 10)


async def test_no_two_calls_wait_for_each_other(postgres_database):
    watched = Database.open(postgres_database)
    before = await locks.circles(watched)
    async with contextlib.AsyncExitStack() as stack:
        databases = [Database.open(postgres_database) for _ in range(4)]
        for database in databases:
            stack.push_async_callback(database.close)
        stores = [SqlWebhookStore(database) for database in databases]
        actors = Actors(stores)

        async with asyncio.timeout(120):
            await asyncio.gather(
                *(actors.add(store) for store in stores),
                *(actors.work(store, seconds) for store, seconds in zip(stores * 2, (0.05, 5) * 4, strict=True)),
                *(actors.replay(store) for store in stores[:2]),
            )

    assert await locks.circles(watched) == before
    assert len(actors.known) == 4 * ROUNDS * 20
    await watched.close()


# What endpoints go through


async def test_tells_since_when_an_endpoint_only_fails(store):
    await store.add([new_delivery() for _ in range(3)])
    first, second, third = await claim(store)

    def at(hours: float) -> datetime:
        return NOW + timedelta(hours=hours)

    (one,) = await store.finish([failed(first, finished_at=at(1))])
    (two,) = await store.finish([failed(second, finished_at=at(2))])
    (three,) = await store.finish([finished(third, finished_at=at(3))])

    assert [each.failing_since for each in (one, two, three)] == [at(1), at(1), None]


async def test_begins_anew_with_the_failures_of_another_url(store):
    await store.add([new_delivery() for _ in range(3)])
    first, second, third = await claim(store)

    await store.finish([failed(first)])
    (moved,) = await store.finish([failed(second, url=f"{DIALLED}/new", finished_at=NOW + timedelta(hours=1))])
    (later,) = await store.finish([failed(third, url=f"{DIALLED}/new", finished_at=NOW + timedelta(hours=2))])

    assert [each.failing_since for each in (moved, later)] == [NOW + timedelta(hours=1)] * 2


async def test_does_not_count_what_was_not_called_as_a_failure(store):
    await store.add([new_delivery()])
    (claimed,) = await claim(store)

    (recorded,) = await store.finish([failed(claimed, called=False, status=WebhookStatus.MISSED)])

    assert recorded.failing_since is None


async def test_forgets_the_failures_of_an_endpoint_that_is_disabled(store):
    await store.add([new_delivery(), new_delivery()])
    first, second = await claim(store)
    await store.finish([failed(first)])

    assert await store.miss_waiting(first.delivery.endpoint, "disabled", NOW, 10) == 0
    (recorded,) = await store.finish([failed(second, finished_at=LEASE)])

    assert recorded.failing_since == LEASE


async def test_ends_what_waits_for_a_disabled_endpoint_as_missed(store):
    await store.add([new_delivery() for _ in range(8)])
    other = new_delivery("wkh_2")
    await store.add([other])
    in_flight = await claim(store)
    mine = [each for each in in_flight if each.delivery.id != other.id]

    missed = [await store.miss_waiting(mine[0].delivery.endpoint, "disabled", NOW, 3) for _ in range(3)]

    assert missed == [3, 1, 0]
    listed = await store.list_deliveries(TENANT, WebhookFilter(status=WebhookStatus.MISSED), PageRequest())
    assert [(log.delivery.problem, log.delivery.finished_at) for log in listed] == [("disabled", NOW)] * 4
    assert all(each.kept for each in await store.finish([finished(each) for each in in_flight]))
    assert await store.next_due() is None


# Reading


async def test_shows_nobody_anothers_delivery(store):
    delivery = new_delivery()
    await store.add([delivery])

    assert await store.get("ten_b", delivery.id) is None
    assert await store.list_deliveries("ten_b", EVERYTHING, PageRequest()) == []
    assert await store.replay("ten_b", delivery.id, NOW) is None


async def test_lists_by_status_and_message_newest_first_in_pages_with_every_attempt(store):
    deliveries = [
        new_delivery(f"wkh_{number}", created_at=NOW + timedelta(seconds=number), message_id=f"msg_{number % 2}")
        for number in range(6)
    ]
    await store.add(deliveries)
    for each in await claim(store, LEASE):
        await store.finish([failed(each) if each.delivery.message_id == "msg_1" else finished(each)])
    wanted = WebhookFilter(status=WebhookStatus.FAILED, message_id="msg_1")

    first = await store.list_deliveries(TENANT, wanted, PageRequest(size=2))
    last = first[-1].delivery
    after = (round(last.created_at.timestamp() * 1000), last.id)
    second = await store.list_deliveries(TENANT, wanted, PageRequest(size=2, after=after))

    assert [log.delivery.id for log in first + second] == [deliveries[number].id for number in (5, 3, 1)]
    assert [len(log.attempts) for log in first + second] == [1, 1, 1]
    assert len(await store.list_deliveries(TENANT, EVERYTHING, PageRequest())) == 6


# Replays


@pytest.mark.parametrize("outcome", [finished, failed])
async def test_replays_a_delivery_with_its_ids_and_a_schedule_from_the_start(store, outcome):
    delivery = new_delivery()
    await store.add([delivery])
    (claimed,) = await claim(store)
    await store.finish([outcome(claimed)])

    replayed = await store.replay(TENANT, delivery.id, LEASE)

    assert (replayed.status, replayed.finished_at, replayed.next_at) == (WebhookStatus.PENDING, None, LEASE)
    (again,) = await claim(store, LEASE)
    assert (again.number, again.tries) == (2, 1)
    assert (again.delivery.event_id, again.delivery.body) == (delivery.event_id, delivery.body)
    assert len((await store.get(TENANT, delivery.id)).attempts) == 2


async def test_replays_at_once_what_waits_for_its_next_attempt(store):
    delivery = new_delivery()
    await store.add([delivery])
    (claimed,) = await claim(store)
    await store.finish([failed(claimed, status=WebhookStatus.PENDING, retry_at=NOW + timedelta(hours=24))])

    await store.replay(TENANT, delivery.id, NOW)

    (again,) = await claim(store)
    assert (again.number, again.tries) == (2, 1)


async def test_leaves_a_delivery_alone_that_is_being_sent(store):
    delivery = new_delivery()
    await store.add([delivery])
    (claimed,) = await claim(store)

    assert (await store.replay(TENANT, delivery.id, NOW)).status is WebhookStatus.PENDING

    assert await claim(store) == []
    assert (await store.finish([finished(claimed)]))[0].kept
    assert await claim(store) == []


async def test_leaves_nothing_behind_of_a_delivery_that_is_removed_as_it_is_replayed(postgres_database):
    async with contextlib.AsyncExitStack() as stack:
        here, there = [Database.open(postgres_database) for _ in range(2)]
        for database in (here, there):
            stack.push_async_callback(database.close)
        store = SqlWebhookStore(there)
        delivery, later = new_delivery(), new_delivery("wkh_2", next_at=LEASE)
        await store.add([delivery, later])
        await store.finish([failed(each) for each in await claim(store)])

        # The replay has read the delivery, and waits for its endpoint while the delivery goes.
        async with here.write() as connection:
            await sql_webhook_queue.lock_endpoints(connection, {delivery.endpoint: TENANT})
            replaying = asyncio.create_task(store.replay(TENANT, delivery.id, NOW))
            await locks.until_somebody_waits(here)
            await connection.execute(text(f"DELETE FROM delivery_webhooks WHERE id = '{delivery.id}'"))

        assert await replaying is None
        assert ids_of(await claim(store, LEASE)) == [later.id]


async def test_goes_on_when_a_place_in_the_queue_has_no_delivery(store, database):
    lost, kept = new_delivery(), new_delivery("wkh_2")
    await store.add([lost, kept])
    async with database.write() as connection:
        await connection.execute(text(f"DELETE FROM delivery_webhooks WHERE id = '{lost.id}'"))

    assert ids_of(await claim(store)) == [kept.id]
    assert await claim(store) == []
    assert await store.next_due() == LEASE  # of the one that is being sent


async def test_counts_and_replays_what_failed_or_was_missed_since_a_time(store):
    await store.add([new_delivery(f"wkh_{number}") for number in range(6)])
    claimed = await claim(store)
    early, late = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
    await store.finish(
        [
            failed(claimed[0], finished_at=early),
            failed(claimed[1], finished_at=late),
            failed(claimed[2], finished_at=late, called=False, status=WebhookStatus.MISSED),
            finished(claimed[3], finished_at=late),
            failed(claimed[4], finished_at=late, status=WebhookStatus.PENDING, retry_at=late + timedelta(days=1)),
            failed(claimed[5], finished_at=late),
        ]
    )

    counted = [await store.count_replayable(TENANT, since) for since in (early, late, late + timedelta(seconds=1))]
    others = await store.count_replayable("ten_b", early)
    replayed = [await store.replay_since(TENANT, late, late, 2) for _ in range(3)]

    assert (counted, others) == ([4, 3, 0], 0)
    assert replayed == [2, 1, 0]
    assert {each.delivery.id for each in await claim(store, late)} == {
        claimed[number].delivery.id for number in (1, 2, 5)
    }
    assert await store.count_replayable(TENANT, early) == 1


# Retention


async def test_removes_what_ended_long_ago_and_nothing_else(store):
    old, waiting, recent = new_delivery(), new_delivery("wkh_2"), new_delivery("wkh_3")
    await store.add([old, waiting, recent])
    claimed = {each.delivery.id: each for each in await claim(store)}
    await store.finish(
        [
            finished(claimed[old.id]),
            failed(claimed[waiting.id], status=WebhookStatus.PENDING, retry_at=NOW + timedelta(days=60)),
            finished(claimed[recent.id], finished_at=NOW + timedelta(days=2)),
        ]
    )

    removed = await store.remove_finished(NOW + timedelta(days=1), 10)

    assert removed == 1
    assert await store.get(TENANT, old.id) is None
    assert {log.delivery.id for log in await store.list_deliveries(TENANT, EVERYTHING, PageRequest())} == {
        waiting.id,
        recent.id,
    }
    assert len(await claim(store, NOW + timedelta(days=60))) == 1


async def test_forgets_endpoints_that_nothing_waits_for(store, database):
    callbacks = [
        new_delivery(destination=Destination(kind=DestinationKind.CALLBACK, id="", url=f"https://{number}.example/a"))
        for number in range(5)
    ]
    await store.add([*callbacks, new_delivery("wkh_failing")])
    for each in await claim(store):
        kind = each.delivery.destination.kind
        outcome = finished if kind is DestinationKind.CALLBACK else failed
        await store.finish([outcome(each, finished_at=NOW + timedelta(days=30))])

    await store.remove_finished(NOW + timedelta(days=31), 10)

    async with database.read() as connection:
        left = await connection.execute(text("SELECT endpoint FROM delivery_webhook_endpoints"))
    assert [row.endpoint for row in left] == ["integration:wkh_failing"]


async def test_places_without_a_delivery_do_not_take_the_turn_of_those_behind_them(store, database):
    lost = [new_delivery() for _ in range(4)]
    await store.add(lost)
    kept = [new_delivery() for _ in range(3)]
    await store.add(kept)
    async with database.write() as connection:
        for delivery in lost:
            await connection.execute(text(f"DELETE FROM delivery_webhooks WHERE id = '{delivery.id}'"))

    assert await claim(store) == []
    assert [each.delivery.id for each in await claim(store)] == [each.id for each in kept]

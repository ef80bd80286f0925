"""What a store guarantees about queues of routes, limits, and the state of carriers, on every engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.delivery.domain import Failure, FailureReason, Status
from services.delivery.pacing import HORIZON_US, Limit, Limits, Wish
from services.delivery.sql_carriers import SqlCarrierStore
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import Begin, Breaker, CarrierCondition, Leave, Share
from tests.contract.test_message_store import NOW, TENANT, finished, new_message
from tests.kit.claims import begin, claim

LEASE = NOW + timedelta(seconds=30)


@pytest.fixture
def store(database) -> SqlMessageStore:
    return SqlMessageStore(database)


@pytest.fixture
def carriers(database) -> SqlCarrierStore:
    return SqlCarrierStore(database)


async def claimed_with(store, shares, *, limits=None, decide=begin, now=NOW):
    return await store.claim(shard=0, now=now, lease_until=LEASE, shares=shares, decide=decide, limits=limits or {})


# Queues of routes


async def test_takes_from_the_queues_that_it_is_told_to_and_leaves_the_others(store):
    await store.add([new_message(route=route) for route in ("a", "b", "a", "c", "b", "a")])

    claimed = await claimed_with(store, [Share(route="a", limit=2), Share(route="c", limit=10)])

    assert len(claimed.started) == 3
    assert await store.next_due(0, ["c"]) == LEASE
    assert await store.next_due(0, ["b"]) < NOW


async def test_orders_each_route_by_itself(store):
    # A long queue that stands still must not let every new lane of another route start before those that wait there.
    await store.add([new_message(route="still", integration_id="wkh_old") for _ in range(50)])
    await store.add([new_message(route="moving", integration_id="wkh_1") for _ in range(40)])
    await claimed_with(store, [Share(route="moving", limit=20)])
    await store.add([new_message(route="moving", integration_id="wkh_2") for _ in range(3)])

    order = [(await claim(store, now=NOW, limit=1, route="moving"))[0].message.integration_id for _ in range(4)]

    assert 2 <= order.count("wkh_1") <= 3


async def test_moves_what_waits_for_a_route_that_is_gone_into_one_that_is_there(store):
    await store.add([new_message(route=route) for route in ("gone", "kept", "gone", "also gone", "gone")])
    (under_way,) = await claim(store, now=NOW, limit=1, route="gone")

    moved = [await store.adopt_queues(["kept", "rest"], "rest", NOW, 2) for _ in range(3)]

    assert moved == [2, 1, 0]
    assert len(await claim(store, now=NOW, route="rest")) == 3
    assert len(await claim(store, now=NOW, route="kept")) == 1
    # What is under way stays so until its lease is over.
    await claim(store, now=LEASE, route="kept")
    assert await store.adopt_queues(["kept", "rest"], "rest", LEASE, 2) >= 1
    again = await claim(store, now=LEASE, route="rest")
    assert under_way.message.id in {attempt.message.id for attempt in again}


async def test_ends_messages_whose_validity_is_over_while_their_route_stands_still(store):
    old = new_message(valid_until=NOW + timedelta(minutes=1))
    young = new_message(valid_until=NOW + timedelta(minutes=10))
    await store.add([old, young])

    ended = await store.expire(0, NOW + timedelta(minutes=1), 100)

    assert ended == 1
    expired = await store.get(TENANT, old.id)
    assert (expired.status, expired.failure.reason) == (Status.EXPIRED, FailureReason.EXPIRED)
    assert (await store.get(TENANT, young.id)).status is Status.QUEUED
    assert len(await claim(store, now=NOW)) == 1


async def test_does_not_end_a_message_of_which_an_attempt_is_under_way(store):
    message = new_message(valid_until=NOW + timedelta(minutes=1))
    await store.add([message])
    await claim(store, now=NOW)

    assert await store.expire(0, NOW + timedelta(minutes=1), 100) == 0
    assert (await store.get(TENANT, message.id)).status is Status.SENDING


# Decisions that change nothing, and those that put off


async def test_leaves_a_message_its_turn_when_nothing_is_to_begin(store):
    first, second = new_message(), new_message()
    await store.add([first])
    await store.add([second])

    untouched = await claimed_with(store, [Share(route="default", limit=1)], decide=lambda _due: Leave())

    assert (untouched.started, untouched.settled) == ((), 0)
    assert [each.message.id for each in await claim(store, now=NOW)] == [first.id, second.id]


async def test_keeps_why_a_carrier_was_chosen_and_what_it_answered(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(
        store, now=NOW, decide=lambda _due: Begin(carrier="main", sender="ACME", why="route default: failover")
    )
    failure = Failure(reason=FailureReason.SENDER_REJECTED, carrier_code="15")
    await store.finish([replace(finished(attempt), failure=failure, carrier_message_id="c-9")])

    (told,) = (await store.history(TENANT, message.id)).attempts

    assert (told.carrier, told.sender, told.why, told.failure) == ("main", "ACME", "route default: failover", failure)


async def test_shows_all_attempts_to_whoever_decides(store):
    await store.add([new_message()])
    seen = []
    for turn in range(3):
        now = NOW + timedelta(minutes=turn)
        (attempt,) = await claim(store, now=now, decide=lambda due: seen.append(due.attempts) or begin(due))
        await store.finish([replace(finished(attempt), status=Status.QUEUED, retry_at=now)])

    assert [[attempt.number for attempt in attempts] for attempts in seen] == [[], [1], [1, 2]]


# Limits


def limited(rate: float, *, burst: int = 0, sender: float | None = None) -> dict[str, Limits]:
    of_sender = Limit(segments_per_second=sender) if sender else None
    return {"simulator": Limits(carrier=Limit(segments_per_second=rate, burst=burst), sender=of_sender)}


async def test_gives_each_attempt_its_slot_and_the_next_claim_those_after_it(store):
    await store.add([new_message(segments=2) for _ in range(30)])

    first = await claimed_with(store, [Share(route="default", limit=5)], limits=limited(100))
    second = await claimed_with(store, [Share(route="default", limit=20)], limits=limited(100))

    starts = [(each.not_before - NOW) / timedelta(milliseconds=1) for each in (*first.started, *second.started)]
    assert starts == [30 + n * 20 for n in range(13)]
    assert first.full_until == {}
    assert second.full_until == {"simulator": NOW + timedelta(milliseconds=290)}


async def test_leaves_what_finds_no_slot_where_it_is(store):
    messages = [new_message() for _ in range(3)]
    for message in messages:
        await store.add([message])

    started = (await claimed_with(store, [Share(route="default", limit=3)], limits=limited(1))).started

    assert [each.message.id for each in started] == [messages[0].id]
    assert [each.message.id for each in await claim(store, now=NOW)] == [messages[1].id, messages[2].id]


async def test_puts_off_what_only_its_sender_has_no_slot_for(store):
    await store.add([new_message() for _ in range(3)])

    claimed = await claimed_with(store, [Share(route="default", limit=3)], limits=limited(1000, sender=1))

    assert (len(claimed.started), claimed.settled) == (1, 2)
    assert await claim(store, now=NOW) == []
    assert await store.next_due(0, ["default"]) == NOW + timedelta(milliseconds=1030)
    assert len(await claim(store, now=NOW + timedelta(seconds=1.03))) == 1
    assert len(await claim(store, now=NOW + timedelta(seconds=2.03))) == 1


async def test_gives_no_slot_twice_however_many_claim_at_once(store):
    await store.add([new_message() for _ in range(100)])

    claims = await asyncio.gather(
        *(claimed_with(store, [Share(route="default", limit=5)], limits=limited(200)) for _ in range(12))
    )

    slots = [attempt.not_before for claimed in claims for attempt in claimed.started]
    assert len(slots) == len(set(slots)) == HORIZON_US // 5000 + 1


# The state of carriers


async def test_knows_nothing_of_a_carrier_until_something_goes_wrong(carriers):
    assert await carriers.states() == {}


async def test_keeps_every_part_of_a_state(carriers):
    wanted = CarrierCondition(
        name="main",
        breaker=Breaker.OPEN,
        open_until=NOW + timedelta(seconds=5),
        times_opened=3,
        paused_until=NOW + timedelta(seconds=7),
        rate_factor=0.25,
        slowed_at=NOW,
        error=Failure(reason=FailureReason.CARRIER_UNAVAILABLE),
        error_detail="HTTP 503",
        error_at=NOW,
    )

    returned = await carriers.change("main", lambda _known: wanted)

    assert returned == wanted
    assert await carriers.states() == {"main": wanted}


async def test_lets_one_of_many_win_what_only_one_may_have(carriers):
    await carriers.change("main", lambda known: replace(known, breaker=Breaker.OPEN, open_until=NOW))
    won = []

    def take(known: CarrierCondition) -> CarrierCondition:
        if known.open_until > NOW:
            return known
        won.append(1)
        return replace(known, open_until=LEASE)

    await asyncio.gather(*(carriers.change("main", take) for _ in range(10)))

    assert won == [1]


async def test_gives_a_message_that_missed_its_slot_the_next_one(store, carriers):
    await store.add([new_message() for _ in range(3)])
    claimed = await claimed_with(store, [Share(route="default", limit=3)], limits=limited(50))

    late = [Wish(attempt.message.id, "simulator", "", 1) for attempt in claimed.started[:2]]
    again = await carriers.take_slots(late, limited(50), NOW)

    assert [attempt.not_before for attempt in claimed.started] + again == [
        NOW + timedelta(milliseconds=30 + 20 * n) for n in range(5)
    ]

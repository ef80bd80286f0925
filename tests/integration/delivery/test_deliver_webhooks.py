"""Webhooks over a real store and a clock that only the test moves: 75 hours of attempts in seconds."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from servicekit import ids, migrations
from servicekit.database import Database
from servicekit.errors import UnavailableError
from servicekit.paging import PageRequest
from services.delivery import maintenance
from services.delivery.deliver_webhooks import GONE_REASON, WORN_OUT_REASON, DeliverWebhooks, Target
from services.delivery.sql_webhooks import SqlWebhookStore
from services.delivery.webhook_schedule import DELAYS
from services.delivery.webhook_worker import WebhookWorker
from services.delivery.webhooks import (
    CallResult,
    Destination,
    DestinationKind,
    Event,
    WebhookDelivery,
    WebhookFilter,
    WebhookLog,
    WebhookStatus,
)
from tests.conftest import FixedClock

TENANT = "ten_a"
IN_FLIGHT = 64
DOWN = timedelta(hours=1)
STEPS = 100
numbers = itertools.count()


def answered(status_code: int | None, **more: object) -> CallResult:
    return CallResult(status_code=status_code, milliseconds=12, **more)


BROKEN = {
    "fails": answered(500, body=b"Internal Server Error"),
    "hangs": answered(None, problem="timeout: no whole answer came within 15 s"),
    "drips": answered(None, problem="timeout: no whole answer came within 15 s"),
    "redirects": answered(302, problem="redirect_refused: redirects are not followed"),
    "throttles": answered(429, retry_after_seconds=600),
    "has no valid certificate": answered(None, problem="tls_error: the certificate is not valid for this host"),
}
# A gzip bomb comes with 200, is not unpacked, and is read up to 64 KiB: the event has arrived.
WELL = {"is well": answered(200, body=b"OK"), "sends a bomb": answered(200, body=b"\x1f\x8b" + bytes(65534))}
GONE = answered(410)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call that an endpoint got."""

    at: datetime
    delivery_id: str
    event_id: str


class World:
    """Integrations, endpoints and answers as Delivery sees them; an integration's id is what its endpoint does."""

    def __init__(self, clock: FixedClock) -> None:
        self.clock = clock
        self.began = clock.now()
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self.disabled: dict[str, tuple[str, datetime]] = {}
        self.taken: list[tuple[str, bytes]] = []
        self.gone: set[str] = set()
        self.directory_is_down = False
        self.script: Callable[[str], CallResult] = lambda _name: WELL["is well"]
        self.gates: dict[str, asyncio.Event] = {}
        self.moved: dict[str, str] = {}

    def url_of(self, name: str) -> str:
        return self.moved.get(name, f"https://{name}.example/")

    async def target(self, delivery: WebhookDelivery) -> Target | None:
        if self.directory_is_down:
            raise UnavailableError("Integrations can not be asked just now.")
        name = delivery.destination.id
        if name in self.gone:
            return None
        return Target(url=self.url_of(name), secrets=("s",), is_enabled=name not in self.disabled)

    async def call(self, target: Target, delivery: WebhookDelivery, at: datetime) -> CallResult:
        name = delivery.destination.id
        assert target.url == self.url_of(name)
        self.calls[name].append(Call(at=at, delivery_id=delivery.id, event_id=delivery.event_id))
        if name in self.gates:
            await self.gates[name].wait()
        return self.script(name)

    async def disable(self, delivery: WebhookDelivery, url: str, reason: str, since: datetime) -> bool:
        has_it_still = url == self.url_of(delivery.destination.id)
        if has_it_still:
            self.disabled[delivery.destination.id] = (reason, since)
        return has_it_still

    async def take(self, delivery: WebhookDelivery, body: bytes) -> None:
        self.taken.append((delivery.reply_id, body))


@pytest.fixture
async def store() -> AsyncIterator[SqlWebhookStore]:
    database = Database.open("sqlite://")
    await migrations.migrate(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
    yield SqlWebhookStore(database)
    await database.close()


@pytest.fixture
def world(clock) -> World:
    return World(clock)


class Process:
    """One process of Delivery that delivers webhooks."""

    def __init__(self, store: SqlWebhookStore, world: World, seed: int = 1) -> None:
        self.store = store
        self.clock = world.clock
        self.landed = asyncio.Event()
        self.delivering = DeliverWebhooks(
            store=store,
            targets=world,
            endpoints=world,
            disabling=world,
            answers=world,
            clock=world.clock,
            random=random.Random(seed).random,
            max_in_flight=IN_FLIGHT,
            on_room=self.landed.set,
        )

    async def deliver_what_is_due(self) -> None:
        """Make every call that is due now, and wait for what came of it."""
        while await self.delivering.deliver_due() or self.delivering.room < IN_FLIGHT:
            while self.delivering.room < IN_FLIGHT:
                self.landed.clear()
                await self.landed.wait()

    async def run_until(self, end: datetime) -> None:
        """Live on until nothing is left or the end has come, in steps of a hundredth of the time since the start."""
        began = self.clock.now()
        await self.deliver_what_is_due()
        while (due := await self.store.next_due()) is not None and due <= end:
            step = (self.clock.now() - began) / STEPS
            self.clock.advance(max(due - self.clock.now(), step).total_seconds())
            await self.deliver_what_is_due()


def new_delivery(name: str, clock: FixedClock, **changes: object) -> WebhookDelivery:
    now = clock.now()
    delivery = WebhookDelivery(
        id=ids.new_id("whd", now, lambda _bits: next(numbers)),
        tenant_id=f"ten of {name}" if name in WELL else TENANT,
        destination=Destination(kind=DestinationKind.INTEGRATION, id=name),
        event=Event.MESSAGE_RECEIVED,
        event_id=ids.new_id("evt", now),
        message_id="msg_1",
        reply_id="mo_1",
        body=b"{}",
        created_at=now,
        next_at=now,
    )
    return replace(delivery, **changes)


async def logs(store: SqlWebhookStore, deliveries: list[WebhookDelivery]) -> list[WebhookLog]:
    return [log for each in deliveries if (log := await store.get(each.tenant_id, each.id))]


def statuses(found: list[WebhookLog]) -> Counter[WebhookStatus]:
    return Counter(log.delivery.status for log in found)


@pytest.mark.timeout(180)
async def test_keeps_to_the_schedule_with_every_kind_of_receiver_and_loses_nothing(store, world, clock):
    names = [*BROKEN, *WELL, "is gone", "is down for an hour"]
    world.script = lambda name: (
        GONE
        if name == "is gone"
        else {**BROKEN, **WELL}.get(name) or (BROKEN["fails"] if clock.now() - world.began < DOWN else WELL["is well"])
    )
    deliveries = {name: [new_delivery(name, clock) for _ in range(1000 // len(names))] for name in names}
    await store.add([each for group in deliveries.values() for each in group])

    await Process(store, world).run_until(clock.now() + timedelta(days=30))

    assert await store.next_due() is None
    ended = {name: await logs(store, group) for name, group in deliveries.items()}
    assert {name: len(found) for name, found in ended.items()} == dict.fromkeys(names, 100)
    for name, found in ended.items():
        if name in BROKEN:
            assert statuses(found) == {WebhookStatus.FAILED: 100}, name
            assert {len(log.attempts) for log in found} == {10}, name
        elif name == "is gone":
            assert statuses(found).keys() == {WebhookStatus.FAILED, WebhookStatus.MISSED}
        else:
            assert statuses(found) == {WebhookStatus.DELIVERED: 100}, name
    assert all(log.delivery.finished_at == world.began for name in WELL for log in ended[name])
    assert world.disabled == {"is gone": (GONE_REASON, world.began)}
    check_the_times(ended)
    check_the_ids(world, ended)


def check_the_times(ended: dict[str, list[WebhookLog]]) -> None:
    """Every attempt comes when it should, by the log; the first at once."""
    for name, found in ended.items():
        for log in found:
            began = log.delivery.created_at
            assert [each.started_at for each in log.attempts[:1]] == [began][: len(log.attempts)]
            for before, after in itertools.pairwise(log.attempts):
                waited = (after.started_at - before.finished_at).total_seconds()
                delay = DELAYS[before.number]
                shortest, longest = (1.0, 2.0) if name == "throttles" else (0.8, 1.2)
                # The store counts in whole milliseconds, and the test's own steps come late by as much as they take.
                late = (after.started_at - began).total_seconds() / STEPS + 0.001
                assert shortest * delay - 0.001 <= waited <= longest * delay + late, (name, before.number, waited)


def check_the_ids(world: World, ended: dict[str, list[WebhookLog]]) -> None:
    """Every call carried its event's id, and the log has every call."""
    for name, found in ended.items():
        event_ids = {log.delivery.id: log.delivery.event_id for log in found}
        assert all(event_ids[call.delivery_id] == call.event_id for call in world.calls[name])
        made = Counter(call.delivery_id for call in world.calls[name])
        assert made == {log.delivery.id: len(log.attempts) for log in found if log.attempts}


async def test_one_that_hangs_delays_no_other(store, world, clock):
    world.gates["hangs"] = asyncio.Event()
    hanging = [new_delivery("hangs", clock) for _ in range(200)]
    await store.add(hanging)
    process = Process(store, world)
    await process.delivering.deliver_due()
    others = [new_delivery(f"well {number}", clock, tenant_id=f"ten_{number}") for number in range(49)]
    await store.add(others)

    assert await process.delivering.deliver_due() == 49
    while process.delivering.room < IN_FLIGHT - 4:
        process.landed.clear()
        await process.landed.wait()

    assert len(world.calls["hangs"]) == 4
    assert statuses(await logs(store, others)) == {WebhookStatus.DELIVERED: 49}
    world.gates["hangs"].set()
    await process.deliver_what_is_due()
    assert statuses(await logs(store, hanging)) == {WebhookStatus.DELIVERED: 200}


async def test_another_process_goes_on_where_one_was_cut_off(store, world, clock):
    gate = world.gates["shop"] = asyncio.Event()
    deliveries = [new_delivery("shop", clock) for _ in range(12)]
    await store.add(deliveries)
    lost = Process(store, world)
    await lost.delivering.deliver_due()
    while len(world.calls["shop"]) < 4:
        await asyncio.sleep(0)

    other = Process(store, world)
    world.gates.pop("shop")
    await other.deliver_what_is_due()
    before_the_lease_ended = len(world.calls["shop"])
    clock.advance(30)
    await other.deliver_what_is_due()
    # What the lost process still learns counts for nothing.
    world.script = lambda _name: BROKEN["fails"]
    gate.set()
    await lost.deliver_what_is_due()

    assert before_the_lease_ended == 4
    found = await logs(store, deliveries)
    assert statuses(found) == {WebhookStatus.DELIVERED: 12}
    assert Counter(each.status_code for log in found for each in log.attempts) == {200: 12, None: 4}
    calls = Counter(call.event_id for call in world.calls["shop"])
    assert sorted(calls.values()) == [1] * 8 + [2] * 4
    assert set(calls) == {each.event_id for each in deliveries}


async def test_disables_what_has_only_failed_for_five_days_and_offers_the_missed_for_replay(store, world, clock):
    world.script = lambda _name: BROKEN["fails"]
    process = Process(store, world)
    began = clock.now()
    deliveries = []
    for _ in range(7):
        deliveries.append(new_delivery("shop", clock))
        await store.add(deliveries[-1:])
        await process.run_until(clock.now() + timedelta(hours=20))
        clock.advance(max(0.0, (began + len(deliveries) * timedelta(days=1) - clock.now()).total_seconds()))
    await process.run_until(clock.now() + timedelta(days=10))

    reason, since = world.disabled["shop"]
    assert (reason, since) == (WORN_OUT_REASON, began)
    last_call = world.calls["shop"][-1].at
    assert timedelta(days=5) < last_call - began < timedelta(days=6, hours=5)
    ended = statuses(await logs(store, deliveries))
    assert ended[WebhookStatus.MISSED] >= 2
    assert ended[WebhookStatus.FAILED] + ended[WebhookStatus.MISSED] == 7

    world.disabled.clear()
    world.script = lambda _name: WELL["is well"]
    assert await store.count_replayable(TENANT, began) == 7
    assert await store.replay_since(TENANT, began, clock.now(), 100) == 7
    await process.run_until(clock.now())

    found = await logs(store, deliveries)
    assert statuses(found) == {WebhookStatus.DELIVERED: 7}
    assert {call.event_id for call in world.calls["shop"][-7:]} == {each.event_id for each in deliveries}


async def test_does_not_disable_what_succeeds_now_and_then(store, world, clock):
    process = Process(store, world)
    for number in range(10):
        world.script = lambda _name, failing=number % 3: BROKEN["fails"] if failing else WELL["is well"]
        await store.add([new_delivery("shop", clock)])
        await process.deliver_what_is_due()
        clock.advance(timedelta(days=1).total_seconds())

    assert world.disabled == {}


async def test_never_disables_the_callback_of_one_message(store, world, clock):
    world.script = lambda _name: GONE
    callback = Destination(kind=DestinationKind.CALLBACK, id="shop", url="https://shop.example/")
    delivery = new_delivery("shop", clock, destination=callback)
    await store.add([delivery])

    await Process(store, world).deliver_what_is_due()

    assert world.disabled == {}
    assert statuses(await logs(store, [delivery])) == {WebhookStatus.FAILED: 1}


async def test_calls_nobody_for_an_event_that_nobody_wants_and_leaves_no_trace_of_it(store, world, clock):
    world.gone.add("shop")
    delivery = new_delivery("shop", clock)
    await store.add([delivery])

    with capture_logs() as lines:
        await Process(store, world).deliver_what_is_due()

    assert await store.get(delivery.tenant_id, delivery.id) is None
    assert await store.next_due() is None
    assert world.calls == {}
    assert lines == []


async def test_misses_nothing_for_what_the_url_before_has_said(store, world, clock):
    answers = itertools.chain([GONE] * 4, itertools.repeat(WELL["is well"]))
    world.script = lambda _name: next(answers)
    calls_end = world.gates["shop"] = asyncio.Event()
    deliveries = [new_delivery("shop", clock) for _ in range(20)]
    await store.add(deliveries)
    process = Process(store, world)

    await process.delivering.deliver_due()
    async with asyncio.timeout(5):
        while len(world.calls["shop"]) < 4:
            await asyncio.sleep(0)
    world.moved["shop"] = "https://shop.example/new"
    calls_end.set()
    await process.deliver_what_is_due()

    assert world.disabled == {}
    assert statuses(await logs(store, deliveries)) == {WebhookStatus.FAILED: 4, WebhookStatus.DELIVERED: 16}


async def test_gives_a_new_url_five_days_of_its_own(store, world, clock):
    world.script = lambda _name: BROKEN["fails"]
    await store.add([new_delivery("shop", clock, next_at=clock.now() + timedelta(days=day)) for day in range(5)])
    process, moved_at = Process(store, world), clock.now() + timedelta(days=4, hours=23)

    await process.run_until(moved_at)
    world.moved["shop"] = "https://shop.example/new"
    await process.run_until(moved_at + timedelta(days=3))

    assert any(call.at > moved_at for call in world.calls["shop"])
    assert world.disabled == {}


async def test_calls_nobody_for_a_webhook_that_is_disabled(store, world, clock):
    world.disabled["shop"] = ("its owner disabled it", clock.now())
    delivery = new_delivery("shop", clock)
    await store.add([delivery])

    await Process(store, world).deliver_what_is_due()

    (log,) = await logs(store, [delivery])
    assert (log.delivery.status, log.delivery.attempts, log.attempts) == (WebhookStatus.MISSED, 0, ())
    assert log.delivery.problem
    assert world.calls == {}


async def test_an_outage_of_integrations_uses_up_no_attempts(store, world, clock):
    world.directory_is_down = True
    delivery = new_delivery("shop", clock)
    await store.add([delivery])
    process = Process(store, world)
    for _ in range(20):
        await process.deliver_what_is_due()
        clock.advance(5)

    (during,) = await logs(store, [delivery])
    world.directory_is_down = False
    await process.deliver_what_is_due()

    (log,) = await logs(store, [delivery])
    assert (during.delivery.status, during.delivery.attempts) == (WebhookStatus.PENDING, 0)
    assert (log.delivery.status, log.delivery.attempts) == (WebhookStatus.DELIVERED, 1)


async def test_hands_on_what_an_endpoint_answers_to_a_reply_and_to_nothing_else(store, world, clock):
    world.script = lambda name: answered(200 if name == "shop" else 500, body=b'{"reply":"Thanks"}')
    status_event = new_delivery("shop", clock, event=Event.MESSAGE_SENT, reply_id="")
    await store.add([new_delivery("shop", clock), new_delivery("other", clock), status_event])

    await Process(store, world).deliver_what_is_due()

    assert world.taken == [("mo_1", b'{"reply":"Thanks"}')]


async def test_a_defect_in_a_call_is_a_failed_attempt(store, world, clock):
    def break_down(_name: str) -> CallResult:
        raise ZeroDivisionError

    world.script = break_down
    delivery = new_delivery("shop", clock)
    await store.add([delivery])

    await Process(store, world).deliver_what_is_due()

    (log,) = await logs(store, [delivery])
    assert log.delivery.status is WebhookStatus.PENDING
    assert [each.problem for each in log.attempts] == ["the call to the endpoint broke off"]


async def test_a_worker_delivers_what_it_is_woken_for_and_stops_when_all_is_recorded(store, world, clock):
    process = Process(store, world)
    worker = WebhookWorker(
        store=store,
        delivering=process.delivering,
        clock=clock,
        random=lambda: 0.5,
        retention=timedelta(days=30),
    )
    await worker.start()
    deliveries = [new_delivery(f"shop {number}", clock) for number in range(10)]
    await store.add(deliveries)

    worker.wake()
    async with asyncio.timeout(10):
        while len(world.calls) < 10:
            process.landed.clear()
            await process.landed.wait()
        await worker.stop(5)

    listed = await store.list_deliveries(TENANT, WebhookFilter(status=WebhookStatus.DELIVERED), PageRequest())
    assert len(listed) == 10


async def test_a_worker_that_stops_records_what_it_cuts_off_to_be_called_again(store, world, clock):
    world.gates["shop"] = asyncio.Event()
    delivery = new_delivery("shop", clock)
    await store.add([delivery])
    process = Process(store, world)
    await process.delivering.deliver_due()
    while not world.calls["shop"]:
        await asyncio.sleep(0)

    await process.delivering.drain(0.01)

    (log,) = await logs(store, [delivery])
    assert log.delivery.status is WebhookStatus.PENDING
    assert log.delivery.next_at is not None
    assert [each.problem for each in log.attempts] == ["the process stopped before the endpoint answered"]

"""When the loops look for work: on being woken, at the moment when something is due, and now and then."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from unittest.mock import create_autospec

import pytest

from servicekit.clock import SystemClock
from services.delivery import webhook_worker, worker
from services.delivery.carrier_monitor import CarrierMonitor
from services.delivery.carriers.registry import Carriers
from services.delivery.carriers.simulator import Simulator
from services.delivery.deliver_webhooks import DeliverWebhooks
from services.delivery.dispatch import Dispatcher
from services.delivery.follow_up import FollowUp
from services.delivery.housekeeping import Housekeeping
from services.delivery.store import Breaker, CarrierCondition, CarrierStore, MessageStore
from services.delivery.webhook_store import WebhookStore

PATIENCE_SECONDS = 20


class Loop:
    """A worker that is alone with its database, or not, and whose next work is due at a moment."""

    def __init__(self, kind: str, *, is_alone: bool = True) -> None:
        self.is_alone = is_alone
        self.clock = SystemClock()
        self.looked = asyncio.Semaphore(0)
        self.store = create_autospec(MessageStore if kind == "messages" else WebhookStore, instance=True)
        self.store.next_due.side_effect = self._next_due
        self.due_at = None
        self.next_opening = None
        self.worker = self._for_messages() if kind == "messages" else self._for_webhooks()

    async def start(self) -> None:
        """Begin, and return when it has looked for the first time."""
        await self.worker.start()
        await asyncio.wait_for(self.looked.acquire(), PATIENCE_SECONDS)

    async def _look(self, *_arguments: object) -> int:
        self.looked.release()
        return 0

    async def _next_due(self, *_arguments: object):
        return self.due_at

    def _for_messages(self) -> worker.Worker:
        dispatcher = create_autospec(Dispatcher, instance=True, room=1, open_routes=["default"])
        dispatcher.send_due.side_effect = self._look
        monitor = create_autospec(CarrierMonitor, instance=True)
        monitor.next_opening.side_effect = lambda _now: self.next_opening
        return worker.Worker(
            store=self.store,
            dispatcher=dispatcher,
            monitor=monitor,
            follow_up=create_autospec(FollowUp, instance=True),
            housekeeping=create_autospec(Housekeeping, instance=True),
            clock=self.clock,
            random=lambda: 0.5,
            shards=[0],
            is_alone=self.is_alone,
        )

    def _for_webhooks(self) -> webhook_worker.WebhookWorker:
        delivering = create_autospec(DeliverWebhooks, instance=True, room=1)
        delivering.deliver_due.side_effect = self._look
        self.store.fill_lines.return_value = False
        return webhook_worker.WebhookWorker(
            store=self.store,
            delivering=delivering,
            clock=self.clock,
            random=lambda: 0.5,
            retention=timedelta(days=1),
            is_alone=self.is_alone,
        )


@pytest.fixture(params=["messages", "webhooks"])
async def loop(request, monkeypatch):
    for module in (worker, webhook_worker):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(module, "ALONE_POLL_SECONDS", 3600)
    loop = Loop(request.param)
    yield loop
    await loop.worker.stop(0)


@pytest.fixture(params=["messages", "webhooks"])
async def shared(request, monkeypatch):
    """A worker for what others have too, and that has long had nothing to do."""
    for module in (worker, webhook_worker):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(worker, "QUIET_AFTER_LOOKS", 1)
    loop = Loop(request.param, is_alone=False)
    yield loop
    await loop.worker.stop(0)


async def test_looks_when_something_is_due_although_nobody_wakes_it(loop):
    loop.due_at = loop.clock.now() + timedelta(milliseconds=50)

    await loop.start()

    await asyncio.wait_for(loop.looked.acquire(), PATIENCE_SECONDS)

    assert loop.clock.now() >= loop.due_at


async def test_looks_when_it_is_woken(loop):
    await loop.start()
    while not loop.store.next_due.await_count:
        await asyncio.sleep(0.001)
    loop.due_at = loop.clock.now()

    loop.worker.wake()

    await asyncio.wait_for(loop.looked.acquire(), PATIENCE_SECONDS)


async def test_does_not_read_again_and_again_where_nobody_else_can_store_work(loop):
    await loop.start()
    while not loop.store.next_due.await_count:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)  # ten polls, where others can

    assert loop.store.next_due.await_count == 1


async def test_a_time_is_kept_where_others_can_store_work_too(shared, monkeypatch):
    monkeypatch.setattr(worker, "QUIET_POLL_SECONDS", 3600)
    monkeypatch.setattr(webhook_worker, "SHARED_POLL_SECONDS", 3600)
    shared.due_at = shared.clock.now() + timedelta(milliseconds=50)

    await shared.start()

    await asyncio.wait_for(shared.looked.acquire(), PATIENCE_SECONDS)
    assert shared.clock.now() >= shared.due_at


async def test_what_others_leave_is_found(shared, monkeypatch):
    monkeypatch.setattr(worker, "QUIET_POLL_SECONDS", 0.01)
    monkeypatch.setattr(webhook_worker, "SHARED_POLL_SECONDS", 0.01)
    await shared.start()
    while shared.store.next_due.await_count < 2:
        await asyncio.sleep(0.001)

    shared.due_at = shared.clock.now()

    await asyncio.wait_for(shared.looked.acquire(), PATIENCE_SECONDS)


@pytest.mark.parametrize("loop", ["messages"], indirect=True)
async def test_looks_when_a_carrier_that_failed_is_to_be_tried_again(loop):
    loop.next_opening = loop.clock.now() + timedelta(milliseconds=50)

    await loop.start()
    while loop.clock.now() < loop.next_opening:
        await asyncio.sleep(0.01)
    loop.due_at = loop.next_opening

    await asyncio.wait_for(loop.looked.acquire(), PATIENCE_SECONDS)


async def test_the_next_opening_is_the_first_of_pauses_breakers_and_slots(clock):
    now = clock.now()
    store = create_autospec(CarrierStore, instance=True)
    carriers = Carriers(*(Simulator("+6598765432", name) for name in ("open", "paused", "closed", "late")))
    monitor = CarrierMonitor(store=store, carriers=carriers, clock=clock, in_flight=10)
    store.states.return_value = {
        "open": CarrierCondition(name="open", breaker=Breaker.OPEN, open_until=now + timedelta(seconds=5)),
        "paused": CarrierCondition(name="paused", paused_until=now + timedelta(seconds=3)),
        "closed": CarrierCondition(name="closed", open_until=now + timedelta(seconds=1)),
        "late": CarrierCondition(name="late", paused_until=now - timedelta(seconds=1)),
    }

    before = monitor.next_opening(now)
    await monitor.refresh()
    opening = monitor.next_opening(now)
    after = monitor.next_opening(now + timedelta(seconds=3))

    assert (before, opening, after) == (None, now + timedelta(seconds=3), now + timedelta(seconds=5))

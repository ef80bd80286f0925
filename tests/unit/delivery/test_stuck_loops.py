"""A loop that no longer turns is told of, before anybody asks why nothing is sent."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from unittest.mock import create_autospec

import pytest

from services.delivery.carrier_monitor import CarrierMonitor
from services.delivery.deliver_webhooks import DeliverWebhooks
from services.delivery.dispatch import Dispatcher
from services.delivery.follow_up import FollowUp
from services.delivery.housekeeping import Housekeeping
from services.delivery.store import MessageStore
from services.delivery.webhook_store import WebhookStore
from services.delivery.webhook_worker import WebhookWorker
from services.delivery.worker import STUCK_SECONDS, Worker


async def hang(*_arguments: object) -> int:
    await asyncio.Event().wait()
    return 0


def message_worker(clock) -> Worker:
    dispatcher = create_autospec(Dispatcher, instance=True, room=1)
    dispatcher.send_due.side_effect = hang
    return Worker(
        store=create_autospec(MessageStore, instance=True),
        dispatcher=dispatcher,
        monitor=create_autospec(CarrierMonitor, instance=True),
        follow_up=create_autospec(FollowUp, instance=True),
        housekeeping=create_autospec(Housekeeping, instance=True),
        clock=clock,
        random=lambda: 0.5,
        shards=[0],
    )


def webhook_worker(clock) -> WebhookWorker:
    delivering = create_autospec(DeliverWebhooks, instance=True, room=1)
    delivering.deliver_due.side_effect = hang
    return WebhookWorker(
        store=create_autospec(WebhookStore, instance=True),
        delivering=delivering,
        clock=clock,
        random=lambda: 0.5,
        retention=timedelta(days=1),
    )


@pytest.mark.parametrize("new_worker", [message_worker, webhook_worker])
async def test_tells_of_a_loop_that_hangs_and_of_one_that_has_ended(new_worker, clock):
    worker = new_worker(clock)
    before = worker.problem()
    await worker.start()
    await asyncio.sleep(0)

    turning = worker.problem()
    clock.advance(STUCK_SECONDS + 1)
    hanging = worker.problem()
    for loop in worker._loops:
        loop.cancel()
    await asyncio.gather(*worker._loops, return_exceptions=True)

    assert before.endswith("its loop has ended")
    assert turning == ""
    assert hanging.endswith("for 31 s: its loop hangs")
    assert worker.problem().endswith("its loop has ended")

"""What the gauges show of queues and carriers, and how often somebody looks."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from servicekit.errors import UnavailableError
from services.delivery.backlog import MessageBacklog, WebhookBacklog
from services.delivery.carrier_states import CarrierOverview, CarrierState
from services.delivery.carriers.base import Capability
from services.delivery.measure_queues import LONGEST_PAUSE_SECONDS, SAMPLE_SECONDS, MeasureQueues


class FakeQueues:
    """Holds something, and takes its time to tell."""

    def __init__(self, clock) -> None:
        self.clock = clock
        self.takes_seconds = 0.0
        self.is_down = False
        self.looks = 0

    async def messages(self, now):
        self.looks += 1
        if self.is_down:
            raise UnavailableError("The database can not be used just now.")
        self.clock.advance(self.takes_seconds)
        return MessageBacklog(ready=7, waiting=3, in_hand=2, oldest_due_at=now - timedelta(seconds=90))

    async def webhooks(self):
        return WebhookBacklog(pending=5, failing_endpoints=1)


class FakeCarriers:
    """Two carriers, one of which fails."""

    def overview(self):
        return [self.carrier("well", CarrierState.HEALTHY), self.carrier("ill", CarrierState.PROBING)]

    def carrier(self, name: str, state: CarrierState) -> CarrierOverview:
        return CarrierOverview(
            name=name,
            kind="http",
            definition="",
            capability=Capability.BLIND,
            state=state,
            sender="",
            in_flight=4,
        )


@pytest.fixture
def queues(clock) -> FakeQueues:
    return FakeQueues(clock)


@pytest.fixture
def measuring(queues, clock) -> MeasureQueues:
    return MeasureQueues(queues=queues, carriers=FakeCarriers(), clock=clock)


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"textway_delivery_{name}", labels)


async def test_shows_what_waits_and_how_the_carriers_are(measuring):
    await measuring.look()

    assert value("queue_messages", state="ready") == 7
    assert value("queue_messages", state="waiting") == 3
    assert value("queue_messages", state="in_hand") == 2
    assert value("queue_oldest_age_seconds") == 90
    assert value("webhook_queue_deliveries") == 5
    assert value("webhook_endpoints_failing") == 1
    assert value("carrier_breaker_open", carrier="well") == 0
    assert value("carrier_breaker_open", carrier="ill") == 1
    assert value("carrier_calls_in_flight", carrier="well") == 4


@pytest.mark.parametrize(("takes_seconds", "pause"), [(0.0, SAMPLE_SECONDS), (0.2, 20.0), (1.4, LONGEST_PAUSE_SECONDS)])
async def test_looks_the_less_often_the_longer_a_look_takes(measuring, queues, takes_seconds, pause):
    queues.takes_seconds = takes_seconds

    assert await measuring.look() == pytest.approx(pause)


async def test_goes_on_looking_after_an_outage(measuring, queues, clock):
    queues.is_down = True
    await measuring.start()
    while not clock.sleepers:
        await asyncio.sleep(0)

    queues.is_down = False
    clock.advance(SAMPLE_SECONDS)
    while queues.looks < 2:
        await asyncio.sleep(0)

    await measuring.stop()

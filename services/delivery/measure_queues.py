"""Look at the queues and the carriers every few seconds, for the metrics: beside the work and never in its way."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

import structlog

from servicekit.clock import Clock
from servicekit.errors import UnavailableError
from services.delivery import metrics
from services.delivery.backlog import BacklogStore, MessageBacklog, WebhookBacklog
from services.delivery.carrier_states import CarrierState, KnowsCarriers

SAMPLE_SECONDS: Final = 5.0
# A look that took long is followed by a longer pause, so that looking never takes more than a hundredth of the time.
PAUSE_FOR_SECOND: Final = 100.0
LONGEST_PAUSE_SECONDS: Final = 60.0

log = structlog.get_logger(__name__)


class MeasureQueues:
    """Sets the gauges again and again until it is stopped. Every process shows the same queues, for it shares them."""

    def __init__(self, *, queues: BacklogStore, carriers: KnowsCarriers, clock: Clock) -> None:
        self._queues = queues
        self._carriers = carriers
        self._clock = clock
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._loop = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        """Look no more."""
        if self._loop:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def look(self) -> float:
        """Set every gauge once; return after how many seconds to look again. Raises UnavailableError."""
        self._show_carriers()
        started, now = self._clock.monotonic(), self._clock.now()
        messages, webhooks = await self._queues.messages(now), await self._queues.webhooks()
        self._show(messages, webhooks, now)
        took = self._clock.monotonic() - started
        return min(max(SAMPLE_SECONDS, took * PAUSE_FOR_SECOND), LONGEST_PAUSE_SECONDS)

    async def _forever(self) -> None:
        while True:
            pause = SAMPLE_SECONDS
            try:
                pause = await self.look()
            except UnavailableError:
                pass  # the database's own metrics tell of it
            except Exception as error:  # a defect here must not end what an operator sees
                log.error("queues not measured", error=type(error).__name__, exc_info=error)
            await self._clock.sleep(pause)

    def _show(self, messages: MessageBacklog, webhooks: WebhookBacklog, now: datetime) -> None:
        metrics.QUEUE.labels("ready").set(messages.ready)
        metrics.QUEUE.labels("waiting").set(messages.waiting)
        metrics.QUEUE.labels("in_hand").set(messages.in_hand)
        since = messages.oldest_due_at
        metrics.QUEUE_AGE.set(max(0.0, (now - since).total_seconds()) if since else 0.0)
        metrics.WEBHOOK_QUEUE.set(webhooks.pending)
        metrics.WEBHOOKS_FAILING.set(webhooks.failing_endpoints)
        metrics.SAMPLED.set(now.timestamp())

    def _show_carriers(self) -> None:
        for carrier in self._carriers.overview():
            is_open = carrier.state in (CarrierState.OPEN, CarrierState.PROBING)
            metrics.BREAKER_OPEN.labels(carrier.name).set(is_open)
            metrics.THROTTLED.labels(carrier.name).set(carrier.state is CarrierState.THROTTLED)
            metrics.IN_FLIGHT.labels(carrier.name).set(carrier.in_flight)

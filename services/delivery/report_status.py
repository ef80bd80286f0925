"""What Delivery says of itself to those who operate it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.clock import Clock, to_milliseconds
from services.delivery.backlog import BacklogStore, MessageBacklog
from services.delivery.carrier_states import CarrierOverview, KnowsCarriers
from textway.operations.v1 import operations_service_pb2 as operations_v1


class Loops(Protocol):
    """Work that goes on by itself."""

    def problem(self) -> str:
        """Return what is wrong with it, in a few words; empty when nothing is."""


class ReportStatus:
    """Asks the queues and the carriers."""

    def __init__(self, *, backlog: BacklogStore, carriers: KnowsCarriers, loops: Sequence[Loops], clock: Clock) -> None:
        self._backlog = backlog
        self._carriers = carriers
        self._loops = loops
        self._clock = clock

    def problems(self) -> list[str]:
        """Return which loops stand still."""
        return [problem for loop in self._loops if (problem := loop.problem())]

    async def status(self) -> operations_v1.ServiceStatus:
        """Count what waits, and tell how the carriers are. Raises UnavailableError."""
        now = self._clock.now()
        webhooks = await self._backlog.webhooks()
        return operations_v1.ServiceStatus(
            messages=_queue(await self._backlog.messages(now), now),
            webhooks=operations_v1.WebhookQueue(pending=webhooks.pending, failing_endpoints=webhooks.failing_endpoints),
            carriers=[_carrier(carrier) for carrier in self._carriers.overview()],
        )


def _queue(backlog: MessageBacklog, now: datetime) -> operations_v1.MessageQueue:
    queue = operations_v1.MessageQueue(ready=backlog.ready, waiting=backlog.waiting, in_hand=backlog.in_hand)
    if backlog.oldest_due_at is not None:
        since = Timestamp()
        since.FromMilliseconds(to_milliseconds(backlog.oldest_due_at))
        queue.oldest_due_at.CopyFrom(since)
        queue.late_seconds = max(0.0, (now - backlog.oldest_due_at).total_seconds())
    return queue


def _carrier(carrier: CarrierOverview) -> operations_v1.Carrier:
    error = carrier.last_error
    return operations_v1.Carrier(
        name=carrier.name,
        kind=carrier.kind,
        state=carrier.state.value,
        sent_last_minute=carrier.sent_last_minute,
        failed_last_minute=carrier.failed_last_minute,
        in_flight=carrier.in_flight,
        last_error=f"{error.code}: {error.message}" if error else "",
    )

"""The loops that keep webhooks going: deliver what is due, keep leases, remove what is old."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from servicekit.clock import Clock
from servicekit.errors import UnavailableError
from services.delivery.deliver_webhooks import LEASE_SECONDS, DeliverWebhooks

POLL_SECONDS: Final = 0.25  # the first look after there was nothing to claim
# Whoever stores a delivery wakes its own loop, and a retry has its time. What is left was stored by another process
# that has no room for it just now, or that has died.
SHARED_POLL_SECONDS: Final = 2.0
# Where nobody else can store a delivery, as in `worker`.
ALONE_POLL_SECONDS: Final = 5.0
LEAST_WAIT_SECONDS: Final = 0.001
CLEAN_SECONDS: Final = 60.0
OUTAGE_SECONDS: Final = 1.0
# An outage of the database holds a loop up for a few seconds a turn.
STUCK_SECONDS: Final = 30.0
REMOVED_AT_ONCE: Final = 500

log = structlog.get_logger(__name__)


class KeepsWebhooks(Protocol):
    """The part of the store that the loops themselves need."""

    async def next_due(self) -> datetime | None:
        """Return when there is something to do; None when the queue is empty."""

    async def fill_lines(self, now: datetime) -> bool:
        """Put some of what has become due into line; tell whether there is more of it."""

    async def remove_finished(self, before: datetime, limit: int) -> int:
        """Delete deliveries that ended before a time."""


class WebhookWorker:
    """Runs the loops until it is stopped. A loop that fails waits a moment and goes on."""

    def __init__(
        self,
        *,
        store: KeepsWebhooks,
        delivering: DeliverWebhooks,
        clock: Clock,
        random: Callable[[], float],
        retention: timedelta,
        renew_seconds: float = LEASE_SECONDS / 3,
        is_alone: bool = False,
    ) -> None:
        """Take the parts; `is_alone` says that no other process can use the database."""
        self._store = store
        self._delivering = delivering
        self._clock = clock
        self._random = random
        self._retention = retention
        self._renew_seconds = renew_seconds
        self._is_alone = is_alone
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False
        self._turned_at = clock.monotonic()

    def wake(self) -> None:
        """Look for due deliveries now: some were stored, or there is room for more."""
        self._wake.set()

    async def start(self) -> None:
        """Begin the loops."""
        self._loops = [
            asyncio.create_task(self._forever(self._deliver_due)),
            asyncio.create_task(self._forever(self._every(self._renew_seconds, self._delivering.renew_leases))),
            asyncio.create_task(self._forever(self._every(CLEAN_SECONDS, self._clean))),
        ]

    def problem(self) -> str:
        """Return what is wrong with the loop that delivers; empty when it turns."""
        still_seconds = self._clock.monotonic() - self._turned_at
        if not self._loops or self._loops[0].done():
            return "no webhook is being called: its loop has ended"
        return (
            f"no webhook has been called for {still_seconds:.0f} s: its loop hangs"
            if still_seconds > STUCK_SECONDS
            else ""
        )

    async def stop(self, drain_seconds: float) -> None:
        """Claim nothing more, and wait for what is in flight."""
        delivering, renewing, cleaning = self._loops
        self._stopping = True
        self.wake()
        # Not cancelled: an attempt that is committed as started must be made.
        await asyncio.wait([delivering])
        await _ended(cleaning)
        await self._delivering.drain(drain_seconds)
        await _ended(renewing)

    async def _forever(self, once: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            try:
                await once()
            except UnavailableError as error:
                log.warning("webhooks wait for the database", error=error.message)
                await self._clock.sleep(OUTAGE_SECONDS)
            except Exception as error:  # a loop that ends in silence would strand every delivery
                log.error("webhook work failed", error=type(error).__name__, exc_info=error)
                await self._clock.sleep(OUTAGE_SECONDS)

    async def _deliver_due(self) -> None:
        self._turned_at = self._clock.monotonic()
        claimed = await self._delivering.deliver_due() if self._delivering.room > 0 else 0
        if not claimed and not await self._store.fill_lines(self._clock.now()):
            await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        seconds = self._poll_seconds(POLL_SECONDS)
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            self._wake.clear()
            now = self._clock.now()
            self._turned_at = self._clock.monotonic()
            seconds = self._poll_seconds(POLL_SECONDS)
            if self._delivering.room <= 0:
                continue
            # A read is cheaper than a claim, which takes the write lock.
            due = await self._store.next_due()
            if due is not None and due <= now:
                return
            seconds = self._poll_seconds(ALONE_POLL_SECONDS if self._is_alone else SHARED_POLL_SECONDS)
            if due is not None:
                seconds = min(seconds, max((due - now).total_seconds(), LEAST_WAIT_SECONDS))

    def _poll_seconds(self, seconds: float) -> float:
        return seconds * (0.5 + self._random())

    async def _clean(self) -> None:
        before = self._clock.now() - self._retention
        while await self._store.remove_finished(before, REMOVED_AT_ONCE) == REMOVED_AT_ONCE:
            pass

    def _every(self, seconds: float, work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        async def once() -> None:
            await work()
            await self._clock.sleep(seconds)

        return once


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

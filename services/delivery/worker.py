"""The loops that keep Delivery going: send what is due, keep leases, ask for missing receipts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

import structlog

from servicekit.clock import Clock
from servicekit.errors import UnavailableError
from services.delivery.carrier_monitor import CarrierMonitor
from services.delivery.claim_round import CLAIM_SIZE
from services.delivery.dispatch import Dispatcher
from services.delivery.follow_up import FollowUp
from services.delivery.housekeeping import Housekeeping

POLL_SECONDS: Final = 0.25
# A claim of few messages costs nearly as much as one of many, so that after one more may gather. After a quiet time
# nothing waits.
GATHER_SECONDS: Final = 0.02
RENEW_SECONDS: Final = 10.0
LOOK_UP_SECONDS: Final = 2.0
REFRESH_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 0.5
CLEAN_SECONDS: Final = 60.0
OUTAGE_SECONDS: Final = 1.0
# An outage of the database holds a loop up for a few seconds a turn.
STUCK_SECONDS: Final = 30.0

log = structlog.get_logger(__name__)


class KnowsDueTime(Protocol):
    """The part of the store that tells when to wake."""

    async def next_due(self, shard: int, routes: Sequence[str]) -> datetime | None:
        """Return when the shard has something to do for these routes; None for never."""


class Worker:
    """Runs the loops until it is stopped. A loop that fails waits a moment and goes on."""

    def __init__(
        self,
        *,
        store: KnowsDueTime,
        dispatcher: Dispatcher,
        monitor: CarrierMonitor,
        follow_up: FollowUp,
        housekeeping: Housekeeping,
        clock: Clock,
        random: Callable[[], float],
        shards: Sequence[int],
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._monitor = monitor
        self._follow_up = follow_up
        self._housekeeping = housekeeping
        self._clock = clock
        self._random = random
        self._shards = shards
        self._renew_seconds = renew_seconds
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False
        self._turned_at = clock.monotonic()

    def wake(self) -> None:
        """Look for due messages now: some were stored, or there is room for more."""
        self._wake.set()

    async def start(self) -> None:
        """Begin the loops."""
        self._loops = [
            asyncio.create_task(self._forever(self._send_due)),
            asyncio.create_task(self._forever(self._every(self._renew_seconds, self._dispatcher.renew_leases))),
            asyncio.create_task(self._forever(self._every(REFRESH_SECONDS, self._monitor.refresh))),
            asyncio.create_task(self._forever(self._every(LOOK_UP_SECONDS, self._follow_up.look_up_missing))),
            asyncio.create_task(self._forever(self._every(SETTLE_SECONDS, self._follow_up.settle_parked))),
            asyncio.create_task(self._forever(self._every(CLEAN_SECONDS, self._housekeeping.clean))),
        ]

    def problem(self) -> str:
        """Return what is wrong with the loop that sends; empty when it turns."""
        still_seconds = self._clock.monotonic() - self._turned_at
        if not self._loops or self._loops[0].done():
            return "nothing is being sent: its loop has ended"
        return (
            f"nothing has been sent for {still_seconds:.0f} s: its loop hangs" if still_seconds > STUCK_SECONDS else ""
        )

    async def stop(self, drain_seconds: float) -> None:
        """Claim nothing more, and wait for what is in flight."""
        sending, renewing, *others = self._loops
        self._stopping = True
        self.wake()
        # Not cancelled: an attempt that is committed as started must be made.
        await asyncio.wait([sending])
        await _ended(*others)
        await self._dispatcher.drain(drain_seconds)
        await _ended(renewing)

    async def _forever(self, once: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            try:
                await once()
            except UnavailableError as error:
                log.warning("work waits for the database", error=error.message)
                await self._clock.sleep(OUTAGE_SECONDS)
            except Exception as error:  # a loop that ends in silence would strand every message
                log.error("work failed", error=type(error).__name__, exc_info=error)
                await self._clock.sleep(OUTAGE_SECONDS)

    async def _send_due(self) -> None:
        self._turned_at = self._clock.monotonic()
        self._wake.clear()
        claimed = 0
        for shard in self._shards:
            if self._dispatcher.room > 0:
                claimed += await self._dispatcher.send_due(shard)
        if not claimed:
            await self._wait_for_work()
        elif claimed < CLAIM_SIZE:
            await self._clock.sleep(GATHER_SECONDS)
            # A read is cheaper than a claim, which takes the write lock.
            if not self._wake.is_set() and not await self._is_due():
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        while not self._stopping:
            woken = await self._is_woken()
            self._turned_at = self._clock.monotonic()
            # Whoever wakes knows that there is something.
            if self._dispatcher.room > 0 and (woken or await self._is_due()):
                return

    async def _is_woken(self) -> bool:
        """Wait for a wake-up, or for the time of the next look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds()):
                await self._wake.wait()
        woken = self._wake.is_set()
        self._wake.clear()
        return woken

    def _poll_seconds(self) -> float:
        poll = POLL_SECONDS * (0.5 + self._random())
        now = self._clock.now()
        next_slot = self._monitor.next_slot(now)
        return poll if next_slot is None else min(poll, (next_slot - now).total_seconds())

    async def _is_due(self) -> bool:
        now = self._clock.now()
        routes = self._dispatcher.open_routes
        for shard in self._shards:
            due = await self._store.next_due(shard, routes)
            if due is not None and due <= now:
                return True
        return False

    def _every(self, seconds: float, work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        async def once() -> None:
            await work()
            await self._clock.sleep(seconds)

        return once


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

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

# Whoever stores a message wakes its own loop, and a retry has its time. What is left was stored by another process that
# has no room for it just now, or that has died: it is looked for so often, and less where there was none for a while.
POLL_SECONDS: Final = 0.25
QUIET_AFTER_LOOKS: Final = 20
QUIET_POLL_SECONDS: Final = 1.0
# Where nobody else can store a message, whoever stores one wakes, and all else has its time. Should a defect forget one
# of the two, a message waits for no longer than this.
ALONE_POLL_SECONDS: Final = 5.0
LEAST_WAIT_SECONDS: Final = 0.001
# A claim of few messages costs nearly as much as one of many, so that after one more may gather. After a quiet time
# nothing waits.
GATHER_SECONDS: Final = 0.02
RENEW_SECONDS: Final = 10.0
LOOK_UP_SECONDS: Final = 2.0
REFRESH_SECONDS: Final = 1.0
ALONE_REFRESH_SECONDS: Final = 5.0
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
        is_alone: bool = False,
    ) -> None:
        """Take the parts; `is_alone` says that no other process can use the database."""
        self._store = store
        self._dispatcher = dispatcher
        self._monitor = monitor
        self._follow_up = follow_up
        self._housekeeping = housekeeping
        self._clock = clock
        self._random = random
        self._shards = shards
        self._renew_seconds = renew_seconds
        self._is_alone = is_alone
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False
        self._turned_at = clock.monotonic()

    def wake(self) -> None:
        """Look for due messages now: some were stored, or there is room for more."""
        self._wake.set()

    async def start(self) -> None:
        """Begin the loops."""
        refresh_seconds = ALONE_REFRESH_SECONDS if self._is_alone else REFRESH_SECONDS
        self._loops = [
            asyncio.create_task(self._forever(self._send_due)),
            asyncio.create_task(self._forever(self._every(self._renew_seconds, self._dispatcher.renew_leases))),
            asyncio.create_task(self._forever(self._every(refresh_seconds, self._monitor.refresh))),
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
        seconds, looks = self._seconds_to_wait(POLL_SECONDS, None), 0
        while not self._stopping:
            woken = await self._is_woken(seconds)
            now = self._clock.now()
            self._turned_at = self._clock.monotonic()
            seconds = self._seconds_to_wait(POLL_SECONDS, None)
            if self._dispatcher.room <= 0:
                continue
            # Whoever wakes knows that there is something.
            due = None if woken else await self._next_due()
            if woken or (due is not None and due <= now):
                return
            looks += 1
            seconds = self._seconds_to_wait(self._poll_seconds(looks), due)

    def _poll_seconds(self, looks: int) -> float:
        """Return how long to wait after so many looks that found nothing."""
        if self._is_alone:
            return ALONE_POLL_SECONDS
        return POLL_SECONDS if looks < QUIET_AFTER_LOOKS else QUIET_POLL_SECONDS

    async def _is_woken(self, seconds: float) -> bool:
        """Wait for a wake-up, or for the time of the next look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        woken = self._wake.is_set()
        self._wake.clear()
        return woken

    def _seconds_to_wait(self, poll: float, due: datetime | None) -> float:
        now = self._clock.now()
        moments = [moment for moment in (due, self._monitor.next_opening(now)) if moment is not None]
        # What is due is so to the millisecond, and a sleeper may be early by one.
        waits = [max((moment - now).total_seconds(), LEAST_WAIT_SECONDS) for moment in moments]
        return min([poll * (0.5 + self._random()), *waits])

    async def _is_due(self) -> bool:
        due = await self._next_due()
        return due is not None and due <= self._clock.now()

    async def _next_due(self) -> datetime | None:
        routes = self._dispatcher.open_routes
        found = [await self._store.next_due(shard, routes) for shard in self._shards]
        return min((due for due in found if due is not None), default=None)

    def _every(self, seconds: float, work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        async def once() -> None:
            await work()
            await self._clock.sleep(seconds)

        return once


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

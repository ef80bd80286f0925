"""Send again what failed or was missed since a time, in steps that leave room for others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from servicekit.clock import Clock

IN_COMMIT: Final = 500
# A caller waits for 4 s at most; the last step may take its time.
REPLAY_SECONDS: Final = 2.0


class ReplaysWebhooks(Protocol):
    """The part of the store that is needed; `webhook_store.WebhookStore` says what it guarantees."""

    async def count_replayable(self, tenant_id: str, since: datetime) -> int:
        """Return how many of the tenant's deliveries failed or were missed at or after a time."""

    async def replay_since(self, tenant_id: str, since: datetime, now: datetime, limit: int) -> int:
        """Replay at most `limit` of them, oldest first; return how many."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """How many are sent again."""

    count: int
    remaining: int = 0  # left because the time was over


class ReplayWebhooks:
    """Puts deliveries that were given up back into the queue."""

    def __init__(self, *, store: ReplaysWebhooks, clock: Clock, on_due: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._on_due = on_due

    async def count(self, tenant_id: str, since: datetime) -> int:
        """Return how many `replay` would send again."""
        return await self._store.count_replayable(tenant_id, since)

    async def replay(self, tenant_id: str, since: datetime) -> Replayed:
        """Send again what was given up since a time, as much as two seconds allow. Raises UnavailableError.

        Each step is on disk before the next begins. It is no more than there was at the start: what is given up anew
        meanwhile, because its webhook is still disabled, would otherwise go round without end.
        """
        until = self._clock.monotonic() + REPLAY_SECONDS
        waiting = await self._store.count_replayable(tenant_id, since)
        count = 0
        while count < waiting:
            if self._clock.monotonic() > until:
                return Replayed(count=count, remaining=waiting - count)
            limit = min(IN_COMMIT, waiting - count)
            step = await self._store.replay_since(tenant_id, since, self._clock.now(), limit)
            if not step:
                break  # somebody else has replayed the rest
            count += step
            self._on_due()
        return Replayed(count=count)

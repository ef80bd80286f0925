"""How much waits in Delivery's queues, for whoever watches them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

# Counting stops here: whoever has so much waiting needs no exact number, and a count must stay cheap.
COUNTED_AT_MOST: Final = 250_000


@dataclass(frozen=True, kw_only=True)
class MessageBacklog:
    """The due-queue. Each count is `COUNTED_AT_MOST` when there are more."""

    ready: int  # their turn has come, or will as soon as those before them are sent
    waiting: int  # put off: to be tried again, or without a slot at a carrier for a while
    in_hand: int  # leased: some process is sending them
    oldest_due_at: (
        datetime | None
    )  # since when the longest-waiting of those is due that could be sent; None without any

    @property
    def depth(self) -> int:
        """All that is in the queue."""
        return self.ready + self.waiting + self.in_hand


@dataclass(frozen=True, kw_only=True)
class WebhookBacklog:
    """The webhook deliveries that something is still to be done for; counts end as in `MessageBacklog`."""

    pending: int  # all of them
    failing_endpoints: int  # endpoints whose last calls have all failed


class BacklogStore(Protocol):
    """What waits, read without a lock and without a scan of what has ended.

    Both raise UnavailableError when the database can not be had. They cost some 50 ms of the database's time with
    200,000 messages waiting, so that they are for once in some seconds and not for every request.
    """

    async def messages(self, now: datetime) -> MessageBacklog:
        """Return how much the due-queue holds, of all shards and routes, and how late it is by `now`.

        The oldest is looked for among the first of each route's queue: integrations take turns there, so that the
        longest-waiting message of each stands near the front.
        """

    async def webhooks(self) -> WebhookBacklog:
        """Return how many webhook deliveries wait, and at how many endpoints they fail."""

"""Claims as a test makes them: from one queue, with no limits, for one carrier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from services.delivery.domain import NewMessage
from services.delivery.store import Begin, Beginning, Decision, DueMessage, MessageStore, Share, StartedAttempt

ROUTE = "default"


def begin(_due: DueMessage) -> Begin:
    return Begin(carrier="simulator", sender="+6598765432")


def beginnings(messages: Sequence[NewMessage]) -> dict[str, Beginning]:
    """Return beginnings for all of the messages, with the same carrier."""
    return {message.id: Beginning(message, begin(DueMessage(message=message))) for message in messages}


async def claim(
    store: MessageStore,
    *,
    now: datetime,
    lease: timedelta = timedelta(seconds=30),
    limit: int = 100,
    route: str = ROUTE,
    decide: Callable[[DueMessage], Decision] = begin,
) -> list[StartedAttempt]:
    claimed = await store.claim(
        shard=0,
        now=now,
        lease_until=now + lease,
        shares=[Share(route=route, limit=limit)],
        decide=decide,
        limits={},
    )
    return list(claimed.started)

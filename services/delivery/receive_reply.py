"""Take in an inbound message: on disk once, with what it answers, and what its keyword asks for done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from servicekit import tracing
from servicekit.clock import Clock
from servicekit.ids import new_id
from servicekit.logs import masked_number
from services.delivery import metrics
from services.delivery.carriers.base import CarrierReply
from services.delivery.domain import Reply
from services.delivery.optouts import OptOutWords
from services.delivery.replies import WindowOf, comparable_number
from services.delivery.reply_store import AddedReply, AnnounceReply, ReplyStore

log = structlog.get_logger(__name__)


class ReceiveReply:
    """Stores one reply at a time, with the deliveries that `announce` makes of it."""

    def __init__(
        self,
        *,
        store: ReplyStore,
        clock: Clock,
        words: OptOutWords,
        window_of: WindowOf,
        announce: AnnounceReply,
        answer: Callable[[AddedReply], Awaitable[None]],
    ) -> None:
        """Take `answer`, which answers keywords; it is called for repeats too, in case it failed the first time."""
        self._store = store
        self._clock = clock
        self._words = words
        self._window_of = window_of
        self._announce = announce
        self._answer = answer

    async def __call__(self, carrier: str, reply: CarrierReply) -> None:
        """Return when the reply is on disk and its keyword is answered. Raises UnavailableError: then tell it again."""
        now = self._clock.now()
        told = Reply(
            id=new_id("mo", now),
            carrier=carrier,
            carrier_reply_id=_storable(reply.carrier_reply_id),
            has_own_id=reply.has_own_id,
            sender=comparable_number(_storable(reply.sender)),
            recipient=comparable_number(_storable(reply.recipient)),
            text=_storable(reply.text),
            received_at=now,
        )
        added = await self._store.add_reply(told, window_of=self._window_of, announce=self._announce, words=self._words)
        answered = added.reply.in_reply_to
        traceparent = answered.traceparent if answered else ""
        if added.is_new:
            metrics.replies("message" if answered else "nothing").inc()
            tracing.record("reply", parent=traceparent, started_at=now, carrier=carrier, reply_id=added.reply.id)
        await self._answer(added)
        log.info(
            "reply received" if added.is_new else "reply repeated",
            reply_id=added.reply.id,
            carrier=carrier,
            sender=masked_number(told.sender),
            message_id=answered.id if answered else "",
            trace_id=tracing.trace_id(traceparent),
            keyword=added.reply.keyword,
        )


def _storable(text: str) -> str:
    # A carrier's own words may hold what PostgreSQL does not take, and a reply must not fail for that.
    return text.replace("\0", "").encode("utf-8", "replace").decode()

"""Send the answer that an endpoint gives to a reply back to whoever wrote: at most one for each reply."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from servicekit.clock import Clock
from servicekit.logs import masked_number
from services.delivery.accept_messages import Idempotency, Submission
from services.delivery.answer_in_answer import reply_text
from services.delivery.domain import Accepted
from services.delivery.webhooks import WebhookDelivery

# Two machines that answer each other never stop. People do not write so fast for so long.
MOST_INBOUND: Final = 10
WITHIN: Final = timedelta(minutes=5)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Who wrote a reply to which number of ours, and how much came that way lately."""

    tenant_id: str
    integration_id: str  # of the message that it answers; empty for none
    theirs: str
    ours: str
    inbound_lately: int


class KnowsConversations(Protocol):
    """The part of the store that knows replies."""

    async def conversation(self, reply_id: str, since: datetime) -> Conversation | None:
        """Return what a reply belongs to, and how many came from there since a time; None when it is gone."""


class Accepts(Protocol):
    """Who takes messages in."""

    async def accept(self, submissions: Sequence[Submission]) -> list[Accepted]:
        """Store messages; return the answer to each."""


class AnswerReplies:
    """Takes the bodies of what endpoints answer; most of them ask for nothing."""

    def __init__(self, *, conversations: KnowsConversations, accepting: Accepts, clock: Clock) -> None:
        self._conversations = conversations
        self._accepting = accepting
        self._clock = clock

    async def take(self, delivery: WebhookDelivery, body: bytes) -> None:
        """Accept the message that the body asks for, if it does. A repeat, and another webhook's answer, send nothing.

        Raises UnavailableError when it can not be stored.
        """
        text = reply_text(body)
        if text is None:
            return
        found = await self._conversations.conversation(delivery.reply_id, self._clock.now() - WITHIN)
        if found is None or not found.theirs.startswith("+"):
            return  # nobody can be answered who wrote under a name
        if found.inbound_lately > MOST_INBOUND:
            log.warning("answer not sent: too many came from there", to=masked_number(found.theirs))
            return
        # Its key is the reply's, so that whichever webhook answers first has the one answer that there is.
        key = Idempotency(key=f"answer/{delivery.reply_id}", request_sha256=hashlib.sha256(b"answer").digest())
        await self._accepting.accept(
            [
                Submission(
                    tenant_id=found.tenant_id,
                    integration_id=found.integration_id,
                    to=found.theirs,
                    text=text,
                    ref="",
                    wanted_sender=found.ours,
                    traceparent=delivery.traceparent,
                    idempotency=key,
                )
            ]
        )
        log.info("answer accepted", reply_id=delivery.reply_id, to=masked_number(found.theirs))

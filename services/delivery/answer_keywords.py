"""Answer opt-out words with the installation's own texts, where it has any."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol

from servicekit import phone_numbers, senders
from services.delivery.accept_messages import Dedupe, Submission
from services.delivery.domain import Accepted
from services.delivery.optouts import Keyword
from services.delivery.replies import ReceivedReply
from services.delivery.reply_store import AddedReply

# Longer than any carrier tells the same reply again.
CONFIRMED_FOR: Final = timedelta(days=7)
HELPED_FOR: Final = timedelta(hours=1)


class Accepts(Protocol):
    """The part of accepting that answering needs."""

    async def accept(self, submissions: Sequence[Submission]) -> list[Accepted]:
        """Store messages, repeats excepted."""


class AnswerKeywords:
    """Confirms an opt-out once, and answers HELP at most once an hour for each person and number.

    It can not loop: the answer to a word that changes nothing is none, whoever or whatever writes it again and again.
    Both texts go to people who have opted out too, since it is they who have asked.
    """

    def __init__(self, *, accepting: Accepts, confirmation: str, help_text: str) -> None:
        """Take the two texts; empty for none."""
        self._accepting = accepting
        self._confirmation = confirmation
        self._help_text = help_text

    async def __call__(self, added: AddedReply) -> None:
        """Answer a reply, if there is something to answer. A repeat of the same reply is answered no second time."""
        reply = added.reply
        if added.opt_out_id and self._confirmation:
            once = Dedupe(value=f"opt-out {added.opt_out_id}", window=CONFIRMED_FOR, suppresses=True)
            await self._send(reply, self._confirmation, once)
        elif reply.keyword == Keyword.HELP and self._help_text:
            once = Dedupe(value=f"help {reply.recipient} {reply.sender}", window=HELPED_FOR, suppresses=True)
            await self._send(reply, self._help_text, once)

    async def _send(self, reply: ReceivedReply, text: str, once: Dedupe) -> None:
        # Whose number it is must be known, or nobody would pay for the message; and a short code is no recipient.
        if not reply.tenant_id or not senders.is_sender(reply.recipient) or not _is_number(reply.sender):
            return
        await self._accepting.accept(
            [
                Submission(
                    tenant_id=reply.tenant_id,
                    integration_id="",
                    to=reply.sender,
                    text=text,
                    ref="",
                    wanted_sender=reply.recipient,
                    despite_opt_out=True,
                    traceparent=reply.in_reply_to.traceparent if reply.in_reply_to else "",
                    dedupe=once,
                )
            ]
        )


def _is_number(text: str) -> bool:
    try:
        return phone_numbers.normalise(text) == text
    except phone_numbers.NotAPhoneNumberError:
        return False

"""What the storage of inbound messages and opt-outs must guarantee, on every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from servicekit.paging import PageRequest
from services.delivery.domain import Reply
from services.delivery.optouts import OptOutWords
from services.delivery.replies import InboundFilter, OptOut, ReceivedReply, WindowOf
from services.delivery.webhooks import WebhookDelivery

AnnounceReply = Callable[[ReceivedReply], Sequence[WebhookDelivery]]


@dataclass(frozen=True, kw_only=True)
class AddedReply:
    """A reply as it is stored, and what it did."""

    reply: ReceivedReply
    is_new: bool = True  # False: it was told before, and nothing has changed
    opt_out_id: str = ""  # of the opt-out that it brought about; empty for none. A repeat has it too


class ReplyStore(Protocol):
    """Inbound messages and opt-outs.

    Every method that changes something is one transaction and returns only when it is on disk. All raise
    UnavailableError when the database can not be had; nothing has changed then.
    """

    async def add_reply(
        self, reply: Reply, *, window_of: WindowOf, announce: AnnounceReply, words: OptOutWords
    ) -> AddedReply:
        """Store a reply with what it answers, and its webhook deliveries; do what its keyword asks for.

        It is stored once for its carrier's id: a repeat changes nothing, announces nothing, and gets what is stored;
        but an opt-out word that would change something is no repeat where that id is made of what it says. A reply
        answers the newest message that an attempt from its recipient took to its sender, whichever carrier made it:
        that a carrier took, or of which nobody knows. Further ones within their windows are its other candidates. It is
        the tenant's whose message it answers; one that answers none is the tenant's who alone has ever sent from that
        number, and nobody's if several have, or none.

        STOP binds at once: once this has returned, no attempt from that number to that person is committed as started,
        in whatever process, save of messages that are sent despite it; nor one for which a carrier chooses the number,
        unless that number is known as another carrier's. START lifts that. `window_of` and `announce` run
        inside the transaction, so they must be quick.
        """

    async def list_inbound(self, tenant_id: str, wanted: InboundFilter, page: PageRequest) -> list[ReceivedReply]:
        """Return the tenant's replies that match, newest first, at most `page.size`, after `page.after`."""

    async def remove_unmatched(self, before: datetime, limit: int) -> int:
        """Delete at most `limit` replies that answer no message and came before a time; the others go with theirs."""

    async def list_opt_outs(self, tenant_id: str, theirs: str | None, page: PageRequest) -> list[OptOut]:
        """Return the tenant's opt-outs, of one person if given, newest first."""

    async def delete_opt_out(self, tenant_id: str, opt_out_id: str) -> bool:
        """Let messages go that way again; tell whether there was such an opt-out of this tenant's."""

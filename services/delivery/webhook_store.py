"""What the storage of webhook deliveries must guarantee, on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from servicekit.paging import PageRequest
from services.delivery.webhooks import WebhookDelivery, WebhookFilter, WebhookLog, WebhookStatus


@dataclass(frozen=True, kw_only=True)
class ClaimedWebhook:
    """A delivery with an attempt that is committed as started, and the right to make it."""

    delivery: WebhookDelivery
    number: int
    token: int  # fences: whoever claims the delivery after a lost lease gets a higher one

    @property
    def tries(self) -> int:
        """Which attempt of its schedule this is, from 1: a replay begins the schedule anew."""
        return self.number - self.delivery.attempts_before


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many deliveries may be leased at a time."""

    in_all: int  # by one claim
    per_endpoint: int
    per_failing_endpoint: int  # one whose last call has failed
    per_tenant: int


@dataclass(frozen=True, kw_only=True)
class FinishedWebhook:
    """What became of an attempt, and of its delivery."""

    delivery_id: str
    endpoint: str
    number: int
    token: int
    called: bool  # False when the endpoint was not called: the attempt is then as if it had never begun
    url: str
    status_code: int | None
    milliseconds: int | None
    problem: str
    excerpt: str
    status: WebhookStatus
    retry_at: datetime | None  # None when no more attempts are to be made
    finished_at: datetime
    is_wanted: bool = True  # False when nobody asks for such an event: it leaves no trace


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the store says of a finished attempt."""

    kept: bool  # whether it was still the caller's to record
    failing_since: datetime | None = None  # since when its endpoint has only failed; None when the last call succeeded


class WebhookStore(Protocol):
    """Webhook deliveries, their due-queue and their log.

    Every method that changes something is one transaction and returns only when it is on disk. All raise
    UnavailableError when the database can not be had; nothing has changed then.
    """

    async def add(self, deliveries: Sequence[WebhookDelivery]) -> int:
        """Store deliveries as pending and due at their `next_at`; return how many were new.

        One whose id is known changes nothing. To store them with what they tell of, in one transaction, there is
        `sql_webhook_queue.enter`.
        """

    async def claim(self, *, now: datetime, lease_until: datetime, limits: Limits) -> list[ClaimedWebhook]:
        """Take due deliveries, fairly and within limits, and begin their attempts.

        No two callers get the same delivery before `lease_until`, and an endpoint's and a tenant's limits are kept over
        all callers, whatever process or machine they are on. Endpoints take turns in the order in which they became
        ready, each with its oldest delivery first; so a new one waits for one turn of each of the others, however much
        those have waiting. The attempts are committed as started. One that was cut off is closed as such.
        """

    async def fill_lines(self, now: datetime) -> bool:
        """Put some of what has become due into the lines of its endpoints; tell whether there is more of it.

        Every claim does so too. This is for a caller that finds nothing to claim, because so much has become due for
        one endpoint that others stand behind it.
        """

    async def renew(self, claimed: Sequence[ClaimedWebhook], lease_until: datetime) -> set[str]:
        """Extend leases; return the ids of the deliveries whose lease is still the caller's."""

    async def finish(self, finished: Sequence[FinishedWebhook]) -> list[Recorded]:
        """Record outcomes, each once and only for whoever holds the lease.

        One without `retry_at` leaves the queue, and one that is not wanted the log as well.
        """

    async def release_leases(self, now: datetime) -> int:
        """Make every claimed delivery due at once; return how many. Only for a caller that knows it is alone."""

    async def next_due(self) -> datetime | None:
        """Return when there is something to do, a time in the past for now; None when the queue is empty."""

    async def get(self, tenant_id: str, delivery_id: str) -> WebhookLog | None:
        """Return the tenant's delivery; None when there is none of this id or it is another tenant's."""

    async def list_deliveries(self, tenant_id: str, wanted: WebhookFilter, page: PageRequest) -> list[WebhookLog]:
        """Return the tenant's deliveries that match, newest first, at most `page.size`, after `page.after`.

        Deliveries that are added meanwhile never make a page repeat or skip one.
        """

    async def replay(self, tenant_id: str, delivery_id: str, now: datetime) -> WebhookDelivery | None:
        """Make a delivery due now, whatever its status, with a schedule from the start; None as in `get`.

        It keeps its ids, its body and its attempts. One that is being sent at this moment is left alone.
        """

    async def count_replayable(self, tenant_id: str, since: datetime) -> int:
        """Return how many of the tenant's deliveries failed or were missed at or after a time."""

    async def replay_since(self, tenant_id: str, since: datetime, now: datetime, limit: int) -> int:
        """Replay at most `limit` of them, oldest first; return how many. A repeat goes on with what is left."""

    async def miss_waiting(self, endpoint: str, problem: str, now: datetime, limit: int) -> int:
        """End at most `limit` deliveries that wait for a disabled endpoint as missed; return how many.

        Those that are being sent at this moment are left to whoever sends them. Its failures of before are forgotten,
        so that it starts anew when it is enabled again.
        """

    async def remove_finished(self, before: datetime, limit: int) -> int:
        """Delete at most `limit` deliveries that ended before a time with their attempts, and endpoints long idle."""

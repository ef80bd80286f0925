"""One round of webhooks: claim what is due, call each endpoint, record what came of it, disable what only fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from servicekit import tracing
from servicekit.batching import Batcher
from servicekit.clock import Clock
from servicekit.deadlines import Deadlines
from servicekit.errors import UnavailableError
from services.delivery import metrics
from services.delivery.leases import Leases
from services.delivery.webhook_schedule import Again, Done, GiveUp, Step, is_to_be_disabled, next_step
from services.delivery.webhook_store import ClaimedWebhook, FinishedWebhook, Limits, Recorded, WebhookStore
from services.delivery.webhooks import (
    MAX_PROBLEM_LENGTH,
    CallResult,
    DestinationKind,
    WebhookDelivery,
    WebhookStatus,
)

# The call has a deadline of its own, of 15 s in all; this one is for a caller that does not keep it.
CALL_SECONDS: Final = 20.0
LEASE_SECONDS: Final = 30.0
PUT_OFF_SECONDS: Final = 5.0
CLAIM_SIZE: Final = 100
MAX_PER_ENDPOINT: Final = 4
# Each call to one that hangs holds a place of its tenant's for 15 s, and one call is enough to see that it is back.
MAX_PER_FAILING_ENDPOINT: Final = 1
MAX_PER_TENANT: Final = 20
OUTCOMES_IN_COMMIT: Final = 200
MISSED_IN_COMMIT: Final = 500
GONE_REASON: Final = "The endpoint answered 410 Gone."
WORN_OUT_REASON: Final = "The endpoint has only failed for five days."

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a destination is now."""

    url: str
    secrets: tuple[str, ...] = field(repr=False)  # the newest first; each signs
    is_enabled: bool


class KnowsTargets(Protocol):
    """Who knows the URLs and secrets of webhooks as they are now."""

    async def target(self, delivery: WebhookDelivery) -> Target | None:
        """Return where a delivery goes; None when there is no webhook that wants its event.

        Raises UnavailableError when it can not tell.
        """


class CallsEndpoint(Protocol):
    """Who makes the call."""

    async def call(self, target: Target, delivery: WebhookDelivery, at: datetime) -> CallResult:
        """Sign a delivery's body as of a time and post it, once; return what came of it and never raise for it.

        It ends within 15 s in all, follows no redirect, and reads at most 64 KiB of the answer.
        """


class DisablesEndpoints(Protocol):
    """Who can switch a webhook off, so that its owner sees it."""

    async def disable(self, delivery: WebhookDelivery, url: str, reason: str, since: datetime) -> bool:
        """Disable the webhook that a delivery went to, if it still has this URL; it has failed since a time.

        Return whether it is disabled now, with this URL. Repeats are harmless. Raises UnavailableError.
        """


class TakesAnswers(Protocol):
    """Who reads what endpoints answer to a reply: it may be the text of a message back."""

    async def take(self, delivery: WebhookDelivery, body: bytes) -> None:
        """Take in the body of a 2xx answer, on disk, once for each reply. Raises UnavailableError."""


class DeliverWebhooks:
    """Makes due webhook calls, each in a task of its own, at most `max_in_flight` at a time."""

    def __init__(
        self,
        *,
        store: WebhookStore,
        targets: KnowsTargets,
        endpoints: CallsEndpoint,
        disabling: DisablesEndpoints,
        answers: TakesAnswers,
        clock: Clock,
        random: Callable[[], float],
        max_in_flight: int,
        on_room: Callable[[], None],
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._store = store
        self._targets = targets
        self._endpoints = endpoints
        self._disabling = disabling
        self._answers = answers
        self._clock = clock
        self._random = random
        self._max_in_flight = max_in_flight
        self._on_room = on_room
        self._leases = Leases(clock=clock, seconds=lease_seconds, extend=self._extend)
        self._in_flight: dict[asyncio.Task[None], ClaimedWebhook] = {}
        self._call_deadlines = Deadlines(CALL_SECONDS)
        self._stopping = False
        self._outcomes = Batcher(self._record, max_size=OUTCOMES_IN_COMMIT, name="webhook_outcomes")

    @property
    def room(self) -> int:
        """How many more deliveries may be in flight."""
        return self._max_in_flight - len(self._in_flight)

    async def deliver_due(self) -> int:
        """Claim one batch and begin to deliver it; return how many were claimed."""
        now, lease_until = await self._leases.now(), self._leases.end()
        with self._leases.written(lease_until):
            claimed = await self._store.claim(
                now=now,
                lease_until=lease_until,
                limits=Limits(
                    in_all=min(self.room, CLAIM_SIZE),
                    per_endpoint=MAX_PER_ENDPOINT,
                    per_failing_endpoint=MAX_PER_FAILING_ENDPOINT,
                    per_tenant=MAX_PER_TENANT,
                ),
            )
        for each in claimed:
            task = asyncio.create_task(self._deliver(each))
            self._in_flight[task] = each
            task.add_done_callback(self._landed)
        return len(claimed)

    async def renew_leases(self) -> None:
        """Keep what is in flight ours. A call whose lease is lost goes on, and records nothing."""
        await self._leases.renew()

    async def _extend(self, until: datetime) -> None:
        claimed = list(self._in_flight.values())
        if claimed:
            held = await self._store.renew(claimed, until)
            if len(held) < len(claimed):
                log.warning("webhook leases lost", lost=len(claimed) - len(held))

    async def drain(self, seconds: float) -> None:
        """Wait for what is in flight; after so many seconds, record the rest as cut off, to be called again."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=seconds)
        self._stopping = True
        for task in list(self._in_flight):
            task.cancel()
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=seconds)
        await self._outcomes.drain()

    def _landed(self, task: asyncio.Task[None]) -> None:
        claimed = self._in_flight.pop(task)
        if not task.cancelled() and (error := task.exception()):
            log.error(
                "webhook broke off", webhook_delivery_id=claimed.delivery.id, error=type(error).__name__, exc_info=error
            )
        self._on_room()

    async def _deliver(self, claimed: ClaimedWebhook) -> None:
        delivery = claimed.delivery
        try:
            target = await self._targets.target(delivery)
        except UnavailableError as error:
            await self._settle(_put_off(claimed, error.message, self._clock.now()))
            return
        if target is None:
            await self._settle(
                replace(_missed(claimed, "Nobody wants this event.", self._clock.now()), is_wanted=False)
            )
            return
        if not target.is_enabled:
            await self._settle(_missed(claimed, "The webhook is disabled.", self._clock.now()))
            return
        result = await self._traced_call(target, delivery)
        if result.is_success and not await self._took_answer(delivery, result.body):
            return
        step = next_step(result, tries=claimed.tries, now=self._clock.now(), jitter=self._random())
        recorded = await self._settle(_finished(claimed, target, result, step, self._clock.now()))
        if recorded and recorded.failing_since:
            await self._disable_if_hopeless(delivery, target.url, step, recorded.failing_since)

    async def _traced_call(self, target: Target, delivery: WebhookDelivery) -> CallResult:
        with tracing.span(
            f"call webhook {delivery.event}",
            parent=delivery.traceparent,
            kind=tracing.Kind.CLIENT,
            webhook_delivery_id=delivery.id,
            message_id=delivery.message_id,
        ) as span:
            result = await self._call(target, delivery)
            span.tell(**{"http.response.status_code": result.status_code or 0})
            if not result.is_success:
                span.fail("the endpoint has not taken the event")
            return result

    async def _call(self, target: Target, delivery: WebhookDelivery) -> CallResult:
        started = self._clock.monotonic()

        def broken(problem: str) -> CallResult:
            elapsed = round((self._clock.monotonic() - started) * 1000)
            return CallResult(status_code=None, milliseconds=elapsed, problem=problem)

        try:
            with self._call_deadlines.begin():
                return await self._endpoints.call(target, delivery, self._clock.now())
        except TimeoutError:
            return broken(f"no answer within {self._call_deadlines.seconds:.0f} s")
        except asyncio.CancelledError:
            return broken("the process stopped before the endpoint answered")
        except Exception as error:  # a defect in one call must not stop the others; the schedule goes on
            log.error(
                "webhook call failed", webhook_delivery_id=delivery.id, error=type(error).__name__, exc_info=error
            )
            return broken("the call to the endpoint broke off")

    async def _took_answer(self, delivery: WebhookDelivery, body: bytes) -> bool:
        """Tell whether what the endpoint answered is on disk; when it is not, the lease ends and it is asked again."""
        if not delivery.reply_id:
            return True
        try:
            await self._until_available()(self._answers.take, delivery, body)
        except UnavailableError:
            log.error("answer not taken", webhook_delivery_id=delivery.id)
            return False
        except Exception as error:  # the event has arrived, whatever is wrong with the answer
            log.error(
                "answer not understood", webhook_delivery_id=delivery.id, error=type(error).__name__, exc_info=error
            )
        return True

    async def _settle(self, finished: FinishedWebhook) -> Recorded | None:
        try:
            recorded = await self._outcomes.submit(finished)
        except UnavailableError:
            # The log says that the attempt is under way; whoever claims the delivery next makes another.
            log.error("webhook outcome not recorded", webhook_delivery_id=finished.delivery_id, attempt=finished.number)
            return None
        metrics.webhooks(_outcome(finished)).inc()
        if finished.milliseconds is not None:
            metrics.WEBHOOK_SECONDS.observe(finished.milliseconds / 1000)
        if not finished.is_wanted:
            return recorded  # it leaves no trace: a line would name what nobody can find, and call it missed
        log.info(
            "webhook finished" if recorded.kept else "webhook outlived its lease",
            webhook_delivery_id=finished.delivery_id,
            attempt=finished.number,
            endpoint_status=finished.status_code,
            status=finished.status.value,
            called=finished.called,
        )
        return recorded

    async def _disable_if_hopeless(
        self, delivery: WebhookDelivery, url: str, step: Step, failing_since: datetime
    ) -> None:
        if delivery.destination.kind is DestinationKind.CALLBACK:
            return  # it is one message's, and nobody could enable it again
        now = self._clock.now()
        if isinstance(step, GiveUp) and step.endpoint_is_gone:
            reason = GONE_REASON
        elif is_to_be_disabled(failing_since, now):
            reason = WORN_OUT_REASON
        else:
            return
        try:
            if not await self._disabling.disable(delivery, url, reason, failing_since):
                return  # its owner has given it another URL, or removed it
            while await self._store.miss_waiting(delivery.endpoint, reason, now, MISSED_IN_COMMIT) == MISSED_IN_COMMIT:
                pass
        except UnavailableError as error:
            # Its next failure disables it, and what waits for it goes on by its schedule.
            log.warning("webhook not disabled", endpoint=delivery.destination.id, error=error.message)
        else:
            log.warning("webhook disabled", endpoint=delivery.destination.id, reason=reason)

    async def _record(self, finished: Sequence[FinishedWebhook]) -> list[Recorded]:
        # May be repeated: the store records an outcome once, and only while the lease is ours.
        return await self._until_available()(self._store.finish, finished)

    def _until_available(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(UnavailableError),
            wait=wait_exponential_jitter(multiplier=0.1, max=2.0),
            # However long the outage: a lost lease is found out anyway.
            stop=lambda _state: self._stopping,
            sleep=self._clock.sleep,
            reraise=True,
        )


def _outcome(finished: FinishedWebhook) -> str:
    """Return what became of an attempt, in one word."""
    if not finished.is_wanted:
        return "unwanted"
    if finished.status is WebhookStatus.PENDING:
        return "try_later" if finished.called else "put_off"
    return finished.status.value


def _put_off(claimed: ClaimedWebhook, problem: str, now: datetime) -> FinishedWebhook:
    retry_at = now + timedelta(seconds=PUT_OFF_SECONDS)
    return _uncalled(claimed, WebhookStatus.PENDING, problem, now, retry_at)


def _missed(claimed: ClaimedWebhook, problem: str, now: datetime) -> FinishedWebhook:
    return _uncalled(claimed, WebhookStatus.MISSED, problem, now, None)


def _uncalled(
    claimed: ClaimedWebhook, status: WebhookStatus, problem: str, now: datetime, retry_at: datetime | None
) -> FinishedWebhook:
    return FinishedWebhook(
        delivery_id=claimed.delivery.id,
        endpoint=claimed.delivery.endpoint,
        number=claimed.number,
        token=claimed.token,
        called=False,
        url="",
        status_code=None,
        milliseconds=None,
        problem=problem,
        excerpt="",
        status=status,
        retry_at=retry_at,
        finished_at=now,
    )


def _finished(
    claimed: ClaimedWebhook, target: Target, result: CallResult, step: Step, now: datetime
) -> FinishedWebhook:
    status = WebhookStatus.PENDING
    if isinstance(step, Done):
        status = WebhookStatus.DELIVERED
    elif isinstance(step, GiveUp):
        status = WebhookStatus.FAILED
    problem = "" if result.is_success else result.problem or f"the endpoint answered {result.status_code}"
    return FinishedWebhook(
        delivery_id=claimed.delivery.id,
        endpoint=claimed.delivery.endpoint,
        number=claimed.number,
        token=claimed.token,
        called=True,
        url=target.url,
        status_code=result.status_code,
        milliseconds=result.milliseconds,
        problem=problem[:MAX_PROBLEM_LENGTH],
        excerpt=result.excerpt,
        status=status,
        retry_at=step.at if isinstance(step, Again) else None,
        finished_at=now,
    )

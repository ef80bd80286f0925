"""One round of sending: claim what is due, hand each message to its carrier, record what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from servicekit.batching import Batcher
from servicekit.clock import Clock
from servicekit.errors import UnavailableError
from servicekit.logs import masked_number
from services.delivery.carriers.base import Capability, OutboundMessage, Refused, SendResult, Taken, TryLater, Unknown
from services.delivery.carriers.registry import Carriers
from services.delivery.domain import MAX_DETAIL_LENGTH, Failure, FailureReason, OnUnknown, Outcome, Status
from services.delivery.retry_policy import EVIDENCE_SECONDS, Retry, next_step
from services.delivery.store import (
    Begin,
    Decision,
    DueMessage,
    Finish,
    FinishedAttempt,
    MessageStore,
    Postpone,
    StartedAttempt,
)

CARRIER_CALL_SECONDS: Final = 20.0
LEASE_SECONDS: Final = 30.0
CLAIM_SIZE: Final = 100
OUTCOMES_IN_COMMIT: Final = 200
OUTCOME_OF: Final[Mapping[type[SendResult], Outcome]] = {
    Taken: Outcome.TAKEN,
    Refused: Outcome.REFUSED,
    TryLater: Outcome.TRY_LATER,
    Unknown: Outcome.UNKNOWN,
}

log = structlog.get_logger(__name__)


class Dispatcher:
    """Sends due messages, each in a task of its own, at most `max_in_flight` at a time."""

    def __init__(
        self,
        *,
        store: MessageStore,
        carriers: Carriers,
        clock: Clock,
        random: Callable[[], float],
        max_in_flight: int,
        on_room: Callable[[], None],
        lease_seconds: float = LEASE_SECONDS,
        evidence_seconds: float = EVIDENCE_SECONDS,
    ) -> None:
        self._store = store
        self._carriers = carriers
        self._clock = clock
        self._random = random
        self._max_in_flight = max_in_flight
        self._on_room = on_room
        self._lease_seconds = lease_seconds
        self._evidence_seconds = evidence_seconds
        self._in_flight: dict[asyncio.Task[None], StartedAttempt] = {}
        self._stopping = False
        self._leased_until = clock.now()  # when the first lease of what is in flight ends
        self._outcomes = Batcher(self._record, max_size=OUTCOMES_IN_COMMIT)

    @property
    def room(self) -> int:
        """How many more messages may be in flight."""
        return self._max_in_flight - len(self._in_flight)

    async def send_due(self, shard: int) -> int:
        """Claim one batch of a shard and begin to send it; return how many were claimed."""
        if self._in_flight and self._clock.now() >= self._leased_until:
            # This process stood still. What it has in flight is its own until another has claimed it.
            await self.renew_leases()
        now = self._clock.now()
        lease_until = now + timedelta(seconds=self._lease_seconds)
        started = await self._store.claim(
            shard=shard,
            now=now,
            lease_until=lease_until,
            limit=min(self.room, CLAIM_SIZE),
            decide=lambda due: self._decide(due, now),
        )
        self._leased_until = min(self._leased_until, lease_until) if self._in_flight else lease_until
        for attempt in started:
            task = asyncio.create_task(self._send(attempt))
            self._in_flight[task] = attempt
            task.add_done_callback(self._landed)
        return len(started)

    async def renew_leases(self) -> None:
        """Keep what is in flight ours. An attempt whose lease is lost goes on, and records nothing."""
        attempts = list(self._in_flight.values())
        if attempts:
            until = self._clock.now() + timedelta(seconds=self._lease_seconds)
            before, self._leased_until = self._leased_until, until
            try:
                held = await self._store.renew(attempts, until)
            except UnavailableError:
                self._leased_until = min(before, self._leased_until)
                raise
            if len(held) < len(attempts):
                log.warning("leases lost", lost=len(attempts) - len(held))

    async def drain(self, seconds: float) -> None:
        """Wait for what is in flight; after so many seconds, record the rest as unknown."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=seconds)
        self._stopping = True
        for task in list(self._in_flight):
            task.cancel()
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=seconds)
        await self._outcomes.drain()

    def _landed(self, task: asyncio.Task[None]) -> None:
        attempt = self._in_flight.pop(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("attempt broke off", message=attempt.message.id, error=type(error).__name__, exc_info=error)
        self._on_room()

    def _decide(self, due: DueMessage, now: datetime) -> Decision:
        message, last = due.message, due.last_attempt
        if now >= message.valid_until:
            return Finish(status=Status.EXPIRED, failure=message.failure or Failure(reason=FailureReason.EXPIRED))
        carrier = self._carriers.pick(message.to)
        if last is None or last.outcome not in (Outcome.STARTED, Outcome.UNKNOWN):
            return Begin(carrier=carrier.name, sender=carrier.sender)
        # The carrier of the last attempt may have the message, so only that one may get it again.
        previous = self._carriers.named(last.carrier)
        capability = previous.capability if previous else Capability.BLIND
        if capability is Capability.RECONCILABLE:
            # An attempt that was cut off can be asked about only now that its process is back, however long that took.
            ended_at = now if last.outcome is Outcome.STARTED else last.finished_at or last.started_at
            evidence_until = ended_at + timedelta(seconds=self._evidence_seconds)
            if now < evidence_until:
                return Postpone(until=evidence_until)
        if message.on_unknown is OnUnknown.HOLD and capability is not Capability.IDEMPOTENT:
            return Finish(status=Status.UNKNOWN, failure=Failure(reason=FailureReason.NO_ANSWER))
        again = previous or carrier
        return Begin(
            carrier=again.name, sender=again.sender, possible_duplicate=capability is not Capability.IDEMPOTENT
        )

    async def _send(self, attempt: StartedAttempt) -> None:
        result = await self._call_carrier(attempt)
        finished = self._finished(attempt, result)
        try:
            kept = await self._outcomes.submit(finished)
        except UnavailableError:
            # The ledger says `started`; whoever claims the message next treats the outcome as unknown.
            log.error("outcome not recorded", message=attempt.message.id, attempt=attempt.number)
            return
        log.info(
            "attempt finished" if kept else "attempt outlived its lease",
            message=attempt.message.id,
            attempt=attempt.number,
            carrier=attempt.carrier,
            outcome=finished.outcome.value,
            status=finished.status.value,
            to=masked_number(attempt.message.to),
        )

    async def _call_carrier(self, attempt: StartedAttempt) -> SendResult:
        carrier = self._carriers.named(attempt.carrier)
        assert carrier is not None  # noqa: S101  # it was picked from the same list a moment ago
        message = OutboundMessage(
            message_id=attempt.message.id,
            attempt_number=attempt.number,
            to=attempt.message.to,
            sender=attempt.sender,
            text=attempt.message.text,
        )
        try:
            async with asyncio.timeout(CARRIER_CALL_SECONDS):
                return await carrier.send(message)
        except TimeoutError:
            return Unknown(detail=f"no answer within {CARRIER_CALL_SECONDS:.0f} s")
        except asyncio.CancelledError:
            return Unknown(detail="the process stopped before the carrier answered")
        except Exception as error:  # a carrier's defect must not stop the others; its outcome is unknown
            log.error("carrier failed", carrier=carrier.name, error=type(error).__name__, exc_info=error)
            return Unknown(detail="the call to the carrier broke off")

    def _finished(self, attempt: StartedAttempt, result: SendResult) -> FinishedAttempt:
        carrier = self._carriers.named(attempt.carrier)
        now = self._clock.now()
        step = next_step(
            result,
            attempt_number=attempt.number,
            capability=carrier.capability if carrier else Capability.BLIND,
            on_unknown=attempt.message.on_unknown,
            now=now,
            jitter=self._random(),
            evidence_seconds=self._evidence_seconds,
        )
        return FinishedAttempt(
            message_id=attempt.message.id,
            number=attempt.number,
            token=attempt.token,
            outcome=OUTCOME_OF[type(result)],
            detail=result.detail[:MAX_DETAIL_LENGTH],
            carrier_message_id=result.carrier_message_id if isinstance(result, Taken) else "",
            status=step.status,
            failure=step.failure,
            # Never later than its validity, so that it expires in time.
            retry_at=min(step.at, attempt.message.valid_until) if isinstance(step, Retry) else None,
            finished_at=now,
        )

    async def _record(self, attempts: Sequence[FinishedAttempt]) -> list[bool]:
        # May be repeated: the store records an outcome once, and only while the lease is ours.
        repeat = AsyncRetrying(
            retry=retry_if_exception_type(UnavailableError),
            wait=wait_exponential_jitter(multiplier=0.1, max=2.0),
            # However long the outage: what is known must not become unknown, and a lost lease is found out anyway.
            stop=lambda _state: self._stopping,
            sleep=self._clock.sleep,
            reraise=True,
        )
        return await repeat(self._store.finish, attempts)

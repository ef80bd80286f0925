"""One round of sending: claim what is due, hand each message to its carrier, record what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from servicekit import tracing
from servicekit.batching import Batcher
from servicekit.clock import Clock
from servicekit.deadlines import Deadlines
from servicekit.errors import UnavailableError
from servicekit.logs import masked_number
from services.delivery import metrics
from services.delivery.carrier_monitor import CarrierMonitor
from services.delivery.carriers.base import Capability, OutboundMessage, Refused, SendResult, Taken, TryLater, Unknown
from services.delivery.carriers.registry import Carriers
from services.delivery.claim_round import ClaimRound, Room
from services.delivery.domain import (
    MAX_CARRIER_ID_LENGTH,
    MAX_DETAIL_LENGTH,
    NOT_THE_MESSAGE,
    Accepted,
    Failure,
    FailureReason,
    NewMessage,
    Outcome,
    Status,
)
from services.delivery.leases import Leases
from services.delivery.pacing import LATE_US, Wish
from services.delivery.retry_policy import EVIDENCE_SECONDS, Retry, next_step
from services.delivery.store import (
    Begin,
    Beginning,
    DueMessage,
    FinishedAttempt,
    MessageStore,
    Share,
    StartedAttempt,
)

CARRIER_CALL_SECONDS: Final = 20.0
LEASE_SECONDS: Final = 30.0
OUTCOMES_IN_COMMIT: Final = 200
# So far apart do outcomes go to the disk, those of a moment together; a crash makes those that wait unknown.
OUTCOMES_SPACING_SECONDS: Final = 0.02
FIRST_REPEAT_SECONDS: Final = 0.1
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
        monitor: CarrierMonitor,
        clock: Clock,
        random: Callable[[], float],
        max_in_flight: int,
        on_room: Callable[[], None],
        lease_seconds: float = LEASE_SECONDS,
        evidence_seconds: float = EVIDENCE_SECONDS,
    ) -> None:
        self._store = store
        self._carriers = carriers
        self._monitor = monitor
        self._clock = clock
        self._random = random
        self._max_in_flight = max_in_flight
        self._on_room = on_room
        self._leases = Leases(clock=clock, seconds=lease_seconds, extend=self._extend)
        self._evidence_seconds = evidence_seconds
        self._in_flight: dict[asyncio.Task[None], StartedAttempt] = {}
        self._call_deadlines = Deadlines(CARRIER_CALL_SECONDS)
        self._stopping = False
        self._outcomes = Batcher(
            self._record,
            max_size=OUTCOMES_IN_COMMIT,
            name="outcomes",
            spacing_seconds=OUTCOMES_SPACING_SECONDS,
        )
        self._wants_room = False  # the last claim may have left messages for which there was no room
        self._begins_at_once = False
        self._queued: set[str] = set()  # routes where some had to wait, until a claim has found nothing more
        self._reserved = 0  # for messages that are being stored and may begin with that

    @property
    def room(self) -> int:
        """How many more messages may be in flight."""
        return self._max_in_flight - len(self._in_flight) - self._reserved

    @property
    def open_routes(self) -> list[str]:
        """The routes that have a carrier which can take messages now, or that is to be tried again."""
        now = self._clock.now()
        opened = {share.route for share in self._round(now, self._monitor.room(now)).shares(self.room)}
        probed = set(self._monitor.to_probe(now))
        return [route.name for route in self._carriers.routes if route.name in opened or probed & set(route.members)]

    def open(self) -> None:
        """Begin to send what is added as it is stored, from now on."""
        self._begins_at_once = True

    def close(self) -> None:
        """Leave what is added from now on to those who claim it."""
        self._begins_at_once = False

    async def add(self, messages: Sequence[NewMessage]) -> Sequence[Accepted]:
        """Store messages, and send those at once that have a free carrier and nothing before them in the queue.

        What is sent at once spares the queue's writes and reads and a transaction of its own. Raises UnavailableError
        when they can not be stored.
        """
        now, lease_until = self._clock.now(), self._leases.end()
        beginnings = self._beginnings(messages, now)
        self._reserve(beginnings)
        try:
            with self._leases.written(lease_until):
                added = await self._store.add_and_begin(messages, beginnings, now=now, lease_until=lease_until)
        finally:
            self._give_back(beginnings)
        self._begin(added.started)
        if added.waiting:
            self._queued |= added.waiting
            self._on_room()
        return added.answers

    def _beginnings(self, messages: Sequence[NewMessage], now: datetime) -> dict[str, Beginning]:
        room = self.room
        if not self._begins_at_once or len(messages) > room:
            return {}
        claim_round = self._round(now, self._monitor.room(now))
        shares = {share.route: share.limit for share in claim_round.shares(room)}
        # Of messages that do not all have room, the queue says which go first. It keeps to limits, too.
        wanted, limited = Counter(message.route for message in messages), self._monitor.limits(now)
        beginnings = {}
        for new in messages:
            if wanted[new.route] <= shares.get(new.route, 0) and new.route not in self._queued:
                decision = claim_round.decide(DueMessage(message=new))
                if isinstance(decision, Begin) and decision.carrier not in limited:
                    beginnings[new.id] = Beginning(new, decision)
        return beginnings

    def _reserve(self, beginnings: Mapping[str, Beginning]) -> None:
        self._reserved += len(beginnings)
        for _, begin in beginnings.values():
            self._monitor.began(begin.carrier)

    def _give_back(self, beginnings: Mapping[str, Beginning]) -> None:
        self._reserved -= len(beginnings)
        for _, begin in beginnings.values():
            self._monitor.ended(begin.carrier)

    async def send_due(self, shard: int) -> int:
        """Claim one batch of a shard and begin to send it; return for how many messages something was done."""
        tried = await self._try_again(shard)
        now = self._clock.now()
        claim_round = self._round(now, self._monitor.room(now))
        shares = claim_round.shares(self.room)
        done = await self._claim(shard, claim_round, shares) if shares else 0
        asked = sum(share.limit for share in shares)
        if done < asked:
            self._queued.clear()
        self._wants_room = self.room <= 0 or done >= asked or self._monitor.is_full()
        return tried + done

    async def _try_again(self, shard: int) -> int:
        """Send one message to each carrier that failed and whose time has come, if there is one to send."""
        begun = 0
        for name in self._monitor.to_probe(self._clock.now()):
            routes = [route.name for route in self._carriers.routes if name in route.members]
            due = await self._store.next_due(shard, routes)
            if due is None or due > self._clock.now() or not await self._monitor.win_probe(name):
                continue
            now = self._clock.now()
            only = Room(available={name}, free={name: 1}, health={}, slots={})
            claim_round = self._round(now, only)
            for route in routes:
                begun += await self._claim(shard, claim_round, [Share(route=route, limit=1)], probed=name)
        return begun

    def _round(self, now: datetime, room: Room) -> ClaimRound:
        evidence = timedelta(seconds=self._evidence_seconds)
        return ClaimRound(carriers=self._carriers, room=room, now=now, evidence=evidence)

    async def _claim(self, shard: int, claim_round: ClaimRound, shares: Sequence[Share], probed: str = "") -> int:
        now, lease_until = await self._leases.now(), self._leases.end()
        with self._leases.written(lease_until):
            claimed = await self._store.claim(
                shard=shard,
                now=now,
                lease_until=lease_until,
                shares=shares,
                decide=claim_round.decide,
                limits={} if probed else self._monitor.limits(now),
            )
        for name, until in claimed.full_until.items():
            self._monitor.no_slot_before(name, until)
        self._begin(claimed.started, probed)
        return len(claimed.started) + claimed.settled

    def _begin(self, started: Sequence[StartedAttempt], probed: str = "") -> None:
        for attempt in started:
            task = asyncio.create_task(self._send(attempt, probe=attempt.carrier == probed))
            self._in_flight[task] = attempt
            self._monitor.began(attempt.carrier)
            task.add_done_callback(self._landed)

    async def renew_leases(self) -> None:
        """Keep what is in flight ours. An attempt whose lease is lost goes on, and records nothing."""
        await self._leases.renew()

    async def _extend(self, until: datetime) -> None:
        attempts = list(self._in_flight.values())
        if attempts:
            held = await self._store.renew(attempts, until)
            still_in_flight = {attempt.message.id for attempt in self._in_flight.values()}
            lost = {attempt.message.id for attempt in attempts} & still_in_flight - held
            if lost:
                log.warning("leases lost", lost=len(lost))

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
        self._monitor.ended(attempt.carrier)
        if not task.cancelled() and (error := task.exception()):
            log.error("attempt broke off", message_id=attempt.message.id, error=type(error).__name__, exc_info=error)
        if self._wants_room:
            self._on_room()

    async def _send(self, attempt: StartedAttempt, *, probe: bool) -> None:
        await asyncio.sleep(0)  # first whoever waits for the commit gets its answer
        await self._wait_for_slot(attempt)
        if probe or self._monitor.may_send(attempt.carrier):
            started = time.perf_counter()
            result = _of_the_carrier(await self._traced_call(attempt))
            metrics.attempt_seconds(attempt.carrier).observe(time.perf_counter() - started)
            metrics.attempts(attempt.carrier, OUTCOME_OF[type(result)].value).inc()
            await self._monitor.hear(attempt.carrier, result, probe=probe)
            finished = self._finished(attempt, result)
        else:
            finished = self._not_sent(attempt)
        try:
            kept = await self._outcomes.submit(finished)
        except UnavailableError:
            # The ledger says `started`; whoever claims the message next treats the outcome as unknown.
            log.error("outcome not recorded", message_id=attempt.message.id, attempt=attempt.number)
            return
        if finished.retry_at is not None:
            self._on_room()  # another carrier may be asked at once
        log.info(
            "attempt finished" if kept else "attempt outlived its lease",
            message_id=attempt.message.id,
            request_id=attempt.message.request_id,
            trace_id=tracing.trace_id(attempt.message.traceparent),
            attempt=attempt.number,
            carrier=attempt.carrier,
            outcome=finished.outcome.value,
            status=finished.status.value,
            to=masked_number(attempt.message.to),
        )

    async def _wait_for_slot(self, attempt: StartedAttempt) -> None:
        if attempt.not_before is None or not self._monitor.is_limited(attempt.carrier):
            return
        await self._sleep_until(attempt.not_before)
        if self._clock.now() <= attempt.not_before + timedelta(microseconds=LATE_US):
            return
        wish = Wish(attempt.message.id, attempt.carrier, attempt.sender, attempt.message.segments)
        with contextlib.suppress(UnavailableError):  # rather now than not at all
            await self._sleep_until(await self._monitor.slot_again(wish))

    async def _sleep_until(self, moment: datetime) -> None:
        if (wait := (moment - self._clock.now()).total_seconds()) > 0:
            await self._clock.sleep(wait)

    async def _traced_call(self, attempt: StartedAttempt) -> SendResult:
        message = attempt.message
        with tracing.span(
            "call carrier",
            parent=message.traceparent,
            kind=tracing.Kind.CLIENT,
            carrier=attempt.carrier,
            attempt=attempt.number,
            message_id=message.id,
        ) as span:
            result = await self._call_carrier(attempt)
            span.tell(outcome=OUTCOME_OF[type(result)].value)
            return result

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
            with self._call_deadlines.begin():
                return await carrier.send(message)
        except TimeoutError:
            return Unknown(detail=f"no answer within {self._call_deadlines.seconds:.0f} s")
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
            others=attempt.others,
            fresh_others=attempt.fresh_others,
        )
        return FinishedAttempt(
            message_id=attempt.message.id,
            number=attempt.number,
            carrier=attempt.carrier,
            token=attempt.token,
            outcome=OUTCOME_OF[type(result)],
            detail=result.detail[:MAX_DETAIL_LENGTH],
            carrier_message_id=result.carrier_message_id[:MAX_CARRIER_ID_LENGTH] if isinstance(result, Taken) else "",
            part_ids=tuple(part_id[:MAX_CARRIER_ID_LENGTH] for part_id in result.part_ids)
            if isinstance(result, Taken)
            else (),
            status=step.status,
            failure=step.failure,
            # Never later than its validity, so that it expires in time.
            retry_at=min(step.at, attempt.message.valid_until) if isinstance(step, Retry) else None,
            finished_at=now,
            message=attempt.message,
            sender=attempt.sender,
        )

    def _not_sent(self, attempt: StartedAttempt) -> FinishedAttempt:
        now = self._clock.now()
        return FinishedAttempt(
            message_id=attempt.message.id,
            number=attempt.number,
            carrier=attempt.carrier,
            token=attempt.token,
            outcome=Outcome.TRY_LATER,
            detail="not sent: the carrier was found to fail while the message waited for its turn",
            carrier_message_id="",
            status=Status.QUEUED,
            failure=Failure(reason=FailureReason.CARRIER_UNAVAILABLE),
            retry_at=now,  # its route decides when it goes
            finished_at=now,
        )

    async def _record(self, attempts: Sequence[FinishedAttempt]) -> list[bool]:
        try:
            return await self._store.finish(attempts)
        except UnavailableError:
            if self._stopping:
                raise
        await self._clock.sleep(FIRST_REPEAT_SECONDS)
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


def _of_the_carrier(result: SendResult) -> SendResult:
    """Return a refusal that concerns the account, and so every message, as the carrier taking none just now."""
    if isinstance(result, Refused) and result.failure.reason in NOT_THE_MESSAGE:
        return TryLater(failure=result.failure, detail=result.detail)
    return result

"""Watches the carriers: what goes well and what fails opens breakers, slows rates and shifts weights."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from servicekit.batching import Batcher
from servicekit.clock import Clock
from servicekit.errors import UnavailableError
from services.delivery.carrier_health import (
    MOST_TIMES_OPENED,
    CarrierHealth,
    open_seconds,
    pause_seconds,
    recovered,
    slowed,
)
from services.delivery.carrier_states import CarrierError, CarrierOverview, CarrierState
from services.delivery.carriers.base import Carrier, KeepsLink, Refused, SendResult, Taken, TryLater, Unknown
from services.delivery.carriers.registry import Carriers
from services.delivery.claim_round import CLAIM_SIZE, Room
from services.delivery.domain import MAX_DETAIL_LENGTH, Failure, FailureReason
from services.delivery.pacing import HORIZON_US, MICROSECONDS, Limit, Limits, Wish
from services.delivery.routing import CarrierRules
from services.delivery.store import Breaker, CarrierCondition, CarrierStore

PROBE_SECONDS: Final = 30.0
SLOWED_AT_MOST_EVERY: Final = timedelta(seconds=1)

log = structlog.get_logger(__name__)


class CarrierMonitor:
    """Knows how every carrier is. What all processes share is read again by `refresh`, and written when it changes."""

    def __init__(
        self,
        *,
        store: CarrierStore,
        carriers: Carriers,
        clock: Clock,
        in_flight: int,
        on_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._on_back = on_back  # a carrier takes messages again
        self._carriers = carriers
        self._clock = clock
        names = [carrier.name for carrier in carriers]
        # One slow carrier must leave room for the others.
        default = in_flight if len(names) == 1 else max(1, in_flight // 2)
        self._most = {name: carriers.rules(name).in_flight or default for name in names}
        self._health = {name: CarrierHealth() for name in names}
        self._shared = {name: CarrierCondition(name=name) for name in names}
        self._in_flight: Counter[str] = Counter()
        self._no_slot_before: dict[str, datetime] = {}
        self._last_errors: dict[str, CarrierError] = {}  # of this process; the shared ones are those that had effects
        self._probing: set[str] = set()
        self._changing = asyncio.Lock()
        self._late = Batcher(self._take_slots, max_size=CLAIM_SIZE)

    async def refresh(self) -> None:
        """Learn what other processes have found out."""
        states, now = await self._store.states(), self._clock.now()
        for name, before in self._shared.items():
            self._shared[name] = shared = states.get(name, CarrierCondition(name=name))
            if shared.breaker is not before.breaker:
                self._health[name].judge_afresh(now)

    def room(self, now: datetime) -> Room:
        """Return what the carriers can take now."""
        return Room(
            available={name for name in self._shared if self._is_available(name, now)},
            free={name: most - self._in_flight[name] for name, most in self._most.items()},
            health={name: health.score(now) for name, health in self._health.items()},
            slots=self._slots(now),
        )

    def limits(self, now: datetime) -> dict[str, Limits]:
        """Return what binds the carriers now, for those that are bound."""
        return {name: limits for name in self._shared if (limits := self._limits(name, now)) != _UNBOUND}

    def is_limited(self, name: str) -> bool:
        """Whether messages to the carrier wait for slots."""
        return self._carriers.rules(name) != _NO_RULES and self._limits(name, self._clock.now()) != _UNBOUND

    def no_slot_before(self, name: str, until: datetime) -> None:
        """Remember that a carrier's next slot is a while away."""
        self._no_slot_before[name] = until - timedelta(microseconds=HORIZON_US / 2)

    def next_opening(self, now: datetime) -> datetime | None:
        """Return when the first carrier is to be tried again that gets no messages now; None when there is none."""
        shared = self._shared.values()
        moments = [*self._no_slot_before.values(), *(each.paused_until for each in shared)]
        moments += [each.open_until for each in shared if _is_open(each)]
        return min((at for at in moments if at is not None and at > now), default=None)

    async def slot_again(self, wish: Wish) -> datetime:
        """Return the next slot for a message that has missed its own. Raises UnavailableError."""
        return await self._late.submit(wish)

    def to_probe(self, now: datetime) -> list[str]:
        """Return carriers that fail, and that it is time to try again."""
        return [
            name for name, shared in self._shared.items() if _is_open(shared) and not _is_ahead(shared.open_until, now)
        ]

    async def win_probe(self, name: str) -> bool:
        """Return whether this process is the one to try the carrier again."""
        now = self._clock.now()
        won = False

        def take(shared: CarrierCondition) -> CarrierCondition:
            nonlocal won
            won = _is_open(shared) and not _is_ahead(shared.open_until, now)
            return replace(shared, open_until=now + timedelta(seconds=PROBE_SECONDS)) if won else shared

        self._shared[name] = await self._store.change(name, take)
        if won:
            self._probing.add(name)
        return won

    def may_send(self, name: str) -> bool:
        """Return whether the carrier still gets messages that were claimed for it before it was found to fail."""
        return not _is_open(self._shared[name])

    def is_full(self) -> bool:
        """Whether a carrier has as many calls under way as it may have."""
        return any(self._in_flight[name] >= most for name, most in self._most.items())

    def began(self, name: str) -> None:
        """Count a call that is under way."""
        self._in_flight[name] += 1

    def ended(self, name: str) -> None:
        """Count it no more."""
        self._in_flight[name] -= 1

    async def hear(self, name: str, result: SendResult, *, probe: bool) -> None:
        """Take in what a carrier answered; return when what follows for all processes is on disk, if anything does."""
        if name not in self._shared:
            return
        now, failure = self._clock.now(), _failure(result)
        throttled = failure is not None and failure.reason is FailureReason.THROTTLED
        self._health[name].hear(now, failed=failure is not None and not throttled)
        if failure:
            self._last_errors[name] = CarrierError(
                at=now, code=failure.reason.code, message=result.detail[:MAX_DETAIL_LENGTH]
            )
        if failure is None and not probe:
            return
        if probe:
            self._probing.discard(name)
        try:
            async with self._changing:
                if throttled and isinstance(result, TryLater):
                    await self._slow(name, result, now)
                if failure and not throttled and (probe or self._health[name].must_open(now)):
                    await self._open(name, failure, result.detail, now, probe=probe)
                elif probe and (failure is None or throttled):
                    await self._close(name, now)
        except UnavailableError as error:
            log.warning("carrier's state not recorded", carrier=name, error=error.message)

    def overview(self) -> Sequence[CarrierOverview]:
        """Return every carrier as it is now."""
        return [self._overview(carrier) for carrier in self._carriers]

    async def _take_slots(self, wishes: Sequence[Wish]) -> list[datetime]:
        now = self._clock.now()
        return await self._store.take_slots(wishes, self.limits(now), now)

    def _is_available(self, name: str, now: datetime) -> bool:
        shared = self._shared[name]
        return not _is_open(shared) and not _is_ahead(shared.paused_until, now)

    def _slots(self, now: datetime) -> dict[str, int]:
        slots = {}
        for name, limits in self.limits(now).items():
            if limits.carrier is None:
                continue
            if _is_ahead(self._no_slot_before.get(name), now):
                slots[name] = 0
                continue
            horizon = limits.carrier.segments_per_second * HORIZON_US / MICROSECONDS
            slots[name] = min(CLAIM_SIZE, round(horizon) + limits.carrier.burst + 1)
        return slots

    def _limits(self, name: str, now: datetime) -> Limits:
        rules, factor = self._carriers.rules(name), self._factor(name, now)
        return Limits(
            carrier=Limit(segments_per_second=rules.segments_per_second * factor, burst=rules.burst)
            if rules.segments_per_second
            else None,
            sender=Limit(segments_per_second=rules.sender_segments_per_second)
            if rules.sender_segments_per_second
            else None,
        )

    def _factor(self, name: str, now: datetime) -> float:
        shared = self._shared[name]
        return 1.0 if shared.slowed_at is None else recovered(shared.rate_factor, shared.slowed_at, now)

    async def _slow(self, name: str, result: TryLater, now: datetime) -> None:
        until = now + timedelta(seconds=pause_seconds(result.after_seconds))
        shared = self._shared[name]
        if _is_ahead(shared.paused_until, now) and shared.paused_until and shared.paused_until >= until:
            return

        def slow(shared: CarrierCondition) -> CarrierCondition:
            paused = max(until, shared.paused_until or until)
            error = replace(shared, paused_until=paused, **_error(result.failure, result.detail, now))
            if shared.slowed_at and now < shared.slowed_at + SLOWED_AT_MOST_EVERY:
                return error
            factor = 1.0 if shared.slowed_at is None else recovered(shared.rate_factor, shared.slowed_at, now)
            return replace(error, rate_factor=slowed(factor), slowed_at=now)

        self._shared[name] = await self._change(name, slow)
        log.warning("carrier throttles", carrier=name, pause_seconds=(until - now).total_seconds())

    async def _open(self, name: str, failure: Failure, detail: str, now: datetime, *, probe: bool) -> None:
        if _is_open(self._shared[name]) and not probe:
            return

        def open_it(shared: CarrierCondition) -> CarrierCondition:
            if _is_open(shared) and not probe:
                return shared
            times = min(shared.times_opened + 1, MOST_TIMES_OPENED)
            return replace(
                shared,
                breaker=Breaker.OPEN,
                open_until=now + timedelta(seconds=open_seconds(times)),
                times_opened=times,
                **_error(failure, detail, now),
            )

        shared = self._shared[name] = await self._change(name, open_it)
        self._health[name].judge_afresh(now)
        log.warning(
            "carrier fails: nothing is sent to it", carrier=name, reason=failure.reason.code, until=shared.open_until
        )

    async def _close(self, name: str, now: datetime) -> None:
        self._shared[name] = await self._change(
            name, lambda shared: replace(shared, breaker=Breaker.CLOSED, open_until=None, times_opened=0)
        )
        self._health[name].judge_afresh(now)
        self._on_back()
        log.info("carrier is back", carrier=name)

    async def _change(self, name: str, change: Callable[[CarrierCondition], CarrierCondition]) -> CarrierCondition:
        # Known here at once, also when it can not be written.
        self._shared[name] = change(self._shared[name])
        return await self._store.change(name, change)

    def _overview(self, carrier: Carrier) -> CarrierOverview:
        now, shared = self._clock.now(), self._shared[carrier.name]
        rate = self._carriers.rules(carrier.name).segments_per_second
        factor = self._factor(carrier.name, now)
        went_well, failed = self._health[carrier.name].last_minute(now)
        state, until = CarrierState.HEALTHY, None
        if _is_open(shared):
            state = CarrierState.PROBING if carrier.name in self._probing else CarrierState.OPEN
            until = shared.open_until
        elif _is_ahead(shared.paused_until, now) or (rate and factor < 1.0):
            state, until = CarrierState.THROTTLED, shared.paused_until
        return CarrierOverview(
            name=carrier.name,
            kind=carrier.kind,
            definition=getattr(carrier, "definition_name", ""),
            capability=carrier.capability,
            state=state,
            state_until=until,
            sender=carrier.sender,
            limit_segments_per_second=rate,
            current_segments_per_second=rate * factor if rate else None,
            sent_last_minute=went_well,
            failed_last_minute=failed,
            in_flight=self._in_flight[carrier.name],
            last_error=_link_error(carrier) or self._last_error(shared),
        )

    def _last_error(self, shared: CarrierCondition) -> CarrierError | None:
        told = [self._last_errors[shared.name]] if shared.name in self._last_errors else []
        if shared.error and shared.error_at:
            told.append(CarrierError(at=shared.error_at, code=shared.error.reason.code, message=shared.error_detail))
        return max(told, key=lambda error: error.at, default=None)


_UNBOUND: Final = Limits()
_NO_RULES: Final = CarrierRules()


def _link_error(carrier: Carrier) -> CarrierError | None:
    """Return what every message meets until the link is there, so that nobody has to send one to learn of it."""
    problem = carrier.link_problem if isinstance(carrier, KeepsLink) else None
    if problem is None:
        return None
    return CarrierError(
        at=problem.at, code=FailureReason.CARRIER_UNAVAILABLE.code, message=problem.detail[:MAX_DETAIL_LENGTH]
    )


def _is_open(shared: CarrierCondition) -> bool:
    return shared.breaker is Breaker.OPEN


def _is_ahead(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment > now


def _failure(result: SendResult) -> Failure | None:
    """Return what is wrong with the carrier; None when it does its work, which refusing a message is."""
    match result:
        case Taken() | Refused():
            return None
        case TryLater(failure=failure):
            return failure
        case Unknown():
            return Failure(reason=FailureReason.NO_ANSWER)


def _error(failure: Failure, detail: str, now: datetime) -> dict[str, Any]:
    return {"error": failure, "error_detail": detail[:MAX_DETAIL_LENGTH], "error_at": now}

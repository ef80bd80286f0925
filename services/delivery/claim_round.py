"""What may begin in one claim: which routes are open, and what becomes of each message. Pure, but for its counting."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from services.delivery.carriers.base import Capability, Carrier
from services.delivery.carriers.registry import Carriers
from services.delivery.domain import Attempt, Failure, FailureReason, Message, OnUnknown, Outcome, Status
from services.delivery.routing import Route, choose
from services.delivery.store import Begin, Decision, DueMessage, Finish, Leave, Postpone, Share

CLAIM_SIZE: Final = 100
LOOK_AGAIN_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the carriers can take now."""

    available: Collection[str]  # neither failing nor asking for quiet
    free: Mapping[str, int]  # how many more calls each may have
    health: Mapping[str, float]
    slots: Mapping[str, int]  # how many messages a limited carrier has slots for, at most; others are not in it


class _Way(NamedTuple):
    carrier: Carrier
    why: str
    others: bool = False  # another carrier may take it too
    fresh_others: bool = False  # and one of those now


class ClaimRound:
    """Decides for the messages of one claim."""

    def __init__(self, *, carriers: Carriers, room: Room, now: datetime, evidence: timedelta) -> None:
        self._carriers = carriers
        self._room = room
        self._free = dict(room.free)
        self._now = now
        self._evidence = evidence
        self._known: dict[str, _Way | None] = {}  # by route

    def shares(self, most: int) -> list[Share]:
        """Return how many messages to take from each route that is open, `most` in all."""
        wanted = {route.name: self._most(route) for route in self._carriers.routes}
        shares: list[Share] = []
        left = most
        for place, (name, limit) in enumerate(sorted(wanted.items(), key=lambda item: item[1])):
            # The small ones first, so that what they leave over is the others'.
            share = min(limit, left // (len(wanted) - place), CLAIM_SIZE)
            if share:
                shares.append(Share(route=name, limit=share))
                left -= share
        return shares

    def decide(self, due: DueMessage) -> Decision:
        """Return what to do with a message whose time has come."""
        message, doubtful = due.message, due.doubtful_attempt
        if self._now >= message.valid_until:
            return Finish(status=Status.EXPIRED, failure=message.failure or Failure(reason=FailureReason.EXPIRED))
        if doubtful:
            return self._after_unknown(message, doubtful, due.attempts)
        return self._anywhere(message, due.attempts)

    def _most(self, route: Route) -> int:
        available = [name for name in route.carriers if name in self._room.available]
        # A carrier that is busy is waited for; only one that can not take messages is passed over.
        names = available or [name for name in route.failover if name in self._room.available]
        return sum(min(self._free.get(name, 0), self._room.slots.get(name, CLAIM_SIZE)) for name in names)

    def _anywhere(self, message: Message, attempts: tuple[Attempt, ...]) -> Decision:
        route = self._carriers.route(message)
        straight = None if attempts else self._straight(route)
        if straight:
            return self._begin(message, route, straight)
        refused = {attempt.carrier for attempt in attempts if attempt.outcome is Outcome.REFUSED}
        failed = _failed_this_round(attempts, len([name for name in route.members if name not in refused]))
        health = {
            name: self._room.health.get(name, 1.0) if self._free.get(name, 0) > 0 else 0.0 for name in route.carriers
        }
        choice = choose(
            route,
            message_id=message.id,
            refused=refused,
            failed=failed,
            health=health,
            available=self._room.available,
        )
        if choice is None:
            return Finish(status=Status.FAILED, failure=message.failure)
        carrier = self._carriers.named(choice.carrier)
        if carrier is None or choice.carrier not in self._room.available:
            return Postpone(until=self._now + timedelta(seconds=LOOK_AGAIN_SECONDS))
        others = {name for name in route.members if name not in refused and name != choice.carrier}
        fresh = any(name in self._room.available for name in others - failed)
        return self._begin(message, route, _Way(carrier, choice.why, bool(others), fresh))

    def _straight(self, route: Route) -> _Way | None:
        """Return what `choose` says of every new message of a route that has one carrier, as long as it is well."""
        if route.name not in self._known:
            name, *others = route.members
            carrier = self._carriers.named(name)
            is_straight = len(route.carriers) == 1 and route.carriers[name] and name in self._room.available
            fresh = any(other in self._room.available for other in others)
            why = f"route {route.name}: first choice"
            self._known[route.name] = _Way(carrier, why, bool(others), fresh) if carrier and is_straight else None
        return self._known[route.name]

    def _after_unknown(self, message: Message, doubtful: Attempt, attempts: tuple[Attempt, ...]) -> Decision:
        # The carrier of that attempt may have the message, so only that one may get it again.
        previous = self._carriers.named(doubtful.carrier)
        capability = previous.capability if previous else Capability.BLIND
        if capability is Capability.RECONCILABLE:
            # An attempt that was cut off can be asked about only now that its process is back, however long that took.
            is_open = doubtful.outcome is Outcome.STARTED
            ended_at = self._now if is_open else doubtful.finished_at or doubtful.started_at
            evidence_until = ended_at + self._evidence
            if self._now < evidence_until:
                return Postpone(until=evidence_until)
        if message.on_unknown is OnUnknown.HOLD and capability is not Capability.IDEMPOTENT:
            return Finish(status=Status.UNKNOWN, failure=Failure(reason=FailureReason.NO_ANSWER))
        if previous is None:
            # It is gone from the configuration, and the policy is to send: another one gets it.
            since = attempts[attempts.index(doubtful) + 1 :]
            decision = self._anywhere(message, since)
            return replace(decision, doubles=doubtful.number) if isinstance(decision, Begin) else decision
        if previous.name not in self._room.available:
            return Postpone(until=self._now + timedelta(seconds=LOOK_AGAIN_SECONDS))
        route = self._carriers.route(message)
        why = f"again, because the outcome of attempt {doubtful.number} is not known"
        doubles = 0 if capability is Capability.IDEMPOTENT else doubtful.number
        return self._begin(message, route, _Way(previous, why), doubles=doubles)

    def _begin(self, message: Message, route: Route, way: _Way, *, doubles: int = 0) -> Decision:
        name = way.carrier.name
        if self._free.get(name, 0) <= 0:
            return Leave()
        self._free[name] -= 1
        return Begin(
            carrier=name,
            sender=self._carriers.sender(message, route, way.carrier),
            why=way.why,
            doubles=doubles,
            others=way.others,
            fresh_others=way.fresh_others,
        )


def _failed_this_round(attempts: tuple[Attempt, ...], carriers: int) -> frozenset[str]:
    """Return the carriers that could not take the message since all of them were last tried, one after the other."""
    failed: set[str] = set()
    for attempt in attempts:
        if attempt.outcome is not Outcome.TRY_LATER:
            failed.clear()
            continue
        failed.add(attempt.carrier)
        if len(failed) >= carriers:
            failed.clear()
    return frozenset(failed)

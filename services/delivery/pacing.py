"""How fast messages may go to a carrier: slots on a line of time, counted in segments, as a pure rule.

A limit is a line of slots, one for each segment, an even distance apart. Whoever claims messages reserves the next free
slots for them, a moment ahead at most, and the messages go when their slots come. The line lives in the database, so
that all processes together keep to one limit. It is the generic cell rate algorithm (ITU-T I.371) with reservations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

MICROSECONDS: Final = 1_000_000
# How far ahead slots are reserved: long enough that a claim pays, short enough that a crash wastes little.
HORIZON_US: Final = 250_000
# No slot comes before the claim that reserves it is on disk.
LEAD_US: Final = 30_000
# Whoever comes later than this finds another slot, so that a process that stood still does not send all at once.
LATE_US: Final = 50_000


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A rate in segments a second, and how many segments may go at once after a quiet time."""

    segments_per_second: float
    burst: int = 0

    @property
    def interval_us(self) -> float:
        """The distance of two slots, in microseconds."""
        return MICROSECONDS / self.segments_per_second


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What binds messages to one carrier: as a whole, and for each number or name that they are sent from."""

    carrier: Limit | None = None
    sender: Limit | None = None


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How far a line is used up, in microseconds since 1970.

    `next_us` is the first free slot. `planned_us` is until when messages have been put off, one behind the other.
    """

    next_us: int = 0
    planned_us: int = 0


def slot(pace: Pace, limit: Limit, now_us: int) -> int:
    """Return when the next message may go: now, or a time to come."""
    return max(now_us, round(pace.next_us - limit.burst * limit.interval_us))


def taken(pace: Pace, limit: Limit, segments: int, now_us: int) -> Pace:
    """Return the line after a message has taken its slots."""
    return replace(pace, next_us=max(pace.next_us, now_us) + round(segments * limit.interval_us))


def put_off(pace: Pace, limit: Limit, segments: int, now_us: int) -> tuple[int, Pace]:
    """Return until when to put off a message that finds no slot soon, and the line after that."""
    until = max(pace.planned_us, slot(pace, limit, now_us))
    return until, replace(pace, planned_us=until + round(segments * limit.interval_us))


class Line(NamedTuple):
    """Which line of slots: a carrier's as a whole, or that of one sender at a carrier."""

    carrier: str
    sender: str  # empty for the carrier as a whole


class Wish(NamedTuple):
    """A message that is to begin."""

    message_id: str
    carrier: str
    sender: str
    segments: int


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What came of wishes: when each message goes, or until when it is put off; the others keep their turn."""

    go_at_us: Mapping[str, int]
    put_off_until_us: Mapping[str, int]
    full_until_us: Mapping[str, int]  # carriers without a slot within the horizon, and when they have one
    lines: Mapping[Line, Pace]  # as they are afterwards


def lines_of(wishes: Sequence[Wish], limits: Mapping[str, Limits]) -> set[Line]:
    """Return the lines on which slots must be found."""
    lines = set()
    for wish in wishes:
        bound = limits.get(wish.carrier, _UNBOUND)
        if bound.carrier:
            lines.add(Line(wish.carrier, ""))
        if bound.sender and wish.sender:
            lines.add(Line(wish.carrier, wish.sender))
    return lines


def find_slots(wishes: Sequence[Wish], limits: Mapping[str, Limits], lines: Mapping[Line, Pace], now_us: int) -> Slots:
    """Find a slot for each message in turn, within the horizon."""
    after, go_at, put_off_until, full_until = dict(lines), {}, {}, {}
    first, horizon = now_us + LEAD_US, now_us + LEAD_US + HORIZON_US
    for wish in wishes:
        bound = limits.get(wish.carrier, _UNBOUND)
        whole, own = Line(wish.carrier, ""), Line(wish.carrier, wish.sender)
        if wish.carrier in full_until:
            continue
        at = slot(after[whole], bound.carrier, first) if bound.carrier else now_us
        if at > horizon:
            full_until[wish.carrier] = at
            continue
        if bound.sender and wish.sender:
            of_sender = slot(after[own], bound.sender, first)
            if of_sender > horizon:
                put_off_until[wish.message_id], after[own] = put_off(after[own], bound.sender, wish.segments, first)
                continue
            at = max(at, of_sender)
            after[own] = taken(after[own], bound.sender, wish.segments, first)
        if bound.carrier:
            after[whole] = taken(after[whole], bound.carrier, wish.segments, first)
        go_at[wish.message_id] = at
    return Slots(go_at_us=go_at, put_off_until_us=put_off_until, full_until_us=full_until, lines=after)


def next_slots(
    wishes: Sequence[Wish], limits: Mapping[str, Limits], lines: Mapping[Line, Pace], now_us: int
) -> tuple[list[int], Mapping[Line, Pace]]:
    """Return the next slot of each carrier for each message, however far away, and the lines afterwards."""
    after, found = dict(lines), []
    for wish in wishes:
        limit, line = limits.get(wish.carrier, _UNBOUND).carrier, Line(wish.carrier, "")
        if limit is None:
            found.append(now_us)
            continue
        found.append(slot(after[line], limit, now_us + LEAD_US))
        after[line] = taken(after[line], limit, wish.segments, now_us + LEAD_US)
    return found, after


_UNBOUND: Final = Limits()

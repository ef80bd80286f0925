"""Which due message goes first: start-time fair queueing, as a pure rule over numbers called ranks.

Each integration's messages of one priority form a lane. A lane that already waits gets ranks behind its own last one; a
lane that comes new starts at the front. So lanes take turns however long each is, and one with 100,000 messages delays
another's ten by ten. Ranks are virtual time: they follow what is sent, not the clock, and live in the due-queue itself,
so that every process orders alike. After Goyal, Vin and Cheng, "Start-time Fair Queuing" (1996).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.delivery.domain import Priority

LEVEL: Final[Mapping[Priority, int]] = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}

# A lane's turn comes after so many ranks: of two lanes that both wait, high gets eight turns for one of normal.
_COST: Final = (1, 8, 64)
# How far before the front a new lane of high priority starts. It is bounded, so that nothing starves.
_HEAD_START: Final = (1024, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Messages that wait in one line: of one integration (or of the API, for one tenant) and one priority."""

    name: str
    level: int


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What ranks depend on: the front of the queue, and the last rank of each lane that has some."""

    front: int
    last: Mapping[str, int]
    is_empty: bool = False  # nothing in it is ready


def lane_of(owner: str, priority: Priority) -> Lane:
    """Return the lane of a message; the owner is its integration's id, or its tenant's."""
    return Lane(name=f"{owner}/{priority}", level=LEVEL[priority])


def ranks(lanes: Sequence[Lane], queue: Queue) -> list[int]:
    """Return a rank for each new entry, in the order given: the first of a lane goes before its second."""
    last = dict(queue.last)
    assigned = []
    for lane in lanes:
        behind = last.get(lane.name)
        start = queue.front - _HEAD_START[lane.level] if behind is None else behind
        last[lane.name] = start + _COST[lane.level]
        assigned.append(last[lane.name])
    return assigned


def front(lowest: Sequence[int | None]) -> int:
    """Return the front of the queue from the lowest rank of each level, None where a level has none.

    High priority does not move the front, or each new lane of it would start before the one that came before.
    """
    high, normal, low = lowest
    if normal is not None:
        return normal
    if low is not None:
        return low
    return 0 if high is None else high + _HEAD_START[0]

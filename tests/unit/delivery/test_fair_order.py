"""The rule by which lanes take turns."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.delivery.domain import Priority
from services.delivery.fair_order import Queue, front, lane_of, ranks

EMPTY = Queue(front=0, last={})


def lanes(*names: str, priority: Priority = Priority.NORMAL):
    return [lane_of(name, priority) for name in names]


def test_interleaves_lanes_that_come_together():
    assigned = ranks(lanes("a", "a", "a", "b", "b"), EMPTY)

    order = [name for _, name in sorted(zip(assigned, "aaabb", strict=True))]
    assert order == ["a", "b", "a", "b", "a"]


def test_starts_a_new_lane_at_the_front_and_a_known_one_behind_its_last():
    queue = Queue(front=800, last={"flood/normal": 80_000})

    flood, new = ranks(lanes("flood", "new"), queue)

    assert 800 < new < 820
    assert flood > 80_000


def test_gives_each_priority_its_share():
    mixed = [lane_of("x", priority) for priority in Priority for _ in range(64)]

    assigned = dict(zip(range(len(mixed)), ranks(mixed, EMPTY), strict=True))

    first_hundred = sorted(assigned, key=assigned.__getitem__)[:75]
    counts = {p: sum(mixed[i].name == f"x/{p}" for i in first_hundred) for p in Priority}
    assert counts[Priority.HIGH] == 64
    assert counts[Priority.NORMAL] > counts[Priority.LOW] * 4


def test_does_not_let_high_priority_pull_the_front_forward():
    assert front([-1000, 80, None]) == 80
    assert front([-1000, None, 640]) == 640
    assert front([None, None, None]) == 0
    (again,) = ranks(lanes("urgent", priority=Priority.HIGH), Queue(front=front([-1023, None, None]), last={}))
    assert again == -1022


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=60), st.integers(0, 10**9))
def test_never_delays_a_lane_by_more_than_one_turn_of_each_other(names, start):
    assigned = ranks(lanes(*names), Queue(front=start, last={}))

    order = [name for _, _, name in sorted(zip(assigned, range(len(names)), names, strict=True))]
    for lane in set(names):
        positions = [index for index, name in enumerate(order) if name == lane]
        for earlier, later in pairwise(positions):
            between = order[earlier + 1 : later]
            assert all(between.count(other) <= 2 for other in set(between))

"""Slots on a line of time: how fast messages may go."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from services.delivery.pacing import (
    HORIZON_US,
    LEAD_US,
    MICROSECONDS,
    Limit,
    Limits,
    Line,
    Pace,
    Wish,
    find_slots,
    lines_of,
    next_slots,
)

NOW = 1_781_274_720 * MICROSECONDS
FIRST = NOW + LEAD_US


def wish(number: int, *, carrier: str = "main", sender: str = "", segments: int = 1) -> Wish:
    return Wish(f"msg_{number}", carrier, sender, segments)


def test_spaces_messages_evenly_and_leaves_those_beyond_the_horizon_where_they_are():
    limits = {"main": Limits(carrier=Limit(segments_per_second=50))}

    slots = find_slots([wish(n) for n in range(100)], limits, {Line("main", ""): Pace()}, NOW)

    gone = list(slots.go_at_us.values())
    assert gone == [FIRST + n * 20_000 for n in range(13)]
    assert slots.full_until_us == {"main": FIRST + 13 * 20_000}
    assert slots.lines[Line("main", "")].next_us == FIRST + 13 * 20_000
    assert slots.put_off_until_us == {}


def test_counts_segments_and_not_messages():
    limits = {"main": Limits(carrier=Limit(segments_per_second=50))}

    slots = find_slots([wish(1, segments=5), wish(2)], limits, {Line("main", ""): Pace()}, NOW)

    assert [at - FIRST for at in slots.go_at_us.values()] == [0, 100_000]


def test_lets_a_burst_go_at_once_after_a_quiet_time_and_then_keeps_the_pace():
    limits = {"main": Limits(carrier=Limit(segments_per_second=10, burst=3))}

    slots = find_slots([wish(n) for n in range(10)], limits, {Line("main", ""): Pace()}, NOW)

    assert [at - FIRST for at in slots.go_at_us.values()] == [0, 0, 0, 0, 100_000, 200_000]


def test_binds_only_the_carriers_that_have_a_limit():
    limits = {"main": Limits(carrier=Limit(segments_per_second=1))}
    wishes = [wish(1), wish(2, carrier="other"), wish(3), wish(4, carrier="other")]

    slots = find_slots(wishes, limits, {Line("main", ""): Pace()}, NOW)

    assert set(slots.go_at_us) == {"msg_1", "msg_2", "msg_4"}
    assert lines_of(wishes, limits) == {Line("main", "")}


def test_puts_messages_of_a_busy_sender_off_one_behind_the_other_and_lets_others_pass():
    limits = {"main": Limits(sender=Limit(segments_per_second=1))}
    lines = {Line("main", "ACME"): Pace(), Line("main", "SHOP"): Pace()}
    wishes = [*(wish(n, sender="ACME") for n in range(4)), wish(9, sender="SHOP")]

    slots = find_slots(wishes, limits, lines, NOW)

    assert set(slots.go_at_us) == {"msg_0", "msg_9"}
    assert list(slots.put_off_until_us.values()) == [FIRST + n * MICROSECONDS for n in (1, 2, 3)]
    assert slots.full_until_us == {}


@pytest.mark.parametrize("seed", range(20))
def test_never_gives_more_slots_in_a_second_than_the_limit_whoever_asks_and_when(seed):
    chance = random.Random(seed)
    rate, burst = chance.choice([5, 50, 400]), chance.choice([0, 1, 10])
    limits = {"main": Limits(carrier=Limit(segments_per_second=rate, burst=burst))}
    lines, now, gone = {Line("main", ""): Pace()}, NOW, []
    for _ in range(200):
        now += chance.randrange(0, 200_000)
        wishes = [wish(n, segments=chance.randint(1, 4)) for n in range(chance.randint(0, 40))]
        slots = find_slots(wishes, limits, lines, now)
        lines = slots.lines
        gone += [
            (slots.go_at_us[each.message_id], each.segments) for each in wishes if each.message_id in slots.go_at_us
        ]

    gone.sort()
    for start, _ in gone:
        within = sum(segments for at, segments in gone if start <= at < start + MICROSECONDS)
        assert within <= rate + burst + 4  # a message that begins within the second is counted whole
    assert all(later[0] - earlier[0] >= 0 for earlier, later in pairwise(gone))


def test_gives_a_slot_a_moment_ahead_at_most():
    limits = {"main": Limits(carrier=Limit(segments_per_second=1000))}

    slots = find_slots([wish(n) for n in range(1000)], limits, {Line("main", ""): Pace()}, NOW)

    assert max(slots.go_at_us.values()) <= FIRST + HORIZON_US


def test_gives_those_that_missed_their_slot_the_next_ones_however_far_away():
    limits = {"main": Limits(carrier=Limit(segments_per_second=10))}
    busy = {Line("main", ""): Pace(next_us=NOW + 5 * MICROSECONDS)}

    found, after = next_slots([wish(1, segments=2), wish(2), wish(3, carrier="free")], limits, busy, NOW)

    assert found == [NOW + 5 * MICROSECONDS, NOW + 5_200_000, NOW]
    assert after[Line("main", "")].next_us == NOW + 5_300_000

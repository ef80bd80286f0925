"""The window of unanswered submits."""

import asyncio

import pytest

from services.delivery.carriers.smpp.window import NotSubmittedError, Window


async def test_lets_in_as_many_as_it_is_wide_and_the_next_in_turn():
    window = Window(2)
    order: list[int] = []

    async def enter(number: int) -> None:
        await window.enter(10.0)
        order.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(4)]
    await asyncio.sleep(0)
    first = list(order)
    window.leave()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert first == [0, 1]
    assert order == [0, 1, 2]
    tasks[3].cancel()


async def test_halves_once_for_all_that_were_throttled_together():
    window = Window(16)
    entries = [await window.enter(10.0) for _ in range(16)]

    for entry in entries:
        window.throttled(entry)
        window.leave()

    assert window.allowed == 8
    window.throttled(await window.enter(10.0))
    assert window.allowed == 4


async def test_never_closes_and_grows_back_to_its_size_and_no_further():
    window = Window(4)
    for _ in range(10):
        window.throttled(await window.enter(10.0))
        window.leave()
    assert window.allowed == 1

    for _ in range(100):
        window.answered()

    assert window.allowed == 4


async def test_turns_away_who_waited_for_too_long_and_keeps_the_others():
    window = Window(1)
    await window.enter(10.0)
    early, late = asyncio.create_task(window.enter(1.0)), asyncio.create_task(window.enter(5.0))
    await asyncio.sleep(0)

    window.expire(1.0)
    window.leave()

    with pytest.raises(NotSubmittedError):
        await early
    assert await late == 2


@pytest.mark.parametrize("place_was_given", [False, True])
async def test_a_place_is_not_lost_when_its_taker_gives_up(place_was_given):
    window = Window(1)
    await window.enter(10.0)
    waiting = asyncio.create_task(window.enter(10.0))
    await asyncio.sleep(0)

    if place_was_given:
        window.leave()
        waiting.cancel()
    else:
        waiting.cancel()
        await asyncio.sleep(0)
        window.leave()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert window.used == 0

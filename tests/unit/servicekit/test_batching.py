"""Natural batching: what shares a batch, in which order, and who hears of a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from servicekit import calls, logs
from servicekit.batching import Batcher
from servicekit.errors import UnavailableError


class SlowHandler:
    """Answers every item with its double, once it may; remembers the batches and how many ran at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_answer = asyncio.Event()
        self.failure: BaseException | None = None
        self.running = 0
        self.most_running = 0

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.may_answer.wait()
            if self.failure:
                raise self.failure
            return [item * 2 for item in items]
        finally:
            self.running -= 1


@pytest.fixture
async def handler() -> SlowHandler:
    return SlowHandler()


async def settle() -> None:
    """Let every task that can go on do so; nothing here waits for time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def submitted(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await settle()
    return tasks


async def test_handles_a_lone_item_at_once(handler):
    batcher = Batcher(handler, max_size=10)
    handler.may_answer.set()

    assert await batcher.submit(21) == 42
    assert handler.batches == [[21]]


async def test_sends_what_arrives_during_a_batch_together_with_the_next(handler):
    batcher = Batcher(handler, max_size=10)
    first = await submitted(batcher, 1)

    later = await submitted(batcher, 2, 3, 4)
    handler.may_answer.set()
    results = await asyncio.gather(*first, *later)

    assert handler.batches == [[1], [2, 3, 4]]
    assert results == [2, 4, 6, 8]


async def test_keeps_the_order_of_submission_and_the_size_limit(handler):
    batcher = Batcher(handler, max_size=3)
    first = await submitted(batcher, 0)

    later = await submitted(batcher, *range(1, 8))
    handler.may_answer.set()
    results = await asyncio.gather(*first, *later)

    assert handler.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
    assert results == [number * 2 for number in range(8)]


@pytest.mark.parametrize("concurrency", [1, 2, 4])
async def test_runs_no_more_handlers_at_once_than_it_may(handler, concurrency):
    batcher = Batcher(handler, max_size=1, concurrency=concurrency)
    tasks = await submitted(batcher, *range(6))

    assert handler.running == concurrency
    handler.may_answer.set()
    await asyncio.gather(*tasks)

    assert handler.most_running == concurrency
    assert len(handler.batches) == 6


async def test_tells_how_many_items_wait(handler):
    batcher = Batcher(handler, max_size=10)
    tasks = await submitted(batcher, 1, 2, 3)
    waiting = batcher.depth

    tasks += await submitted(batcher, 4)

    assert batcher.depth == waiting + 1
    handler.may_answer.set()
    await asyncio.gather(*tasks)
    assert batcher.depth == 0


async def test_gives_a_failure_to_every_caller_of_its_batch_and_to_no_other(handler):
    batcher = Batcher(handler, max_size=2)
    first = await submitted(batcher, 0)
    failing = await submitted(batcher, 1, 2)
    handler.failure = ValueError("the disk is full")
    handler.may_answer.set()
    answers = await asyncio.gather(*first, *failing, return_exceptions=True)

    handler.failure = None
    after = await batcher.submit(3)

    assert [str(answer) for answer in answers] == ["the disk is full"] * 3
    assert after == 6


async def test_a_cancelled_caller_takes_its_waiting_item_back(handler):
    batcher = Batcher(handler, max_size=10)
    first, second, third = (await submitted(batcher, 1)) + (await submitted(batcher, 2, 3))

    second.cancel()
    handler.may_answer.set()
    results = await asyncio.gather(first, third)

    assert handler.batches == [[1], [3]]
    assert results == [2, 6]


async def test_goes_on_when_every_waiting_item_was_taken_back(handler):
    batcher = Batcher(handler, max_size=10)
    first, *others = (await submitted(batcher, 1)) + (await submitted(batcher, 2, 3))
    for task in others:
        task.cancel()
    handler.may_answer.set()
    await first
    await batcher.drain()

    assert await batcher.submit(4) == 8
    assert handler.batches == [[1], [4]]


async def test_a_caller_cancelled_during_its_batch_leaves_the_others_theirs(handler):
    batcher = Batcher(handler, max_size=10)
    first = await submitted(batcher, 1)
    second, third = await submitted(batcher, 2, 3)
    handler.may_answer.set()
    await first[0]

    second.cancel()

    assert await third == 6
    assert 3 in handler.batches[-1]


async def test_drains_what_was_submitted(handler):
    batcher = Batcher(handler, max_size=1)
    tasks = await submitted(batcher, 1, 2, 3)
    draining = asyncio.create_task(batcher.drain())
    await settle()

    assert not draining.done()
    handler.may_answer.set()
    await draining

    assert all(task.done() for task in tasks)
    assert len(handler.batches) == 3


async def test_drains_at_once_when_nothing_was_submitted(handler):
    await asyncio.wait_for(Batcher(handler, max_size=1).drain(), timeout=1)


async def test_does_not_lend_a_callers_request_id_to_its_batch():
    seen = []

    async def look(items: Sequence[int]) -> Sequence[int]:
        seen.append((calls.request_id(), logs.bound().get("request_id")))
        return items

    async def serve() -> str:
        calls.bind(SimpleNamespace(invocation_metadata=lambda: (("x-request-id", "req-1"),)))
        await batcher.submit(1)
        return calls.request_id()

    batcher = Batcher(look, max_size=10)

    kept = await asyncio.create_task(serve())

    assert seen == [("", None)]
    assert kept == "req-1"


@pytest.mark.parametrize("surplus", [-1, 1])
async def test_fails_every_caller_when_a_handler_returns_too_few_or_too_many_results(surplus):
    async def miscount(items: Sequence[int]) -> Sequence[int]:
        return range(len(items) + surplus)

    batcher = Batcher(miscount, max_size=10)
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(3)]

    async with asyncio.timeout(5):
        answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(answer) for answer in answers] == [RuntimeError] * 3


async def test_an_outage_is_told_to_those_who_wait_behind_it_too_and_to_nobody_later(handler):
    batcher = Batcher(handler, max_size=1)
    tasks = await submitted(batcher, 1, 2, 3)
    handler.failure = UnavailableError("down")
    handler.may_answer.set()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(answer) for answer in answers] == [UnavailableError] * 3
    assert handler.batches == [[1]]
    handler.failure = None
    assert await batcher.submit(4) == 8


async def test_batches_keep_their_distance_so_that_a_crowd_goes_together(handler):
    handler.may_answer.set()
    batcher = Batcher(handler, max_size=10, concurrency=5, spacing_seconds=0.05)

    first = await submitted(batcher, 1)
    crowd = [task for item in (2, 3, 4) for task in await submitted(batcher, item)]
    began_at_once = list(handler.batches)

    assert await asyncio.gather(*first, *crowd) == [2, 4, 6, 8]
    assert began_at_once == [[1]]
    assert handler.batches == [[1], [2, 3, 4]]


async def test_what_comes_meanwhile_gathers_behind_a_handler_that_is_not_slow(handler):
    batcher = Batcher(handler, max_size=10, concurrency=5, overlap_seconds=60)
    first = await submitted(batcher, 1)

    crowd = await submitted(batcher, 2, 3, 4)
    began_beside_it = list(handler.batches)
    handler.may_answer.set()

    assert await asyncio.gather(*first, *crowd) == [2, 4, 6, 8]
    assert began_beside_it == [[1]]
    assert handler.batches == [[1], [2, 3, 4]]


async def test_a_slow_handler_does_not_hold_up_what_comes_meanwhile(handler):
    batcher = Batcher(handler, max_size=10, concurrency=2, overlap_seconds=0.02)
    slow = await submitted(batcher, 1)

    meanwhile = await submitted(batcher, 2, 3)
    while len(handler.batches) < 2:
        await asyncio.sleep(0.005)
    handler.may_answer.set()

    assert await asyncio.gather(*slow, *meanwhile) == [2, 4, 6]
    assert handler.batches == [[1], [2, 3]]


async def test_behind_a_batch_that_took_long_a_larger_one_gathers(handler):
    batcher = Batcher(handler, max_size=10, concurrency=5, overlap_seconds=60, stretch=10)
    first = await submitted(batcher, 1)
    await asyncio.sleep(0.05)
    handler.may_answer.set()
    await asyncio.gather(*first)

    crowd = [task for item in (2, 3, 4) for task in await submitted(batcher, item)]
    began_at_once = list(handler.batches)

    assert await asyncio.gather(*crowd) == [4, 6, 8]
    assert began_at_once == [[1]]
    assert handler.batches == [[1], [2, 3, 4]]


async def test_nothing_waits_behind_a_long_batch_for_longer_than_beside_it(handler):
    batcher = Batcher(handler, max_size=10, overlap_seconds=0.01, stretch=1_000_000)
    first = await submitted(batcher, 1)
    await asyncio.sleep(0.05)
    handler.may_answer.set()
    await asyncio.gather(*first)

    assert await asyncio.wait_for(batcher.submit(2), 10) == 4


async def test_a_batch_is_full_when_its_items_weigh_enough(handler):
    batcher: Batcher[int, int] = Batcher(handler, max_size=10, weigh=lambda item: item)
    running = await submitted(batcher, 1)

    waiting = await submitted(batcher, 4, 6, 1, 30, 2)
    handler.may_answer.set()
    await asyncio.gather(*running, *waiting)

    assert handler.batches == [[1], [4, 6], [1], [30], [2]]

"""Remembered answers: how long they serve, what is never remembered, and what is forgotten."""

from __future__ import annotations

import pytest

from servicekit.errors import NotFoundError, UnavailableError
from servicekit.fresh_cache import FreshCache


class Source:
    """Answers each key with how often it was asked, or fails as told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failure: Exception | None = None

    async def __call__(self, key: str) -> str:
        self.asked.append(key)
        if self.failure:
            raise self.failure
        return f"{key}{self.asked.count(key)}"


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(source, clock) -> FreshCache[str, str]:
    return FreshCache(source, clock=clock, fresh_seconds=1.0, stale_seconds=60.0, max_size=2)


async def test_asks_once_while_an_answer_is_fresh(cache, source, clock):
    first = await cache.get("a")
    clock.advance(0.999)

    assert await cache.get("a") == first
    assert source.asked == ["a"]


async def test_asks_again_when_an_answer_is_no_longer_fresh(cache, clock):
    await cache.get("a")
    clock.advance(1.0)

    assert await cache.get("a") == "a2"


async def test_serves_the_old_answer_while_the_source_is_unavailable(cache, source, clock):
    await cache.get("a")
    source.failure = UnavailableError("down")
    clock.advance(59.9)

    assert await cache.get("a") == "a1"
    assert source.asked == ["a", "a"]


async def test_asks_every_time_while_it_serves_the_old_answer(cache, source, clock):
    await cache.get("a")
    source.failure = UnavailableError("down")
    clock.advance(5)
    await cache.get("a")
    source.failure = None

    assert await cache.get("a") == "a3"


async def test_gives_up_an_old_answer_at_its_expiry(cache, source, clock):
    await cache.get("a")
    source.failure = UnavailableError("down")
    clock.advance(60)

    with pytest.raises(UnavailableError):
        await cache.get("a")


async def test_an_outage_does_not_make_an_answer_younger(cache, source, clock):
    await cache.get("a")
    source.failure = UnavailableError("down")
    clock.advance(40)
    await cache.get("a")
    clock.advance(20)

    with pytest.raises(UnavailableError):
        await cache.get("a")


async def test_tells_without_asking_what_it_remembers_and_no_more_than_is_wanted(cache, source, clock):
    assert cache.known("a") is None
    await cache.get("a")
    clock.advance(5)

    assert cache.known("a") == "a1"
    assert cache.known("a", younger_than_seconds=5.1) == "a1"
    assert cache.known("a", younger_than_seconds=5.0) is None
    clock.advance(55)
    assert cache.known("a") is None
    assert cache.known("a", younger_than_seconds=100) is None
    assert source.asked == ["a"]


@pytest.mark.parametrize("failure", [UnavailableError("down"), NotFoundError(), RuntimeError("bug")])
async def test_never_remembers_a_failure(cache, source, failure):
    source.failure = failure
    with pytest.raises(type(failure)):
        await cache.get("a")
    source.failure = None

    assert await cache.get("a") == "a2"


@pytest.mark.parametrize("refusal", [NotFoundError(), RuntimeError("bug")])
async def test_forgets_an_answer_that_the_source_takes_back(cache, source, clock, refusal):
    await cache.get("a")
    clock.advance(1)
    source.failure = refusal
    with pytest.raises(type(refusal)):
        await cache.get("a")
    source.failure = UnavailableError("down")

    with pytest.raises(UnavailableError):
        await cache.get("a")


async def test_forgets_the_least_recently_used_answer(cache, source):
    await cache.get("a")
    await cache.get("b")
    await cache.get("a")
    await cache.get("c")

    assert await cache.get("a") == "a1"
    assert await cache.get("c") == "c1"
    assert await cache.get("b") == "b2"


async def test_remembers_no_more_than_it_may(cache, source):
    for number in range(100):
        await cache.get(str(number))

    assert list(cache._answers) == ["98", "99"]


async def test_remembers_answers_that_are_false_or_empty(source, clock):
    async def nothing(key: str) -> None:
        await source(key)

    cache: FreshCache[str, None] = FreshCache(nothing, clock=clock, fresh_seconds=1, stale_seconds=1)

    assert await cache.get("a") is None
    assert await cache.get("a") is None
    assert source.asked == ["a"]

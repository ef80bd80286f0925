"""How many given-up webhooks one call sends again, and when it stops."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.delivery.replay_webhooks import IN_COMMIT, Replayed, ReplayWebhooks


class Store:
    """Has so many that were given up; each step takes its time, and some are given up anew at once."""

    def __init__(self, clock, given_up: int, *, step_seconds: float = 0.0, fails_again: bool = False) -> None:
        self.clock = clock
        self.given_up = given_up
        self.steps: list[int] = []
        self._step_seconds = step_seconds
        self._fails_again = fails_again

    async def count_replayable(self, tenant_id, since):
        return self.given_up

    async def replay_since(self, tenant_id, since, now, limit):
        step = min(limit, self.given_up)
        self.steps.append(step)
        self.clock.advance(self._step_seconds)
        if not self._fails_again:
            self.given_up -= step
        return step


@pytest.fixture
def woken() -> list[bool]:
    return []


def replaying(store: Store, woken: list[bool]) -> ReplayWebhooks:
    return ReplayWebhooks(store=store, clock=store.clock, on_due=lambda: woken.append(True))


def an_hour_ago(clock):
    return clock.now() - timedelta(hours=1)


@pytest.mark.parametrize(
    ("given_up", "steps"), [(0, []), (3, [3]), (IN_COMMIT, [IN_COMMIT]), (1203, [IN_COMMIT, IN_COMMIT, 203])]
)
async def test_goes_on_in_small_steps_until_all_are_replayed(clock, woken, given_up, steps):
    store = Store(clock, given_up)

    replayed = await replaying(store, woken).replay("ten_1", an_hour_ago(clock))

    assert replayed == Replayed(count=given_up)
    assert store.steps == steps
    assert len(woken) == len(steps)


async def test_says_what_is_left_when_its_time_is_over(clock, woken):
    store = Store(clock, 5 * IN_COMMIT, step_seconds=1.5)

    replayed = await replaying(store, woken).replay("ten_1", an_hour_ago(clock))

    assert replayed == Replayed(count=2 * IN_COMMIT, remaining=3 * IN_COMMIT)


async def test_replays_nothing_twice_that_is_given_up_again_at_once(clock, woken):
    store = Store(clock, 700, fails_again=True)

    replayed = await replaying(store, woken).replay("ten_1", an_hour_ago(clock))

    assert (replayed, store.steps) == (Replayed(count=700), [IN_COMMIT, 200])


async def test_ends_when_somebody_else_has_replayed_the_rest(clock, woken):
    store = Store(clock, 700)
    replaying_it = replaying(store, woken)
    step = store.replay_since

    async def step_beside_another(*given):
        taken = await step(*given)
        store.given_up = 0
        return taken

    store.replay_since = step_beside_another

    assert await replaying_it.replay("ten_1", an_hour_ago(clock)) == Replayed(count=IN_COMMIT)


async def test_counting_replays_nothing(clock, woken):
    store = Store(clock, 7)

    assert await replaying(store, woken).count("ten_1", an_hour_ago(clock)) == 7
    assert (store.steps, woken) == ([], [])

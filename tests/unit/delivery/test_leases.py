"""By what time a process may claim that has leases of its own."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from servicekit.errors import UnavailableError
from services.delivery.leases import Leases

SECONDS = 30


class Store:
    """Where leases are written; each time waits for `may_go_on`."""

    def __init__(self):
        self.ends = []
        self.is_down = False
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def extend(self, until):
        await self.may_go_on.wait()
        if self.is_down:
            raise UnavailableError("down")
        self.ends.append(until)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def leases(clock, store):
    return Leases(clock=clock, seconds=SECONDS, extend=store.extend)


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_gives_the_time_at_once_while_nothing_has_ended(leases, clock, store):
    with leases.written(leases.end()):
        pass
    clock.advance(SECONDS - 1)

    assert await leases.now() == clock.now()
    assert store.ends == []


async def test_renews_first_what_has_ended_and_no_more_than_once(leases, clock, store):
    with leases.written(leases.end()):
        pass
    clock.advance(SECONDS)

    assert await leases.now() == await leases.now() == clock.now()

    assert store.ends == [clock.now() + timedelta(seconds=SECONDS)]


async def test_renews_again_what_ended_while_it_was_being_renewed(leases, clock, store):
    store.may_go_on.clear()
    clock.advance(SECONDS)
    asking = asyncio.create_task(leases.now())
    await turns()

    clock.advance(SECONDS)
    store.may_go_on.set()

    assert await asking == clock.now()
    assert store.ends[-1] == clock.now() + timedelta(seconds=SECONDS)


async def test_waits_for_a_renewal_that_is_on_its_way(leases, clock, store):
    store.may_go_on.clear()
    clock.advance(SECONDS)
    renewing = asyncio.create_task(leases.renew())
    await turns()
    asking = asyncio.create_task(leases.now())
    await turns()
    assert not asking.done()

    store.may_go_on.set()
    await renewing

    assert await asking == clock.now()
    assert len(store.ends) == 1


async def test_does_not_count_on_a_renewal_that_has_failed(leases, clock, store):
    store.is_down = True
    clock.advance(SECONDS)
    with pytest.raises(UnavailableError):
        await leases.renew()

    with pytest.raises(UnavailableError):
        await leases.now()

    store.is_down = False
    await leases.now()
    assert len(store.ends) == 1


async def test_remembers_what_was_written_during_a_renewal_that_did_not_know_of_it(leases, clock, store):
    early = leases.end()
    clock.advance(SECONDS - 1)
    store.may_go_on.clear()
    with leases.written(early):
        renewing = asyncio.create_task(leases.renew())
        await turns()
    store.may_go_on.set()
    await renewing

    clock.advance(1)
    await leases.now()

    assert len(store.ends) == 2

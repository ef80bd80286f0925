"""How changes reach watchers, and what happens to those that fall behind."""

from __future__ import annotations

import asyncio

import pytest

from servicekit.errors import IdempotencyMismatchError, NotFoundError, UnavailableError
from services.integrations.commit_changes import ChangeFeed
from services.integrations.domain import Change
from services.integrations.store import AnsweredBeforeError, Snapshot
from services.integrations.watch_integrations import WatchIntegrations
from services.integrations.watchers import ACKNOWLEDGE_SECONDS, EXACT_SECONDS, Broadcaster, Pong


@pytest.fixture
def broadcaster(clock):
    return Broadcaster(clock)


async def test_nobody_is_waited_for_when_nobody_watches(broadcaster):
    broadcaster.publish(1, "a")

    assert await broadcaster.acknowledged(1) == 0


async def test_a_watcher_gets_changes_in_the_order_of_publication(broadcaster):
    with broadcaster.watch() as watcher:
        for revision in (1, 2, 3):
            broadcaster.publish(revision, f"change {revision}")

        got = [await watcher.next_change() for _ in range(3)]

    assert got == [(1, "change 1"), (2, "change 2"), (3, "change 3")]


async def test_a_watcher_waits_for_the_next_change(broadcaster, settle):
    with broadcaster.watch() as watcher:
        waiting = asyncio.create_task(watcher.next_change())
        await settle()
        assert not waiting.done()

        broadcaster.publish(1, "a")

        assert await waiting == (1, "a")


async def test_the_author_waits_for_every_watcher(broadcaster, settle):
    with broadcaster.watch() as one, broadcaster.watch() as other:
        broadcaster.publish(5, "a")
        await one.next_change()
        await other.next_change()
        author = asyncio.create_task(broadcaster.acknowledged(5))

        one.acknowledge(5)
        await settle()
        assert not author.done()
        other.acknowledge(5)

        assert await author == 0


async def test_a_later_acknowledgement_counts_for_earlier_changes(broadcaster):
    with broadcaster.watch() as watcher:
        broadcaster.publish(1, "a")
        broadcaster.publish(2, "b")
        await watcher.next_change()
        await watcher.next_change()
        author = asyncio.create_task(broadcaster.acknowledged(1))

        watcher.acknowledge(2)

        assert await author == 0


async def test_an_earlier_acknowledgement_does_not_count_for_later_changes(broadcaster, settle, pass_time):
    with broadcaster.watch() as watcher:
        broadcaster.publish(1, "a")
        broadcaster.publish(2, "b")
        await watcher.next_change()
        await watcher.next_change()
        author = asyncio.create_task(broadcaster.acknowledged(2))

        watcher.acknowledge(1)
        await settle()

        assert not author.done()
        await pass_time(1)
        assert await author == 1


async def test_nobody_can_acknowledge_what_it_was_not_given(broadcaster, settle, pass_time):
    with broadcaster.watch() as watcher:
        watcher.acknowledge(1_000_000)
        broadcaster.publish(1, "a")
        author = asyncio.create_task(broadcaster.acknowledged(1))
        await settle()

        assert not author.done()
        await pass_time(1)
        assert await author == 1


async def test_a_laggard_is_cut_off_at_one_second_and_not_before(broadcaster, pass_time):
    with broadcaster.watch() as good, broadcaster.watch() as laggard:
        broadcaster.publish(1, "a")
        author = asyncio.create_task(broadcaster.acknowledged(1))
        await good.next_change()
        good.acknowledge(1)

        await pass_time(0.999)
        assert not author.done()
        laggard.require_live()
        await pass_time(0.001)

        assert await author == 1
        good.require_live()
        with pytest.raises(UnavailableError):
            await laggard.next_change()
        assert broadcaster.watcher_count == 1


async def test_a_watcher_that_leaves_is_no_longer_waited_for(broadcaster, settle):
    with broadcaster.watch():
        broadcaster.publish(1, "a")
        author = asyncio.create_task(broadcaster.acknowledged(1))
        await settle()
        assert not author.done()

    assert await author == 0


async def test_changes_before_the_snapshot_are_left_out_and_later_ones_are_not(broadcaster):
    with broadcaster.watch() as watcher:
        for revision in (4, 5, 6):
            broadcaster.publish(revision, f"change {revision}")
        watcher.begin_after(5)

        assert await watcher.next_change() == (6, "change 6")


async def test_acknowledging_the_snapshot_counts_for_the_changes_in_it(broadcaster):
    with broadcaster.watch() as watcher:
        broadcaster.publish(5, "a")
        author = asyncio.create_task(broadcaster.acknowledged(5))
        watcher.begin_after(5)
        watcher.acknowledge(5)

        assert await author == 0


async def test_a_ping_is_answered_after_every_change_that_came_before_it(broadcaster):
    with broadcaster.watch() as watcher:
        broadcaster.publish(1, "a")
        broadcaster.ping(watcher, 7)
        broadcaster.publish(2, "b")

        got = [await watcher.next_change() for _ in range(3)]

    assert got == [(1, "a"), Pong(number=7), (2, "b")]


async def test_no_ping_is_answered_when_changes_of_others_may_be_unknown(broadcaster, clock, pass_time):
    broadcaster.trust_until(clock.monotonic() + 0.5)
    with broadcaster.watch() as watcher:
        broadcaster.ping(watcher, 1)
        await pass_time(0.5)
        broadcaster.ping(watcher, 2)
        broadcaster.publish(1, "a")

        assert [await watcher.next_change() for _ in range(2)] == [Pong(number=1), (1, "a")]
        with broadcaster.watch() as late, pytest.raises(UnavailableError):
            await late.next_change()


async def test_the_author_waits_until_a_watcher_that_has_gone_believes_no_longer(broadcaster, pass_time):
    with broadcaster.watch() as watcher:
        broadcaster.ping(watcher, 1)
        await pass_time(0.2)
    broadcaster.publish(1, "a")
    author = asyncio.create_task(broadcaster.acknowledged(1))

    await pass_time(EXACT_SECONDS - 0.21)
    assert not author.done()
    await pass_time(0.02)

    assert await author == 0


async def test_what_a_laggard_was_promised_is_over_when_it_is_cut_off(broadcaster, pass_time):
    with broadcaster.watch() as laggard:
        broadcaster.ping(laggard, 1)
        broadcaster.publish(1, "a")
        author = asyncio.create_task(broadcaster.acknowledged(1))
        await pass_time(0.9)
        broadcaster.ping(laggard, 2)  # an answer to this one would come after the change
        await pass_time(0.1)

        assert await author == 1
    assert EXACT_SECONDS < ACKNOWLEDGE_SECONDS


async def test_nobody_can_watch_once_it_is_closed(broadcaster):
    with broadcaster.watch() as early:
        broadcaster.close()
        with broadcaster.watch() as late:
            for watcher in (early, late):
                with pytest.raises(UnavailableError):
                    await watcher.next_change()


class SlowRegistry:
    """A store whose snapshot is read while somebody else makes a change."""

    def __init__(self) -> None:
        self.reading = asyncio.Event()
        self.may_finish = asyncio.Event()

    async def snapshot(self, page_size):
        self.reading.set()
        await self.may_finish.wait()
        return Snapshot(revision=7, pages=iter(()))

    async def find_by_ingress_key(self, sha256):
        return None


async def silence():
    await asyncio.Event().wait()
    yield 0


@pytest.mark.parametrize(("revision", "is_in_snapshot"), [(7, True), (8, False)])
async def test_no_change_is_missed_that_is_committed_while_the_snapshot_is_read(
    broadcaster, clock, settle, revision, is_in_snapshot
):
    registry = SlowRegistry()
    updates = WatchIntegrations(store=registry, broadcaster=broadcaster, clock=clock).updates(silence())
    first = asyncio.create_task(anext(updates))
    await registry.reading.wait()

    broadcaster.publish(revision, Change(revision=revision, deleted_ids=("wkh_x",)))
    registry.may_finish.set()

    snapshot = await first
    assert (snapshot.revision, snapshot.snapshot_complete) == (7, True)
    following = asyncio.create_task(anext(updates))
    await settle()
    assert following.done() is not is_in_snapshot
    if not is_in_snapshot:
        assert following.result().deleted_ids == ("wkh_x",)
    following.cancel()
    await settle()
    await updates.aclose()
    assert broadcaster.watcher_count == 0


async def test_changes_are_told_in_the_order_of_their_commits(broadcaster, settle):
    feed = ChangeFeed(broadcaster)
    slow, revisions = asyncio.Event(), iter((1, 2))

    async def write_slowly():
        revision = next(revisions)
        await slow.wait()
        return Change(revision=revision)

    async def write():
        return Change(revision=next(revisions))

    with broadcaster.watch() as watcher:
        authors = [asyncio.create_task(feed.commit(write_slowly)), asyncio.create_task(feed.commit(write))]
        await settle()
        slow.set()
        got = [(await watcher.next_change())[0] for _ in range(2)]
        watcher.acknowledge(2)
        await asyncio.gather(*authors)

    assert got == [1, 2]


async def test_a_change_is_told_when_its_author_is_gone(broadcaster, settle):
    feed = ChangeFeed(broadcaster)
    committed = asyncio.Event()

    async def write():
        await committed.wait()
        return Change(revision=1)

    with broadcaster.watch() as watcher:
        author = asyncio.create_task(feed.commit(write))
        await settle()
        author.cancel()
        committed.set()

        assert (await watcher.next_change())[0] == 1
        watcher.acknowledge(1)
        await feed.drain()


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (NotFoundError(), True),
        (AnsweredBeforeError(b""), True),
        (IdempotencyMismatchError(), True),
        (UnavailableError("The database is gone."), False),
    ],
)
async def test_watchers_begin_again_when_the_outcome_of_a_write_is_unknown(broadcaster, error, stays):
    feed = ChangeFeed(broadcaster)

    async def write():
        raise error

    with broadcaster.watch():
        with pytest.raises(type(error)):
            await feed.commit(write)

        assert broadcaster.watcher_count == int(stays)


async def test_a_repeat_is_answered_when_what_the_first_call_did_is_in_force(broadcaster, settle):
    feed = ChangeFeed(broadcaster)

    async def first():
        return Change(revision=1)

    async def repeat():
        raise AnsweredBeforeError(b"the first answer")

    with broadcaster.watch() as watcher:
        authors = [asyncio.create_task(feed.commit(write)) for write in (first, repeat)]
        await settle()
        assert [author.done() for author in authors] == [False, False]

        await watcher.next_change()
        watcher.acknowledge(1)

        assert (await authors[0]).revision == 1
        with pytest.raises(AnsweredBeforeError):
            await authors[1]

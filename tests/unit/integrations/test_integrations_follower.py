"""How one process follows the changes of the others, and what it does when it can not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from servicekit.errors import UnavailableError
from services.integrations.domain import Change
from services.integrations.follow_changes import (
    IN_FORCE_SECONDS,
    RENEW_SECONDS,
    TRUSTED_SECONDS,
    Follower,
)
from services.integrations.other_nodes import LEASE_SECONDS, OtherNodes
from services.integrations.store import LeaseLostError, Node, View
from services.integrations.watchers import EXACT_SECONDS, Broadcaster


class FakeNodes:
    """The database that processes share, in memory."""

    def __init__(self):
        self.nodes = {}
        self.revision = 1
        self.changes = {}
        self.is_away = False
        self.heard = None

    def add(self, node_id, applied_revision=0):
        self.nodes[node_id] = Node(id=node_id, renewals=0, applied_revision=applied_revision)

    def commit(self):
        self.revision += 1
        self.changes[self.revision] = f"wkh_{self.revision}"

    async def join(self, node_id, *, instead_of=None):
        self._require()
        self.nodes.pop(instead_of, None)
        self.add(node_id)
        return await self.look()

    async def renew(self, node_id, applied_revision, *, is_news):
        self._require()
        if node_id not in self.nodes:
            raise LeaseLostError
        node = self.nodes[node_id]
        self.nodes[node_id] = replace(node, renewals=node.renewals + 1, applied_revision=applied_revision)
        return await self.look()

    async def look(self):
        self._require()
        return View(revision=self.revision, nodes=list(self.nodes.values()))

    async def remove(self, node):
        if self.nodes.get(node.id) == node:
            del self.nodes[node.id]

    async def leave(self, node_id):
        self.nodes.pop(node_id, None)

    async def changes_after(self, revision):
        missed = [self.changes.get(one) for one in range(revision + 1, self.revision + 1)]
        return None if None in missed else Change(revision=self.revision, deleted_ids=missed)

    async def listen(self, heard):
        self.heard = heard
        await asyncio.Event().wait()

    def _require(self):
        if self.is_away:
            raise UnavailableError("The database is away.")


@pytest.fixture
def nodes():
    return FakeNodes()


@pytest.fixture
def broadcaster(clock):
    return Broadcaster(clock)


@pytest.fixture
async def follower(nodes, broadcaster, clock, settle):
    follower = Follower(nodes=nodes, broadcaster=broadcaster, clock=clock)
    await follower.start()
    await settle()
    yield follower
    for task in follower._tasks:
        task.cancel()


async def test_own_and_others_changes_come_in_one_order(nodes, follower, broadcaster, settle):
    with broadcaster.watch() as watcher:
        nodes.commit()
        nodes.commit()
        nodes.heard("")
        await settle()
        nodes.commit()
        nodes.heard("")
        await settle()

        got = [await watcher.next_change() for _ in range(2)]

    assert [(revision, list(change.deleted_ids)) for revision, change in got] == [
        (3, ["wkh_2", "wkh_3"]),
        (4, ["wkh_4"]),
    ]


async def test_a_change_of_which_nothing_was_heard_is_found_by_the_next_look(nodes, follower, broadcaster, pass_time):
    with broadcaster.watch() as watcher:
        nodes.commit()
        await pass_time(RENEW_SECONDS)

        assert (await watcher.next_change())[0] == 2


async def test_an_author_waits_for_the_other_node(nodes, follower, settle, pass_time):
    nodes.add("other")
    nodes.commit()
    author = asyncio.create_task(follower.in_force(2))
    await pass_time(0.1)
    assert not author.done()

    await nodes.renew("other", 2, is_news=True)
    nodes.heard("other")
    await settle()

    assert author.done()


async def test_an_author_does_not_wait_for_a_node_whose_lease_is_over(nodes, follower, pass_time):
    nodes.add("other")
    nodes.commit()
    author = asyncio.create_task(follower.in_force(2))
    for _ in range(27):
        await pass_time(0.05)
    assert not author.done()

    for _ in range(4):
        await pass_time(0.05)

    assert author.done()
    assert list(nodes.nodes) == [follower._node_id]


async def test_an_author_is_told_when_it_can_not_be_known_in_time(nodes, follower, pass_time):
    nodes.add("other")
    nodes.commit()
    author = asyncio.create_task(follower.in_force(2))
    for _ in range(round(IN_FORCE_SECONDS / 0.25)):
        await pass_time(0.25)
        await nodes.renew("other", 1, is_news=False)  # it lives, and does not get on

    with pytest.raises(UnavailableError):
        await author


async def test_a_node_that_can_not_renew_promises_nothing_more_and_cuts_its_watchers_off_before_its_lease_is_over(
    nodes, follower, broadcaster, clock, pass_time
):
    with broadcaster.watch() as watcher:
        began = clock.monotonic()
        nodes.is_away = True
        while clock.monotonic() - began < TRUSTED_SECONDS + RENEW_SECONDS:
            await pass_time(0.05)

        assert TRUSTED_SECONDS + EXACT_SECONDS <= LEASE_SECONDS
        assert clock.monotonic() - began < LEASE_SECONDS
        with pytest.raises(UnavailableError):
            watcher.require_live()
        with broadcaster.watch() as late, pytest.raises(UnavailableError):
            late.require_live()

    nodes.is_away = False
    await pass_time(RENEW_SECONDS)
    await pass_time(RENEW_SECONDS)
    with broadcaster.watch() as again:
        again.require_live()


async def test_a_node_that_was_counted_out_cuts_its_watchers_off_and_comes_back_under_another_name(
    nodes, follower, broadcaster, pass_time
):
    before = follower._node_id
    with broadcaster.watch() as watcher:
        await nodes.leave(before)
        await pass_time(RENEW_SECONDS)

        with pytest.raises(UnavailableError):
            watcher.require_live()
    await pass_time(RENEW_SECONDS)
    await pass_time(RENEW_SECONDS)
    assert list(nodes.nodes) == [follower._node_id]
    assert follower._node_id != before


async def test_watchers_begin_again_when_a_change_can_not_be_told(nodes, follower, broadcaster, pass_time, settle):
    with broadcaster.watch() as watcher:
        nodes.revision += 1  # by a release that writes no log
        nodes.heard("")
        await settle()

        with pytest.raises(UnavailableError):
            watcher.require_live()
    author = asyncio.create_task(follower.in_force(2))
    for _ in range(4):
        await pass_time(RENEW_SECONDS)
    assert author.done()


async def test_a_lease_is_over_when_its_count_stands_still_on_the_clock_of_whoever_looks():
    others = OtherNodes()
    one, own = Node(id="one", renewals=5, applied_revision=1), Node(id="own", renewals=1, applied_revision=9)
    others.seen(View(revision=9, nodes=[one, own]), "own", now=100.0)
    others.seen(View(revision=9, nodes=[one, own]), "own", now=101.0)

    assert others.silent_at(100.0 + LEASE_SECONDS - 0.01) == []
    assert others.silent_at(100.0 + LEASE_SECONDS) == [one]
    assert others.applied_revisions() == [1]

    others.seen(View(revision=9, nodes=[replace(one, renewals=6), own]), "own", now=101.0)
    assert others.silent_at(101.0 + LEASE_SECONDS - 0.01) == []


async def test_a_process_that_starts_in_a_short_outage_joins_at_its_end(nodes, broadcaster, clock, pass_time):
    follower = Follower(nodes=nodes, broadcaster=broadcaster, clock=clock)
    nodes.is_away = True
    starting = asyncio.create_task(follower.start())
    await pass_time(RENEW_SECONDS)
    assert not starting.done()
    nodes.is_away = False
    await pass_time(RENEW_SECONDS)

    await starting
    assert list(nodes.nodes) == [follower._node_id]
    await follower.stop()
    assert not nodes.nodes

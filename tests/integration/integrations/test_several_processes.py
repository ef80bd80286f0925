"""A change is in force everywhere before its author hears, however many processes share the database."""

from __future__ import annotations

import asyncio
import contextlib
import random

import grpc
import pytest

from servicekit.errors import NotFoundError
from servicekit.settings import SettingsError
from services.integrations import maintenance
from services.integrations.domain import sha256
from services.integrations.other_nodes import LEASE_SECONDS
from tests.kit.nodes import nodes, start_node, until
from textway.integrations.v1.integrations_service_pb2 import (
    CreateIntegrationRequest,
    DeleteIntegrationRequest,
    ListIntegrationsRequest,
    RotateIngressKeyRequest,
    UpdateIntegrationRequest,
)
from textway.integrations.v1.keys_service_pb2 import ListTenantsRequest, SetTenantActiveRequest
from textway.integrations.v1.registry_service_pb2 import WatchIntegrationsRequest

ROUNDS = 17


@pytest.fixture
def settings(settings, postgres_database):
    database_url = type(settings.bootstrap_key)(postgres_database)
    return settings.model_copy(update={"integrations_database_url": database_url, "notice_seconds": 0})


@pytest.fixture
async def two(settings):
    async with nodes(settings) as started:
        yield started


async def create(node, owner, **fields):
    return await node.integrations.CreateIntegration(CreateIntegrationRequest(name="shop", **fields), metadata=owner)


class Seen:
    """What a copy holds when an author has the answer. One that does not take itself for exact may be behind."""

    def __init__(self, node):
        self._node = node
        self.exact = 0

    async def check(self, is_so, *arguments):
        if self._node.is_live:
            self.exact += 1
        else:  # a machine this busy; it catches up
            await self._node.until_live()
        assert is_so(self._node, *arguments)


def knows(node, *ids):
    return all(node.known(one) is not None for one in ids)


def has_tag(node, integration_id, tag):
    return node.known(integration_id).tag == tag


def is_active(node, integration_id):
    return node.known(integration_id).tenant_active


def answers_to(node, integration_id, ingress_key):
    return [key.sha256 for key in node.known(integration_id).ingress_keys][-1:] == [sha256(ingress_key)]


async def test_a_change_made_at_one_process_is_in_force_at_the_watchers_of_another_before_its_author_hears(two, owner):
    author, other = two
    seen = Seen(other)
    for number in range(ROUNDS):
        made = await create(author, owner)
        await seen.check(knows, made.id)
        change = UpdateIntegrationRequest(id=made.id, tag=f"tag{number}")
        await author.integrations.UpdateIntegration(change, metadata=owner)
        await seen.check(has_tag, made.id, f"tag{number}")
        rotation = RotateIngressKeyRequest(id=made.id, overlap_seconds=0)
        rotated = await author.integrations.RotateIngressKey(rotation, metadata=owner)
        await seen.check(answers_to, made.id, rotated.ingress_key)
        await author.keys.SetTenantActive(SetTenantActiveRequest(tenant="default", active=False))
        await seen.check(lambda node, one: not is_active(node, one), made.id)
        await author.keys.SetTenantActive(SetTenantActiveRequest(tenant="default", active=True))
        await seen.check(is_active, made.id)
        await author.integrations.DeleteIntegration(DeleteIntegrationRequest(id=made.id), metadata=owner)
        await seen.check(lambda node, one: not knows(node, one), made.id)

    assert seen.exact >= ROUNDS  # of six times as many


async def test_a_process_that_stands_still_holds_authors_back_for_its_lease_and_promises_nothing_more(two, owner):
    author, paused = two
    kept = await create(author, owner)
    await paused.until_live()
    paused.gate.shut()

    async with asyncio.timeout(5):
        made = await create(author, owner)

    # Not exact, and not wrong: it asks for what it does not know, and goes on with what it does.
    assert not paused.is_live
    assert paused.known(made.id) is None
    assert (await paused.replica.by_ingress_key(sha256(made.ingress_key))).id == made.id
    assert (await paused.replica.by_ingress_key(sha256(kept.ingress_key))).id == kept.id

    paused.gate.open()
    await until(lambda: paused.is_live and paused.known(made.id) is not None)


async def test_a_process_that_is_gone_is_waited_for_once(two, owner):
    author, dead = two
    await dead.replica.stop()
    for task in dead.service._follower._tasks:
        task.cancel()

    async with asyncio.timeout(5):
        await create(author, owner)

    view = await author.service._follower._nodes.look()
    assert [node.id for node in view.nodes] == [author.service._follower._node_id]


class Log:
    """A watcher that writes down the order in which it hears of changes."""

    def __init__(self, node, *, acknowledges=True):
        self.acknowledges = acknowledges
        self.node = node
        self.call = node.registry.WatchIntegrations()
        self.revisions = []
        self.configs = {}
        self.complete = asyncio.Event()

    async def keep(self):
        await self.follow()
        while self.acknowledges:  # a busy machine may cut it off, as it may any watcher, which then begins again
            self.call = self.node.registry.WatchIntegrations()
            self.revisions, self.configs = [], {}
            await self.follow()

    async def follow(self):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self.take_down()

    async def take_down(self):
        await self.call.write(WatchIntegrationsRequest())
        while (response := await self.call.read()) is not grpc.aio.EOF:
            for config in response.changed:
                # It never hears of a state that it has left behind.
                assert config.revision >= self.configs.get(config.id, config).revision
                self.configs[config.id] = config
            for deleted_id in response.deleted_ids:
                self.configs.pop(deleted_id, None)
            if response.revision:
                self.revisions.append(response.revision)
            if response.revision and self.acknowledges:
                await self.call.write(WatchIntegrationsRequest(applied_revision=response.revision))
            if response.snapshot_complete:
                self.complete.set()


@contextlib.asynccontextmanager
async def logged(node, *, acknowledges=True):
    log = Log(node, acknowledges=acknowledges)
    task = asyncio.create_task(log.keep())
    await asyncio.wait_for(log.complete.wait(), 10)
    try:
        yield log
    finally:
        await asyncio.sleep(0)
        task.cancel()
        log.call.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await task


async def test_a_watcher_of_another_process_that_does_not_acknowledge_is_cut_off_before_the_author_hears(two, owner):
    async with logged(two[1], acknowledges=False) as laggard:
        made = await create(two[0], owner)

        watchers = two[1].service._broadcaster.watcher_count
        assert await asyncio.wait_for(laggard.call.code(), 10) == grpc.StatusCode.UNAVAILABLE
    assert watchers <= 1
    await Seen(two[1]).check(knows, made.id)


async def test_authors_at_several_processes_are_heard_everywhere_in_one_order(two, owner):
    async def work(node, seed):
        choice = random.Random(seed)
        mine = []
        for number in range(15):
            if mine and choice.random() < 0.3:
                gone = mine.pop(choice.randrange(len(mine)))
                await node.integrations.DeleteIntegration(DeleteIntegrationRequest(id=gone), metadata=owner)
            elif mine and choice.random() < 0.5:
                change = UpdateIntegrationRequest(id=choice.choice(mine), to_path=f"path{number}")
                await node.integrations.UpdateIntegration(change, metadata=owner)
            else:
                mine.append((await create(node, owner)).id)

    async with logged(two[0]) as one, logged(two[1]) as other:
        await asyncio.gather(*(work(node, seed) for seed, node in enumerate((*two, *two))))
        newest = (await two[0].service._follower._nodes.look()).revision
        async with logged(two[0]) as fresh, asyncio.timeout(10):
            while not one.revisions[-1:] == other.revisions[-1:] == [newest]:
                await asyncio.sleep(0.01)
            assert one.configs == other.configs == fresh.configs

    for log in (one, other):
        assert log.revisions == sorted(set(log.revisions))
    page = await two[1].integrations.ListIntegrations(ListIntegrationsRequest(page_size=1000), metadata=owner)
    assert {listed.id for listed in page.integrations} == set(one.configs)


async def test_a_change_of_which_no_notification_came_is_found_all_the_same(settings, two, owner):
    deaf = await start_node(settings, hears=False)
    two.append(deaf)
    await deaf.until_live()
    seen = Seen(deaf)

    for _ in range(5):
        made = await create(two[0], owner)
        await seen.check(knows, made.id)


async def test_a_process_that_starts_while_changes_are_made_misses_none(settings, two, owner):
    made, stopping = [], asyncio.Event()

    async def author(node):
        while not stopping.is_set():
            made.append((await create(node, owner)).id)

    authoring = [asyncio.create_task(author(node)) for node in two]
    for _ in range(3):
        late = await start_node(settings)
        two.append(late)
        answered = list(made)
        await Seen(late).check(knows, *answered)
    stopping.set()
    await asyncio.gather(*authoring)
    for node in two:
        await Seen(node).check(knows, *made)


async def test_a_repeat_at_another_process_is_answered_when_the_first_call_is_in_force(two, owner):
    first, other = two
    once = (*owner, ("idempotency-key", "connect-the-shop"))
    other.gate.shut()
    made = await create(first, once)
    repeat = asyncio.create_task(create(other, once))
    answered, _ = await asyncio.wait([repeat], timeout=0.5)
    assert not answered

    other.gate.open()

    assert (await repeat).id == made.id
    await Seen(other).check(knows, made.id)


async def test_processes_that_start_at_once_on_an_empty_database_make_one_of_everything(two, owner):
    tenants = [await node.keys.ListTenants(ListTenantsRequest()) for node in two]

    assert [len(answer.tenants) for answer in tenants] == [1, 1]
    assert two[0].service._follower._node_id != two[1].service._follower._node_id


async def test_a_process_that_stops_takes_its_leave(two, owner):
    staying, leaving = two

    await leaving.replica.stop()
    await leaving.running.stop(0)

    assert len((await staying.service._follower._nodes.look()).nodes) == 1


async def test_the_key_ring_is_not_rotated_under_a_running_process(settings, two, owner):
    made = await create(two[0], owner)

    with pytest.raises(SettingsError, match=r"^[0-9]+ connections of Integrations use this database: stop every"):
        await maintenance.rotate_key_ring(settings)

    assert (await two[1].replica.by_ingress_key(sha256(made.ingress_key))).id == made.id
    with pytest.raises(NotFoundError):
        await two[1].replica.by_ingress_key(sha256("nobody's"))


async def test_the_key_ring_is_not_rotated_under_a_process_that_stands_still(settings):
    async with nodes(settings, count=1) as (node,):
        node.gate.shut()
        await asyncio.sleep(2 * LEASE_SECONDS)

        with pytest.raises(SettingsError, match=r"^[0-9]+ connections? of Integrations uses? this database: stop"):
            await maintenance.rotate_key_ring(settings)

        node.gate.open()


async def test_the_key_ring_is_rotated_once_all_processes_are_stopped(settings):
    async with nodes(settings, count=1):
        pass

    async with asyncio.timeout(20):
        while True:  # the server sees the end of a connection a moment after its client
            try:
                await maintenance.rotate_key_ring(settings)
            except SettingsError:
                await asyncio.sleep(0.01)
            else:
                break

    assert len(settings.key_ring_path.read_text().split()) == 2

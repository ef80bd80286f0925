"""What processes that share a PostgreSQL can rely on to follow each other's changes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from servicekit.database import Database
from servicekit.errors import NotFoundError, UnavailableError
from services.integrations.domain import IntegrationChanges
from services.integrations.key_ring import KeyRing
from services.integrations.sql_nodes import SqlNodeStore
from services.integrations.sql_rows import KEPT_CHANGES
from services.integrations.sql_store import SqlIntegrationStore
from services.integrations.sql_tenant_store import SqlTenantStore
from services.integrations.store import LeaseLostError
from tests.contract.test_integrations_store import NOW, a_tenant, create


@pytest.fixture(autouse=True)
def checked_soon(monkeypatch):
    monkeypatch.setattr("servicekit.postgres.LISTENING_CHECK_SECONDS", 0.1)


@pytest.fixture
async def stores(postgres_database):
    database = Database.open(postgres_database)
    key_ring = KeyRing([Fernet.generate_key().decode()])
    yield SimpleNamespace(
        database=database,
        tenants=SqlTenantStore(database, key_ring),
        integrations=SqlIntegrationStore(database, key_ring),
        nodes=SqlNodeStore(database, key_ring),
    )
    await database.close()


@pytest.fixture
async def tenant(stores):
    tenant = a_tenant()
    await stores.tenants.create_tenant(tenant)
    return tenant


async def test_everything_after_a_revision_is_told_in_one(stores, tenant):
    before = await create(stores, tenant)
    changed, deleted = await create(stores, tenant), await create(stores, tenant)
    begun = (await stores.nodes.look()).revision
    await stores.integrations.change_integration(tenant.id, changed.id, IntegrationChanges(tag="new"), NOW)
    await stores.integrations.delete_integration(tenant.id, deleted.id)
    with pytest.raises(NotFoundError):  # what is refused counts for nothing
        await stores.integrations.delete_integration(tenant.id, deleted.id)

    change = await stores.nodes.changes_after(begun)
    _, suspension = await stores.tenants.set_tenant_active(tenant.id, active=False)
    suspended = await stores.nodes.changes_after(change.revision)

    assert change.revision == begun + 2
    assert [(one.id, one.tag) for one in change.changed] == [(changed.id, "new")]
    assert list(change.deleted_ids) == [deleted.id]
    assert (suspended.revision, suspended.changed) == (suspension.revision, suspension.changed)
    assert {one.id for one in suspended.changed} == {before.id, changed.id}
    nothing = await stores.nodes.changes_after(suspended.revision)
    assert (nothing.changed, nothing.deleted_ids) == ([], [])


@pytest.mark.parametrize(
    "forgotten", ["DELETE FROM integrations_changes", "UPDATE integrations_revision SET value = value + 1"]
)
async def test_what_is_not_in_the_log_can_not_be_told(stores, tenant, forgotten):
    begun = (await stores.nodes.look()).revision
    await create(stores, tenant)
    async with stores.database.write() as connection:
        await connection.execute(text(forgotten))

    assert await stores.nodes.changes_after(begun) is None


async def test_the_log_does_not_grow_for_ever(stores, tenant):
    async with stores.database.write() as connection:
        await connection.execute(text("INSERT INTO integrations_changes VALUES (2, NULL), (3, NULL)"))
        await connection.execute(text(f"UPDATE integrations_revision SET value = {KEPT_CHANGES + 1}"))

    await create(stores, tenant)

    async with stores.database.read() as connection:
        kept = (await connection.execute(text("SELECT min(revision) FROM integrations_changes"))).scalar_one()
    assert kept == 3


async def test_a_node_is_seen_from_when_it_joins_until_it_leaves(stores):
    assert (await stores.nodes.look()).nodes == []

    (joined,) = (await stores.nodes.join("node_a")).nodes
    (renewed,) = (await stores.nodes.renew("node_a", 7, is_news=True)).nodes
    (renamed,) = (await stores.nodes.join("node_b", instead_of="node_a")).nodes
    await stores.nodes.leave("node_b")

    assert (joined.id, joined.applied_revision) == ("node_a", 0)
    assert (renewed.renewals, renewed.applied_revision) == (joined.renewals + 1, 7)
    assert (renamed.id, renamed.applied_revision) == ("node_b", 0)
    assert (await stores.nodes.look()).nodes == []


async def test_a_node_is_counted_out_unless_it_has_renewed_since(stores):
    (joined,) = (await stores.nodes.join("node_a")).nodes
    (renewed,) = (await stores.nodes.renew("node_a", 1, is_news=False)).nodes

    await stores.nodes.remove(joined)
    assert (await stores.nodes.look()).nodes == [renewed]
    await stores.nodes.remove(renewed)

    with pytest.raises(LeaseLostError):
        await stores.nodes.renew("node_a", 1, is_news=False)


async def test_changes_and_what_others_have_applied_are_heard(stores, tenant):
    heard: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(stores.nodes.listen(heard.put_nowait))
    await stores.nodes.join("node_a")

    async with asyncio.timeout(10):
        while heard.empty():  # until it listens
            await stores.nodes.renew("node_a", 1, is_news=True)
            await asyncio.sleep(0.01)
        await stores.nodes.renew("node_a", 1, is_news=False)
        await create(stores, tenant)
        while (told := await heard.get()) == "node_a":
            pass

    assert told == ""
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_listener_whose_connection_is_cut_says_so(stores):
    listening = asyncio.create_task(stores.nodes.listen(lambda _: None))
    cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    is_cut = False
    async with asyncio.timeout(10):
        while not is_cut:
            await asyncio.sleep(0.01)
            # One transaction sees the server's activity as it was when it first looked.
            async with stores.database.write() as connection:
                is_cut = bool((await connection.execute(text(cut))).scalar_one())

    with pytest.raises(UnavailableError):
        await asyncio.wait_for(listening, 10)

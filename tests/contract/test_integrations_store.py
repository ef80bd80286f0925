"""What every Integrations store must guarantee, whatever database it is on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cryptography.fernet import Fernet
from sqlalchemy import text
from sqlmodel import SQLModel

from servicekit import migrations, schema
from servicekit.clock import to_milliseconds
from servicekit.database import Database
from servicekit.errors import AlreadyExistsError, ConflictError, IdempotencyMismatchError, NotFoundError
from servicekit.ids import new_id, new_secret
from servicekit.paging import PageRequest
from services.integrations.domain import (
    NO_DEDUPE,
    ApiKey,
    Dedupe,
    Integration,
    IntegrationChanges,
    KeptAnswer,
    RepeatableCall,
    Tenant,
    sha256,
)
from services.integrations.key_ring import KeyRing, UnreadableSecretError
from services.integrations.maintenance import MIGRATIONS, VERSION_TABLE
from services.integrations.signing_secrets import NO_SECRETS, OldSecret, SigningSecrets
from services.integrations.sql_sealed import holds_secrets
from services.integrations.sql_store import MAX_OLD_KEYS, SqlIntegrationStore
from services.integrations.sql_tenant_store import SqlTenantStore
from services.integrations.store import AnsweredBeforeError
from services.integrations.webhooks import Disabled

NOW = datetime(2026, 6, 12, 14, 32, 0, 120_000, tzinfo=UTC)
TABLES = (
    "tenants",
    "api_keys",
    "integrations",
    "ingress_keys",
    "webhooks",
    "revision",
    "kept_answers",
    "nodes",
    "changes",
)
IN_AN_HOUR = NOW + timedelta(hours=1)
DEDUPE = Dedupe(key="$.order.id", window_seconds=3_600, mode="annotate")


@pytest.fixture
def stores(database):
    key_ring = KeyRing([Fernet.generate_key().decode()])
    return SimpleNamespace(
        database=database,
        key_ring=key_ring,
        tenants=SqlTenantStore(database, key_ring),
        integrations=SqlIntegrationStore(database, key_ring),
    )


def a_tenant(name="shop", at=NOW):
    return Tenant(id=new_id("ten", at), name=name, active=True, created_at=at)


def an_api_key(tenant_id, at=NOW):
    return ApiKey(id=new_id("key", at), tenant_id=tenant_id, name="", hint="sk_live_abcd", created_at=at)


def an_integration(tenant_id, at=NOW, signing_secret="", **fields):
    defaults = {
        "name": "Order system",
        "preset": "generic",
        "ingress_key": new_secret("ig", 32),
        "to_path": "to",
        "text_path": "text",
        "ref_path": "ref",
        "signing_header": "X-Webhook-Signature",
        "outbound_url": "",
        "default_region": "",
        "priority": "normal",
        "on_unknown": "resend",
    }
    defaults["secrets"] = SigningSecrets(newest=signing_secret)
    return Integration(
        id=new_id("wkh", at), tenant_id=tenant_id, created_at=at, updated_at=at, **{**defaults, **fields}
    )


@pytest.fixture
async def tenant(stores):
    tenant = a_tenant()
    await stores.tenants.create_tenant(tenant)
    return tenant


@pytest.fixture
async def other_tenant(stores):
    tenant = a_tenant("other")
    await stores.tenants.create_tenant(tenant)
    return tenant


async def create(stores, tenant, **fields):
    change = await stores.integrations.create_integration(an_integration(tenant.id, **fields))
    return change.changed[0]


async def rotate(stores, integration, *, overlap_seconds, now=NOW, keep=None):
    new_key = new_secret("ig", 32)
    change = await stores.integrations.rotate_ingress_key(
        integration.tenant_id,
        integration.id,
        new_key=new_key,
        old_keys_expire_at=now + timedelta(seconds=overlap_seconds),
        now=now,
        keep=keep,
    )
    return change.changed[0]


async def every_cell(database):
    cells = []
    async with database.read() as connection:
        for name in TABLES:
            rows = await connection.execute(text(f"SELECT * FROM integrations_{name}"))
            cells += [cell for row in rows for cell in row]
    return cells


async def test_the_migrated_schema_is_that_of_the_tables(stores):
    def differences(connection):
        found = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
        # Other services' tables are in the same metadata once a test has imported them.
        return [one for one in found if "integrations_" in str(one) and VERSION_TABLE not in str(one)]

    async with stores.database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_twice_changes_nothing(stores, tenant):
    await migrations.migrate(stores.database, MIGRATIONS, VERSION_TABLE)

    await schema.require_usable(stores.database, MIGRATIONS, VERSION_TABLE)
    assert await stores.tenants.list_tenants() == [tenant]


# Tenants and API keys


async def test_ensuring_a_tenant_twice_keeps_the_first(stores):
    first, second = a_tenant("default"), a_tenant("default")

    assert await stores.tenants.ensure_tenant(first) == first
    assert await stores.tenants.ensure_tenant(second) == first
    assert await stores.tenants.list_tenants() == [first]


@pytest.mark.parametrize("name", ["Acme", "ACME", "Ünïcode 中文 👩‍👧", "'; DROP TABLE x; --", "%_\\"])
async def test_a_tenant_is_found_by_its_exact_name_and_by_its_id(stores, name):
    tenant = a_tenant(name)
    await stores.tenants.create_tenant(a_tenant("acme"))
    await stores.tenants.create_tenant(tenant)

    assert await stores.tenants.find_tenant(name) == tenant
    assert await stores.tenants.find_tenant(tenant.id) == tenant


async def test_a_tenants_name_is_unique_and_case_counts(stores, tenant):
    with pytest.raises(AlreadyExistsError):
        await stores.tenants.create_tenant(a_tenant("shop"))

    await stores.tenants.create_tenant(a_tenant("Shop"))
    assert len(await stores.tenants.list_tenants()) == 2


async def test_an_unknown_tenant_is_not_found(stores):
    with pytest.raises(NotFoundError):
        await stores.tenants.find_tenant("nobody")
    with pytest.raises(NotFoundError):
        await stores.tenants.set_tenant_active("ten_nobody", active=False)


async def test_api_keys_are_kept_as_hashes_only(stores, tenant):
    secret = new_secret("sk_live", 40)
    key = an_api_key(tenant.id)

    await stores.tenants.add_api_key(key, sha256(secret))

    assert await stores.tenants.find_api_key(sha256(secret)) == (key, tenant)
    assert sha256(secret) in await every_cell(stores.database)
    assert all(secret not in str(cell) for cell in await every_cell(stores.database))


async def test_a_hash_is_stored_once(stores, tenant, other_tenant):
    first, second = an_api_key(tenant.id), an_api_key(other_tenant.id)
    await stores.tenants.add_api_key(first, b"\1" * 32)

    with pytest.raises(AlreadyExistsError):
        await stores.tenants.add_api_key(second, b"\1" * 32)
    assert await stores.tenants.ensure_api_key(second, b"\1" * 32) == first
    assert await stores.tenants.list_api_keys(other_tenant.id) == []


async def test_ensuring_a_key_stores_it_when_there_is_none(stores, tenant):
    key = an_api_key(tenant.id)

    assert await stores.tenants.ensure_api_key(key, b"\2" * 32) == key
    assert await stores.tenants.find_api_key(b"\2" * 32) == (key, tenant)


async def test_an_unknown_hash_finds_nothing(stores):
    assert await stores.tenants.find_api_key(b"\3" * 32) is None


async def test_keys_are_listed_for_their_tenant_oldest_first(stores, tenant, other_tenant):
    newer, older = an_api_key(tenant.id, NOW + timedelta(seconds=1)), an_api_key(tenant.id)
    theirs = an_api_key(other_tenant.id)
    for number, key in enumerate((newer, older, theirs)):
        await stores.tenants.add_api_key(key, bytes([number]) * 32)

    assert await stores.tenants.list_api_keys(tenant.id) == [older, newer]
    assert await stores.tenants.list_api_keys("ten_nobody") == []


async def test_a_key_keeps_the_time_at_which_it_was_first_revoked(stores, tenant):
    key = an_api_key(tenant.id)
    await stores.tenants.add_api_key(key, b"\4" * 32)

    first = await stores.tenants.revoke_api_key(key.id, NOW)
    second = await stores.tenants.revoke_api_key(key.id, NOW + timedelta(hours=1))

    assert first == second == replace(key, revoked_at=NOW)
    with pytest.raises(NotFoundError):
        await stores.tenants.revoke_api_key("key_nobody", NOW)


async def test_suspending_a_tenant_changes_all_its_integrations_and_no_others(stores, tenant, other_tenant):
    ours = [await create(stores, tenant) for _ in range(3)]
    theirs = await create(stores, other_tenant)

    suspended, change = await stores.tenants.set_tenant_active(tenant.id, active=False)

    assert not suspended.active
    assert {(one.id, one.tenant_active, one.revision) for one in change.changed} == {
        (one.id, False, change.revision) for one in ours
    }
    assert await stores.integrations.get_integration(other_tenant.id, theirs.id) == theirs


# Integrations


async def test_reads_back_exactly_what_was_stored(stores, tenant):
    wanted = an_integration(
        tenant.id,
        name="Ünïcode 中文 👩‍👧 '; --",
        to_path="a.b",
        ref_path="",
        for_each="$.älerts[*]",
        outbound_url="https://example.com/x?y=%20",
        default_region="SG",
        priority="high",
        on_unknown="hold",
        dedupe=DEDUPE,
        sender="My Shop 24",
        tag="älerts; --",
        max_segments=20,
        on_overflow="transliterate",
        secrets=SigningSecrets(newest="geheim ünïcode\n", old=OldSecret(secret="älter", expires_at=IN_AN_HOUR)),
        outbound_events=("message.received", "message.failed"),
        outbound_disabled=Disabled(at=NOW, reason="Ünïcode '; --", missed_since=NOW - timedelta(days=5)),
        reply_window_seconds=2_592_000,
    )

    change = await stores.integrations.create_integration(wanted)

    (stored,) = change.changed
    assert stored == replace(wanted, ingress_keys=stored.ingress_keys, revision=change.revision)
    assert [(key.sha256, key.expires_at) for key in stored.ingress_keys] == [(sha256(wanted.ingress_key), None)]
    assert await stores.integrations.get_integration(tenant.id, wanted.id) == stored
    assert await stores.integrations.find_by_ingress_key(sha256(wanted.ingress_key)) == stored


async def test_ingress_keys_and_signing_secrets_are_encrypted(stores, tenant):
    made = await create(stores, tenant, signing_secret="a canary of a secret")
    await rotate(stores, made, overlap_seconds=60)

    for cell in await every_cell(stores.database):
        assert made.ingress_key not in str(cell)
        assert "canary" not in str(cell)


async def test_a_secret_moved_to_another_row_does_not_open(stores, tenant):
    one = await create(stores, tenant, signing_secret="secret of one")
    other = await create(stores, tenant, signing_secret="secret of other")
    move = text(
        "UPDATE integrations_integrations SET signing_secret_sealed ="
        " (SELECT signing_secret_sealed FROM integrations_integrations WHERE id = :source) WHERE id = :target"
    )
    async with stores.database.write() as connection:
        await connection.execute(move, {"source": one.id, "target": other.id})

    with pytest.raises(UnreadableSecretError):
        await stores.integrations.get_integration(tenant.id, other.id)
    assert await stores.integrations.count_unreadable_secrets() == 1


@pytest.mark.parametrize("case", ["another tenant's", "unknown"])
async def test_an_id_that_is_not_the_tenants_is_not_found_and_changes_nothing(stores, tenant, other_tenant, case):
    theirs = await create(stores, other_tenant)
    wrong_id = theirs.id if case == "another tenant's" else new_id("wkh", NOW)
    before = (await stores.integrations.snapshot(10)).revision

    for attempt in (
        stores.integrations.get_integration(tenant.id, wrong_id),
        stores.integrations.change_integration(tenant.id, wrong_id, IntegrationChanges(name="mine"), NOW),
        stores.integrations.delete_integration(tenant.id, wrong_id),
        rotate(stores, replace(theirs, id=wrong_id, tenant_id=tenant.id), overlap_seconds=0),
    ):
        with pytest.raises(NotFoundError):
            await attempt

    assert await stores.integrations.get_integration(other_tenant.id, theirs.id) == theirs
    assert (await stores.integrations.snapshot(10)).revision == before


async def test_a_change_touches_only_what_it_names(stores, tenant):
    made = await create(stores, tenant, signing_secret="a secret", outbound_url="https://example.com")
    bystander = await create(stores, tenant)
    later = NOW + timedelta(seconds=5)

    change = await stores.integrations.change_integration(
        tenant.id, made.id, IntegrationChanges(to_path="customer.phone", outbound_url=""), later
    )

    wanted = replace(made, to_path="customer.phone", outbound_url="", revision=change.revision, updated_at=later)
    assert change.changed == (wanted,)
    assert await stores.integrations.get_integration(tenant.id, made.id) == wanted
    assert await stores.integrations.get_integration(tenant.id, bystander.id) == bystander


@pytest.mark.parametrize(("given", "kept"), [(None, "a secret"), ("", ""), ("another", "another")])
async def test_a_signing_secret_is_kept_removed_or_replaced(stores, tenant, given, kept):
    made = await create(stores, tenant, signing_secret="a secret")

    await stores.integrations.change_integration(tenant.id, made.id, IntegrationChanges(signing_secret=given), NOW)

    assert (await stores.integrations.get_integration(tenant.id, made.id)).secrets.newest == kept


@pytest.mark.parametrize(
    ("given", "kept"), [(None, DEDUPE), (NO_DEDUPE, NO_DEDUPE), (replace(DEDUPE, mode="suppress"),) * 2]
)
async def test_a_dedupe_rule_is_kept_removed_or_replaced_as_a_whole(stores, tenant, given, kept):
    made = await create(stores, tenant, dedupe=DEDUPE)

    change = await stores.integrations.change_integration(tenant.id, made.id, IntegrationChanges(dedupe=given), NOW)

    assert change.changed == (replace(made, dedupe=kept, revision=change.revision),)


async def test_a_release_that_does_not_know_the_newest_columns_can_insert(stores, tenant):
    made = await create(
        stores,
        tenant,
        priority="high",
        on_unknown="hold",
        dedupe=DEDUPE,
        sender="ACME",
        tag="alerts",
        max_segments=2,
        on_overflow="truncate",
        outbound_events=("message.failed",),
        reply_window_seconds=60,
        for_each="$.alerts[*]",
    )
    old = "tenant_id, name, preset, to_path, text_path, ref_path, signing_header, outbound_url, default_region"
    old += ", revision, created_at_ms, updated_at_ms"
    copy = f"INSERT INTO integrations_integrations (id, {old}) SELECT 'wkh_2', {old} FROM integrations_integrations"
    async with stores.database.write() as connection:
        await connection.execute(text(copy))
        sealed = {"sealed": stores.key_ring.seal(made.ingress_key, owner="wkh_2")}
        move = "UPDATE integrations_ingress_keys SET integration_id = 'wkh_2', key_sealed = :sealed"
        await connection.execute(text(move), sealed)

    inserted = await stores.integrations.get_integration(tenant.id, "wkh_2")

    assert (inserted.priority, inserted.on_unknown, inserted.dedupe) == ("normal", "resend", NO_DEDUPE)
    assert (inserted.sender, inserted.tag) == ("", "")
    assert (inserted.max_segments, inserted.on_overflow) == (0, "reject")
    assert (inserted.outbound_events, inserted.reply_window_seconds) == (("message.received",), 0)
    assert (inserted.outbound_disabled, inserted.secrets) == (None, NO_SECRETS)
    assert inserted.for_each == ""


async def test_deleting_forgets_every_address(stores, tenant):
    made = await create(stores, tenant)
    rotated = await rotate(stores, made, overlap_seconds=60)

    change = await stores.integrations.delete_integration(tenant.id, made.id)

    assert change.deleted_ids == (made.id,)
    for key in (made.ingress_key, rotated.ingress_key):
        assert await stores.integrations.find_by_ingress_key(sha256(key)) is None
    with pytest.raises(NotFoundError):
        await stores.integrations.delete_integration(tenant.id, made.id)


async def test_pages_hold_each_integration_once_newest_first(stores, tenant, other_tenant):
    # Several in one millisecond, so that the id decides between them.
    made = [await create(stores, tenant, at=NOW + timedelta(milliseconds=n // 3)) for n in range(10)]
    await create(stores, other_tenant)

    seen, after = [], None
    while page := await stores.integrations.list_integrations(tenant.id, PageRequest(size=3, after=after)):
        assert len(page) <= 3
        seen += page
        after = (to_milliseconds(seen[-1].created_at), seen[-1].id)

    assert seen == sorted(made, key=lambda one: (one.created_at, one.id), reverse=True)


async def test_pages_are_not_moved_by_what_is_made_meanwhile(stores, tenant):
    made = [await create(stores, tenant, at=NOW + timedelta(milliseconds=n)) for n in range(4)]
    first = await stores.integrations.list_integrations(tenant.id, PageRequest(size=2))
    last = first[-1]

    await create(stores, tenant, at=NOW + timedelta(seconds=1))
    await stores.integrations.delete_integration(tenant.id, last.id)
    rest = await stores.integrations.list_integrations(
        tenant.id, PageRequest(size=2, after=(to_milliseconds(last.created_at), last.id))
    )

    assert [one.id for one in [*first, *rest]] == [one.id for one in reversed(made)]


async def test_every_change_takes_the_next_revision(stores, tenant):
    made = an_integration(tenant.id)
    start = (await stores.integrations.snapshot(10)).revision
    assert start > 0

    revisions = [
        (await stores.integrations.create_integration(made)).revision,
        (await stores.integrations.change_integration(tenant.id, made.id, IntegrationChanges(name="x"), NOW)).revision,
        (await rotate(stores, made, overlap_seconds=1)).revision,
        (await stores.tenants.set_tenant_active(tenant.id, active=False))[1].revision,
        (await stores.integrations.delete_integration(tenant.id, made.id)).revision,
        (await stores.integrations.snapshot(10)).revision,
    ]

    assert revisions == [*range(start + 1, start + 6), start + 5]


async def test_authors_at_once_get_different_revisions(stores, tenant):
    changes = await asyncio.gather(
        *(stores.integrations.create_integration(an_integration(tenant.id)) for _ in range(20))
    )

    assert len({change.revision for change in changes}) == 20


async def test_the_revision_does_not_fall_when_the_newest_is_deleted_and_the_file_reopened(tmp_path):
    url, key_ring = f"sqlite:///{tmp_path}/again.db", KeyRing([Fernet.generate_key().decode()])
    database = Database.open(url)
    await migrations.migrate(database, MIGRATIONS, VERSION_TABLE)
    tenant = await SqlTenantStore(database, key_ring).ensure_tenant(a_tenant())
    store = SqlIntegrationStore(database, key_ring)
    made = (await store.create_integration(an_integration(tenant.id))).changed[0]
    before = (await store.delete_integration(tenant.id, made.id)).revision
    await database.close()

    database = Database.open(url)
    after = await SqlIntegrationStore(database, key_ring).create_integration(an_integration(tenant.id))
    await database.close()

    assert after.revision == before + 1


async def test_a_rotated_address_leads_on_until_it_expires(stores, tenant):
    made = await create(stores, tenant)

    rotated = await rotate(stores, made, overlap_seconds=60)

    assert rotated.ingress_key != made.ingress_key
    assert {key.sha256: key.expires_at for key in rotated.ingress_keys} == {
        sha256(made.ingress_key): NOW + timedelta(seconds=60),
        sha256(rotated.ingress_key): None,
    }
    assert await stores.integrations.find_by_ingress_key(sha256(made.ingress_key)) == rotated


async def test_several_old_addresses_can_be_in_overlap(stores, tenant):
    first = await create(stores, tenant)
    second = await rotate(stores, first, overlap_seconds=60)
    third = await rotate(stores, second, overlap_seconds=600)

    # A longer overlap does not lengthen one that was given before.
    assert {key.sha256: key.expires_at for key in third.ingress_keys} == {
        sha256(first.ingress_key): NOW + timedelta(seconds=60),
        sha256(second.ingress_key): NOW + timedelta(seconds=600),
        sha256(third.ingress_key): None,
    }


async def test_an_overlap_of_zero_cuts_off_every_old_address(stores, tenant):
    first = await create(stores, tenant)
    second = await rotate(stores, first, overlap_seconds=60)

    third = await rotate(stores, second, overlap_seconds=0)

    assert [key.sha256 for key in third.ingress_keys] == [sha256(third.ingress_key)]
    for old in (first, second):
        assert await stores.integrations.find_by_ingress_key(sha256(old.ingress_key)) is None


async def test_expired_addresses_are_forgotten_at_the_next_rotation(stores, tenant):
    first = await create(stores, tenant)
    second = await rotate(stores, first, overlap_seconds=60)

    third = await rotate(stores, second, overlap_seconds=60, now=NOW + timedelta(seconds=60))

    assert sha256(first.ingress_key) not in {key.sha256 for key in third.ingress_keys}


async def test_one_old_address_too_many_is_a_conflict_and_rotates_nothing(stores, tenant):
    newest = await create(stores, tenant)
    for _ in range(MAX_OLD_KEYS):
        newest = await rotate(stores, newest, overlap_seconds=60)

    with pytest.raises(ConflictError, match="overlapSeconds"):
        await rotate(stores, newest, overlap_seconds=60)

    assert await stores.integrations.get_integration(tenant.id, newest.id) == newest
    assert len((await rotate(stores, newest, overlap_seconds=0)).ingress_keys) == 1


async def test_a_snapshot_holds_every_tenants_integrations_in_pages(stores, tenant, other_tenant):
    made = [await create(stores, owner) for owner in (tenant, other_tenant, tenant, tenant, other_tenant)]

    snapshot = await stores.integrations.snapshot(2)

    pages = list(snapshot.pages)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {one.id: one for page in pages for one in page} == {one.id: one for one in made}
    assert snapshot.revision == max(one.revision for one in made)


async def test_takes_its_time_for_what_is_done_with_every_secret(stores, tenant, monkeypatch):
    for _ in range(3):
        await create(stores, tenant, signing_secret="a secret")
    opened, sealed = KeyRing.open_sealed, KeyRing.seal

    def slowly(function):
        def run(*given, **named):
            time.sleep(0.3)
            return function(*given, **named)

        return run

    monkeypatch.setattr(KeyRing, "open_sealed", slowly(opened))
    monkeypatch.setattr(KeyRing, "seal", slowly(sealed))

    # More than a request would wait for: ten thousand secrets take longer, and a service that starts has to.
    assert await stores.integrations.count_unreadable_secrets() == 0
    resealed = await SqlIntegrationStore(stores.database, stores.key_ring.with_new_key()).reseal()
    assert resealed == 6  # three addresses too


async def test_resealing_leaves_every_secret_readable_by_the_new_key_alone(stores, tenant):
    signed = await create(stores, tenant, signing_secret="a secret")
    rotated = await rotate(stores, await create(stores, tenant), overlap_seconds=60)
    new_key = KeyRing([Fernet.generate_key().decode()])
    both = stores.key_ring.with_new_key()

    kept = await an_answered_call(stores, tenant)

    count = await SqlIntegrationStore(stores.database, both).reseal()

    assert count == 5
    assert await SqlIntegrationStore(stores.database, both).count_unreadable_secrets() == 0
    assert await stores.integrations.count_unreadable_secrets() == 4
    assert await SqlIntegrationStore(stores.database, new_key).count_unreadable_secrets() == 4
    with pytest.raises(AnsweredBeforeError):
        await SqlIntegrationStore(stores.database, both).create_integration(an_integration(tenant.id), kept)
    for one in (signed, rotated):
        assert await SqlIntegrationStore(stores.database, both).get_integration(tenant.id, one.id) == one


# Repeatable calls


def an_answer(tenant, answer=b"the first answer", at=NOW, **call):
    defaults = {"tenant_id": tenant.id, "operation": "POST /v1/ingress", "key": "k", "request_sha256": b"\1" * 32}
    return KeptAnswer(call=RepeatableCall(**{**defaults, **call}), answer=answer, answered_at=at)


async def an_answered_call(stores, tenant, **call):
    kept = an_answer(tenant, **call)
    await stores.integrations.create_integration(an_integration(tenant.id), kept)
    return kept


async def count_integrations(stores, tenant):
    return len(await stores.integrations.list_integrations(tenant.id, PageRequest(size=1000)))


async def test_a_repeated_create_changes_nothing_and_gets_the_first_answer(stores, tenant):
    await an_answered_call(stores, tenant)
    before = (await stores.integrations.snapshot(10)).revision

    with pytest.raises(AnsweredBeforeError) as caught:
        await stores.integrations.create_integration(an_integration(tenant.id), an_answer(tenant, b"another"))

    assert caught.value.answer == b"the first answer"
    assert await count_integrations(stores, tenant) == 1
    assert (await stores.integrations.snapshot(10)).revision == before


async def test_a_repeated_rotation_changes_nothing_and_gets_the_first_answer(stores, tenant):
    made = await create(stores, tenant)
    keep = an_answer(tenant)
    rotated = await rotate(stores, made, overlap_seconds=60, keep=keep)

    with pytest.raises(AnsweredBeforeError) as caught:
        await rotate(stores, made, overlap_seconds=0, keep=keep)

    assert caught.value.answer == b"the first answer"
    assert await stores.integrations.get_integration(tenant.id, made.id) == rotated


async def test_a_key_that_comes_with_another_request_is_a_mismatch_and_changes_nothing(stores, tenant):
    await an_answered_call(stores, tenant)

    with pytest.raises(IdempotencyMismatchError):
        await an_answered_call(stores, tenant, request_sha256=b"\2" * 32)

    assert await count_integrations(stores, tenant) == 1


@pytest.mark.parametrize("other", ["tenant", "operation", "key"])
async def test_a_key_counts_for_one_tenant_and_one_operation(stores, tenant, other_tenant, other):
    await an_answered_call(stores, tenant)

    if other == "tenant":
        await an_answered_call(stores, other_tenant)
    else:
        await an_answered_call(stores, tenant, **{other: "another"})

    assert await count_integrations(stores, tenant) + await count_integrations(stores, other_tenant) == 2


async def test_a_change_that_is_refused_keeps_no_answer(stores, tenant):
    made = await create(stores, tenant)
    elsewhere = replace(made, id=new_id("wkh", NOW))
    with pytest.raises(NotFoundError):
        await rotate(stores, elsewhere, overlap_seconds=0, keep=an_answer(tenant))

    rotated = await rotate(stores, made, overlap_seconds=0, keep=an_answer(tenant))

    assert rotated.ingress_key != made.ingress_key


@pytest.mark.parametrize(("hours", "count"), [(23.999, 1), (24, 2)])
async def test_an_answer_is_kept_for_a_day(stores, tenant, hours, count):
    await an_answered_call(stores, tenant)
    again = an_answer(tenant, at=NOW + timedelta(hours=hours))

    for _ in range(2):
        with contextlib.suppress(AnsweredBeforeError):
            await stores.integrations.create_integration(an_integration(tenant.id), again)

    assert await count_integrations(stores, tenant) == count


async def test_what_is_older_than_a_day_is_forgotten_whosever_it_is(stores, tenant, other_tenant):
    for number in range(3):
        await an_answered_call(stores, other_tenant, key=f"k{number}")

    kept = an_answer(tenant, at=NOW + timedelta(days=1))
    await stores.integrations.create_integration(an_integration(tenant.id), kept)

    async with stores.database.read() as connection:
        rows = (await connection.execute(text("SELECT tenant_id FROM integrations_kept_answers"))).all()
    assert [row.tenant_id for row in rows] == [tenant.id]


async def test_repeats_at_once_make_one_change(stores, tenant):
    keep = an_answer(tenant)

    results = await asyncio.gather(
        *(stores.integrations.create_integration(an_integration(tenant.id), keep) for _ in range(20)),
        return_exceptions=True,
    )

    repeats = [result for result in results if isinstance(result, AnsweredBeforeError)]
    assert [repeat.answer for repeat in repeats] == [b"the first answer"] * 19
    assert await count_integrations(stores, tenant) == 1


async def test_kept_answers_are_encrypted_with_the_hash_of_their_request(stores, tenant):
    await an_answered_call(stores, tenant, answer=b"a canary of an answer", request_sha256=b"\7" * 32)

    for cell in await every_cell(stores.database):
        assert "canary" not in str(cell)
        assert base64.b64encode(b"a canary of an answer").decode() not in str(cell)
        assert cell != b"\7" * 32
        assert "07" * 32 not in str(cell)


async def test_an_answer_moved_to_another_call_does_not_open(stores, tenant, other_tenant):
    await an_answered_call(stores, tenant)
    async with stores.database.write() as connection:
        await connection.execute(
            text("UPDATE integrations_kept_answers SET tenant_id = :other"), {"other": other_tenant.id}
        )

    with pytest.raises(UnreadableSecretError):
        await an_answered_call(stores, other_tenant)
    assert await stores.integrations.count_unreadable_secrets() == 1


async def test_kept_answers_need_the_key_ring_also_when_their_integration_is_gone(stores, tenant):
    assert not await holds_secrets(stores.database)
    made = an_integration(tenant.id)
    await stores.integrations.create_integration(made, an_answer(tenant))

    await stores.integrations.delete_integration(tenant.id, made.id)

    assert await holds_secrets(stores.database)


async def test_of_tenants_and_keys_that_are_made_at_once_there_is_one(stores):
    tenants = await asyncio.gather(*(stores.tenants.ensure_tenant(a_tenant("default")) for _ in range(5)))
    (tenant_id,) = {tenant.id for tenant in tenants}

    keys = await asyncio.gather(*(stores.tenants.ensure_api_key(an_api_key(tenant_id), b"hash") for _ in range(5)))

    assert len({key.id for key in keys}) == 1
    assert [tenant.id for tenant in await stores.tenants.list_tenants()] == [tenant_id]

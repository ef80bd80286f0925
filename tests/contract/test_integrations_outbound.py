"""What every store must guarantee of webhooks, of outbound URLs and of the two secrets that sign."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from servicekit.errors import IdempotencyMismatchError, NotFoundError
from servicekit.ids import new_id
from services.integrations.domain import IntegrationChanges, KeptAnswer, RepeatableCall
from services.integrations.errors import NoWebhookConfigError
from services.integrations.key_ring import KeyRing, UnreadableSecretError
from services.integrations.signing_secrets import NO_SECRETS, OldSecret, SigningSecrets
from services.integrations.sql_sealed import holds_secrets
from services.integrations.sql_store import SqlIntegrationStore
from services.integrations.sql_tenant_store import SqlTenantStore
from services.integrations.sql_webhook_store import SqlWebhookStore
from services.integrations.store import AnsweredBeforeError
from services.integrations.webhooks import (
    BY_ITS_OWNER,
    Disabled,
    IntegrationTarget,
    Target,
    Targets,
    Webhook,
    WebhookFields,
)
from tests.contract.test_integrations_store import a_tenant, an_integration, every_cell

NOW = datetime(2026, 6, 12, 14, 32, 0, 120_000, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
URL, OTHER_URL = "https://receiver.example/x?y=%20", "https://other.example/"
GONE = Disabled(at=NOW, reason="The endpoint answered 410 Gone.", missed_since=NOW - timedelta(days=5))
FIELDS = WebhookFields(url=URL, events=("message.received", "message.failed"))


@pytest.fixture
def stores(database):
    key_ring = KeyRing([Fernet.generate_key().decode()])
    return SimpleNamespace(
        database=database,
        key_ring=key_ring,
        tenants=SqlTenantStore(database, key_ring),
        integrations=SqlIntegrationStore(database, key_ring),
        webhooks=SqlWebhookStore(database, key_ring),
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


async def change(stores, integration, now=NOW, **fields):
    changes = IntegrationChanges(**fields)
    change = await stores.integrations.change_integration(integration.tenant_id, integration.id, changes, now)
    return change.changed[0]


async def put(stores, tenant, *, new_secret="first", now=NOW, **fields):
    return await stores.webhooks.put_webhook(tenant.id, replace(FIELDS, **fields), new_secret=new_secret, now=now)


async def rotate(stores, tenant, new_secret, *, overlap_seconds=60, now=NOW, keep=None):
    return await stores.webhooks.rotate_webhook_secret(
        tenant.id, new_secret=new_secret, overlap_seconds=overlap_seconds, now=now, keep=keep
    )


def in_overlap(newest, old, *, seconds=60, since=NOW):
    return SigningSecrets(newest=newest, old=OldSecret(secret=old, expires_at=since + timedelta(seconds=seconds)))


# Webhooks


async def test_reads_back_the_webhook_that_was_set(stores, tenant):
    saved = await put(stores, tenant, new_secret="geheim ünïcode\n")

    secrets = SigningSecrets(newest="geheim ünïcode\n")
    webhook = Webhook(
        tenant_id=tenant.id, url=URL, events=FIELDS.events, secrets=secrets, created_at=NOW, updated_at=NOW
    )
    assert (saved.webhook, saved.is_new, saved.missed_since) == (webhook, True, None)
    assert await stores.webhooks.get_webhook(tenant.id) == webhook


async def test_a_webhook_that_is_replaced_keeps_its_secret_and_its_age(stores, tenant):
    first = await put(stores, tenant)

    second = await put(stores, tenant, new_secret="second", now=LATER, url=OTHER_URL, events=())

    wanted = replace(first.webhook, url=OTHER_URL, events=("message.received",), updated_at=LATER)
    assert (second.webhook, second.is_new) == (wanted, False)
    assert await stores.webhooks.get_webhook(tenant.id) == wanted


async def test_each_tenant_has_its_own_webhook(stores, tenant, other_tenant):
    ours = await put(stores, tenant)
    theirs = await put(stores, other_tenant, new_secret="theirs", url=OTHER_URL)

    await stores.webhooks.delete_webhook(tenant.id)

    assert ours.is_new
    assert theirs.is_new
    assert await stores.webhooks.get_webhook(other_tenant.id) == theirs.webhook


async def test_a_tenant_without_a_webhook_has_nothing_to_read_rotate_or_delete(stores, tenant, other_tenant):
    await put(stores, other_tenant)

    for attempt in (
        stores.webhooks.get_webhook(tenant.id),
        rotate(stores, tenant, "second"),
        stores.webhooks.delete_webhook(tenant.id),
    ):
        with pytest.raises(NoWebhookConfigError):
            await attempt
    assert not await stores.webhooks.disable_webhook(tenant.id, URL, GONE)


async def test_a_deleted_webhook_leaves_no_secret_and_can_be_set_anew(stores, tenant):
    await put(stores, tenant)
    await rotate(stores, tenant, "second")

    await stores.webhooks.delete_webhook(tenant.id)

    assert not await holds_secrets(stores.database)
    anew = await put(stores, tenant, new_secret="third", now=LATER)
    assert (anew.is_new, anew.webhook.secrets, anew.webhook.created_at) == (True, SigningSecrets(newest="third"), LATER)


async def test_of_many_that_set_the_first_webhook_one_does(stores, tenant):
    for _ in range(10):  # they overlap only once the connections are there
        saved = await asyncio.gather(*(put(stores, tenant, new_secret=f"secret {number}") for number in range(20)))

        (first,) = [one for one in saved if one.is_new]
        assert {one.webhook.secrets for one in saved} == {first.webhook.secrets}
        assert (await stores.webhooks.get_webhook(tenant.id)).secrets == first.webhook.secrets
        await stores.webhooks.delete_webhook(tenant.id)


async def test_a_rotated_secret_is_followed_by_the_old_one(stores, tenant):
    await put(stores, tenant)

    second = await rotate(stores, tenant, "second")
    third = await rotate(stores, tenant, "third", overlap_seconds=600)
    fourth = await rotate(stores, tenant, "fourth", overlap_seconds=0, now=LATER)

    assert second.secrets == in_overlap("second", "first")
    assert third.secrets == in_overlap("third", "second", seconds=600)
    assert fourth.secrets == SigningSecrets(newest="fourth")
    assert await stores.webhooks.get_webhook(tenant.id) == fourth
    assert fourth.updated_at == LATER


async def test_rotations_and_replacements_at_once_lose_nothing(stores, tenant):
    await put(stores, tenant, new_secret="secret 0")

    for number in range(0, 100, 10):
        rotations = [rotate(stores, tenant, f"secret {number + n}") for n in range(1, 11)]
        rotated = await asyncio.gather(*rotations, *(put(stores, tenant, url=OTHER_URL) for _ in range(10)))

        # Each rotation but the last was the one before some other's.
        olds = [one.secrets.old.secret for one in rotated[:10]]
        assert len(set(olds)) == 10
        webhook = await stores.webhooks.get_webhook(tenant.id)
        assert webhook.url == OTHER_URL
        assert webhook.secrets in [one.secrets for one in rotated[:10]]


async def test_who_sets_a_webhook_while_others_delete_it_has_set_it(stores, tenant):
    for round_number in range(10):
        await put(stores, tenant, new_secret=f"old {round_number}")
        deletions = [stores.webhooks.delete_webhook(tenant.id) for _ in range(5)]
        settings = [put(stores, tenant, new_secret=f"new {round_number} {number}") for number in range(5)]
        results = await asyncio.gather(*deletions, *settings, return_exceptions=True)

        deleted = results[:5].count(None)
        made = 1 + sum(one.is_new for one in results[5:])
        assert {type(result) for result in results[:5]} <= {type(None), NoWebhookConfigError}
        assert made - deleted in (0, 1)
        if made > deleted:
            await stores.webhooks.delete_webhook(tenant.id)
        with pytest.raises(NoWebhookConfigError):
            await stores.webhooks.get_webhook(tenant.id)


async def test_a_disabled_webhook_says_why_until_it_is_enabled_again(stores, tenant):
    await put(stores, tenant)

    assert await stores.webhooks.disable_webhook(tenant.id, URL, GONE)

    disabled = await stores.webhooks.get_webhook(tenant.id)
    rotated = await rotate(stores, tenant, "second")
    enabled = await put(stores, tenant, now=LATER)
    again = await put(stores, tenant, now=LATER)
    assert (disabled.disabled, disabled.updated_at) == (GONE, NOW)
    assert rotated.disabled == GONE
    assert (enabled.webhook.disabled, enabled.missed_since) == (None, GONE.missed_since)
    assert again.missed_since is None


async def test_a_webhook_that_is_disabled_already_or_has_another_url_is_left_alone(stores, tenant, other_tenant):
    await put(stores, tenant)
    theirs = await put(stores, other_tenant)

    assert not await stores.webhooks.disable_webhook(tenant.id, OTHER_URL, GONE)
    assert await stores.webhooks.disable_webhook(tenant.id, URL, GONE)
    assert not await stores.webhooks.disable_webhook(tenant.id, URL, replace(GONE, at=LATER, reason="again"))

    assert (await stores.webhooks.get_webhook(tenant.id)).disabled == GONE
    assert await stores.webhooks.get_webhook(other_tenant.id) == theirs.webhook


async def test_an_owner_can_switch_a_webhook_off_and_keeps_an_earlier_reason(stores, tenant):
    off = await put(stores, tenant, is_enabled=False)
    on = await put(stores, tenant, now=LATER)
    await stores.webhooks.disable_webhook(tenant.id, URL, GONE)
    still_off = await put(stores, tenant, is_enabled=False, now=LATER)

    assert off.webhook.disabled == Disabled(at=NOW, reason=BY_ITS_OWNER, missed_since=NOW)
    assert on.missed_since == NOW
    assert (still_off.webhook.disabled, still_off.missed_since) == (GONE, None)


# Repeated rotations


def an_answer(tenant, request_sha256=b"\1" * 32):
    call = RepeatableCall(
        tenant_id=tenant.id, operation="POST /v1/webhooks/rotate", key="k", request_sha256=request_sha256
    )
    return KeptAnswer(call=call, answer=b"the first answer", answered_at=NOW)


async def test_a_repeated_rotation_changes_nothing_and_gets_the_first_answer(stores, tenant):
    await put(stores, tenant)
    rotated = await rotate(stores, tenant, "second", keep=an_answer(tenant))

    with pytest.raises(AnsweredBeforeError) as caught:
        await rotate(stores, tenant, "third", keep=an_answer(tenant))
    with pytest.raises(IdempotencyMismatchError):
        await rotate(stores, tenant, "third", keep=an_answer(tenant, b"\2" * 32))

    assert caught.value.answer == b"the first answer"
    assert await stores.webhooks.get_webhook(tenant.id) == rotated


async def test_a_rotation_of_no_webhook_keeps_no_answer(stores, tenant):
    with pytest.raises(NoWebhookConfigError):
        await rotate(stores, tenant, "second", keep=an_answer(tenant))
    await put(stores, tenant)

    rotated = await rotate(stores, tenant, "second", keep=an_answer(tenant))

    assert rotated.secrets == in_overlap("second", "first")


async def test_repeats_at_once_rotate_once(stores, tenant):
    await put(stores, tenant)

    results = await asyncio.gather(
        *(rotate(stores, tenant, f"secret {number}", keep=an_answer(tenant)) for number in range(10)),
        return_exceptions=True,
    )

    (rotated,) = [result for result in results if isinstance(result, Webhook)]
    assert sum(isinstance(result, AnsweredBeforeError) for result in results) == 9
    assert await stores.webhooks.get_webhook(tenant.id) == rotated


# Integrations' secrets and outbound URLs


async def test_an_integrations_new_secret_is_followed_by_the_old_one(stores, tenant):
    made = await create(stores, tenant, signing_secret="first")

    second = await change(stores, made, signing_secret="second")
    third = await change(stores, made, signing_secret="third", signing_secret_overlap_seconds=60)
    renamed = await change(stores, made, name="x")
    sooner = await change(stores, made, signing_secret="third", signing_secret_overlap_seconds=30)
    cut_off = await change(stores, made, signing_secret_overlap_seconds=0)
    fourth = await change(stores, made, signing_secret="fourth", signing_secret_overlap_seconds=0)
    removed = await change(stores, await create(stores, tenant, secrets=in_overlap("b", "a")), signing_secret="")

    assert second.secrets == in_overlap("second", "first", seconds=86_400)
    assert third.secrets == renamed.secrets == in_overlap("third", "second")
    assert sooner.secrets == in_overlap("third", "second", seconds=30)
    assert cut_off.secrets == SigningSecrets(newest="third")
    assert fourth.secrets == SigningSecrets(newest="fourth")
    assert removed.secrets == NO_SECRETS
    assert (await stores.integrations.get_integration(tenant.id, made.id)).secrets == fourth.secrets


async def test_an_old_secret_that_has_expired_is_forgotten_by_the_next_change(stores, tenant):
    made = await create(stores, tenant, secrets=in_overlap("second", "first"))

    changed = await change(stores, made, now=NOW + timedelta(seconds=60), name="x")

    assert changed.secrets == SigningSecrets(newest="second")
    async with stores.database.read() as connection:
        (row,) = (await connection.execute(text("SELECT * FROM integrations_integrations"))).all()
    assert (row.old_signing_secret_sealed, row.old_signing_secret_expires_at_ms) == (None, None)


async def test_changes_of_a_secret_at_once_keep_two_that_differ(stores, tenant):
    made = await create(stores, tenant, signing_secret="secret 0")

    await asyncio.gather(*(change(stores, made, signing_secret=f"secret {number}") for number in range(1, 11)))

    secrets = (await stores.integrations.get_integration(tenant.id, made.id)).secrets
    assert secrets.old is not None
    assert len({secrets.newest, secrets.old.secret, "secret 0"}) == 3


async def test_a_disabled_outbound_url_says_why_until_it_is_enabled_again(stores, tenant):
    made = await create(stores, tenant, outbound_url=URL)

    done = await stores.integrations.disable_outbound(tenant.id, made.id, URL, replace(GONE, at=LATER))

    (disabled,) = done.changed
    renamed = await change(stores, made, name="x")
    enabled = await change(stores, made, outbound_enabled=True)
    assert disabled == replace(
        made, outbound_disabled=replace(GONE, at=LATER), updated_at=LATER, revision=done.revision
    )
    assert (renamed.outbound_disabled, renamed.outbound_missed_since) == (disabled.outbound_disabled, None)
    assert (enabled.outbound_disabled, enabled.outbound_missed_since) == (None, GONE.missed_since)
    assert (await stores.integrations.get_integration(tenant.id, made.id)).outbound_missed_since is None


@pytest.mark.parametrize(
    ("fields", "is_enabled"),
    [
        ({"outbound_url": URL}, True),
        ({"outbound_url": OTHER_URL}, True),
        ({"outbound_url": OTHER_URL, "outbound_enabled": False}, False),
        ({"outbound_enabled": False}, False),
        ({"outbound_events": ("message.sent",)}, False),
    ],
)
async def test_to_name_the_url_again_enables_it(stores, tenant, fields, is_enabled):
    made = await create(stores, tenant, outbound_url=URL, outbound_disabled=GONE)

    changed = await change(stores, made, **fields)

    assert changed.outbound_disabled == (None if is_enabled else GONE)


async def test_an_outbound_url_that_is_not_the_tenants_another_or_off_is_left_alone(stores, tenant, other_tenant):
    made = await create(stores, tenant, outbound_url=URL)
    off = await create(stores, tenant, outbound_url=URL, outbound_disabled=GONE)
    before = (await stores.integrations.snapshot(10)).revision

    for tenant_id, integration_id, url in (
        (tenant.id, made.id, OTHER_URL),
        (tenant.id, off.id, URL),
        (tenant.id, new_id("wkh", NOW), URL),
        (other_tenant.id, made.id, URL),
    ):
        with pytest.raises(NotFoundError):
            await stores.integrations.disable_outbound(tenant_id, integration_id, url, replace(GONE, reason="again"))

    assert await stores.integrations.get_integration(tenant.id, made.id) == made
    assert await stores.integrations.get_integration(tenant.id, off.id) == off
    assert (await stores.integrations.snapshot(10)).revision == before


# Where events go


async def test_finds_where_events_go(stores, tenant, other_tenant):
    webhook = (await put(stores, tenant, is_enabled=False)).webhook
    made = await create(
        stores,
        tenant,
        name="中文",
        outbound_url=OTHER_URL,
        outbound_events=("message.sent",),
        secrets=in_overlap("second", "first"),
        reply_window_seconds=60,
    )
    plain = await create(stores, tenant)
    theirs = await create(stores, other_tenant, outbound_url=URL)

    found = await stores.webhooks.find_targets(tenant.id, made.id)

    forward_all = Target(url=URL, events=FIELDS.events, is_enabled=False, secrets=webhook.secrets)
    outbound = Target(url=OTHER_URL, events=("message.sent",), is_enabled=True, secrets=in_overlap("second", "first"))
    integration = IntegrationTarget(id=made.id, name="中文", outbound=outbound, reply_window_seconds=60)
    assert found == Targets(integration=integration, webhook=forward_all)
    without_url = (await stores.webhooks.find_targets(tenant.id, plain.id)).integration
    assert without_url == IntegrationTarget(
        id=plain.id,
        name=plain.name,
        outbound=Target(url="", events=("message.received",), is_enabled=True, secrets=NO_SECRETS),
        reply_window_seconds=0,
    )
    for nobodys in ("", theirs.id, new_id("wkh", NOW)):
        assert await stores.webhooks.find_targets(tenant.id, nobodys) == Targets(webhook=forward_all)
    assert await stores.webhooks.find_targets("ten_nobody", made.id) == Targets()
    assert (await stores.webhooks.find_targets(other_tenant.id, theirs.id)).webhook is None


# Secrets at rest


async def test_every_secret_is_encrypted(stores, tenant):
    await put(stores, tenant, new_secret="canary 1")
    await rotate(stores, tenant, "canary 2")
    await change(stores, await create(stores, tenant, signing_secret="canary 3"), signing_secret="canary 4")

    assert all("canary" not in str(cell) for cell in await every_cell(stores.database))


async def test_a_webhook_alone_needs_the_key_ring(stores, tenant):
    assert not await holds_secrets(stores.database)

    await put(stores, tenant)

    assert await holds_secrets(stores.database)


async def test_resealing_takes_old_secrets_and_webhooks_too(stores, tenant):
    await put(stores, tenant)
    webhook = await rotate(stores, tenant, "second")
    made = await create(stores, tenant, secrets=in_overlap("newest", "old"))
    new_key = Fernet.generate_key().decode()
    both = KeyRing([new_key, *stores.key_ring._keys])

    count = await SqlIntegrationStore(stores.database, both).reseal()

    new_ring = KeyRing([new_key])
    assert count == 5
    assert await SqlIntegrationStore(stores.database, new_ring).count_unreadable_secrets() == 0
    assert await SqlWebhookStore(stores.database, new_ring).get_webhook(tenant.id) == webhook
    assert await SqlIntegrationStore(stores.database, new_ring).get_integration(tenant.id, made.id) == made
    assert await stores.integrations.count_unreadable_secrets() == 2


@pytest.mark.parametrize("column", ["signing_secret_sealed", "old_signing_secret_sealed"])
async def test_a_secret_moved_to_another_tenants_webhook_does_not_open(stores, tenant, other_tenant, column):
    for owner in (tenant, other_tenant):
        await put(stores, owner)
        await rotate(stores, owner, "second")
    move = text(
        f"UPDATE integrations_webhooks SET {column} ="
        f" (SELECT {column} FROM integrations_webhooks WHERE tenant_id = :source) WHERE tenant_id = :target"
    )
    async with stores.database.write() as connection:
        await connection.execute(move, {"source": tenant.id, "target": other_tenant.id})

    with pytest.raises(UnreadableSecretError):
        await stores.webhooks.get_webhook(other_tenant.id)
    assert await stores.integrations.count_unreadable_secrets() == 1

"""What Integrations' code does to its tables: what a release leaves, and what it goes on to do."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta

from servicekit.database import Database
from servicekit.ids import new_id
from servicekit.paging import PageRequest
from services.integrations.domain import IntegrationChanges, KeptAnswer, RepeatableCall
from services.integrations.key_ring import KeyRing
from services.integrations.sql_store import SqlIntegrationStore
from services.integrations.sql_tenant_store import SqlTenantStore
from services.integrations.sql_webhook_store import SqlWebhookStore
from services.integrations.store import AnsweredBeforeError
from tests.contract.test_integrations_outbound import FIELDS, GONE, URL
from tests.contract.test_integrations_store import NOW, a_tenant, an_api_key, an_integration

LATER = NOW + timedelta(hours=1)
SECRET = "geheim ünïcode"
ADDRESS = "ig_0000000000000000000000000000"


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Three stores over one database and one key ring."""

    tenants: SqlTenantStore
    integrations: SqlIntegrationStore
    webhooks: SqlWebhookStore


def stores_over(database: Database, key_ring: KeyRing) -> Stores:
    return Stores(
        tenants=SqlTenantStore(database, key_ring),
        integrations=SqlIntegrationStore(database, key_ring),
        webhooks=SqlWebhookStore(database, key_ring),
    )


async def leave(database: Database, key_ring: KeyRing) -> None:
    """Leave tenants, keys, integrations with sealed secrets, old addresses, webhooks and kept answers."""
    stores = stores_over(database, key_ring)
    shop, other = a_tenant(), a_tenant("other")
    for tenant in (shop, other):
        await stores.tenants.ensure_tenant(tenant)
        await stores.tenants.add_api_key(an_api_key(tenant.id), hashlib.sha256(tenant.name.encode()).digest())
    await stores.tenants.set_tenant_active(other.id, active=False)
    signed = an_integration(shop.id, signing_secret=SECRET, ingress_key=ADDRESS, outbound_url=URL)
    await stores.integrations.create_integration(signed, kept(shop.id, "k-left"))
    await stores.integrations.rotate_ingress_key(
        shop.id, signed.id, new_key=f"{ADDRESS}new", old_keys_expire_at=LATER, now=NOW
    )
    plain = an_integration(other.id, outbound_url=URL)
    await stores.integrations.create_integration(plain)
    await stores.integrations.disable_outbound(other.id, plain.id, URL, GONE)
    for tenant in (shop, other):
        await stores.webhooks.put_webhook(tenant.id, FIELDS, new_secret=SECRET, now=NOW)
    await stores.webhooks.rotate_webhook_secret(shop.id, new_secret="second", overlap_seconds=60, now=NOW)
    await stores.webhooks.disable_webhook(other.id, URL, GONE)


def kept(tenant_id: str, key: str) -> KeptAnswer:
    call = RepeatableCall(
        tenant_id=tenant_id, operation="POST /v1/ingress", key=key, request_sha256=hashlib.sha256(b"body").digest()
    )
    return KeptAnswer(call=call, answer=b"the first answer", answered_at=NOW)


async def work(database: Database, key_ring: KeyRing) -> None:
    """Do once all that Integrations does, on what a release has left."""
    stores = stores_over(database, key_ring)
    shop = await _manage_tenants(stores)
    await _manage_integrations(stores, shop)
    await _manage_webhooks(stores, shop)
    await stores.integrations.count_unreadable_secrets()
    await stores.integrations.reseal()


async def _manage_tenants(stores: Stores) -> str:
    fresh = await stores.tenants.ensure_tenant(a_tenant("fresh", LATER))
    await stores.tenants.list_tenants()
    shop = await stores.tenants.find_tenant("shop")
    key = an_api_key(fresh.id, LATER)
    await stores.tenants.add_api_key(key, hashlib.sha256(b"fresh").digest())
    await stores.tenants.ensure_api_key(replace(key, id=new_id("key", LATER)), hashlib.sha256(b"fresh").digest())
    await stores.tenants.find_api_key(hashlib.sha256(b"shop").digest())
    await stores.tenants.list_api_keys(shop.id)
    await stores.tenants.revoke_api_key(key.id, LATER)
    other = await stores.tenants.find_tenant("other")
    await stores.tenants.set_tenant_active(other.id, active=True)
    return shop.id


async def _manage_integrations(stores: Stores, shop: str) -> None:
    (left,) = await stores.integrations.list_integrations(shop, PageRequest(size=50))
    with contextlib.suppress(AnsweredBeforeError):
        await stores.integrations.create_integration(an_integration(shop), kept(shop, "k-left"))
    made = an_integration(shop, LATER, signing_secret=SECRET, outbound_url=URL)
    await stores.integrations.create_integration(made, kept(shop, "k-new"))
    changes = IntegrationChanges(name="Shop", to_path="order.phone", outbound_url=URL)
    await stores.integrations.change_integration(shop, left.id, changes, LATER)
    await stores.integrations.rotate_ingress_key(
        shop, left.id, new_key=f"{ADDRESS}newest", old_keys_expire_at=LATER, now=LATER
    )
    await stores.integrations.find_by_ingress_key(hashlib.sha256(ADDRESS.encode()).digest())
    await stores.integrations.snapshot(1)
    await stores.integrations.disable_outbound(shop, made.id, URL, GONE)
    await stores.integrations.delete_integration(shop, made.id)


async def _manage_webhooks(stores: Stores, shop: str) -> None:
    (left,) = await stores.integrations.list_integrations(shop, PageRequest(size=50))
    fresh = await stores.tenants.find_tenant("fresh")
    await stores.webhooks.put_webhook(fresh.id, FIELDS, new_secret=SECRET, now=LATER)
    await stores.webhooks.put_webhook(shop, replace(FIELDS, url="https://other.example/"), new_secret="", now=LATER)
    await stores.webhooks.get_webhook(shop)
    await stores.webhooks.find_targets(shop, left.id)
    await stores.webhooks.rotate_webhook_secret(shop, new_secret="third", overlap_seconds=60, now=LATER)
    await stores.webhooks.disable_webhook(shop, "https://other.example/", GONE)
    await stores.webhooks.delete_webhook(fresh.id)

"""What an operator can do with tenants and API keys, and what Delivery learns of a key, over real gRPC."""

from __future__ import annotations

import grpc
import pytest

from servicekit.ids import has_secret_form, has_valid_checksum, is_id, new_secret
from textway.integrations.v1.keys_service_pb2 import (
    CreateApiKeyRequest,
    CreateTenantRequest,
    ListApiKeysRequest,
    ListTenantsRequest,
    RevokeApiKeyRequest,
    SetTenantActiveRequest,
)
from textway.integrations.v1.registry_service_pb2 import AuthenticateApiKeyRequest

BOOTSTRAP_KEY = "sk_live_" + "A" * 40


def authenticate(clients, api_key):
    return clients.registry.AuthenticateApiKey(AuthenticateApiKeyRequest(api_key=api_key))


async def test_the_default_tenant_is_there_from_the_start(clients):
    (tenant,) = (await clients.keys.ListTenants(ListTenantsRequest())).tenants

    assert (tenant.name, tenant.active) == ("default", True)
    assert is_id(tenant.id, "ten")


async def test_the_bootstrap_key_is_the_default_tenants_whatever_its_checksum(clients):
    (tenant,) = (await clients.keys.ListTenants(ListTenantsRequest())).tenants

    answer = await authenticate(clients, BOOTSTRAP_KEY)

    assert answer.tenant_id == tenant.id
    assert is_id(answer.key_id, "key")


async def test_a_restart_adds_no_second_tenant_and_no_second_bootstrap_key(settings, serving):
    async with serving(settings) as clients:
        first = await authenticate(clients, BOOTSTRAP_KEY)
    async with serving(settings) as clients:
        second = await authenticate(clients, BOOTSTRAP_KEY)
        tenants = (await clients.keys.ListTenants(ListTenantsRequest())).tenants
        keys = (await clients.keys.ListApiKeys(ListApiKeysRequest())).keys

    assert first == second
    assert len(tenants) == len(keys) == 1


async def test_a_new_key_is_shown_once_and_works(clients):
    made = await clients.keys.CreateApiKey(CreateApiKeyRequest(name="shop"))

    assert has_secret_form(made.api_key, "sk_live", 40)
    assert has_valid_checksum(made.api_key)
    assert (await authenticate(clients, made.api_key)).key_id == made.key.id
    listed = (await clients.keys.ListApiKeys(ListApiKeysRequest())).keys
    assert [key.name for key in listed] == ["bootstrap", "shop"]
    assert made.api_key.startswith(listed[1].hint)
    assert len(listed[1].hint) < 14


async def test_a_revoked_key_is_invalid_at_once(clients, refusal):
    made = await clients.keys.CreateApiKey(CreateApiKeyRequest())

    revoked = await clients.keys.RevokeApiKey(RevokeApiKeyRequest(id=made.key.id))
    again = await clients.keys.RevokeApiKey(RevokeApiKeyRequest(id=made.key.id))

    assert revoked.HasField("revoked_at")
    assert again == revoked
    refused = await refusal(authenticate(clients, made.api_key))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")


@pytest.mark.parametrize(
    ("api_key", "reason"),
    [
        ("", "UNAUTHORIZED"),
        ("sk_test_" + "A" * 40, "UNAUTHORIZED"),
        ("sk_live_" + "A" * 39, "UNAUTHORIZED"),
        ("sk_live_" + "é" * 40, "UNAUTHORIZED"),
        ("sk_live_" + "C" * 40, "INVALID_API_KEY"),
        pytest.param(new_secret("sk_live", 40), "INVALID_API_KEY", id="unknown"),
    ],
)
async def test_a_key_that_is_nobodys_is_refused(clients, refusal, api_key, reason):
    refused = await refusal(authenticate(clients, api_key))

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_a_suspended_tenants_key_is_refused_with_its_own_reason(clients, refusal):
    tenant = await clients.keys.CreateTenant(CreateTenantRequest(name="shop"))
    made = await clients.keys.CreateApiKey(CreateApiKeyRequest(tenant="shop"))

    suspended = await clients.keys.SetTenantActive(SetTenantActiveRequest(tenant=tenant.id, active=False))

    assert not suspended.active
    refused = await refusal(authenticate(clients, made.api_key))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_INACTIVE")


async def test_a_tenants_name_is_taken_once(clients, refusal):
    refused = await refusal(clients.keys.CreateTenant(CreateTenantRequest(name="default")))

    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "CONFLICT")


async def test_an_unknown_tenant_or_key_is_not_found(clients, refusal):
    refusals = [
        await refusal(clients.keys.CreateApiKey(CreateApiKeyRequest(tenant="nobody"))),
        await refusal(clients.keys.ListApiKeys(ListApiKeysRequest(tenant="nobody"))),
        await refusal(clients.keys.SetTenantActive(SetTenantActiveRequest(tenant="nobody"))),
        await refusal(clients.keys.RevokeApiKey(RevokeApiKeyRequest(id="key_" + "0" * 26))),
        await refusal(clients.keys.RevokeApiKey(RevokeApiKeyRequest(id="nonsense"))),
    ]

    assert {(one.code, one.reason) for one in refusals} == {(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")}


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb", "ten_" + "0" * 26])
async def test_refuses_a_tenants_name_that_can_not_be_used(clients, refusal, name):
    refused = await refusal(clients.keys.CreateTenant(CreateTenantRequest(name=name)))

    assert (refused.reason, refused.fields) == ("VALIDATION_ERROR", ("name",))

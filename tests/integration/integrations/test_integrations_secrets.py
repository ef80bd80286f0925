"""Secrets are in no answer and in no file, and a key ring that does not fit is found at the start."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr

from servicekit.clock import SystemClock
from servicekit.settings import SettingsError
from services.integrations import service
from services.integrations.key_ring import KeyRing
from textway.integrations.v1.integrations_service_pb2 import (
    CreateIntegrationRequest,
    GetIntegrationRequest,
    ListIntegrationsRequest,
    RotateIngressKeyRequest,
)
from textway.integrations.v1.keys_service_pb2 import CreateApiKeyRequest, CreateTenantRequest, ListApiKeysRequest

SIGNING_SECRET = "a-canary-of-a-signing-secret"


async def test_no_answer_holds_a_signing_secret_or_an_api_key(clients, owner):
    new_key = await clients.keys.CreateApiKey(CreateApiKeyRequest())
    made = await clients.integrations.CreateIntegration(
        CreateIntegrationRequest(name="shop", signing_secret=SIGNING_SECRET), metadata=owner
    )

    answers = [
        made,
        await clients.integrations.GetIntegration(GetIntegrationRequest(id=made.id), metadata=owner),
        await clients.integrations.ListIntegrations(ListIntegrationsRequest(), metadata=owner),
        await clients.integrations.RotateIngressKey(RotateIngressKeyRequest(id=made.id), metadata=owner),
        await clients.keys.ListApiKeys(ListApiKeysRequest()),
    ]

    for answer in answers:
        assert SIGNING_SECRET not in str(answer)
        assert new_key.api_key not in str(answer)


async def test_no_file_holds_a_secret_in_the_clear(settings, serving, owner):
    async with serving(settings) as clients:
        new_key = await clients.keys.CreateApiKey(CreateApiKeyRequest())
        made = await clients.integrations.CreateIntegration(
            CreateIntegrationRequest(name="a name to be found", signing_secret=SIGNING_SECRET), metadata=owner
        )
        rotated = await clients.integrations.RotateIngressKey(RotateIngressKeyRequest(id=made.id), metadata=owner)
        files = {path: path.read_bytes() for path in settings.data_dir.rglob("*") if path.is_file()}

    everything = b"".join(files.values())
    assert b"a name to be found" in everything
    for secret in (
        SIGNING_SECRET,
        new_key.api_key,
        made.ingress_key,
        rotated.ingress_key,
        dict(owner)["authorization"],
    ):
        tail = secret.removeprefix("Bearer ").encode()
        for form in (tail, base64.b64encode(tail), base64.urlsafe_b64encode(tail), tail.hex().encode()):
            assert form not in everything


async def test_no_log_line_holds_a_secret(settings, serving, owner, capsys):
    async with serving(settings) as clients:
        new_key = await clients.keys.CreateApiKey(CreateApiKeyRequest())
        made = await clients.integrations.CreateIntegration(
            CreateIntegrationRequest(name="shop", signing_secret=SIGNING_SECRET), metadata=owner
        )

    printed = "".join(capsys.readouterr())
    for secret in (SIGNING_SECRET, new_key.api_key, made.ingress_key):
        assert secret not in printed


async def test_secrets_survive_a_rotation_of_the_key_ring(settings, serving, owner):
    async with serving(settings) as clients:
        made = await clients.integrations.CreateIntegration(
            CreateIntegrationRequest(name="shop", signing_secret=SIGNING_SECRET), metadata=owner
        )

    count = await service.rotate_key_ring(settings)

    old, new = settings.key_ring_path.read_text().splitlines()[::-1]
    assert count == 2
    assert old != new
    # The new key alone opens everything, so that the old one may be dropped once no backup needs it.
    settings.key_ring_path.write_text(f"{new}\n")
    async with serving(settings) as clients:
        assert await clients.integrations.GetIntegration(GetIntegrationRequest(id=made.id), metadata=owner) == made


async def test_refuses_to_start_with_a_key_ring_that_does_not_open_what_is_stored(settings, serving, owner):
    async with serving(settings) as clients:
        await clients.integrations.CreateIntegration(CreateIntegrationRequest(name="shop"), metadata=owner)
    settings.key_ring_path.unlink()

    with pytest.raises(SettingsError, match="missing"):
        await service.build(settings, SystemClock())
    KeyRing.open(settings.key_ring_path)
    with pytest.raises(SettingsError, match="does not open 1 of the stored secrets"):
        await service.build(settings, SystemClock())


async def test_refuses_to_start_before_the_schema_is_there(settings):
    with pytest.raises(SettingsError, match="textway migrate"):
        await service.build(settings, SystemClock())


async def test_refuses_a_bootstrap_key_of_another_tenant(settings, serving):
    async with serving(settings) as clients:
        await clients.keys.CreateTenant(CreateTenantRequest(name="other"))
        theirs = await clients.keys.CreateApiKey(CreateApiKeyRequest(tenant="other"))

    with pytest.raises(SettingsError, match="TEXTWAY_BOOTSTRAP_KEY"):
        async with serving(settings.model_copy(update={"bootstrap_key": SecretStr(theirs.api_key)})):
            pass

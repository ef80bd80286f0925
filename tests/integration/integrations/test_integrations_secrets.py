"""Secrets are in no answer and in no file, and a key ring that does not fit is found at the start."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr

from servicekit.clock import SystemClock
from servicekit.settings import SettingsError
from services.integrations import maintenance, service
from services.integrations.key_ring import KeyRing
from textway.integrations.v1.integrations_service_pb2 import (
    CreateIntegrationRequest,
    GetIntegrationRequest,
    ListIntegrationsRequest,
    RotateIngressKeyRequest,
    UpdateIntegrationRequest,
)
from textway.integrations.v1.keys_service_pb2 import (
    CreateApiKeyRequest,
    CreateTenantRequest,
    ListApiKeysRequest,
    ListTenantsRequest,
)
from textway.integrations.v1.registry_service_pb2 import DisableWebhookTargetRequest, GetWebhookTargetsRequest
from textway.integrations.v1.webhooks_service_pb2 import (
    DeleteWebhookRequest,
    GetWebhookRequest,
    PutWebhookRequest,
    RotateWebhookSecretRequest,
)

SIGNING_SECRET = "a-canary-of-a-signing-secret"
NEW_SIGNING_SECRET = "a-canary-of-a-newer-signing-secret"
WEBHOOK = PutWebhookRequest(url="https://receiver.example/a-canary-of-a-token")


async def tenant_id(clients):
    (tenant,) = (await clients.keys.ListTenants(ListTenantsRequest())).tenants
    return tenant.id


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
        await clients.integrations.UpdateIntegration(
            UpdateIntegrationRequest(id=made.id, signing_secret=NEW_SIGNING_SECRET), metadata=owner
        ),
        await clients.keys.ListApiKeys(ListApiKeysRequest()),
    ]

    for answer in answers:
        assert SIGNING_SECRET not in str(answer)
        assert NEW_SIGNING_SECRET not in str(answer)
        assert new_key.api_key not in str(answer)


async def test_a_webhooks_secret_is_in_one_answer_only(clients, owner):
    first = await clients.webhooks.PutWebhook(WEBHOOK, metadata=owner)
    rotated = await clients.webhooks.RotateWebhookSecret(RotateWebhookSecretRequest(), metadata=owner)

    later = [
        await clients.webhooks.GetWebhook(GetWebhookRequest(), metadata=owner),
        await clients.webhooks.PutWebhook(WEBHOOK, metadata=owner),
        await clients.webhooks.RotateWebhookSecret(RotateWebhookSecretRequest(), metadata=owner),
        await clients.webhooks.DeleteWebhook(DeleteWebhookRequest(), metadata=owner),
    ]

    for secret in (first.signing_secret, rotated.signing_secret):
        assert secret.startswith("whsec_")
        assert all(secret not in str(answer) for answer in later)


async def test_no_file_holds_a_secret_in_the_clear(settings, serving, owner):
    async with serving(settings) as clients:
        new_key = await clients.keys.CreateApiKey(CreateApiKeyRequest())
        made = await clients.integrations.CreateIntegration(
            CreateIntegrationRequest(name="a name to be found", signing_secret=SIGNING_SECRET), metadata=owner
        )
        rotated = await clients.integrations.RotateIngressKey(RotateIngressKeyRequest(id=made.id), metadata=owner)
        await clients.integrations.UpdateIntegration(
            UpdateIntegrationRequest(id=made.id, signing_secret=NEW_SIGNING_SECRET), metadata=owner
        )
        webhook = await clients.webhooks.PutWebhook(WEBHOOK, metadata=owner)
        new_webhook_secret = await clients.webhooks.RotateWebhookSecret(
            RotateWebhookSecretRequest(), metadata=(*owner, ("idempotency-key", "k"))
        )
        files = {path: path.read_bytes() for path in settings.data_dir.rglob("*") if path.is_file()}

    everything = b"".join(files.values())
    assert b"a name to be found" in everything
    for secret in (
        SIGNING_SECRET,
        NEW_SIGNING_SECRET,
        webhook.signing_secret,
        new_webhook_secret.signing_secret,
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
        webhook = await clients.webhooks.PutWebhook(WEBHOOK, metadata=owner)
        rotated = await clients.webhooks.RotateWebhookSecret(RotateWebhookSecretRequest(), metadata=owner)
        await clients.registry.GetWebhookTargets(GetWebhookTargetsRequest(integration_id=made.id))
        disabling = DisableWebhookTargetRequest(tenant_id=(await tenant_id(clients)), url=WEBHOOK.url, reason="Gone.")
        await clients.registry.DisableWebhookTarget(disabling)

    printed = "".join(capsys.readouterr())
    assert "webhook disabled" in printed
    assert "a-canary-of-a-token" not in printed
    for secret in (
        *(SIGNING_SECRET, new_key.api_key, made.ingress_key),
        *(webhook.signing_secret, rotated.signing_secret),
    ):
        assert secret not in printed


async def test_secrets_survive_a_rotation_of_the_key_ring(settings, serving, owner):
    async with serving(settings) as clients:
        made = await clients.integrations.CreateIntegration(
            CreateIntegrationRequest(name="shop", signing_secret=SIGNING_SECRET), metadata=owner
        )
        made = await clients.integrations.UpdateIntegration(
            UpdateIntegrationRequest(id=made.id, signing_secret=NEW_SIGNING_SECRET), metadata=owner
        )
        await clients.webhooks.PutWebhook(WEBHOOK, metadata=owner)
        await clients.webhooks.RotateWebhookSecret(RotateWebhookSecretRequest(), metadata=owner)
        asked = GetWebhookTargetsRequest(tenant_id=(await tenant_id(clients)), integration_id=made.id)
        targets = await clients.registry.GetWebhookTargets(asked)

    count = await maintenance.rotate_key_ring(settings)

    old, new = settings.key_ring_path.read_text().splitlines()[::-1]
    assert count == 5
    assert old != new
    # The new key alone opens everything, so that the old one may be dropped once no backup needs it.
    settings.key_ring_path.write_text(f"{new}\n")
    async with serving(settings) as clients:
        assert await clients.integrations.GetIntegration(GetIntegrationRequest(id=made.id), metadata=owner) == made
        assert await clients.registry.GetWebhookTargets(asked) == targets
    assert [len(target.secrets) for target in (targets.webhook, targets.integration.outbound)] == [2, 2]


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
    (settings.data_dir / "integrations.db").unlink()

    with pytest.raises(SettingsError, match="textway migrate"):
        await service.build(settings, SystemClock())


async def test_refuses_a_bootstrap_key_of_another_tenant(settings, serving):
    async with serving(settings) as clients:
        await clients.keys.CreateTenant(CreateTenantRequest(name="other"))
        theirs = await clients.keys.CreateApiKey(CreateApiKeyRequest(tenant="other"))

    with pytest.raises(SettingsError, match="TEXTWAY_BOOTSTRAP_KEY"):
        async with serving(settings.model_copy(update={"bootstrap_key": SecretStr(theirs.api_key)})):
            pass

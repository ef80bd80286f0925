"""What a tenant can do with its webhook and its outbound URLs, and what Delivery learns of them, over real gRPC."""

from __future__ import annotations

import base64

import grpc
import pytest

from textway.integrations.v1.integrations_service_pb2 import (
    CreateIntegrationRequest,
    GetIntegrationRequest,
    ReplaceIntegrationRequest,
    UpdateIntegrationRequest,
)
from textway.integrations.v1.keys_service_pb2 import ListTenantsRequest
from textway.integrations.v1.registry_service_pb2 import DisableWebhookTargetRequest, GetWebhookTargetsRequest
from textway.integrations.v1.webhooks_service_pb2 import (
    DeleteWebhookRequest,
    GetWebhookRequest,
    PutWebhookRequest,
    RotateWebhookSecretRequest,
)

URL = "https://receiver.example/hooks"
GONE = "The endpoint answered 410 Gone."
NO_KEY = (("authorization", "Bearer sk_live_" + "B" * 40),)


async def default_tenant(clients):
    tenants = (await clients.keys.ListTenants(ListTenantsRequest())).tenants
    return next(tenant.id for tenant in tenants if tenant.name == "default")


async def put(clients, metadata, url=URL, **fields):
    return await clients.webhooks.PutWebhook(PutWebhookRequest(url=url, **fields), metadata=metadata)


async def get(clients, metadata):
    return await clients.webhooks.GetWebhook(GetWebhookRequest(), metadata=metadata)


async def rotate(clients, metadata, **fields):
    return await clients.webhooks.RotateWebhookSecret(RotateWebhookSecretRequest(**fields), metadata=metadata)


async def targets(clients, integration_id=""):
    request = GetWebhookTargetsRequest(tenant_id=await default_tenant(clients), integration_id=integration_id)
    return await clients.registry.GetWebhookTargets(request)


async def disable(clients, integration_id="", url=URL, reason=GONE, **fields):
    answer = await clients.registry.DisableWebhookTarget(
        DisableWebhookTargetRequest(
            tenant_id=await default_tenant(clients), integration_id=integration_id, url=url, reason=reason, **fields
        )
    )
    return answer.is_disabled


async def create(clients, metadata, **fields):
    return await clients.integrations.CreateIntegration(
        CreateIntegrationRequest(name="shop", **fields), metadata=metadata
    )


async def patch(clients, metadata, made, **fields):
    return await clients.integrations.UpdateIntegration(
        UpdateIntegrationRequest(id=made.id, **fields), metadata=metadata
    )


async def read(clients, metadata, made):
    return await clients.integrations.GetIntegration(GetIntegrationRequest(id=made.id), metadata=metadata)


def seconds_between(earlier, later):
    return (later.ToMilliseconds() - earlier.ToMilliseconds()) / 1000


# The forward-all webhook


async def test_the_first_call_answers_with_the_secret_and_the_next_ones_do_not(clients, owner):
    first = await put(clients, owner)

    again = await put(clients, owner)
    read_back = await get(clients, owner)

    assert len(base64.b64decode(first.signing_secret.removeprefix("whsec_"), validate=True)) == 32
    assert (first.url, first.enabled, list(first.events)) == (URL, True, ["message.received"])
    assert first.created_at == first.updated_at
    assert not any(answer.HasField("signing_secret") for answer in (again, read_back))
    assert again == read_back
    assert again.created_at == first.created_at
    for field in ("disabled_at", "disabled_reason", "missed_since", "previous_secret_expires_at"):
        assert not read_back.HasField(field)
    assert [secret.secret for secret in (await targets(clients)).webhook.secrets] == [first.signing_secret]


async def test_put_replaces_the_whole(clients, owner):
    await put(clients, owner, events=["message.failed", "message.received"], enabled=False)
    off = await get(clients, owner)

    on = await put(clients, owner, url="https://other.example/")

    assert (off.enabled, list(off.events)) == (False, ["message.received", "message.failed"])
    assert off.HasField("disabled_at")
    assert "switched off" in off.disabled_reason
    assert (on.url, on.enabled, list(on.events)) == ("https://other.example/", True, ["message.received"])
    assert on.missed_since == off.disabled_at


async def test_without_a_webhook_there_is_nothing_to_read_rotate_or_delete(clients, owner, stranger, refusal):
    await put(clients, stranger)

    refusals = [
        await refusal(get(clients, owner)),
        await refusal(rotate(clients, owner)),
        await refusal(clients.webhooks.DeleteWebhook(DeleteWebhookRequest(), metadata=owner)),
    ]

    assert {(one.code, one.reason) for one in refusals} == {(grpc.StatusCode.NOT_FOUND, "NO_WEBHOOK_CONFIG")}
    assert "PUT /v1/webhooks" in refusals[0].message


async def test_a_deleted_webhook_is_gone_and_the_next_has_another_secret(clients, owner, refusal):
    first = await put(clients, owner)

    await clients.webhooks.DeleteWebhook(DeleteWebhookRequest(), metadata=owner)

    assert (await refusal(get(clients, owner))).reason == "NO_WEBHOOK_CONFIG"
    assert not (await targets(clients)).HasField("webhook")
    anew = await put(clients, owner)
    assert anew.signing_secret not in ("", first.signing_secret)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"url": ""}, ("url",)),
        ({"url": "http://receiver.example/"}, ("url",)),
        ({"url": "https://127.0.0.1/"}, ("url",)),
        ({"url": "https://localhost/"}, ("url",)),
        ({"events": ["message.queued"]}, ("events",)),
        ({"url": "ftp://x", "events": [""]}, ("url", "events")),
    ],
)
async def test_refuses_a_webhook_that_can_not_be_used_and_stores_nothing(clients, owner, refusal, fields, wrong):
    refused = await refusal(put(clients, owner, **fields))

    assert (refused.reason, refused.fields) == ("VALIDATION_ERROR", wrong)
    assert (await refusal(get(clients, owner))).reason == "NO_WEBHOOK_CONFIG"


async def test_refuses_callers_without_a_good_key(clients, owner, refusal):
    await put(clients, owner)

    for call in (
        put(clients, NO_KEY),
        get(clients, NO_KEY),
        rotate(clients, NO_KEY),
        clients.webhooks.DeleteWebhook(DeleteWebhookRequest(), metadata=NO_KEY),
    ):
        assert (await refusal(call)).code == grpc.StatusCode.UNAUTHENTICATED
    assert (await get(clients, owner)).url == URL


async def test_both_secrets_sign_during_the_overlap(clients, owner):
    first = await put(clients, owner)

    rotated = await rotate(clients, owner, overlap_seconds=60)

    newest, old = (await targets(clients)).webhook.secrets
    shown = await get(clients, owner)
    assert (newest.secret, newest.HasField("expires_at")) == (rotated.signing_secret, False)
    assert (old.secret, old.expires_at) == (first.signing_secret, rotated.previous_secret_expires_at)
    assert shown.previous_secret_expires_at == rotated.previous_secret_expires_at
    assert seconds_between(shown.updated_at, old.expires_at) == 60


async def test_the_overlap_is_a_day_and_nought_cuts_the_old_secret_off(clients, owner, refusal):
    await put(clients, owner)

    a_day = await rotate(clients, owner)
    shown = await get(clients, owner)
    cut_off = await rotate(clients, owner, overlap_seconds=0)

    assert seconds_between(shown.updated_at, a_day.previous_secret_expires_at) == 86_400
    assert [secret.secret for secret in (await targets(clients)).webhook.secrets] == [cut_off.signing_secret]
    assert not (await get(clients, owner)).HasField("previous_secret_expires_at")
    for seconds in (-1, 604_801):
        refused = await refusal(rotate(clients, owner, overlap_seconds=seconds))
        assert (refused.reason, refused.fields) == ("VALIDATION_ERROR", ("overlapSeconds",))


async def test_a_repeated_rotation_answers_as_the_first_and_rotates_once(clients, owner, refusal):
    await put(clients, owner)
    with_key = (*owner, ("idempotency-key", "rotate-in-june"))

    call = clients.webhooks.RotateWebhookSecret(RotateWebhookSecretRequest(), metadata=with_key)
    first, first_headers = await call, dict(await call.initial_metadata())
    call = clients.webhooks.RotateWebhookSecret(RotateWebhookSecretRequest(), metadata=with_key)
    again, headers = await call, dict(await call.initial_metadata())
    other = await refusal(rotate(clients, with_key, overlap_seconds=0))

    assert first == again
    assert (first_headers.get("idempotent-replay"), headers["idempotent-replay"]) == (None, "true")
    assert other.reason == "IDEMPOTENCY_MISMATCH"
    assert (await targets(clients)).webhook.secrets[0].secret == first.signing_secret


async def test_a_webhook_that_was_disabled_says_so_until_it_is_enabled_again(clients, owner):
    made = await put(clients, owner)
    since = made.created_at

    assert await disable(clients, failing_since=since)
    disabled = await get(clients, owner)
    assert await disable(clients, reason="again")
    still = await get(clients, owner)
    told = (await targets(clients)).webhook
    enabled = await put(clients, owner)

    assert (disabled.enabled, disabled.disabled_reason) == (False, GONE)
    assert still == disabled
    assert (told.url, told.enabled) == (URL, False)
    assert (enabled.enabled, enabled.missed_since) == (True, since)
    assert not (await get(clients, owner)).HasField("missed_since")


async def test_a_webhook_with_another_url_by_now_is_not_disabled(clients, owner):
    await put(clients, owner, url="https://other.example/")

    assert not await disable(clients)

    assert (await get(clients, owner)).enabled


# Integrations


async def test_put_and_patch_set_keep_and_reset_what_is_told_and_for_how_long(clients, owner):
    fields = {"outbound_events": ["message.sent", "message.received"], "reply_window_seconds": 3_600}
    made = await create(clients, owner, outbound_url=URL, **fields)

    patched = await patch(clients, owner, made, reply_window_seconds=60)
    default = await patch(clients, owner, made, reply_window_seconds=0, outbound_events=["message.failed"])
    reset = await clients.integrations.ReplaceIntegration(
        ReplaceIntegrationRequest(id=made.id, name="shop"), metadata=owner
    )

    def told(integration):
        return list(integration.outbound_events), integration.reply_window_seconds

    assert told(made) == (["message.received", "message.sent"], 3_600)
    assert told(patched) == (["message.received", "message.sent"], 60)
    assert told(default) == (["message.failed"], 0)
    assert told(reset) == (["message.received"], 0)


async def test_a_new_signing_secret_leaves_the_old_one_working_for_the_overlap(clients, owner):
    made = await create(clients, owner, signing_secret="the first secret")

    patched = await patch(clients, owner, made, signing_secret="the second secret")
    repeated = await patch(clients, owner, made, signing_secret="the second secret")
    replaced = await clients.integrations.ReplaceIntegration(
        ReplaceIntegrationRequest(
            id=made.id, name="shop", signing_secret="the third secret", signing_secret_overlap_seconds=60
        ),
        metadata=owner,
    )
    both = (await targets(clients, made.id)).integration.outbound.secrets
    cut_off = await patch(clients, owner, made, signing_secret_overlap_seconds=0)

    assert seconds_between(patched.updated_at, patched.previous_signing_secret_expires_at) == 86_400
    assert repeated.previous_signing_secret_expires_at == patched.previous_signing_secret_expires_at
    assert seconds_between(replaced.updated_at, replaced.previous_signing_secret_expires_at) == 60
    assert [secret.secret for secret in both] == ["the third secret", "the second secret"]
    assert cut_off.signed
    assert not cut_off.HasField("previous_signing_secret_expires_at")
    assert len((await targets(clients, made.id)).integration.outbound.secrets) == 1


async def test_an_empty_signing_secret_removes_the_old_one_too(clients, owner):
    made = await create(clients, owner, signing_secret="the first secret")
    await patch(clients, owner, made, signing_secret="the second secret")

    removed = await patch(clients, owner, made, signing_secret="")

    assert not removed.signed
    assert not removed.HasField("previous_signing_secret_expires_at")
    assert list((await targets(clients, made.id)).integration.outbound.secrets) == []


@pytest.mark.parametrize("again", [{"outbound_enabled": True}, {"outbound_url": URL}, {"outbound_url": f"{URL}/2"}])
async def test_an_outbound_url_that_was_disabled_says_so_until_it_is_enabled_again(clients, owner, again):
    made = await create(clients, owner, outbound_url=URL)

    assert await disable(clients, made.id, failing_since=made.created_at)
    disabled = await read(clients, owner, made)
    assert await disable(clients, made.id, reason="again")
    renamed = await patch(clients, owner, made, name="another name")
    told = (await targets(clients, made.id)).integration.outbound
    enabled = await patch(clients, owner, made, **again)

    assert (disabled.outbound_enabled, disabled.outbound_disabled_reason) == (False, GONE)
    assert renamed.outbound_disabled_at == disabled.outbound_disabled_at
    assert (renamed.outbound_enabled, renamed.outbound_disabled_reason) == (False, GONE)
    assert (told.url, told.enabled) == (URL, False)
    assert (enabled.outbound_enabled, enabled.HasField("outbound_disabled_at")) == (True, False)
    assert enabled.outbound_missed_since == made.created_at
    assert not (await read(clients, owner, made)).HasField("outbound_missed_since")


async def test_replacing_an_integration_enables_its_url_unless_it_says_otherwise(clients, owner):
    made = await create(clients, owner, outbound_url=URL, outbound_enabled=False)
    whole = {"id": made.id, "name": "shop", "outbound_url": URL}
    api = clients.integrations

    still_off = await api.ReplaceIntegration(ReplaceIntegrationRequest(**whole, outbound_enabled=False), metadata=owner)
    on = await api.ReplaceIntegration(ReplaceIntegrationRequest(**whole), metadata=owner)

    assert (made.outbound_enabled, still_off.outbound_enabled, on.outbound_enabled) == (False, False, True)
    assert still_off.outbound_disabled_at == made.outbound_disabled_at == on.outbound_missed_since
    assert "switched off" in made.outbound_disabled_reason


async def test_an_integration_that_is_gone_or_calls_elsewhere_is_not_disabled(clients, owner):
    made = await create(clients, owner, outbound_url="https://other.example/")

    assert not await disable(clients, made.id)
    assert not await disable(clients, "wkh_" + "0" * 26)

    assert (await read(clients, owner, made)).outbound_enabled


# Where events go


async def test_delivery_learns_where_events_of_an_integration_go(clients, owner):
    webhook = await put(clients, owner, url="https://all.example/", events=["message.received", "message.failed"])
    made = await create(clients, owner, outbound_url=URL, signing_secret="a good secret", reply_window_seconds=60)

    told = await targets(clients, made.id)

    assert (told.integration.id, told.integration.name) == (made.id, "shop")
    assert told.integration.reply_window_seconds == 60
    outbound = told.integration.outbound
    assert (outbound.url, outbound.enabled, list(outbound.events)) == (URL, True, ["message.received"])
    assert [secret.secret for secret in outbound.secrets] == ["a good secret"]
    assert (told.webhook.url, told.webhook.enabled) == ("https://all.example/", True)
    assert list(told.webhook.events) == ["message.received", "message.failed"]
    assert [secret.secret for secret in told.webhook.secrets] == [webhook.signing_secret]


async def test_what_is_another_tenants_or_unknown_is_unset(clients, owner, stranger):
    theirs = await create(clients, stranger, outbound_url=URL)
    await put(clients, stranger)

    for integration_id in ("", theirs.id, "wkh_" + "0" * 26, "nonsense"):
        told = await targets(clients, integration_id)
        assert (told.HasField("integration"), told.HasField("webhook")) == (False, False)

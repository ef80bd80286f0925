"""What a tenant can do with its integrations, over real gRPC."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import grpc
import pytest

from servicekit import paging
from servicekit.ids import has_secret_form, has_valid_checksum, is_id
from textway.integrations.v1.integration_pb2 import Dedupe
from textway.integrations.v1.integrations_service_pb2 import (
    CreateIntegrationRequest,
    DeleteIntegrationRequest,
    GetIntegrationRequest,
    ListIntegrationsRequest,
    ReplaceIntegrationRequest,
    RotateIngressKeyRequest,
    UpdateIntegrationRequest,
)
from textway.integrations.v1.keys_service_pb2 import SetTenantActiveRequest
from textway.integrations.v1.registry_service_pb2 import ResolveIngressKeyRequest

UNKNOWN_ID = "wkh_" + "0" * 26


def resolve(clients, ingress_key):
    return clients.registry.ResolveIngressKey(ResolveIngressKeyRequest(sha256=sha256(ingress_key.encode()).digest()))


async def test_creates_an_integration_with_the_presets_defaults(clients, owner):
    call = clients.integrations.CreateIntegration(
        CreateIntegrationRequest(name="  Order system ", preset="generic"), metadata=owner
    )
    made = await call

    assert dict(await call.initial_metadata())["x-http-status"] == "201"
    assert is_id(made.id, "wkh")
    assert has_secret_form(made.ingress_key, "ig", 32)
    assert has_valid_checksum(made.ingress_key)
    assert made.ingress_url == f"https://sms.example/v1/ingress/{made.ingress_key}"
    assert (made.name, made.preset) == ("Order system", "generic")
    assert (made.to_path, made.text_path, made.ref_path) == ("to", "text", "ref")
    assert made.for_each == ""
    assert (made.signed, made.signing_header) == (False, "X-Webhook-Signature")
    assert (made.outbound_url, made.default_region) == ("", "")
    assert (made.priority, made.on_unknown, made.HasField("dedupe")) == ("normal", "resend", False)
    assert (getattr(made, "from"), made.tag, made.max_segments, made.on_overflow) == ("", "", 0, "reject")
    assert (list(made.outbound_events), made.outbound_enabled) == (["message.received"], True)
    assert made.reply_window_seconds == 0
    for field in ("outbound_disabled_at", "outbound_disabled_reason", "outbound_missed_since"):
        assert not made.HasField(field)
    assert not made.HasField("previous_signing_secret_expires_at")
    assert made.created_at == made.updated_at


async def test_reads_back_what_was_created(clients, owner):
    made = await clients.integrations.CreateIntegration(CreateIntegrationRequest(name="中文 Ünïcode"), metadata=owner)

    assert await clients.integrations.GetIntegration(GetIntegrationRequest(id=made.id), metadata=owner) == made


async def test_lists_newest_first_in_pages(clients, owner):
    made = [
        await clients.integrations.CreateIntegration(CreateIntegrationRequest(name=f"number {n}"), metadata=owner)
        for n in range(5)
    ]

    first = await clients.integrations.ListIntegrations(ListIntegrationsRequest(page_size=3), metadata=owner)
    rest = await clients.integrations.ListIntegrations(
        ListIntegrationsRequest(page_size=3, page_token=first.next_page_token), metadata=owner
    )

    assert sorted(one.id for one in [*first.integrations, *rest.integrations]) == sorted(one.id for one in made)
    times = [one.created_at.ToMilliseconds() for one in [*first.integrations, *rest.integrations]]
    assert times == sorted(times, reverse=True)
    assert len(first.integrations) == 3
    assert rest.next_page_token == ""


async def test_ends_a_page_that_one_answer_could_not_carry(clients, owner, monkeypatch):
    for number in range(3):
        await clients.integrations.CreateIntegration(CreateIntegrationRequest(name=f"number {number}"), metadata=owner)
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 1)

    seen, token = [], ""
    while token or not seen:
        request = ListIntegrationsRequest(page_size=3, page_token=token)
        page = await clients.integrations.ListIntegrations(request, metadata=owner)
        seen += [integration.name for integration in page.integrations]
        token = page.next_page_token

    assert sorted(seen) == ["number 0", "number 1", "number 2"]


@pytest.mark.parametrize("page_size", [0, -1, 1001])
async def test_refuses_a_page_size_that_is_out_of_bounds(clients, owner, refusal, page_size):
    refused = await refusal(
        clients.integrations.ListIntegrations(ListIntegrationsRequest(page_size=page_size), metadata=owner)
    )

    assert (refused.reason, refused.fields) == ("VALIDATION_ERROR", ("pageSize",))


async def test_put_resets_what_is_left_out_but_keeps_the_signing_secret(clients, owner):
    made = await clients.integrations.CreateIntegration(
        CreateIntegrationRequest(
            name="shop", to_path="customer.phone", signing_secret="a good secret", default_region="sg"
        ),
        metadata=owner,
    )

    put = await clients.integrations.ReplaceIntegration(
        ReplaceIntegrationRequest(id=made.id, name="shop 2", text_path="body"), metadata=owner
    )

    assert (made.to_path, made.default_region, made.signed) == ("customer.phone", "SG", True)
    assert (put.name, put.to_path, put.text_path, put.default_region) == ("shop 2", "to", "body", "")
    assert put.signed
    assert put.ingress_key == made.ingress_key
    assert put.updated_at.ToMilliseconds() >= made.updated_at.ToMilliseconds()


@pytest.mark.parametrize("request_type", [ReplaceIntegrationRequest, UpdateIntegrationRequest])
async def test_an_empty_signing_secret_removes_the_signature(clients, owner, request_type):
    made = await clients.integrations.CreateIntegration(
        CreateIntegrationRequest(name="shop", signing_secret="a good secret"), metadata=owner
    )
    methods = {
        ReplaceIntegrationRequest: clients.integrations.ReplaceIntegration,
        UpdateIntegrationRequest: clients.integrations.UpdateIntegration,
    }

    changed = await methods[request_type](request_type(id=made.id, name="shop", signing_secret=""), metadata=owner)

    assert not changed.signed
    resolved = await resolve(clients, made.ingress_key)
    assert list(resolved.integration.signing_secrets) == []


async def test_patch_changes_only_what_is_named(clients, owner):
    made = await clients.integrations.CreateIntegration(
        CreateIntegrationRequest(
            name="shop",
            to_path="a",
            text_path="b",
            ref_path="",
            signing_header="X-Sig",
            outbound_url="https://a.example/",
        ),
        metadata=owner,
    )

    patched = await clients.integrations.UpdateIntegration(
        UpdateIntegrationRequest(id=made.id, text_path="c", outbound_url=""), metadata=owner
    )

    patched_fields = (patched.name, patched.to_path, patched.text_path, patched.ref_path)
    assert patched_fields == ("shop", "a", "c", "")
    assert (patched.signing_header, patched.outbound_url) == ("X-Sig", "")


async def test_patch_that_names_nothing_changes_nothing(clients, owner):
    made = await clients.integrations.CreateIntegration(CreateIntegrationRequest(name="shop"), metadata=owner)

    patched = await clients.integrations.UpdateIntegration(UpdateIntegrationRequest(id=made.id), metadata=owner)

    assert patched == made


async def test_put_and_patch_set_keep_and_reset_how_messages_are_sent(clients, owner):
    api = clients.integrations
    made = await api.CreateIntegration(
        CreateIntegrationRequest(name="shop", priority="high", on_unknown="hold", dedupe=Dedupe(key="$.order.id")),
        metadata=owner,
    )

    patched = await api.UpdateIntegration(UpdateIntegrationRequest(id=made.id, priority="low"), metadata=owner)
    removed = await api.UpdateIntegration(UpdateIntegrationRequest(id=made.id, dedupe=Dedupe()), metadata=owner)
    put = await api.ReplaceIntegration(ReplaceIntegrationRequest(id=made.id, name="shop"), metadata=owner)

    rule = Dedupe(key="$.order.id", window_seconds=86_400, mode="suppress")
    assert (made.priority, made.on_unknown, made.dedupe) == ("high", "hold", rule)
    assert (patched.priority, patched.on_unknown, patched.dedupe) == ("low", "hold", rule)
    assert (removed.priority, removed.HasField("dedupe")) == ("low", False)
    assert (put.priority, put.on_unknown, put.HasField("dedupe")) == ("normal", "resend", False)


def how_sent(integration) -> tuple[str, str, int, str]:
    return getattr(integration, "from"), integration.tag, integration.max_segments, integration.on_overflow


async def test_put_and_patch_set_keep_and_reset_sender_tag_and_limit(clients, owner):
    api = clients.integrations
    fields = {"from": "ACME", "tag": "alerts", "max_segments": 2, "on_overflow": "truncate"}
    made = await api.CreateIntegration(CreateIntegrationRequest(name="shop", **fields), metadata=owner)

    patched = await api.UpdateIntegration(
        UpdateIntegrationRequest(id=made.id, max_segments=1, on_overflow="transliterate"), metadata=owner
    )
    cleared = await api.UpdateIntegration(
        UpdateIntegrationRequest(id=made.id, tag="", max_segments=0, **{"from": ""}), metadata=owner
    )
    replaced = await api.ReplaceIntegration(
        ReplaceIntegrationRequest(id=made.id, name="shop", **fields), metadata=owner
    )
    reset = await api.ReplaceIntegration(ReplaceIntegrationRequest(id=made.id, name="shop"), metadata=owner)

    assert how_sent(made) == ("ACME", "alerts", 2, "truncate")
    assert how_sent(patched) == ("ACME", "alerts", 1, "transliterate")
    assert how_sent(cleared) == ("", "", 0, "transliterate")
    assert how_sent(replaced) == how_sent(made)
    assert how_sent(reset) == ("", "", 0, "reject")


async def test_put_and_patch_set_keep_and_reset_where_the_items_are(clients, owner):
    api = clients.integrations
    made = await api.CreateIntegration(CreateIntegrationRequest(name="shop", for_each="$.alerts[*]"), metadata=owner)

    kept = await api.UpdateIntegration(UpdateIntegrationRequest(id=made.id, name="other"), metadata=owner)
    patched = await api.UpdateIntegration(UpdateIntegrationRequest(id=made.id, for_each="items"), metadata=owner)
    cleared = await api.UpdateIntegration(UpdateIntegrationRequest(id=made.id, for_each=""), metadata=owner)
    replaced = await api.ReplaceIntegration(
        ReplaceIntegrationRequest(id=made.id, name="shop", for_each="a.b[*]"), metadata=owner
    )
    learned = (await resolve(clients, made.ingress_key)).integration
    reset = await api.ReplaceIntegration(ReplaceIntegrationRequest(id=made.id, name="shop"), metadata=owner)

    asked = ("$.alerts[*]", "$.alerts[*]", "items", "", "a.b[*]", "")
    assert tuple(each.for_each for each in (made, kept, patched, cleared, replaced, reset)) == asked
    assert learned.for_each == "a.b[*]"


async def test_the_other_services_learn_how_messages_are_sent(clients, owner):
    made = await clients.integrations.CreateIntegration(
        CreateIntegrationRequest(
            name="shop",
            priority="low",
            on_unknown="hold",
            dedupe=Dedupe(key="$.order.id", window_seconds=60, mode="annotate"),
            tag="alerts",
            max_segments=3,
            on_overflow="transliterate",
            **{"from": "+6598765432"},
        ),
        metadata=owner,
    )

    config = (await resolve(clients, made.ingress_key)).integration

    assert (config.priority, config.on_unknown) == ("low", "hold")
    assert (config.sender, config.tag) == ("+6598765432", "alerts")
    assert (config.max_segments, config.on_overflow) == (3, "transliterate")
    assert (config.dedupe_key, config.dedupe_window_seconds, config.dedupe_mode) == ("$.order.id", 60, "annotate")


async def test_lists_every_wrong_field_at_once(clients, owner, refusal):
    refused = await refusal(
        clients.integrations.CreateIntegration(
            CreateIntegrationRequest(
                name="",
                preset="nope",
                to_path="$..*",
                text_path="",
                ref_path="a[",
                for_each="$.a[*].b[*].c[*]",
                signing_secret="short",
                signing_header="Host",
                outbound_url="ftp://x",
                default_region="XX",
                priority="urgent",
                on_unknown="guess",
                dedupe=Dedupe(key="$..id", window_seconds=-1, mode="drop"),
                tag="x" * 65,
                max_segments=21,
                on_overflow="shorten",
                outbound_events=["message.queued"],
                reply_window_seconds=59,
                **{"from": "1234567890"},
            ),
            metadata=owner,
        )
    )

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR")
    assert set(refused.fields) == {
        "name",
        "preset",
        "toPath",
        "textPath",
        "refPath",
        "forEach",
        "signingSecret",
        "signingHeader",
        "outboundUrl",
        "defaultRegion",
        "priority",
        "onUnknown",
        "dedupe.key",
        "dedupe.windowSeconds",
        "dedupe.mode",
        "from",
        "tag",
        "maxSegments",
        "onOverflow",
        "outboundEvents",
        "replyWindowSeconds",
    }
    assert "generic" in refused.message


async def test_delete_cuts_the_address_off_at_once(clients, owner, refusal):
    made = await clients.integrations.CreateIntegration(CreateIntegrationRequest(name="shop"), metadata=owner)

    await clients.integrations.DeleteIntegration(DeleteIntegrationRequest(id=made.id), metadata=owner)

    assert (await refusal(resolve(clients, made.ingress_key))).reason == "NOT_FOUND"
    again = await refusal(clients.integrations.DeleteIntegration(DeleteIntegrationRequest(id=made.id), metadata=owner))
    assert again.reason == "NOT_FOUND"


async def test_a_rotated_address_works_for_the_overlap(clients, owner):
    made = await clients.integrations.CreateIntegration(CreateIntegrationRequest(name="shop"), metadata=owner)

    rotated = await clients.integrations.RotateIngressKey(RotateIngressKeyRequest(id=made.id), metadata=owner)

    assert rotated.ingress_key != made.ingress_key
    assert rotated.ingress_url.endswith(rotated.ingress_key)
    for key in (made.ingress_key, rotated.ingress_key):
        assert (await resolve(clients, key)).integration.id == made.id
    seconds = rotated.previous_key_expires_at.ToSeconds() - made.created_at.ToSeconds()
    assert seconds == pytest.approx(86_400, abs=5)
    read = await clients.integrations.GetIntegration(GetIntegrationRequest(id=made.id), metadata=owner)
    assert read.ingress_key == rotated.ingress_key


async def test_an_overlap_of_zero_cuts_the_old_address_off(clients, owner, refusal):
    made = await clients.integrations.CreateIntegration(CreateIntegrationRequest(name="shop"), metadata=owner)

    await clients.integrations.RotateIngressKey(RotateIngressKeyRequest(id=made.id, overlap_seconds=0), metadata=owner)

    assert (await refusal(resolve(clients, made.ingress_key))).reason == "NOT_FOUND"


@pytest.mark.parametrize("seconds", [-1, 604_801])
async def test_refuses_an_overlap_that_is_out_of_bounds(clients, owner, refusal, seconds):
    made = await clients.integrations.CreateIntegration(CreateIntegrationRequest(name="shop"), metadata=owner)

    refused = await refusal(
        clients.integrations.RotateIngressKey(
            RotateIngressKeyRequest(id=made.id, overlap_seconds=seconds), metadata=owner
        )
    )

    assert (refused.reason, refused.fields) == ("VALIDATION_ERROR", ("overlapSeconds",))


@pytest.mark.parametrize("case", ["another tenant's", "unknown", "malformed", "empty"])
async def test_every_id_that_is_not_the_tenants_gets_the_same_answer(clients, owner, stranger, refusal, case):
    theirs = await clients.integrations.CreateIntegration(CreateIntegrationRequest(name="theirs"), metadata=stranger)
    wrong_id = {"another tenant's": theirs.id, "unknown": UNKNOWN_ID, "malformed": "wkh_'; --", "empty": ""}[case]
    api = clients.integrations

    refusals = [
        await refusal(call)
        for call in (
            api.GetIntegration(GetIntegrationRequest(id=wrong_id), metadata=owner),
            api.ReplaceIntegration(ReplaceIntegrationRequest(id=wrong_id, name="mine"), metadata=owner),
            api.UpdateIntegration(UpdateIntegrationRequest(id=wrong_id, name="mine"), metadata=owner),
            api.UpdateIntegration(UpdateIntegrationRequest(id=wrong_id), metadata=owner),
            api.DeleteIntegration(DeleteIntegrationRequest(id=wrong_id), metadata=owner),
            api.RotateIngressKey(RotateIngressKeyRequest(id=wrong_id), metadata=owner),
        )
    ]

    assert {(one.code, one.reason, one.message) for one in refusals} == {
        (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "There is nothing at this address.")
    }
    assert await api.GetIntegration(GetIntegrationRequest(id=theirs.id), metadata=stranger) == theirs
    assert not (await api.ListIntegrations(ListIntegrationsRequest(), metadata=owner)).integrations


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "UNAUTHORIZED"),
        ("Basic abc", "UNAUTHORIZED"),
        ("Bearer nonsense", "UNAUTHORIZED"),
        ("Bearer sk_live_" + "B" * 39, "UNAUTHORIZED"),
        ("Bearer sk_live_" + "B" * 40, "INVALID_API_KEY"),
    ],
)
async def test_refuses_callers_without_a_good_key(clients, refusal, header, reason):
    metadata = (("authorization", header),) if header else ()

    refused = await refusal(clients.integrations.ListIntegrations(ListIntegrationsRequest(), metadata=metadata))

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_a_suspended_tenant_is_refused_until_it_is_resumed(clients, owner, refusal):
    await clients.keys.SetTenantActive(SetTenantActiveRequest(tenant="default", active=False))

    refused = await refusal(clients.integrations.ListIntegrations(ListIntegrationsRequest(), metadata=owner))
    await clients.keys.SetTenantActive(SetTenantActiveRequest(tenant="default", active=True))

    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_INACTIVE")
    await clients.integrations.ListIntegrations(ListIntegrationsRequest(), metadata=owner)


async def test_many_authors_at_once_lose_nothing(clients, owner):
    made = await asyncio.gather(
        *(
            clients.integrations.CreateIntegration(CreateIntegrationRequest(name=f"number {n}"), metadata=owner)
            for n in range(30)
        )
    )

    listed = await clients.integrations.ListIntegrations(ListIntegrationsRequest(), metadata=owner)

    assert {one.id for one in listed.integrations} == {one.id for one in made}

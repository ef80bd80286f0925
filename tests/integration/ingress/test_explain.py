"""Dry runs through real gRPC: whoever holds the tenant's key sees each step, and nobody else sees anything."""

from __future__ import annotations

import json

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit.ids import new_secret
from tests.integration.ingress.conftest import World, config_of
from textway.ingress.v1.ingress_service_pb2 import ExplainRequest, ExplainResponse
from textway.ingress.v1.ingress_service_pb2_grpc import IngressServiceStub

BODY = b'{"to":"+6581230000","text":"Gr\xc3\xbc\xc3\x9fe","ref":7}'


@pytest.fixture
def api_key(unstarted_world: World) -> str:
    key = new_secret("sk_live", 40)
    unstarted_world.registry.tenants_by_key[key] = "ten_mine"
    return key


async def explain(
    ingress: IngressServiceStub, integration_id: str, *authorization: str, body: bytes = BODY
) -> ExplainResponse:
    request = ExplainRequest(integration_id=integration_id, payload=HttpBody(data=body))
    metadata = tuple(("authorization", value) for value in authorization)
    return await ingress.Explain(request, metadata=metadata, timeout=10)


async def error_of(ingress: IngressServiceStub, integration_id: str, *authorization: str) -> tuple[int, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await explain(ingress, integration_id, *authorization)
    trailers = dict(refusal.value.trailing_metadata() or ())
    body = json.loads(trailers["x-error-body"])
    return int(trailers["x-http-status"]), body["error"], body["message"]


async def test_shows_each_step_and_sends_nothing(
    world: World, ingress: IngressServiceStub, ingress_key: str, api_key: str
) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)

    explanation = await explain(ingress, config.id, f"Bearer {api_key}")

    assert (explanation.verdict, explanation.signature) == ("accepted", "not_required")
    assert [(field.field, field.path, field.found, field.result) for field in explanation.fields] == [
        ("to", "to", '"+6581230000"', "+6581230000"),
        ("text", "text", '"Grüße"', "Grüße"),
        ("ref", "ref", "7", "7"),
    ]
    assert (explanation.segments, explanation.encoding, explanation.carrier) == (2, "ucs2", "simulator")
    assert world.delivery.previews == 1
    assert world.delivery.submitted == []


async def test_shows_what_was_not_found_and_what_could_not_be_used(
    world: World, ingress: IngressServiceStub, ingress_key: str, api_key: str
) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)

    explanation = await explain(ingress, config.id, f"Bearer {api_key}", body=b'{"text":null}')

    assert explanation.verdict == "missing_fields"
    to, text, ref = explanation.fields
    assert (to.matches, to.HasField("found"), to.HasField("problem")) == (0, False, True)
    assert (text.matches, text.found, text.HasField("result")) == (1, "null", False)
    assert (ref.matches, ref.HasField("problem")) == (0, False)
    assert (explanation.segments, explanation.encoding, explanation.carrier) == (0, "", "")


async def test_another_tenants_integration_looks_like_one_that_is_not_there(
    world: World, ingress: IngressServiceStub, ingress_key: str, api_key: str
) -> None:
    theirs = config_of(ingress_key, tenant_id="ten_other")
    await world.registry.publish(theirs)

    foreign = await error_of(ingress, theirs.id, f"Bearer {api_key}")
    unknown = await error_of(ingress, config_of().id, f"Bearer {api_key}")

    assert foreign == unknown
    assert foreign[:2] == (404, "not_found")
    assert world.delivery.previews == 0


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ((), "unauthorized"),
        (("Basic abc",), "unauthorized"),
        (("Bearer ",), "unauthorized"),
        (("Bearer short",), "unauthorized"),
        (("Bearer sk_live_" + "a" * 40,), "invalid_api_key"),
        (("Bearer " + new_secret("sk_live", 40),), "invalid_api_key"),
    ],
)
async def test_needs_an_api_key(
    world: World, ingress: IngressServiceStub, ingress_key: str, authorization: tuple[str, ...], code: str
) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)

    status, error, _ = await error_of(ingress, config.id, *authorization)

    assert (status, error) == (401, code)


async def test_shows_the_text_as_it_would_be_sent(
    world: World, ingress: IngressServiceStub, ingress_key: str, api_key: str
) -> None:
    config = config_of(ingress_key, max_segments=1, on_overflow="transliterate")
    await world.registry.publish(config)
    body = json.dumps({"to": "+6581230000", "text": "“x” " * 25}).encode()

    changed = await explain(ingress, config.id, f"Bearer {api_key}", body=body)
    kept = await explain(ingress, config.id, f"Bearer {api_key}")

    assert changed.text_changed == "transliterated"
    assert [field.result for field in changed.fields if field.field == "text"] == ['"x" ' * 25]
    assert not kept.HasField("text_changed")


async def test_takes_the_integration_from_the_path_only(
    world: World, ingress: IngressServiceStub, ingress_key: str, api_key: str
) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)
    request = ExplainRequest(integration_id=config.id, payload=HttpBody(data=BODY))
    metadata = [("authorization", f"Bearer {api_key}"), ("x-envoy-original-path", f"/v1/ingress/{config.id}/explain")]

    explanation = await ingress.Explain(request, metadata=tuple(metadata), timeout=10)
    metadata[1] = ("x-envoy-original-path", f"/v1/ingress/wkh_other/explain?integration_id={config.id}")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await ingress.Explain(request, metadata=tuple(metadata), timeout=10)

    assert explanation.verdict == "accepted"
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_goes_on_with_a_known_key_while_integrations_is_down_but_not_for_ever(
    world: World, ingress: IngressServiceStub, ingress_key: str, api_key: str
) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)
    await explain(ingress, config.id, f"Bearer {api_key}")
    world.registry.cut_off_watchers()
    await world.stop("registry")
    await world.until(lambda: not world.is_live)

    world.clock.shift_seconds = 50
    within = await explain(ingress, config.id, f"Bearer {api_key}")
    world.clock.shift_seconds = 61
    beyond = await error_of(ingress, config.id, f"Bearer {api_key}")

    assert within.verdict == "accepted"
    assert beyond[:2] == (503, "unavailable")

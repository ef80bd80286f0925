"""Many messages in one payload, through real gRPC: what goes to Delivery in one call, and what its sender is told."""

from __future__ import annotations

import json

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit.ids import new_secret
from tests.integration.ingress.conftest import World, config_of
from textway.ingress.v1.ingress_service_pb2 import ExplainRequest, IngestRequest
from textway.ingress.v1.ingress_service_pb2_grpc import IngressServiceStub

A, B = "+6581230000", "+6581230001"
KEY = (("idempotency-key", "batch-1"),)


async def post(
    ingress: IngressServiceStub, key: str, document: object, metadata: tuple[tuple[str, str], ...] = ()
) -> tuple[dict[str, object], dict[str, str]]:
    request = IngestRequest(ingress_key=key, payload=HttpBody(data=json.dumps(document).encode()))
    call = ingress.Ingest(request, metadata=metadata, timeout=10)
    body = await call
    assert body.content_type == "application/json"
    return json.loads(body.data), dict(await call.initial_metadata())


async def error_of(
    ingress: IngressServiceStub, key: str, document: object, metadata: tuple[tuple[str, str], ...] = ()
) -> tuple[int, dict[str, object]]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await post(ingress, key, document, metadata)
    trailers = dict(refusal.value.trailing_metadata() or ())
    return int(trailers["x-http-status"]), json.loads(trailers["x-error-body"])


async def test_answers_each_message_as_if_it_had_come_alone(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))

    answer, headers = await post(
        ingress, ingress_key, [{"to": A, "text": "Grüße <b>", "ref": "1"}, {"to": B, "text": "y", "ref": "2"}]
    )

    assert answer == {
        "id": "bat_1",
        "messages": [
            {"id": "msg_1", "status": "queued", "to": A, "text": "Grüße <b>", "ref": "1"},
            {"id": "msg_2", "status": "queued", "to": B, "text": "y", "ref": "2"},
        ],
    }
    assert "x-http-status" not in headers  # as with one message: the route says 202
    assert (len(world.delivery.batches), world.delivery.calls) == (1, [])


async def test_tells_what_is_wrong_with_which_item(world: World, ingress: IngressServiceStub, ingress_key: str) -> None:
    await world.registry.publish(config_of(ingress_key))

    answer, _ = await post(ingress, ingress_key, [{"to": "none", "text": "x"}, {"to": A, "text": "x", "ref": "2"}, {}])

    assert list(answer) == ["id", "refused", "messages"]
    bad, good, empty = answer["messages"]
    assert list(bad)[:3] == ["index", "error", "message"]
    assert (bad["index"], bad["error"], bad["to"]) == (0, "invalid_recipient", "none")
    assert good["id"] == "msg_2"
    assert (empty["index"], empty["error"], empty["missing"]) == (2, "missing_fields", ["to", "text"])
    assert answer["refused"] == 2


async def test_a_repeat_gets_the_same_answer_and_sends_nothing_more(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))
    document = [{"to": A, "text": "x", "ref": "1"}, {"to": "none"}, {"to": B, "text": "y", "ref": "2"}]

    first, first_headers = await post(ingress, ingress_key, document, KEY)
    again, headers = await post(ingress, ingress_key, document, KEY)

    assert again == first
    assert ("idempotent-replay" in first_headers, headers["idempotent-replay"]) == (False, "true")
    assert len(world.delivery.stored) == 2


async def test_a_key_with_another_body_is_refused_whole(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))
    await post(ingress, ingress_key, [{"to": A, "text": "x"}], KEY)

    status, body = await error_of(ingress, ingress_key, [{"to": B, "text": "x"}], KEY)

    assert (status, body["error"]) == (422, "idempotency_mismatch")


async def test_for_each_and_several_recipients_make_batches_too(world: World, ingress: IngressServiceStub) -> None:
    alerts, people = new_secret("ig", 32), new_secret("ig", 32)
    await world.registry.publish(
        config_of(alerts, for_each="$.alerts[*]", to_path="labels.phone", text_path="summary", ref_path="id"),
        config_of(people, to_path="people[*].phone"),
    )

    one, _ = await post(ingress, alerts, {"alerts": [{"labels": {"phone": A}, "summary": "down", "id": "1"}]})
    two, _ = await post(ingress, people, {"people": [{"phone": A}, {"phone": B}], "text": "x"})
    flat, _ = await post(ingress, people, {"people": [{"phone": A}, {"phone": "+65 8123 0000"}], "text": "x"})

    assert [message["to"] for message in one["messages"]] == [A]
    assert [message["to"] for message in two["messages"]] == [A, B]
    assert [message["text"] for message in two["messages"]] == ["x", "x"]
    assert (flat["to"], "messages" in flat) == (A, False)


async def test_sends_a_text_once_however_many_get_it(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key, to_path="people[*]"))

    people = [f"+658123{number:04}" for number in range(1_000)]
    answer, _ = await post(ingress, ingress_key, {"people": people, "text": "x" * 1_600})

    (batch,) = world.delivery.batches
    assert list(batch.texts) == ["x" * 1_600]
    assert [message["to"] for message in answer["messages"]] == people


async def test_nothing_good_is_an_error_and_reaches_nobody(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))

    status, body = await error_of(ingress, ingress_key, [{"to": "none", "text": "x"}, {"text": "x"}])

    assert (status, body["error"], body["to"], body["refused"]) == (400, "invalid_recipient", "none", 2)
    assert [(item["index"], item["error"]) for item in body["messages"]] == [
        (0, "invalid_recipient"),
        (1, "missing_fields"),
    ]
    assert world.delivery.batches == []


async def test_a_full_list_of_errors_fits_into_an_answer(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))

    status, body = await error_of(ingress, ingress_key, [{"to": "\x01" * 60, "text": "x"}] * 600)

    assert (status, body["refused"]) == (400, 600)
    assert body["messages"]


async def test_explain_shows_every_message_and_what_is_wrong_first(world: World, ingress: IngressServiceStub) -> None:
    api_key, key = new_secret("sk_live", 40), new_secret("ig", 32)
    world.registry.tenants_by_key[api_key] = "ten_mine"
    config = config_of(key, for_each="alerts")
    await world.registry.publish(config)
    items = [{"to": A, "text": "x", "ref": str(place)} for place in range(30)]
    items[25] = {"to": "none", "text": "x"}

    explained = await ingress.Explain(
        ExplainRequest(integration_id=config.id, payload=HttpBody(data=json.dumps({"alerts": items}).encode())),
        metadata=(("authorization", f"Bearer {api_key}"),),
        timeout=10,
    )

    assert explained.verdict == "accepted"
    assert explained.message == "29 of the payload's 30 messages would be accepted and sent."
    assert (explained.fields[0].field, explained.fields[0].matches) == ("forEach", 30)
    assert (explained.to, explained.segments) == (A, 2)
    batch = explained.batch
    assert (batch.accepted, batch.refused, len(batch.messages)) == (29, 1, 20)
    assert [message.index for message in batch.messages] == [*range(19), 25]
    assert (batch.messages[-1].verdict, batch.messages[0].ref) == ("invalid_recipient", "0")
    assert world.delivery.batches == []

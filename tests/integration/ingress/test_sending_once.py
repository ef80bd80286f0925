"""Repeats through real gRPC: how a sender is told of one, and that one sender's repeat costs no other anything."""

from __future__ import annotations

import asyncio
import json
import random

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit.ids import new_secret
from tests.integration.ingress.conftest import FlatAnswer, World, config_of, flat_answer
from textway.ingress.v1.ingress_service_pb2 import ExplainRequest, IngestRequest
from textway.ingress.v1.ingress_service_pb2_grpc import IngressServiceStub

API_KEY = new_secret("sk_live", 40)
KEY = (("idempotency-key", "order-4821"),)


def body_of(ref: object = "4821", text: str = "Order confirmed") -> bytes:
    return json.dumps({"to": "+6581230000", "text": text, "ref": ref}).encode()


async def ingest(
    ingress: IngressServiceStub, key: str, body: bytes, metadata: tuple[tuple[str, str], ...] = ()
) -> tuple[FlatAnswer, dict[str, str]]:
    call = ingress.Ingest(IngestRequest(ingress_key=key, payload=HttpBody(data=body)), metadata=metadata, timeout=10)
    response = flat_answer(await call)
    return response, dict(await call.initial_metadata())


async def error_of(
    ingress: IngressServiceStub, key: str, body: bytes, metadata: tuple[tuple[str, str], ...]
) -> tuple[grpc.StatusCode, int, dict[str, object]]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await ingest(ingress, key, body, metadata)
    trailers = dict(refusal.value.trailing_metadata() or ())
    return refusal.value.code(), int(trailers["x-http-status"]), json.loads(trailers["x-error-body"])


async def test_a_repeat_gets_the_first_answer_and_says_that_it_is_one(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))

    first, first_headers = await ingest(ingress, ingress_key, body_of(), KEY)
    again, headers = await ingest(ingress, ingress_key, body_of(), (("idempotency-key", '"order-4821"'),))

    assert "idempotent-replay" not in first_headers
    assert again == first
    assert (headers["idempotent-replay"], headers["x-http-status"]) == ("true", "202")
    assert again.duplicate is None
    assert len(world.delivery.stored) == 1


async def test_the_first_messages_fields_come_back_also_when_the_mapping_has_changed(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)
    body = json.dumps({"to": "+6581230000", "text": "old", "new": "new", "ref": "1"}).encode()
    first, _ = await ingest(ingress, ingress_key, body, KEY)

    await world.registry.publish(config_of(ingress_key, integration_id=config.id, text_path="new", revision=2))
    again, _ = await ingest(ingress, ingress_key, body, KEY)

    assert again == first
    assert again.text == "old"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"to_path": "recipient"}, id="finds no number"),
        pytest.param({"text_path": "missing"}, id="finds no text"),
        pytest.param({"for_each": "ref"}, id="finds no items"),
    ],
)
async def test_a_repeat_is_known_also_when_the_mapping_has_changed_to_one_that_refuses_it(
    world: World, ingress: IngressServiceStub, ingress_key: str, change: dict[str, str]
) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)
    first, _ = await ingest(ingress, ingress_key, body_of(), KEY)

    await world.registry.publish(config_of(ingress_key, integration_id=config.id, revision=2, **change))
    again, headers = await ingest(ingress, ingress_key, body_of(), KEY)
    _, without_key, _ = await error_of(ingress, ingress_key, body_of(), ())
    _, other_body, _ = await error_of(ingress, ingress_key, body_of(ref="4822"), KEY)

    assert again == first
    assert (headers["idempotent-replay"], headers["x-http-status"]) == ("true", "202")
    assert (without_key, other_body) == (400, 400)


async def test_takes_a_webhook_id_for_the_key_of_who_sends_no_other(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))

    for _ in range(2):
        await ingest(ingress, ingress_key, body_of(), (("webhook-id", "evt_1"),))

    assert len(world.delivery.stored) == 1


@pytest.mark.parametrize("other", [body_of(text="Other"), body_of() + b" "])
async def test_a_key_that_comes_with_another_body_is_refused(
    world: World, ingress: IngressServiceStub, ingress_key: str, other: bytes
) -> None:
    await world.registry.publish(config_of(ingress_key))
    await ingest(ingress, ingress_key, body_of(), KEY)

    code, status, error = await error_of(ingress, ingress_key, other, KEY)

    assert (code, status) == (grpc.StatusCode.FAILED_PRECONDITION, 422)
    assert error["error"] == "idempotency_mismatch"
    assert len(world.delivery.stored) == 1


@pytest.mark.parametrize("metadata", [(("idempotency-key", ""),), (*KEY, *KEY)])
async def test_refuses_what_is_no_key(
    world: World, ingress: IngressServiceStub, ingress_key: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    await world.registry.publish(config_of(ingress_key))

    _, status, error = await error_of(ingress, ingress_key, body_of(), metadata)

    issues = error["issues"]
    assert isinstance(issues, list)
    assert (status, error["error"], issues[0]["path"]) == (400, "validation_error", "Idempotency-Key")
    assert world.delivery.submitted == []


async def test_a_mismatch_costs_nobody_else_in_the_same_batch_anything(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))
    await ingest(ingress, ingress_key, body_of(), KEY)
    calls_before = len(world.delivery.calls)
    world.delivery.may_answer.clear()
    bodies = [(body_of(ref=number), ()) for number in range(40)]
    bodies[10] = (body_of(text="Other"), KEY)
    waiting = [asyncio.create_task(ingest(ingress, ingress_key, body, metadata)) for body, metadata in bodies]
    await world.until_handed_in(41)

    world.delivery.may_answer.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)

    refused = [number for number, answer in enumerate(answers) if isinstance(answer, grpc.aio.AioRpcError)]
    assert refused == [10]
    # Each was handed in once: a mismatch is no reason to send the others of its batch again.
    assert sum(len(call) for call in world.delivery.calls[calls_before:]) == 40
    assert any(len(call) > 1 for call in world.delivery.calls[calls_before:])


@pytest.mark.parametrize("seed", range(5))
async def test_any_interleaving_of_repeats_makes_one_message_for_each_key(
    world: World, ingress: IngressServiceStub, ingress_key: str, seed: int
) -> None:
    await world.registry.publish(config_of(ingress_key))
    chance = random.Random(seed)
    plan = [
        (chance.choice("abcd"), chance.choice("xy"), chance.choice((0, 0, 0.001, 0.01, 0.05)))
        for _ in range(chance.randint(1, 100))
    ]

    async def post(key: str, text: str, begins_after_seconds: float) -> FlatAnswer:
        await asyncio.sleep(begins_after_seconds)
        response, _ = await ingest(ingress, ingress_key, body_of(text=text, ref=key), (("idempotency-key", key),))
        return response

    answers = await asyncio.gather(*(post(*one) for one in plan), return_exceptions=True)

    stored = {submission.idempotency.key: submission.text for submission in world.delivery.stored}
    assert len(world.delivery.stored) == len(stored) == len({key for key, _, _ in plan})
    for (key, text, _), answer in zip(plan, answers, strict=True):
        if isinstance(answer, FlatAnswer):
            assert (answer.text, stored[key]) == (text, text)
        else:
            assert isinstance(answer, grpc.aio.AioRpcError)
            assert answer.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert stored[key] != text


@pytest.mark.parametrize(("mode", "messages"), [("suppress", 1), ("annotate", 2)])
async def test_tells_a_sender_that_a_payload_means_a_message_it_sent_before(
    world: World, ingress: IngressServiceStub, ingress_key: str, mode: str, messages: int
) -> None:
    await world.registry.publish(
        config_of(ingress_key, dedupe_key="ref", dedupe_window_seconds=60, dedupe_mode=mode, priority="high")
    )

    first, _ = await ingest(ingress, ingress_key, body_of(ref=4821))
    again, headers = await ingest(ingress, ingress_key, body_of(ref="4821", text="Order confirmed!"))
    other, _ = await ingest(ingress, ingress_key, body_of(ref="4822"))

    assert (first.duplicate, again.duplicate, other.duplicate) == (None, True, None)
    assert "idempotent-replay" not in headers
    assert (again.id == first.id, again.text == first.text) == (mode == "suppress",) * 2
    assert len(world.delivery.stored) == messages + 1
    submission = world.delivery.submitted[0]
    assert (submission.priority, submission.on_unknown) == ("high", "")
    assert (submission.dedupe.value, submission.dedupe.window_seconds, submission.dedupe.mode) == ("4821", 60, mode)


async def test_a_payload_without_a_dedupe_value_is_a_new_message(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key, dedupe_key="order.id", dedupe_mode="suppress"))

    for _ in range(2):
        await ingest(ingress, ingress_key, body_of())

    assert [submission.HasField("dedupe") for submission in world.delivery.stored] == [False, False]


@pytest.mark.parametrize(("path", "value"), [("ref", "4821"), ("order.id", None), ("", None)])
async def test_a_dry_run_shows_by_what_a_repeat_would_be_known(
    world: World, ingress: IngressServiceStub, ingress_key: str, path: str, value: str | None
) -> None:
    world.registry.tenants_by_key[API_KEY] = "ten_mine"
    config = config_of(ingress_key, dedupe_key=path, dedupe_window_seconds=60, dedupe_mode="suppress")
    await world.registry.publish(config)

    explanation = await ingress.Explain(
        ExplainRequest(integration_id=config.id, payload=HttpBody(data=body_of())),
        metadata=(("authorization", f"Bearer {API_KEY}"),),
    )

    assert explanation.verdict == "accepted"
    assert (explanation.dedupe_value if explanation.HasField("dedupe_value") else None) == value
    shown = [field for field in explanation.fields if field.field == "dedupe"]
    assert len(shown) == (1 if path else 0)
    assert [field.HasField("problem") for field in shown] == [value is None] * len(shown)
    assert world.delivery.stored == []

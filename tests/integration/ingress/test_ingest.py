"""Ingest through real gRPC: from a posted payload to a message at Delivery, or one clear error."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.errors import Issue, ValidationError
from servicekit.ids import new_secret
from tests.integration.ingress.conftest import FlatAnswer, World, config_of, flat_answer
from textway.ingress.v1.ingress_service_pb2 import IngestRequest
from textway.ingress.v1.ingress_service_pb2_grpc import IngressServiceStub
from textway.integrations.v1 import registry_service_pb2 as registry_v1

Metadata = tuple[tuple[str, str], ...]


def payload(ref: str = "4821", text: str = "Order #4821 confirmed") -> bytes:
    return json.dumps({"to": "+6581230000", "text": text, "ref": ref}).encode()


async def ingest(
    ingress: IngressServiceStub, key: str, body: bytes | None = None, metadata: Metadata = ()
) -> FlatAnswer:
    request = IngestRequest(ingress_key=key, payload=HttpBody(data=payload() if body is None else body))
    return flat_answer(await ingress.Ingest(request, metadata=metadata, timeout=10))


async def error_of(
    ingress: IngressServiceStub, key: str, body: bytes | None = None, metadata: Metadata = ()
) -> tuple[int, dict[str, object], dict[str, object]]:
    """Return the HTTP status, the JSON body and the trailers that the gateway gets."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await ingest(ingress, key, body, metadata)
    trailers = dict(refusal.value.trailing_metadata() or ())
    return int(trailers["x-http-status"]), json.loads(trailers["x-error-body"]), trailers


async def test_turns_a_payload_into_a_message(world: World, ingress: IngressServiceStub, ingress_key: str) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)

    call = ingress.Ingest(IngestRequest(ingress_key=ingress_key, payload=HttpBody(data=payload())))
    response = flat_answer(await call)

    assert response == FlatAnswer(
        id="msg_4821", status="queued", to="+6581230000", text="Order #4821 confirmed", ref="4821"
    )
    # The gateway's route says 202 (tests/e2e/gateway): a status of the service's own would be a message of its own.
    assert "x-http-status" not in dict(await call.initial_metadata())
    (submission,) = world.delivery.submitted
    assert (submission.tenant_id, submission.integration_id) == ("ten_mine", config.id)


async def test_uses_a_new_mapping_for_the_very_next_payload(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    config = config_of(ingress_key)
    await world.registry.publish(config)

    for turn in range(100):
        path = f"turn{turn}.text"
        await world.registry.publish(
            config_of(ingress_key, integration_id=config.id, text_path=path, revision=turn + 2)
        )
        body = json.dumps({"to": "+6581230000", "text": "old", f"turn{turn}": {"text": "new"}}).encode()
        response = await ingest(ingress, ingress_key, body)

        assert response.text == "new"


async def test_answers_404_for_a_deleted_integration_and_a_key_that_was_rotated_away(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    config, other_key = config_of(ingress_key), new_secret("ig", 32)
    await world.registry.publish(config)
    await ingest(ingress, ingress_key)

    await world.registry.publish(config_of(other_key, integration_id=config.id))
    rotated = await error_of(ingress, ingress_key)
    await ingest(ingress, other_key)
    await world.registry.publish(deleted=(config.id,))
    deleted = await error_of(ingress, other_key)

    assert (rotated[0], deleted[0]) == (404, 404)
    assert rotated[1]["error"] == deleted[1]["error"] == "not_found"


async def test_asks_nobody_about_an_unknown_key_while_the_watch_is_live(
    world: World, ingress: IngressServiceStub
) -> None:
    status, body, _ = await error_of(ingress, new_secret("ig", 32))

    assert (status, body["error"]) == (404, "not_found")
    assert world.registry.resolved == 0


async def test_acknowledges_each_revision_once_it_is_applied(world: World, ingress_key: str) -> None:
    await world.registry.publish(config_of(ingress_key))
    await world.registry.publish(config_of(new_secret("ig", 32)))

    assert world.registry.acknowledged == [1, 2, 3]


async def test_knows_every_page_of_a_snapshot(unstarted_world: World, ingress: IngressServiceStub) -> None:
    keys = [new_secret("ig", 32) for _ in range(5)]
    await unstarted_world.registry.publish(*(config_of(key) for key in keys))
    for neighbour in (unstarted_world.registry, unstarted_world.delivery):
        await unstarted_world.serve(neighbour)
    await unstarted_world.serve_ingress()

    for key in keys:
        await ingest(ingress, key)

    assert len(unstarted_world.delivery.submitted) == 5
    assert unstarted_world.registry.acknowledged == [2]


async def test_starts_before_integrations_and_works_when_it_comes(
    unstarted_world: World, ingress: IngressServiceStub, ingress_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = unstarted_world
    monkeypatch.setattr("services.ingress.service.FIRST_SNAPSHOT_SECONDS", 0.05)
    await world.serve(world.delivery)
    await world.serve_ingress()

    status, body, trailers = await error_of(ingress, ingress_key)
    await world.registry.publish(config_of(ingress_key))
    await world.serve(world.registry)
    await world.until(lambda: world.is_live)
    response = await ingest(ingress, ingress_key)

    assert (status, body["error"], trailers["retry-after"]) == (503, "unavailable", "1")
    assert response.status == "queued"


async def test_goes_on_with_what_it_knows_for_sixty_seconds_and_no_longer(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))
    world.registry.cut_off_watchers()
    await world.stop("registry")
    await world.until(lambda: not world.is_live)

    world.clock.shift_seconds = 50
    within = await ingest(ingress, ingress_key)
    unknown = await error_of(ingress, new_secret("ig", 32))
    world.clock.shift_seconds = 61
    beyond = await error_of(ingress, ingress_key)

    assert within.status == "queued"
    assert unknown[0] == 503
    assert beyond[0] == 503
    assert beyond[2]["retry-after"] == "1"
    assert len(world.delivery.submitted) == 1


async def test_opens_a_broken_watch_again_and_forgets_what_was_deleted_meanwhile(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    config, later_key = config_of(ingress_key), new_secret("ig", 32)
    await world.registry.publish(config)
    world.registry.cut_off_watchers()
    await world.until(lambda: not world.registry.watches)

    await world.registry.publish(config_of(later_key), deleted=(config.id,))
    await world.until(lambda: world.is_live and bool(world.registry.watches))
    status, _, _ = await error_of(ingress, ingress_key)
    response = await ingest(ingress, later_key)

    assert status == 404
    assert response.status == "queued"


async def test_asks_key_by_key_while_the_watch_is_broken(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    assert world.service is not None
    await world.service._replica.stop()
    await world.until(lambda: not world.registry.watches)
    await world.registry.publish(config_of(ingress_key))

    response = await ingest(ingress, ingress_key)
    status, _, _ = await error_of(ingress, new_secret("ig", 32))

    assert response.status == "queued"
    assert status == 404
    assert world.registry.resolved == 2


async def test_a_watch_on_which_nobody_answers_is_not_taken_for_a_quiet_one(
    unstarted_world: World, ingress: IngressServiceStub, ingress_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = unstarted_world
    monkeypatch.setattr("services.ingress.integrations_replica.SILENCE_SECONDS", 60)
    world.registry.exact_for_ms = 2_000
    await world.serve(world.registry)
    await world.serve(world.delivery)
    await world.serve_ingress()
    await world.registry.publish(config_of(ingress_key))
    await world.until(lambda: world.is_live)
    missed = config_of(new_key := new_secret("ig", 32))
    world.registry.answers_pings = False
    world.registry.known[missed.id] = missed  # of which this watcher is not told

    await world.until(lambda: not world.is_live)
    known = await ingest(ingress, ingress_key)
    asked_for = await ingest(ingress, new_key)
    world.registry.answers_pings = True
    await world.until(lambda: world.is_live)

    assert (known.status, asked_for.status) == ("queued", "queued")
    assert world.registry.resolved == 1
    assert len(world.registry.watches) == 1


async def test_a_watch_that_stays_silent_is_given_up_for_another_one(
    unstarted_world: World, ingress: IngressServiceStub, ingress_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = unstarted_world
    monkeypatch.setattr("services.ingress.integrations_replica.SILENCE_SECONDS", 0.5)
    world.registry.exact_for_ms = 300
    world.registry.answers_pings = False
    await world.serve(world.registry)
    await world.serve(world.delivery)
    monkeypatch.setattr("services.ingress.service.FIRST_SNAPSHOT_SECONDS", 0.05)
    await world.serve_ingress()
    await world.until(lambda: bool(world.registry.watches))
    (silent,) = world.registry.watches

    await world.until(lambda: bool(world.registry.watches) and silent not in world.registry.watches)
    world.registry.answers_pings = True
    await world.until(lambda: world.is_live)
    await world.registry.publish(config_of(ingress_key))

    assert (await ingest(ingress, ingress_key)).status == "queued"


async def test_one_mapping_that_can_not_be_used_harms_no_other_integration(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    broken_key = new_secret("ig", 32)
    await world.registry.publish(config_of(broken_key, to_path="$..to"), config_of(ingress_key))

    status, body, trailers = await error_of(ingress, broken_key)
    response = await ingest(ingress, ingress_key)

    assert (status, body["error"], trailers["retry-after"]) == (503, "unavailable", "60")
    assert response.status == "queued"
    assert world.is_live


async def test_answers_unavailable_when_delivery_is_down(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))
    await world.stop("delivery")

    status, body, trailers = await error_of(ingress, ingress_key)

    assert (status, body["error"], trailers["retry-after"]) == (503, "unavailable", "1")


async def test_sends_messages_that_wait_together(world: World, ingress: IngressServiceStub, ingress_key: str) -> None:
    await world.registry.publish(config_of(ingress_key))
    world.delivery.may_answer.clear()
    waiting = [asyncio.create_task(ingest(ingress, ingress_key, payload(ref=str(number)))) for number in range(300)]
    await world.until_handed_in(300)

    world.delivery.may_answer.set()
    responses = await asyncio.gather(*waiting)

    assert [response.id for response in responses] == [f"msg_{number}" for number in range(300)]
    assert len(world.delivery.calls) < 20
    assert max(len(call) for call in world.delivery.calls) <= 200


async def test_no_sender_pays_for_a_message_of_another_that_delivery_refuses(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key))
    world.delivery.refused_texts["poison"] = ValidationError([Issue(path="text", message="No.")])
    world.delivery.may_answer.clear()
    texts = ["fine", "poison", *["fine"] * 20]
    waiting = [
        asyncio.create_task(ingest(ingress, ingress_key, payload(ref=str(number), text=text)))
        for number, text in enumerate(texts)
    ]
    await world.until_handed_in(22)

    world.delivery.may_answer.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)

    assert [isinstance(answer, FlatAnswer) for answer in answers] == [text == "fine" for text in texts]
    refusal = answers[1]
    assert isinstance(refusal, grpc.aio.AioRpcError)
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE
    assert sorted(submission.ref for submission in world.delivery.submitted) == sorted(
        str(number) for number in range(22) if number != 1
    )


@pytest.mark.parametrize(
    ("original_path", "is_accepted"),
    [
        ("/v1/ingress/{key}", True),
        ("/v1/ingress/{key}?utm=1&ingress_key=x", True),
        ("/v1/ingress/{other}?ingress_key={key}", False),
        ("/v1/ingress/?ingress_key={key}", False),
    ],
)
async def test_takes_the_key_from_the_path_only(
    world: World, ingress: IngressServiceStub, ingress_key: str, original_path: str, is_accepted: bool
) -> None:
    await world.registry.publish(config_of(ingress_key))
    path = original_path.format(key=ingress_key, other=new_secret("ig", 32))
    metadata = (("x-envoy-original-path", path),)

    if is_accepted:
        response = await ingest(ingress, ingress_key, metadata=metadata)
        assert response.status == "queued"
    else:
        status, _, _ = await error_of(ingress, ingress_key, metadata=metadata)
        assert status == 404


async def test_reads_the_signature_from_the_header_that_the_integration_names(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    await world.registry.publish(config_of(ingress_key, signing_secrets=["s"], signing_header="X-Shop-Sig"))
    signature = "sha256=" + hmac.new(b"s", payload(), hashlib.sha256).hexdigest()

    response = await ingest(ingress, ingress_key, metadata=(("x-shop-sig", signature),))
    status, body, _ = await error_of(ingress, ingress_key)
    doubled, twice, _ = await error_of(ingress, ingress_key, metadata=(("x-shop-sig", signature),) * 2)

    assert response.status == "queued"
    assert (status, body["error"], body["reason"]) == (401, "invalid_signature", "missing")
    assert (doubled, twice["reason"]) == (401, "malformed")
    assert len(world.delivery.submitted) == 1


@pytest.mark.parametrize(("seconds", "is_accepted"), [(-1, False), (60, True)])
async def test_honours_the_end_of_an_old_secret(
    *, world: World, ingress: IngressServiceStub, ingress_key: str, seconds: int, is_accepted: bool
) -> None:
    expires_at = Timestamp()
    expires_at.FromSeconds(int(time.time()) + seconds)
    old = registry_v1.SigningSecret(secret="old", expires_at=expires_at)
    await world.registry.publish(config_of(ingress_key, signing_secrets=["new"], old_signing_secrets=[old]))

    answers = []
    for secret in (b"new", b"old"):
        signature = "sha256=" + hmac.new(secret, payload(), hashlib.sha256).hexdigest()
        try:
            answers.append((await ingest(ingress, ingress_key, metadata=(("x-webhook-signature", signature),))).status)
        except grpc.aio.AioRpcError as error:
            answers.append(error.code())

    assert answers == ["queued", "queued" if is_accepted else grpc.StatusCode.UNAUTHENTICATED]


async def test_makes_texts_fit_as_the_integration_says_and_hands_on_its_sender_and_tag(
    world: World, ingress: IngressServiceStub, ingress_key: str
) -> None:
    config = config_of(ingress_key, sender="ACME", tag="alerts", max_segments=1, on_overflow="truncate")
    await world.registry.publish(config)
    body = json.dumps({"to": "+6581230000", "text": "“x” " * 40, "ref": "1"}).encode()

    cut = await ingest(ingress, ingress_key, body)
    short = await ingest(ingress, ingress_key)
    changed = {"max_segments": 1, "on_overflow": "reject", "revision": 2}
    await world.registry.publish(config_of(ingress_key, integration_id=config.id, **changed))
    refused = await error_of(ingress, ingress_key, body)

    assert (cut.text, cut.textChanged) == (("“x” " * 40)[:70].rstrip(), "truncated")
    assert short.textChanged is None
    assert [(one.text, one.sender, one.tag) for one in world.delivery.submitted] == [
        (cut.text, "ACME", "alerts"),
        (short.text, "ACME", "alerts"),
    ]
    assert (refused[0], refused[1]["error"]) == (400, "text_too_long")
    assert {"limit": 1, "length": 3, "unit": "segments"}.items() <= refused[1].items()


@pytest.mark.parametrize("word", ["", "shorten"])
async def test_changes_no_text_by_a_word_that_it_does_not_know(
    world: World, ingress: IngressServiceStub, ingress_key: str, word: str
) -> None:
    await world.registry.publish(config_of(ingress_key, max_segments=1, on_overflow=word))

    status, told, _ = await error_of(
        ingress, ingress_key, json.dumps({"to": "+6581230000", "text": "x" * 161}).encode()
    )

    assert (status, told["error"]) == (400, "text_too_long")


@pytest.mark.parametrize(
    ("body", "metadata", "status", "code", "extras"),
    [
        (b"", (), 400, "invalid_json", {"offset": 0}),
        (b'{"a":1,"a":2}', (), 400, "invalid_json", {"offset": 7}),
        (b'{"to":"+6581230000"}', (), 400, "missing_fields", {"missing": ["text"]}),
        (b'{"to":"\xf0\x9f\x98\x80","text":"x"}', (), 400, "invalid_recipient", {"to": "😀"}),
        (b'{"to":"+6581230000","text":"%s"}' % (b"x" * 1601), (), 400, "text_too_long", {"length": 1601}),
        (b" " * 262_145, (), 413, "payload_too_large", {"limit": 262_144}),
        (b"{}", (("content-encoding", "gzip"),), 415, "unsupported_encoding", {}),
    ],
)
async def test_gives_the_gateway_the_error_body_of_the_contract(
    *,
    world: World,
    ingress: IngressServiceStub,
    ingress_key: str,
    body: bytes,
    metadata: Metadata,
    status: int,
    code: str,
    extras: dict[str, object],
) -> None:
    await world.registry.publish(config_of(ingress_key))

    answered, told, _ = await error_of(ingress, ingress_key, body, metadata)

    assert (answered, told["error"]) == (status, code)
    assert extras.items() <= told.items()
    assert world.delivery.submitted == []

"""Receiving: a good payload becomes one message; nothing else does, and its sender is told why."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from servicekit.errors import IdempotencyMismatchError, ServiceError, UnavailableError, ValidationError
from servicekit.ids import new_secret
from servicekit.sms_fitting import Overflow
from services.ingress.domain import (
    MAX_BODY_BYTES,
    AcceptedMessage,
    DedupeKey,
    DedupeRule,
    Idempotency,
    IngressKey,
    Integration,
    MappingPaths,
    OldSecret,
    Payload,
    TextLimit,
)
from services.ingress.receive_payload import ReceivePayload
from services.ingress.turns import Turns
from tests.conftest import FixedClock
from tests.unit.ingress.conftest import NOW, KnownIntegrations, RememberingDelivery

GOOD = b'{"to":"+6581230000","text":"Order #4821 confirmed","ref":"4821"}'


@pytest.fixture
def receive(
    integrations: KnownIntegrations, delivery: RememberingDelivery, clock: FixedClock, integration: Integration
) -> ReceivePayload:
    integrations.all.append(integration)
    return ReceivePayload(integrations=integrations, outbox=delivery, clock=clock, max_messages=5, turns=Turns())


async def refusal_of(receive: ReceivePayload, key: str, payload: Payload) -> ServiceError:
    with pytest.raises(ServiceError) as refusal:
        await receive(ingress_key=key, payload=payload)
    return refusal.value


async def test_submits_the_message_that_a_payload_means(
    receive: ReceivePayload, ingress_key: str, integration: Integration, delivery: RememberingDelivery
) -> None:
    accepted = await receive(ingress_key=ingress_key, payload=Payload(body=GOOD))

    (message,) = delivery.submitted
    assert (message.tenant_id, message.integration_id) == (integration.tenant_id, integration.id)
    assert (message.to, message.text, message.ref) == ("+6581230000", "Order #4821 confirmed", "4821")
    assert (accepted.status, accepted.replayed, accepted.duplicate) == ("queued", False, False)


def sized(size: int) -> bytes:
    body = b'{"to":"+6581230000","text":"x","pad":""}'
    return body[:-2] + b"x" * (size - len(body)) + body[-2:]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(sized(MAX_BODY_BYTES), id="of exactly the limit"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, id="with a BOM"),
        pytest.param(b'{"to":6581230000,"text":"x"}', id="number as recipient"),
        pytest.param(json.dumps({"to": "+6581230000", "text": "x" * 1600}).encode(), id="1600 characters"),
        pytest.param(json.dumps({"to": "+6581230000", "text": "x", "ref": "r" * 64}).encode(), id="ref of 64"),
    ],
)
async def test_accepts_what_is_just_within_the_rules(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery, body: bytes
) -> None:
    await receive(ingress_key=ingress_key, payload=Payload(body=body))

    assert len(delivery.submitted) == 1


def with_fields(**fields: object) -> bytes:
    return json.dumps({"to": "+6581230000", "text": "x"} | fields).encode()


BAD_INPUT = [
    ("empty body", b"", "INVALID_JSON"),
    ("only blanks", b" \n ", "INVALID_JSON"),
    ("truncated", GOOD[:-3], "INVALID_JSON"),
    ("two documents", GOOD + GOOD, "INVALID_JSON"),
    ("NaN", b'{"to":"+6581230000","text":NaN}', "INVALID_JSON"),
    ("Infinity", b'{"to":"+6581230000","text":-Infinity}', "INVALID_JSON"),
    ("duplicate keys", b'{"to":"+6581230000","text":"x","text":"y"}', "INVALID_JSON"),
    ("duplicate keys after unescaping", rb'{"to":"+6581230000","text":"x","\u0074ext":"y"}', "INVALID_JSON"),
    ("depth 65", b'{"to":"+6581230000","text":"x","deep":' + b"[" * 64 + b"]" * 64 + b"}", "INVALID_JSON"),
    ("invalid UTF-8", b'{"to":"+6581230000","text":"\xff"}', "INVALID_JSON"),
    ("encoded surrogate", b'{"to":"+6581230000","text":"\xed\xa0\x80"}', "INVALID_JSON"),
    ("lone surrogate", rb'{"to":"+6581230000","text":"\ud800"}', "INVALID_JSON"),
    ("U+0000", rb'{"to":"+6581230000","text":"\u0000"}', "INVALID_JSON"),
    ("UTF-16", GOOD.decode().encode("utf-16"), "INVALID_JSON"),
    ("UTF-16 without a mark", GOOD.decode().encode("utf-16-be"), "INVALID_JSON"),
    ("single quotes", b"{'to':'+6581230000','text':'x'}", "INVALID_JSON"),
    ("trailing comma", b'{"to":"+6581230000","text":"x",}', "INVALID_JSON"),
    ("form", b"to=%2B6581230000&text=x", "INVALID_JSON"),
    ("gzip without saying so", gzip.compress(GOOD), "INVALID_JSON"),
    ("array as root", b'["+6581230000","x"]', "MISSING_FIELDS"),
    ("string as root", b'"x"', "MISSING_FIELDS"),
    ("number as root", b"5", "MISSING_FIELDS"),
    ("null as root", b"null", "MISSING_FIELDS"),
    ("no recipient", b'{"text":"x"}', "MISSING_FIELDS"),
    ("blank text", with_fields(text="  "), "MISSING_FIELDS"),
    ("one byte too many", sized(MAX_BODY_BYTES + 1), "PAYLOAD_TOO_LARGE"),
    ("300 KB of brackets", b"[" * 307_200, "PAYLOAD_TOO_LARGE"),
    ("20-digit integer as recipient", b'{"to":12345678901234567890,"text":"x"}', "INVALID_RECIPIENT"),
    ("letter number", with_fields(to="+1800FLOWERS"), "INVALID_RECIPIENT"),
    ("emoji as recipient", with_fields(to="😀"), "INVALID_RECIPIENT"),
    ("object as recipient", with_fields(to={}), "INVALID_RECIPIENT"),
    ("1601 characters", with_fields(text="x" * 1601), "TEXT_TOO_LONG"),
    ("object as text", with_fields(text={}), "VALIDATION_ERROR"),
    ("ref of 65", with_fields(ref="r" * 65), "VALIDATION_ERROR"),
]


@pytest.mark.parametrize(("body", "reason"), [pytest.param(body, reason, id=name) for name, body, reason in BAD_INPUT])
async def test_refuses_bad_input_and_submits_nothing(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery, body: bytes, reason: str
) -> None:
    refusal = await refusal_of(receive, ingress_key, Payload(body=body))

    assert refusal.reason == reason
    assert delivery.submitted == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x", "identity, gzip"])
async def test_never_inflates_a_body(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery, encoding: str
) -> None:
    payload = Payload(body=gzip.compress(GOOD), headers={"content-encoding": (encoding,)})

    refusal = await refusal_of(receive, ingress_key, payload)

    assert refusal.reason == "UNSUPPORTED_ENCODING"
    assert delivery.submitted == []


@pytest.mark.parametrize("encoding", ["Identity", "UTF-8", "utf8", ""])
async def test_takes_a_body_whose_encoding_compresses_nothing(
    receive: ReceivePayload, ingress_key: str, encoding: str
) -> None:
    payload = Payload(body=GOOD, headers={"content-encoding": (encoding,)})

    accepted = await receive(ingress_key=ingress_key, payload=payload)

    assert accepted.ref == "4821"


@pytest.mark.parametrize("key", ["", "ig_", "ig_short", "wkh_" + "x" * 32, "ig_" + "é" * 32, "sk_live_" + "a" * 40])
async def test_refuses_what_is_no_key_without_looking_for_it(
    receive: ReceivePayload, integrations: KnownIntegrations, key: str
) -> None:
    refusal = await refusal_of(receive, key, Payload(body=GOOD))

    assert refusal.reason == "NOT_FOUND"
    assert integrations.lookups == 0


async def test_refuses_a_key_with_a_wrong_checksum_without_looking_for_it(
    receive: ReceivePayload, ingress_key: str, integrations: KnownIntegrations
) -> None:
    mistyped = ingress_key[:-1] + ("a" if ingress_key[-1] != "a" else "b")

    refusal = await refusal_of(receive, mistyped, Payload(body=GOOD))

    assert refusal.reason == "NOT_FOUND"
    assert integrations.lookups == 0


async def test_refuses_an_unknown_key_as_it_refuses_a_mistyped_one(receive: ReceivePayload) -> None:
    unknown = await refusal_of(receive, new_secret("ig", 32), Payload(body=GOOD))
    mistyped = await refusal_of(receive, "ig_nothing", Payload(body=GOOD))

    assert (unknown.reason, unknown.message) == (mistyped.reason, mistyped.message)


async def test_takes_a_rotated_key_until_it_expires_and_not_a_moment_longer(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    clock: FixedClock,
    delivery: RememberingDelivery,
) -> None:
    key = IngressKey(sha256=hashlib.sha256(ingress_key.encode()).digest(), expires_at=NOW + timedelta(seconds=10))
    integrations.all[:] = [replace(integration, ingress_keys=(key,))]

    clock.advance(9.999)
    await receive(ingress_key=ingress_key, payload=Payload(body=GOOD))
    clock.advance(0.001)
    refusal = await refusal_of(receive, ingress_key, Payload(body=GOOD))

    assert refusal.reason == "NOT_FOUND"
    assert len(delivery.submitted) == 1


async def test_refuses_a_suspended_tenant(
    receive: ReceivePayload, integrations: KnownIntegrations, integration: Integration, ingress_key: str
) -> None:
    integrations.all[:] = [replace(integration, tenant_active=False)]

    refusal = await refusal_of(receive, ingress_key, Payload(body=GOOD))

    assert refusal.reason == "TENANT_INACTIVE"


def signature(secret: str, body: bytes) -> tuple[str, ...]:
    return (f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}",)


@pytest.mark.parametrize("secret", ["new", "old"])
async def test_takes_a_payload_signed_by_any_current_secret(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    delivery: RememberingDelivery,
    secret: str,
) -> None:
    integrations.all[:] = [replace(integration, signing_secrets=("new", "old"), signing_header="X-Shop-Signature")]
    payload = Payload(body=GOOD, headers={"x-shop-signature": signature(secret, GOOD)})

    await receive(ingress_key=ingress_key, payload=payload)

    assert len(delivery.submitted) == 1


@pytest.mark.parametrize(("secret", "seconds"), [("new", 59.999), ("new", 60), ("old", 59.999)])
async def test_takes_a_payload_signed_by_the_new_secret_and_by_the_old_one_until_it_expires(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    clock: FixedClock,
    secret: str,
    seconds: float,
) -> None:
    old = OldSecret(secret="old", expires_at=clock.now() + timedelta(seconds=60))
    integrations.all[:] = [replace(integration, signing_secrets=("new",), old_secrets=(old,))]
    clock.advance(seconds)

    payload = Payload(body=GOOD, headers={"x-webhook-signature": signature(secret, GOOD)})
    accepted = await receive(ingress_key=ingress_key, payload=payload)

    assert accepted.status == "queued"


@pytest.mark.parametrize(("secret", "seconds"), [("old", 60), ("old", 86_400), ("other", 0)])
async def test_refuses_a_payload_signed_by_an_old_secret_that_has_expired(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    delivery: RememberingDelivery,
    clock: FixedClock,
    secret: str,
    seconds: float,
) -> None:
    old = OldSecret(secret="old", expires_at=clock.now() + timedelta(seconds=60))
    integrations.all[:] = [replace(integration, signing_secrets=("new",), old_secrets=(old,))]
    clock.advance(seconds)

    payload = Payload(body=GOOD, headers={"x-webhook-signature": signature(secret, GOOD)})
    refusal = await refusal_of(receive, ingress_key, payload)

    assert refusal.extras == {"reason": "mismatch"}
    assert delivery.submitted == []


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({}, "missing"),
        ({"x-webhook-signature": signature("new", GOOD)}, "missing"),
        ({"x-shop-signature": ("nonsense",)}, "malformed"),
        ({"x-shop-signature": signature("new", GOOD) * 2}, "malformed"),
        ({"x-shop-signature": signature("revoked", GOOD)}, "mismatch"),
        ({"x-shop-signature": signature("new", json.dumps(json.loads(GOOD)).encode())}, "mismatch"),
    ],
)
async def test_refuses_an_unsigned_payload_before_anything_parses_it(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    delivery: RememberingDelivery,
    headers: dict[str, tuple[str, ...]],
    problem: str,
) -> None:
    integrations.all[:] = [replace(integration, signing_secrets=("new", "old"), signing_header="X-Shop-Signature")]

    for body in (GOOD, b"no JSON"):
        refusal = await refusal_of(receive, ingress_key, Payload(body=body, headers=headers))

        assert refusal.reason == "INVALID_SIGNATURE"
        if body == GOOD:
            assert refusal.extras == {"reason": problem}
    assert delivery.submitted == []


async def test_answers_unavailable_for_an_integration_whose_paths_can_not_be_used(
    receive: ReceivePayload, integrations: KnownIntegrations, integration: Integration, ingress_key: str
) -> None:
    integrations.all[:] = [replace(integration, paths=MappingPaths(to="$..to", text="text"))]

    refusal = await refusal_of(receive, ingress_key, Payload(body=GOOD))

    assert refusal.reason == "UNAVAILABLE"
    assert refusal.retry_after_seconds == 60


async def test_logs_one_line_without_key_text_or_full_number(receive: ReceivePayload, ingress_key: str) -> None:
    with capture_logs() as lines:
        await receive(ingress_key=ingress_key, payload=Payload(body=GOOD))

    (line,) = lines
    assert line["to"] == "*******0000"
    assert not any(secret in str(line) for secret in (ingress_key, "Order #4821", "+6581230000"))


# Sending once


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"idempotency-key": ("order-4821",)}, "order-4821"),
        ({"idempotency-key": ('"order-4821"',)}, "order-4821"),
        ({"webhook-id": ("evt_1",)}, "evt_1"),
        ({"webhook-id": ("evt_1",), "idempotency-key": ("order-4821",)}, "order-4821"),
        ({"webhook-id": ("a", "b"), "idempotency-key": ("order-4821",)}, "order-4821"),
    ],
)
async def test_hands_on_the_senders_key_with_the_hash_of_the_bytes_that_came(
    *,
    receive: ReceivePayload,
    ingress_key: str,
    delivery: RememberingDelivery,
    headers: dict[str, tuple[str, ...]],
    key: str | None,
) -> None:
    await receive(ingress_key=ingress_key, payload=Payload(body=GOOD, headers=headers))

    (message,) = delivery.submitted
    expected = None if key is None else Idempotency(key=key, request_sha256=hashlib.sha256(GOOD).digest())
    assert message.idempotency == expected


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"idempotency-key": ("",)}, "Idempotency-Key"),
        ({"idempotency-key": ("k" * 256,)}, "Idempotency-Key"),
        ({"idempotency-key": ("a", "a")}, "Idempotency-Key"),
        ({"idempotency-key": ("",), "webhook-id": ("good",)}, "Idempotency-Key"),
        ({"webhook-id": ("a", "b")}, "webhook-id"),
        ({"webhook-id": ("ü",)}, "webhook-id"),
    ],
)
async def test_refuses_what_is_no_key_and_submits_nothing(
    *,
    receive: ReceivePayload,
    ingress_key: str,
    delivery: RememberingDelivery,
    headers: dict[str, tuple[str, ...]],
    path: str,
) -> None:
    refusal = await refusal_of(receive, ingress_key, Payload(body=GOOD, headers=headers))

    assert isinstance(refusal, ValidationError)
    assert [issue.path for issue in refusal.issues] == [path]
    assert delivery.submitted == []


@pytest.mark.parametrize(
    ("body", "reason"), [(b"no JSON", "INVALID_JSON"), (b"{}", "MISSING_FIELDS"), (GOOD, "VALIDATION_ERROR")]
)
async def test_tells_what_is_wrong_with_a_payload_before_what_is_wrong_with_its_key(
    receive: ReceivePayload, ingress_key: str, body: bytes, reason: str
) -> None:
    refusal = await refusal_of(receive, ingress_key, Payload(body=body, headers={"idempotency-key": ("",)}))

    assert refusal.reason == reason


async def test_answers_a_repeat_with_the_first_messages_fields(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery
) -> None:
    delivery.answer = {"id": "msg_first", "text": "as it was", "ref": "1", "replayed": True, "duplicate": True}

    accepted = await receive(ingress_key=ingress_key, payload=Payload(body=GOOD))

    assert (accepted.id, accepted.text, accepted.ref) == ("msg_first", "as it was", "1")
    assert (accepted.replayed, accepted.duplicate) == (True, True)


async def test_passes_a_mismatch_on(receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery) -> None:
    delivery.refusal = IdempotencyMismatchError()

    refusal = await refusal_of(receive, ingress_key, Payload(body=GOOD))

    assert refusal.reason == "IDEMPOTENCY_MISMATCH"


REFUSED = b'{"to":"+6581230000"}'


async def test_answers_a_repeat_that_is_refused_by_now_with_the_first_message(
    receive: ReceivePayload, ingress_key: str, integration: Integration, delivery: RememberingDelivery
) -> None:
    key = Idempotency(key="order-4821", request_sha256=hashlib.sha256(REFUSED).digest())
    first = AcceptedMessage(id="msg_first", status="queued", to="+6581230000", text="x", ref="1", replayed=True)
    delivery.made_before = {(integration.id, key): first}

    accepted = await receive(
        ingress_key=ingress_key, payload=Payload(body=REFUSED, headers={"idempotency-key": ("order-4821",)})
    )

    assert accepted == first
    assert delivery.submitted == []


@pytest.mark.parametrize(
    ("body", "headers", "looked_for"),
    [
        pytest.param(REFUSED, {}, 0, id="without a key"),
        pytest.param(REFUSED, {"idempotency-key": ("",)}, 0, id="with what is no key"),
        pytest.param(REFUSED, {"idempotency-key": ("another",)}, 1, id="with a key that is new"),
        pytest.param(GOOD, {"idempotency-key": ("another",)}, 0, id="with a payload that is accepted"),
    ],
)
async def test_looks_for_the_first_message_only_for_who_is_refused_and_gave_a_key(
    *,
    receive: ReceivePayload,
    ingress_key: str,
    delivery: RememberingDelivery,
    body: bytes,
    headers: dict[str, tuple[str, ...]],
    looked_for: int,
) -> None:
    payload = Payload(body=body, headers=headers)

    if body == GOOD:
        await receive(ingress_key=ingress_key, payload=payload)
    else:
        assert (await refusal_of(receive, ingress_key, payload)).reason == "MISSING_FIELDS"

    assert len(delivery.looked_for) == looked_for


async def test_does_not_look_for_the_first_message_of_what_is_no_json(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery
) -> None:
    payload = Payload(body=GOOD[:-1], headers={"idempotency-key": ("order-4821",)})

    assert (await refusal_of(receive, ingress_key, payload)).reason == "INVALID_JSON"
    assert delivery.looked_for == []


async def test_does_not_look_for_the_first_message_where_delivery_is_not_to_be_had(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery
) -> None:
    delivery.refusal = UnavailableError("Delivery can not be reached just now. Send the request again.")
    payload = Payload(body=GOOD, headers={"idempotency-key": ("order-4821",)})

    assert await refusal_of(receive, ingress_key, payload) is delivery.refusal
    assert delivery.looked_for == []


RULE = DedupeRule(window_seconds=60, mode="annotate")


async def test_hands_on_how_the_integrations_messages_are_sent(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    delivery: RememberingDelivery,
) -> None:
    paths = replace(integration.paths, dedupe="ref")
    rules = {"priority": "high", "on_unknown": "hold", "dedupe": RULE, "sender": "ACME", "tag": "alerts"}
    integrations.all[:] = [replace(integration, paths=paths, **rules)]

    await receive(ingress_key=ingress_key, payload=Payload(body=GOOD))

    (message,) = delivery.submitted
    assert (message.priority, message.on_unknown) == ("high", "hold")
    assert (message.sender, message.tag) == ("ACME", "alerts")
    assert message.dedupe == DedupeKey(value="4821", rule=RULE)


async def test_submits_without_a_dedupe_value_when_the_payload_has_none(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    delivery: RememberingDelivery,
) -> None:
    paths = replace(integration.paths, dedupe="order.id")
    integrations.all[:] = [replace(integration, paths=paths, dedupe=RULE)]

    await receive(ingress_key=ingress_key, payload=Payload(body=GOOD))

    assert [message.dedupe for message in delivery.submitted] == [None]


@pytest.mark.parametrize(("first", "told"), [({}, "truncated"), ({"text": "as it was", "replayed": True}, None)])
async def test_says_what_was_done_to_the_text_that_it_answers_with(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    delivery: RememberingDelivery,
    first: dict[str, str | bool],
    told: str | None,
) -> None:
    limit = TextLimit(max_segments=1, on_overflow=Overflow.TRUNCATE)
    integrations.all[:] = [replace(integration, text_limit=limit)]
    delivery.answer = first

    accepted = await receive(ingress_key=ingress_key, payload=Payload(body=with_fields(text="x" * 200)))

    assert [message.text for message in delivery.submitted] == ["x" * 160]
    assert accepted.text_changed == told


async def test_submits_nothing_that_takes_too_many_parts(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    delivery: RememberingDelivery,
) -> None:
    integrations.all[:] = [replace(integration, text_limit=TextLimit(max_segments=1))]

    refusal = await refusal_of(receive, ingress_key, Payload(body=with_fields(text="x" * 161)))

    assert (refusal.reason, refusal.extras["unit"]) == ("TEXT_TOO_LONG", "segments")
    assert delivery.submitted == []

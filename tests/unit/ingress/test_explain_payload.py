"""Dry runs: the same verdict as the real thing, every step of it, and nothing sent."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from servicekit.errors import NotFoundError
from servicekit.sms_fitting import Overflow, TextChange
from services.ingress.domain import MAX_BODY_BYTES, Integration, MappingPaths, OldSecret, Payload, TextLimit
from services.ingress.explain_payload import ExplainPayload
from services.ingress.turns import Turns
from tests.conftest import FixedClock
from tests.unit.ingress.conftest import KnownIntegrations, RememberingDelivery

GOOD = b'{"to":"+65 8123 0000","text":"Hello","ref":7}'


@pytest.fixture
def explain(
    integrations: KnownIntegrations, delivery: RememberingDelivery, integration: Integration, clock: FixedClock
) -> ExplainPayload:
    integrations.all.append(integration)
    return ExplainPayload(integrations=integrations, previewer=delivery, clock=clock, max_messages=5, turns=Turns())


async def test_shows_every_step_of_a_payload_that_would_be_accepted(
    explain: ExplainPayload, integration: Integration, delivery: RememberingDelivery
) -> None:
    explanation = await explain(tenant_id="ten_mine", integration_id=integration.id, payload=Payload(body=GOOD))

    assert explanation.verdict == "accepted"
    assert explanation.signature == "not_required"
    assert [(field.field, field.found, field.result) for field in explanation.trace.fields] == [
        ("to", "+65 8123 0000", "+6581230000"),
        ("text", "Hello", "Hello"),
        ("ref", "7", "7"),
    ]
    assert explanation.preview is not None
    assert explanation.preview.carrier == "simulator"
    assert delivery.submitted == []


@pytest.mark.parametrize(
    ("body", "verdict", "fields"),
    [
        (b"", "invalid_json", 0),
        (b"{", "invalid_json", 0),
        (b"{}", "missing_fields", 3),
        (b'{"to":"x","text":"y"}', "invalid_recipient", 3),
        (b'{"to":"+6581230000","text":[]}', "validation_error", 3),
        (b"[" * (MAX_BODY_BYTES + 1), "payload_too_large", 0),
    ],
)
async def test_never_raises_for_what_is_wrong_with_a_payload(
    *,
    explain: ExplainPayload,
    integration: Integration,
    delivery: RememberingDelivery,
    body: bytes,
    verdict: str,
    fields: int,
) -> None:
    explanation = await explain(tenant_id="ten_mine", integration_id=integration.id, payload=Payload(body=body))

    assert explanation.verdict == verdict
    assert explanation.sentence
    assert len(explanation.trace.fields) == fields
    assert explanation.preview is None
    assert delivery.previewed == []


@pytest.mark.parametrize(
    ("values", "state", "verdict"),
    [
        ((), "missing", "invalid_signature"),
        (("x",), "malformed", "invalid_signature"),
        (("sha256=" + "0" * 64,), "mismatch", "invalid_signature"),
        (("sha256=" + hmac.new(b"s", GOOD, hashlib.sha256).hexdigest(),), "valid", "accepted"),
    ],
)
async def test_tells_the_state_of_the_signature_and_shows_the_mapping_all_the_same(
    *,
    explain: ExplainPayload,
    integrations: KnownIntegrations,
    integration: Integration,
    values: tuple[str, ...],
    state: str,
    verdict: str,
) -> None:
    integrations.all[:] = [replace(integration, signing_secrets=("s",))]
    payload = Payload(body=GOOD, headers={"x-webhook-signature": values})

    explanation = await explain(tenant_id="ten_mine", integration_id=integration.id, payload=payload)

    assert (explanation.signature, explanation.verdict) == (state, verdict)
    assert explanation.trace.result_of("to") == "+6581230000"


@pytest.mark.parametrize(("seconds", "state"), [(59.999, "valid"), (60, "mismatch")])
async def test_an_old_secret_makes_a_valid_signature_until_it_expires(
    *,
    explain: ExplainPayload,
    integrations: KnownIntegrations,
    integration: Integration,
    clock: FixedClock,
    seconds: float,
    state: str,
) -> None:
    old = OldSecret(secret="s", expires_at=clock.now() + timedelta(seconds=60))
    integrations.all[:] = [replace(integration, signing_secrets=("new",), old_secrets=(old,))]
    signature = "sha256=" + hmac.new(b"s", GOOD, hashlib.sha256).hexdigest()
    clock.advance(seconds)

    payload = Payload(body=GOOD, headers={"x-webhook-signature": (signature,)})
    explanation = await explain(tenant_id="ten_mine", integration_id=integration.id, payload=payload)

    assert explanation.signature == state


async def test_texts_that_are_too_large_together_are_the_verdict(
    integration: Integration, integrations: KnownIntegrations, delivery: RememberingDelivery, clock: FixedClock
) -> None:
    integrations.all.append(replace(integration, paths=MappingPaths(to="people[*]", text="text")))
    explain = ExplainPayload(
        integrations=integrations, previewer=delivery, clock=clock, max_messages=1_000, turns=Turns()
    )
    people = [f"+658123{number:04}" for number in range(1_000)]
    body = json.dumps({"people": people, "text": "😀" * 1_600}).encode()

    explanation = await explain(tenant_id="ten_mine", integration_id=integration.id, payload=Payload(body=body))

    assert (explanation.verdict, explanation.batch) == ("payload_too_large", ())
    assert explanation.sentence.startswith("The texts of all messages are larger than 2097152 bytes together.")
    assert delivery.previewed == []


async def test_knows_no_integration_of_another_tenant(explain: ExplainPayload, integration: Integration) -> None:
    with pytest.raises(NotFoundError):
        await explain(tenant_id="ten_other", integration_id=integration.id, payload=Payload(body=GOOD))


@pytest.mark.parametrize("integration_id", ["", "ig_x", "wkh_x", "wkh_" + "u" * 26])
async def test_knows_nothing_under_what_is_no_id(explain: ExplainPayload, integration_id: str) -> None:
    with pytest.raises(NotFoundError):
        await explain(tenant_id="ten_mine", integration_id=integration_id, payload=Payload(body=GOOD))


async def test_shows_the_text_as_it_would_be_sent(
    integration: Integration, integrations: KnownIntegrations, delivery: RememberingDelivery, clock: FixedClock
) -> None:
    limit = TextLimit(max_segments=1, on_overflow=Overflow.TRANSLITERATE)
    integrations.all.append(replace(integration, text_limit=limit, sender="ACME", tag="alerts"))
    explain = ExplainPayload(integrations=integrations, previewer=delivery, clock=clock, max_messages=5, turns=Turns())
    body = json.dumps({"to": "+6581230000", "text": "“x” " * 25}).encode()

    explanation = await explain(tenant_id="ten_mine", integration_id=integration.id, payload=Payload(body=body))

    assert explanation.trace.text_changed is TextChange.TRANSLITERATED
    (previewed,) = delivery.previewed
    assert (previewed.text, previewed.sender, previewed.tag) == ('"x" ' * 25, "ACME", "alerts")


async def test_a_text_that_does_not_fit_is_the_verdict(
    integration: Integration, integrations: KnownIntegrations, delivery: RememberingDelivery, clock: FixedClock
) -> None:
    integrations.all.append(replace(integration, text_limit=TextLimit(max_segments=1)))
    explain = ExplainPayload(integrations=integrations, previewer=delivery, clock=clock, max_messages=5, turns=Turns())
    body = json.dumps({"to": "+6581230000", "text": "x" * 161}).encode()

    explanation = await explain(tenant_id="ten_mine", integration_id=integration.id, payload=Payload(body=body))

    problems = {field.field: field.problem for field in explanation.trace.fields}
    assert explanation.verdict == "text_too_long"
    assert problems["text"] == "it takes 2 SMS parts, and may take 1"
    assert delivery.previewed == []

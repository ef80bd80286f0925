"""Receiving many messages in one payload: the good ones go together, and each bad one is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from servicekit.errors import ServiceError, UnavailableError
from servicekit.ids import new_secret
from servicekit.sms_fitting import Overflow
from services.ingress.domain import (
    MAX_ANSWERED_TEXT_BYTES,
    AcceptedBatch,
    AcceptedMessage,
    DedupeRule,
    IngressKey,
    Integration,
    MappingPaths,
    Payload,
    Refused,
    TextLimit,
)
from services.ingress.errors import MAX_LISTED_BYTES
from services.ingress.receive_payload import ReceivePayload
from services.ingress.turns import Turn, Turns
from tests.conftest import FixedClock
from tests.unit.ingress.conftest import KnownIntegrations, RememberingDelivery

A, B = "+6581230000", "+6581230001"
GOOD, BAD = {"to": A, "text": "x", "ref": "1"}, {"to": "none", "text": "x"}


@pytest.fixture
def receive(
    integrations: KnownIntegrations, delivery: RememberingDelivery, clock: FixedClock, integration: Integration
) -> ReceivePayload:
    integrations.all.append(integration)
    return ReceivePayload(integrations=integrations, outbox=delivery, clock=clock, max_messages=1_000, turns=Turns())


async def received(receive: ReceivePayload, key: str, document: object, **headers: str) -> AcceptedBatch:
    payload = Payload(
        body=json.dumps(document).encode(),
        headers={name.replace("_", "-"): (value,) for name, value in headers.items()},
    )
    answer = await receive(ingress_key=key, payload=payload)
    assert isinstance(answer, AcceptedBatch)
    return answer


async def refusal_of(receive: ReceivePayload, key: str, document: object) -> ServiceError:
    with pytest.raises(ServiceError) as refusal:
        await receive(ingress_key=key, payload=Payload(body=json.dumps(document).encode()))
    return refusal.value


async def test_hands_on_the_good_ones_together_and_tells_of_the_bad_ones_at_their_places(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery
) -> None:
    answer = await received(receive, ingress_key, [GOOD, BAD, {"to": B, "text": "y"}, {"to": B}])

    (batch,) = delivery.batches
    assert [(message.to, message.text, message.ref) for message in batch.messages] == [(A, "x", "1"), (B, "y", "")]
    assert batch.places == (0, 2)
    assert [type(outcome) for outcome in answer.outcomes] == [AcceptedMessage, Refused, AcceptedMessage, Refused]
    assert [(each.index, each.error.reason) for each in answer.outcomes if isinstance(each, Refused)] == [
        (1, "INVALID_RECIPIENT"),
        (3, "MISSING_FIELDS"),
    ]
    assert (answer.id, answer.refused) == ("bat_1", 2)


async def test_the_requests_key_goes_with_the_batch_and_not_with_its_messages(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery
) -> None:
    await received(receive, ingress_key, [GOOD, GOOD], idempotency_key="k")

    (batch,) = delivery.batches
    assert batch.idempotency is not None
    assert batch.idempotency.key == "k"
    assert [message.idempotency for message in batch.messages] == [None, None]


async def test_each_message_has_its_own_dedupe_value(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    delivery: RememberingDelivery,
) -> None:
    rule = DedupeRule(window_seconds=60, mode="suppress")
    paths = MappingPaths(to="to", text="text", dedupe="id")
    integrations.all[:] = [replace(integration, paths=paths, dedupe=rule)]

    await received(receive, ingress_key, [{**GOOD, "id": 1}, {**GOOD, "id": 2}, GOOD])

    (batch,) = delivery.batches
    assert [message.dedupe and message.dedupe.value for message in batch.messages] == ["1", "2", None]


async def test_says_what_was_done_to_which_text(
    *, receive: ReceivePayload, integrations: KnownIntegrations, integration: Integration, ingress_key: str
) -> None:
    integrations.all[:] = [replace(integration, text_limit=TextLimit(max_segments=1, on_overflow=Overflow.TRUNCATE))]

    answer = await received(receive, ingress_key, [GOOD, {**GOOD, "text": "long " * 40}])

    changes = [outcome.text_changed for outcome in answer.outcomes if isinstance(outcome, AcceptedMessage)]
    assert changes == [None, "truncated"]


async def test_a_message_that_the_first_request_did_not_have_is_told_as_such(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery
) -> None:
    delivery.unknown_places = {2}

    answer = await received(receive, ingress_key, [GOOD, BAD, GOOD], idempotency_key="k")

    refused = [(each.index, each.error.reason) for each in answer.outcomes if isinstance(each, Refused)]
    assert refused == [(1, "INVALID_RECIPIENT"), (2, "IDEMPOTENCY_MISMATCH")]


async def test_nothing_good_is_the_first_ones_error_with_all_of_them(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery
) -> None:
    refusal = await refusal_of(receive, ingress_key, [BAD, {"to": A}])

    assert delivery.batches == []
    assert refusal.reason == "INVALID_RECIPIENT"
    assert refusal.message.startswith("None of the payload's 2 messages can be sent. The first: The recipient can not")
    assert refusal.extras["to"] == "none"
    assert refusal.extras["refused"] == 2
    assert [(item["index"], item["error"]) for item in refusal.extras["messages"]] == [
        (0, "invalid_recipient"),
        (1, "missing_fields"),
    ]


async def test_of_very_many_bad_ones_as_many_are_listed_as_an_answer_has_room_for(
    receive: ReceivePayload, ingress_key: str
) -> None:
    refusal = await refusal_of(receive, ingress_key, [{"to": "😀" * 10, "text": "x"}] * 1_000)

    assert refusal.extras["refused"] == 1_000
    assert 0 < len(refusal.extras["messages"]) < 100
    assert len(json.dumps(refusal.extras["messages"])) <= MAX_LISTED_BYTES + 200


@pytest.mark.parametrize(("count", "is_accepted"), [(1_000, True), (1_001, False)])
async def test_takes_so_many_messages_and_not_one_more(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery, count: int, is_accepted: bool
) -> None:
    document = [{"to": A, "text": "x"}] * count

    if is_accepted:
        assert len((await received(receive, ingress_key, document)).outcomes) == count
    else:
        refusal = await refusal_of(receive, ingress_key, document)
        assert (refusal.reason, refusal.extras) == ("PAYLOAD_TOO_LARGE", {"limit": 1_000, "unit": "messages"})
    assert len(delivery.batches) == int(is_accepted)


def to_many(text: str, count: int) -> dict[str, object]:
    return {"people": [{"phone": f"+658123{number:04}"} for number in range(count)], "text": text}


@pytest.mark.parametrize(
    ("text", "count", "is_accepted"),
    [
        ("x" * 1_600, 1_000, True),
        ("中" * 1_600, MAX_ANSWERED_TEXT_BYTES // 4_802, True),
        ("中" * 1_600, MAX_ANSWERED_TEXT_BYTES // 4_802 + 1, False),
        ("😀" * 1_600, 1_000, False),
        ("\x01" * 1_600, 1_000, False),
    ],
)
async def test_refuses_texts_that_no_answer_could_hold(
    *,
    receive: ReceivePayload,
    integrations: KnownIntegrations,
    integration: Integration,
    ingress_key: str,
    text: str,
    count: int,
    is_accepted: bool,
) -> None:
    integrations.all[:] = [replace(integration, paths=MappingPaths(to="people[*].phone", text="text"))]

    if is_accepted:
        assert (await received(receive, ingress_key, to_many(text, count))).refused == 0
    else:
        refusal = await refusal_of(receive, ingress_key, to_many(text, count))
        extras = {"limit": MAX_ANSWERED_TEXT_BYTES, "unit": "bytes"}
        assert (refusal.reason, refusal.extras) == ("PAYLOAD_TOO_LARGE", extras)


async def test_an_outage_is_the_whole_batchs(
    receive: ReceivePayload, ingress_key: str, delivery: RememberingDelivery
) -> None:
    delivery.refusal = UnavailableError("Delivery is down.")

    assert (await refusal_of(receive, ingress_key, [GOOD, BAD])).reason == "UNAVAILABLE"


async def test_logs_one_line_without_texts_and_numbers(receive: ReceivePayload, ingress_key: str) -> None:
    with capture_logs() as lines:
        await received(receive, ingress_key, [GOOD, BAD, {"to": B, "text": "a secret"}])

    assert [(line["event"], line["batch_id"], line["messages"], line["refused"]) for line in lines] == [
        ("payload accepted", "bat_1", 3, 1)
    ]
    assert not any(word in str(lines) for word in ("secret", A, B))


# Large payloads


def integration_of(key: str, paths: MappingPaths) -> Integration:
    sha256 = hashlib.sha256(key.encode()).digest()
    return Integration(id=f"wkh_{key}", tenant_id="ten_mine", ingress_keys=(IngressKey(sha256=sha256),), paths=paths)


PAYLOADS = {
    "recipients of one text": (
        MappingPaths(to="people[*]", text="text"),
        lambda count: {"text": "x", "people": [f"+65 9{number:07}" for number in range(count)]},
    ),
    "one recipient written in many ways": (
        MappingPaths(to="people[*]", text="text"),
        lambda count: {"text": "x", "people": [f"+6581230000{' ' * number}" for number in range(count)]},
    ),
    "numbers that are none": (
        MappingPaths(to="people[*]", text="text"),
        lambda count: {"text": "x", "people": [f"+1 2{number:09}" for number in range(count)]},
    ),
    "items": (
        MappingPaths(to="to", text="text"),
        lambda count: [{"to": f"+65 9{number:07}", "text": "x"} for number in range(count)],
    ),
    "items without a recipient": (
        MappingPaths(to="to", text="text", for_each="items[*]"),
        lambda count: {"items": [{"text": f"x{number}"} for number in range(count)]},
    ),
}


@pytest.fixture(params=PAYLOADS)
def sent(
    request: pytest.FixtureRequest, receive: ReceivePayload, integrations: KnownIntegrations
) -> Callable[[str, int], Awaitable[object]]:
    """Send a payload of so many recipients to an integration of this name; a refusal is an answer too."""
    paths, document = PAYLOADS[request.param]
    keys: dict[str, str] = {}

    async def send(name: str, count: int) -> object:
        if name not in keys:
            keys[name] = new_secret("ig", 32)
            integrations.all.append(integration_of(keys[name], paths))
        try:
            payload = Payload(body=json.dumps(document(count)).encode())
            return await receive(ingress_key=keys[name], payload=payload)
        except ServiceError as refusal:
            return refusal

    return send


async def order_of_answers(**requests: Awaitable[object]) -> list[str]:
    """Begin requests in turn, and return their names as they are answered."""
    answered = []

    async def follow(name: str, request: Awaitable[object]) -> None:
        await request
        answered.append(name)

    await asyncio.gather(*(follow(name, request) for name, request in requests.items()))
    return answered


async def test_answers_others_while_a_large_payload_is_mapped(sent: Callable[[str, int], Awaitable[object]]) -> None:
    answered = await order_of_answers(
        large=sent("shop", 500), small=sent("clinic", 1), small_of_the_same=sent("shop", 1), next_large=sent("bank", 30)
    )

    assert answered == ["small", "small_of_the_same", "next_large", "large"]


async def test_maps_one_large_payload_of_an_integration_at_a_time(
    sent: Callable[[str, int], Awaitable[object]],
) -> None:
    answered = await order_of_answers(
        first=sent("shop", 200), second=sent("shop", 20), third=sent("shop", 20), other=sent("bank", 20)
    )

    assert answered == ["other", "first", "second", "third"]


async def test_goes_on_with_the_next_large_payload_when_one_is_given_up(
    receive: ReceivePayload, integrations: KnownIntegrations, ingress_key: str, integration: Integration
) -> None:
    integrations.all[:] = [replace(integration, paths=MappingPaths(to="people[*]", text="text"))]
    body = json.dumps({"text": "x", "people": [f"+65 9{number:07}" for number in range(100)]}).encode()
    first, second, third = (
        asyncio.ensure_future(receive(ingress_key=ingress_key, payload=Payload(body=body))) for _ in range(3)
    )
    await asyncio.sleep(0)

    first.cancel()
    second.cancel()

    assert isinstance(await third, AcceptedBatch)
    assert first.cancelled()
    assert second.cancelled()


async def test_a_turn_is_free_only_when_nobody_has_it_and_nobody_waits_for_it() -> None:
    turns = Turns()
    turn = turns.of("wkh_shop")
    assert turn.is_free

    async with turn:
        next_one = asyncio.create_task(take(turn))
        given_up = asyncio.create_task(take(turn))
        await asyncio.sleep(0)
        given_up.cancel()
        assert not turn.is_free

    # Whoever asks now must wait, though the next one has not begun.
    assert not turn.is_free
    await next_one
    assert turn.is_free
    assert turns.of("wkh_clinic").is_free


async def take(turn: Turn) -> None:
    async with turn:
        pass

"""An example is sent at once, and answered with what the endpoint said: a real server, and a receiver beside it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator

import pytest

from servicekit.egress import Problem
from servicekit.ids import is_id, new_id
from services.delivery.send_example import EXAMPLE_SENTENCES
from tests.integration.delivery.conftest import World, refusal_of
from tests.kit.receivers import Answer, Receiver
from textway.delivery.v1.webhook_deliveries_service_pb2 import ListWebhookDeliveriesRequest
from textway.delivery.v1.webhook_deliveries_service_pb2_grpc import WebhookDeliveriesServiceStub
from textway.delivery.v1.webhook_examples_service_pb2 import (
    SendIntegrationExampleRequest,
    SendWebhookExampleRequest,
)
from textway.delivery.v1.webhook_examples_service_pb2_grpc import WebhookExamplesServiceStub
from textway.integrations.v1.registry_service_pb2 import IntegrationTarget, SigningSecret, WebhookTarget

SECRET = "a secret of mine"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def world(unstarted_world: World) -> World:
    unstarted_world.settings = unstarted_world.settings.model_copy(update={"egress_allow": "127.0.0.0/8"})
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    return unstarted_world


@pytest.fixture
def examples(world: World) -> WebhookExamplesServiceStub:
    return WebhookExamplesServiceStub(world.channel)


def webhook(url: str, **more) -> WebhookTarget:
    secrets = [SigningSecret(secret=SECRET)]
    return WebhookTarget(**{"url": url, "enabled": True, "events": ["message.sent"], "secrets": secrets} | more)


@pytest.fixture
def integration_id(world: World, receiver: Receiver) -> str:
    made = new_id("wkh", world.clock.now())
    target = IntegrationTarget(id=made, name="Shop", outbound=webhook(receiver.url("/replies")))
    world.registry.integrations["ten_mine", made] = target
    return made


async def test_sends_a_signed_example_to_an_integrations_url(world, examples, owner, receiver, integration_id):
    receiver.answers["/replies"] = Answer(status=202, body="got it")

    example = await examples.SendIntegrationExample(
        SendIntegrationExampleRequest(integration_id=integration_id), metadata=owner
    )

    (call,) = receiver.calls
    assert (example.delivered, example.status_code, example.answer, example.problem) == (True, 202, "got it", "")
    assert (example.url, example.enabled, example.body) == (receiver.url("/replies"), True, call.body.decode())
    signature = f"sha256={hmac.new(SECRET.encode(), call.body, hashlib.sha256).hexdigest()}"
    assert call.headers["x-mac-signature"] == example.headers["X-MAC-Signature"] == signature
    assert {name: call.headers[name.lower()] for name in example.headers} == dict(example.headers)
    assert SECRET not in str(example)
    event = json.loads(call.body)
    assert (event["event"], event["text"], event["example"]) == ("message.received", "This is an example", True)
    assert is_id(event["id"], "mo")
    assert is_id(call.headers["webhook-id"], "evt")
    assert (event["tenantId"], event["integrationId"]) == ("ten_mine", integration_id)


async def test_sends_one_to_the_tenants_webhook_also_while_that_is_disabled(world, examples, owner, receiver):
    world.registry.webhooks["ten_mine"] = webhook(receiver.url("/all"), enabled=False, secrets=[])

    example = await examples.SendWebhookExample(SendWebhookExampleRequest(), metadata=owner)

    assert (example.delivered, example.enabled) == (True, False)
    (call,) = receiver.calls_to("/all")
    assert json.loads(call.body)["integrationId"] == ""
    assert sorted(example.headers) == ["Content-Type", "webhook-id", "webhook-timestamp"]


async def test_calls_the_url_of_this_moment(world, examples, owner, receiver):
    for path in ("/before", "/now"):
        world.registry.webhooks["ten_mine"] = webhook(receiver.url(path))
        await examples.SendWebhookExample(SendWebhookExampleRequest(), metadata=owner)

    assert [call.path for call in receiver.calls] == ["/before", "/now"]


async def test_an_example_is_not_stored_and_not_sent_again(world, examples, owner, receiver):
    world.registry.webhooks["ten_mine"] = webhook(receiver.url("/"))
    receiver.answers["/"] = Answer(status=500, body="oops")

    example = await examples.SendWebhookExample(SendWebhookExampleRequest(), metadata=owner)

    assert (example.delivered, example.status_code, example.answer) == (False, 500, "oops")
    assert example.problem == "the endpoint answered 500"
    listed = await WebhookDeliveriesServiceStub(world.channel).ListWebhookDeliveries(
        ListWebhookDeliveriesRequest(), metadata=owner
    )
    assert not listed.webhook_deliveries


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://10.0.0.1/", "blocked_address: the URL leads to an address that is not public"),
        ("http://127.0.0.1:1/", f"connect_failed: {EXAMPLE_SENTENCES[Problem.CONNECT_FAILED]}"),
    ],
)
async def test_tells_why_an_endpoint_was_not_reached(world, examples, owner, url, problem):
    world.registry.webhooks["ten_mine"] = webhook(url)

    example = await examples.SendWebhookExample(SendWebhookExampleRequest(), metadata=owner)

    assert (example.delivered, example.HasField("status_code"), example.problem) == (False, False, problem)


async def test_there_is_no_example_without_a_webhook(examples, owner):
    refusal = await refusal_of(examples.SendWebhookExample(SendWebhookExampleRequest(), metadata=owner))

    assert (refusal.reason, refusal.http_status) == ("NO_WEBHOOK_CONFIG", "404")


async def test_an_integration_without_an_outbound_url_gets_none(world, examples, owner, integration_id):
    world.registry.integrations["ten_mine", integration_id].outbound.url = ""
    request = SendIntegrationExampleRequest(integration_id=integration_id)

    refusal = await refusal_of(examples.SendIntegrationExample(request, metadata=owner))

    assert (refusal.reason, refusal.http_status, refusal.fields) == ("VALIDATION_ERROR", "400", ("outboundUrl",))


async def test_there_is_no_example_to_anothers_integration(examples, stranger, receiver, integration_id):
    request = SendIntegrationExampleRequest(integration_id=integration_id)

    refusal = await refusal_of(examples.SendIntegrationExample(request, metadata=stranger))

    assert (refusal.reason, receiver.calls) == ("NOT_FOUND", [])


@pytest.mark.parametrize("unknown", ["", "x", "ig_abc", "wkh_00000000000000000000000000"])
async def test_there_is_no_example_to_an_integration_that_is_none(examples, owner, unknown):
    request = SendIntegrationExampleRequest(integration_id=unknown)

    assert (await refusal_of(examples.SendIntegrationExample(request, metadata=owner))).reason == "NOT_FOUND"


async def test_every_call_needs_a_key(examples):
    for call in (
        examples.SendIntegrationExample(SendIntegrationExampleRequest(integration_id="x")),
        examples.SendWebhookExample(SendWebhookExampleRequest()),
    ):
        assert (await refusal_of(call)).reason == "UNAUTHORIZED"

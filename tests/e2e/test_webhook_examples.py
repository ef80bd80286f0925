"""A signed example goes to a real receiver, and its owner reads what that said."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
import standardwebhooks

from tests.kit.receivers import Answer, BadReceiver, Receiver

SECRET = "whsec_c2VjcmV0cyBhcmUgZm9yIHRlc3RzIG9ubHkuLi4="


@pytest.fixture
def integration(api: httpx.Client) -> Iterator[str]:
    answer = api.post("/v1/ingress", json={"name": "Shop", "signingSecret": SECRET})
    assert answer.status_code == 201, answer.text
    path = f"/v1/ingress/{answer.json()['id']}"
    yield path
    api.delete(path)


def test_an_example_goes_to_the_url_that_was_set_just_now(api, integration):
    with Receiver() as receiver:
        receiver.answers["/replies"] = Answer(status=201, body="thanks")
        api.patch(integration, json={"outboundUrl": receiver.url("/before")}).raise_for_status()
        api.post(f"{integration}/send-example").raise_for_status()
        api.patch(integration, json={"outboundUrl": receiver.url("/replies")}).raise_for_status()

        example = api.post(f"{integration}/send-example").json()

    (call,) = receiver.calls_to("/replies")
    assert (example["delivered"], example["statusCode"], example["answer"]) == (True, 201, "thanks")
    event = standardwebhooks.Webhook(SECRET).verify(call.body, dict(call.headers))
    assert event == json.loads(example["body"])
    assert event["example"] is True


def test_an_endpoint_that_hangs_is_told_of_before_the_gateway_gives_up(api, integration):
    with BadReceiver() as receiver:
        api.patch(integration, json={"outboundUrl": receiver.url("/hang")}).raise_for_status()

        answer = api.post(f"{integration}/send-example")

    assert answer.status_code == 200
    assert (answer.json()["delivered"], "statusCode" in answer.json()) == (False, False)
    assert answer.json()["problem"].startswith("timeout: no whole answer came within the 3 s")


def test_there_is_no_example_without_a_url(api, integration):
    to_integration = api.post(f"{integration}/send-example")
    to_unknown = api.post("/v1/ingress/wkh_00000000000000000000000000/send-example")

    assert (to_integration.status_code, to_integration.json()["error"]) == (400, "validation_error")
    assert [issue["path"] for issue in to_integration.json()["issues"]] == ["outboundUrl"]
    assert (to_unknown.status_code, to_unknown.json()["error"]) == (404, "not_found")

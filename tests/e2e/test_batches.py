"""Many messages in one request, through the gateway to the disk."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.e2e.conftest import eventually
from tests.e2e.test_sending_once import ingest_path, messages_of

A, B = "+6581230000", "+6581230009"


def test_an_array_is_answered_item_by_item_and_each_good_one_is_delivered(api, post, integration):
    body = [{"to": A, "text": 'Grüße, 你好 <&> "x"', "ref": "1"}, {"to": "none", "text": "x"}, {"to": B, "text": "y"}]

    answer = post.post(ingest_path(integration), json=body)

    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/json")
    assert answer.headers["x-request-id"]
    told = answer.json()
    assert list(told) == ["id", "refused", "messages"]
    first, bad, last = told["messages"]
    assert (list(first), first["text"]) == (["id", "status", "to", "text", "ref"], body[0]["text"])
    assert (bad["index"], bad["error"], last["to"]) == (1, "invalid_recipient", B)
    eventually(
        lambda: {message["id"]: message["status"] for message in messages_of(api, integration)},
        {first["id"]: "delivered", last["id"]: "delivered"},
    )


def test_one_message_is_answered_as_ever(post, integration):
    answer = post.post(ingest_path(integration), json={"to": A, "text": "Grüße <&>", "ref": "4821"})

    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/json")
    assert answer.text == (
        f'{{"id":"{answer.json()["id"]}","status":"queued","to":"{A}","text":"Grüße <&>","ref":"4821"}}'
    )


def test_the_items_of_for_each_are_messages(api, post):
    made = api.post("/v1/ingress", json={"name": "Monitor", "forEach": "$.alerts[*]", "toPath": "phone"})
    wrong = api.patch(f"/v1/ingress/{made.json()['id']}", json={"forEach": "$..alerts"})

    answer = post.post(ingest_path(made.json()), json={"alerts": [{"phone": A, "text": "down"}]})
    empty = post.post(ingest_path(made.json()), json={"alerts": []})

    assert (made.status_code, made.json()["forEach"]) == (201, "$.alerts[*]")
    assert (wrong.status_code, wrong.json()["issues"][0]["path"]) == (400, "forEach")
    assert [message["to"] for message in answer.json()["messages"]] == [A]
    assert (empty.status_code, empty.json()["error"], empty.json()["missing"]) == (400, "missing_fields", ["forEach"])


def post_until_accepted(post: httpx.Client, integration: dict, body: object, headers: dict[str, str]) -> httpx.Response:
    """Send again what a busy machine has no time for, as the answer says, and as a key makes safe."""
    for _ in range(10):
        answer = post.post(ingest_path(integration), json=body, headers=headers)
        if answer.status_code != 503:
            break
    assert answer.status_code == 202, answer.text
    return answer


@pytest.mark.parametrize("text", ["x" * 1_600, "中" * 430])
def test_the_largest_batch_is_stored_whole_and_a_repeat_gets_the_same_answer(api, post, text):
    made = api.post("/v1/ingress", json={"name": "Mailing", "toPath": "people[*]"}).json()
    body = {"text": text, "people": [f"+658124{number:04}" for number in range(1_000)]}
    headers = {"Idempotency-Key": "mailing-1"}

    first = post_until_accepted(post, made, body, headers)
    again = post_until_accepted(post, made, body, headers)

    assert again.json() == first.json()
    assert again.headers["idempotent-replay"] == "true"
    assert [message["to"] for message in first.json()["messages"]] == body["people"]
    assert {message["id"] for message in messages_of(api, made)} == {
        message["id"] for message in first.json()["messages"]
    }


@pytest.mark.parametrize(("count", "text", "unit"), [(1_001, "x", "messages"), (1_000, "中" * 1_600, "bytes")])
def test_more_than_a_request_may_make_is_refused_whole(api, post, count, text, unit):
    made = api.post("/v1/ingress", json={"name": "Mailing", "toPath": "people[*]"}).json()

    answer = post.post(
        ingest_path(made), json={"text": text, "people": [f"+65{81230000 + number}" for number in range(count)]}
    )

    assert (answer.status_code, answer.json()["error"], answer.json()["unit"]) == (413, "payload_too_large", unit)
    assert messages_of(api, made) == []


def test_nothing_good_stores_nothing_and_tells_of_each(api, post, integration):
    answer = post.post(ingest_path(integration), json=[{"to": "\x01" * 60, "text": "x"}] * 500)

    body = answer.json()
    assert (answer.status_code, body["error"], body["refused"]) == (400, "invalid_recipient", 500)
    assert body["requestId"] == answer.headers["x-request-id"]
    assert [item["index"] for item in body["messages"]] == list(range(len(body["messages"])))
    assert messages_of(api, integration) == []


def test_explain_shows_a_batch_message_by_message(api: httpx.Client, integration):
    sample = json.dumps([{"to": A, "text": "x"}, {"to": "none", "text": "x"}])

    shown = api.post(f"/v1/ingress/{integration['id']}/explain", content=sample).json()
    alone = api.post(f"/v1/ingress/{integration['id']}/explain", content=b'{"to":"+6581230000","text":"x"}').json()

    assert (shown["verdict"], shown["batch"]["accepted"], shown["batch"]["refused"]) == ("accepted", 1, 1)
    assert [message["verdict"] for message in shown["batch"]["messages"]] == ["accepted", "invalid_recipient"]
    assert "batch" not in alone

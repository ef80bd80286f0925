"""Repeats, as a user sends them: through the gateway to the disk, however many at once, one message for each key."""

from __future__ import annotations

import asyncio
import os
import time

import aiohttp
import pytest

from tests.e2e.conftest import eventually
from tests.kit.pages import every_message

FULL = os.environ.get("TEXTWAY_FULL_FAULTS") == "1"
KEYS, POSTS = (1_000, 20) if FULL else (40, 10)
KEYS_AT_ONCE = 10

PAYLOAD = {"to": "+6581230000", "text": "Order #4821 confirmed", "ref": "4821"}


def ingest_path(integration) -> str:
    return f"/v1/ingress/{integration['ingressKey']}"


def messages_of(api, integration) -> list[dict]:
    return every_message(api, integrationId=integration["id"])


def test_a_repeat_gets_the_first_answer_and_sends_nothing_more(api, post, integration):
    path = ingest_path(integration)

    first = post.post(path, json=PAYLOAD, headers={"Idempotency-Key": '"order-4821"'})
    again = post.post(path, json=PAYLOAD, headers={"Idempotency-Key": "order-4821"})

    assert (first.status_code, first.headers.get("idempotent-replay")) == (202, None)
    assert (again.status_code, again.headers.get("idempotent-replay")) == (202, "true")
    assert again.json() == first.json()
    assert set(again.json()) == {"id", "status", "to", "text", "ref"}
    assert len(messages_of(api, integration)) == 1


@pytest.mark.parametrize(
    "change",
    [{"toPath": "missing"}, {"textPath": "missing"}, {"toPath": "others[*]"}, {"forEach": "others[*]"}],
    ids=["finds no number", "finds no text", "finds several numbers", "finds several items"],
)
def test_a_repeat_is_known_when_the_integration_means_something_else_by_now(api, post, integration, change):
    path, payload = ingest_path(integration), {**PAYLOAD, "others": ["+6581230001", "+6581230002"]}
    headers = {"Idempotency-Key": "order-4821"}
    first = post.post(path, json=payload, headers=headers)
    api.patch(f"/v1/ingress/{integration['id']}", json=change).raise_for_status()

    eventually(lambda: "to" in post.post(path, json=payload).json(), False)  # as a message is answered
    again = post.post(path, json=payload, headers=headers)

    assert (again.status_code, again.headers.get("idempotent-replay")) == (202, "true")
    assert again.json() == first.json()


def test_a_repeat_is_known_by_the_webhook_id_too(api, post, integration):
    for _ in range(2):
        assert post.post(ingest_path(integration), json=PAYLOAD, headers={"webhook-id": "evt_1"}).status_code == 202

    assert len(messages_of(api, integration)) == 1


def test_a_key_that_comes_with_another_body_is_refused(api, post, integration):
    headers = {"Idempotency-Key": "order-4821"}
    post.post(ingest_path(integration), json=PAYLOAD, headers=headers)

    answer = post.post(ingest_path(integration), json={**PAYLOAD, "text": "Other"}, headers=headers)

    assert (answer.status_code, answer.json()["error"]) == (422, "idempotency_mismatch")
    assert answer.json()["requestId"] == answer.headers["x-request-id"]
    assert len(messages_of(api, integration)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("Idempotency-Key", "")],
        [("Idempotency-Key", "k" * 256)],
        [("Idempotency-Key", '"open')],
        [("Idempotency-Key", "a"), ("Idempotency-Key", "a")],
    ],
)
def test_refuses_what_is_no_key(api, post, integration, headers):
    answer = post.post(ingest_path(integration), json=PAYLOAD, headers=headers)

    assert (answer.status_code, answer.json()["error"]) == (400, "validation_error")
    assert [issue["path"] for issue in answer.json()["issues"]] == ["Idempotency-Key"]
    assert messages_of(api, integration) == []


def test_a_key_counts_for_one_integration(api, post, integration):
    other = api.post("/v1/ingress", json={"name": "Another system"}).json()

    for one in (integration, other):
        answer = post.post(ingest_path(one), json=PAYLOAD, headers={"Idempotency-Key": "order-4821"})
        assert "idempotent-replay" not in answer.headers

    assert [len(messages_of(api, one)) for one in (integration, other)] == [1, 1]


def test_suppresses_a_payload_that_means_a_message_sent_before(api, post, integration):
    changed = api.patch(f"/v1/ingress/{integration['id']}", json={"dedupe": {"key": "$.order.id"}}).json()

    first = post.post(ingest_path(integration), json={**PAYLOAD, "order": {"id": 4821}})
    again = post.post(ingest_path(integration), json={**PAYLOAD, "order": {"id": "4821"}, "text": "Other"})
    other = post.post(ingest_path(integration), json={**PAYLOAD, "order": {"id": 4822}})
    without = [post.post(ingest_path(integration), json=PAYLOAD) for _ in range(2)]

    assert changed["dedupe"] == {"key": "$.order.id", "windowSeconds": 86_400, "mode": "suppress"}
    assert [answer.status_code for answer in (first, again, other, *without)] == [202] * 5
    assert again.json() == {**first.json(), "duplicate": True}
    assert again.json()["text"] == PAYLOAD["text"]
    assert all("duplicate" not in answer.json() for answer in (first, other, *without))
    assert len(messages_of(api, integration)) == 4


def test_annotates_a_payload_that_means_a_message_sent_before(api, post, integration):
    api.patch(f"/v1/ingress/{integration['id']}", json={"dedupe": {"key": "ref", "mode": "annotate"}})

    first = post.post(ingest_path(integration), json=PAYLOAD).json()
    again = post.post(ingest_path(integration), json={**PAYLOAD, "text": "Other"}).json()

    assert again == {**first, "id": again["id"], "text": "Other", "duplicate": True}
    assert again["id"] != first["id"]
    assert len(messages_of(api, integration)) == 2


def test_a_suppressed_repeat_that_is_itself_repeated_gets_its_answer_again(api, post, integration):
    api.patch(f"/v1/ingress/{integration['id']}", json={"dedupe": {"key": "ref"}})
    first = post.post(ingest_path(integration), json=PAYLOAD, headers={"Idempotency-Key": "1"}).json()

    answers = [post.post(ingest_path(integration), json=PAYLOAD, headers={"Idempotency-Key": "2"}) for _ in range(2)]

    assert [answer.json() for answer in answers] == [{**first, "duplicate": True}] * 2
    assert [answer.headers.get("idempotent-replay") for answer in answers] == [None, "true"]
    assert len(messages_of(api, integration)) == 1


def test_a_dry_run_shows_by_what_a_repeat_would_be_known(api, integration):
    path = f"/v1/ingress/{integration['id']}"
    api.patch(path, json={"dedupe": {"key": "ref"}})

    found = api.post(f"{path}/explain", json=PAYLOAD).json()
    nothing = api.post(f"{path}/explain", json={**PAYLOAD, "ref": None}).json()

    assert (found["verdict"], found["dedupeValue"]) == ("accepted", "4821")
    assert nothing["verdict"] == "accepted"
    assert "dedupeValue" not in nothing
    assert "taken for a new one" in nothing["fields"][-1]["problem"]


def test_a_message_sent_with_a_key_is_sent_once(api):
    headers = {"Idempotency-Key": f"message-{time.time_ns()}"}

    sent = [api.post("/v1/messages", json=PAYLOAD, headers=headers) for _ in range(2)]
    other = api.post("/v1/messages", json={**PAYLOAD, "text": "Other"}, headers=headers)

    assert [answer.status_code for answer in sent] == [202, 202]
    assert [answer.headers.get("idempotent-replay") for answer in sent] == [None, "true"]
    assert sent[0].json() == sent[1].json()
    assert (other.status_code, other.json()["error"]) == (422, "idempotency_mismatch")


def test_connecting_and_rotating_are_done_once(api):
    body, headers = {"name": "Order system"}, {"Idempotency-Key": f"setup-{time.time_ns()}"}

    made = [api.post("/v1/ingress", json=body, headers=headers) for _ in range(2)]
    path = f"/v1/ingress/{made[0].json()['id']}/rotate"
    rotated = [api.post(path, headers=headers) for _ in range(2)]
    other = api.post("/v1/ingress", json={"name": "Other"}, headers=headers)

    for answers, status in ((made, 201), (rotated, 200)):
        assert [answer.status_code for answer in answers] == [status] * 2
        assert [answer.headers.get("idempotent-replay") for answer in answers] == [None, "true"]
        assert answers[0].json() == answers[1].json()
    assert (other.status_code, other.json()["error"]) == (422, "idempotency_mismatch")


async def post_repeatedly(session: aiohttp.ClientSession, path: str, key: int) -> tuple[int, set[str]]:
    """Post one payload many times at once; return how many answers were no replays, and all ids that came back."""
    body, headers = {**PAYLOAD, "ref": str(key)}, {"Idempotency-Key": f"key-{key}"}

    async def post() -> tuple[bool, str]:
        while True:
            async with session.post(path, json=body, headers=headers) as answer:
                if answer.status != 503:
                    assert answer.status == 202, await answer.text()
                    return "idempotent-replay" not in answer.headers, (await answer.json())["id"]
            await asyncio.sleep(float(answer.headers["retry-after"]))

    answers = await asyncio.gather(*(post() for _ in range(POSTS)))
    return sum(is_new for is_new, _ in answers), {message_id for _, message_id in answers}


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_a_thousand_keys_with_twenty_posts_at_once_are_a_thousand_messages(api, product, integration):
    # Not httpx: most of the time of 20,000 posts would be its own.
    connector = aiohttp.TCPConnector(limit=KEYS_AT_ONCE * POSTS)
    async with aiohttp.ClientSession(product.address, connector=connector) as session:
        results = []
        for start in range(0, KEYS, KEYS_AT_ONCE):
            keys = range(start, start + KEYS_AT_ONCE)
            results += await asyncio.gather(*(post_repeatedly(session, ingest_path(integration), key) for key in keys))

    ids = [next(iter(ids)) for _, ids in results]
    assert all(len(ids) == 1 for _, ids in results)
    # None when the first answer was lost on the way and its repeat got it.
    assert all(new <= 1 for new, _ in results)
    messages = messages_of(api, integration)
    assert sorted(message["id"] for message in messages) == sorted(ids)
    assert len(set(ids)) == KEYS

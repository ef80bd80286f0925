"""The walk from a POST to an SMS, as API.md tells it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import time

import pytest

from tests.e2e.conftest import eventually
from tests.kit.pages import every_message

PAYLOAD = {"to": "+6581230000", "text": "Order #4821 confirmed", "ref": "4821"}
NESTED = {
    "customer": {"phone": "+6581230000"},
    "notification": {"body": "Your invoice is ready"},
    "invoiceId": "INV-99",
}


def sign(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def ingest_path(integration) -> str:
    return f"/v1/ingress/{integration['ingressKey']}"


def message_count(api) -> int:
    return len(every_message(api))


def test_creates_an_integration_with_the_defaults_of_the_preset(api, product):
    answer = api.post("/v1/ingress", json={"name": "Order system", "preset": "generic"})

    made = answer.json()
    assert answer.status_code == 201
    assert re.fullmatch(r"wkh_[0-9a-z]{26}", made["id"])
    assert re.fullmatch(r"ig_[0-9A-Za-z]{32}", made["ingressKey"])
    assert made["ingressUrl"] == f"{product.address}/v1/ingress/{made['ingressKey']}"
    assert {name: value for name, value in made.items() if name not in ("id", "ingressKey", "ingressUrl")} == {
        "name": "Order system",
        "preset": "generic",
        "toPath": "to",
        "textPath": "text",
        "refPath": "ref",
        "signed": False,
        "signingHeader": "X-Webhook-Signature",
        "outboundUrl": "",
        "defaultRegion": "",
        "priority": "normal",
        "onUnknown": "resend",
        "from": "",
        "tag": "",
        "maxSegments": 0,
        "onOverflow": "reject",
        "outboundEvents": ["message.received"],
        "outboundEnabled": True,
        "replyWindowSeconds": 0,
        "forEach": "",
        "createdAt": made["createdAt"],
        "updatedAt": made["updatedAt"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", made["createdAt"])


def test_delivers_a_posted_payload_within_a_second(api, post, integration):
    answer = post.post(ingest_path(integration), json=PAYLOAD)

    accepted = answer.json()
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert accepted == {"id": accepted["id"], "status": "queued", **PAYLOAD}
    path = f"/v1/messages/{accepted['id']}"
    eventually(lambda: api.get(path).json()["status"], "delivered", seconds=1)
    message = api.get(path).json()
    assert message["to"] == "+6581230000"
    assert message["from"] == "+6598765432"
    assert message["integrationId"] == integration["id"]
    assert (message["carrier"], message["attempts"]) == ("simulator", 1)
    assert (message["segments"], message["encoding"]) == (1, "gsm7")
    assert "error" not in message
    assert message["createdAt"] <= message["sentAt"] <= message["deliveredAt"]
    events = [entry["event"] for entry in api.get(f"{path}/timeline").json()["entries"]]
    assert events == ["accepted", "attempt_started", "attempt_finished", "receipt"]


def test_uses_a_new_mapping_for_the_very_next_post_a_hundred_times_out_of_a_hundred(api, post, integration):
    nested = {"toPath": "customer.phone", "textPath": "notification.body", "refPath": "invoiceId"}
    flat = {"toPath": "to", "textPath": "text", "refPath": "ref"}

    for number in range(50):
        changed = api.put(f"/v1/ingress/{integration['id']}", json={"name": f"n{number}", **nested})
        answer = post.post(ingest_path(integration), json=NESTED)
        assert (changed.status_code, answer.status_code) == (200, 202), answer.text
        assert answer.json()["text"] == "Your invoice is ready"
        assert answer.json()["ref"] == "INV-99"
        api.patch(f"/v1/ingress/{integration['id']}", json=flat)
        answer = post.post(ingest_path(integration), json=PAYLOAD)
        assert answer.status_code == 202, answer.text
        assert answer.json()["text"] == PAYLOAD["text"]


def test_says_what_is_missing_and_which_paths_were_tried(api, post, integration):
    api.put(
        f"/v1/ingress/{integration['id']}",
        json={"name": "x", "toPath": "customer.phone", "textPath": "notification.body"},
    )

    answer = post.post(ingest_path(integration), json={"customer": {"phone": "+6581230000"}, "notification": {}})

    assert answer.status_code == 400
    body = answer.json()
    assert body["error"] == "missing_fields"
    assert body["missing"] == ["text"]
    assert body["tried"] == {"to": ["customer.phone"], "text": ["notification.body"]}
    assert body["requestId"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("header", [None, "X-Shop-Signature"])
def test_takes_only_payloads_that_the_secret_has_signed(api, post, integration, header):
    settings = {"signingSecret": "a-secret-of-the-shop", **({"signingHeader": header} if header else {})}
    changed = api.patch(f"/v1/ingress/{integration['id']}", json=settings).json()
    assert changed["signed"] is True
    assert "a-secret" not in json.dumps(changed)
    name = header or "X-Webhook-Signature"
    body = b'{ "text" : "caf\\u00e9 \xe2\x82\xac",\n"ref":"4821", "to":"+6581230000" }  '
    right = sign("a-secret-of-the-shop", body)
    before = message_count(api)

    def answer_to(content: bytes, signature: str | None) -> tuple[int, str]:
        headers = {} if signature is None else {name: signature}
        answer = post.post(ingest_path(integration), content=content, headers=headers)
        return answer.status_code, answer.json().get("reason", "")

    assert answer_to(body, None) == (401, "missing")
    assert answer_to(body, right.removeprefix("sha256=")) == (401, "malformed")
    assert answer_to(body, right[:-1]) == (401, "malformed")
    assert answer_to(body, sign("another-secret-there", body)) == (401, "mismatch")
    assert answer_to(body + b" ", right) == (401, "mismatch")
    assert answer_to(json.dumps(json.loads(body)).encode(), right) == (401, "mismatch")
    assert message_count(api) == before
    assert answer_to(body, right) == (202, "")
    assert api.get("/v1/messages", params={"pageSize": 1}).json()["messages"][0]["text"] == "café €"


def test_sends_reads_lists_and_pages_messages(api):
    ref = f"walk-{time.time_ns()}"
    sent = [api.post("/v1/messages", json={"to": "+6581230000", "text": f"number {n}", "ref": ref}) for n in range(5)]
    assert [answer.status_code for answer in sent] == [202] * 5
    first = sent[0].json()
    assert set(first) == {"id", "status", "to", "text", "ref", "createdAt"}

    pages, token = [], ""
    while True:
        page = api.get("/v1/messages", params={"ref": ref, "pageSize": 2, "pageToken": token}).json()
        pages.append([message["text"] for message in page["messages"]])
        token = page["nextPageToken"]
        if not token:
            break

    assert pages == [["number 4", "number 3"], ["number 2", "number 1"], ["number 0"]]
    whole = api.get("/v1/messages", params={"ref": ref, "pageSize": 5}).json()
    assert (len(whole["messages"]), whole["nextPageToken"]) == (5, "")
    by_time = api.get("/v1/messages", params={"ref": ref, "createdAfter": sent[3].json()["createdAt"]}).json()
    assert "number 4" in [message["text"] for message in by_time["messages"]]
    none = api.get("/v1/messages", params={"ref": ref, "createdBefore": first["createdAt"]}).json()
    assert none == {"messages": [], "nextPageToken": ""}
    by_number = api.get(f"/v1/messages?ref={ref}&to=+6581230000").json()
    assert len(by_number["messages"]) == 5


def test_refuses_to_cancel_what_has_begun(api):
    message_id = api.post("/v1/messages", json={"to": "+6581230000", "text": "gone"}).json()["id"]
    eventually(lambda: api.get(f"/v1/messages/{message_id}").json()["status"], "delivered")

    answer = api.post(f"/v1/messages/{message_id}/cancel")

    assert (answer.status_code, answer.json()["error"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("number", "status", "attempts"),
    [("+6581230001", "failed", 1), ("+6581230002", "delivered", 3), ("+6581230004", "undelivered", 1)],
)
def test_plays_every_magic_number(api, number, status, attempts):
    message_id = api.post("/v1/messages", json={"to": number, "text": "magic"}).json()["id"]

    eventually(lambda: api.get(f"/v1/messages/{message_id}").json()["status"], status, seconds=15)

    message = api.get(f"/v1/messages/{message_id}").json()
    assert message["attempts"] == attempts
    assert ("error" in message) is (status != "delivered")


def test_shows_the_reply_of_the_number_that_answers(api):
    message_id = api.post("/v1/messages", json={"to": "+6581230005", "text": "Coming?"}).json()["id"]

    def reply() -> list[str]:
        entries = api.get(f"/v1/messages/{message_id}/timeline").json()["entries"]
        return [entry["detail"] for entry in entries if entry["event"] == "reply"]

    eventually(reply, ["YES"])


def test_sends_nothing_to_a_number_that_says_stop_until_its_opt_out_is_deleted(api):
    def status_of_another() -> str:
        message_id = api.post("/v1/messages", json={"to": "+6581230006", "text": "Sale!"}).json()["id"]
        eventually(lambda: api.get(f"/v1/messages/{message_id}").json()["status"] in ("delivered", "suppressed"), True)
        return str(api.get(f"/v1/messages/{message_id}").json()["status"])

    def inbound():
        return api.get("/v1/inbound?from=+6581230006").json()["inbound"]

    first = status_of_another()
    eventually(lambda: [each["keyword"] for each in inbound()], ["stop"])
    (opt_out,) = api.get("/v1/opt-outs?number=+6581230006").json()["optOuts"]
    second = status_of_another()
    deleted = api.delete(f"/v1/opt-outs/{opt_out['id']}")

    assert (first, second, status_of_another()) == ("delivered", "suppressed", "delivered")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert opt_out["replyId"] == inbound()[-1]["id"]
    assert inbound()[-1]["inReplyTo"]["id"].startswith("msg_")
    assert api.delete(f"/v1/opt-outs/{opt_out['id']}").status_code == 404


def test_shows_a_number_that_never_answers_as_being_sent(api):
    message_id = api.post("/v1/messages", json={"to": "+6581230003", "text": "hello?"}).json()["id"]

    eventually(lambda: api.get(f"/v1/messages/{message_id}").json()["status"], "sending")


def test_manages_integrations(api, integration):
    path = f"/v1/ingress/{integration['id']}"

    assert api.get(path).json() == integration
    listed = api.get("/v1/ingress", params={"pageSize": 1}).json()
    assert listed["integrations"] == [integration]
    assert listed["nextPageToken"]
    patched = api.patch(path, json={"refPath": "orders[0].id"}).json()
    assert (patched["refPath"], patched["toPath"]) == ("orders[0].id", "to")
    replaced = api.put(path, json={"name": "New name"}).json()
    assert (replaced["refPath"], replaced["name"]) == ("ref", "New name")


def test_answers_404_once_an_integration_is_deleted(api, post, integration):
    accepted = post.post(ingest_path(integration), json=PAYLOAD).json()

    assert api.delete(f"/v1/ingress/{integration['id']}").status_code == 200

    gone = post.post(ingest_path(integration), json=PAYLOAD)
    assert (gone.status_code, gone.json()["error"]) == (404, "not_found")
    assert api.get(f"/v1/ingress/{integration['id']}").status_code == 404
    eventually(lambda: api.get(f"/v1/messages/{accepted['id']}").json()["status"], "delivered")


def test_keeps_the_old_address_for_the_overlap_and_not_longer(api, post, integration):
    path = f"/v1/ingress/{integration['id']}/rotate"
    old = ingest_path(integration)

    kept = api.post(path, json={"overlapSeconds": 1}).json()

    assert post.post(old, json=PAYLOAD).status_code == 202
    assert post.post(f"/v1/ingress/{kept['ingressKey']}", json=PAYLOAD).status_code == 202
    time.sleep(1.1)
    assert post.post(old, json=PAYLOAD).status_code == 404
    cut = api.post(path, json={"overlapSeconds": 0}).json()
    assert post.post(f"/v1/ingress/{kept['ingressKey']}", json=PAYLOAD).status_code == 404
    assert post.post(f"/v1/ingress/{cut['ingressKey']}", json=PAYLOAD).status_code == 202


def test_explains_a_payload_and_sends_nothing(api, integration):
    before = message_count(api)
    path = f"/v1/ingress/{integration['id']}/explain"

    good = api.post(path, json={**PAYLOAD, "text": "€uro"}).json()
    bad = api.post(path, json={"to": "hello", "text": "x"}).json()

    assert (good["verdict"], good["to"], good["segments"], good["encoding"]) == ("accepted", "+6581230000", 1, "gsm7")
    assert good["carrier"] == "simulator"
    assert [(field["field"], field["path"], field["result"]) for field in good["fields"]] == [
        ("to", "to", "+6581230000"),
        ("text", "text", "€uro"),
        ("ref", "ref", "4821"),
    ]
    assert bad["verdict"] == "invalid_recipient"
    assert bad["fields"][0]["problem"]
    assert message_count(api) == before


def test_says_that_it_is_live_and_ready(post):
    assert post.get("/health/live").json() == {"status": "live"}
    ready = post.get("/health/ready").json()
    assert ready["status"] == "ready"
    assert {part["name"] for part in ready["parts"]} == {"integrations", "ingress", "delivery"}


def test_no_process_is_pushed_off_its_processor_by_one_that_wakes(product):
    policies = {name: os.sched_getscheduler(pid) for name, pid in product.children().items()}

    assert policies == dict.fromkeys(("gateway", "integrations", "ingress", "delivery"), os.SCHED_BATCH)

"""From whom an integration's messages come, and what becomes of its long texts."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import eventually

TO = "+6581230000"
QUOTED = "“x” " * 25


def ingest_path(integration) -> str:
    return f"/v1/ingress/{integration['ingressKey']}"


@pytest.mark.parametrize(
    ("rule", "text", "sent", "change"),
    [
        ("truncate", "word " * 40, ("word " * 32).rstrip(), "truncated"),
        ("truncate", "x" * 5000, "x" * 160, "truncated"),
        ("transliterate", QUOTED, QUOTED.replace("“", '"').replace("”", '"'), "transliterated"),
        ("reject", QUOTED[:70], QUOTED[:70], None),
    ],
)
def test_sends_a_text_as_the_integration_says_and_tells_what_was_done(
    *, api, post, integration, rule, text, sent, change
):
    api.patch(f"/v1/ingress/{integration['id']}", json={"maxSegments": 1, "onOverflow": rule})
    payload = {"to": TO, "text": text, "ref": "1"}

    shown = api.post(f"/v1/ingress/{integration['id']}/explain", json=payload).json()
    answer = post.post(ingest_path(integration), json=payload)

    accepted = answer.json()
    assert answer.status_code == 202, answer.text
    told = {} if change is None else {"textChanged": change}
    assert accepted == {"id": accepted["id"], "status": "queued", "to": TO, "text": sent, "ref": "1", **told}
    assert (shown["verdict"], shown["segments"], shown.get("textChanged")) == ("accepted", 1, change)
    message = api.get(f"/v1/messages/{accepted['id']}").json()
    assert (message["text"], message["segments"]) == (sent, 1)


@pytest.mark.parametrize(("rule", "text"), [("reject", "x" * 161), ("transliterate", "ж" * 71)])
def test_refuses_a_text_that_does_not_fit(api, post, integration, rule, text):
    api.patch(f"/v1/ingress/{integration['id']}", json={"maxSegments": 1, "onOverflow": rule})
    payload = {"to": TO, "text": text}

    shown = api.post(f"/v1/ingress/{integration['id']}/explain", json=payload).json()
    refused = post.post(ingest_path(integration), json=payload)

    told = refused.json()
    assert (refused.status_code, told["error"]) == (400, "text_too_long")
    assert (told["limit"], told["length"], told["unit"]) == (1, 2, "segments")
    assert shown["verdict"] == "text_too_long"
    assert "textChanged" not in shown


def test_sends_from_who_is_asked_for(api, post, integration):
    changed = api.patch(f"/v1/ingress/{integration['id']}", json={"from": "ACME", "tag": "alerts"}).json()

    posted = post.post(ingest_path(integration), json={"to": TO, "text": "x"}).json()
    sent = api.post("/v1/messages", json={"to": TO, "text": "x", "from": "+6598760000", "tag": "orders"}).json()

    assert (changed["from"], changed["tag"]) == ("ACME", "alerts")
    for accepted, sender, tag in ((posted, "ACME", "alerts"), (sent, "+6598760000", "orders")):
        path = f"/v1/messages/{accepted['id']}"
        eventually(lambda path=path: api.get(path).json()["status"], "delivered")
        message = api.get(path).json()
        assert (message["from"], message["tag"]) == (sender, tag)


def test_lists_what_is_wrong_with_sender_tag_and_limit(api):
    wrong = {"from": "1234567890", "tag": "t" * 65, "maxSegments": 21, "onOverflow": "shorten"}

    integration = api.post("/v1/ingress", json={"name": "x", **wrong})
    message = api.post("/v1/messages", json={"to": TO, "text": "x", "from": "1234567890", "tag": "t" * 65})

    assert (integration.status_code, message.status_code) == (400, 400)
    assert {issue["path"] for issue in integration.json()["issues"]} == set(wrong)
    assert {issue["path"] for issue in message.json()["issues"]} == {"from", "tag"}

"""The loop: a POST becomes an SMS, the person answers, and the system that sent it hears the answer, with proof."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import standardwebhooks
import svix

from services.delivery.answer_replies import MOST_INBOUND
from tests.e2e.conftest import Product, eventually
from tests.kit.pages import every_message
from tests.kit.receivers import Answer, Call, Receiver

OURS = "+6598765432"
ANSWERS_YES = "+6581230005"
ANSWERS_STOP = "+6581230006"
FORWARD_ALL = "/forward-all"


def new_signing_secret() -> str:
    """As Standard Webhooks has it, which libraries need."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def product(new_product: Callable[[], Product]) -> Iterator[Product]:
    """One for this file: a forward-all webhook and opt-outs are a tenant's, and other files' tests would meet them."""
    own = new_product()
    own.start()
    yield own
    own.stop()


@pytest.fixture(scope="module")
def forward_all_secret(product, receiver) -> str:
    """The secret of the webhook that gets every inbound message; it is shown only once."""
    with product.client() as client:
        answer = client.put("/v1/webhooks", json={"url": receiver.url(FORWARD_ALL)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["signingSecret"])


@pytest.fixture
def api(product, forward_all_secret) -> Iterator[httpx.Client]:
    with product.client() as client:
        yield client


@pytest.fixture
def chatty_api(new_product) -> Iterator[httpx.Client]:
    """Of a product of its own, because how much came from a number lately decides whether it is answered."""
    own = new_product()
    own.start()
    with own.client() as client:
        yield client
    own.stop()


class Shop:
    """A system that posts signed payloads and hears what comes of them, at a path of its own."""

    def __init__(self, api: httpx.Client, receiver: Receiver, path: str) -> None:
        self.api = api
        self.receiver = receiver
        self.path = path
        self.secret = new_signing_secret()
        answer = api.post(
            "/v1/ingress", json={"name": "Shop", "outboundUrl": receiver.url(path), "signingSecret": self.secret}
        )
        assert answer.status_code == 201, answer.text
        self.id = answer.json()["id"]
        self._address = f"/v1/ingress/{answer.json()['ingressKey']}"

    def send(self, to: str, text: str = "Coming?", ref: str = "4821") -> str:
        """Post a payload; return the message's id."""
        body = json.dumps({"to": to, "text": text, "ref": ref}).encode()
        signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        answer = self.api.post(self._address, content=body, headers={"X-Webhook-Signature": f"sha256={signature}"})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def status(self, message_id: str) -> str:
        return str(self.api.get(f"/v1/messages/{message_id}").json()["status"])

    def heard(self, count: int = 1) -> list[Call]:
        """Wait until so many calls have come, and return them."""
        return heard(self.receiver, self.path, count=count)


@pytest.fixture
def shop(api, receiver, request) -> Shop:
    return Shop(api, receiver, f"/shop/{request.node.name}")


def heard(receiver: Receiver, path: str, *, count: int = 1, about: str = "") -> list[Call]:
    def calls() -> list[Call]:
        return [call for call in receiver.calls_to(path) if about in call.body.decode()]

    eventually(lambda: len(calls()), count)
    return calls()


def assert_proven(call: Call, secret: str) -> None:
    """Verify a call as receivers do, by each of the three ways."""
    plain = "sha256=" + hmac.new(secret.encode(), call.body, hashlib.sha256).hexdigest()
    assert call.headers["x-mac-signature"] == plain
    assert call.headers["x-webhook-signature"] == plain
    headers = dict(call.headers)
    assert standardwebhooks.Webhook(secret).verify(call.body, headers) == call.event
    svix.Webhook(secret).verify(call.body, headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(call.body + b" ", headers)
    with pytest.raises(svix.WebhookVerificationError):
        svix.Webhook(new_signing_secret()).verify(call.body, headers)


def test_a_reply_comes_back_to_the_system_that_sent_the_message(api, shop, receiver, forward_all_secret, capsys):
    posted_at = time.time()
    message_id = shop.send(ANSWERS_YES)

    outbound = shop.heard()[0]
    forwarded = heard(receiver, FORWARD_ALL, about=message_id)[0]
    with capsys.disabled():
        print(f" [the loop took {(outbound.at - posted_at) * 1000:.0f} ms]", end="")  # noqa: T201  # a figure to read
    message = api.get(f"/v1/messages/{message_id}").json()
    event = outbound.event
    assert event == {
        "id": event["id"],
        "event": "message.received",
        "from": ANSWERS_YES.removeprefix("+"),
        "to": OURS.removeprefix("+"),
        "text": "YES",
        "ref": "4821",
        "receivedAt": event["receivedAt"],
        "tenantId": event["tenantId"],
        "integrationId": shop.id,
        "inReplyTo": {"id": message_id, "ref": "4821", "integrationId": shop.id, "sentAt": message["sentAt"]},
    }
    assert event["id"].startswith("mo_")
    assert event["tenantId"].startswith("ten_")
    assert outbound.headers["content-type"] == "application/json"
    assert outbound.headers["webhook-id"].startswith("evt_")
    assert_proven(outbound, shop.secret)
    assert forwarded.body == outbound.body
    assert forwarded.headers["webhook-id"] == outbound.headers["webhook-id"]
    assert_proven(forwarded, forward_all_secret)


def messages_back(api: httpx.Client, asked: str) -> list[dict[str, Any]]:
    """Return what was sent to the same person after a message, and was not posted."""
    return [message for message in every_message(api, to=ANSWERS_YES) if message["id"] > asked]


# One of the first, because after ten messages in five minutes a number gets no more answers.
def test_an_answer_in_the_answer_goes_back_once(api, shop, receiver):
    def reply_to_order(text: str) -> Callable[[Call], Answer]:
        # What the person says to our answer has no order's ref, and gets none.
        return lambda call: Answer(body=json.dumps({"reply": text} if call.event["ref"] == "once" else {}))

    receiver.answers = {shop.path: reply_to_order("See you at five"), FORWARD_ALL: reply_to_order("See you at six")}

    asked = shop.send(ANSWERS_YES, ref="once")

    heard(receiver, FORWARD_ALL, about=asked)
    first, second = shop.heard(count=2)
    assert first.event["inReplyTo"]["id"] == asked
    # A second answer would make a second YES, which comes as fast as the first one.
    time.sleep(0.5)
    back = messages_back(api, asked)
    assert [message["id"] for message in back] == [second.event["inReplyTo"]["id"]]
    assert back[0]["text"] in ("See you at five", "See you at six")
    assert (back[0]["to"], back[0]["from"], back[0]["integrationId"]) == (ANSWERS_YES, OURS, shop.id)
    assert len(shop.heard(count=2)) == 2


def test_the_newest_of_several_messages_is_answered(shop):
    shop.send(ANSWERS_YES, ref="first")
    first = shop.heard()[0].event

    newest = shop.send(ANSWERS_YES, ref="second")

    event = shop.heard(count=2)[1].event
    assert (event["inReplyTo"]["id"], event["ref"]) == (newest, "second")
    assert first["inReplyTo"]["id"] in event["otherCandidates"]


def test_what_was_heard_can_be_looked_up(api, shop, receiver):
    receiver.answers[shop.path] = Answer(status=201, body="thanks")
    message_id = shop.send(ANSWERS_YES)
    call = shop.heard()[0]

    inbound = api.get("/v1/inbound", params={"messageId": message_id}).json()["inbound"]

    assert [(each["id"], each["from"], each["to"], each["text"], each["carrier"]) for each in inbound] == [
        (call.event["id"], ANSWERS_YES, OURS, "YES", "simulator")
    ]
    assert inbound[0]["inReplyTo"] == call.event["inReplyTo"]

    def deliveries() -> dict[str, dict[str, Any]]:
        found = api.get("/v1/webhook-deliveries", params={"messageId": message_id}).json()["webhookDeliveries"]
        return {each["target"]: each for each in found}

    eventually(
        lambda: {target: each["status"] for target, each in deliveries().items()},
        {"integration": "delivered", "tenant": "delivered"},
    )
    delivery = deliveries()["integration"]
    assert (delivery["event"], delivery["eventId"]) == ("message.received", call.headers["webhook-id"])
    assert (delivery["messageId"], delivery["replyId"]) == (message_id, call.event["id"])
    assert [(each["number"], each["statusCode"], each["answer"]) for each in delivery["attempts"]] == [
        (1, 201, "thanks")
    ]
    assert api.get(f"/v1/webhook-deliveries/{delivery['id']}").json() == delivery


def test_a_delivery_can_be_had_again_as_the_same_event(api, shop):
    message_id = shop.send(ANSWERS_YES)
    first = shop.heard()[0]
    path = "/v1/webhook-deliveries"
    listed = api.get(path, params={"messageId": message_id}).json()["webhookDeliveries"]
    delivery_id = next(each["id"] for each in listed if each["target"] == "integration")
    eventually(lambda: api.get(f"{path}/{delivery_id}").json()["status"], "delivered")

    api.post(f"{path}/{delivery_id}/replay").raise_for_status()

    again = shop.heard(count=2)[1]
    assert again.body == first.body
    assert again.headers["webhook-id"] == first.headers["webhook-id"]
    assert_proven(again, shop.secret)


def test_a_messages_own_callback_hears_what_becomes_of_it(api, receiver, forward_all_secret):
    sent = api.post(
        "/v1/messages", json={"to": "+6581230000", "text": "hi", "ref": "7", "callback": receiver.url("/callback")}
    )

    calls = heard(receiver, "/callback", count=2)

    assert sent.status_code == 202, sent.text
    by_event = {call.event["event"]: call for call in calls}
    assert by_event.keys() == {"message.sent", "message.delivered"}
    message = api.get(f"/v1/messages/{sent.json()['id']}").json()
    told = by_event["message.delivered"].event
    names = ("id", "status", "to", "from", "text", "ref", "sentAt", "deliveredAt")
    assert [told[name] for name in names] == [message[name] for name in names]
    assert by_event["message.sent"].event["status"] == "sent"
    assert len({call.headers["webhook-id"] for call in calls}) == 2
    for call in calls:
        assert_proven(call, forward_all_secret)
    assert not [call for call in receiver.calls_to(FORWARD_ALL) if call.event["id"] == message["id"]]


def test_a_redirect_is_not_followed(api, shop, receiver):
    receiver.answers[shop.path] = Answer(status=307, headers={"Location": receiver.url("/elsewhere")})
    message_id = shop.send(ANSWERS_YES)
    shop.heard()

    def first_attempt() -> tuple[int | None, bool]:
        found = api.get("/v1/webhook-deliveries", params={"messageId": message_id}).json()["webhookDeliveries"]
        attempt = next(each for each in found if each["target"] == "integration")["attempts"][0]
        return attempt.get("statusCode"), "redirect" in attempt.get("problem", "")

    eventually(first_attempt, (307, True))

    assert receiver.calls_to("/elsewhere") == []


def test_whoever_writes_stop_gets_nothing_more_until_that_is_lifted(api, shop):
    asked = shop.send(ANSWERS_STOP)

    event = shop.heard()[0].event

    assert (event["text"], event["keyword"], event["inReplyTo"]["id"]) == ("STOP", "stop", asked)
    opt_outs = api.get("/v1/opt-outs", params={"number": ANSWERS_STOP}).json()["optOuts"]
    assert [(each["ourNumber"], each["source"], each["word"], each["replyId"]) for each in opt_outs] == [
        (OURS, "reply", "STOP", event["id"])
    ]
    further = shop.send(ANSWERS_STOP, ref="4822")
    eventually(lambda: shop.status(further), "suppressed")
    elsewhere = shop.send("+6581230000", ref="4823")
    eventually(lambda: shop.status(elsewhere), "delivered")

    lifted = api.delete(f"/v1/opt-outs/{opt_outs[0]['id']}")

    assert (lifted.status_code, lifted.content) == (204, b"")
    assert not {"content-length", "content-type"} & set(lifted.headers)
    assert api.get("/v1/opt-outs").json()["optOuts"] == []
    assert api.delete(f"/v1/opt-outs/{opt_outs[0]['id']}").status_code == 404
    welcome = shop.send(ANSWERS_STOP, ref="4824")
    eventually(lambda: shop.status(welcome), "delivered")
    assert shop.status(further) == "suppressed"


def test_two_machines_that_answer_each_other_stop(chatty_api, receiver):
    shop = Shop(chatty_api, receiver, "/loop")
    receiver.answers[shop.path] = Answer(body='{"reply":"And you?"}')

    asked = shop.send(ANSWERS_YES)

    shop.heard(count=MOST_INBOUND + 1)
    time.sleep(1)  # a round takes a third of this
    assert len(messages_back(chatty_api, asked)) == MOST_INBOUND
    assert len(shop.heard(count=MOST_INBOUND + 1)) == MOST_INBOUND + 1

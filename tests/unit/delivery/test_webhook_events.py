"""What webhooks say."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from servicekit.ids import is_id
from services.delivery.domain import (
    Encoding,
    Failure,
    FailureReason,
    Message,
    OnUnknown,
    Priority,
    Status,
)
from services.delivery.replies import AnsweredMessage, ReceivedReply
from services.delivery.webhook_events import example_body, reply_body, reply_deliveries, status_deliveries
from services.delivery.webhooks import CallResult, Destination, DestinationKind, Event

NOW = datetime(2026, 6, 12, 14, 32, 0, 120_000, tzinfo=UTC)
INTEGRATION = Destination(kind=DestinationKind.INTEGRATION, id="wkh_1")
TENANT = Destination(kind=DestinationKind.TENANT, id="ten_a")
CALLBACK = Destination(kind=DestinationKind.CALLBACK, id="wkh_1", url="https://shop.example/sms?order=1")

REPLY = ReceivedReply(
    id="mo_01jxk2",
    tenant_id="ten_a",
    sender="+6581230000",
    recipient="+6598765432",
    text="YES é 👍",
    received_at=NOW,
    in_reply_to=AnsweredMessage(
        id="msg_1", ref="4821", integration_id="wkh_1", sent_at=NOW - timedelta(minutes=1, milliseconds=120)
    ),
)
MESSAGE = Message(
    id="msg_1",
    tenant_id="ten_a",
    integration_id="wkh_1",
    status=Status.DELIVERED,
    to="+6581230000",
    sender="+6598765432",
    text="Order confirmed",
    ref="4821",
    callback="https://shop.example/sms",
    carrier="main",
    carrier_message_id="SM1",
    segments=1,
    encoding=Encoding.GSM7,
    attempts=1,
    failure=None,
    created_at=NOW,
    updated_at=NOW + timedelta(seconds=2),
    valid_until=NOW + timedelta(hours=4),
    priority=Priority.NORMAL,
    on_unknown=OnUnknown.RESEND,
    sent_at=NOW + timedelta(seconds=1),
    delivered_at=NOW + timedelta(seconds=2),
    tag="alerts",
)


def test_tells_a_reply_byte_for_byte_as_the_contract_shows_it():
    assert reply_body(REPLY).decode() == (
        '{"id":"mo_01jxk2","event":"message.received","from":"6581230000","to":"6598765432","text":"YES é 👍",'
        '"ref":"4821","receivedAt":"2026-06-12T14:32:00.120Z","tenantId":"ten_a","integrationId":"wkh_1",'
        '"inReplyTo":{"id":"msg_1","ref":"4821","integrationId":"wkh_1","sentAt":"2026-06-12T14:31:00.000Z"}}'
    )


def test_tells_a_reply_that_answers_nothing():
    body = json.loads(reply_body(replace(REPLY, in_reply_to=None)))

    assert (body["inReplyTo"], body["ref"], body["integrationId"]) == (None, "", "")
    assert "otherCandidates" not in body
    assert "keyword" not in body


def test_tells_the_keyword_and_what_else_a_reply_may_answer():
    body = json.loads(reply_body(replace(REPLY, keyword="stop", other_candidates=("msg_3", "msg_2"))))

    assert (body["keyword"], body["otherCandidates"]) == ("stop", ["msg_3", "msg_2"])


def test_tells_a_reply_with_half_a_character_all_the_same():
    assert json.loads(reply_body(replace(REPLY, text="YES \ud83d")))["text"] == "YES ?"


def test_an_example_reads_like_a_reply_that_says_what_it_is():
    example = json.loads(example_body("mo_1", "ten_a", "wkh_1", NOW))

    assert (example.pop("example"), example["text"]) == (True, "This is an example")
    reply = json.loads(reply_body(REPLY))
    assert list(example) == list(reply)
    assert list(example["inReplyTo"]) == list(reply["inReplyTo"])
    assert is_id(example["inReplyTo"]["id"], "msg")


def test_sends_one_event_to_each_destination_under_one_event_id():
    deliveries = reply_deliveries(REPLY, [INTEGRATION, TENANT])

    assert [each.destination for each in deliveries] == [INTEGRATION, TENANT]
    assert len({each.event_id for each in deliveries}) == 1
    assert len({each.id for each in deliveries}) == 2
    assert all(is_id(each.id, "whd") and is_id(each.event_id, "evt") for each in deliveries)
    assert {(each.message_id, each.reply_id, each.next_at) for each in deliveries} == {("msg_1", "mo_01jxk2", NOW)}


def test_gives_the_same_ids_when_the_same_is_told_again():
    assert reply_deliveries(REPLY, [TENANT]) == reply_deliveries(REPLY, [TENANT])
    assert status_deliveries(MESSAGE, [CALLBACK]) == status_deliveries(MESSAGE, [CALLBACK])


def test_gives_other_events_other_ids():
    sent = replace(MESSAGE, status=Status.SENT)
    other = replace(MESSAGE, id="msg_2")

    ids = [each.event_id for message in (MESSAGE, sent, other) for each in status_deliveries(message, [CALLBACK])]

    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (Status.SENT, Event.MESSAGE_SENT),
        (Status.DELIVERED, Event.MESSAGE_DELIVERED),
        (Status.UNDELIVERED, Event.MESSAGE_UNDELIVERED),
        (Status.FAILED, Event.MESSAGE_FAILED),
        (Status.EXPIRED, Event.MESSAGE_EXPIRED),
    ],
)
def test_tells_where_a_message_stands(status, event):
    (delivery,) = status_deliveries(replace(MESSAGE, status=status), [CALLBACK])

    body = json.loads(delivery.body)
    assert delivery.event is event
    assert (body["event"], body["status"]) == (event, status)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.SENDING, Status.CANCELED, Status.SUPPRESSED, Status.UNKNOWN])
def test_tells_nothing_of_statuses_without_an_event(status):
    assert status_deliveries(replace(MESSAGE, status=status), [CALLBACK]) == []


def test_tells_a_message_with_the_fields_that_reading_it_shows():
    failure = Failure(reason=FailureReason.UNREACHABLE, carrier_code="30003")
    undelivered = replace(MESSAGE, status=Status.UNDELIVERED, failure=failure, delivered_at=None)

    (delivery,) = status_deliveries(undelivered, [CALLBACK])

    assert json.loads(delivery.body) == {
        "id": "msg_1",
        "event": "message.undelivered",
        "status": "undelivered",
        "to": "+6581230000",
        "from": "+6598765432",
        "text": "Order confirmed",
        "ref": "4821",
        "tenantId": "ten_a",
        "integrationId": "wkh_1",
        "tag": "alerts",
        "carrier": "main",
        "carrierMessageId": "SM1",
        "segments": 1,
        "encoding": "gsm7",
        "attempts": 1,
        "error": {
            "code": "unreachable",
            "message": "The handset could not be reached.",
            "carrierCode": "30003",
        },
        "createdAt": "2026-06-12T14:32:00.120Z",
        "updatedAt": "2026-06-12T14:32:02.120Z",
        "sentAt": "2026-06-12T14:32:01.120Z",
    }


@pytest.mark.parametrize(
    ("destination", "endpoint"),
    [
        (INTEGRATION, "integration:wkh_1"),
        (TENANT, "tenant:ten_a"),
        (CALLBACK, "callback:ten_a:https://shop.example"),
        (replace(CALLBACK, url="https://Shop.example/other"), "callback:ten_a:https://shop.example"),
        (replace(CALLBACK, url="https://u:p@shop.example:8443/x"), "callback:ten_a:https://shop.example:8443"),
        (replace(CALLBACK, url="https://[::1/x"), "callback:ten_a:https://[::1/x"),
    ],
)
def test_names_what_answers_at_a_destination(destination, endpoint):
    assert destination.endpoint("ten_a") == endpoint


def test_keeps_a_kibibyte_of_an_answer_whatever_its_bytes():
    result = CallResult(status_code=200, milliseconds=1, body=b"\0\xff" + b"x" * 5000)

    assert result.excerpt == "\ufffd\ufffd" + "x" * 1022

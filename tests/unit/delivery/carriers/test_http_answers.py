"""What an answer means: by the definition's rules, and by the engine's where those say nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.delivery.carriers.base import FailureReason, OutboundMessage, Refused, Taken, TryLater, Unknown
from services.delivery.carriers.http.answers import HttpAnswer, send_result
from services.delivery.carriers.http.definition import load_definition

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
MESSAGE = OutboundMessage(message_id="msg_1", attempt_number=1, to="+6581230000", sender="", text="x")
HEAD = """\
name: x
title: X
documentation: https://x.example.com/
capability: blind
request: {url: https://x/}
answer:
"""


def result(rules: str, status: int, body: str = "", **headers: str):
    text = HEAD + "\n".join(f"  {line}" for line in (rules or "format: json").splitlines()) + "\n"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return send_result(
        load_definition(text).answer, HttpAnswer(status=status, headers=named, body=body.encode()), MESSAGE, NOW
    )


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (200, Taken, None),
        (299, Taken, None),
        (301, TryLater, FailureReason.CARRIER_UNAVAILABLE),
        (303, Unknown, None),
        (400, Refused, FailureReason.CARRIER_REJECTED),
        (401, TryLater, FailureReason.ACCOUNT_REJECTED),
        (402, TryLater, FailureReason.INSUFFICIENT_FUNDS),
        (403, Refused, FailureReason.CARRIER_REJECTED),
        (408, Unknown, None),
        (429, TryLater, FailureReason.THROTTLED),
        (500, Unknown, None),
        (503, Unknown, None),
        (599, Unknown, None),
        (100, Unknown, None),
    ],
)
def test_takes_an_http_status_for_what_it_says_and_a_5xx_for_anything(status, kind, reason):
    found = result("", status)

    assert isinstance(found, kind)
    assert reason is None or found.failure.reason is reason


RULES = """\
code: code
statuses:
  5xx: try_later
  500: unknown
  404: {reason: invalid_number}
  2xx: refused
codes:
  1: opted_out
  2: throttled
  3: {outcome: unknown}
  4: {outcome: try_later, reason: insufficient_funds, after_seconds: 30}
taken: {where: {ok: "true"}}
"""


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (200, '{"ok": true}', Taken, None),
        (200, '{"ok": true, "code": 1}', Taken, None),
        (502, "", TryLater, FailureReason.CARRIER_UNAVAILABLE),
        (500, "", Unknown, None),
        (500, '{"code": 1}', Unknown, None),
        (404, "", Refused, FailureReason.INVALID_NUMBER),
        (404, '{"code": 1}', Refused, FailureReason.OPTED_OUT),
        (400, '{"code": 2}', Refused, FailureReason.THROTTLED),
        (400, '{"code": 3}', Unknown, None),
        (400, '{"code": "4"}', TryLater, FailureReason.INSUFFICIENT_FUNDS),
        (500, '{"code": 4}', TryLater, FailureReason.INSUFFICIENT_FUNDS),
        (200, '{"code": 99}', Refused, FailureReason.CARRIER_REJECTED),
    ],
)
def test_a_code_goes_before_a_status_and_a_status_before_its_class(status, body, kind, reason):
    found = result(RULES, status, body)

    assert isinstance(found, kind)
    assert reason is None or found.failure.reason is reason


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"messages": [{"status": "0", "id": "a"}, {"status": "0", "id": "b"}]}', Taken),
        ('{"messages": [{"status": "0"}, {"status": "2"}]}', Unknown),
        ('{"messages": [{"status": "2"}, {"status": "2"}]}', Refused),
        ('{"messages": [{"status": "1"}]}', TryLater),
        ('{"messages": [{"status": "77"}]}', Unknown),
        ('{"messages": []}', Unknown),
        ("not JSON", Unknown),
        ("[" * 60_000, Unknown),
        ("1" * 5_000, Unknown),
    ],
)
def test_judges_a_200_by_what_stands_in_it(body, kind):
    rules = """\
taken: {where: {"messages[*].status": "0"}}
message_id: messages[*].id
code: messages[0].status
codes: {1: throttled, 2: carrier_rejected}
"""
    found = result(rules, 200, body)

    assert isinstance(found, kind)
    if kind is Taken:
        assert (found.carrier_message_id, found.part_ids) == ("a", ("a", "b"))


def test_one_id_is_no_list_of_parts():
    assert result("message_id: 'messages[*].id'", 200, '{"messages": [{"id": 7}]}') == Taken(
        carrier_message_id="7", detail='HTTP 200: {"messages": [{"id": 7}]}'
    )


def test_reads_plain_text():
    rules = """\
format: text
taken: {where: {'^(Success|Error)': Success}}
message_id: '^Success "([^"]+)"'
code: '^Error "([^"]+)"'
detail: '^(\\w+)'
"""
    taken, refused = result(rules, 200, 'Success "07033084"'), result(rules, 400, 'Error "No route found"')

    assert taken == Taken(carrier_message_id="07033084", detail="HTTP 200: Success")
    assert (refused.failure.carrier_code, refused.detail) == ("No route found", "HTTP 400: Error")


def test_looks_at_the_beginning_of_a_text_only():
    assert isinstance(result("format: text\ntaken: {where: {'(end)': end}}", 200, "x" * 2_000 + "end"), Unknown)


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ("{}", {}, 30.0),
        ("{}", {"retry_after": "7"}, 7.0),
        ('{"wait": 9}', {"retry_after": "7"}, 9.0),
        ('{"wait": "soon"}', {}, 30.0),
        ('{"wait": 99999999}', {}, 86_400.0),
    ],
)
def test_waits_as_the_carrier_says_and_else_as_the_definition_does(body, headers, seconds):
    rules = "retry_after: wait\nstatuses: {429: {outcome: try_later, after_seconds: 30}}"

    assert result(rules, 429, body, **headers).after_seconds == seconds


def test_finds_a_value_in_a_header_and_cuts_it_out_of_a_text():
    rules = "message_id: [{header: X-Id}, {body: url, match: '/([0-9]+)$'}]"

    assert result(rules, 200, "{}", x_id="h1").carrier_message_id == "h1"
    assert result(rules, 200, '{"url": "https://x/messages/42"}').carrier_message_id == "42"
    assert result(rules, 200, '{"url": "https://x/"}').carrier_message_id == "msg_1"

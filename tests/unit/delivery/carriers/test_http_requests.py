"""What is sent: templates filled, members left out, and nothing escaped twice or not at all."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.delivery.carriers.base import OutboundMessage
from services.delivery.carriers.http.definition import load_definition
from services.delivery.carriers.http.requests import (
    Head,
    Prepared,
    constant_head,
    message_values,
    prepare,
    resolved_settings,
)

HEAD = """\
name: x
title: X
documentation: https://x.example.com/
capability: blind
settings:
  url: {url: true}
  token: {secret: true, several: true}
  user: {}
  again: {default: "{settings.user}-{settings.token}"}
request:
"""


def prepared(
    request: str,
    *,
    text: str = "hello",
    sender: str = "+6598765432",
    status_url: str = "",
    common: Head | None = None,
    **given,
) -> Prepared:
    definition = load_definition(HEAD + "\n".join(f"  {line}" for line in request.splitlines()) + "\n")
    message = OutboundMessage(message_id="msg_1", attempt_number=1, to="+6581230000", sender=sender, text=text)
    values = message_values(
        message, resolved_settings(definition, given), status_url=status_url, inbound_url="https://us/in"
    )
    return prepare(definition, definition.request, values, common)


def json_of(request: str, **given) -> object:
    body = prepared(f"url: https://x/\njson: {request}", **given).body
    assert body is not None
    return json.loads(body)


def test_escapes_a_value_in_an_address_save_an_address_at_its_start():
    request = prepared(
        "url: '{settings.url}/a b/{settings.user}?t={text}'", url="https://g/x?y=1&z=%20", user="a/b?c&d"
    )

    assert str(request.head.url) == "https://g/x?y=1&z=%20/a b/a%2Fb%3Fc%26d?t=hello"


def test_escapes_an_address_that_is_not_at_the_start():
    assert (
        str(prepared("url: 'https://x/?u={settings.url}'", url="https://g/").head.url) == "https://x/?u=https%3A%2F%2Fg"
    )


@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_no_text_can_change_the_rest_of_a_query(text):
    request = prepared("url: https://x/a?b=c\nquery: {t: '{text}', to: '{to_digits}'}", text=text)

    parts = urlsplit(str(request.head.url))
    assert (parts.netloc, parts.path, parts.fragment) == ("x", "/a", "")
    assert parse_qsl(parts.query, keep_blank_values=True) == [("b", "c"), ("t", text), ("to", "6581230000")]


@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_a_form_and_a_json_body_carry_any_text_as_it_is(text):
    form = prepared("url: https://x/\nform: {t: '{text}', x: y}", text=text)

    assert form.head.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(form.body.decode(), keep_blank_values=True) == [("t", text), ("x", "y")]
    assert json_of('{t: "{text}"}', text=text) == {"t": text}


def test_a_text_that_names_a_value_is_text():
    assert json_of('{t: "{text}"}', text="{settings.token} {to}", token="s") == {"t": "{settings.token} {to}"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ('{a: "{segments}"}', {"a": 1}),
        ('{a: "n={segments}"}', {"a": "n=1"}),
        ("{a: 1, b: true, c: null, d: 1.5}", {"a": 1, "b": True, "c": None, "d": 1.5}),
        ('{a: "{settings.user}"}', {}),
        ('{a: "x{settings.user}"}', {}),
        ('{a: {b: "{settings.user}"}, c: 1}', {"c": 1}),
        ('{a: ["{settings.user}"], c: [1, "{to}"]}', {"c": [1, "+6581230000"]}),
        ("{a: {}, b: []}", {"a": {}, "b": []}),
        ('{a: "{{x}} {{{to}}}"}', {"a": "{x} {+6581230000}"}),
        ('["{to_digits}", "{from_digits}"]', ["6581230000", "6598765432"]),
        ("{a: {when: ucs2, is: 2, else: 0}}", {"a": 0}),
        ("{a: {when: ucs2, is: 2}}", {}),
        ("{a: {when: not ucs2, is: {b: 1}}}", {"a": {"b": 1}}),
        ("{a: {when: long, is: 1, else: {when: gsm7, is: 3}}}", {"a": 3}),
        ("{a: {when: numeric_from, is: 1}}", {"a": 1}),
        ("{a: {when: settings.user, is: 1, else: 2}}", {"a": 2}),
        ("{a: {when: not status_url, is: 1}}", {"a": 1}),
    ],
)
def test_fills_json(template, expected):
    assert json_of(template) == expected


@pytest.mark.parametrize(
    ("text", "sender", "expected"),
    [
        ("ok", "ACME", {"n": 0, "l": 0, "u": 0, "f": "ACME"}),
        ("✓", "+6598765432", {"n": 1, "l": 0, "u": 1, "f": "6598765432"}),
        ("✓" * 71, "", {"n": 0, "l": 1, "u": 1}),
        ("a" * 161, "+65x", {"n": 0, "l": 1, "u": 0, "f": "+65x"}),
    ],
)
def test_tells_what_a_message_is_like(text, sender, expected):
    template = (
        "{n: {when: numeric_from, is: 1, else: 0}, l: {when: long, is: 1, else: 0}, u: {when: ucs2, is: 1, else: 0},"
        ' f: "{from_digits}"}'
    )

    assert json_of(template, text=text, sender=sender) == expected


def test_gives_a_text_in_utf_16_digits():
    assert json_of('{t: "{text_ucs2_hex}"}', text="é😀") == {"t": "00E9D83DDE00"}


@pytest.mark.parametrize(
    ("auth", "headers", "query"),
    [
        ("none", {}, ""),
        ("{basic: {user: 'ü', password: '{settings.token}'}}", {"Authorization": "Basic w7w6cw=="}, ""),
        ("{bearer: '{settings.token}'}", {"Authorization": "Bearer s"}, ""),
        ("{header: {name: X-Key, value: 'k {settings.token}'}}", {"X-Key": "k s"}, ""),
        ("{query: {name: key, value: '{settings.token}'}}", {}, "key=s"),
        ("{bearer: '{settings.user}'}", {}, ""),
        ("{basic: {user: '{settings.user}', password: '{settings.token}'}}", {}, ""),
    ],
)
def test_authenticates(auth, headers, query):
    request = prepared(f"url: https://x/\nauth: {auth}", token=("s", "t"))

    assert (request.head.headers, request.head.url.raw_query_string) == (headers, query)


def test_a_default_may_name_the_settings_above_it():
    assert json_of('{a: "{settings.again}"}', user="u", token="t") == {"a": "u-t"}
    assert json_of('{a: "{settings.again}"}', user="u", token="t", again="mine") == {"a": "mine"}


def test_shows_neither_body_nor_address_nor_headers():
    request = prepared(
        "url: 'https://x/{settings.token}'\nform: {t: '{text}'}\nauth: {bearer: '{settings.token}'}", token="s3"
    )

    assert "s3" not in repr(request)
    assert "hello" not in repr(request)


BASIC = "url: https://x/\nauth: {basic: {user: '{settings.user}', password: '{settings.token}'}}"


@pytest.mark.parametrize(
    ("request_", "is_there"),
    [
        ("url: https://x/\nheaders: {a: '{settings.user}'}\njson: {t: '{text}'}", True),
        (f"{BASIC}\nform: {{t: '{{text}}'}}", True),
        (f"{BASIC}\nheaders: {{Idempotency-Key: '{{message_id}}', User-Agent: '{{to}}', x: y}}\njson: {{}}", True),
        ("url: https://x/\nquery: {u: {when: settings.user, is: 1, else: '{text}'}}", True),
        ("url: 'https://x/{to}'", False),
        ("url: https://x/\nquery: {u: {when: ucs2, is: 1, else: 0}}", False),
    ],
)
def test_what_all_requests_have_in_common_changes_nothing(request_, is_there):
    given = {"user": "u", "token": "s"}
    definition = load_definition(HEAD + "\n".join(f"  {line}" for line in request_.splitlines()) + "\n")

    common = constant_head(definition, definition.request, resolved_settings(definition, given))

    assert (common is not None) is is_there
    alone, shared = prepared(request_, **given), prepared(request_, common=common, **given)
    assert sorted(alone.written.splitlines()) == sorted(shared.written.splitlines())

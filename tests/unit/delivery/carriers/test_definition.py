"""Definitions: what is read from them, and what is refused with file, line and key."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.delivery.carriers.base import Capability, FailureReason, Status
from services.delivery.carriers.http.definition import (
    YamlError,
    load_definition,
    setting_problems,
    shipped,
)
from services.delivery.carriers.http.model import OutcomeWord

SMALLEST = """\
name: x
title: X
documentation: https://x.example.com/
capability: blind
request:
  url: https://x.example.com/send
"""


def issues_of(text: str) -> list[str]:
    with pytest.raises(YamlError) as refused:
        load_definition(text)
    return [f"{issue.path}: {issue.message}" for issue in refused.value.issues]


def test_needs_no_more_than_a_name_a_link_and_an_address():
    definition = load_definition(SMALLEST)

    assert (definition.name, definition.capability) == ("x", Capability.BLIND)
    assert definition.request.method == "POST"
    assert definition.status_callback is None


def test_reads_what_a_code_or_a_status_means():
    definition = load_definition(
        SMALLEST
        + """\
answer:
  code: code
  codes:
    1: opted_out
    2: {outcome: try_later, reason: throttled, after_seconds: 2.5}
  statuses:
    5xx: try_later
    404: {reason: invalid_number}
"""
    )

    codes, statuses = definition.answer.codes, definition.answer.statuses
    assert (codes["1"].outcome, codes["1"].reason) == (None, FailureReason.OPTED_OUT)
    assert (codes["2"].outcome, codes["2"].after_seconds) == (OutcomeWord.TRY_LATER, 2.5)
    assert statuses["5xx"].outcome is OutcomeWord.TRY_LATER
    assert statuses["404"].reason is FailureReason.INVALID_NUMBER


def test_knows_the_shipped_ones_by_name():
    assert {"twilio", "kannel", "own-gateway"} <= shipped().keys()
    assert load_definition(shipped()["twilio"]).status_callback.receipt.statuses["delivered"].status is Status.DELIVERED


def test_names_the_file_that_it_comes_from(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SMALLEST.replace("blind", "magic"))

    with pytest.raises(YamlError, match=r"mine\.yaml:4: capability: must be one of idempotent, reconcilable, blind"):
        load_definition(path)


TEXTS = [path.read_text() for path in shipped().values()]
STATUS = """\
status_callback:
  format: form
  verify: {scheme: header, name: X-Key, value: "secret"}
  message_id: {query: message}
  status: status
  statuses: {a: sent}
"""


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        (SMALLEST + "extra: 1\n", "definition:7: extra: is not known here"),
        (SMALLEST.replace("title: X", "title: [X]"), "definition:2: title: must be a text"),
        (SMALLEST.replace("title: X\n", ""), "definition:1: title: is required"),
        (SMALLEST.replace("title: X", "title:"), "definition:2: title: must not be empty"),
        (SMALLEST.replace("name: x", "name: X Y"), "definition:1: name: must be 1 to 32 small letters"),
        (SMALLEST.replace("https://x.example.com/\n", "see above\n"), "definition:3: documentation: must be links"),
        (SMALLEST.replace("blind", "reconcilable"), "definition:4: capability: can not be `reconcilable` without"),
        (SMALLEST.replace("/send", "/{whom}"), "definition:6: request.url: names `{whom}`, which there is not"),
        (SMALLEST.replace("/send", "/{settings.a}"), "definition:6: request.url: names `{settings.a}`"),
        (SMALLEST.replace("/send", "/{"), "definition:6: request.url: has a brace at character 23"),
        (SMALLEST + "  method: DELETE\n", "definition:7: request.method: must be one of POST, GET, PUT"),
        (SMALLEST + "  form: {a: b}\n  json: {a: b}\n", "definition:8: request.json: can not stand beside `form`"),
        (SMALLEST + "  form: {a: {b: c}}\n", "definition:7: request.form.a: must be a text, or a choice"),
        (SMALLEST + "  json: {a: {when: rain, is: 1}}\n", "definition:7: request.json.a.when: is no condition"),
        (SMALLEST + "  json: {a: {when: ucs2}}\n", "definition:7: request.json.a: needs `is`"),
        (SMALLEST + "  json: {a: {when: ucs2, is: 1, or: 2}}\n", "definition:7: request.json.a.or: is not known here"),
        (SMALLEST + "  headers: {'a b': c}\n", "definition:7: request.headers.a b: is no header's name"),
        (SMALLEST + "  headers: {X-Text: '{text}'}\n", "definition:7: request.headers.X-Text: names `{text}`"),
        (SMALLEST + "  auth: {magic: 1}\n", "definition:7: request.auth: must be `none` or one of basic"),
        (SMALLEST + "  auth: {basic: {user: a}}\n", "definition:7: request.auth.basic.password: is required"),
        (SMALLEST + "answer: {codes: {1: opted_out}}\n", "definition:7: answer.codes: can not be used without `code`"),
        (SMALLEST + "answer: {code: c, codes: {1: rain}}\n", "definition:7: answer.codes.1: must be one of invalid_n"),
        (SMALLEST + "answer: {code: c, codes: {1: no_answer}}\n", "definition:7: answer.codes.1: must be one of"),
        (SMALLEST + "answer: {statuses: {6xx: refused}}\n", "definition:7: answer.statuses.6xx: must be an HTTP"),
        (SMALLEST + "answer: {statuses: {5xx: rain}}\n", "definition:7: answer.statuses.5xx: must be one of refused"),
        (SMALLEST + "answer: {code: 'a..b'}\n", "definition:7: answer.code: is no path into JSON: it has `..`"),
        (SMALLEST + "answer: {code: {body: a, match: '('}}\n", "definition:7: answer.code.match: is no regular expr"),
        (SMALLEST + "answer: {code: {body: a, match: 'a'}}\n", "definition:7: answer.code.match: needs a group"),
        (SMALLEST + "answer: {code: {body: a, query: b}}\n", "definition:7: answer.code: must be a text, or {body"),
        (SMALLEST + "answer: {format: text, code: a}\n", "definition:7: answer.code: needs a group"),
        (SMALLEST + "limits: {in_flight: 0}\n", "definition:7: limits.in_flight: must be a number from 1 to 10000"),
        (SMALLEST + "limits: {in_flight: 1.5}\n", "definition:7: limits.in_flight: must be a whole number"),
        (SMALLEST + "settings: {A: {}}\n", "definition:7: settings.A: must be small letters"),
        (SMALLEST + "settings: {a: {required: maybe}}\n", "definition:7: settings.a.required: must be true or false"),
        (SMALLEST + "settings: {a: {required: true, default: b}}\n", "definition:7: settings.a.default: can not be"),
        (SMALLEST + "settings: {a: {default: '{settings.b}'}, b: {}}\n", "definition:7: settings.a.default: names"),
        (SMALLEST + STATUS.replace("a: sent", "a: gone"), "definition:12: status_callback.statuses.a: must be one of"),
        (SMALLEST + STATUS.replace("  status: status\n", ""), "definition:7: status_callback.status: is required"),
        (SMALLEST + STATUS.replace("  message_id: {query: message}\n", ""), "definition:7: status_callback: needs `m"),
        (SMALLEST + STATUS.replace("header, ", "rain, "), "definition:9: status_callback.verify.scheme: must be one"),
        (SMALLEST + STATUS + "  each: a\n", "definition:13: status_callback.each: is for format json only"),
        (SMALLEST + STATUS + "  methods: [PUT]\n", "definition:13: status_callback.methods[0]: must be one of POST"),
        (SMALLEST + STATUS + "  answer: {status: 500}\n", "definition:13: status_callback.answer.status: must be a n"),
        (SMALLEST + STATUS + "  answer: {body: ok}\n", "definition:13: status_callback.answer.body: can not go with"),
    ],
)
def test_refuses_with_file_line_and_key(text, issue):
    assert any(each.startswith(issue) for each in issues_of(text)), issues_of(text)


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_reads_or_refuses_whatever_a_definition_says(data):
    lines = data.draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        indent = lines[index][: len(lines[index]) - len(lines[index].lstrip())]
        key = lines[index].strip().partition(":")[0]
        value = data.draw(st.sampled_from(["", "[]", "{}", "1", "true", "[1, {a: b}]", "{a: [b]}", "'{x'", "'('"]))
        lines[index] = data.draw(st.sampled_from(["", f"{indent}{key}: {value}", f"{indent}- {value}"]))

    issues = []
    try:
        load_definition("\n".join(lines))
    except YamlError as refused:
        issues = list(refused.issues)

    assert all(issue.path.startswith("definition") and issue.message for issue in issues)


def test_believes_no_callback_that_is_not_verified():
    text = SMALLEST + "\n".join(line for line in STATUS.splitlines() if "verify" not in line)

    assert "definition:7: status_callback.verify: is required" in issues_of(text)[0]


@pytest.mark.parametrize(
    ("parameters", "issue"),
    [
        ("scheme: hmac, secret: a, header: b, signed: '{body}{rain}'", "names `{rain}`"),
        ("scheme: hmac, secret: a, header: b, signed: '{body}', timestamp_header: c", "must be used with the other"),
        ("scheme: hmac, secret: a, header: b, signed: '{nonce}{body}'", "must be used with the other"),
        ("scheme: hmac, secret: a, header: b, algorithm: md5", "must be one of sha256, sha1, sha512"),
        ("scheme: hmac, header: b", "is required"),
        ("scheme: hmac, secret: '{text}', header: b", "names `{text}`"),
        ("scheme: twilio, secret: a, header: b", "is not known here"),
        ("scheme: jwt_hs256, secret: a, tolerance_seconds: 0", "must be a number from 1"),
    ],
)
def test_refuses_a_way_to_verify_that_would_prove_nothing(parameters, issue):
    text = SMALLEST + STATUS.replace('scheme: header, name: X-Key, value: "secret"', parameters)

    assert any(issue in each for each in issues_of(text)), issues_of(text)


def test_an_inbound_sms_can_not_be_verified_by_a_messages_key():
    text = SMALLEST + (
        "inbound_callback:\n  format: form\n  verify: {scheme: message_key, secret: a}\n  from: f\n  to: t\n  text: x\n"
    )

    assert "an inbound SMS belongs to no message of ours" in issues_of(text)[0]


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        ({"account_sid": "AC1", "auth_token": "t"}, {}),
        ({"account_sid": "AC1", "auth_token": ("t", "u")}, {}),
        ({"account_sid": "AC1"}, {"auth_token": "is required"}),
        ({"account_sid": "AC1", "auth_token": ()}, {"auth_token": "is required"}),
        ({"account_sid": ("AC1", "AC2"), "auth_token": "t"}, {"account_sid": "must be one value"}),
        ({"account_sid": "AC1", "auth_token": ("t", "u", "v")}, {"auth_token": "must be at most 2 values"}),
        ({"account_sid": "AC1", "auth_token": ("t", "")}, {"auth_token": "has an empty value"}),
        ({"account_sid": "AC1", "auth_token": "t\n"}, {"auth_token": "has a line break or another control character"}),
    ],
)
def test_checks_what_an_installation_gives(given, problems):
    assert setting_problems(load_definition(shipped()["twilio"]), given) == problems


def test_shows_no_value_of_a_setting_that_is_wrong():
    definition = load_definition(shipped()["twilio"])

    problems = setting_problems(definition, {"account_sid": "AC1", "auth_token": "t", "base_url": "s3cret", "x": "s3"})

    assert set(problems) == {"base_url", "x"}
    assert "s3" not in " ".join(problems.values())

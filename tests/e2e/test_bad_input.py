"""What bad input gets, through real Envoy: a clear error in the JSON shape, nothing stored, never a 5xx."""

from __future__ import annotations

import gzip
import json
import secrets

import httpx
import pytest

from servicekit import ids
from tests.kit.pages import every_message
from tests.kit.ports import free_port

TO = '"to":"+6581230000"'
TEXT = '"text":"hello"'


def payload(**changes: object) -> bytes:
    return json.dumps({"to": "+6581230000", "text": "hello", **changes}).encode()


def expect_error(answer: httpx.Response, status: int, error: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = dict(answer.json())
    assert body["error"] == error
    assert body["requestId"] == answer.headers["x-request-id"]
    assert isinstance(body["message"], str)
    assert "Traceback" not in answer.text
    assert "sqlalchemy" not in answer.text.lower()
    return body


@pytest.fixture
def stored(api):
    return lambda: len(every_message(api))


INVALID_JSON = {
    "empty": b"",
    "blank": b" \n ",
    "truncated": b'{"to":"+6581230000","text":"hel',
    "two documents": b"{%s}{%s}" % (TO.encode(), TEXT.encode()),
    "trailing bytes": payload() + b"x",
    "trailing comma": b'{"to":"+6581230000","text":"hello",}',
    "single quotes": b"{'to':'+6581230000','text':'hello'}",
    "comment": b'{"to":"+6581230000",/*x*/"text":"hello"}',
    "NaN": b'{"to":"+6581230000","text":"hello","x":NaN}',
    "Infinity": b'{"to":"+6581230000","text":"hello","x":-Infinity}',
    "duplicate keys": b'{"to":"+6581230000","text":"hello","text":"bye"}',
    "duplicate after unescaping": b'{"to":"+6581230000","text":"hello","te\\u0078t":"bye"}',
    "depth 65": b'{"to":"+6581230000","text":"hello","x":' + b"[" * 64 + b"]" * 64 + b"}",
    "depth 130000": b"[" * 130_000 + b"]" * 130_000,
    "invalid UTF-8": b'{"to":"+6581230000","text":"\xff\xfe"}',
    "overlong UTF-8": b'{"to":"+6581230000","text":"\xc0\xaf"}',
    "encoded surrogate": b'{"to":"+6581230000","text":"\xed\xa0\x80"}',
    "lone surrogate": b'{"to":"+6581230000","text":"\\ud800"}',
    "reversed pair": b'{"to":"+6581230000","text":"\\ude00\\ud83d"}',
    "U+0000": b'{"to":"+6581230000","text":"a\\u0000b"}',
    "control character": b'{"to":"+6581230000","text":"a\nb"}',
    "UTF-16": '{"to":"+6581230000","text":"hello"}'.encode("utf-16"),
    "leading zero": b'{"to":"+6581230000","text":012}',
}


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON.keys())
def test_refuses_what_is_not_one_strict_json_document(post, integration, stored, body):
    before = stored()

    error = expect_error(post.post(f"/v1/ingress/{integration['ingressKey']}", content=body), 400, "invalid_json")

    assert isinstance(error["offset"], int)
    assert 0 <= error["offset"] <= len(body)
    assert stored() == before


def test_takes_depth_64(post, integration):
    body = b'{"to":"+6581230000","text":"hello","x":' + b"[" * 63 + b"]" * 63 + b"}"

    assert post.post(f"/v1/ingress/{integration['ingressKey']}", content=body).status_code == 202


WRONG_PAYLOADS = {
    "array as root": (b"[]", "missing_fields"),
    "string as root": (b'"hello"', "missing_fields"),
    "number as root": (b"7", "missing_fields"),
    "null as root": (b"null", "missing_fields"),
    "null recipient": (payload(to=None), "missing_fields"),
    "blank text": (payload(text="  \t"), "missing_fields"),
    "letters": (payload(to="+1800FLOWERS"), "invalid_recipient"),
    "emoji recipient": (payload(to="😀"), "invalid_recipient"),
    "extension": (payload(to="+12025550123x99"), "invalid_recipient"),
    "object recipient": (payload(to={"n": 1}), "invalid_recipient"),
    "boolean recipient": (payload(to=True), "invalid_recipient"),
    "float recipient": (b'{"to":1.2025550123e10,"text":"x"}', "invalid_recipient"),
    "no region": (payload(to="6581230000"), "invalid_recipient"),
    "250 digits": (payload(to="1" * 250), "invalid_recipient"),
    "object text": (payload(text={"a": 1}), "validation_error"),
    "1601 characters": (payload(text="x" * 1601), "text_too_long"),
    "ref of 65": (payload(ref="r" * 65), "validation_error"),
}


@pytest.mark.parametrize(("body", "error"), WRONG_PAYLOADS.values(), ids=WRONG_PAYLOADS.keys())
def test_refuses_what_is_no_message(post, integration, stored, body, error):
    before = stored()

    expect_error(post.post(f"/v1/ingress/{integration['ingressKey']}", content=body), 400, error)

    assert stored() == before


def test_keeps_every_digit_of_numbers(api, post, integration):
    api.patch(f"/v1/ingress/{integration['id']}", json={"defaultRegion": "sg"})
    body = b'{"to":6581230000,"text":18446744073709551616,"ref":12345678901234567890}'

    answer = post.post(f"/v1/ingress/{integration['ingressKey']}", content=body)

    assert answer.status_code == 202, answer.text
    assert answer.json()["to"] == "+6581230000"
    assert answer.json()["text"] == "18446744073709551616"
    assert answer.json()["ref"] == "12345678901234567890"


@pytest.mark.parametrize(("size", "status"), [(262_144, 202), (262_145, 413), (300_000, 413)])
def test_takes_bodies_up_to_the_limit_to_the_byte(post, integration, size, status):
    body = payload(x="")
    body = body[:-2] + b"x" * (size - len(body)) + body[-2:]

    answer = post.post(f"/v1/ingress/{integration['ingressKey']}", content=body)

    assert len(body) == size
    if status == 413:
        assert expect_error(answer, 413, "payload_too_large")["limit"] == 262_144
    else:
        assert answer.status_code == 202, answer.text


def test_refuses_compressed_bodies(post, integration, stored):
    before = stored()

    answer = post.post(
        f"/v1/ingress/{integration['ingressKey']}",
        content=gzip.compress(payload()),
        headers={"Content-Encoding": "gzip"},
    )

    expect_error(answer, 415, "unsupported_encoding")
    assert stored() == before


@pytest.mark.parametrize(
    ("authorization", "error"),
    [
        (None, "unauthorized"),
        ("Basic dXNlcjpwYXNz", "unauthorized"),
        ("Bearer", "unauthorized"),
        ("Bearer hello", "unauthorized"),
        ("Bearer sk_live_" + "x" * 39, "unauthorized"),
        ("Bearer sk_live_" + "x" * 40, "invalid_api_key"),
        pytest.param(f"Bearer {ids.new_secret('sk_live', 40)}", "invalid_api_key", id="well formed and unknown"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/ingress"])
def test_refuses_keys_that_are_missing_malformed_mistyped_or_unknown(post, path, authorization, error):
    headers = {"Authorization": authorization} if authorization else {}

    expect_error(post.get(path, headers=headers), 401, error)
    expect_error(post.post(path, headers=headers, json={"name": "x"}), 401, error)


def test_shows_nothing_of_another_tenant(product, api, post, integration):
    name = f"other-{secrets.token_hex(4)}"
    product.command("tenants", "create", name)
    key = product.command("keys", "create", "--tenant", name).split()[0]
    message_id = api.post("/v1/messages", json={"to": "+6581230000", "text": "mine"}).json()["id"]
    unknown_id = ids.new_id("msg", ids.datetime.now(ids.datetime.now().astimezone().tzinfo))
    own, unknown = f"/v1/ingress/{integration['id']}", f"/v1/ingress/wkh_{unknown_id[4:]}"

    with product.client(key) as other:
        calls = [
            ("GET", "/v1/messages/{id}", message_id, unknown_id),
            ("GET", "/v1/messages/{id}/timeline", message_id, unknown_id),
            ("POST", "/v1/messages/{id}/cancel", message_id, unknown_id),
            ("GET", "{id}", own, unknown),
            ("PUT", "{id}", own, unknown),
            ("PATCH", "{id}", own, unknown),
            ("DELETE", "{id}", own, unknown),
            ("POST", "{id}/rotate", own, unknown),
            ("POST", "{id}/explain", own, unknown),
        ]
        for method, path, foreign, absent in calls:
            bodies = []
            for target in (foreign, absent):
                content = None if method in ("GET", "DELETE") else b'{"name":"x"}'
                answer = other.request(method, path.format(id=target), content=content)
                body = expect_error(answer, 404, "not_found")
                bodies.append({name: value for name, value in body.items() if name != "requestId"})
            assert bodies[0] == bodies[1], (method, path)
        assert other.get("/v1/messages").json()["messages"] == []
        assert other.get("/v1/ingress").json()["integrations"] == []
        revoked = product.command("keys", "list", "--tenant", name).split()[0]
        product.command("keys", "revoke", revoked)
        expect_error(other.get("/v1/ingress"), 401, "invalid_api_key")

    assert api.get(own).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "customer[",
        "$..*",
        "$..phone",
        "$.a|$.b",
        "$.a where b",
        "$[?(@.x =~ '^(a+)+$')]",
        "$[?(@.x != 'a')]",
        "$.s * $.n",
        "$.a[0:2]",
        "$.a['b','c']",
        "$.a.`len`",
        "$" + ".a" * 17,
        "$[*].a[*].b[*]",
        "x" * 257,
    ],
)
def test_refuses_paths_outside_the_subset_when_they_are_saved(api, integration, path):
    answer = api.patch(f"/v1/ingress/{integration['id']}", json={"toPath": path})

    issues = expect_error(answer, 400, "validation_error")["issues"]
    assert isinstance(issues, list)
    assert [issue["path"] for issue in issues] == ["toPath"]
    assert len(issues[0]["message"]) > 15
    assert api.get(f"/v1/ingress/{integration['id']}").json()["toPath"] == "to"


@pytest.mark.parametrize(
    "key",
    ["ig_" + "x" * 32, "ig_x", "hello", "wkh_01m82aa6rjf2w4dfra4tnmsebr", "ig_%0a", "%F0%9F%98%80", "ig_" + "x" * 1900],
)
def test_answers_404_to_an_address_that_leads_nowhere(post, key):
    expect_error(post.post(f"/v1/ingress/{key}", content=payload()), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "validation_error"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"to":"\xff","text":"x"}', "invalid_json"),
        (b'{"to":"+6581230000"}', "validation_error"),
        (b'{"to":"+6581230000","text":"a\\u0000"}', "validation_error"),
        (b'{"to":"hello","text":"x"}', "invalid_recipient"),
        (json.dumps({"to": "+6581230000", "text": "x" * 1601}).encode(), "text_too_long"),
    ],
)
def test_refuses_messages_that_can_not_be_sent(api, body, error):
    expect_error(api.post("/v1/messages", content=body), 400, error)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("pageSize=0", "pageSize"),
        ("pageSize=1001", "pageSize"),
        ("pageToken=nonsense", "pageToken"),
        ("status=flying", "status"),
        ("to=hello", "to"),
    ],
)
def test_names_the_filter_that_can_not_be_used(api, query, field):
    error = expect_error(api.get(f"/v1/messages?{query}"), 400, "validation_error")

    issues = error["issues"]
    assert isinstance(issues, list)
    assert issues[0]["path"] == field


def test_refuses_to_start_with_a_bad_setting_and_names_it(new_product):
    product = new_product()

    with pytest.raises(AssertionError, match="TEXTWAY_DRAIN_SECONDS"):
        product.start(TEXTWAY_DRAIN_SECONDS="soon")


def test_refuses_to_start_on_a_port_that_is_taken(new_product, product):
    second = new_product()

    with pytest.raises(AssertionError, match="TEXTWAY_HTTP_PORT"):
        second.start(TEXTWAY_HTTP_PORT=product.address.rpartition(":")[2])


def test_refuses_to_start_twice_on_one_data_folder(new_product, product):
    second = new_product()

    with pytest.raises(AssertionError, match="data"):
        second.start(TEXTWAY_DATA_DIR=str(product.data_dir), TEXTWAY_HTTP_PORT=str(free_port()))

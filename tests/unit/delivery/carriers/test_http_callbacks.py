"""Callbacks: nothing is believed before it is verified, and nothing that comes can break the reader."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.delivery.carriers.base import (
    Callback,
    CallbackAnswer,
    CallbackKind,
    CallbackUnauthenticatedError,
    CallbackUnreadableError,
    FailureReason,
    Status,
)
from services.delivery.carriers.http.callback_signatures import SCHEMES, message_key
from services.delivery.carriers.http.callbacks import CallbackReader, address_of
from services.delivery.carriers.http.definition import load_definition
from services.delivery.carriers.http.requests import resolved_settings

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
MESSAGE_ID = "msg_01m82aa6rjf2w4dfra4tnmseb0"
OTHER_ID = "msg_01m82aa6rjf2w4dfra4tnmseb1"
HEAD = """\
name: x
title: X
documentation: https://x.example.com/
capability: blind
settings:
  secret: {secret: true, several: true}
  region: {}
request: {url: https://x/}
verify: {scheme: header, name: X-Key, value: "{settings.secret}"}
"""
STATUS = (
    HEAD
    + """\
status_callback:
  format: json
  only: {type: [status, final]}
  each: items[*]
  message_id: [ref, {query: message}]
  carrier_message_id: id
  status: state
  code: error.code
  detail: error.text
  statuses: {ok: delivered, wait: ignore, gone: sent, no: undelivered, late: {status: undelivered, reason: expired}}
  codes: {7: opted_out}
  answer: {status: 200, content_type: text/plain, body: OK}
"""
)
INBOUND = (
    HEAD
    + """\
inbound_callback:
  methods: [GET, POST]
  format: form
  id: id
  from: from
  to: to
  text: text
  region: "{settings.region}"
  text_encoding:
    by: coding
    values: {ucs2: utf-16-be, latin: latin-1, hex: hex-utf-16-be, gsm: gsm7, hexgsm: hex-gsm7}
    otherwise: utf-8
"""
)


def reader(text: str = STATUS, **given) -> CallbackReader:
    definition = load_definition(text)
    given = {"secret": "k", **given}
    return CallbackReader(definition, [resolved_settings(definition, given, nth=n) for n in (0, 1)])


def call(body: str | bytes = b"", *, query: str = "", kind=CallbackKind.STATUS, method="POST", key="k") -> Callback:
    url = f"https://us/v1/carriers/x/{kind.value}"
    return Callback(
        kind=kind,
        method=method,
        url=f"{url}?{query}" if query else url,
        query=query,
        headers={"x-key": key},
        body=body.encode() if isinstance(body, str) else body,
        received_at=NOW,
    )


def inbound(body: str | bytes, **options) -> Callback:
    return call(body, kind=CallbackKind.INBOUND, **options)


def item(**members: str) -> str:
    inside = ", ".join(f'"{name}": "{value}"' for name, value in {"type": "status", "id": "c1", **members}.items())
    return f'{{"items": [{{{inside}}}]}}'


def test_reads_every_receipt_of_a_batch_and_answers_what_the_carrier_wants_to_hear():
    body = f"""{{"items": [
        {{"type": "status", "id": 1, "ref": "{MESSAGE_ID}", "state": "ok"}},
        {{"type": "news", "id": 2, "state": "ok"}},
        {{"type": "final", "id": 3, "state": "no", "error": {{"code": 7, "text": "opted\\nout"}}}},
        {{"type": "status", "id": 4, "state": "wait"}},
        {{"type": "status", "id": 5, "state": "never heard of"}}
    ]}}"""

    read = reader().read(call(body))

    first, second = read.receipts
    assert (first.message_id, first.carrier_message_id, first.status) == (MESSAGE_ID, "1", Status.DELIVERED)
    assert (second.message_id, second.carrier_message_id, second.status) == ("", "3", Status.UNDELIVERED)
    assert (second.failure.reason, second.failure.carrier_code) == (FailureReason.OPTED_OUT, "7")
    assert second.detail == "no 7: opted out"
    assert read.answer == CallbackAnswer(status=200, content_type="text/plain", body=b"OK")


@pytest.mark.parametrize(
    ("state", "reason"), [("no", FailureReason.UNREACHABLE), ("late", FailureReason.EXPIRED), ("ok", None)]
)
def test_an_undelivered_message_always_has_a_reason(state, reason):
    (receipt,) = reader().read(call(item(state=state))).receipts

    assert (receipt.failure and receipt.failure.reason) == reason


def test_takes_our_id_from_the_address_when_the_body_has_none():
    (receipt,) = reader().read(call(item(state="ok"), query=f"message={MESSAGE_ID}")).receipts

    assert receipt.message_id == MESSAGE_ID


@pytest.mark.parametrize("reference", ["order-7", "msg_short", "<script>", "msg_" + "u" * 26])
def test_leaves_alone_a_reference_that_is_not_ours(reference):
    (receipt,) = reader().read(call(item(state="ok", ref=reference))).receipts

    assert (receipt.message_id, receipt.carrier_message_id) == ("", "c1")


@pytest.mark.parametrize("body", ["", "{", "[" * 60_000, "NaN", "\xff", '{"items": [{"type": "status", "id": "1"}]}'])
def test_tells_the_carrier_that_what_it_signed_can_not_be_read(body):
    with pytest.raises(CallbackUnreadableError):
        reader().read(call(body))


def test_asks_for_the_method_that_the_definition_names():
    with pytest.raises(CallbackUnreadableError, match="The callback is a GET: POST is expected"):
        reader().read(call(method="GET"))


@pytest.mark.parametrize("changes", [{"headers": {}}, {"headers": {"x-key": "K"}}, {"headers": {"x-key": ""}}])
def test_judges_nothing_of_a_callback_that_is_not_verified(changes):
    unreadable = dataclasses.replace(call("{", method="GET"), **changes)

    with pytest.raises(CallbackUnauthenticatedError):
        reader().read(unreadable)


def test_takes_nothing_when_no_secret_is_set():
    with pytest.raises(CallbackUnauthenticatedError):
        reader(secret="").read(call(item(state="ok"), key=""))


def test_takes_both_secrets_while_one_is_rotated():
    both = reader(secret=("new", "old"))

    assert both.read(call(item(state="ok"), key="new")).receipts
    assert both.read(call(item(state="ok"), key="old")).receipts
    with pytest.raises(CallbackUnauthenticatedError):
        both.read(call(item(state="ok"), key="k"))


def test_takes_no_callback_of_a_kind_that_the_carrier_does_not_have():
    with pytest.raises(CallbackUnauthenticatedError):
        reader(INBOUND).read(call(item(state="ok")))


@given(body=st.binary(max_size=300), query=st.text(max_size=50), method=st.sampled_from(["GET", "POST"]))
@settings(deadline=None)
def test_reads_or_refuses_whatever_comes(body, query, method):
    for text, kind in ((STATUS, CallbackKind.STATUS), (INBOUND, CallbackKind.INBOUND)):
        try:
            read = reader(text).read(call(body, query=query, method=method, kind=kind))
        except CallbackUnreadableError:
            continue
        for reply in read.replies:
            f"{reply.text}{reply.sender}{reply.carrier_reply_id}".encode()


# --- inbound ---


def test_reads_an_inbound_sms():
    (reply,) = reader(INBOUND).read(inbound("id=m1&from=6581230000&to=78123&text=Yes%2C+please")).replies

    assert (reply.carrier_reply_id, reply.sender, reply.recipient, reply.text) == (
        "m1",
        "+6581230000",
        "78123",
        "Yes, please",
    )


def test_reads_the_query_of_a_get_as_the_form():
    (reply,) = reader(INBOUND).read(inbound("", method="GET", query="id=m1&from=ACME&to=1&text=a")).replies

    assert (reply.sender, reply.text) == ("ACME", "a")


@pytest.mark.parametrize(
    ("text", "coding", "expected"),
    [
        ("caf%C3%A9", "", "café"),
        ("caf%E9", "latin", "café"),
        ("caf%E9", "", "caf\ufffd"),
        ("%59%7D%D8%3D%DE%00", "ucs2", "好😀"),
        ("597DD83DDE00", "hex", "好😀"),
        ("%00%02%1Be%7F", "gsm", "@$€à"),
        ("00021B65", "hexgsm", "@$€"),
        ("%D8%3D", "ucs2", "\ufffd"),
        ("a%00b", "", "ab"),
        ("", "", ""),
    ],
)
def test_reads_a_text_in_the_encoding_that_the_callback_names(text, coding, expected):
    (reply,) = reader(INBOUND).read(inbound(f"from=1&to=2&coding={coding}&text={text}")).replies

    assert reply.text == expected


def test_refuses_digits_that_are_none():
    with pytest.raises(CallbackUnreadableError, match="hexadecimal"):
        reader(INBOUND).read(inbound("from=1&to=2&coding=hex&text=xyz"))


def test_an_inbound_sms_without_an_id_has_the_same_one_when_it_comes_again():
    first, again, other = (reader(INBOUND).read(inbound(f"from=1&to=2&text={text}")).replies[0] for text in "aab")

    assert first.carrier_reply_id == again.carrier_reply_id != other.carrier_reply_id
    assert not first.has_own_id


@pytest.mark.parametrize(
    ("address", "region", "expected"),
    [
        ("6581230000", "", "+6581230000"),
        ("+65 8123-0000", "", "+6581230000"),
        ("006581230000", "", "+6581230000"),
        ("81230000", "", "81230000"),
        ("81230000", "SG", "+6581230000"),
        ("6581230000", "SG", "+6581230000"),
        ("78123", "", "78123"),
        ("78123", "SG", "78123"),
        ("ACME 24", "", "ACME 24"),
        ("+0", "", "+0"),
        ("", "", ""),
        ("a\x00b", "", "a b"),
    ],
)
def test_a_number_becomes_e164_and_all_else_stays(address, region, expected):
    assert address_of(address, region) == expected


# --- signatures ---


def hmac_call(signature: str, *, body: bytes = b"a=1", timestamp: str = "", **headers: str) -> Callback:
    named = {"x-signature": signature, "x-timestamp": timestamp, **{k.replace("_", "-"): v for k, v in headers.items()}}
    kept = {name: value for name, value in named.items() if value}
    return dataclasses.replace(call(body, query="q=1"), headers=kept)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_takes_each_form_of_hmac(algorithm, encoding):
    digest = hmac.new(b"s", b"a=1", algorithm).digest()
    written = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
    proof = SCHEMES["hmac"](
        secret="s", header="X-Signature", algorithm=algorithm, encoding=encoding, prefix="v=", separator=","
    )

    assert proof.proves(hmac_call(f"v=00, v={written}"))
    assert not proof.proves(hmac_call(written))
    assert not proof.proves(hmac_call(f"v={written}0"))
    assert not proof.proves(hmac_call(f"v={written}", body=b"a=2"))


@pytest.mark.parametrize(
    ("template", "signed"),
    [
        ("{body}", b"a=1"),
        ("{method} {url}", b"POST https://us/v1/carriers/x/status?q=1"),
        ("{url_without_query}{nonce}", b"https://us/v1/carriers/x/statusn1"),
        ("{id}.{timestamp}.{body}", b"i1.1781274720.a=1"),
        ("{timestamp}\n{body_sha256_bytes}", b"1781274720\n" + hashlib.sha256(b"a=1").digest()),
        (
            "{body_sha256}{body_md5}",
            hashlib.sha256(b"a=1").hexdigest().encode() + hashlib.md5(b"a=1").hexdigest().encode(),
        ),
        ("{sorted_form}", b"a1"),
    ],
)
def test_signs_what_the_definition_names(template, signed):
    headers = {name: f"X-{name}" for name in ("timestamp", "nonce", "id") if f"{{{name}}}" in template}
    proof = SCHEMES["hmac"](
        secret="s",
        header="X-Signature",
        signed=template,
        **{f"{name}_header": header for name, header in headers.items()},
    )
    right = hmac.new(b"s", signed, "sha256").hexdigest()
    given = {"timestamp": "1781274720", "x_nonce": "n1", "x_id": "i1"}
    kind = {"content_type": "application/x-www-form-urlencoded"}

    assert proof.proves(hmac_call(right, **given, **kind))
    assert not proof.proves(hmac_call(right[::-1], **given, **kind))


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("1781274720", True),
        ("1781274720000", True),
        ("1781274420", True),
        ("1781275020", True),
        ("1781274419", False),
        ("1781275021", False),
        ("", False),
        ("-1781274720", False),
        ("1781274720.0", False),
        ("١٧٨١٢٧٤٧٢٠", False),
        ("9" * 5000, False),
    ],
)
def test_a_signature_is_good_for_five_minutes_around_its_time(timestamp, expected):
    proof = SCHEMES["hmac"](
        secret="s", header="X-Signature", signed="{body}{timestamp}", timestamp_header="X-Timestamp"
    )
    right = hmac.new(b"s", b"a=1" + timestamp.encode(), "sha256").hexdigest()

    assert proof.proves(hmac_call(right, timestamp=timestamp)) is expected


def test_counts_the_time_of_arrival_and_not_of_reading():
    proof = SCHEMES["hmac"](secret="s", header="X-Signature", signed="{timestamp}", timestamp_header="X-Timestamp")
    right = hmac.new(b"s", b"1781274720", "sha256").hexdigest()
    late = dataclasses.replace(hmac_call(right, timestamp="1781274720"), received_at=NOW + timedelta(seconds=301))

    assert not proof.proves(late)


@pytest.mark.parametrize(
    "given",
    ["", "Basic", "Basic !!!", "Bearer dTpw", "Basic dTpx", "Basic " + "A" * 100_000, "Basic ü"],
)
def test_takes_no_other_basic_credentials(given):
    proof = SCHEMES["basic"](user="u", password="p")
    right = dataclasses.replace(call(), headers={"authorization": "Basic dTpw"})

    assert proof.proves(right)
    assert proof.proves(dataclasses.replace(right, headers={"authorization": "basic dTpw"}))
    assert not proof.proves(dataclasses.replace(right, headers={"authorization": given}))


@pytest.mark.parametrize("query", ["", "key=wrong", "key=k&key=k", "key=K", "Key=k", "key=k%00"])
def test_takes_no_other_secret_in_the_query(query):
    proof = SCHEMES["query"](name="key", value="k")

    assert proof.proves(call(query="a=b&key=%6B"))
    assert not proof.proves(call(query=query))


def test_a_messages_key_is_good_for_that_message_alone():
    proof, key = SCHEMES["message_key"](secret="s"), message_key("s", MESSAGE_ID)

    assert proof.proves(call(query=f"message={MESSAGE_ID}&key={key}&type=1"))
    assert not proof.proves(call(query=f"message={OTHER_ID}&key={key}"))
    assert not proof.proves(call(query=f"message={MESSAGE_ID}&key={key}&message={OTHER_ID}"))
    assert not proof.proves(call(query=f"message={MESSAGE_ID}&key={key[:-1]}"))
    assert not proof.proves(call(query=f"message={MESSAGE_ID}"))
    assert not SCHEMES["message_key"](secret="").proves(
        call(query=f"message={MESSAGE_ID}&key={message_key('', MESSAGE_ID)}")
    )


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@given(header=st.text(max_size=200), query=st.text(max_size=80), body=st.binary(max_size=80))
@settings(deadline=None, max_examples=50)
def test_no_scheme_breaks_on_what_a_stranger_sends(scheme, header, query, body):
    given = {
        "hmac": {"secret": "s", "header": "H", "encoding": "base64", "signed": "{timestamp}{sorted_form}"}
        | {"timestamp_header": "H"},
        "ed25519": {"public_key": base64.b64encode(b"k" * 32).decode(), "header": "H", "timestamp_header": "H"},
        "jwt_hs256": {"secret": "s", "header": "H", "prefix": ""},
        "basic": {"user": "u", "password": "p"},
        "header": {"name": "H", "value": "v"},
        "query": {"name": "q", "value": "v"},
    }.get(scheme, {"secret": "s"})
    names = ("h", "x-twilio-signature", "authorization", "x-twilio-webhooks-signature-settings")
    headers = dict.fromkeys(names, header) | {"content-type": "application/x-www-form-urlencoded"}
    strange = dataclasses.replace(call(body, query=query), headers=headers)

    assert SCHEMES[scheme](**given).proves(strange) is (scheme == "header" and header == "v")


@pytest.mark.parametrize("scheme", ["hmac", "twilio", "jwt_hs256", "basic", "header", "query", "message_key"])
def test_does_not_show_its_secret(scheme):
    given = {
        "hmac": {"secret": "s3cret", "header": "H"},
        "basic": {"user": "u", "password": "s3cret"},
        "header": {"name": "H", "value": "s3cret"},
        "query": {"name": "q", "value": "s3cret"},
    }.get(scheme, {"secret": "s3cret"})

    assert "s3cret" not in repr(SCHEMES[scheme](**given))

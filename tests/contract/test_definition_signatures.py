"""Shipped definitions believe what their carriers sign, and nothing else.

Nothing here asks the engine for a signature: each is made with a library (PyJWT, cryptography), or by a few lines
written from the carrier's documentation, which the definition links.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import cache
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from services.delivery.carriers.base import Callback, CallbackKind, CallbackUnauthenticatedError
from services.delivery.carriers.http.carrier import HttpCarrier
from services.delivery.carriers.http.definition import Definition, Installation, load_definition, shipped
from services.delivery.domain import Status
from tests.conftest import FixedClock

MESSAGE_ID = "msg_01m82aa6rjf2w4dfra4tnmseb0"
OTHER_ID = "msg_01m82aa6rjf2w4dfra4tnmseb1"
NOW = int(FixedClock().now().timestamp())
SECRET = "a secret of more than thirty-two characters, as it should be"
OTHER = "another secret of more than thirty-two characters, all the same"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

INSTALLED: dict[str, dict[str, str]] = {
    "vonage": {"api_key": "abcd1234", "api_secret": "x", "signature_secret": SECRET},
    "telnyx": {"api_key": "x", "public_key": ""},
    "plivo": {"auth_id": "MAX", "auth_token": SECRET},
    "sinch": {"service_plan_id": "plan", "api_token": "x", "webhook_secret": SECRET},
    "messagebird": {"access_key": "x", "signing_key": SECRET},
    "jasmin": {"username": "x", "password": "x", "callback_secret": SECRET, "inbound_key": OTHER},
    "sms-gate": {"username": "x", "password": "x", "signing_key": SECRET},
}


def ed25519_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(secret.encode()).digest())


def public_key(secret: str) -> str:
    return base64.b64encode(ed25519_key(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


@cache
def definition_of(name: str) -> Definition:
    return load_definition(shipped()[name])


def carrier(name: str, **changed: str) -> HttpCarrier:
    given = {**INSTALLED[name], **changed}
    if name == "telnyx":
        given["public_key"] = public_key(SECRET)
    installation = Installation(name="main", settings=given, public_url="https://sms.example.com")
    return HttpCarrier(definition_of(name), installation, FixedClock())


def call(
    kind: CallbackKind, body: bytes = b"", *, query: str = "", method: str = "POST", content_type: str = JSON
) -> Callback:
    url = f"https://sms.example.com/v1/carriers/main/{kind.value}"
    return Callback(
        kind=kind,
        method=method,
        url=f"{url}?{query}" if query else url,
        query=query,
        headers={"content-type": content_type} if body else {},
        body=body,
        received_at=FixedClock().now(),
    )


def with_headers(unsigned: Callback, headers: dict[str, str]) -> Callback:
    return dataclasses.replace(unsigned, headers={**unsigned.headers, **headers})


def digest(secret: str, signed: bytes) -> bytes:
    return hmac.new(secret.encode(), signed, hashlib.sha256).digest()


# --- Each carrier's way of signing ---


def by_vonage(unsigned: Callback, secret: str = SECRET, at: int = NOW) -> Callback:
    claims = {"iat": at, "jti": "c5ba8f24", "iss": "Vonage", "api_key": "abcd1234", "application_id": "aaaaaaaa"}
    token = jwt.encode({**claims, "payload_hash": hashlib.sha256(unsigned.body).hexdigest()}, secret, "HS256")
    return with_headers(unsigned, {"authorization": f"Bearer {token}"})


def by_telnyx(unsigned: Callback, secret: str = SECRET, at: int = NOW) -> Callback:
    signature = ed25519_key(secret).sign(f"{at}|".encode() + unsigned.body)
    return with_headers(
        unsigned,
        {"telnyx-signature-ed25519": base64.b64encode(signature).decode(), "telnyx-timestamp": str(at)},
    )


def plivo_signature(url: str, form: dict[str, str], nonce: str, secret: str) -> str:
    """The address with a question mark, its query's members in order, a full stop, the form's members in order."""
    base, _, query = url.partition("?")
    base += f"?{'&'.join(sorted(query.split('&')))}." if query else "?"
    signed = base + "".join(name + form[name] for name in sorted(form)) + f".{nonce}"
    return base64.b64encode(digest(secret, signed.encode())).decode()


def plivo_call(kind: CallbackKind, form: dict[str, str], *, query: str = "", secret: str = SECRET) -> Callback:
    unsigned = call(kind, urlencode(form).encode(), query=query, content_type=FORM)
    signature = plivo_signature(unsigned.url, form, "23456789012345678901", secret)
    return with_headers(
        unsigned,
        {"x-plivo-signature-ma-v3": signature, "x-plivo-signature-v3-nonce": "23456789012345678901"},
    )


def by_sinch(unsigned: Callback, secret: str = SECRET, at: int = NOW) -> Callback:
    signature = digest(secret, unsigned.body + f".01JY3N1ZK.{at}".encode())
    return with_headers(
        unsigned,
        {
            "x-sinch-webhook-signature": base64.b64encode(signature).decode(),
            "x-sinch-webhook-signature-algorithm": "HmacSHA256",
            "x-sinch-webhook-signature-nonce": "01JY3N1ZK",
            "x-sinch-webhook-signature-timestamp": str(at),
        },
    )


def by_messagebird(unsigned: Callback, secret: str = SECRET, at: int = NOW) -> Callback:
    claims = {"iss": "MessageBird", "nbf": at - 1, "exp": at + 60, "jti": "9d0a0a2b"}
    claims["url_hash"] = hashlib.sha256(unsigned.url.encode()).hexdigest()
    if unsigned.body:
        claims["payload_hash"] = hashlib.sha256(unsigned.body).hexdigest()
    return with_headers(unsigned, {"messagebird-signature-jwt": jwt.encode(claims, secret, "HS256")})


def by_sms_gate(unsigned: Callback, secret: str = SECRET, at: int = NOW) -> Callback:
    signature = digest(secret, unsigned.body + str(at).encode()).hex()
    return with_headers(unsigned, {"x-signature": signature, "x-timestamp": str(at)})


# --- A receipt and an inbound SMS of each, as it tells them ---

QUERY = f"message={MESSAGE_ID}"


def told(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def telnyx_event(event_type: str, **payload: object) -> bytes:
    return told({"data": {"event_type": event_type, "id": "86f58db9", "payload": {"id": "40385f64", **payload}}})


STATUS_ADDRESS = f"https://sms.example.com/v1/carriers/main/status?{QUERY}"
STATUS_BODIES = {
    "vonage": told({"message_uuid": "aaaa", "status": "delivered", "channel": "sms", "client_ref": MESSAGE_ID}),
    "telnyx": telnyx_event(
        "message.finalized", to=[{"phone_number": "+65", "status": "delivered"}], webhook_url=STATUS_ADDRESS
    ),
    "sinch": told(
        {
            "type": "recipient_delivery_report_sms",
            "batch_id": "01FC",
            "status": "Delivered",
            "code": 0,
            "client_reference": MESSAGE_ID,
        }
    ),
    "sms-gate": told({"event": "sms:delivered", "id": "ev1", "payload": {"messageId": MESSAGE_ID}}),
}
INBOUND_BODIES = {
    "vonage": lambda text: told(
        {"message_uuid": "b", "from": "65", "to": "66", "channel": "sms", "message_type": "text", "text": text}
    ),
    "telnyx": lambda text: telnyx_event(
        "message.received",
        type="SMS",
        text=text,
        to=[{"phone_number": "+66"}],
        **{"from": {"phone_number": "+65"}},
    ),
    "sinch": lambda text: told({"type": "mo_text", "id": "b", "from": "65", "to": "66", "body": text}),
    "sms-gate": lambda text: told(
        {"event": "sms:received", "id": "b", "payload": {"sender": "+65", "recipient": "+66", "message": text}}
    ),
}
SIGNERS: dict[str, Callable[..., Callback]] = {
    "vonage": by_vonage,
    "telnyx": by_telnyx,
    "sinch": by_sinch,
    "sms-gate": by_sms_gate,
}
messagebird_status = call(
    CallbackKind.STATUS,
    method="GET",
    query=f"{QUERY}&id=e8077d803532c0b5937c639b60216938&reference={MESSAGE_ID}&recipient=6581230000&status=delivered"
    "&statusDatetime=2026-06-12T14%3A32%3A00%2B00%3A00&statusErrorCode=",
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=80)


def is_believed(name: str, signed: Callback) -> bool:
    try:
        carrier(name).read(signed)
    except CallbackUnauthenticatedError:
        return False
    return True


@pytest.mark.parametrize("name", SIGNERS)
def test_reads_a_receipt_that_its_carrier_signed(name):
    (receipt,) = carrier(name).read(SIGNERS[name](call(CallbackKind.STATUS, STATUS_BODIES[name], query=QUERY))).receipts

    assert (receipt.message_id, receipt.status) == (MESSAGE_ID, Status.DELIVERED)


@pytest.mark.parametrize("name", SIGNERS)
@settings(deadline=None, max_examples=50)
@given(text=texts)
def test_reads_whatever_text_its_carrier_signed(name, text):
    signed = SIGNERS[name](call(CallbackKind.INBOUND, INBOUND_BODIES[name](text)))

    (reply,) = carrier(name).read(signed).replies

    assert reply.text == text


@pytest.mark.parametrize("name", SIGNERS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_believes_no_body_that_its_carrier_did_not_sign(name, data):
    signed = SIGNERS[name](call(CallbackKind.STATUS, STATUS_BODIES[name], query=QUERY))
    body = bytearray(signed.body)
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))

    assert not is_believed(name, dataclasses.replace(signed, body=bytes(body)))


@pytest.mark.parametrize("name", SIGNERS)
@pytest.mark.parametrize("changes", [{"secret": OTHER}, {"at": NOW - 301}, {"at": NOW + 301}])
def test_believes_neither_another_secret_nor_another_time(name, changes):
    assert not is_believed(name, SIGNERS[name](call(CallbackKind.STATUS, STATUS_BODIES[name], query=QUERY), **changes))


@pytest.mark.parametrize("name", SIGNERS)
def test_believes_no_callback_without_its_signature(name):
    assert not is_believed(name, call(CallbackKind.STATUS, STATUS_BODIES[name], query=QUERY))


@pytest.mark.parametrize("name", SIGNERS)
def test_does_not_take_a_signed_receipt_for_another_message(name):
    """These sign the body, not the address: whose receipt it is has to come from the body."""
    signed = SIGNERS[name](call(CallbackKind.STATUS, STATUS_BODIES[name], query=f"message={OTHER_ID}"))

    (receipt,) = carrier(name).read(signed).receipts

    assert receipt.message_id == MESSAGE_ID


@pytest.mark.parametrize(
    ("name", "setting", "secret"),
    [
        # PyJWT makes no token without a secret, so that one is forged with a guess.
        ("vonage", "signature_secret", OTHER),
        ("sinch", "webhook_secret", ""),
        ("sms-gate", "signing_key", ""),
    ],
)
def test_believes_nothing_where_no_secret_is_set(name, setting, secret):
    signed = SIGNERS[name](call(CallbackKind.STATUS, STATUS_BODIES[name], query=QUERY), secret)

    with pytest.raises(CallbackUnauthenticatedError):
        carrier(name, **{setting: ""}).read(signed)


def test_vonage_signs_for_one_account():
    body = STATUS_BODIES["vonage"]
    claims = {"iat": NOW, "iss": "Vonage", "api_key": "efgh5678", "payload_hash": hashlib.sha256(body).hexdigest()}
    token = jwt.encode(claims, SECRET, "HS256")

    assert not is_believed(
        "vonage", with_headers(call(CallbackKind.STATUS, body), {"authorization": f"Bearer {token}"})
    )


# --- MessageBird: the address, with everything in it ---


def test_messagebird_reads_a_status_report_that_it_signed():
    (receipt,) = carrier("messagebird").read(by_messagebird(messagebird_status)).receipts

    assert (receipt.message_id, receipt.status) == (MESSAGE_ID, Status.DELIVERED)
    assert receipt.carrier_message_id == "e8077d803532c0b5937c639b60216938"


@pytest.mark.parametrize(
    ("was", "became"), [(MESSAGE_ID, OTHER_ID), ("status=delivered", "status=expired"), ("&statusErrorCode=", "")]
)
def test_messagebird_believes_no_other_address(was, became):
    signed = by_messagebird(messagebird_status)
    changed = dataclasses.replace(signed, query=signed.query.replace(was, became), url=signed.url.replace(was, became))

    assert not is_believed("messagebird", changed)


@pytest.mark.parametrize("changes", [{"secret": OTHER}, {"at": NOW - 361}, {"at": NOW + 302}])
def test_messagebird_believes_neither_another_secret_nor_another_time(changes):
    assert not is_believed("messagebird", by_messagebird(messagebird_status, **changes))


@settings(deadline=None, max_examples=50)
@given(text=texts)
def test_messagebird_signs_an_inbound_sms_with_its_body(text):
    body = urlencode({"id": "b", "originator": "65", "recipient": "66", "body": text}).encode()
    signed = by_messagebird(call(CallbackKind.INBOUND, body, content_type=FORM))

    (reply,) = carrier("messagebird").read(signed).replies

    assert reply.text == text
    assert not is_believed("messagebird", dataclasses.replace(signed, body=body + b"1"))


def test_messagebird_believes_no_body_of_which_the_token_says_nothing():
    body = urlencode({"id": "b", "originator": "65", "recipient": "66", "body": "Yes"}).encode()
    empty = by_messagebird(call(CallbackKind.INBOUND))

    assert not is_believed(
        "messagebird", with_headers(call(CallbackKind.INBOUND, body, content_type=FORM), empty.headers)
    )


# --- Plivo: the address, the form and a number used once ---

PLIVO_STATUS = {"MessageUUID": "2d5617be", "Status": "delivered", "From": "65", "To": "66", "ErrorCode": "000"}


def test_plivo_reads_a_receipt_that_it_signed():
    (receipt,) = carrier("plivo").read(plivo_call(CallbackKind.STATUS, PLIVO_STATUS, query=QUERY)).receipts

    assert (receipt.message_id, receipt.status) == (MESSAGE_ID, Status.DELIVERED)


@settings(deadline=None, max_examples=50)
@given(text=texts)
def test_plivo_reads_whatever_text_it_signed(text):
    form = {"MessageUUID": "b", "Type": "sms", "From": "65", "To": "66", "Text": text}

    (reply,) = carrier("plivo").read(plivo_call(CallbackKind.INBOUND, form)).replies

    assert reply.text == text


@settings(deadline=None, max_examples=50)
@given(name=st.sampled_from(sorted(PLIVO_STATUS)), value=texts)
def test_plivo_believes_no_form_that_it_did_not_sign(name, value):
    form = {**PLIVO_STATUS, name: PLIVO_STATUS[name] + value}
    signed = plivo_call(CallbackKind.STATUS, PLIVO_STATUS, query=QUERY)

    assert not is_believed("plivo", dataclasses.replace(signed, body=urlencode(form).encode()))


def test_plivo_believes_neither_another_message_nor_another_secret_nor_another_nonce():
    signed = plivo_call(CallbackKind.STATUS, PLIVO_STATUS, query=QUERY)
    query = f"message={OTHER_ID}"

    assert not is_believed("plivo", dataclasses.replace(signed, query=query, url=signed.url.replace(QUERY, query)))
    assert not is_believed("plivo", plivo_call(CallbackKind.STATUS, PLIVO_STATUS, query=QUERY, secret=OTHER))
    assert not is_believed("plivo", with_headers(signed, {"x-plivo-signature-v3-nonce": "1"}))


def test_plivo_may_send_several_signatures_in_one_header():
    signed = plivo_call(CallbackKind.STATUS, PLIVO_STATUS, query=QUERY)
    both = f"bm90IGl0,{signed.headers['x-plivo-signature-ma-v3']}"

    assert is_believed("plivo", with_headers(signed, {"x-plivo-signature-ma-v3": both}))


# --- Jasmin: keys in addresses ---


def jasmin_key(message_id: str, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), message_id.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("message_id", "key", "expected"),
    [
        (MESSAGE_ID, jasmin_key(MESSAGE_ID), True),
        (OTHER_ID, jasmin_key(MESSAGE_ID), False),
        (MESSAGE_ID, jasmin_key(MESSAGE_ID, OTHER), False),
        (MESSAGE_ID, "", False),
    ],
)
def test_jasmin_may_tell_of_a_message_by_that_messages_key(message_id, key, expected):
    body = urlencode({"id": "26", "level": "3", "message_status": "DELIVRD", "err": "000"}).encode()
    signed = call(CallbackKind.STATUS, body, query=f"message={message_id}&key={key}", content_type=FORM)

    assert is_believed("jasmin", signed) is expected


@pytest.mark.parametrize(("key", "expected"), [(OTHER, True), (SECRET, False), ("", False)])
def test_jasmin_may_hand_over_an_inbound_sms_by_the_key_in_the_address(key, expected):
    body = urlencode({"id": "1", "from": "65", "to": "66", "coding": "0", "content": "Yes"}).encode()
    signed = call(CallbackKind.INBOUND, body, query=urlencode({"key": key}), content_type=FORM)

    assert is_believed("jasmin", signed) is expected


@pytest.mark.parametrize(
    ("coding", "octets", "text"),
    [
        ("0", b"\x00\x02\x1b\x65", "@$€"),
        ("1", "é".encode("latin-1"), "é"),
        ("8", "Grüße 😀".encode("utf-16-be"), "Grüße 😀"),
    ],
)
def test_jasmin_hands_over_a_text_as_the_octets_that_the_smsc_sent(coding, octets, text):
    body = urlencode({"id": "1", "from": "65", "to": "66", "coding": coding, "content": octets}).encode()

    (reply,) = (
        carrier("jasmin")
        .read(call(CallbackKind.INBOUND, body, query=f"key={urlencode({'': OTHER})[1:]}", content_type=FORM))
        .replies
    )

    assert reply.text == text

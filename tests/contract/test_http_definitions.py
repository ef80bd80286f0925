"""Every shipped definition passes the same suite, and takes what its carrier's own way of signing signs."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, unquote_plus, urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from services.delivery.carriers.base import Callback, CallbackKind, CallbackUnauthenticatedError, Capability
from services.delivery.carriers.http.callback_signatures import SCHEMES
from services.delivery.carriers.http.carrier import HttpCarrier
from services.delivery.carriers.http.definition import Installation, load_definition, shipped
from services.delivery.carriers.http.try_definition import (
    INBOUND_CASES,
    SEND_CASES,
    STATUS_CASES,
    fixtures_path,
    load_fixtures,
    try_definition,
)
from services.delivery.errors import CallbackUnreadableError
from tests.conftest import FixedClock

NAMES = sorted(shipped())
MESSAGE_ID = "msg_01m82aa6rjf2w4dfra4tnmseb0"
TOKENS = ("12345678901234567890123456789012", "abcdefabcdefabcdefabcdefabcdefab")
BASE = "https://sms.example.com/v1/carriers/main"


def played(name: str):
    path = shipped()[name]
    return load_definition(path), load_fixtures(fixtures_path(path), name)


@pytest.mark.parametrize("name", NAMES)
async def test_behaves_as_its_fixtures_say(name):
    definition, fixtures = played(name)

    tried = await try_definition(definition, fixtures)

    assert {f"{each.section} {each.name}": each.problem for each in tried if each.problem} == {}


@pytest.mark.parametrize("name", NAMES)
async def test_has_a_fixture_of_everything_that_a_carrier_can_do(name):
    definition, fixtures = played(name)

    assert {*SEND_CASES} <= {case.name for case in fixtures.send}
    if definition.status_callback:
        assert {*STATUS_CASES} <= {case.name for case in fixtures.status}
        assert any(case.refused == "unauthenticated" for case in fixtures.status)
    if definition.inbound_callback:
        assert {*INBOUND_CASES} <= {case.name for case in fixtures.inbound}
        assert any(case.refused == "unauthenticated" for case in fixtures.inbound)


@pytest.mark.parametrize("name", NAMES)
def test_says_what_each_setting_is_and_hides_the_secret_ones(name):
    definition = load_definition(shipped()[name])

    assert definition.name == name
    assert all(setting.description for setting in definition.settings.values())
    for setting_name, setting in definition.settings.items():
        if any(word in setting_name for word in ("secret", "token", "password")):
            assert setting.secret, setting_name


def test_the_guide_shows_the_definition_that_is_shipped():
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "new-carrier.md").read_text()
    shown = guide.partition("## The whole of it: Twilio\n\n```yaml\n")[2].partition("```\n")[0]

    assert shown == shipped()["twilio"].read_text().partition("\n")[2]


@pytest.mark.parametrize("name", NAMES)
async def test_shows_no_secret_in_what_it_tells(name):
    definition, fixtures = played(name)
    secrets = [
        value
        for setting, given in fixtures.settings.items()
        if definition.settings[setting].secret
        for value in ([given] if isinstance(given, str) else given)
    ]
    installation = Installation(
        name="main", settings=fixtures.settings, public_url=fixtures.public_url, sender=fixtures.message.sender
    )
    carrier = HttpCarrier(definition, installation, FixedClock(), origin="http://127.0.0.1:9")
    await carrier.start(None)

    told = f"{await carrier.send(fixtures.message)} {installation} {carrier}"

    await carrier.stop()
    assert not [secret for secret in secrets if secret in told]


BELIEVES_ALL = f"  scheme: query\n  name: message\n  value: {MESSAGE_ID}\n"


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ('    Body: "{text}"\n', '    Body: "{to}"\n', "send taken"),
        ('    StatusCallback: "{status_url}"\n', "", "send taken"),
        ("  message_id: sid\n", "", "send taken"),
        ("    21610: opted_out\n    21612", "    21612", "send refused"),
        ("    20429: throttled\n", "    20429: {outcome: refused, reason: throttled}\n", "send throttled"),
        ("  statuses:\n    # 20503", "  statuses:\n    5xx: try_later\n    # 20503", "send outage"),
        ("    delivered: delivered\n", "    delivered: sent\n", "status delivered"),
        ("    30003: unreachable\n", "    30003: opted_out\n", "status undelivered"),
        ("  message_id: {query: message}\n", "", "status delivered"),
        ('  scheme: twilio\n  secret: "{settings.auth_token}"\n', BELIEVES_ALL, "status forged"),
        ("  text: Body\n", "  text: To\n", "inbound reply"),
        ('body: "<Response/>"', 'body: "<Nothing/>"', "inbound reply"),
    ],
)
async def test_playing_the_fixtures_finds_what_is_wrong_with_a_definition(right, wrong, found):
    text = shipped()["twilio"].read_text()
    assert right in text
    definition = load_definition(text.replace(right, wrong))

    tried = await try_definition(definition, played("twilio")[1])

    assert found in {f"{each.section} {each.name}" for each in tried if each.problem}


async def test_playing_fixtures_finds_what_they_do_not_try():
    definition, fixtures = played("twilio")
    without = dataclasses.replace(
        fixtures, send=tuple(case for case in fixtures.send if case.name != "throttled"), inbound=()
    )

    tried = await try_definition(definition, without)

    assert [(each.section, each.name) for each in tried if each.problem == "is missing"] == [
        ("send", "throttled"),
        ("inbound", "reply"),
    ]


@pytest.mark.parametrize(
    ("name", "public_url", "given", "capability", "is_told"),
    [
        ("twilio", "https://sms.example.com/", {}, Capability.RECONCILABLE, True),
        ("twilio", "", {}, Capability.BLIND, False),
        ("twilio", "http://localhost:8080", {}, Capability.BLIND, False),
        ("twilio", "http://localhost:8080", {"base_url": "http://127.0.0.1:1"}, Capability.RECONCILABLE, True),
        ("kannel", "http://127.0.0.1:8080", {"url": "http://kannel:13013/x"}, Capability.BLIND, False),
        ("kannel", "http://127.0.0.1:8080", {"url": "http://localhost:13013/x"}, Capability.RECONCILABLE, True),
    ],
)
def test_is_asked_to_call_back_only_where_it_can_reach_us(name, public_url, given, capability, is_told):
    definition, fixtures = played(name)
    carrier = HttpCarrier(
        definition,
        Installation(name="main", settings={**fixtures.settings, **given}, public_url=public_url),
        FixedClock(),
    )

    request = carrier._prepared(definition.request, fixtures.message)

    assert carrier.capability is capability
    assert not carrier.can_look_up
    assert (f"{public_url.rstrip('/')}/v1/carriers/main/status?message=" in sent_text(request)) is is_told
    assert ("/v1/carriers" in sent_text(request)) is is_told


def sent_text(request) -> str:
    return unquote_plus(f"{request.head.url} {(request.body or b'').decode()}")


# --- Twilio, in both directions, with Twilio's own library ---


def twilio(token: str | tuple[str, ...] = TOKENS[0]) -> HttpCarrier:
    installation = Installation(
        name="main", settings={"account_sid": "AC1", "auth_token": token}, public_url="https://sms.example.com"
    )
    return HttpCarrier(load_definition(shipped()["twilio"]), installation, FixedClock())


def callback(kind: CallbackKind, *, query: str = "", body: bytes = b"", url: str = "", **headers: str) -> Callback:
    base = url or f"{BASE}/{kind.value}"
    return Callback(
        kind=kind,
        method="POST",
        url=f"{base}?{query}" if query else base,
        query=query,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=body,
        received_at=FixedClock().now(),
    )


def form_callback(form: dict[str, str], *, query: str = f"message={MESSAGE_ID}", url: str = "") -> Callback:
    return callback(
        CallbackKind.STATUS,
        query=query,
        url=url,
        body=urlencode(form).encode(),
        content_type="application/x-www-form-urlencoded; charset=UTF-8",
    )


def signed_by_twilio(call: Callback, token: str = TOKENS[0], *, url: str = "") -> Callback:
    form = dict(parse_qsl(call.body.decode(), keep_blank_values=True))
    signature = RequestValidator(token).compute_signature(url or call.url, form)
    return dataclasses.replace(call, headers={**call.headers, "x-twilio-signature": signature})


DELIVERED = {"MessageSid": "SM1", "MessageStatus": "delivered", "AccountSid": "AC1"}
members = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8).filter(
        lambda name: name not in DELIVERED
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    max_size=6,
)


@settings(deadline=None, max_examples=200)
@given(more=members)
def test_takes_whatever_twilios_library_signs(more):
    call = signed_by_twilio(form_callback({**DELIVERED, **more}))

    (receipt,) = twilio().read(call).receipts

    assert (receipt.message_id, receipt.carrier_message_id) == (MESSAGE_ID, "SM1")


@settings(deadline=None, max_examples=200)
@given(more=members, data=st.data())
def test_takes_nothing_that_twilios_library_would_not(more, data):
    call = signed_by_twilio(form_callback({**DELIVERED, **more}))
    position = data.draw(st.integers(0, len(call.body) - 1))
    body = bytearray(call.body)
    body[position] ^= data.draw(st.integers(1, 127))
    changed = dataclasses.replace(call, body=bytes(body))
    form = dict(parse_qsl(bytes(body).decode("utf-8", "replace"), keep_blank_values=True))
    is_valid = RequestValidator(TOKENS[0]).validate(call.url, form, call.headers["x-twilio-signature"])

    try:
        twilio().read(changed)
        is_taken = True
    except CallbackUnreadableError:
        is_taken = True  # it is signed, whatever is missing in it
    except CallbackUnauthenticatedError:
        is_taken = False

    assert is_taken == is_valid


def test_tells_what_is_missing_in_a_callback_that_twilios_signature_can_not_tell_from_a_whole_one():
    # What is signed are names and values in a row, with nothing between them.
    call = signed_by_twilio(form_callback(DELIVERED))
    body = call.body.replace(b"MessageStatus=", b"MessageStatus&")
    assert body != call.body
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    assert RequestValidator(TOKENS[0]).validate(call.url, form, call.headers["x-twilio-signature"])

    with pytest.raises(CallbackUnreadableError, match="no status"):
        twilio().read(dataclasses.replace(call, body=body))


@pytest.mark.parametrize(
    ("known", "signed"),
    [
        ("https://sms.example.com/v1/carriers/main/status", "https://sms.example.com:443/v1/carriers/main/status"),
        ("https://sms.example.com:443/v1/carriers/main/status", "https://sms.example.com/v1/carriers/main/status"),
        ("https://sms.example.com:8443/v1/carriers/main/status", "https://sms.example.com/v1/carriers/main/status"),
    ],
)
def test_minds_no_port_as_twilios_library_minds_none(known, signed):
    query = f"message={MESSAGE_ID}"

    read = twilio().read(signed_by_twilio(form_callback(DELIVERED, url=known), url=f"{signed}?{query}"))

    assert len(read.receipts) == 1


def test_takes_a_body_that_is_no_form_by_its_digest_as_twilios_library_does():
    body = json.dumps({"MessageStatus": "delivered"}).encode()
    query = f"message={MESSAGE_ID}&bodySHA256={hashlib.sha256(body).hexdigest()}"
    call = callback(CallbackKind.STATUS, query=query, body=body, content_type="application/json")
    signature = RequestValidator(TOKENS[0]).compute_signature(call.url, {})
    proof = SCHEMES["twilio"](secret=TOKENS[0])
    signed = dataclasses.replace(call, headers={**call.headers, "x-twilio-signature": signature})

    assert RequestValidator(TOKENS[0]).validate(call.url, body.decode(), signature)
    assert proof.proves(signed)
    assert not proof.proves(dataclasses.replace(signed, body=body + b" "))
    assert not proof.proves(dataclasses.replace(signed, query="", url=call.url.partition("?")[0]))


@pytest.mark.parametrize("token", TOKENS)
def test_takes_either_token_while_it_is_rotated(token):
    call = signed_by_twilio(form_callback(DELIVERED), token)

    assert twilio(TOKENS).read(call).receipts


def test_takes_no_token_that_it_was_not_given():
    call = signed_by_twilio(form_callback(DELIVERED), TOKENS[1])

    with pytest.raises(CallbackUnauthenticatedError):
        twilio().read(call)


def test_an_address_without_query_proves_nothing_about_a_message_that_is_added_to_it():
    call = signed_by_twilio(form_callback(DELIVERED, query=""))
    query = f"message={MESSAGE_ID}"

    with pytest.raises(CallbackUnauthenticatedError):
        twilio().read(dataclasses.replace(call, query=query, url=f"{call.url}?{query}"))


# --- Ed25519, with the library that carriers' documentation uses ---


def signed_by_ed25519(call: Callback, key: Ed25519PrivateKey) -> Callback:
    timestamp = str(int(call.received_at.timestamp()))
    signature = base64.b64encode(key.sign(f"{timestamp}|".encode() + call.body)).decode()
    return dataclasses.replace(call, headers={"x-signature": signature, "x-timestamp": timestamp})


def ed25519_of(key: Ed25519PrivateKey):
    public = base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    return SCHEMES["ed25519"](public_key=public, header="X-Signature", timestamp_header="X-Timestamp")


@given(body=st.binary(max_size=200))
@settings(deadline=None)
def test_takes_what_an_ed25519_key_signs_and_nothing_else(body):
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    call = signed_by_ed25519(callback(CallbackKind.STATUS, body=body), key)

    assert ed25519_of(key).proves(call)
    assert not ed25519_of(other).proves(call)
    assert not ed25519_of(key).proves(dataclasses.replace(call, body=body + b"0"))


# --- JSON web tokens, with PyJWT ---

JWT_SECRET = "a secret that is long enough for every algorithm of the family, SHA-512 too"


def signed_by_jwt(call: Callback, *, secret: str = JWT_SECRET, algorithm: str = "HS256", **claims: object) -> Callback:
    now = int(call.received_at.timestamp())
    given = {"iat": now, "iss": "Vonage", "payload_hash": hashlib.sha256(call.body).hexdigest(), **claims}
    kept = {name: value for name, value in given.items() if value is not None}
    token = jwt.encode(kept, secret, algorithm)
    return dataclasses.replace(call, headers={"authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"exp": 1781274720 + 60}, True),
        ({"secret": "another secret of more than thirty-two characters"}, False),
        ({"algorithm": "HS512"}, False),
        ({"payload_hash": "0" * 64}, False),
        ({"payload_hash": None}, False),
        ({"payload_hash": 7}, False),
        ({"iss": "Somebody"}, False),
        ({"iss": None}, False),
        ({"iat": None}, False),
        ({"iat": "1781274720"}, False),
        ({"iat": True}, False),
        ({"iat": 1781274720 - 301}, False),
        ({"iat": 1781274720 + 301}, False),
        ({"iat": 1781274720 - 299}, True),
        ({"nbf": 1781274720 + 301}, False),
        ({"exp": 1781274720 - 301}, False),
    ],
)
def test_takes_a_token_as_pyjwt_makes_it_only_with_all_that_it_must_say(changes, expected):
    call = signed_by_jwt(callback(CallbackKind.STATUS, body=b'{"a": 1}'), **changes)

    assert SCHEMES["jwt_hs256"](secret=JWT_SECRET, claims={"iss": "Vonage"}).proves(call) is expected


def test_takes_no_token_without_a_signature():
    call = callback(CallbackKind.STATUS)
    token = jwt.encode({"iat": int(call.received_at.timestamp())}, None, "none")
    bare = dataclasses.replace(call, headers={"authorization": f"Bearer {token}"})

    assert not SCHEMES["jwt_hs256"](secret=JWT_SECRET).proves(bare)
    assert not SCHEMES["jwt_hs256"](secret="").proves(bare)


def test_a_token_with_the_addresss_digest_is_good_for_that_address_only():
    call = callback(CallbackKind.STATUS, query="message=msg_1")
    signed = signed_by_jwt(call, url_hash=hashlib.sha256(call.url.encode()).hexdigest(), payload_hash=None)
    proof = SCHEMES["jwt_hs256"](secret=JWT_SECRET, url_hash="url_hash")

    assert proof.proves(signed)
    assert not proof.proves(dataclasses.replace(signed, url=call.url + "2"))
    assert not proof.proves(dataclasses.replace(signed, received_at=call.received_at + timedelta(hours=1)))

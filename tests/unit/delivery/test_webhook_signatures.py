"""What goes to a customer's URL is verified by the libraries that receivers use, and by plain HMAC."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import given
from hypothesis import strategies as st

from services.delivery.webhook_signatures import signed_headers

BODY = '{"id":"mo_1","text":"Grüße, 你好"}'.encode()
VERIFIERS = [standardwebhooks.Webhook, svix.webhooks.Webhook]
REFUSALS = (standardwebhooks.WebhookVerificationError, svix.webhooks.WebhookVerificationError)

plain_secrets = st.text(st.characters(exclude_categories=("Cs",)), min_size=8, max_size=256).filter(
    lambda text: not text.startswith("whsec_")
)


def signed(*secrets: str, body: bytes = BODY, age_seconds: int = 0) -> dict[str, str]:
    return signed_headers(body, webhook_id="evt_1", timestamp=int(time.time()) - age_seconds, secrets=secrets)


def new_signing_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def plain(secret: str, body: bytes = BODY) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def test_signs_as_the_example_of_the_standard_does():
    # From the specification's reference tests.
    headers = signed_headers(
        b'{"test": 2432232314}',
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_the_library_verifies_a_new_secrets_signature(verifier):
    secret = new_signing_secret()

    verifier(secret).verify(BODY, signed(secret))


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("wrong", ["body", "secret", "id", "timestamp", "age"])
def test_the_library_refuses_what_is_not_ours(verifier, wrong):
    secret = new_signing_secret()
    headers = signed(new_signing_secret() if wrong == "secret" else secret, age_seconds=400 if wrong == "age" else 0)
    if wrong == "id":
        headers["webhook-id"] = "evt_2"
    if wrong == "timestamp":
        headers["webhook-timestamp"] = str(int(headers["webhook-timestamp"]) + 1)

    with pytest.raises(REFUSALS):
        verifier(secret).verify(BODY + b" " if wrong == "body" else BODY, headers)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_while_two_secrets_are_in_force_the_library_verifies_with_either(verifier):
    newest, older, other = new_signing_secret(), new_signing_secret(), new_signing_secret()
    headers = signed(newest, older)

    verifier(newest).verify(BODY, headers)
    verifier(older).verify(BODY, headers)
    with pytest.raises(REFUSALS):
        verifier(other).verify(BODY, headers)


def test_while_two_secrets_are_in_force_the_plain_headers_are_the_newest_ones():
    headers = signed("the newest", "the older one")

    assert headers["X-MAC-Signature"] == headers["X-Webhook-Signature"] == plain("the newest")
    assert headers["webhook-signature"].count("v1,") == 2


def test_the_plain_headers_take_the_secret_as_it_is_written():
    secret = new_signing_secret()

    assert signed(secret)["X-MAC-Signature"] == plain(secret)


@given(secret=plain_secrets, body=st.binary(max_size=500))
def test_any_other_secret_signs_with_its_utf8_bytes(secret, body):
    headers = signed(secret, body=body)

    assert headers["X-MAC-Signature"] == plain(secret, body)
    timestamp = headers["webhook-timestamp"]
    expected = hmac.digest(secret.encode(), f"evt_1.{timestamp}.".encode() + body, "sha256")
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_the_library_verifies_any_other_secret_when_it_gets_its_bytes(verifier):
    verifier(b"a secret of mine").verify(BODY, signed("a secret of mine"))


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_the_library_verifies_a_secret_without_padding(verifier):
    secret = new_signing_secret().rstrip("=")

    verifier(secret).verify(BODY, signed(secret))


@pytest.mark.parametrize("secret", ["whsec_", "whsec_no base64!", "whsec_abcde", "whsec_é"])
def test_a_secret_that_only_looks_like_base64_signs_with_its_utf8_bytes(secret):
    headers = signed(secret)

    timestamp = headers["webhook-timestamp"]
    expected = hmac.digest(secret.encode(), f"evt_1.{timestamp}.".encode() + BODY, "sha256")
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()


def test_without_a_secret_nothing_is_signed_and_a_repeat_is_still_known():
    assert signed_headers(BODY, webhook_id="evt_1", timestamp=7, secrets=[]) == {
        "webhook-id": "evt_1",
        "webhook-timestamp": "7",
    }

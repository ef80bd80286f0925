"""Signatures: only the right bytes under one of the right secrets pass."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingress.errors import InvalidSignatureError
from services.ingress.signatures import verify as verify_by_header

SECRET = "s3cret"
BODY = b'{"to": "+6581230000"}'

secrets = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


def signed(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def verify(known: list[str], headers: list[str], body: bytes) -> None:
    verify_by_header(known, headers, body, header="X-Shop-Sig")


def problem_of(known: list[str], headers: list[str], body: bytes) -> str:
    with pytest.raises(InvalidSignatureError) as refusal:
        verify(known, headers, body)
    assert refusal.value.extras == {"reason": refusal.value.problem}
    return refusal.value.problem


@given(secret=secrets, body=st.binary(max_size=200))
def test_accepts_the_right_bytes(secret: str, body: bytes) -> None:
    verify([secret], [signed(secret, body)], body)


@given(data=st.data(), secret=secrets, body=st.binary(min_size=1, max_size=200))
def test_refuses_a_body_with_one_byte_changed(data: st.DataObject, secret: str, body: bytes) -> None:
    changed = bytearray(body)
    changed[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))

    assert problem_of([secret], [signed(secret, body)], bytes(changed)) == "mismatch"


@given(data=st.data(), secret=secrets, body=st.binary(max_size=200))
def test_refuses_a_header_with_one_character_changed(data: st.DataObject, secret: str, body: bytes) -> None:
    header = signed(secret, body)
    position = data.draw(st.integers(0, len(header) - 1))
    other = data.draw(st.characters().filter(lambda character: character.lower() != header[position]))

    changed = header[:position] + other + header[position + 1 :]

    assert problem_of([secret], [changed], body) in ("malformed", "mismatch")


@given(data=st.data(), secret=secrets, body=st.binary(max_size=200))
def test_refuses_a_secret_with_one_character_changed(data: st.DataObject, secret: str, body: bytes) -> None:
    position = data.draw(st.integers(0, len(secret) - 1))
    # HMAC pads a short key with zero bytes, so that "a" and "a\0" are one secret.
    other = data.draw(st.characters(exclude_categories=("Cs",), exclude_characters="\x00" + secret[position]))
    changed = secret[:position] + other + secret[position + 1 :]

    assert problem_of([changed], [signed(secret.rstrip("\x00") or "x", body)], body) == "mismatch"


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ([], "missing"),
        ([""], "malformed"),
        (["sha256="], "malformed"),
        ([signed(SECRET, BODY)[:-1]], "malformed"),
        ([signed(SECRET, BODY) + "0"], "malformed"),
        ([signed(SECRET, BODY) + "\n"], "malformed"),
        (["sha1=" + hmac.new(SECRET.encode(), BODY, "sha1").hexdigest()], "malformed"),
        ([signed(SECRET, BODY).removeprefix("sha256=")], "malformed"),
        ([signed(SECRET, BODY).replace("sha256", "SHA256")], "malformed"),
        ([signed(SECRET, BODY)] * 2, "malformed"),
        ([f"{signed(SECRET, BODY)},{signed(SECRET, BODY)}"], "malformed"),
        (["sha256=" + "٣" * 64], "malformed"),
        (["sha256=" + "0" * 64], "mismatch"),
        ([signed("other", BODY)], "mismatch"),
        ([signed(SECRET, BODY + b" ")], "mismatch"),
    ],
)
def test_refuses_and_says_what_kind_of_wrong_it_is(headers: list[str], problem: str) -> None:
    assert problem_of([SECRET], headers, BODY) == problem


def test_takes_upper_case_digits() -> None:
    digits = signed(SECRET, BODY).removeprefix("sha256=").upper()

    verify([SECRET], [f"sha256={digits}"], BODY)


@pytest.mark.parametrize("secret", ["old", "middle", "new"])
def test_takes_any_of_several_secrets(secret: str) -> None:
    verify(["old", "middle", "new"], [signed(secret, BODY)], BODY)


def test_tries_every_secret_also_after_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(left)
        return left == right

    monkeypatch.setattr("services.ingress.signatures.hmac.compare_digest", compare)

    verify([SECRET, "b", "c"], [signed(SECRET, BODY)], BODY)

    assert len(compared) == 3


def test_refuses_everything_when_there_is_no_secret() -> None:
    assert problem_of([], [signed("", BODY)], BODY) == "mismatch"


@pytest.mark.parametrize("headers", [[], ["sha1=00"]])
def test_a_refusal_names_the_header_that_is_wanted(headers: list[str]) -> None:
    with pytest.raises(InvalidSignatureError, match="`X-Shop-Sig`") as refusal:
        verify([SECRET], headers, BODY)

    assert "sha256=" in refusal.value.message

"""Idempotency keys: what is one, what is none, and that its two spellings are one key."""

from __future__ import annotations

from unittest import mock

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import ValidationError
from servicekit.idempotency import idempotency_key, key_from

PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("order-4821", "order-4821"),
        ('"order-4821"', "order-4821"),
        ("  order-4821\t", "order-4821"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("two words", "two words"),
        ('" "', " "),
        (r'"a \"quoted\" \\ key"', r'a "quoted" \ key'),
        (r"a\b", r"a\b"),
        ('it"s', 'it"s'),
        ("k" * 255, "k" * 255),
        (f'"{"k" * 255}"', "k" * 255),
    ],
)
def test_reads_a_key_with_quotes_and_without(value, key):
    assert key_from([value]) == key


@pytest.mark.parametrize(
    "value",
    [
        "",
        "   ",
        '""',
        '"',
        '"open',
        '"a"b',
        '"a", "b"',
        '"a";q=1',
        r'"a\b"',
        '"tab\there"',
        "tab\there",
        "schlüssel",
        "\ufffd",
        "k\x7f",
        "k\x00",
        "k" * 256,
        f'"{"k" * 256}"',
    ],
)
def test_refuses_what_is_no_key_and_names_the_header(value):
    with pytest.raises(ValidationError) as caught:
        key_from([value])

    assert [issue.path for issue in caught.value.issues] == ["Idempotency-Key"]


def test_no_header_is_no_key():
    assert key_from([]) is None


@pytest.mark.parametrize("values", [["a", "b"], ["a", "a"], ["", ""]])
def test_refuses_a_header_that_is_given_twice(values):
    with pytest.raises(ValidationError, match="webhook-id: must be given once"):
        key_from(values, "webhook-id")


@given(PRINTABLE)
def test_every_key_can_be_written_as_a_structured_string(key):
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')

    assert key_from([f'"{escaped}"']) == key


@given(PRINTABLE.filter(lambda key: key == key.strip() and not key.startswith('"')))
def test_a_key_without_quotes_is_itself(key):
    assert key_from([key]) == key


@given(st.text(max_size=300))
def test_whatever_is_sent_is_a_key_or_a_refusal(value):
    try:
        key = key_from([value])
    except ValidationError:
        return

    assert key is not None
    assert 1 <= len(key) <= 255
    assert key.isascii()
    assert key.isprintable()


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ((), None),
        ((("x-request-id", "r"),), None),
        ((("idempotency-key", '"k"'), ("webhook-id", "w")), "k"),
        ((("idempotency-key", b"k"),), "k"),
    ],
)
def test_reads_the_key_of_a_call(metadata, key):
    context = mock.create_autospec(grpc.aio.ServicerContext, instance=True)
    context.invocation_metadata.return_value = metadata

    assert idempotency_key(context) == key

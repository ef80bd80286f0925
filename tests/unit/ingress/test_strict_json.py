"""Strict JSON: one meaning per document, every digit kept, and the byte where anything else fails."""

from __future__ import annotations

import contextlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingress.errors import InvalidJsonError
from services.ingress.strict_json import JsonNumber, decode, render

BOM = b"\xef\xbb\xbf"
# From 3.13 on Python tells where the comma is, and not what stands in the next value's place.
TRAILING_COMMA = 2 if sys.version_info >= (3, 13) else 3


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b'{"a":"b"}', {"a": "b"}),
        (b" [1, true, null]\r\n", ["1", True, None]),
        (b'"text"', "text"),
        (b"0", "0"),
        (BOM + b'{"a":1}', {"a": "1"}),
        (b'{"a":18446744073709551616}', {"a": "18446744073709551616"}),
        (b'{"a":12345678901234567890}', {"a": "12345678901234567890"}),
        (b"[1e400,-0,1.50]", ["1e400", "-0", "1.50"]),
        ('{"a":"naïve 😀"}'.encode(), {"a": "naïve 😀"}),
        (rb'"\ud83d\ude00"', "😀"),
        (rb'"\\u0000 \\ud800"', r"\u0000 \ud800"),
        (b'{"a":{"a":1},"b":{"a":1}}', {"a": {"a": "1"}, "b": {"a": "1"}}),
        (b"[" * 64 + b"]" * 64, json.loads("[" * 64 + "]" * 64)),
        (b'["' + b"[" * 100 + b'"]', ["[" * 100]),
        (rb'["\"' + b"[" * 100 + b'"]', ['"' + "[" * 100]),
        (b"[" + b"[]," * 100 + b"[]]", [[]] * 101),
    ],
)
def test_decodes_a_strict_document(body: bytes, document: object) -> None:
    assert decode(body) == document


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b"", 0),
        (b" \n", 2),
        (b'{"a":', 5),
        (b'{"a"', 4),
        (b"{} {}", 3),
        (b"{}x", 2),
        (b"[NaN]", 1),
        (b'["NaN",-Infinity]', 7),
        (b'{"a":Infinity}', 5),
        (b'{"a":1,"a":2}', 7),
        (rb'{"a":1,"\u0061":2}', 7),
        ('{"é":{"b":[],"b":{}}}'.encode(), 14),
        (BOM + b'{"a":1,"a":2}', 10),
        (b"[" * 65 + b"]" * 65, 64),
        (b'{"a":' * 65 + b"1" + b"}" * 65, 320),
        (b"[" * 307_200, 64),
        (b'["' + b"[" * 70 + b'",' + b"[" * 65, 137),
        (b'"\xff\xfe"', 1),
        (b'"\xed\xa0\x80"', 1),
        (b'"\xc0\xaf"', 1),
        (BOM + b'"\xff"', 4),
        ('{"a":1}'.encode("utf-16"), 0),
        ('{"a":1}'.encode("utf-16-le"), 1),
        ('{"a":1}'.encode("utf-32"), 0),
        (BOM + BOM + b"{}", 3),
        (rb'{"a":"\ud800"}', 6),
        (rb'{"a":"\ud83d\ud83d\ude00"}', 6),
        (rb'{"a":"\ude00\ud83d"}', 6),
        (rb'{"\udfff":1}', 2),
        (rb'["\\\ud800"]', 4),
        (rb'["\ud83dx"]', 2),
        (rb'{"a":"x\u0000"}', 7),
        (b'"a\x00b"', 2),
        (b'"a\nb"', 2),
        (b"{'a':1}", 1),
        (b"[1,]", TRAILING_COMMA),
        (b"[01]", 2),
        (b"[+1]", 1),
        (b"[.5]", 1),
        (b"[1.]", 2),
        (b"[0x1]", 2),
        (b"/*x*/{}", 0),
        (b"\xa0{}", 0),
    ],
)
def test_refuses_anything_else_and_says_at_which_byte(body: bytes, offset: int) -> None:
    with pytest.raises(InvalidJsonError) as refusal:
        decode(body)

    assert refusal.value.extras == {"offset": offset}
    assert refusal.value.message.startswith("The body ")


@pytest.mark.parametrize(
    "body",
    [b"[" * 262_144, b'{"a":' * 50_000, b"9" * 262_144, b"[" + b"[]," * 87_000 + b"1]", b'"' + b"\\u0041" * 40_000],
)
def test_answers_or_refuses_whatever_is_sent(body: bytes) -> None:
    with contextlib.suppress(InvalidJsonError):
        assert decode(body) is not None


documents = st.recursive(
    st.none() | st.booleans() | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=10,
)


@given(document=documents, is_ascii=st.booleans())
def test_agrees_with_the_standard_library_on_good_documents(document: object, is_ascii: bool) -> None:
    body = json.dumps(document, ensure_ascii=is_ascii).encode()

    assert decode(body) == document


@given(number=st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?", fullmatch=True))
def test_keeps_every_number_as_it_was_written(number: str) -> None:
    decoded = decode(number.encode())

    assert isinstance(decoded, JsonNumber)
    assert decoded == number


@given(body=st.binary(max_size=40) | st.text('{}[]":,\\u0dD8eE+-.1aN tru', max_size=40).map(str.encode))
def test_no_bytes_make_anything_but_a_document_or_a_refusal(body: bytes) -> None:
    try:
        document = decode(body)
    except InvalidJsonError as refusal:
        offset = refusal.extras["offset"]
    else:
        offset = 0
        render(document, 100).encode()

    assert isinstance(offset, int)
    assert 0 <= offset <= len(body)


@pytest.mark.parametrize(
    ("body", "limit", "rendered"),
    [
        (b'{"a":[1,"x",null],"b":1e400}', 200, '{"a": [1, "x", null], "b": 1e400}'),
        (b'"naive"', 3, '"na'),
        (b"[1,2,3]", 4, "[1, "),
        (b"12345678901234567890", 200, "12345678901234567890"),
    ],
)
def test_renders_what_it_decoded_cut_at_the_limit(body: bytes, limit: int, rendered: str) -> None:
    assert render(decode(body), limit) == rendered


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"to=%2B6581230000&text=Hello", "it looks like a form"),
        (b"order[to]=%2B6581230000", "it looks like a form"),
        (b"\r\n<?xml version='1.0'?><sms/>", "it looks like XML or HTML"),
        (b"--b0undary\r\nContent-Disposition: form-data", "it looks like a multipart form"),
        (b"hello", "expecting value"),
        (b"{to=1}", "expecting property name enclosed in double quotes"),
    ],
)
def test_says_what_was_sent_in_place_of_json(body, told):
    with pytest.raises(InvalidJsonError) as refused:
        decode(body)

    assert f": {told}. Send one JSON document in UTF-8." in refused.value.message

"""Pages of a list: which sizes and tokens are taken, that no token breaks a query, and that a page can be carried."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from servicekit.errors import ValidationError
from servicekit.paging import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_BYTES,
    MAX_PAGE_SIZE,
    PageRequest,
    page_of,
    page_request,
    page_token,
)

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)


def encoded(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_asks_for_the_first_page_of_the_usual_size_when_nothing_is_said():
    assert page_request(None, "") == PageRequest(size=DEFAULT_PAGE_SIZE, after=None)


@pytest.mark.parametrize("size", [1, 2, MAX_PAGE_SIZE])
def test_takes_a_size_within_the_limits(size):
    assert page_request(size, "").size == size


@pytest.mark.parametrize("size", [0, -1, MAX_PAGE_SIZE + 1, 2**31 - 1, -(2**31)])
def test_refuses_a_size_outside_the_limits_and_names_it(size):
    with pytest.raises(ValidationError) as refused:
        page_request(size, "")

    assert [issue.path for issue in refused.value.issues] == ["pageSize"]
    assert str(size) in refused.value.message


@pytest.mark.parametrize(
    "after", [(0, "a"), (1_781_274_720_120, "msg_01JXHZ"), (2**53 - 1, ""), (1, 'ü 😀 " \\ \u2028'), (1, "x" * 200)]
)
def test_reads_its_own_tokens(after):
    assert page_request(None, page_token(*after)).after == after


def test_tokens_can_stand_in_a_url():
    tokens = "".join(page_token(number, "ÿ" * number) for number in range(50))

    assert tokens.replace("-", "").replace("_", "").isalnum()


def test_takes_a_token_that_kept_its_padding():
    assert page_request(None, base64.urlsafe_b64encode(b'[1,"ab"]').decode().rstrip("=")).after == (1, "ab")


HOSTILE_TOKENS = {
    "no base64": "!!!!",
    "blank": " ",
    "impossible length": "A",
    "padding only": "====",
    "standard base64 alphabet": "+/+/",
    "not ascii": "é",
    "full width": "\uff21\uff21\uff21\uff21",
    "lone surrogate": "\ud800",
    "line break": encoded('[1,"a"]') + "\n",
    "bytes that are no utf-8": encoded(b"\xff\xfe\xfd"),
    "no json": encoded("hello"),
    "empty list": encoded("[]"),
    "null": encoded("null"),
    "object": encoded('{"0":1,"1":"a"}'),
    "one member": encoded("[1]"),
    "three members": encoded('[1,"a",2]'),
    "members swapped": encoded('["a",1]'),
    "number for id": encoded("[1,2]"),
    "null for id": encoded("[1,null]"),
    "list for id": encoded('[1,["a"]]'),
    "text for time": encoded('["1","a"]'),
    "float for time": encoded('[1.0,"a"]'),
    "nan": encoded('[NaN,"a"]'),
    "infinity": encoded('[Infinity,"a"]'),
    "huge float": encoded('[1e400,"a"]'),
    "negative time": encoded('[-1,"a"]'),
    "time beyond a double": encoded(f'[{2**53},"a"]'),
    "time beyond 64 bits": encoded(f'[{2**64},"a"]'),
    "five thousand digits": encoded(f'[{"9" * 5000},"a"]'),
    "sql": encoded("1' OR '1'='1"),
    "true for time": encoded('[true,"a"]'),
    "lone surrogate for id": encoded('[1,"\\ud800"]'),
    "U+0000 in id": encoded('[1,"msg_\\u0000"]'),
    "nested without end": encoded("[" * 100_000),
}


@pytest.mark.parametrize(
    "token",
    [
        *(pytest.param(token, id=name) for name, token in HOSTILE_TOKENS.items()),
    ],
)
def test_refuses_a_token_that_no_list_has_given(token):
    with pytest.raises(ValidationError) as refused:
        page_request(None, token)

    assert [issue.path for issue in refused.value.issues] == ["pageToken"]


def shown(found: list[str], size: int) -> tuple[list[str], str]:
    rows, token = page_of(
        found, PageRequest(size=size), show=lambda row: StringValue(value=row), place=lambda row: (NOW, row)
    )
    return [row.value for row in rows], token


@pytest.mark.parametrize(
    ("found", "size", "expected"), [([], 2, ""), (["a"], 2, ""), (["a", "b"], 2, ""), (["a", "b", "c"], 2, "b")]
)
def test_asks_for_more_only_when_more_was_found_than_a_page_holds(found, size, expected):
    rows, token = shown(found, size)

    assert rows == found[:size]
    assert (page_request(None, token).after or (0, ""))[1] == expected


def test_ends_a_page_that_becomes_too_large_and_goes_on_behind_it():
    found = [f"{number:03}" + "x" * 10_000 for number in range(200)]

    seen, rest = [], found
    while rest:
        rows, token = shown(rest, 150)
        assert 0 < sum(map(len, rows)) <= MAX_PAGE_BYTES
        seen += rows
        rest = found[len(seen) :]
        assert bool(token) == bool(rest)

    assert seen == found


def test_shows_one_row_however_large_it_is():
    rows, token = shown(["x" * (MAX_PAGE_BYTES + 1)], 1)

    assert (len(rows), token) == (1, "")

"""Pages of a list: which sizes and tokens are taken, and that no token can break a query."""

from __future__ import annotations

import base64

import pytest

from servicekit.errors import ValidationError
from servicekit.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, PageRequest, page_request, page_token


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

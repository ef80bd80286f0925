"""Which answers of an endpoint are the text of a message back."""

from __future__ import annotations

import pytest

from services.delivery.answer_in_answer import MAX_ANSWER_BYTES, reply_text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"reply":"Thanks!"}', "Thanks!"),
        (b' {"ok":true,"reply":"a\\nb","n":[1,2]}\r\n', "a\nb"),
        ('{"reply":"Danke, schön 👍"}'.encode(), "Danke, schön 👍"),
        (b'{"reply":"' + b"x" * 1600 + b'"}', "x" * 1600),
        (b'{"reply":" x "}', " x "),
    ],
)
def test_reads_the_reply(body, text):
    assert reply_text(body) == text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"null",
        b"[]",
        b'"Thanks!"',
        b'["reply"]',
        b'[{"reply":"x"}]',
        b"{}",
        b'{"Reply":"x"}',
        b'{"reply":""}',
        b'{"reply":"  \\n"}',
        b'{"reply":null}',
        b'{"reply":7}',
        b'{"reply":["x"]}',
        b'{"data":{"reply":"x"}}',
        b'{"reply":"x"',
        b'{"reply":"x"} {}',
        b"{'reply':'x'}",
        b'{"reply":"x",}',
        b'{"reply":"x","reply":"y"}',
        b'{"reply":"x","n":NaN}',
        b'{"reply":"a\\u0000b"}',
        b'{"reply":"a\\u001bb"}',
        b'{"reply":"a\\u009bb"}',
        b'{"reply":"\\ud83d"}',
        b'{"reply":"\xff"}',
        b'\xef\xbb\xbf{"reply":"x"}',
        '{"reply":"x"}'.encode("utf-16"),
        b'{"reply":"' + b"x" * 1601 + b'"}',
        b'{"reply":"x","pad":"' + b"x" * MAX_ANSWER_BYTES + b'"}',
        b'{"a":' * 20_000,
        b'{"reply":"x","n":' + b"9" * 10_000 + b"}",
    ],
)
def test_sends_nothing_for_any_other_answer(body):
    assert reply_text(body) is None

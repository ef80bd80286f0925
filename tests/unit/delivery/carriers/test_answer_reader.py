"""Answers as carriers send them: whole and in pieces, by length, in chunks and until the end, and none that lies."""

from __future__ import annotations

import pytest

from services.delivery.carriers.http.answer_reader import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    AnswerReader,
    UnreadableAnswerError,
)
from services.delivery.carriers.http.answers import HttpAnswer

BY_LENGTH = b"HTTP/1.1 202 Accepted\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
IN_CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n0002;name=value\r\nlo\r\n0\r\nChecksum: 1\r\n\r\n"
)
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\nServer: old\r\n\r\nhello"


def read(*pieces: bytes, ends: bool = False) -> AnswerReader:
    reader = AnswerReader()
    is_whole = [reader.feed(piece) for piece in pieces][-1]
    if ends:
        reader.end()
    assert is_whole or ends
    return reader


@pytest.mark.parametrize(
    ("answer", "ends", "keeps"),
    [(BY_LENGTH, False, True), (IN_CHUNKS, False, True), (UNTIL_THE_END, True, False)],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_reads_a_body_however_it_is_cut(answer, ends, keeps, size):
    reader = read(*(answer[start : start + size] for start in range(0, len(answer), size)), ends=ends)

    assert reader.answer.body == b"hello"
    assert reader.can_go_on is keeps


def test_reads_status_and_headers():
    assert read(BY_LENGTH).answer == HttpAnswer(
        status=202, headers={"content-type": "text/plain", "content-length": "5"}, body=b"hello"
    )


@pytest.mark.parametrize("status", [204, 304])
def test_reads_an_answer_that_has_no_body(status):
    reader = read(b"HTTP/1.1 %d X\r\nContent-Length: 9\r\n\r\n" % status)

    assert (reader.answer.status, reader.answer.body, reader.can_go_on) == (status, b"", True)


def test_passes_over_an_answer_that_is_not_the_last():
    assert (
        read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + BY_LENGTH).answer.status
        == 202
    )


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_knows_whether_the_connection_may_be_used_again(head, keeps):
    assert read(head + b"Content-Length: 0\r\n\r\n").can_go_on is keeps


def test_does_not_use_a_connection_again_on_which_more_came_than_was_asked_for():
    assert not read(BY_LENGTH + b"HTTP/1.1 200 OK\r\n").can_go_on


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFF\r\n",
    ],
)
def test_keeps_the_beginning_of_a_long_body_and_reads_no_more(head):
    reader = read(head, b"x" * 200_000)

    assert reader.answer.body == b"x" * MAX_BODY_BYTES
    assert not reader.can_go_on


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 2_000,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD_BYTES,
        b"HTTP/1.1 102 Processing\r\n\r\n" * (MAX_HEAD_BYTES // 27 + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * (MAX_HEAD_BYTES // 6),
    ],
)
def test_refuses_what_is_no_answer(answer):
    with pytest.raises(UnreadableAnswerError):
        AnswerReader().feed(answer)


def test_does_not_use_a_connection_again_after_a_length_beside_chunks():
    both = IN_CHUNKS.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n", 1)

    assert read(both).answer.body == b"hello"
    assert not read(both).can_go_on


@pytest.mark.parametrize("answer", [BY_LENGTH[:-1], IN_CHUNKS[:-2], BY_LENGTH[:30], b""])
def test_refuses_an_answer_that_ends_too_early(answer):
    reader = AnswerReader()
    assert not reader.feed(answer)

    with pytest.raises(UnreadableAnswerError):
        reader.end()

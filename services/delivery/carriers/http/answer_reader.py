"""Reads one HTTP/1.1 answer from the bytes of a connection (RFC 9112), without doing any I/O itself.

It knows what answers to short calls need: a length, chunks, or everything until the connection ends. What can be read
in two ways is refused rather than guessed, since the next answer on the same connection would be misread.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from services.delivery.carriers.http.answers import HttpAnswer

MAX_HEAD_BYTES: Final = 32_768
MAX_BODY_BYTES: Final = 65_536
_MAX_CHUNK_LINE_BYTES: Final = 1_024

_STATUS_LINE: Final = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class UnreadableAnswerError(ConnectionError):
    """What came is no HTTP answer, or ended before it was whole."""


class AnswerReader:
    """Takes bytes as they come until the answer is there. Of a long body the beginning is kept."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body = bytearray()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._left: int | None = None  # of the body or of the chunk; None while the head or a chunk's line is due
        self._is_chunked = False
        self._until_end = False
        self._in_trailer = False
        self._headed = 0  # bytes of heads, those of 1xx answers too, and of the trailer
        self.can_go_on = False  # whether another call may be made on the connection after this answer

    @property
    def answer(self) -> HttpAnswer:
        """The answer, once `feed` or `end` has said that it is whole."""
        return HttpAnswer(status=self._status, headers=self._headers, body=bytes(self._body))

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; return whether the answer is whole. Raises UnreadableAnswerError."""
        self._buffer += data
        if not self._status and not self._read_head():
            return False
        is_whole = self._read_chunks() if self._is_chunked else self._read_body()
        if is_whole and self._buffer:
            self.can_go_on = False  # nobody asked for more
        return is_whole

    def end(self) -> None:
        """Take the end of the connection; raise UnreadableAnswerError unless the answer is whole by that."""
        if not self._until_end:
            raise UnreadableAnswerError("the connection ended before the answer was whole")

    def _read_head(self) -> bool:
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            self._count_head(end + 4)
            status_line, *lines = self._buffer[:end].decode("utf-8", "surrogateescape").split("\r\n")
            del self._buffer[: end + 4]
            found = _STATUS_LINE.fullmatch(status_line)
            if found is None:
                raise UnreadableAnswerError("the answer is no HTTP/1.1")
            if int(found[2]) >= HTTPStatus.OK:
                self._status = int(found[2])
                self._headers = _headers(lines)
                self._frame(is_old=found[1] == "0")
                return True
        _refuse_endless(self._headed + len(self._buffer))
        return False

    def _count_head(self, count: int) -> None:
        self._headed += count
        _refuse_endless(self._headed)

    def _frame(self, *, is_old: bool) -> None:
        words = {word.strip() for word in self._headers.get("connection", "").lower().split(",")}
        self.can_go_on = "keep-alive" in words if is_old else "close" not in words
        coding, length = self._headers.get("transfer-encoding"), self._headers.get("content-length")
        if self._status in _NO_BODY:
            self._left = 0
        elif coding is not None:
            # With a length beside it, somebody on the way may have counted otherwise.
            self.can_go_on = self.can_go_on and length is None
            self._is_chunked = coding.lower() == "chunked"
            self._until_end = not self._is_chunked
        elif length is not None:
            if not (length.isascii() and length.isdecimal()):
                raise UnreadableAnswerError("the answer's length is no number")
            self._left = int(length[:20])
        else:
            self._until_end = True
        self.can_go_on = self.can_go_on and not self._until_end

    def _read_body(self) -> bool:
        if self._left is None:
            self._keep(len(self._buffer))
        else:
            self._left -= self._keep(min(self._left, len(self._buffer)))
        return self._left == 0 or self._is_enough()

    def _read_chunks(self) -> bool:
        while not self._is_enough():
            if self._left:
                self._left -= self._keep(min(self._left, len(self._buffer)))
                if self._left:
                    return self._is_enough()
            line = self._line()
            if line is None:
                return False
            if self._in_trailer:
                if not line:
                    return True
                self._count_head(len(line) + 2)
            elif self._left == 0:  # the end of a chunk's data
                if line:
                    raise UnreadableAnswerError("a chunk is longer than it says")
                self._left = None
            else:
                self._left = _chunk_size(line) or None
                self._in_trailer = self._left is None
        return True

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_CHUNK_LINE_BYTES:
                raise UnreadableAnswerError("a chunk's line has no end")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _keep(self, count: int) -> int:
        self._body += self._buffer[: min(count, MAX_BODY_BYTES - len(self._body))]
        del self._buffer[:count]
        return count

    def _is_enough(self) -> bool:
        if len(self._body) < MAX_BODY_BYTES:
            return False
        self.can_go_on = False
        return True


def _refuse_endless(head_bytes: int) -> None:
    if head_bytes > MAX_HEAD_BYTES:
        raise UnreadableAnswerError("the answer's head has no end")


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise UnreadableAnswerError("the answer has a line that is no header")
        name, value = name.lower(), value.strip(" \t")
        if name in ("content-length", "transfer-encoding") and headers.get(name, value) != value:
            raise UnreadableAnswerError(f"the answer has two of {name}")
        headers[name] = value
    return headers


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip(b" \t")
    if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", digits):
        raise UnreadableAnswerError("a chunk's size is no number")
    return int(digits, 16)

"""One meaning per document: JSON as RFC 8259 and I-JSON (RFC 7493) have it, with the digits that the sender wrote.

Python's own decoder does the work. What it lets through is refused here: other encodings than UTF-8, NaN, duplicate
keys, deep nesting, lone surrogates, U+0000. A scan in Python runs only when something has shown that it is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NoReturn

from services.ingress.errors import InvalidJsonError

MAX_DEPTH: Final = 64

_BOM: Final = b"\xef\xbb\xbf"
_ADVICE: Final = "Send one JSON document in UTF-8."


class JsonNumber(str):
    """A number as its sender wrote it: no digit is lost, and a number of any length costs nothing."""

    __slots__ = ()


class _DuplicateKeyError(Exception):
    pass


class _ConstantError(Exception):
    pass


def decode(body: bytes) -> object:
    """Return the document, its numbers as JsonNumber; raise InvalidJsonError for anything but one strict document."""
    start = len(_BOM) if body.startswith(_BOM) else 0
    text = _text_of(body, start)
    if not text.strip(" \t\r\n"):
        raise InvalidJsonError(f"The body is empty. {_ADVICE}", offset=len(body))
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _refuse_deep_nesting(text, start)
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _syntax_error(text, start, error) from None
    except _ConstantError:
        _refuse_at(text, start, _first_constant(text), "NaN and Infinity are no JSON numbers.")
    except _DuplicateKeyError:
        _refuse_at(text, start, _first_duplicate(text), "An object has the same key twice.")
    if _SUSPECT_ESCAPE.search(body):
        _refuse_bad_escapes(text, start)
    return document


def _text_of(body: bytes, start: int) -> str:
    try:
        return body[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = start + error.start
        raise InvalidJsonError(f"The body is no UTF-8 at byte {offset}. {_ADVICE}", offset=offset) from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateKeyError
    return members


def _refuse_constant(_: str) -> NoReturn:
    raise _ConstantError


# Made once: making one costs as much as decoding a short body does.
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=_refuse_constant
)


_STRING: Final = r'"(?:[^"\\]|\\.)*+"?'
_STRINGS: Final = re.compile(_STRING, re.DOTALL)
_NOT_BRACKETS: Final = re.compile(r"[^\[\]{}]++")
_STRING_OR_BRACKET: Final = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_STEPS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def _refuse_deep_nesting(text: str, start: int) -> None:
    brackets = _NOT_BRACKETS.sub("", _STRINGS.sub("", text))
    if all(depth <= MAX_DEPTH for depth in accumulate(map(_STEPS.__getitem__, brackets))):
        return
    tokens = (token for token in _STRING_OR_BRACKET.finditer(text) if token.group() in _STEPS)
    depth = 0
    for token in tokens:
        depth += _STEPS[token.group()]
        if depth > MAX_DEPTH:
            _refuse_at(text, start, token.start(), f"The document is nested deeper than {MAX_DEPTH} levels.")


_STRING_OR_CONSTANT: Final = re.compile(rf"{_STRING}|NaN|-?Infinity", re.DOTALL)


def _first_constant(text: str) -> int:
    return next(token.start() for token in _STRING_OR_CONSTANT.finditer(text) if text[token.start()] != '"')


_KEY_OR_BRACE: Final = re.compile(rf"({_STRING})(\s*:)?|[\[\]{{}}]", re.DOTALL)


def _first_duplicate(text: str) -> int:
    """Return where the second of two equal keys stands. The text is JSON as far as the end of that object."""
    open_objects: list[set[str]] = []
    for token in _KEY_OR_BRACE.finditer(text):
        if token.group() in ("{", "["):
            open_objects.append(set())
        elif token.group() in ("}", "]"):
            open_objects.pop()
        elif token.group(2):
            key = json.loads(token.group(1))
            if key in open_objects[-1]:
                return token.start()
            open_objects[-1].add(key)
    raise AssertionError("the decoder saw a duplicate key that the scan does not see")


# A backslash before these may itself be escaped, so that this only says that the exact scan is needed.
_SUSPECT_ESCAPE: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?P<bad>0000|[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


def _refuse_bad_escapes(text: str, start: int) -> None:
    for escape in _ESCAPE.finditer(text):
        if escape["bad"] == "0000":
            _refuse_at(text, start, escape.start(), "A string holds the character U+0000.")
        if escape["bad"]:
            _refuse_at(text, start, escape.start(), "A string holds half of a surrogate pair.")


# What systems send that were told to send anything else, by how it begins.
_OTHER_FORMATS: Final = (
    (re.compile(r"\s*[\w.%+\[\]-]+="), "it looks like a form"),
    (re.compile(r"\s*<"), "it looks like XML or HTML"),
    (re.compile(r"\s*--[^\s]+\r?\n"), "it looks like a multipart form"),
)


def _syntax_error(text: str, start: int, error: json.JSONDecodeError) -> InvalidJsonError:
    offset = _byte_offset(text, start, error.pos)
    other = next((what for form, what in _OTHER_FORMATS if form.match(text)), None)
    if other:
        what = other
    elif error.msg == "Extra data":
        what = "something follows the document"
    else:
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        what = what[:1].lower() + what[1:]
    return InvalidJsonError(f"The body is no valid JSON at byte {offset}: {what}. {_ADVICE}", offset=offset)


def _refuse_at(text: str, start: int, position: int, what: str) -> NoReturn:
    offset = _byte_offset(text, start, position)
    raise InvalidJsonError(f"The body is refused at byte {offset}: {what}", offset=offset)


def _byte_offset(text: str, start: int, position: int) -> int:
    return start + len(text[:position].encode())


def render(value: object, limit: int) -> str:
    """Return a decoded value as JSON, cut at so many characters."""
    rendered = ""
    for chunk in _chunks(value):
        rendered += chunk
        if len(rendered) > limit:
            return rendered[:limit]
    return rendered


def _chunks(value: object) -> Iterator[str]:
    if isinstance(value, JsonNumber):
        yield str(value)
    elif isinstance(value, dict):
        yield "{"
        for index, (key, member) in enumerate(value.items()):
            yield f"{', ' if index else ''}{json.dumps(key, ensure_ascii=False)}: "
            yield from _chunks(member)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for index, element in enumerate(value):
            if index:
                yield ", "
            yield from _chunks(element)
        yield "]"
    else:
        yield json.dumps(value, ensure_ascii=False)

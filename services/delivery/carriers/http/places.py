"""Where in an answer or a callback a value stands, and taking it from there.

Documentation: docs/guides/new-carrier.md, "Where a value is". Nothing here raises on what a carrier sends: what can not
be found is not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, NoReturn
from urllib.parse import parse_qsl

from servicekit.json_paths import compile_path

MAX_FIELDS: Final = 1000
MAX_VALUES: Final = 256
MAX_MATCHED_CHARACTERS: Final = 2000

Members = Mapping[str, Sequence[str]]


class Format(Enum):
    """How a body is read."""

    JSON = "json"
    FORM = "form"
    QUERY = "query"
    TEXT = "text"


class Source(Enum):
    """Which part of a call a value is in."""

    BODY = "body"
    QUERY = "query"
    HEADER = "header"


@dataclass(frozen=True, kw_only=True)
class Content:
    """An answer or a callback, taken apart. Bytes that are no UTF-8 are kept as lone surrogates (PEP 383)."""

    body: object  # the JSON document, the members of a form, or the text
    query: Members = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case

    def part(self, source: Source) -> object:
        """Return the part that values of a source are in."""
        if source is Source.BODY:
            return self.body
        return self.query if source is Source.QUERY else self.headers

    def within(self, item: object) -> Content:
        """Return the same call with one item of its body in the body's place."""
        return replace(self, body=item)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one value stands."""

    source: Source
    find: Callable[[object], list[object]]  # in the body, the query or the headers
    match: re.Pattern[str] | None = None

    def values(self, content: Content) -> list[object]:
        """Return all that is there, in order; nothing that is null or empty."""
        where = content.part(self.source)
        found = [value for value in self.find(where)[:MAX_VALUES] if value is not None and value != ""]
        if self.match is None:
            return found
        return [group for value in found for group in _groups(self.match, text_of(value))]


Places = tuple[Place, ...]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a place must hold: something, and nothing but these values."""

    places: Places
    accepted: frozenset[str]


class Fit(Enum):
    """How far expectations are met."""

    ALL = "all"
    SOME = "some"  # of several values, some are as expected and some are not
    NONE = "none"


def find_all(places: Places, content: Content) -> list[str]:
    """Return the texts at the first of the places that has any."""
    for place in places:
        texts = [text for text in map(text_of, place.values(content)) if text]
        if texts:
            return texts
    return []


def find_first(places: Places, content: Content) -> str:
    """Return the first text at the first of the places that has any; empty when there is none."""
    return next(iter(find_all(places, content)), "")


def fit(expectations: Sequence[Expectation], content: Content) -> Fit:
    """Return how far all the expectations are met; ALL when there are none."""
    worst = Fit.ALL
    for expectation in expectations:
        found = find_all(expectation.places, content)
        good = sum(text in expectation.accepted for text in found)
        if not good:
            return Fit.NONE
        if good < len(found):
            worst = Fit.SOME
    return worst


def in_json(path: str) -> Callable[[object], list[object]]:
    """Return a getter for a JSON path; raise servicekit.json_paths.PathError when it can not be used."""
    return compile_path(path).find


def in_members(name: str) -> Callable[[object], list[object]]:
    """Return a getter for a member of a form, or of the query."""
    return lambda members: list(members.get(name, ())) if isinstance(members, Mapping) else []


def in_headers(name: str) -> Callable[[object], list[object]]:
    """Return a getter for a header."""
    lower = name.lower()
    return lambda headers: [headers[lower]] if isinstance(headers, Mapping) and lower in headers else []


def in_text(pattern: re.Pattern[str]) -> Callable[[object], list[object]]:
    """Return a getter for the first group of a regular expression, wherever it matches."""
    return lambda text: list(_groups(pattern, text)) if isinstance(text, str) else []


def _groups(pattern: re.Pattern[str], text: str) -> list[str]:
    return [found.group(1) or "" for found in pattern.finditer(text[:MAX_MATCHED_CHARACTERS])][:MAX_VALUES]


def text_of(value: object) -> str:
    """Return a scalar as text; empty for what is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else ""


def members_of(encoded: str) -> Members:
    """Return the members of a query or a form, each with all its values; none when there are too many."""
    members: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}
    for name, value in pairs:
        members.setdefault(name, []).append(value)
    return members


def body_of(body: bytes, form: Format) -> object:
    """Return a body of a format other than a query; None for JSON that can not be read."""
    text = body.decode("utf-8", "surrogateescape")
    if form is Format.FORM:
        return members_of(text)
    if form is Format.TEXT:
        return text
    try:
        # Digits are kept as they were written. A number of thousands of digits and deep nesting raise.
        return _READER.decode(text)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


_READER: Final = json.JSONDecoder(parse_float=str, parse_constant=_refuse_constant)

"""Text with names in braces, as definitions write it: literal text and values, and no expressions.

Documentation: docs/guides/new-carrier.md, "Templates".
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import quote

# Names to texts and numbers; conditions such as `ucs2` to booleans.
Values = Mapping[str, str | int]

MESSAGE_NAMES: Final = frozenset(
    {
        "to", "to_digits", "from", "from_digits", "text", "text_ucs2_hex", "message_id", "segments", "status_url",
        "inbound_url",
    }
)  # fmt: skip  # one line per name hides that this is one list
CONDITIONS: Final = frozenset({"ucs2", "gsm7", "long", "numeric_from"})

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_.]*)\}|[^{}]+")


class TemplateError(ValueError):
    """A template can not be read. The message is what follows its name."""


@dataclass(frozen=True, kw_only=True)
class Name:
    """A place in a template where a value goes."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Template:
    """Literal texts and names, in order."""

    pieces: tuple[str | Name, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it uses."""
        return tuple(piece.name for piece in self.pieces if isinstance(piece, Name))

    @cached_property
    def only(self) -> str:
        """The name that it consists of; empty for one with more to it."""
        first = self.pieces[0] if len(self.pieces) == 1 else None
        return first.name if isinstance(first, Name) else ""

    def text(self, values: Values) -> str | None:
        """Return the text; None when one of the values is empty."""
        if self.only:
            return str(values[self.only]) or None
        filled = [piece if isinstance(piece, str) else str(values[piece.name]) for piece in self.pieces]
        return "".join(filled) if all(filled) else None

    def value(self, values: Values) -> str | int | None:
        """Return the text, or the value itself with its type when the template is one name."""
        value = values[self.only] if self.only else ""
        return value if isinstance(value, int) else self.text(values)

    def url(self, values: Values, addresses: Container[str]) -> str:
        """Return an address: values are percent-encoded, save one of `addresses` at the very start."""
        first = self.pieces[0] if self.pieces else ""
        if isinstance(first, Name) and first.name in addresses:
            rest = Template(pieces=self.pieces[1:]).url(values, ()) if len(self.pieces) > 1 else ""
            return str(values[first.name]) + rest
        return "".join(
            piece if isinstance(piece, str) else quote(str(values[piece.name]), safe="") for piece in self.pieces
        )


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A number, a boolean or null that stands in a definition."""

    value: object


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A fact about the message, or a value that must not be empty."""

    name: str
    negated: bool

    def holds(self, values: Values) -> bool:
        """Whether it is so."""
        return bool(values[self.name]) is not self.negated


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of two members, by the message."""

    when: Condition
    then: Member
    otherwise: Member | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """A JSON object or array of members."""

    members: Mapping[str, Member] | tuple[Member, ...]


Member = Template | Constant | Choice | Group


class LeftOut:
    """What a member becomes that has nothing to say; None is JSON's null."""


LEFT_OUT: Final = LeftOut()


def parse_template(text: str, known: Container[str]) -> Template:
    """Return the template; raise TemplateError for a stray brace and for a name that is not known."""
    pieces: list[str | Name] = []
    position = 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        if piece is None:
            raise TemplateError(f"has a brace at character {position + 1} that begins no name: double it if it is text")
        name = piece.group(1)
        if name and name not in known:
            raise TemplateError(f"names `{{{name}}}`, which there is not")
        pieces.append(Name(name=name) if name else piece.group().replace("{{", "{").replace("}}", "}"))
        position = piece.end()
    return Template(pieces=tuple(pieces))


def parse_condition(text: str, known: Container[str]) -> Condition:
    """Return the condition; raise TemplateError when there is no such fact or value."""
    name = text.removeprefix("not ")
    if name not in CONDITIONS and name not in known:
        raise TemplateError(f"is no condition: {', '.join(sorted(CONDITIONS))} and names of values are")
    return Condition(name=name, negated=text != name)


def fill(member: Member, values: Values) -> object:
    """Return the JSON value of a member, or LEFT_OUT."""
    match member:
        case Template():
            value = member.value(values)
            return LEFT_OUT if value is None else value
        case Constant():
            return member.value
        case Choice():
            chosen = member.then if member.when.holds(values) else member.otherwise
            return LEFT_OUT if chosen is None else fill(chosen, values)
        case Group():
            return _filled_group(member, values)


def _filled_group(group: Group, values: Values) -> object:
    if isinstance(group.members, tuple):
        elements = [fill(each, values) for each in group.members]
        kept = [each for each in elements if each is not LEFT_OUT]
        return kept if kept or not elements else LEFT_OUT
    members = {name: fill(each, values) for name, each in group.members.items()}
    present = {name: each for name, each in members.items() if each is not LEFT_OUT}
    return present if present or not members else LEFT_OUT


def fill_texts(members: Mapping[str, Member], values: Values) -> dict[str, str]:
    """Return the members of a form, a query or the headers, without those that are left out."""
    filled = {name: fill(member, values) for name, member in members.items()}
    return {name: _as_text(value) for name, value in filled.items() if not isinstance(value, LeftOut)}


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

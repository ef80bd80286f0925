"""YAML that people write by hand, read strictly, with the line of every value kept for errors.

What is left out of YAML 1.1: aliases, anchors, tags, duplicate keys and several documents. A plain scalar is `null`,
`true`, `false`, a number as JSON writes it, or else text, so that `NO`, `+6598765432`, `007` and `21:30` stay as they
are written. Keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from servicekit.errors import Issue, ValidationError

MAX_BYTES: Final = 262_144
MAX_DEPTH: Final = 32

YamlPath = tuple[str | int, ...]

# What the library says of the mistakes that people make most.
_PLAIN_WORDS: Final = {
    "found character '\\t' that cannot start any token": "has a tab: indent with spaces",
    "but found another document": "begins a second document: a file has one",
    "mapping values are not allowed here": "has a colon out of place: check the indentation, and quote a text with one",
}

_NULL: Final = frozenset({"", "~", "null"})
_WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FRACTION: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}")


class YamlError(ValidationError):
    """A YAML file can not be used. Each issue's path reads `file.yaml:14: a.b.c`, or `file.yaml:14` for bad syntax."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A YAML file's value: dicts, lists and scalars; and where in the file each of them stands."""

    source: str
    value: object
    lines: Mapping[YamlPath, int]  # from 1
    scalars: Mapping[YamlPath, str]

    def where(self, path: YamlPath) -> str:
        """Return `file:line: a.b.c`; the line of the nearest member that is there when the path's own is not."""
        known = next((path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines), None)
        place = self.source if known is None else f"{self.source}:{self.lines[known]}"
        return f"{place}: {dotted(path)}" if path else place

    def issue(self, path: YamlPath, message: str) -> Issue:
        """Return what is wrong with the value at a path."""
        return Issue(path=self.where(path), message=message)

    def written(self, path: YamlPath) -> str:
        """Return a scalar's text as it is written, so that `1.10` is no number; empty for what is no scalar."""
        return self.scalars.get(path, "")


def dotted(path: YamlPath) -> str:
    """Return a path as a person reads it: `carriers.main.from`, `routes[0].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_yaml_file(path: Path) -> Document:
    """Return a file's document; raise YamlError when it can not be read or is not of the accepted form."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise YamlError([Issue(path=str(path), message=f"can not be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise YamlError([Issue(path=str(path), message=f"is no UTF-8 at byte {error.start}")]) from None
    return read_yaml(text, path.name)


def read_yaml(text: str, source: str) -> Document:
    """Return a text's document; `source` is what errors call it. Raises YamlError."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise YamlError([Issue(path=source, message=f"is longer than {MAX_BYTES} bytes")])
    try:
        node = yaml.compose(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        raise YamlError([Issue(path=place, message=_in_plain_words(error.problem))]) from None
    except yaml.YAMLError as error:
        raise YamlError([Issue(path=source, message=str(error).replace("\n", " "))]) from None
    if node is None:
        raise YamlError([Issue(path=source, message="is empty")])
    reading = _Reading(source)
    value = reading.value(node, ())
    if reading.issues:
        raise YamlError(reading.issues)
    return Document(source=source, value=value, lines=reading.lines, scalars=reading.scalars)


def _in_plain_words(problem: str | None) -> str:
    return _PLAIN_WORDS.get(problem or "", problem or "can not be read as YAML")


class _StrictLoader(yaml.SafeLoader):
    """A composer that refuses what no file of ours needs and what makes a small file large."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the library is typed in part
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.composer.ComposerError(None, None, "has an anchor or an alias: write it out", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "has a tag (`!`): leave it out", event.start_mark)
        if self._depth >= MAX_DEPTH:
            problem = f"is nested deeper than {MAX_DEPTH} levels"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Reading:
    def __init__(self, source: str) -> None:
        self.lines: dict[YamlPath, int] = {}
        self.scalars: dict[YamlPath, str] = {}
        self.issues: list[Issue] = []
        self._source = source

    def value(self, node: yaml.Node, path: YamlPath) -> object:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        self.scalars[path] = node.value
        is_plain = getattr(node, "style", None) is None  # without quotes
        return _plain(node.value) if is_plain else node.value

    def _mapping(self, node: yaml.MappingNode, path: YamlPath) -> dict[str, object]:
        members: dict[str, object] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(line, path, "has a key that is no text")
            elif key.value in members:
                self._refuse(line, (*path, key.value), f"is there twice: first in line {self.lines[*path, key.value]}")
            else:
                # A member stands where its key does, also when its value begins on the next line.
                self.lines[*path, key.value] = line
                members[key.value] = self.value(child, (*path, key.value))
        return members

    def _refuse(self, line: int, path: YamlPath, message: str) -> None:
        self.issues.append(Issue(path=f"{self._source}:{line}: {dotted(path)}".removesuffix(": "), message=message))


def _plain(text: str) -> object:
    if text in _NULL:
        return None
    if text in {"true", "false"}:
        return text == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _FRACTION.fullmatch(text) else text

"""Reading one mapping of a YAML document key by key: all that is wrong is collected, each with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from servicekit.errors import Issue
from services.delivery.carriers.yaml_document import Document, YamlPath

T = TypeVar("T")


class Section:
    """A mapping, and the list in which its problems are collected. A wrong value is told, and read as if absent."""

    def __init__(self, document: Document, value: object, path: YamlPath, issues: list[Issue]) -> None:
        self.document = document
        self.path = path
        self.issues = issues
        self._asked: set[str] = set()
        self._members: Mapping[str, object] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.refuse("must be a mapping")

    def __contains__(self, key: str) -> bool:
        return self._members.get(key) is not None

    def refuse(self, message: str, *path: str | int) -> None:
        """Tell what is wrong with a member, or with the section itself."""
        self.issues.append(self.document.issue((*self.path, *path), message))

    def get(self, key: str, *, required: bool = False) -> object:
        """Return a member as it is; None when it is absent, which is told when it is required."""
        self._asked.add(key)
        value = self._members.get(key)
        if value is None and required:
            self.refuse("is required" if key not in self._members else "must not be empty", key)
        return value

    def written(self, *path: str | int) -> str:
        """Return a scalar below this section as it is written."""
        return self.document.written((*self.path, *path))

    def text(self, key: str, *, required: bool = False) -> str:
        """Return a member that is a scalar, as it is written; empty when it is absent."""
        value = self.get(key, required=required)
        if isinstance(value, dict | list):
            self.refuse("must be a text", key)
            return ""
        return "" if value is None else self.written(key)

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """Return a member that is a text or a list of texts."""
        value = self.get(key, required=required)
        if not isinstance(value, list):
            text = self.text(key)
            return (text,) if text else ()
        for index, each in enumerate(value):
            if isinstance(each, dict | list):
                self.refuse("must be a text", key, index)
        return tuple(self.written(key, index) for index in range(len(value)))

    def flag(self, key: str) -> bool:
        """Return a member that is true or false; false when it is absent."""
        value = self.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.refuse("must be true or false", key)
        return False

    def number(self, key: str, *, least: float, most: float) -> float | None:
        """Return a member that is a number within bounds; None when it is absent."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.refuse(f"must be a number from {least:g} to {most:g}", key)
            return None
        return value

    def whole(self, key: str, *, least: int, most: int) -> int | None:
        """Return a member that is a whole number within bounds; None when it is absent."""
        value = self.number(key, least=least, most=most)
        if isinstance(value, float):
            self.refuse("must be a whole number", key)
            return None
        return value

    def choice(self, key: str, table: Mapping[str, T], default: T) -> T:
        """Return what a word stands for in a table."""
        word = self.text(key)
        if not word:
            return default
        if word not in table:
            self.refuse(f"must be one of {', '.join(table)}", key)
        return table.get(word, default)

    def section(self, key: str, *, required: bool = False) -> Section | None:
        """Return a member that is a mapping; None when it is absent."""
        value = self.get(key, required=required)
        return None if value is None else Section(self.document, value, (*self.path, key), self.issues)

    def sections(self, key: str) -> Iterator[tuple[str, Section]]:
        """Return the members of a mapping of mappings; one that is empty counts as an empty mapping."""
        inner = self.section(key)
        for name in inner.names() if inner else ():
            value = inner.get(name) if inner else None
            yield name, Section(self.document, {} if value is None else value, (*self.path, key, name), self.issues)

    def names(self) -> tuple[str, ...]:
        """Return the keys that there are, all of which count as known."""
        self._asked.update(self._members)
        return tuple(self._members)

    def close(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key in self._members:
            if key not in self._asked:
                self.refuse(f"is not known here: {', '.join(sorted(self._asked))} are", key)

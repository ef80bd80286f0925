"""Takes a hand-written YAML file apart item by item, and remembers everything that is wrong with it, with its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from typing import Final

from servicekit.errors import Issue
from services.delivery.carriers.yaml_document import Document, YamlPath

_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


class CheckedFile:
    """A document and what was found wrong or doubtful in it so far. The messages never hold a value of `settings`."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.warnings: list[Issue] = []
        self._found: list[tuple[int, Issue]] = []

    @property
    def issues(self) -> list[Issue]:
        """What is wrong, in the order of the lines."""
        return [issue for _, issue in sorted(self._found, key=itemgetter(0))]

    def add(self, path: YamlPath, *issues: Issue) -> None:
        """Remember issues of the value at a path, or of a file that it names."""
        lines = self.document.lines
        line = next(lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines)
        self._found += [(line, issue) for issue in issues]

    @property
    def root(self) -> Item:
        """The whole of it."""
        return Item(self, (), self.document.value)


class Item:
    """One value of the file. What has the wrong form is remembered as an issue, and read as if it were left out."""

    def __init__(self, file: CheckedFile, path: YamlPath, value: object) -> None:
        self._file = file
        self.path = path
        self.value = value

    def refuse(self, message: str, *below: str) -> None:
        """Remember that this, or what should stand below it, can not be used; the message follows the item's name."""
        path = (*self.path, *below)
        self._file.add(path, self._file.document.issue(path, message))

    def refuse_all(self, issues: Iterable[Issue]) -> None:
        """Remember what is wrong in another file that this names; each issue tells its own place."""
        self._file.add(self.path, *issues)

    def refuse_members(self, issues: Iterable[Issue]) -> None:
        """Remember what is wrong with members of this, whose names are the issues' paths."""
        for issue in issues:
            self.refuse(issue.message, issue.path)

    def doubt(self, message: str) -> None:
        """Remember that this can be used, and may not be what was meant."""
        self._file.warnings.append(self._file.document.issue(self.path, message))

    def count_issues(self) -> int:
        """Return how many issues the file has so far."""
        return len(self._file.issues)

    def member(self, name: str) -> Item | None:
        """Return a member of a mapping; None when it is left out."""
        if not isinstance(self.value, dict) or name not in self.value:
            return None
        return Item(self._file, (*self.path, name), self.value[name])

    def members(self, known: Collection[str] | None = None) -> Mapping[str, Item]:
        """Return a mapping's members; those whose names are not among `known` are refused."""
        if not isinstance(self.value, dict):
            self.refuse("must be a mapping: lines of `name: value`")
            return {}
        found = {name: Item(self._file, (*self.path, name), value) for name, value in self.value.items()}
        for name, item in found.items():
            if known is not None and name not in known:
                item.refuse(f"is not known here: {nearest(name, known) if known else 'leave it out'}")
        return {name: item for name, item in found.items() if known is None or name in known}

    def entries(self) -> list[Item]:
        """Return what is in a list. An empty list is refused: it would not say whether all is meant, or nothing."""
        if not isinstance(self.value, list):
            self.refuse("must be a list: `[one, two]`")
            return []
        if not self.value:
            self.refuse("is empty: leave it out, or put something into it")
        return [Item(self._file, (*self.path, index), value) for index, value in enumerate(self.value)]

    def text(self) -> str | None:
        """Return a scalar as it is written; None when it is no scalar or empty."""
        if isinstance(self.value, dict | list):
            self.refuse("must be one text")
            return None
        written = self._file.document.written(self.path)
        if self.value is None or not written.strip():
            self.refuse("is empty: give it a value, or leave it out")
            return None
        return written

    def number(self, at_least: float, at_most: float, *, whole: bool = False) -> float | None:
        """Return a number within limits; None when it is none."""
        text = self.text()
        if text is None:
            return None
        kind = "a whole number" if whole else "a number"
        if not _DECIMAL.fullmatch(text) or (whole and "." in text) or not at_least <= float(text) <= at_most:
            self.refuse(f"must be {kind} from {at_least:g} to {at_most:g}")
            return None
        return float(text)

    def word(self, known: Collection[str]) -> str | None:
        """Return one of the known words; None when it is none of them."""
        text = self.text()
        if text is not None and text not in known:
            self.refuse(nearest(text, known))
            return None
        return text

    def distinct_texts(self) -> Mapping[str, Item]:
        """Return a list's texts, each once, with the item of each; one that comes again is refused."""
        found: dict[str, Item] = {}
        for entry in self.entries():
            text = entry.text()
            if text is None:
                continue
            if text in found:
                entry.refuse(f"`{text}` is in this list already")
            found.setdefault(text, entry)
        return found


def nearest(name: str, known: Collection[str]) -> str:
    """Return what to write instead of a name that is not known."""
    close = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known)
    return f"did you mean `{close[0]}`? ({listed})" if close else f"must be one of {listed}"

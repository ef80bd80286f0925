"""Paths into JSON documents: jsonpath-ng parses, an allow-list admits, a compiled getter evaluates.

jsonpath-ng's own `find` is not safe for expressions that users type (a regex filter took 12.8 s on 28 characters), so
it is never called. What is admitted costs at most one visit of each value of a document for each of its segments.

Admitted, after `$` or without it: names (`customer.phone`, `["odd key"]`), indices (`items[0]`, `items[-1]`), every
child (`items[*]`, also written `items.*`, and also of an object, as RFC 9535 has it) at most twice, and the filter
`items[?(@.name == 'literal')]`.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from jsonpath_ng import jsonpath as syntax
from jsonpath_ng.ext import parse
from jsonpath_ng.ext.filter import Expression, Filter

MAX_BYTES: Final = 256
MAX_SEGMENTS: Final = 16
MAX_WILDCARDS: Final = 2

Step = Callable[[list[object]], list[object]]


class PathError(ValueError):
    """A path can not be used. The message is what follows the path's name: what is refused, where, what would do."""


@dataclass(frozen=True, kw_only=True)
class CompiledPath:
    """A path that can be evaluated: `find` returns all that it finds in a document, in the document's order.

    `finds_many` is whether that can be more than one value, `reads_array` whether it can find something in an array.
    """

    text: str
    find: Callable[[object], list[object]]
    finds_many: bool
    reads_array: bool


# 250-490 microseconds are spent on a path that is not in here, so there is room for many integrations' paths.
@lru_cache(maxsize=32_768)
def compile_path(path: str) -> CompiledPath:
    """Return the getter of a dotted path or an admitted JSONPath; raise PathError for any other text."""
    _check_characters(path)
    prefix = _prefix(path)
    bare = _without_quoted(path)
    _check_segment_count(bare)
    _check_bare_numbers(bare)
    tree, was_deprecated = _parsed(path, prefix)
    segments = _segments(tree, bare)
    steps = tuple(_step(segment, bare) for segment in segments)
    names = tuple(_one_name(segment, bare) for segment in segments if type(segment) is syntax.Fields)
    _check_wildcards(segments)
    if was_deprecated:
        raise PathError("compares with a word without quotes: write it as in `[?(@.name == 'literal')]`")
    kinds = [type(segment) for segment in segments]
    return CompiledPath(
        text=path,
        find=_member_getter(names) if len(names) == len(segments) else _getter(steps),
        finds_many=syntax.Wildcard in kinds or Filter in kinds,
        reads_array=bool(kinds) and kinds[0] is not syntax.Fields,
    )


def _check_characters(path: str) -> None:
    if not path:
        raise PathError("is empty: write a path such as `customer.phone`")
    size = len(path.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise PathError(f"is {size} bytes long: at most {MAX_BYTES} are accepted")
    for position, character in enumerate(path, start=1):
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise PathError(f"has the control character U+{ord(character):04X} at character {position}: leave it out")
    if path != path.strip():
        raise PathError("begins or ends with a blank: leave it out")
    if path.startswith("."):
        raise PathError("begins with a dot: leave it out, or begin with `$.`")


def _prefix(path: str) -> str:
    if path.startswith("$"):
        return ""
    return "$" if path.startswith("[") else "$."


_QUOTED: Final = re.compile(r"'(?:\\.|[^'\\])*+'|\"(?:\\.|[^\"\\])*+\"")
# A segment begins with a dot, a bracket, or both; what stands inside brackets begins none.
_SEGMENT_START: Final = re.compile(r"\.*\[[^\]]*+|\.+|^[^$.\[]")


def _without_quoted(path: str) -> str:
    """Return the path with each quoted character replaced, so that positions stay and quoted text misleads nobody."""
    return _QUOTED.sub(lambda quoted: "_" * len(quoted.group()), path)


def _check_segment_count(bare: str) -> None:
    count = len(_SEGMENT_START.findall(bare))
    if count > MAX_SEGMENTS:
        raise PathError(f"has {count} segments: at most {MAX_SEGMENTS} are accepted")


_BARE_NUMBER: Final = re.compile(r"(?:^|\.)[ \t]*-?\d")


def _check_bare_numbers(bare: str) -> None:
    """Refuse `items.0`: others mean an index by it, the parser a name, and it reads `007` as 7 and `0.0` as a float."""
    number = _BARE_NUMBER.search(bare)
    if number:
        raise PathError(
            f'has a number without brackets {_at(number.end() - 1)}: write `[0]` for an element, `["0"]` for a member'
        )


_COLUMN: Final = re.compile(r"(?:at 1:|col )(\d+)")


def _parsed(path: str, prefix: str) -> tuple[Any, bool]:  # Any: jsonpath-ng's tree is untyped here
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tree = parse(prefix + path)
        except Exception as error:  # noqa: BLE001  # nine kinds were seen to escape, RecursionError among them
            raise PathError(_syntax_problem(path, len(prefix), str(error))) from None
    return tree, bool(caught)


def _syntax_problem(path: str, prefix_length: int, complaint: str) -> str:
    advice = 'write it as in `customer.phone`, `items[0].name` or `["odd key"].x`'
    column = _COLUMN.search(complaint)
    if "EOF in string" in complaint:
        return "has a quote that is not closed: close it, or put the whole name in the other kind of quotes"
    if "`" in path:
        return f"has a function in backticks {_at(path.index('`'))}, which is not accepted: {advice}"
    if ".." in path:
        return f"has `..` {_at(path.index('..'))}, which is not accepted: name the whole path"
    if column is None:
        return f"ends too early or can not be read: {advice}"
    position = max(int(column.group(1)) - prefix_length, 0)
    return f"can not be read at character {position + 1} (`{path[position : position + 1]}`): {advice}"


def _at(index: int) -> str:
    return f"at character {index + 1}"


def _segments(tree: Any, bare: str) -> list[Any]:
    """Return the segments from the root down; the tree leans to the left unless there are parentheses."""
    segments = []
    while type(tree) is syntax.Child:
        segments.append(tree.right)
        tree = tree.left
    if type(tree) is not syntax.Root:
        raise _refusal(tree, bare)
    return segments[::-1]


def _check_wildcards(segments: list[Any]) -> None:
    count = sum(type(segment) is syntax.Wildcard for segment in segments)
    if count > MAX_WILDCARDS:
        raise PathError(f"has {count} wildcards: at most {MAX_WILDCARDS} are accepted, so name a member or an index")


def _step(segment: Any, bare: str) -> Step:
    """Return what one segment does, by the exact class of its node: a subclass is nothing that was thought about."""
    kind = type(segment)
    if kind is syntax.Fields:
        return _name_step(_one_name(segment, bare))
    if kind is syntax.Index:
        return _index_step(_one_index(segment, bare))
    if kind is syntax.Wildcard:
        return _wildcard_step
    if kind is Filter:
        return _filter_step(*_one_equality(segment, bare))
    raise _refusal(segment, bare)


def _one_name(node: Any, bare: str) -> str:
    # `_deprecated_wildcard_use` is never set by the parser; a release that sets it must not widen what is admitted.
    if len(node.fields) != 1 or node.fields[0] == syntax.auto_id_field or node._deprecated_wildcard_use:  # noqa: SLF001
        raise _refused(bare, r",", "has several names", "name one")
    return str(node.fields[0])


def _one_index(node: Any, bare: str) -> int:
    if len(node.indices) != 1:
        raise _refused(bare, r",", "has several indices", "name one")
    return int(node.indices[0])


_FILTER_ADVICE: Final = "write `[?(@.name == 'literal')]`"


def _one_equality(node: Any, bare: str) -> tuple[str, str]:
    if len(node.expressions) != 1 or type(node.expressions[0]).__name__ in ("And", "Or"):
        raise _refused(bare, r"&|\|", "has a filter with several conditions", _FILTER_ADVICE)
    condition = node.expressions[0]
    if type(condition) is not Expression:
        raise _refused(bare, r"\?", "has a filter that is no comparison", _FILTER_ADVICE)
    if condition.op is None or condition.op == "!":
        raise _refused(bare, r"\?", "has a filter that only asks whether something is there", _FILTER_ADVICE)
    if condition.op != "==":
        raise _refused(bare, re.escape(condition.op), f"has a filter with `{condition.op}`", _FILTER_ADVICE)
    if type(condition.value) is not str:
        raise _refused(bare, r"==", "has a filter that compares with something else than a string", _FILTER_ADVICE)
    return _compared_name(condition.target, bare), condition.value


def _compared_name(target: Any, bare: str) -> str:
    if type(target) is syntax.Child and type(target.left) is syntax.This:
        target = target.right
    if type(target) is not syntax.Fields:
        raise _refused(bare, r"\?", "has a filter on something else than one name", _FILTER_ADVICE)
    return _one_name(target, bare)


# What each refused node looks like in a path, and what to say about it. The allow-list above decides; this explains.
_REFUSALS: Final[dict[str, tuple[str, str, str]]] = {
    "Descendants": (r"\.\.", "has `..`", "name the whole path"),
    "Slice": (r":", "has a slice", "name one index, as in `[0]`, or take all with `[*]`"),
    "_Union": (r"\|", "has `|`", "give one path"),
    "_Intersect": (r"&", "has `&`", "give one path"),
    "Where": (r"where", "has `where`", _FILTER_ADVICE),
    "WhereNot": (r"wherenot", "has `wherenot`", _FILTER_ADVICE),
    "Operation": (r"[-+*/]", "has arithmetic", 'give one path, with odd names in quotes, as in `["a+b"]`'),
    "Root": (r"(?!^)\$", "has `$`", "`$` stands only at the start"),
    "This": (r"@|`", "has `@` or `this`", "start at the document's root, with `$` or a name"),
    "Child": (r"\(", "has parentheses", "leave them out"),
    "SortedThis": (r"[/\\`]", "sorts", "name one index, as in `[0]`"),
}
_FUNCTION: Final = (r"`", "has a function in backticks", "give the path of the value itself")


def _refusal(node: Any, bare: str) -> PathError:
    return _refused(bare, *_REFUSALS.get(type(node).__name__, _FUNCTION))


def _refused(bare: str, look: str, what: str, instead: str) -> PathError:
    seen = re.search(look, bare)
    where = f" {_at(seen.start())}" if seen else ""
    return PathError(f"{what}{where}, which is not accepted: {instead}")


def _name_step(name: str) -> Step:
    return lambda values: [value[name] for value in values if isinstance(value, dict) and name in value]


def _index_step(index: int) -> Step:
    return lambda values: [
        value[index] for value in values if isinstance(value, list) and -len(value) <= index < len(value)
    ]


def _wildcard_step(values: list[object]) -> list[object]:
    return [child for value in values for child in _children(value)]


def _filter_step(name: str, literal: str) -> Step:
    def matches(value: object) -> bool:
        if not isinstance(value, dict):
            return False
        found = value.get(name)
        # A number is never equal to a string, also when a document keeps its digits in a subclass of str.
        return type(found) is str and found == literal

    return lambda values: [child for value in values for child in _children(value) if matches(child)]


def _children(value: object) -> Iterable[object]:
    if isinstance(value, list):
        return value
    return value.values() if isinstance(value, dict) else ()


def _member_getter(names: tuple[str, ...]) -> Callable[[object], list[object]]:
    """Return the getter of a path of names only, as nearly all are: it finds one value, or none."""

    def find(document: object) -> list[object]:
        value = document
        for name in names:
            if not isinstance(value, dict) or name not in value:
                return []
            value = value[name]
        return [value]

    return find


def _getter(steps: tuple[Step, ...]) -> Callable[[object], list[object]]:
    def find(document: object) -> list[object]:
        values = [document]
        for step in steps:
            values = step(values)
        return values

    return find

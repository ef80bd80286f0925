"""Paths into JSON documents: what is admitted finds what jsonpath-ng finds, and the rest is refused with a reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonpath_ng.ext import parse

from servicekit.json_paths import MAX_BYTES, MAX_SEGMENTS, PathError, compile_path

NAMES = ["a", "b", "name", "odd key", "a.b", "*", "true", "0", "naïve", "it's", 'say "x"', "[0]"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(-2, 2, allow_nan=False),
    st.sampled_from(["x", "y", "", "1", "true", "it's", "😀"]),
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=25,
)


def quoted(text: str, quote: str = "'") -> str:
    return quote + "".join(f"\\{character}" if character in (quote, "\\") else character for character in text) + quote


def name_forms(name: str) -> list[str]:
    bare = [f".{name}"] if name in ("a", "b", "name", "true") else []
    return [*bare, f"[{quoted(name)}]", f"[{quoted(name, chr(34))}]"]


FILTER_FORMS = ["[?(@.{name} == {literal})]", "[?{name}=={literal}]", "[?(@['{name}'] == {literal})]"]

# A segment, and what makes a document that has something at it out of what is there.
Segment = tuple[str, Callable[[object], object]]


@st.composite
def plain_segments(draw: st.DrawFn) -> Segment:
    kind = draw(st.sampled_from(["name", "index", "filter"]))
    others = draw(st.lists(scalars, max_size=2))
    if kind == "name":
        name = draw(st.sampled_from(NAMES))
        return draw(st.sampled_from(name_forms(name))), lambda inner: {"other": others, name: inner}
    if kind == "index":
        index = len(others) if draw(st.booleans()) else -1
        return f"[{index}]", lambda inner: [*others, inner]
    name, literal = draw(st.sampled_from(["a", "b", "name"])), draw(st.sampled_from(["x", "", "1", "true", "it's"]))
    form = draw(st.sampled_from(FILTER_FORMS)).format(name=name, literal=quoted(literal))
    decoys: list[object] = [{name: 1}, {name: True}, {name: None}, {"other": literal}, literal]
    return form, lambda inner: [*decoys, (inner if isinstance(inner, dict) else {}) | {name: literal}, *others]


@st.composite
def wildcards(draw: st.DrawFn) -> Segment:
    others = draw(st.lists(documents, max_size=2))
    grow = draw(st.sampled_from([lambda inner: [*others, inner, inner], lambda inner: {"a": inner, "b": others}]))
    return draw(st.sampled_from(["[*]", ".*"])), grow


@st.composite
def admitted_paths_with_documents(draw: st.DrawFn) -> tuple[str, object]:
    segments = draw(st.lists(plain_segments(), max_size=4))
    for wildcard in draw(st.lists(wildcards(), max_size=2)):
        segments.insert(draw(st.integers(0, len(segments))), wildcard)
    path = "$" + "".join(text for text, _ in segments)
    if draw(st.integers(0, 3)) == 0:
        return path, draw(documents)
    document = draw(documents)
    for _, grow in reversed(segments):
        document = grow(document)
    return path, document


def found_by_jsonpath_ng(path: str, document: object) -> list[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return [match.value for match in parse(path).find(document)]


def as_told_apart(values: list[object]) -> str:
    """`True == 1` and `1 == 1.0` in Python; their forms differ."""
    return repr(values)


@given(case=admitted_paths_with_documents())
@settings(max_examples=600, deadline=None)
def test_finds_what_jsonpath_ng_finds(case: tuple[str, object]) -> None:
    path, document = case

    found = compile_path(path).find(document)

    assert as_told_apart(found) == as_told_apart(found_by_jsonpath_ng(path, document))


@pytest.mark.parametrize(
    ("path", "document", "expected"),
    [
        ("to", {"to": 1}, [1]),
        ("customer.phone", {"customer": {"phone": "+65"}}, ["+65"]),
        ("items[0].name", {"items": [{"name": "x"}]}, ["x"]),
        ("items[-1]", {"items": [1, 2]}, [2]),
        ("[1]", [1, 2], [2]),
        ('["odd key"].x', {"odd key": {"x": 3}}, [3]),
        ("$['a.b']", {"a.b": 1, "a": {"b": 2}}, [1]),
        ("$", "all", ["all"]),
        ("items[*].n", {"items": [{"n": 1}, {}, {"n": 2}]}, [1, 2]),
        ("items.*", {"items": {"a": 1, "b": 2}}, [1, 2]),
        ("items[?(@.name == 'x')].n", {"items": [{"name": "y", "n": 1}, {"name": "x", "n": 2}]}, [2]),
        ("items[5]", {"items": [1]}, []),
        ("items[-2]", {"items": [1]}, []),
        ("a.b", {"a": None}, []),
        ("a", [1], []),
        ("a[0]", {"a": "text"}, []),
        ("a", {"a": None}, [None]),
    ],
)
def test_finds_the_values_of_an_admitted_path(path: str, document: object, expected: list[object]) -> None:
    assert compile_path(path).find(document) == expected


def test_a_path_without_a_dollar_means_the_same_as_one_with_it() -> None:
    document = {"a": [{"b": 1}]}

    assert compile_path("a[0].b").find(document) == compile_path("$.a[0].b").find(document) == [1]


def test_a_number_whose_digits_are_kept_as_text_is_not_equal_to_a_string() -> None:
    class Digits(str):
        pass

    found = compile_path("[?(@.id == '5')]").find([{"id": Digits("5")}, {"id": "5", "n": 1}])

    assert found == [{"id": "5", "n": 1}]


@pytest.mark.parametrize(
    ("path", "because"),
    [
        ("", "is empty"),
        (" a", "begins or ends with a blank"),
        (".a", "begins with a dot"),
        ("$.[", "ends too early"),
        ("a.", "ends too early"),
        ("a[", "ends too early"),
        ("a]", "can not be read at character 2"),
        ("a[]", "can not be read at character 3"),
        ("$a", "can not be read at character 2"),
        ("items.0.name", "has a number without brackets at character 7"),
        ("0", "has a number without brackets at character 1"),
        ("a.-1", "has a number without brackets at character 4"),
        ("a b", "can not be read at character 3"),
        ("a.é", "can not be read at character 3 (`é`)"),
        ("a['b", "has a quote that is not closed"),
        ("a\nb", "control character U+000A at character 2"),
        ("['a\x00']", "control character U+0000 at character 4"),
        ("\ud800", "control character U+D800 at character 1"),
        ("$..*", "has `..` at character 2"),
        ("$..a", "has `..` at character 2"),
        ("a..b", "has `..` at character 2"),
        ("a..", "has `..` at character 2"),
        ("$.a | $.b", "has `|` at character 5"),
        ("$.a & $.b", "has `&` at character 5"),
        ("$.a where b", "has `where` at character 5"),
        ("$.a wherenot b", "has `wherenot` at character 5"),
        ("$[?(@ =~ '^(a+)+$')]", "has a filter with `=~`"),
        ("a[?(@.x =~ 'y')]", "has a filter with `=~`"),
        ("a[?(@.x != 'y')]", "has a filter with `!=`"),
        ("a[?(@.x < 'y')]", "has a filter with `<`"),
        ("a[?(@.x = 'y')]", "has a filter with `=`"),
        ("a[?(@.x == 1)]", "something else than a string"),
        ("a[?(@.x == true)]", "something else than a string"),
        ("a[?(@.x == null)]", "something else than a string"),
        ("a[?(@.x == @.y)]", "something else than a string"),
        ("a[?(@.x == y)]", "a word without quotes"),
        ("a[?(@.x.y == 'z')]", "something else than one name"),
        ("a[?(@[*] == 'z')]", "something else than one name"),
        ("a[?(@..x == 'z')]", "something else than one name"),
        ("a[?(@ == 'z')]", "something else than one name"),
        ("a[?(@.x[?(@.y == 'z')] == 'w')]", "something else than one name"),
        ("a[?@.x]", "only asks whether something is there"),
        ("a[?(!@.x)]", "only asks whether something is there"),
        ("a[?(@.x == 'y' && @.z == 'w')]", "several conditions"),
        ("a[?(@.x == 'y' & @.z == 'w')]", "several conditions"),
        ("a[?(@.x == 'y' || @.z == 'w')]", "several conditions"),
        ("$.s * $.n", "has arithmetic at character 5"),
        ("$.a + 1", "has arithmetic at character 5"),
        ("a[0:5]", "has a slice at character 4"),
        ("a[::0]", "has a slice at character 3"),
        ("a.`len`", "has a function in backticks at character 3"),
        ("a.`sub(/(/, x)`", "has a function in backticks at character 3"),
        ("a.`split(,, 0, -1)`", "has a function in backticks at character 3"),
        ("a.`nonsense`", "has a function in backticks at character 3"),
        ("a.`parent`", "has a function in backticks at character 3"),
        ("a.`sorted`", "sorts"),
        ("a[/x]", "sorts"),
        ("a.`this`", "has `@` or `this`"),
        ("@.a", "has `@` or `this`"),
        ("a.$.b", "has `$` at character 3"),
        ("a.(b.c)", "has parentheses at character 3"),
        ("a['b','c']", "has several names at character 6"),
        ("a[0,1]", "has several indices at character 4"),
        ("a[*][*][*]", "has 3 wildcards"),
        (".".join("a" * 17), "has 17 segments: at most 16"),
        ("$" + "[0]" * 17, "has 17 segments"),
        ("['" + "x" * 253 + "']", "is 257 bytes long: at most 256"),
        (".a" * 20_000, "is 40000 bytes long"),
        ("$[" + "9" * 5_000 + "]", "is 5003 bytes long"),
    ],
)
def test_refuses_a_path_and_says_why_and_where(path: str, because: str) -> None:
    with pytest.raises(PathError) as refusal:
        compile_path(path)

    assert because in str(refusal.value)


@pytest.mark.parametrize("path", ["$" + ".a" * MAX_SEGMENTS, "$" + ".a[0]" * 8, "[?(@['x'] == 'y.z[0]')]" * 8])
def test_admits_sixteen_segments(path: str) -> None:
    assert compile_path(path).text == path


def test_admits_a_path_of_exactly_the_limit_in_bytes() -> None:
    path = "['" + "x" * (MAX_BYTES - 4) + "']"

    assert compile_path(path).find({"x" * (MAX_BYTES - 4): 1}) == [1]


def test_counts_bytes_and_not_characters() -> None:
    with pytest.raises(PathError, match="bytes long"):
        compile_path("['" + "é" * 130 + "']")


def test_refuses_what_makes_the_parser_run_out_of_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse_too_deep(_: str) -> None:
        raise RecursionError

    monkeypatch.setattr("servicekit.json_paths.parse", parse_too_deep)

    with pytest.raises(PathError):
        compile_path("only_here.to_miss_the_cache")


@given(path=st.text(alphabet="ab0.$[]*@?()='\"`,:|&~/\\+-!<> é\t", max_size=30))
@settings(max_examples=800, deadline=None)
def test_no_text_makes_anything_but_a_getter_or_a_refusal(path: str) -> None:
    try:
        getter = compile_path(path)
    except PathError:
        return

    assert isinstance(getter.find({"a": [{"b": 1}]}), list)

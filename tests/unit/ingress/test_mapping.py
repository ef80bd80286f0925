"""Mapping: recipient, text and reference out of any document, or the one error that says what to change."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from servicekit.sms_fitting import Overflow, TextChange
from services.ingress.domain import NO_LIMIT, MappingPaths, TextLimit
from services.ingress.mapping import FieldTrace, Trace, compile_mapping, map_item
from services.ingress.strict_json import decode

NESTED = MappingPaths(to="customer.phone", text="notification.body", ref="invoiceId", default_region="SG")
NUMBER = "+6581230000"


def mapped(document: object, paths: MappingPaths = NESTED, limit: TextLimit = NO_LIMIT) -> Trace:
    (trace,) = asyncio.run(map_item(compile_mapping(paths), decode(json.dumps(document).encode()), limit))
    return trace


def payload(to: object = NUMBER, text: object = "Your invoice is ready", ref: object = "INV-99") -> object:
    return {"customer": {"phone": to}, "notification": {"body": text}, "invoiceId": ref}


def results(trace: Trace) -> tuple[str, str, str]:
    return trace.result_of("to"), trace.result_of("text"), trace.result_of("ref")


def test_maps_a_nested_payload() -> None:
    trace = mapped(payload())

    assert trace.error is None
    assert results(trace) == (NUMBER, "Your invoice is ready", "INV-99")
    assert [(field.field, field.path, field.matches) for field in trace.fields] == [
        ("to", "customer.phone", 1),
        ("text", "notification.body", 1),
        ("ref", "invoiceId", 1),
    ]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (payload(to=6581230000), (NUMBER, "Your invoice is ready", "INV-99")),
        (payload(to="8123 0000"), (NUMBER, "Your invoice is ready", "INV-99")),
        (payload(to=" +65 8123-0000\n"), (NUMBER, "Your invoice is ready", "INV-99")),
        (payload(to="+٦٥٨١٢٣٠٠٠٠"), (NUMBER, "Your invoice is ready", "INV-99")),
        (payload(text=12345678901234567890), (NUMBER, "12345678901234567890", "INV-99")),
        (payload(text=" kept as it is \r\n"), (NUMBER, " kept as it is \r\n", "INV-99")),
        (payload(text="😀" * 1600), (NUMBER, "😀" * 1600, "INV-99")),
        (payload(ref=4821), (NUMBER, "Your invoice is ready", "4821")),
        (payload(ref=None), (NUMBER, "Your invoice is ready", "")),
        (payload(ref=""), (NUMBER, "Your invoice is ready", "")),
        (payload(ref="x" * 64), (NUMBER, "Your invoice is ready", "x" * 64)),
        ({"customer": {"phone": NUMBER}, "notification": {"body": "x"}}, (NUMBER, "x", "")),
    ],
)
def test_takes_strings_and_numbers_with_every_digit(document: object, expected: tuple[str, str, str]) -> None:
    trace = mapped(document)

    assert trace.error is None
    assert results(trace) == expected


@pytest.mark.parametrize(
    ("document", "missing"),
    [
        (payload(to=None), ["to"]),
        (payload(to=""), ["to"]),
        (payload(to=" \t\u2003"), ["to"]),
        (payload(text=None), ["text"]),
        (payload(text=""), ["text"]),
        (payload(text="  \n"), ["text"]),
        (payload(text="\u200b"), ["text"]),
        (payload(to=None, text=None), ["to", "text"]),
        (payload(to="letters", text=None), ["text"]),
        ({"customer": "x"}, ["to", "text"]),
        ([], ["to", "text"]),
        ("scalar", ["to", "text"]),
        (None, ["to", "text"]),
        (5, ["to", "text"]),
    ],
)
def test_tells_what_is_missing_and_where_it_looked(document: object, missing: list[str]) -> None:
    trace = mapped(document)

    assert trace.error is not None
    assert trace.error.reason == "MISSING_FIELDS"
    assert trace.error.extras == {
        "missing": missing,
        "tried": {"to": ["customer.phone"], "text": ["notification.body"]},
    }
    assert all(field.problem for field in trace.fields if field.field in missing)


@pytest.mark.parametrize(
    ("to", "shown", "reason"),
    [
        ("+1800FLOWERS", "+1800FLOWERS", "letters"),
        ("😀", "😀", "no phone number"),
        (True, "true", "true or false"),
        (["+6581230000"], '["+6581230000"]', "an array"),
        ({"n": 12345678901234567890}, '{"n": 12345678901234567890}', "an object"),
        (658123000.5, "658123000.5", "digits only"),
        (-6581230000, "-6581230000", "digits only"),
        (1e22, "1e+22", "digits only"),
        (12345678901234567890, "12345678901234567890", "too long"),
        ("9" * 250, "9" * 64, "longer than 32"),
        ("+6581230000;ext=5", "+6581230000;ext=5", "letters"),
        ("+999123456789", "+999123456789", "country code"),
    ],
)
def test_refuses_a_recipient_that_is_no_phone_number(to: object, shown: str, reason: str) -> None:
    trace = mapped(payload(to=to))

    assert trace.error is not None
    assert trace.error.reason == "INVALID_RECIPIENT"
    assert trace.error.extras["to"] == shown
    assert reason in str(trace.error.extras["reason"])
    assert trace.result_of("to") == ""


def test_refuses_a_number_without_plus_when_there_is_no_region() -> None:
    trace = mapped({"to": 6581230000, "text": "x"}, MappingPaths(to="to", text="text"))

    assert trace.error is not None
    assert "plus sign" in str(trace.error.extras["reason"])


@pytest.mark.parametrize(
    ("document", "reason", "extras"),
    [
        (payload(text="x" * 1601), "TEXT_TOO_LONG", {"limit": 1600, "length": 1601, "unit": "characters"}),
        (payload(text="😀" * 1601), "TEXT_TOO_LONG", {"limit": 1600, "length": 1601, "unit": "characters"}),
        (payload(to="letters", text="x" * 1601), "INVALID_RECIPIENT", None),
        (payload(text="x" * 1601, ref="x" * 65), "TEXT_TOO_LONG", None),
        (payload(text=True), "VALIDATION_ERROR", ["notification.body"]),
        (payload(text=["x"]), "VALIDATION_ERROR", ["notification.body"]),
        (payload(text={"a": "x"}, ref="x" * 65), "VALIDATION_ERROR", ["notification.body", "invoiceId"]),
        (payload(ref="x" * 65), "VALIDATION_ERROR", ["invoiceId"]),
        (payload(ref=False), "VALIDATION_ERROR", ["invoiceId"]),
        (payload(ref={}), "VALIDATION_ERROR", ["invoiceId"]),
    ],
)
def test_tells_what_is_wrong_with_text_and_reference(document: object, reason: str, extras: object) -> None:
    error = mapped(document).error

    assert error is not None
    assert error.reason == reason
    if isinstance(extras, dict):
        assert error.extras == extras
    elif extras:
        issues = error.extras["issues"]
        assert isinstance(issues, list)
        assert [issue["path"] for issue in issues] == extras


@pytest.mark.parametrize(
    ("text", "limit", "result", "change"),
    [
        ("x" * 161, NO_LIMIT, "x" * 161, None),
        ("x" * 160, TextLimit(max_segments=1), "x" * 160, None),
        ("x" * 161, TextLimit(max_segments=1, on_overflow=Overflow.TRUNCATE), "x" * 160, TextChange.TRUNCATED),
        ("x" * 5000, TextLimit(max_segments=2, on_overflow=Overflow.TRUNCATE), "x" * 306, TextChange.TRUNCATED),
        ("x" * 5000, TextLimit(max_segments=20, on_overflow=Overflow.TRUNCATE), "x" * 1600, TextChange.TRUNCATED),
        ("“x” " * 25, TextLimit(max_segments=1, on_overflow=Overflow.TRANSLITERATE), '"x" ' * 25, "transliterated"),
        ("“x”", TextLimit(max_segments=1, on_overflow=Overflow.TRANSLITERATE), "“x”", None),
        ("“x” " * 500, TextLimit(on_overflow=Overflow.TRUNCATE), ("“x” " * 400).rstrip(), "truncated"),
        ("x" * 1600, TextLimit(on_overflow=Overflow.TRUNCATE), "x" * 1600, None),
    ],
)
def test_makes_a_text_fit_and_says_what_was_done(
    text: str, limit: TextLimit, result: str, change: TextChange | None
) -> None:
    trace = mapped(payload(text=text), limit=limit)

    assert trace.error is None
    assert (trace.result_of("text"), trace.text_changed) == (result, change)


@pytest.mark.parametrize(
    ("text", "limit", "extras"),
    [
        ("x" * 307, TextLimit(max_segments=2), {"limit": 2, "length": 3, "unit": "segments"}),
        (
            "ж" * 71,
            TextLimit(max_segments=1, on_overflow=Overflow.TRANSLITERATE),
            {"limit": 1, "length": 2, "unit": "segments"},
        ),
        ("x" * 1601, TextLimit(max_segments=20), {"limit": 1600, "length": 1601, "unit": "characters"}),
        (
            " " * 1600 + "x",
            TextLimit(on_overflow=Overflow.TRUNCATE),
            {"limit": 1600, "length": 1601, "unit": "characters"},
        ),
        (
            "“" * 1601,
            TextLimit(on_overflow=Overflow.TRANSLITERATE),
            {"limit": 1600, "length": 1601, "unit": "characters"},
        ),
    ],
)
def test_refuses_a_text_that_does_not_fit(text: str, limit: TextLimit, extras: object) -> None:
    trace = mapped(payload(text=text), limit=limit)

    assert trace.error is not None
    assert (trace.error.reason, trace.error.extras) == ("TEXT_TOO_LONG", extras)
    assert trace.text_changed is None


SEVERAL = MappingPaths(to="people[*].phone", text="lines[*]", ref="refs[*]")


def test_takes_the_first_match_for_text_and_reference() -> None:
    trace = mapped({"people": [{"phone": NUMBER}], "lines": ["first", "second"], "refs": ["a", "b"]}, SEVERAL)

    assert results(trace) == (NUMBER, "first", "a")
    assert [field.matches for field in trace.fields] == [1, 2, 2]


def test_says_that_others_than_the_first_match_are_passed_over() -> None:
    two = mapped({"people": [{"phone": NUMBER}], "lines": ["first", "second"], "refs": ["a", None]}, SEVERAL)
    one = mapped({"people": [{"phone": NUMBER}, {"phone": NUMBER}], "lines": ["first"], "refs": []}, SEVERAL)

    said = "it finds 2 values, of which only the first is taken"
    assert [field.problem for field in two.fields] == [None, said, said]
    assert [field.problem for field in one.fields] == [None, None, None]


def test_takes_one_recipient_that_is_found_twice() -> None:
    trace = mapped({"people": [{"phone": NUMBER}, {"phone": NUMBER}], "lines": ["x"]}, SEVERAL)

    assert trace.error is None
    assert trace.result_of("to") == NUMBER


def test_compiles_equal_paths_once() -> None:
    assert compile_mapping(MappingPaths(to="a.b", text="c")) is compile_mapping(MappingPaths(to="a.b", text="c"))


def deduped(document: dict[str, object], path: str = "order.id") -> FieldTrace:
    trace = mapped({"to": NUMBER, "text": "x", **document}, MappingPaths(to="to", text="text", dedupe=path))
    assert trace.error is None
    return trace.fields[-1]


@pytest.mark.parametrize(
    ("found", "value"),
    [
        ("A-4821", "A-4821"),
        (4821, "4821"),
        ("4821", "4821"),
        (12345678901234567890, "12345678901234567890"),
        (1.50, "1.5"),
        (" A ", " A "),
        ("x" * 256, "x" * 256),
        ("x" * 257, f"sha256:{hashlib.sha256(b'x' * 257).hexdigest()}"),
        ("é" * 257, f"sha256:{hashlib.sha256('é'.encode() * 257).hexdigest()}"),
    ],
)
def test_finds_the_value_by_which_a_repeat_is_known(found: object, value: str) -> None:
    trace = deduped({"order": {"id": found}})

    assert (trace.field, trace.path, trace.result, trace.problem) == ("dedupe", "order.id", value, None)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "nothing at this path"),
        ({"order": {"id": None}}, "null"),
        ({"order": {"id": " "}}, "blank"),
        ({"order": {"id": True}}, "true or false"),
        ({"order": {"id": {}}}, "an object"),
        ({"order": {"id": ["A"]}}, "an array"),
    ],
)
def test_takes_a_payload_without_a_usable_value_for_a_new_one_and_says_so(
    document: dict[str, object], problem: str
) -> None:
    trace = deduped(document)

    assert trace.result is None
    assert problem in str(trace.problem)
    assert "taken for a new one" in str(trace.problem)


@pytest.mark.parametrize(
    ("items", "value"),
    [
        ([{"id": "a"}], "a"),
        ([{"id": "a"}, {"id": "b"}], '["a", "b"]'),
        ([{"id": "a"}, {"id": 7}], '["a", "7"]'),
        ([{"id": "a"}, {"id": None}], None),
        ([{"id": "a"}, {"id": {}}], None),
    ],
)
def test_compares_by_all_values_that_a_path_finds(items: object, value: str | None) -> None:
    assert deduped({"items": items}, "items[*].id").result == value


def test_looks_for_no_dedupe_value_without_a_rule() -> None:
    assert [field.field for field in mapped(payload()).fields] == ["to", "text", "ref"]

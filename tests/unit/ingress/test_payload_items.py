"""Which messages a payload means: how it is split, what is collapsed, and what is refused whole."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingress.domain import MappingPaths
from services.ingress.mapping import Trace, compile_mapping, map_item
from services.ingress.payload_items import PayloadTrace, map_payload
from services.ingress.strict_json import decode

FLAT = MappingPaths(to="to", text="text", ref="ref", dedupe="id", default_region="SG")
ALERTS = MappingPaths(to="phone", text="summary", for_each="$.alerts[*]")
PEOPLE = MappingPaths(to="people[*].phone", text="text", ref="ref", dedupe="id", default_region="SG")
A, B, C = "+6581230000", "+6581230001", "+6581230002"


def mapped(document: object, paths: MappingPaths = FLAT, max_messages: int = 100) -> PayloadTrace:
    strict = decode(json.dumps(document).encode())
    return asyncio.run(map_payload(compile_mapping(paths), strict, max_messages=max_messages))


def told(payload: PayloadTrace, field: str = "to") -> list[tuple[int, str]]:
    """Return each message's place and what a field of it became, or its error's code."""
    return [
        (message.index, message.trace.error.reason if message.trace.error else message.trace.result_of(field))
        for message in payload.messages
    ]


def test_one_object_is_one_message_and_no_batch() -> None:
    payload = mapped({"to": A, "text": "x"})

    assert (told(payload), payload.is_batch) == ([(0, A)], False)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_array_at_the_root_is_a_batch_of_its_elements(count: int) -> None:
    payload = mapped([{"to": number, "text": "x"} for number in (A, B, C)[:count]])

    assert (told(payload), payload.is_batch) == ([(0, A), (1, B), (2, C)][:count], True)


@pytest.mark.parametrize(
    ("document", "items"),
    [
        ([{"to": A, "text": "x"}, {"text": "x"}, {"to": B}], [(0, A), (1, "MISSING_FIELDS"), (2, "MISSING_FIELDS")]),
        ([{"to": "none", "text": "x"}, {"to": B, "text": "x"}], [(0, "INVALID_RECIPIENT"), (1, B)]),
        (
            [None, 5, "x", [], [[{"to": A}]], {"to": A, "text": "x"}],
            [(n, "MISSING_FIELDS") for n in range(5)] + [(5, A)],
        ),
    ],
)
def test_what_is_wrong_with_one_element_harms_no_other(document: object, items: list[tuple[int, str]]) -> None:
    assert told(mapped(document)) == items


def test_an_empty_array_at_the_root_is_one_payload_without_anything() -> None:
    payload = mapped([])

    assert (told(payload), payload.is_batch) == ([(0, "MISSING_FIELDS")], False)


@pytest.mark.parametrize(
    ("to", "text", "document", "numbers"),
    [
        ("$[0]", "$[1]", [A, "x"], [(0, A)]),
        ("[0].to", "[0].text", [{"to": A, "text": "x"}, {"to": B, "text": "y"}], [(0, A)]),
        ("$[*].to", "$[0].text", [{"to": A, "text": "x"}, {"to": B}], [(0, A), (1, B)]),
        ("to", "[0].text", [{"to": A, "text": "x"}], [(0, "MISSING_FIELDS")]),
        ("[?(@.kind == 'sms')].to", "[0].text", [{"kind": "sms", "to": A, "text": "x"}, {"to": B}], [(0, A)]),
    ],
)
def test_paths_that_read_an_array_get_it_whole(
    to: str, text: str, document: object, numbers: list[tuple[int, str]]
) -> None:
    payload = mapped(document, MappingPaths(to=to, text=text))

    assert (told(payload), payload.is_batch) == (numbers, len(numbers) > 1)


@pytest.mark.parametrize("path", ["$.alerts[*]", "alerts[*]", "alerts", "$.alerts"])
def test_for_each_names_the_items_or_the_array_of_them(path: str) -> None:
    paths = MappingPaths(to="phone", text="summary", for_each=path)

    payload = mapped({"alerts": [{"phone": A, "summary": "x"}, {"phone": B, "summary": "y"}]}, paths)

    assert (told(payload), told(payload, "text")) == ([(0, A), (1, B)], [(0, "x"), (1, "y")])
    assert payload.for_each is not None
    assert (payload.for_each.path, payload.for_each.matches) == (path, 2)


@pytest.mark.parametrize(
    ("document", "items"),
    [
        ({"alerts": [{"phone": A, "summary": "x"}]}, [(0, A)]),
        ({"alerts": {"first": {"phone": A, "summary": "x"}}}, [(0, A)]),
        ({"alerts": [None, {"phone": A, "summary": "x"}]}, [(0, "MISSING_FIELDS"), (1, A)]),
    ],
)
def test_for_each_always_makes_a_batch(document: object, items: list[tuple[int, str]]) -> None:
    payload = mapped(document, ALERTS)

    assert (told(payload), payload.is_batch) == (items, True)


@pytest.mark.parametrize("document", [{}, {"alerts": []}, {"alerts": "none"}, [], None, [{"alerts": [{"phone": A}]}]])
def test_a_payload_without_items_is_refused_and_says_where_they_were_looked_for(document: object) -> None:
    payload = mapped(document, ALERTS)

    assert payload.error is not None
    assert payload.error.extras == {"missing": ["forEach"], "tried": {"forEach": ["$.alerts[*]"]}}
    assert payload.messages == ()


@pytest.mark.parametrize(
    ("phones", "items"),
    [
        ([A, B], [(0, A), (1, B)]),
        ([A, A], [(0, A)]),
        ([A, "+65 8123 0000", "8123 0000", 81230000], [(0, A)]),
        ([A, "8123 0000", B, A], [(0, A), (2, B)]),
        ([A, B, A, C, B], [(0, A), (1, B), (3, C)]),
        ([A, A, None, "8123 0000", "none"], [(0, A), (2, "MISSING_FIELDS"), (4, "INVALID_RECIPIENT")]),
        (["none", A], [(0, "INVALID_RECIPIENT"), (1, A)]),
        (["none", "none"], [(0, "INVALID_RECIPIENT")]),
        ([None, None], [(0, "MISSING_FIELDS")]),
        ([None, A, " "], [(0, "MISSING_FIELDS"), (1, A), (2, "MISSING_FIELDS")]),
        ([True, {"a": 1}, {"a": 1}, A], [(0, "INVALID_RECIPIENT"), (1, "INVALID_RECIPIENT"), (3, A)]),
    ],
)
def test_each_different_number_is_a_message_with_the_same_words(phones: object, items: list[tuple[int, str]]) -> None:
    payload = mapped({"people": [{"phone": phone} for phone in phones], "text": "x", "ref": "r"}, PEOPLE)

    assert (told(payload), payload.is_batch) == (items, len(items) > 1)
    assert {message.trace.result_of("text") for message in payload.messages} == {"x"}
    assert {message.trace.result_of("ref") for message in payload.messages} == {"r"}


def test_recipients_of_one_document_are_told_apart_by_a_dedupe_rule() -> None:
    several = mapped({"people": [{"phone": A}, {"phone": B}], "text": "x", "id": 7}, PEOPLE)
    alone = mapped({"people": [{"phone": B}], "text": "x", "id": 7}, PEOPLE)

    assert told(several, "dedupe") == [(0, f"7 to {A}"), (1, f"7 to {B}")]
    assert told(alone, "dedupe") == [(0, f"7 to {B}")]


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        ([{"to": A, "text": "x"}] * 6, FLAT),
        ({"alerts": [{}] * 6}, ALERTS),
        ({"people": [{"phone": f"+658123{n:04}"} for n in range(6)], "text": "x"}, PEOPLE),
        ([{"people": [{"phone": A}, {"phone": B}, {"phone": C}], "text": "x"}] * 2, PEOPLE),
        ([{"people": [{"phone": A}, {"phone": B}], "text": "x"}] * 2 + [{}, {}], PEOPLE),
    ],
)
def test_one_message_more_than_may_be_is_refused_whole(document: object, paths: MappingPaths) -> None:
    payload, enough = mapped(document, paths, max_messages=5), mapped(document, paths, max_messages=6)

    assert payload.error is not None
    assert (payload.error.reason, payload.error.extras) == ("PAYLOAD_TOO_LARGE", {"limit": 5, "unit": "messages"})
    assert payload.messages == ()
    assert (enough.error, len(enough.messages)) == (None, 6)


def all_of(trace: Trace) -> object:
    """Return what a trace tells, in a form that can be compared: two errors of one meaning are two objects."""
    error = (trace.error.reason, trace.error.message, trace.error.extras) if trace.error else None
    return [(field.field, field.found, field.result, field.problem, field.matches) for field in trace.fields], error


ITEMS = st.lists(
    st.dictionaries(
        st.sampled_from(["to", "text", "ref", "id"]),
        st.sampled_from([A, B, "8123 0000", 81230000, "none", None, "", "x", [], {"a": 1}, "r" * 65, True]),
    ),
    min_size=1,
    max_size=6,
)


@given(items=ITEMS, nested=st.booleans())
def test_a_batch_means_what_its_items_mean_one_by_one(items: list[dict[str, object]], nested: bool) -> None:
    paths = MappingPaths(**(vars(FLAT) | {"for_each": "a.b[*]"})) if nested else FLAT

    batch = mapped({"a": {"b": items}} if nested else items, paths)

    alone = [asyncio.run(map_item(compile_mapping(FLAT), decode(json.dumps(item).encode()))) for item in items]
    assert [(message.index, all_of(message.trace)) for message in batch.messages] == [
        (index, all_of(trace)) for index, traces in enumerate(alone) for trace in traces
    ]

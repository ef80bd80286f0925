"""What is written quickly is what `json` writes."""

from __future__ import annotations

import json

import pytest

from servicekit import quick_json


@pytest.mark.parametrize(
    "value",
    [
        'a "text" \\ with\nbreaks, \0, é and 😀',
        {"to": "+6581230000", "text": "", "parts": 3, "price": 0.25, "none": None, "yes": True, "no": False},
        {"deep": {"deeper": {"list": [1, "two", {"three": None}]}}, "empty": {}},
        {"status": {200: 3, 503: 1}},
        [],
        -7,
        float("inf"),
    ],
)
def test_writes_what_json_writes(value):
    assert quick_json.encode(value) == json.dumps(value)


def test_asks_for_what_it_does_not_know():
    assert quick_json.encode({"what": {1, 2}}, otherwise=lambda value: f"<{type(value).__name__}>") == '{"what": <set>}'

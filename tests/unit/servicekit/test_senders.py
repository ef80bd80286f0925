"""What may stand as the sender of an SMS."""

from __future__ import annotations

import pytest

from servicekit.senders import is_sender


@pytest.mark.parametrize(
    "text", ["+6598765432", "+12345", "12345", "101", "+123456789012345", "ACME", "A", "1A", "My Shop 24", "x" * 11]
)
def test_takes_numbers_short_codes_and_names(text):
    assert is_sender(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6598765432",
        "+0123456",
        "+1234",
        "+1234567890123456",
        "+65 98765432",
        "x" * 12,
        "12",
        "123456789",
        " ACME",
        "ACME ",
        " ",
        "ACMÉ",
        "A-B",
        "ACME\n",
        "+65987654٣2",
    ],
)
def test_refuses_what_carriers_do_not_agree_on(text):
    assert not is_sender(text)

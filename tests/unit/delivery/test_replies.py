"""Which messages a reply may answer, and how numbers are compared."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.delivery.replies import LONGEST_WINDOW, answered, comparable_number, spellings
from tests.unit.delivery.test_dispatch import MESSAGE

SENT_AT = MESSAGE.created_at
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("+6598765432", "+6598765432"),
        ("6598765432", "+6598765432"),
        (" 65 9876-5432 ", "+6598765432"),
        ("+1 (555) 010-0123", "+15550100123"),
        ("72345", "72345"),
        ("+72345", "72345"),
        ("My Shop 24", "My Shop 24"),
        ("ACME", "ACME"),
        ("٦٥٩٨٧٦٥٤٣٢", "٦٥٩٨٧٦٥٤٣٢"),
        ("-", ""),
        ("", ""),
    ],
)
def test_one_number_is_compared_in_one_way_however_it_is_written(written, compared):
    assert comparable_number(written) == compared
    assert comparable_number(compared) == compared


@pytest.mark.parametrize(
    ("number", "ways"),
    [("+6598765432", {"+6598765432", "6598765432"}), ("72345", {"72345", "+72345"}), ("ACME", {"ACME"}), ("", {""})],
)
def test_a_number_is_looked_for_in_every_spelling_that_a_sender_may_have(number, ways):
    assert set(spellings(number)) == ways


def test_orders_by_when_a_message_went_and_not_by_when_it_was_accepted():
    waited = replace(MESSAGE, id="msg_a", sent_at=SENT_AT + timedelta(hours=2))
    prompt = replace(MESSAGE, id="msg_b", created_at=SENT_AT + timedelta(hours=1), sent_at=SENT_AT + timedelta(hours=1))

    assert answered([prompt, waited], SENT_AT + DAY, lambda _message: 7 * DAY) == [waited, prompt]


def test_takes_the_last_change_for_a_message_of_which_nobody_knows_when_it_went():
    in_doubt = replace(MESSAGE, sent_at=None, updated_at=SENT_AT + 3 * DAY)

    assert answered([in_doubt], SENT_AT + 4 * DAY, lambda _message: DAY) == [in_doubt]
    assert answered([in_doubt], SENT_AT + 5 * DAY, lambda _message: DAY) == []


def test_no_window_is_longer_than_thirty_days():
    message = replace(MESSAGE, sent_at=SENT_AT)

    assert answered([message], SENT_AT + LONGEST_WINDOW, lambda _message: 90 * DAY) == [message]
    assert answered([message], SENT_AT + LONGEST_WINDOW + timedelta(seconds=1), lambda _message: 90 * DAY) == []

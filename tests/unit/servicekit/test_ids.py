"""Identifiers and secrets: their form, their order, and the typing mistakes that their checksum finds."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta

import pytest

from servicekit.ids import (
    BASE62,
    CHECKSUM_LENGTH,
    CROCKFORD,
    ID_LENGTH,
    has_secret_form,
    has_valid_checksum,
    is_id,
    new_id,
    new_secret,
    random_bits,
)

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
SOME_ID = "msg_" + "0" * ID_LENGTH


def test_alphabets_have_every_character_once_and_in_ascii_order():
    assert len(set(CROCKFORD)) == 32
    assert len(set(BASE62)) == 62
    assert sorted(CROCKFORD) == list(CROCKFORD)
    assert sorted(BASE62) == list(BASE62)


def test_ids_have_no_letter_that_is_read_as_another():
    assert not set("ilou") & set(CROCKFORD)


def test_an_id_is_its_prefix_and_26_characters():
    assert re.fullmatch(r"msg_[0-9a-hjkmnp-tv-z]{26}", new_id("msg", NOW))


def test_an_id_carries_its_time_and_all_its_random_bits():
    none = new_id("x", datetime(1970, 1, 1, tzinfo=UTC), lambda _: 0)
    all_of_them = new_id("x", NOW, lambda bits: (1 << bits) - 1)

    assert none == "x_" + "0" * 26
    assert all_of_them.endswith("z" * 16)
    assert len(all_of_them) == len(none)


@pytest.mark.parametrize("later_by", [timedelta(milliseconds=1), timedelta(seconds=1), timedelta(days=4000)])
def test_later_ids_sort_behind_earlier_ones(later_by):
    earlier = new_id("msg", NOW, lambda bits: (1 << bits) - 1)
    later = new_id("msg", NOW + later_by, lambda _: 0)

    assert earlier < later


def test_ids_of_one_moment_differ():
    assert len({new_id("msg", NOW) for _ in range(1000)}) == 1000


def test_ids_differ_from_those_of_a_process_that_this_one_has_begun():
    new_id("msg", NOW)
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write_end, new_id("msg", NOW).encode())
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(read_end, 100).decode() != new_id("msg", NOW)


@pytest.mark.parametrize("count", [1, 5, 79, 80])
def test_random_bits_are_as_many_as_are_asked_for(count):
    drawn = [random_bits(count) for _ in range(1000)]

    assert max(drawn).bit_length() == count
    assert min(drawn).bit_length() < count


def test_refuses_an_id_with_a_naive_time():
    with pytest.raises(ValueError, match="naive"):
        new_id("msg", NOW.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SOME_ID, True),
        pytest.param(new_id("msg", NOW), True, id="a new one"),
        pytest.param(new_id("wkh", NOW), False, id="a new one of another kind"),
        (SOME_ID.upper(), False),
        (SOME_ID[:-1], False),
        (SOME_ID + "0", False),
        (SOME_ID + "\n", False),
        (" " + SOME_ID, False),
        (SOME_ID[:-1] + "\n", False),
        (SOME_ID[:-1] + "u", False),
        (SOME_ID[:-1] + "\u0660", False),
        (SOME_ID[:-1] + "_", False),
        (SOME_ID[:-1] + "\x00", False),
        (SOME_ID.replace("_", ""), False),
        ("msg_", False),
        ("msg", False),
        ("_", False),
        ("", False),
        ("msg_" * 1000, False),
    ],
)
def test_knows_an_id_by_its_form(text, expected):
    assert is_id(text, "msg") is expected


@pytest.mark.parametrize(("prefix", "length"), [("ig", 32), ("sk_live", 40)])
def test_a_secret_has_its_form_and_a_valid_checksum(prefix, length):
    for _ in range(50):
        secret = new_secret(prefix, length)

        assert re.fullmatch(rf"{prefix}_[0-9A-Za-z]{{{length}}}", secret)
        assert has_secret_form(secret, prefix, length)
        assert has_valid_checksum(secret)


def test_secrets_differ_in_every_part_that_is_random():
    secrets = {new_secret("ig", 32)[:-CHECKSUM_LENGTH] for _ in range(1000)}

    assert len(secrets) == 1000


def test_the_checksum_finds_every_mistake_in_a_single_character():
    secret = new_secret("ig", 32)

    missed = [
        typo
        for position, right in enumerate(secret)
        for wrong in BASE62 + "_"
        if wrong != right and has_valid_checksum(typo := secret[:position] + wrong + secret[position + 1 :])
    ]

    assert missed == []


def test_the_checksum_finds_every_two_neighbours_that_changed_places():
    secret = new_secret("sk_live", 40)

    missed = [
        typo
        for place in range(len(secret) - 1)
        if (typo := secret[:place] + secret[place + 1] + secret[place] + secret[place + 2 :]) != secret
        and has_valid_checksum(typo)
    ]

    assert missed == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ig_" + "A" * 32, True),
        ("ig_" + "A" * 31, False),
        ("ig_" + "A" * 33, False),
        ("ig-" + "A" * 32, False),
        ("sk_" + "A" * 32, False),
        ("A" * 32, False),
        ("A" * 35, False),
        ("ig_" + "A" * 31 + "_", False),
        ("ig_" + "A" * 31 + "\n", False),
        ("ig_" + "A" * 31 + "é", False),
        ("ig_" + "A" * 31 + "\u0660", False),
        ("", False),
    ],
)
def test_knows_a_secret_by_its_form(text, expected):
    assert has_secret_form(text, "ig", 32) is expected

"""Phone numbers: what is read as E.164, and what is refused rather than guessed."""

from __future__ import annotations

import contextlib
import re
import tracemalloc
from unittest.mock import Mock

import phonenumbers
import pytest

from servicekit.phone_numbers import (
    MAX_LENGTH,
    NotAPhoneNumberError,
    _is_in_use_as_it_stands,
    _normalised,
    _read,
    is_region,
    normalise,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+6581230000", "+6581230000"),
        ("  +6581230000\t", "+6581230000"),
        ("+65 8123 0000", "+6581230000"),
        ("+65-8123-0000", "+6581230000"),
        ("+(65)81230000", "+6581230000"),
        ("+65\u00a08123\u00a00000", "+6581230000"),
        ("+65\u200b81230000", "+6581230000"),
        ("\u202a+6581230000\u202c", "+6581230000"),  # as contacts apps copy it
        ("\u2068+65\u00ad8123\u20600000\u2069", "+6581230000"),
        ("+33\u202f6\u202f12\u202f34\u202f56\u202f78", "+33612345678"),  # as French typography has it
        ("(+65) 8123-0000", "+6581230000"),
        ("（＋65）81230000", "+6581230000"),  # noqa: RUF001
        ("＋６５８１２３００００", "+6581230000"),  # noqa: RUF001  # full width, as Japanese input methods type
        ("+٦٥٨١٢٣٠٠٠٠", "+6581230000"),
        ("+६५८१२३००००", "+6581230000"),
        ("+1 (202) 555-0123", "+12025550123"),
        ("+44 (0)20 7946 0018", "+442079460018"),
        ("+39 06 698 12345", "+390669812345"),
        ("+800 1234 5678", "+80012345678"),
    ],
)
def test_reads_an_international_number_however_it_is_written(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "region", "expected"),
    [
        ("8123 0000", "SG", "+6581230000"),
        ("(202) 555-0123", "US", "+12025550123"),
        ("020 7946 0018", "GB", "+442079460018"),
        ("0044 20 7946 0018", "GB", "+442079460018"),
        ("06 698 12345", "IT", "+390669812345"),
        ("+6581230000", "US", "+6581230000"),
        ("٨١٢٣٠٠٠٠", "SG", "+6581230000"),
    ],
)
def test_reads_a_national_number_with_the_integrations_region(text, region, expected):
    assert normalise(text, region) == expected


@pytest.mark.parametrize(
    ("text", "region", "reason"),
    [
        ("", "", "it is empty"),
        (" \n\t\u3000", "", "it is empty"),
        ("81230000", "", "it has no plus sign and country code, which only an integration with a defaultRegion can"),
        ("6581230000", "", "it has no plus sign and country code"),
        ("8123 0000 +65", "", "it has no plus sign and country code"),
        ("\u200b", "", "it is empty"),
        ("'+6581230000", "", "it contains characters that no phone number has"),
        ("\ud800", "", "it has no plus sign and country code"),
        ("+65 CALL NOW", "", "it contains letters"),
        ("tel:+6581230000", "", "it contains letters"),
        ("+6581230000 ext. 5", "", "it contains letters"),
        ("8.123e7", "SG", "it contains letters"),
        ("+65812300OO", "", "it contains letters"),
        ("+65 8123 0000 #12", "", "it has an extension"),
        ("+6581230000, 81230001", "", "it has an extension"),
        ("+6581230000;81230001", "", "it has an extension"),
        ("+6581230000/81230001", "", "it is too long for its country"),
        ("+6581230000 +6581230001", "", "it is no phone number"),
        ("+65\x0081230000", "", "it is no phone number"),
        ("+65\n81230000", "", "it is no phone number"),
        ("+65²81230000", "", "it is no phone number"),
        ("+65😀81230000", "", "it is no phone number"),
        ("+", "", "it is no phone number"),
        ("+999123456789", "", "its country code does not exist"),
        ("81230000", "ZZ", "its country code does not exist"),
        ("+6512", "", "it is too short for its country"),
        ("+658123000000000", "", "it is too long for its country"),
        ("+6500000000", "", "no such number is in use in its country"),
        ("112", "SG", "it is too short for its country"),
        ("81230000.0", "SG", "no number of its country has this length"),
        ("+" + "6" * MAX_LENGTH, "", "it is longer than 32 characters"),
        ("9" * 100_000, "SG", "it is longer than 32 characters"),
    ],
)
def test_refuses_what_it_would_have_to_guess_and_says_why(text, region, reason):
    with pytest.raises(NotAPhoneNumberError, match=f"^{reason}"):
        normalise(text, region)


@pytest.mark.parametrize("text", ["+658123*0000", "+658123000.0"])
def test_refuses_a_number_with_a_character_that_no_number_has(text):
    with pytest.raises(NotAPhoneNumberError):
        normalise(text)


def test_says_the_same_of_a_number_that_was_refused_before():
    for _ in range(2):
        with pytest.raises(NotAPhoneNumberError, match="it is empty"):
            normalise("")


def test_asks_the_library_once_about_a_number_that_it_refuses(monkeypatch):
    parse = Mock(spec=phonenumbers.parse, side_effect=phonenumbers.parse)
    monkeypatch.setattr(phonenumbers, "parse", parse)
    _normalised.cache_clear()

    for text in ("+1 2000000000", " +1 2000000000"):
        with pytest.raises(NotAPhoneNumberError, match="no such number is in use in its country"):
            normalise(text)

    assert parse.call_count == 1


def test_compiles_no_pattern_again_for_numbers_of_many_countries(monkeypatch):
    regions = sorted(phonenumbers.SUPPORTED_REGIONS)
    numbers = [f"+{phonenumbers.country_code_for_region(region)} 00000000" for region in regions]

    def read_all() -> None:
        for number in numbers:
            with contextlib.suppress(NotAPhoneNumberError):
                _read(number, "")

    read_all()
    compile_pattern = Mock(spec=re.compile, side_effect=re.compile)
    monkeypatch.setattr(re, "compile", compile_pattern)
    read_all()

    assert compile_pattern.call_count == 0


def test_remembers_no_blanks_around_a_number():
    padded = "+6581230000" + " " * 100_000
    tracemalloc.start()
    try:
        for number in range(50):
            normalise(padded + "\t" * number)
            with pytest.raises(NotAPhoneNumberError):
                normalise("9" * (MAX_LENGTH + 1) + padded + "\t" * number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 1_000_000


@pytest.mark.parametrize(
    ("code", "expected"), [("SG", True), ("US", True), ("GB", True), ("sg", False), ("ZZ", False), ("", False)]
)
def test_knows_the_regions_whose_numbers_can_be_read(code, expected):
    assert is_region(code) is expected


def examples() -> list[str]:
    """Return numbers of every country and kind, and what is near them: a digit more, less or other, and a prefix."""
    numbers: list[str] = []
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        code = phonenumbers.country_code_for_region(region)
        kinds = phonenumbers.supported_types_for_region(region)
        for example in filter(None, (phonenumbers.example_number_for_type(region, kind) for kind in sorted(kinds))):
            digits = phonenumbers.national_significant_number(example)
            near = [digits, f"0{digits}", f"1{digits}", f"8{digits}", digits[1:], digits[:-1], f"{digits}0"]
            numbers += [f"+{code}{digits}" for digits in [*near, f"{digits[0]}{digits}", digits[::-1]]]
    return numbers


def test_reads_a_plain_number_as_the_library_does():
    def at_length(number: str) -> str:
        try:
            return _read(number, "")
        except NotAPhoneNumberError as error:
            return str(error)

    def at_once(number: str) -> str:
        return "".join(_normalised.__wrapped__(number, ""))

    # The last begins with what is dialled in Belarus before a number abroad, and would be a number there all the same.
    numbers = [*examples(), "+3758105555555"]

    assert len(numbers) > 10_000
    assert [number for number in numbers if at_once(number) != at_length(number)] == []
    assert sum(map(_is_in_use_as_it_stands, numbers)) > 1_000

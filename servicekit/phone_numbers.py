"""Phone numbers as E.164 (ITU-T E.164), read by Google's library and nothing else."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

import phonenumbers

MAX_LENGTH: Final = 32

_SEPARATORS: Final = frozenset("+-().,/\uff0b\uff08\uff09\uff0e\uff0f\u2060\u200b")
_DECIMAL: Final = re.compile(r"\+?\d+\.0")

_PARSE_PROBLEMS: Final = {
    phonenumbers.NumberParseException.INVALID_COUNTRY_CODE: "its country code does not exist",
    phonenumbers.NumberParseException.NOT_A_NUMBER: "it is no phone number",
    phonenumbers.NumberParseException.TOO_SHORT_AFTER_IDD: "it is too short",
    phonenumbers.NumberParseException.TOO_SHORT_NSN: "it is too short",
    phonenumbers.NumberParseException.TOO_LONG: "it is too long",
}
_LENGTH_PROBLEMS: Final = {
    phonenumbers.ValidationResult.TOO_SHORT: "it is too short for its country",
    phonenumbers.ValidationResult.TOO_LONG: "it is too long for its country",
    phonenumbers.ValidationResult.INVALID_LENGTH: "no number of its country has this length",
}


class NotAPhoneNumberError(ValueError):
    """The text is no phone number; the message says why, to follow the words "because"."""


@lru_cache(maxsize=16_384)
def normalise(text: str, default_region: str = "") -> str:
    """Return a number in E.164.

    `default_region` is the ISO 3166 code that reads a number without a plus sign. Digits of any script are taken;
    letters and extensions are not, since dropping them would text somebody else. Raises NotAPhoneNumberError.
    """
    candidate = text.strip()
    if not candidate:
        raise NotAPhoneNumberError("it is empty")
    if len(candidate) > MAX_LENGTH:
        raise NotAPhoneNumberError(f"it is longer than {MAX_LENGTH} characters")
    if any(character.isalpha() for character in candidate):
        raise NotAPhoneNumberError("it contains letters")
    if not default_region and not candidate.startswith(("+", "\uff0b")):
        raise NotAPhoneNumberError("it has no plus sign and country code, and the integration has no defaultRegion")
    try:
        number = phonenumbers.parse(candidate, default_region or None)
    except phonenumbers.NumberParseException as error:
        raise NotAPhoneNumberError(_PARSE_PROBLEMS.get(error.error_type, "it is no phone number")) from None
    if number.extension:
        raise NotAPhoneNumberError("it has an extension")
    if not phonenumbers.is_valid_number(number):
        length = phonenumbers.is_possible_number_with_reason(number)
        raise NotAPhoneNumberError(_LENGTH_PROBLEMS.get(length, "no such number is in use in its country"))
    if not all(character.isdigit() or _separates(character) for character in candidate):
        raise NotAPhoneNumberError("it contains characters that no phone number has")
    if _DECIMAL.fullmatch(candidate):
        raise NotAPhoneNumberError("it is a decimal number: send the number as text, or without its fraction")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _separates(character: str) -> bool:
    # The library drops whatever it does not know, and a number of which a character is dropped may be somebody else's.
    return character in _SEPARATORS or unicodedata.category(character) in ("Zs", "Pd")


def is_region(code: str) -> bool:
    """Tell whether an ISO 3166 code names a region whose numbers can be read."""
    return code in phonenumbers.SUPPORTED_REGIONS


@lru_cache(maxsize=16_384)
def region_of(number: str) -> str:
    """Return the ISO 3166 code of a number in E.164; empty when it belongs to no single region."""
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(number)) or ""
    except phonenumbers.NumberParseException:
        return ""

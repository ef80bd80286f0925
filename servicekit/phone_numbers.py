"""Phone numbers as E.164 (ITU-T E.164), read by Google's library and nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import phonenumbers

MAX_LENGTH: Final = 32

_SEPARATORS: Final = frozenset(" +-().,/\uff0b\uff08\uff09\uff0e\uff0f")
_INTERNATIONAL: Final = re.compile(r"\D*[+\uff0b]")
_PLAIN: Final = re.compile(r"\+[1-9][0-9]{6,14}")
# What a number in use may be, by the names that the library's data has for it.
_KINDS: Final = (
    *("fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "pager", "uan"),
    "voicemail",
)
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

# Or the library would compile a pattern anew for each number of a country that is not among the last few.
phonenumbers.enable_pattern_cache()


class NotAPhoneNumberError(ValueError):
    """The text is no phone number; the message says why, to follow the words "because"."""


def normalise(text: str, default_region: str = "") -> str:
    """Return a number in E.164.

    `default_region` is the ISO 3166 code that reads a number without a plus sign. Digits of any script are taken;
    letters and extensions are not, since dropping them would text somebody else. Raises NotAPhoneNumberError.
    """
    candidate = text.strip()
    # Before anything is remembered: a text of any size would be kept.
    if len(candidate) > MAX_LENGTH:
        raise NotAPhoneNumberError(f"it is longer than {MAX_LENGTH} characters")
    number, problem = _normalised(candidate, default_region)
    if problem:
        raise NotAPhoneNumberError(problem)
    return number


@lru_cache(maxsize=16_384)
def _normalised(candidate: str, default_region: str) -> tuple[str, str]:
    """Return the number, or why there is none: what is no number takes longest to tell, and may come again."""
    if _PLAIN.fullmatch(candidate) and _is_in_use_as_it_stands(candidate):
        return candidate, ""
    try:
        return _read(candidate, default_region), ""
    except NotAPhoneNumberError as error:
        return "", str(error)


@dataclass(frozen=True, kw_only=True)
class _Country:
    """What can be told of a plain number's country by its first digits, and what the numbers in use there look like."""

    code_digits: int
    may_begin_with_a_prefix: re.Pattern[str] | None
    in_use: Mapping[int, re.Pattern[str]]  # by how many digits they have


def _is_in_use_as_it_stands(candidate: str) -> bool:
    """Tell whether a plain number is what the library would make of it; False when only the library can say.

    The library reads every number as if somebody had typed it, and tries it as each kind of number. One that is written
    as E.164 wants it is that number, unless its digits may begin with a prefix which is dialled in its country and not
    part of the number.
    """
    country = _country(candidate[1:4])
    if country is None:
        return False
    digits = candidate[1 + country.code_digits :]
    if digits.startswith("0") or (country.may_begin_with_a_prefix and country.may_begin_with_a_prefix.match(digits)):
        return False
    in_use = country.in_use.get(len(digits))
    return in_use is not None and in_use.fullmatch(digits) is not None


@lru_cache(maxsize=1_000)
def _country(digits: str) -> _Country | None:
    for length in (1, 2, 3):
        regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(digits[:length]))
        if regions:
            main = phonenumbers.PhoneMetadata.metadata_for_region(regions[0], None)
            # Where several regions share a code, the first that knows a number has it.
            if main is None or main.general_desc is None or (len(regions) > 1 and main.leading_digits is not None):
                return None
            return _country_of(main, main.general_desc, length)
    return None


def _country_of(main: phonenumbers.PhoneMetadata, every: phonenumbers.PhoneNumberDesc, code_digits: int) -> _Country:
    kinds = [kind for name in _KINDS if (kind := getattr(main, name)) and kind.national_number_pattern]
    in_use = {}
    for length in every.possible_length:
        # A kind without lengths of its own has those of all.
        patterns = [kind.national_number_pattern for kind in kinds if length in (kind.possible_length or [length])]
        if patterns:
            in_use[length] = re.compile(f"(?=(?:{every.national_number_pattern})$)(?:{'|'.join(patterns)})")
    prefix = main.national_prefix_for_parsing
    return _Country(
        code_digits=code_digits, may_begin_with_a_prefix=re.compile(prefix) if prefix else None, in_use=in_use
    )


def _read(candidate: str, default_region: str) -> str:
    seen = "".join(map(_as_seen, candidate))
    if not seen:
        raise NotAPhoneNumberError("it is empty")
    if any(character.isalpha() for character in seen):
        raise NotAPhoneNumberError("it contains letters")
    if not default_region and not _INTERNATIONAL.match(seen):
        raise NotAPhoneNumberError(
            "it has no plus sign and country code, which only an integration with a defaultRegion can do without"
        )
    try:
        number = phonenumbers.parse(seen, default_region or None)
    except phonenumbers.NumberParseException as error:
        raise NotAPhoneNumberError(_PARSE_PROBLEMS.get(error.error_type, "it is no phone number")) from None
    if number.extension:
        raise NotAPhoneNumberError("it has an extension")
    if not phonenumbers.is_valid_number(number):
        length = phonenumbers.is_possible_number_with_reason(number)
        raise NotAPhoneNumberError(_LENGTH_PROBLEMS.get(length, "no such number is in use in its country"))
    if not all(character.isdigit() or _separates(character) for character in seen):
        raise NotAPhoneNumberError("it contains characters that no phone number has")
    if _DECIMAL.fullmatch(seen):
        raise NotAPhoneNumberError("it is a decimal number: send the number as text, or without its fraction")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _as_seen(character: str) -> str:
    # Contacts apps put marks of direction around a number that is copied, and the library knows few blanks.
    category = unicodedata.category(character)
    return "" if category == "Cf" else " " if category == "Zs" else character


def _separates(character: str) -> bool:
    # The library drops whatever it does not know, and a number of which a character is dropped may be somebody else's.
    return character in _SEPARATORS or unicodedata.category(character) == "Pd"


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

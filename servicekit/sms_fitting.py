"""How a text is made to fit into so many SMS parts: refused, cut, or written in the plain letters of the GSM alphabet.

A likeness stays in its script: accents, typographic marks, ligatures and letter variants go, and nothing is romanised.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from servicekit.sms_text import GSM7_ALONE, is_gsm7, measure


class Overflow(StrEnum):
    """What becomes of a text that takes more parts than it may."""

    REJECT = "reject"
    TRUNCATE = "truncate"
    TRANSLITERATE = "transliterate"


class TextChange(StrEnum):
    """What was done to a text to make it fit."""

    TRUNCATED = "truncated"
    TRANSLITERATED = "transliterated"


class DoesNotFitError(ValueError):
    """A text takes more parts than it may, and the rule does not make it fit."""

    def __init__(self, *, segments: int, limit: int) -> None:
        super().__init__(f"it takes {segments} SMS parts, and may take {limit}")
        self.segments = segments
        self.limit = limit


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A text that fits, and what was done to it; None when it is as it came."""

    text: str
    change: TextChange | None = None


# What compatibility decomposition does not know, or would make something else of.
_LIKENESSES: Final = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212", "-"),
    **dict.fromkeys("\u00b4`\u02b9\u02bb\u02bc\u2018\u2019\u201a\u201b\u2032\u2035", "'"),
    **dict.fromkeys("\u00ab\u00bb\u201c\u201d\u201e\u201f\u2033\u2036", '"'),
    **dict.fromkeys("\u2028\u2029", "\n"),
    **dict.fromkeys("\u2022\u2023\u2219", "*"),
    **dict.fromkeys("\u00b7\u2024\u2027", "."),
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict(zip("\t\u00a6\u00d7\u2039\u203a", " |x<>", strict=True)),
    **dict(zip("ĐđĦħ\u0131\u0237ŁłŦŧÐðẞ", "DdHhijLlTtDdß", strict=True)),
    **dict(zip("ŒœÞþ\u00a9\u00ae", ("OE", "oe", "Th", "th", "(C)", "(R)"), strict=True)),
}
# Decomposed, 10² would be 102 and 1½ would be 11/2; a spacing accent would be a space.
_NOT_DECOMPOSED: Final = frozenset({"No", "Sk"})
# Accents that stand alone once their letter is without them, and marks that nobody sees.
_LEFT_OUT: Final = frozenset({"Mn", "Me", "Cf"})

_JOINER: Final = "\u200d"
_FLAG_LETTERS: Final = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_SKIN_TONES: Final = "".join(map(chr, range(0x1F3FB, 0x1F400)))
_TAGS: Final = "".join(map(chr, range(0xE0020, 0xE0080)))


def fit(text: str, *, max_segments: int, max_characters: int, on_overflow: Overflow) -> Fitted:
    """Return a text that takes at most so many parts (0: any number), the same one if it does already.

    `max_characters` is a limit beside, for what is cut or changed too. Raises DoesNotFitError when the text has more of
    either and `on_overflow` says `reject`, or can not help: there are only blanks before the cut, or some character has
    no likeness in GSM-7, or the likeness is too long too.
    """
    if _fits(text, max_segments, max_characters):
        return Fitted(text=text)
    if on_overflow is Overflow.TRUNCATE:
        cut = truncated(text, max_segments=max_segments, max_characters=max_characters)
        if cut:
            return Fitted(text=cut, change=TextChange.TRUNCATED)
    elif on_overflow is Overflow.TRANSLITERATE:
        plain = transliterated(text)
        if is_gsm7(plain) and _fits(plain, max_segments, max_characters):
            return Fitted(text=plain, change=TextChange.TRANSLITERATED)
    raise DoesNotFitError(segments=measure(text).segments, limit=max_segments)


def _fits(text: str, max_segments: int, max_characters: int) -> bool:
    return len(text) <= max_characters and (not max_segments or measure(text).segments <= max_segments)


def truncated(text: str, *, max_segments: int, max_characters: int) -> str:
    """Return the longest beginning of a text that takes so many parts (0: any number), without the blanks at its end.

    It ends where a person sees a character end. Nothing is added: dots would take the place of words.
    """
    end = min(len(text), max_characters)
    if max_segments:
        # One character more never takes fewer parts, since UCS-2 holds less of any text than GSM-7 does.
        ends = range(min(end, max_segments * GSM7_ALONE) + 1)
        end = bisect_right(ends, max_segments, key=lambda end: measure(text[:end]).segments) - 1
    whole = next((place for place in range(end, 0, -1) if _may_end_at(text, place)), end)
    return text[:whole].rstrip()


def transliterated(text: str) -> str:
    """Return a text with the plain likeness, in its own script, of each character that GSM-7 does not have.

    A character without one stays as it is.
    """
    return "".join(map(_likeness, unicodedata.normalize("NFC", text)))


# Two microseconds are spent on a character that is not in here, and a payload may have 100,000.
@lru_cache(maxsize=16_384)
def _likeness(character: str) -> str:
    if is_gsm7(character):
        return character
    if character in _LIKENESSES:
        return _LIKENESSES[character]
    category = unicodedata.category(character)
    if category in _LEFT_OUT:
        return ""
    if category in _NOT_DECOMPOSED:
        return character
    plain = "".join(
        _LIKENESSES.get(part, part)
        for part in unicodedata.normalize("NFKD", character)
        if unicodedata.category(part) not in _LEFT_OUT
    )
    return plain if is_gsm7(plain) else character


def _may_end_at(text: str, place: int) -> bool:
    """Tell whether no letter and accent, emoji sequence, flag or line end lies across a place.

    The rules of Unicode Annex 29 that matter in texts, without Hangul letters and the conjuncts of Indic scripts.
    """
    if place == len(text):
        return True
    before, after = text[place - 1], text[place]
    if before == _JOINER or _extends(after) or (before, after) == ("\r", "\n"):
        return False
    flags = len(text[:place]) - len(text[:place].rstrip(_FLAG_LETTERS))
    return not (after in _FLAG_LETTERS and flags % 2)


def _extends(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Mn", "Me", "Mc")
        or character in (_JOINER, "\u200c")
        or character in _SKIN_TONES
        or character in _TAGS
    )

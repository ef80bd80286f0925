"""Which texts are opt-out words: STOP and its like, START and HELP. Pure.

A text counts only when it is the word and nothing else, however it is written: `Stop.`, ` STOP!` and full-width letters
are STOP, `Opt-out` is OPT OUT; `please stop by at five` is an answer like any other. The words are those that the CTIA
Messaging Principles, the rules of the FCC (47 CFR 64.1200) and North American carriers ask for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Keyword(StrEnum):
    """What a text asks for."""

    STOP = "stop"
    START = "start"
    HELP = "help"


STOP_WORDS: Final = (
    "STOP",
    "STOPALL",
    "UNSUBSCRIBE",
    "CANCEL",
    "END",
    "QUIT",
    "REVOKE",
    "OPTOUT",
    "OPT OUT",
    "STOP ALL",
)
START_WORDS: Final = ("START", "UNSTOP")
# YES is also what people answer to questions, so it is START only where there is something to start again.
START_WORDS_WHEN_OPTED_OUT: Final = ("YES",)
HELP_WORDS: Final = ("HELP", "INFO")

# Longer texts are not folded: no opt-out word comes near it, and texts come from strangers.
_MAX_LENGTH: Final = 100
_FIRST_ACCENT: Final = 200  # the first canonical combining class of marks around a letter (Unicode 5.7.4, table 5-8)


class OptOutWords:
    """The words that count here: the known ones, and more from a setting."""

    def __init__(self, extra_stop_words: Iterable[str] = ()) -> None:
        known, extra = map(folded, STOP_WORDS), [folded(word) for word in extra_stop_words]
        # People leave accents out, above all in capitals, and hardly ever put any in.
        stop = {*known, *extra, *map(_without_accents, extra)} - {""}
        # A word of the setting goes before a known one: whoever lists YES as a stop word means it.
        self._keywords = dict.fromkeys(map(folded, HELP_WORDS), Keyword.HELP)
        self._keywords |= dict.fromkeys(map(folded, START_WORDS), Keyword.START)
        self._keywords |= dict.fromkeys(stop, Keyword.STOP)
        self._when_opted_out = {folded(word) for word in START_WORDS_WHEN_OPTED_OUT} - stop

    def keyword(self, text: str, *, is_opted_out: bool) -> Keyword | None:
        """Return what a text asks for, None when it is an ordinary one.

        `is_opted_out` says whether this person has opted out from this number of ours.
        """
        if len(text) > _MAX_LENGTH:
            return None
        word = folded(text)
        if is_opted_out and word in self._when_opted_out:
            return Keyword.START
        return self._keywords.get(word)


def folded(text: str) -> str:
    """Return a text as it is compared: width and case folded, without what surrounds its letters and digits.

    Characters that show nothing, such as zero-width spaces, are dropped wherever they are. Spaces and dashes within are
    one space.
    """
    shown = "".join(character for character in text if not _shows_nothing(character))
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", shown).casefold())
    # Turkish has an i with a dot and one without, each in both cases; elsewhere neither is a letter of its own.
    plain = plain.replace("i\u0307", "i").replace("\u0131", "i")
    spaced = "".join(" " if unicodedata.category(character) in ("Zs", "Pd") else character for character in plain)
    inner = [place for place, _ in enumerate(spaced) if _is_inner(spaced, place)]
    return " ".join(spaced[inner[0] : inner[-1] + 1].split()) if inner else ""


def _without_accents(text: str) -> str:
    # Marks above and below letters; what changes a syllable, as in Hindi or Japanese, is of other classes.
    bare = (each for each in unicodedata.normalize("NFD", text) if unicodedata.combining(each) < _FIRST_ACCENT)
    return unicodedata.normalize("NFKC", "".join(bare))


def _shows_nothing(character: str) -> bool:
    # Variation selectors only say how the character before them is drawn: most emoji end with one.
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return is_selector or unicodedata.category(character) in ("Cf", "Cc")


def _is_inner(text: str, place: int) -> bool:
    # Letters, digits, and the marks that belong to them.
    while place > 0 and unicodedata.category(text[place])[0] == "M":
        place -= 1
    return unicodedata.category(text[place])[0] in "LN"

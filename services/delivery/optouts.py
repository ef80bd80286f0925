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


class OptOutWords:
    """The words that count here: the known ones, and more from a setting."""

    def __init__(self, extra_stop_words: Iterable[str] = ()) -> None:
        stop = {folded(word) for word in (*STOP_WORDS, *extra_stop_words)} - {""}
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
    spaced = "".join(" " if unicodedata.category(character) in ("Zs", "Pd") else character for character in plain)
    inner = [place for place, _ in enumerate(spaced) if _is_inner(spaced, place)]
    return " ".join(spaced[inner[0] : inner[-1] + 1].split()) if inner else ""


def _shows_nothing(character: str) -> bool:
    # Variation selectors only say how the character before them is drawn: most emoji end with one.
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return is_selector or unicodedata.category(character) in ("Cf", "Cc")


def _is_inner(text: str, place: int) -> bool:
    # Letters, digits, and the marks that belong to them.
    while place > 0 and unicodedata.category(text[place])[0] == "M":
        place -= 1
    return unicodedata.category(text[place])[0] in "LN"

"""The text that an endpoint answers a reply with: `{"reply":"..."}` in its 2xx body goes back as an SMS. Pure."""

from __future__ import annotations

import json
import unicodedata
from typing import Final, NoReturn

from servicekit.sms_text import MAX_TEXT_LENGTH

MAX_ANSWER_BYTES: Final = 65536
_ALLOWED_CONTROLS: Final = "\n\r\t"


def reply_text(body: bytes) -> str | None:
    """Return the text to send back, 1 to 1600 characters; None when the answer asks for no message.

    Most endpoints answer `OK`, nothing, or JSON of their own: none of that is an error, and none of it is ever sent. So
    the rule is strict: a JSON object (RFC 8259, UTF-8, no name twice) whose `reply` is a string with something to read
    in it, and without control characters other than line breaks and tabs.
    """
    if len(body) > MAX_ANSWER_BYTES:
        return None
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    text = document.get("reply") if isinstance(document, dict) else None
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_TEXT_LENGTH:
        return None
    return text if text.strip() and all(map(_is_sendable, text)) else None


def _is_sendable(character: str) -> bool:
    # Cc: controls; Cs: half a character, which no carrier can encode.
    return character in _ALLOWED_CONTROLS or unicodedata.category(character) not in ("Cc", "Cs")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ValueError("a name comes twice")
    return named


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")

"""JSON of what is mostly texts in an object: `json`'s encoder takes longer to start than to write so little."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

_TEXT: Final = json.encoder.encode_basestring_ascii
_WORDS: Final[dict[object, str]] = {None: "null", False: "false", True: "true"}


def encode(value: object, otherwise: Callable[[object], str] = json.dumps) -> str:
    """Return what `json.dumps` would.

    `otherwise` is asked for all that is no text, whole number, word, or object with texts for names.
    """
    if type(value) is str:
        return _TEXT(value)
    if type(value) is int:
        return str(value)
    if value is None or type(value) is bool:
        return _WORDS[value]
    if isinstance(value, dict) and all(type(name) is str for name in value):
        return f"{{{', '.join([f'{_TEXT(name)}: {encode(each, otherwise)}' for name, each in value.items()])}}}"
    return otherwise(value)

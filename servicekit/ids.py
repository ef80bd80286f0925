"""Identifiers and secrets: a prefix that says what it is, then characters that can be double-clicked and read aloud."""

from __future__ import annotations

import os
import secrets
import string
import zlib
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Final

from servicekit.clock import to_milliseconds

CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
CHECKSUM_LENGTH: Final = 6

_TIME_LENGTH: Final = 10
_RANDOM_LENGTH: Final = 16
ID_LENGTH: Final = _TIME_LENGTH + _RANDOM_LENGTH
_RANDOM_BYTES: Final = 10
_PAIRS: Final = [first + second for first in CROCKFORD for second in CROCKFORD]
# Drawn for many ids at a time, since asking the system takes longer than making an id. Each is taken once, by whatever
# thread.
_DRAWN: Final[deque[bytes]] = deque()
_DRAWN_AT_ONCE: Final = 256
os.register_at_fork(after_in_child=_DRAWN.clear)  # or its ids would be its parent's


def random_bits(count: int) -> int:
    """Return a random number of so many bits, at most 80, that nobody can foresee."""
    try:
        drawn = _DRAWN.popleft()
    except IndexError:
        drawn, *others = _pieces(os.urandom(_RANDOM_BYTES * _DRAWN_AT_ONCE))
        _DRAWN.extend(others)
    return int.from_bytes(drawn) >> (_RANDOM_BYTES * 8 - count)


def new_id(prefix: str, now: datetime, random_bits: Callable[[int], int] = random_bits) -> str:
    """Return `<prefix>_` and 26 characters that sort by time: 48 bits of milliseconds, then 80 random bits (ULID)."""
    return f"{prefix}_{_base32(to_milliseconds(now), _TIME_LENGTH)}{_base32(random_bits(80), _RANDOM_LENGTH)}"


def is_id(text: str, prefix: str) -> bool:
    """Tell whether a text has the form of an id of that kind, so that anything else needs no database read."""
    head, _, tail = text.partition("_")
    return head == prefix and len(tail) == ID_LENGTH and all(character in CROCKFORD for character in tail)


def new_secret(prefix: str, length: int) -> str:
    """Return `<prefix>_` and `length` base-62 characters, the last six a checksum of the rest.

    The checksum tells a mistyped secret from an unknown one without a database read (after GitHub's token format).
    """
    body = "".join(secrets.choice(BASE62) for _ in range(length - CHECKSUM_LENGTH))
    return f"{prefix}_{body}{_checksum(f'{prefix}_{body}')}"


def has_secret_form(text: str, prefix: str, length: int) -> bool:
    """Tell whether a text is a prefix and so many base-62 characters, whatever its checksum."""
    tail = text.removeprefix(f"{prefix}_")
    return tail != text and len(tail) == length and tail.isascii() and tail.isalnum()


def has_valid_checksum(secret: str) -> bool:
    """Tell whether a secret of the right form was typed without a mistake."""
    return _checksum(secret[:-CHECKSUM_LENGTH]) == secret[-CHECKSUM_LENGTH:]


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(BASE62))
        digits = BASE62[digit] + digits
    return digits


def _base32(number: int, length: int) -> str:
    """Return so many characters, an even number of them."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(5 * length - 10, -1, -10)])


def _pieces(drawn: bytes) -> list[bytes]:
    return [drawn[start : start + _RANDOM_BYTES] for start in range(0, len(drawn), _RANDOM_BYTES)]

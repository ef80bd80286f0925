"""The caller's own key for a request, by which a repeat is known (draft-ietf-httpapi-idempotency-key-header-07)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import grpc

from servicekit import calls
from servicekit.errors import Issue, ValidationError

HEADER: Final = "Idempotency-Key"
REPLAY_HEADER: Final = "idempotent-replay"
MAX_KEY_CHARACTERS: Final = 255
# For how long a key is known at least. Who stores keys stores them for this long.
KEPT: Final = timedelta(hours=24)

# RFC 9651, section 3.3.3: printable ASCII in quotes, in which only a quote and a backslash are escaped.
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPED: Final = re.compile(r'\\(["\\])')
_PRINTABLE: Final = re.compile(r"[ -~]+")


def idempotency_key(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """Return the key of a call, None when it has none; raise ValidationError for one that can not be used."""
    return key_from(calls.headers(context, HEADER.lower()))


def replay_header(*, replayed: bool) -> dict[str, str]:
    """Return the header that says that an answer was given before; none for a new one."""
    return {REPLAY_HEADER: "true"} if replayed else {}


def key_from(values: Sequence[str], header: str = HEADER) -> str | None:
    """Return the key in the values of a header, None when there is no value.

    `"abc"`, which is what the draft asks for, and `abc`, which is what most clients send, are the same key. Raises
    ValidationError naming the header for several values, and for a key that is not 1 to 255 printable ASCII characters.
    """
    if not values:
        return None
    if len(values) > 1:
        raise _unusable(header, "must be given once")
    value = values[0].strip(" \t")
    if value.startswith('"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise _unusable(header, 'begins with a quote, so it must be one quoted string such as "order-4821"')
        value = _ESCAPED.sub(r"\1", quoted.group(1))
    if not _PRINTABLE.fullmatch(value) or len(value) > MAX_KEY_CHARACTERS:
        raise _unusable(header, f"must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters")
    return value


def _unusable(header: str, message: str) -> ValidationError:
    return ValidationError([Issue(path=header, message=message)])

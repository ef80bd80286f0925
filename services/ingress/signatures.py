"""Proof that a payload comes from who holds an integration's secret: HMAC-SHA256 over the bytes as they came."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final

from services.ingress.errors import InvalidSignatureError

_FORM: Final = re.compile(r"sha256=([0-9a-fA-F]{64})")


def verify(secrets: Sequence[str], header_values: Sequence[str], body: bytes, *, header: str) -> None:
    """Return when one of the secrets signed the body; raise InvalidSignatureError otherwise, also without secrets.

    The header, whose name a refusal tells, reads `sha256=<hex>` (upper case is taken). Every secret is tried, and each
    comparison takes the same time, so that how long it takes tells nothing about which secret or which byte is wrong.
    """
    if not header_values:
        raise InvalidSignatureError("missing", header=header)
    form = _FORM.fullmatch(header_values[0])
    if len(header_values) > 1 or form is None:
        raise InvalidSignatureError("malformed", header=header)
    presented = bytes.fromhex(form.group(1))
    is_signed = False
    for secret in secrets:
        expected = hmac.digest(secret.encode(), body, hashlib.sha256)
        is_signed |= hmac.compare_digest(expected, presented)
    if not is_signed:
        raise InvalidSignatureError("mismatch", header=header)

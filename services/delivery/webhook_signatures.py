"""Signs what goes to a customer's URL, so that the receiver can prove that it comes from here and is not a repeat.

Two forms travel together. `X-MAC-Signature` and its twin `X-Webhook-Signature` are an HMAC-SHA256 of the body, which
any language checks in three lines. `webhook-signature` also covers id and time, as Standard Webhooks 1.0 says
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # begins a secret, is none


def signed_headers(body: bytes, *, webhook_id: str, timestamp: int, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers that prove a body's origin.

    `secrets` are those in force, newest first; `timestamp` is the attempt's, in seconds since 1970. The two plain
    headers hold one signature and are the newest secret's: a receiver that checks them changes over when it gets the
    new secret. `webhook-signature` has one of each, so that such a receiver may change over at any time. Without
    secrets nothing is signed, and the id still tells a repeat.
    """
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
    if not secrets:
        return headers
    plain = f"sha256={hmac.digest(secrets[0].encode(), body, hashlib.sha256).hex()}"
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    standard = " ".join(
        f"v1,{base64.b64encode(hmac.digest(_standard_key(secret), signed, hashlib.sha256)).decode()}"
        for secret in secrets
    )
    return headers | {"X-MAC-Signature": plain, "X-Webhook-Signature": plain, "webhook-signature": standard}


def _standard_key(secret: str) -> bytes:
    """Return what Standard Webhooks signs with: the bytes behind `whsec_`; of any other secret its UTF-8 bytes."""
    encoded = secret.removeprefix(SECRET_PREFIX)
    if encoded == secret:
        return secret.encode()
    try:
        # Some tools leave the padding out, and the libraries take that.
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    # What only looks like base64 has to sign too: the reply must go out.
    return key or secret.encode()

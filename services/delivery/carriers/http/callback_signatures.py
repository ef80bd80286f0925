"""Proof that a callback is the carrier's: one class for each scheme that carriers sign by, and a table of them.

Documentation: docs/guides/new-carrier.md, "verify". Each `proves` returns without having read anything of the callback
that it has not proved, takes the same time whatever byte is wrong, and never raises on what a caller sends. A secret
that is empty proves nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from services.delivery.carriers.base import Callback
from services.delivery.carriers.http.places import members_of

TOLERANCE_SECONDS: Final = 300
MAX_SIGNATURE_CHARACTERS: Final = 8192
MAX_SIGNATURES: Final = 8
ALGORITHMS: Final = ("sha256", "sha1", "sha512")
_TIMESTAMP: Final = re.compile(r"[0-9]{10}|[0-9]{13}")


class Proof(Protocol):
    """One scheme with its secret."""

    def proves(self, callback: Callback) -> bool:
        """Whether the callback comes from who holds the secret."""


def _option(default: Any, *choices: str) -> Any:  # Any: what `field` returns stands for the field's own type
    return field(default=default, metadata={"choices": choices})


def _secret() -> Any:  # Any: as above
    return field(repr=False)


@dataclass(frozen=True, kw_only=True)
class TwilioSignature:
    """X-Twilio-Signature (https://www.twilio.com/docs/usage/webhooks/webhooks-security)."""

    secret: str = _secret()

    def proves(self, callback: Callback) -> bool:
        """Check the signature over the address and the form, or over the address that has the body's digest in it."""
        given = _from_base64(callback.headers.get("x-twilio-signature", ""))
        algorithm = _twilio_algorithm(callback.headers.get("x-twilio-webhooks-signature-settings", ""))
        if not (self.secret and given and algorithm):
            return False
        digests = members_of(callback.query).get("bodySHA256")
        if digests:
            told = digests[0].lower().encode("utf-8", "surrogateescape")
            is_whole = hmac.compare_digest(hashlib.sha256(callback.body).hexdigest().encode(), told)
            members = b""
        else:
            # What is signed is the form. A body of another kind would be no part of it.
            is_whole = not callback.body or _is_form(callback)
            members = _sorted_form(callback, distinct=True)
        is_signed = False
        # Twilio signs an address at times with its port and at times without it.
        for url in _with_and_without_port(callback.url):
            expected = hmac.digest(self.secret.encode(), url.encode("utf-8", "surrogateescape") + members, algorithm)
            is_signed |= hmac.compare_digest(expected, given)
        return is_whole and is_signed


def _twilio_algorithm(settings: str) -> str:
    parts = dict(part.strip().partition("=")[::2] for part in settings.split(","))
    return {"": "sha1", "HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}.get(parts.get("algorithm", ""), "")


def _with_and_without_port(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    host, _, port = parts.netloc.rpartition(":")
    is_ported = bool(host) and port.isdecimal()
    bare = host if is_ported else parts.netloc
    full = parts.netloc if is_ported else f"{bare}:{443 if parts.scheme == 'https' else 80}"
    # The rest is taken byte for byte: taking an address apart and putting it together may change it.
    start = url.find(parts.netloc)
    rest = url[start + len(parts.netloc) :]
    return url[:start] + bare + rest, url[:start] + full + rest


def _is_form(callback: Callback) -> bool:
    kind = callback.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/x-www-form-urlencoded"


def _sorted_form(callback: Callback, *, distinct: bool = False) -> bytes:
    if not _is_form(callback):
        return b""
    members = members_of(callback.body.decode("utf-8", "surrogateescape"))
    pairs = [(name, value) for name in sorted(members) for value in sorted(members[name])]
    unique = list(dict.fromkeys(pairs)) if distinct else pairs
    return "".join(name + value for name, value in unique).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True)
class HmacSignature:
    """An HMAC in a header, over the body and whatever else the definition names."""

    secret: str = _secret()
    header: str
    algorithm: str = _option("sha256", *ALGORITHMS)
    encoding: str = _option("hex", "hex", "base64")
    secret_encoding: str = _option("text", "text", "hex", "base64")
    prefix: str = ""
    separator: str = ""
    signed: str = "{body}"
    timestamp_header: str = ""
    nonce_header: str = ""
    id_header: str = ""
    tolerance_seconds: int = TOLERANCE_SECONDS

    def proves(self, callback: Callback) -> bool:
        """Check that one of the signatures in the header fits, and that the timestamp is fresh."""
        secret = _secret_bytes(self.secret, self.secret_encoding)
        named = {"timestamp": self.timestamp_header, "nonce": self.nonce_header, "id": self.id_header}
        values = {name: callback.headers.get(header.lower(), "") for name, header in named.items() if header}
        if not secret or not all(values.values()):
            return False
        signed = _signed(self.signed, callback, values)
        expected = hmac.digest(secret, signed, self.algorithm)
        is_signed = False
        for given in self._given(callback.headers.get(self.header.lower(), "")):
            is_signed |= hmac.compare_digest(expected, given)
        return is_signed and (
            not self.timestamp_header or _is_fresh(values["timestamp"], callback, self.tolerance_seconds)
        )

    def _given(self, header: str) -> list[bytes]:
        texts = header.split(self.separator)[:MAX_SIGNATURES] if self.separator else [header]
        decode = _from_hex if self.encoding == "hex" else _from_base64
        return [
            decode(text.strip().removeprefix(self.prefix)) for text in texts if text.strip().startswith(self.prefix)
        ]


@dataclass(frozen=True, kw_only=True)
class Ed25519Signature:
    """An Ed25519 signature (RFC 8032) in a header; the definition knows the public key."""

    public_key: str
    header: str
    timestamp_header: str
    signed: str = "{timestamp}|{body}"
    tolerance_seconds: int = TOLERANCE_SECONDS

    def __post_init__(self) -> None:
        """Load the library now, and not with the first callback."""
        _ed25519_verifies(b"", b"", b"")

    def proves(self, callback: Callback) -> bool:
        """Check the signature and that the timestamp is fresh."""
        timestamp = callback.headers.get(self.timestamp_header.lower(), "")
        signature = _from_base64(callback.headers.get(self.header.lower(), ""))
        key = _from_base64(self.public_key)
        if len(key) != 32 or len(signature) != 64 or not _is_fresh(timestamp, callback, self.tolerance_seconds):  # noqa: PLR2004  # RFC 8032, 5.1
            return False
        return _ed25519_verifies(key, signature, _signed(self.signed, callback, {"timestamp": timestamp}))


def _ed25519_verifies(key: bytes, signature: bytes, signed: bytes) -> bool:
    # Only one scheme needs the library, of 7 MiB.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class JwtHs256:
    """A JSON web token (RFC 7519) by HS256, with digests of the body and of the address among its claims.

    Not by PyJWT: it warns on each call about secrets as short as carriers give them out, and asks the machine's clock.
    """

    secret: str = _secret()
    header: str = "Authorization"
    prefix: str = "Bearer "
    payload_hash: str = "payload_hash"
    url_hash: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    tolerance_seconds: int = TOLERANCE_SECONDS

    def proves(self, callback: Callback) -> bool:
        """Check the token's signature, then its times, digests and claims."""
        header = callback.headers.get(self.header.lower(), "")
        if not self.secret or not header.startswith(self.prefix):
            return False
        claims = _claims_of(header.removeprefix(self.prefix).strip(), self.secret.encode())
        return (
            claims is not None
            and self._is_now(claims, callback.received_at.timestamp())
            and self._is_whole(claims, callback)
            and all(value and _equal(claims.get(name), value) for name, value in self.claims.items())
        )

    def _is_now(self, claims: Mapping[str, object], now: float) -> bool:
        times = {name: claims[name] for name in ("iat", "nbf", "exp") if name in claims}
        # A token without any time would be good for ever.
        if not times or any(isinstance(time, bool) or not isinstance(time, int | float) for time in times.values()):
            return False
        seconds = {name: float(str(time)) for name, time in times.items()}
        is_begun = max(seconds.get("iat", 0.0), seconds.get("nbf", 0.0)) <= now + self.tolerance_seconds
        end = seconds["exp"] if "exp" in seconds else max(seconds.values())
        return is_begun and now <= end + self.tolerance_seconds

    def _is_whole(self, claims: Mapping[str, object], callback: Callback) -> bool:
        digests = {self.payload_hash: callback.body, self.url_hash: callback.url.encode("utf-8", "surrogateescape")}
        wanted = {name: content for name, content in digests.items() if name}
        if self.payload_hash not in claims and not callback.body:
            wanted.pop(self.payload_hash, None)
        return all(_equal(claims.get(name), hashlib.sha256(each).hexdigest()) for name, each in wanted.items())


def _claims_of(token: str, secret: bytes) -> Mapping[str, object] | None:
    """Return the claims of a token that the secret signed by HS256; None for any other (RFC 7515, 5.2)."""
    parts = token.split(".") if len(token) <= MAX_SIGNATURE_CHARACTERS else []
    if len(parts) != 3:  # noqa: PLR2004  # header, claims, signature
        return None
    expected = hmac.digest(secret, f"{parts[0]}.{parts[1]}".encode("utf-8", "surrogateescape"), hashlib.sha256)
    if not hmac.compare_digest(expected, _from_base64url(parts[2])):
        return None
    head, claims = (_json_object(_from_base64url(part)) for part in parts[:2])
    # `crit` names extensions that a reader must know, and this one knows none.
    if head is None or claims is None or head.get("alg") != "HS256" or "crit" in head:
        return None
    return claims


def _json_object(content: bytes) -> Mapping[str, object] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True, kw_only=True)
class BasicCredentials:
    """HTTP basic authentication (RFC 7617)."""

    user: str
    password: str = _secret()

    def proves(self, callback: Callback) -> bool:
        """Compare user and password."""
        scheme, _, given = callback.headers.get("authorization", "").partition(" ")
        expected = f"{self.user}:{self.password}".encode()
        is_equal = hmac.compare_digest(expected, _from_base64(given.strip()))
        return is_equal and scheme.lower() == "basic" and bool(self.password)


@dataclass(frozen=True, kw_only=True)
class HeaderSecret:
    """A secret in a header."""

    name: str
    value: str = _secret()

    def proves(self, callback: Callback) -> bool:
        """Compare the header."""
        return bool(self.value) and _equal(callback.headers.get(self.name.lower()), self.value)


@dataclass(frozen=True, kw_only=True)
class QuerySecret:
    """A secret in the query of the address that the carrier was given."""

    name: str
    value: str = _secret()

    def proves(self, callback: Callback) -> bool:
        """Compare the member, which must be there once."""
        given = members_of(callback.query).get(self.name, ())
        return bool(self.value) and len(given) == 1 and _equal(given[0], self.value)


@dataclass(frozen=True, kw_only=True)
class MessageKey:
    """A key in the address that was given to the carrier for one message, for carriers that sign nothing."""

    secret: str = _secret()

    def proves(self, callback: Callback) -> bool:
        """Check that the key is that of the message that the address names."""
        members = members_of(callback.query)
        messages, keys = members.get("message", ()), members.get("key", ())
        if not self.secret or len(messages) != 1 or len(keys) != 1:
            return False
        return _equal(keys[0], message_key(self.secret, messages[0]))


def message_key(secret: str, message_id: str) -> str:
    """Return the key that lets its holder tell receipts for this message, and for no other: 64 hexadecimal digits."""
    return hmac.digest(secret.encode(), message_id.encode("utf-8", "surrogateescape"), hashlib.sha256).hex()


SCHEMES: Final[Mapping[str, Callable[..., Proof]]] = {
    "twilio": TwilioSignature,
    "hmac": HmacSignature,
    "ed25519": Ed25519Signature,
    "jwt_hs256": JwtHs256,
    "basic": BasicCredentials,
    "header": HeaderSecret,
    "query": QuerySecret,
    "message_key": MessageKey,
}

_SIGNED_NAME: Final = re.compile(r"\{([a-z0-9_]+)\}")


def signed_names(template: str) -> frozenset[str]:
    """Return the names in the template of what is signed."""
    return frozenset(_SIGNED_NAME.findall(template))


def _signed(template: str, callback: Callback, values: Mapping[str, str]) -> bytes:
    pieces = _SIGNED_NAME.split(template)
    return b"".join(
        _signed_value(piece, callback, values) if index % 2 else piece.encode() for index, piece in enumerate(pieces)
    )


def _signed_value(name: str, callback: Callback, values: Mapping[str, str]) -> bytes:
    if name in values:
        return values[name].encode("utf-8", "surrogateescape")
    return _SIGNED_VALUES[name](callback)


_SIGNED_VALUES: Final[Mapping[str, Callable[[Callback], bytes]]] = {
    "body": lambda callback: callback.body,
    "body_sha256": lambda callback: hashlib.sha256(callback.body).hexdigest().encode(),
    "body_sha256_bytes": lambda callback: hashlib.sha256(callback.body).digest(),
    "body_md5": lambda callback: hashlib.md5(callback.body, usedforsecurity=False).hexdigest().encode(),
    "sorted_form": _sorted_form,
    "method": lambda callback: callback.method.encode(),
    "url": lambda callback: callback.url.encode("utf-8", "surrogateescape"),
    "url_without_query": lambda callback: callback.url.partition("?")[0].encode("utf-8", "surrogateescape"),
}


SIGNED_NAMES: Final = frozenset({"timestamp", "nonce", "id", *_SIGNED_VALUES})


def _is_fresh(timestamp: str, callback: Callback, tolerance_seconds: int) -> bool:
    # Against the time of arrival: a callback that waited in a queue of ours is not older for it.
    if not _TIMESTAMP.fullmatch(timestamp):
        return False
    seconds = int(timestamp) / (1000 if len(timestamp) == 13 else 1)  # noqa: PLR2004  # the pattern's longer form
    return abs(callback.received_at.timestamp() - seconds) <= tolerance_seconds


def _equal(given: object, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(
        given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass")
    )


def _secret_bytes(secret: str, encoding: str) -> bytes:
    if encoding == "text":
        return secret.encode()
    return _from_hex(secret) if encoding == "hex" else _from_base64(secret)


def _from_hex(text: str) -> bytes:
    if len(text) > MAX_SIGNATURE_CHARACTERS:
        return b""
    try:
        return binascii.unhexlify(text)
    except ValueError:
        return b""


def _from_base64(text: str) -> bytes:
    if len(text) > MAX_SIGNATURE_CHARACTERS:
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _from_base64url(text: str) -> bytes:
    # Without padding, as RFC 7515 has it, and nothing but its alphabet.
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        return b""
    return _from_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))

"""What can be wrong with a payload, each with the sentence that its sender gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from servicekit.errors import Kind, ServiceError

SignatureProblem = Literal["missing", "malformed", "mismatch"]

_SIGNATURE_SENTENCES: dict[SignatureProblem, str] = {
    "missing": "This integration asks for signed payloads, and the signature header is not there.",
    "malformed": "Send one signature header that reads `sha256=` and 64 hexadecimal digits.",
    "mismatch": "The signature is not that of this body: sign the raw bytes with the integration's signingSecret.",
}


class MissingFieldsError(ServiceError):
    """The recipient or the text resolved to nothing."""

    kind = Kind.INVALID_INPUT
    reason = "MISSING_FIELDS"

    def __init__(self, *, missing: Sequence[str], tried: Mapping[str, Sequence[str]]) -> None:
        places = " and ".join(f"`{name}` (looked at {', '.join(tried[name])})" for name in missing)
        super().__init__(
            f"The payload has nothing for {places}. Send it there, or change the integration's paths.",
            missing=list(missing),
            tried={name: list(paths) for name, paths in tried.items()},
        )


class InvalidJsonError(ServiceError):
    """The body is not one strict JSON document; `offset` is the byte where it fails."""

    kind = Kind.INVALID_INPUT
    reason = "INVALID_JSON"

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message, offset=offset)


class InvalidRecipientError(ServiceError):
    """The value at the recipient's path is no phone number."""

    kind = Kind.INVALID_INPUT
    reason = "INVALID_RECIPIENT"

    def __init__(self, *, to: str, problem: str) -> None:
        super().__init__(
            f"The recipient can not be texted because {problem}. Send one number such as +6581230000.",
            to=to,
            reason=problem,
        )


class TextTooLongError(ServiceError):
    """The text has more characters than a message may have."""

    kind = Kind.INVALID_INPUT
    reason = "TEXT_TOO_LONG"

    def __init__(self, *, limit: int, length: int) -> None:
        super().__init__(
            f"The text has {length} characters; at most {limit} can be sent. Shorten it.",
            limit=limit,
            length=length,
            unit="characters",
        )


class TooManySegmentsError(ServiceError):
    """The text takes more SMS parts than the integration allows, and its overflow rule does not make it fit."""

    kind = Kind.INVALID_INPUT
    reason = "TEXT_TOO_LONG"

    def __init__(self, *, limit: int, segments: int) -> None:
        super().__init__(
            f"The text takes {segments} SMS parts; this integration allows {limit}."
            " Shorten it, or change the integration's maxSegments or onOverflow.",
            limit=limit,
            length=segments,
            unit="segments",
        )


class InvalidSignatureError(ServiceError):
    """The payload is not signed by one of the integration's secrets. Never says which secret or which byte."""

    kind = Kind.UNAUTHENTICATED
    reason = "INVALID_SIGNATURE"

    def __init__(self, problem: SignatureProblem) -> None:
        super().__init__(_SIGNATURE_SENTENCES[problem], reason=problem)
        self.problem: SignatureProblem = problem


class PayloadTooLargeError(ServiceError):
    """The body has more bytes than are read."""

    kind = Kind.TOO_LARGE
    reason = "PAYLOAD_TOO_LARGE"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes. Send less.", limit=limit)


class UnsupportedEncodingError(ServiceError):
    """The body is compressed; what a stranger sends is never inflated."""

    kind = Kind.UNSUPPORTED_ENCODING
    reason = "UNSUPPORTED_ENCODING"

    def __init__(self) -> None:
        super().__init__("The body is compressed. Send it without Content-Encoding.")


class TenantInactiveError(ServiceError):
    """The integration's owner is suspended."""

    kind = Kind.FORBIDDEN
    reason = "TENANT_INACTIVE"

    def __init__(self) -> None:
        super().__init__("This account is suspended. Ask whoever runs this Textway.")

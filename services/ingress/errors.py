"""What can be wrong with a payload, each with the sentence that its sender gets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from servicekit.errors import Kind, ServiceError

SignatureProblem = Literal["missing", "malformed", "mismatch"]

MAX_LISTED_BYTES: Final = 12_288

_SIGNATURE_SENTENCES: dict[SignatureProblem, str] = {
    "missing": "This integration asks for signed payloads: send the header `{header}`, which reads `sha256=` and the"
    " hexadecimal HMAC-SHA256 of the body.",
    "malformed": "Send one header `{header}` that reads `sha256=` and 64 hexadecimal digits.",
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

    def __init__(self, problem: SignatureProblem, *, header: str) -> None:
        super().__init__(_SIGNATURE_SENTENCES[problem].format(header=header), reason=problem)
        self.problem: SignatureProblem = problem


class PayloadTooLargeError(ServiceError):
    """The body has more bytes than are read."""

    kind = Kind.TOO_LARGE
    reason = "PAYLOAD_TOO_LARGE"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes. Send less.", limit=limit)


class TooManyMessagesError(ServiceError):
    """The payload means more messages than one request may make."""

    kind = Kind.TOO_LARGE
    reason = "PAYLOAD_TOO_LARGE"

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            f"The payload makes more than {limit} messages. Send it in several requests.", limit=limit, unit="messages"
        )


class TextsTooLargeError(ServiceError):
    """The texts of a payload's messages have more bytes together than an answer can have."""

    kind = Kind.TOO_LARGE
    reason = "PAYLOAD_TOO_LARGE"

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            f"The texts of all messages are larger than {limit} bytes together. Send them in several requests.",
            limit=limit,
            unit="bytes",
        )


class NothingToSendError(ServiceError):
    """None of a payload's messages can be sent. It has the code of the first one's error, and tells of each.

    An error's body travels in a header, so that no more of them are listed than fit there.
    """

    kind = Kind.INVALID_INPUT
    reason = "VALIDATION_ERROR"

    def __init__(self, refused: Sequence[tuple[int, ServiceError]]) -> None:
        first = refused[0][1]
        listed = _that_fit([item_error(index, error) for index, error in refused])
        super().__init__(
            f"None of the payload's {len(refused)} messages can be sent. The first: {first.message}"
            if len(refused) > 1
            else first.message
        )
        self.extras = {**first.extras, "refused": len(refused), "messages": listed}
        self.reason = first.reason  # type: ignore[misc]  # its own sentence, and the code that says what to mend


def item_error(index: int, error: ServiceError) -> dict[str, object]:
    """Return what is told of one message that can not be sent; `index` is the place of its item in the payload."""
    return {"index": index, "error": error.reason.lower(), "message": error.message, **error.extras}


def _that_fit(items: list[dict[str, object]]) -> list[dict[str, object]]:
    room = MAX_LISTED_BYTES
    for count, item in enumerate(items):
        room -= len(json.dumps(item))
        if room < 0:
            return items[:count]
    return items


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

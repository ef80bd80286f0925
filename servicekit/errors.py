"""Failures that a caller is told about: each has a kind, a reason, and a sentence that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar


class Kind(Enum):
    """How a failure looks to a caller; `error_translation` gives each its gRPC code and HTTP status."""

    INVALID_INPUT = "invalid_input"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    CONFLICT = "conflict"
    UNPROCESSABLE = "unprocessable"
    TOO_LARGE = "too_large"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    RATE_LIMITED = "rate_limited"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"


class ServiceError(Exception):
    """A failure with a public message. The message and the extras must hold no internals and no secrets.

    `reason` is a name of `textway.errors.v1.ErrorReason` without its prefix; in JSON it is the `error`, in lower case.
    """

    kind: ClassVar[Kind] = Kind.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, retry_after_seconds: int | None = None, **extras: object) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.extras: Mapping[str, object] = extras


@dataclass(frozen=True, kw_only=True)
class Issue:
    """One wrong field: where it is, and what to do about it."""

    path: str
    message: str


class ValidationError(ServiceError):
    """Fields of a call are wrong; every one of them is listed."""

    kind = Kind.INVALID_INPUT
    reason = "VALIDATION_ERROR"

    def __init__(self, issues: Sequence[Issue]) -> None:
        first = issues[0]
        more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
        super().__init__(
            f"{first.path}: {first.message}{more}",
            issues=[{"path": issue.path, "message": issue.message} for issue in issues],
        )
        self.issues = tuple(issues)


class NotFoundError(ServiceError):
    """No such thing, or it belongs to somebody else: the answer is the same for both."""

    kind = Kind.NOT_FOUND
    reason = "NOT_FOUND"

    def __init__(self, message: str = "There is nothing at this address.") -> None:
        super().__init__(message)


class ConflictError(ServiceError):
    """The thing is not in a state that allows the call."""

    kind = Kind.CONFLICT
    reason = "CONFLICT"


class AlreadyExistsError(ServiceError):
    """There is one already."""

    kind = Kind.ALREADY_EXISTS
    reason = "CONFLICT"


class IdempotencyMismatchError(ServiceError):
    """The request's idempotency key is known, and came with another body before."""

    kind = Kind.UNPROCESSABLE
    reason = "IDEMPOTENCY_MISMATCH"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key came with another body within the last 24 hours."
            " Repeat that body, or give this request a key of its own."
        )


class UnauthorizedError(ServiceError):
    """The caller did not say who it is, or not in the form that is asked for."""

    kind = Kind.UNAUTHENTICATED
    reason = "UNAUTHORIZED"


class UnavailableError(ServiceError):
    """A part is down or too slow; the call may safely be sent again."""

    kind = Kind.UNAVAILABLE
    reason = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class InternalError(ServiceError):
    """A defect. The public sentence is always the same; the log has the cause."""

    def __init__(self) -> None:
        super().__init__("Something went wrong inside Textway. Give the request id to whoever runs it.")


class RemoteError(ServiceError):
    """A failure that another service reported, to be passed on as it is."""

    def __init__(self, kind: Kind, reason: str, message: str, extras: Mapping[str, object]) -> None:
        super().__init__(message)
        self.extras = extras
        self.kind = kind  # type: ignore[misc]  # the one error whose kind is known only at run time
        self.reason = reason  # type: ignore[misc]

"""What Delivery refuses, beyond what any service does."""

from __future__ import annotations

from servicekit.errors import Kind, ServiceError


class InvalidRecipientError(ServiceError):
    """The recipient is no phone number."""

    kind = Kind.INVALID_INPUT
    reason = "INVALID_RECIPIENT"


class TextTooLongError(ServiceError):
    """The text has more characters than a message may have."""

    kind = Kind.INVALID_INPUT
    reason = "TEXT_TOO_LONG"

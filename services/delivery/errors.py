"""What Delivery refuses, beyond what any service does."""

from __future__ import annotations

from servicekit.errors import Issue, Kind, ServiceError, ValidationError


class InvalidRecipientError(ServiceError):
    """The recipient is no phone number."""

    kind = Kind.INVALID_INPUT
    reason = "INVALID_RECIPIENT"


class TextTooLongError(ServiceError):
    """The text has more characters than a message may have."""

    kind = Kind.INVALID_INPUT
    reason = "TEXT_TOO_LONG"


class NoWebhookConfigError(ServiceError):
    """The tenant has no forward-all webhook."""

    kind = Kind.NOT_FOUND
    reason = "NO_WEBHOOK_CONFIG"

    def __init__(self) -> None:
        super().__init__("No webhook is set. Set one with PUT /v1/webhooks.")


class TooManyExamplesError(ServiceError):
    """So many examples of the tenant are under way that another has to wait."""

    kind = Kind.RATE_LIMITED
    reason = "RATE_LIMITED"

    def __init__(self) -> None:
        super().__init__(
            "Several examples are still waiting for their endpoints. Send the next one when they are back.",
            retry_after_seconds=3,
        )


class CallbackUnauthenticatedError(ServiceError):
    """A callback is not the carrier's, or nothing shows that it is. The same words whatever is wrong."""

    kind = Kind.UNAUTHENTICATED
    reason = "INVALID_SIGNATURE"

    def __init__(self) -> None:
        super().__init__("The callback is not signed as this carrier signs.", reason="mismatch")


class CallbackTooLargeError(ServiceError):
    """A callback has more bytes than are read."""

    kind = Kind.TOO_LARGE
    reason = "PAYLOAD_TOO_LARGE"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"The callback is larger than {limit} bytes. Send less.", limit=limit)


class CallbackUnreadableError(ValidationError):
    """A callback is the carrier's and can not be read; the message says what is wrong with it."""

    def __init__(self, problem: str) -> None:
        super().__init__([Issue(path="body", message=problem)])

"""What Integrations refuses beyond the general kinds, each with the reason that callers branch on."""

from __future__ import annotations

from servicekit.errors import Kind, ServiceError


class InvalidApiKeyError(ServiceError):
    """The API key has the right form, and is nobody's: mistyped, unknown or revoked. The answer is the same for all."""

    kind = Kind.UNAUTHENTICATED
    reason = "INVALID_API_KEY"

    def __init__(self) -> None:
        super().__init__("This API key is not valid: it is mistyped, unknown or revoked.")


class TenantInactiveError(ServiceError):
    """The key is good, but its owner is suspended."""

    kind = Kind.FORBIDDEN
    reason = "TENANT_INACTIVE"

    def __init__(self) -> None:
        super().__init__("This tenant is suspended. Ask whoever runs Textway to resume it.")


class NoWebhookConfigError(ServiceError):
    """The tenant has no forward-all webhook."""

    kind = Kind.NOT_FOUND
    reason = "NO_WEBHOOK_CONFIG"

    def __init__(self) -> None:
        super().__init__("No webhook is set. Set one with PUT /v1/webhooks.")

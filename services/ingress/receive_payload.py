"""Take a payload that a system posts: find whose it is, make sure of it, and hand on the message that it means."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Final, Protocol

import structlog

from servicekit.clock import Clock
from servicekit.errors import NotFoundError
from servicekit.ids import has_secret_form, has_valid_checksum
from servicekit.logs import masked_number
from services.ingress import metrics
from services.ingress.domain import AcceptedMessage, Integration, NewMessage, Payload
from services.ingress.errors import TenantInactiveError
from services.ingress.read_payload import (
    idempotency_of,
    message_of,
    refuse_unreadable,
    trace_payload,
    verify_signature,
)

KEY_PREFIX: Final = "ig"
KEY_LENGTH: Final = 32

log = structlog.get_logger(__name__)


class IntegrationsByKey(Protocol):
    """Where the integration behind an address is found."""

    async def by_ingress_key(self, sha256: bytes) -> Integration:
        """Return the integration that has the key with this hash, whether the key has expired or not.

        Raises NotFoundError when there is none, and UnavailableError when that can not be told now.
        """


class Outbox(Protocol):
    """Who takes messages."""

    async def submit(self, message: NewMessage) -> AcceptedMessage:
        """Return once the message, or the first one of which it is a repeat, is on disk.

        Raises UnavailableError when that did not happen, as far as is known, and IdempotencyMismatchError when the
        message's key is known with another body.
        """


class ReceivePayload:
    """The use case behind `POST /v1/ingress/ig_...`."""

    def __init__(self, *, integrations: IntegrationsByKey, outbox: Outbox, clock: Clock) -> None:
        self._integrations = integrations
        self._outbox = outbox
        self._clock = clock

    async def __call__(self, *, ingress_key: str, payload: Payload) -> AcceptedMessage:
        """Return the accepted message; raise a ServiceError, in which case nothing was stored.

        The signature is checked over the bytes before anything parses them, and whether the request is a repeat is
        looked up last, in the transaction that stores the message.
        """
        started = time.perf_counter()
        integration = await self._find(ingress_key)
        structlog.contextvars.bind_contextvars(integration_id=integration.id, tenant_id=integration.tenant_id)
        if not integration.tenant_active:
            raise TenantInactiveError
        refuse_unreadable(payload)
        verify_signature(integration, payload, self._clock.now())
        trace = trace_payload(integration, payload)
        if trace.error:
            raise trace.error
        message = message_of(integration, trace, idempotency_of(payload))
        accepted = await self._outbox.submit(message)
        metrics.ACCEPT_SECONDS.observe(time.perf_counter() - started)
        metrics.payloads(_result_of(accepted)).inc()
        log.info(
            "payload accepted",
            message_id=accepted.id,
            to=masked_number(accepted.to),
            replayed=accepted.replayed,
            duplicate=accepted.duplicate,
            text_changed=trace.text_changed,
        )
        # A repeat is answered with the text of the first message, of which this payload's trace says nothing.
        return replace(accepted, text_changed=trace.text_changed) if accepted.text == message.text else accepted

    async def _find(self, ingress_key: str) -> Integration:
        if not has_secret_form(ingress_key, KEY_PREFIX, KEY_LENGTH) or not has_valid_checksum(ingress_key):
            raise NotFoundError
        sha256 = hashlib.sha256(ingress_key.encode()).digest()
        integration = await self._integrations.by_ingress_key(sha256)
        if not integration.answers_to(sha256, self._clock.now()):
            raise NotFoundError
        return integration


def _result_of(accepted: AcceptedMessage) -> str:
    if accepted.replayed:
        return "replayed"
    return "duplicate" if accepted.duplicate else "new"

"""Take a payload that a system posts: find whose it is, make sure of it, and hand on the messages that it means."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol

import structlog

from servicekit import logs
from servicekit.clock import Clock
from servicekit.errors import Kind, NotFoundError, ServiceError, ValidationError
from servicekit.ids import has_secret_form, has_valid_checksum
from servicekit.logs import masked_number
from services.ingress import metrics
from services.ingress.domain import (
    AcceptedBatch,
    AcceptedMessage,
    Idempotency,
    Integration,
    NewBatch,
    NewMessage,
    Payload,
    Refused,
    StoredBatch,
)
from services.ingress.errors import InvalidJsonError, NothingToSendError, TenantInactiveError
from services.ingress.mapping import Trace
from services.ingress.payload_items import MessageTrace
from services.ingress.read_payload import (
    batch_of,
    idempotency_of,
    message_of,
    refuse_unreadable,
    trace_payload,
    verify_signature,
)
from services.ingress.turns import Turns

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

    async def submit_batch(self, batch: NewBatch) -> StoredBatch:
        """Return once all of a batch's messages, repeats excepted, are on disk.

        Raises UnavailableError when none is, as far as is known, and IdempotencyMismatchError when the batch's key is
        known with another body.
        """

    async def find(self, integration: Integration, key: Idempotency) -> AcceptedMessage | None:
        """Return the message that a request to the integration with this key and body made before.

        None when none is known, or when it made a batch. Raises UnavailableError when that can not be told now.
        """


class ReceivePayload:
    """The use case behind `POST /v1/ingress/ig_...`."""

    def __init__(
        self, *, integrations: IntegrationsByKey, outbox: Outbox, clock: Clock, max_messages: int, turns: Turns
    ) -> None:
        self._integrations = integrations
        self._outbox = outbox
        self._clock = clock
        self._max_messages = max_messages
        self._turns = turns

    async def __call__(self, *, ingress_key: str, payload: Payload) -> AcceptedMessage | AcceptedBatch:
        """Return the accepted message or batch; raise a ServiceError, in which case nothing was stored.

        The signature is checked over the bytes before anything parses them, and whether the request is a repeat is
        looked up last, in the transaction that stores the messages, or once they are refused.
        """
        started = time.perf_counter()
        now = self._clock.now()
        integration = await self._find(ingress_key, now)
        logs.bind(integration_id=integration.id, tenant_id=integration.tenant_id)
        if not integration.tenant_active:
            raise TenantInactiveError
        refuse_unreadable(payload)
        verify_signature(integration, payload, now)
        accepted: AcceptedMessage | AcceptedBatch
        try:
            accepted = await self._accept(integration, payload)
        except ServiceError as refusal:
            accepted = await self._first_of(integration, payload, refusal)
        metrics.ACCEPT_SECONDS.observe(time.perf_counter() - started)
        metrics.payloads(_result_of(accepted)).inc()
        return accepted

    async def _accept(self, integration: Integration, payload: Payload) -> AcceptedMessage | AcceptedBatch:
        mapped = await trace_payload(integration, payload, max_messages=self._max_messages, turns=self._turns)
        if mapped.error:
            raise mapped.error
        if mapped.is_batch:
            return await self._accept_batch(integration, mapped.messages, payload)
        return await self._accept_one(integration, mapped.messages[0].trace, payload)

    async def _first_of(self, integration: Integration, payload: Payload, refusal: ServiceError) -> AcceptedMessage:
        """Return the message of which a refused payload is the repeat, else raise the refusal.

        The integration may have changed since then, and would not accept by now what it accepted. What is no JSON now
        was none then either.
        """
        if refusal.kind is Kind.UNAVAILABLE or isinstance(refusal, InvalidJsonError):
            raise refusal
        try:
            key = idempotency_of(payload)
        except ValidationError:
            raise refusal from None
        first = await self._outbox.find(integration, key) if key else None
        if first is None:
            raise refusal
        log.info("payload accepted", message_id=first.id, to=masked_number(first.to), replayed=True)
        return first

    async def _accept_one(self, integration: Integration, trace: Trace, payload: Payload) -> AcceptedMessage:
        if trace.error:
            raise trace.error
        message = message_of(integration, trace, idempotency_of(payload))
        accepted = await self._outbox.submit(message)
        log.info(
            "payload accepted",
            message_id=accepted.id,
            to=masked_number(accepted.to),
            replayed=accepted.replayed,
            duplicate=accepted.duplicate,
            text_changed=trace.text_changed,
        )
        return _with_change(accepted, message, trace)

    async def _accept_batch(
        self, integration: Integration, messages: Sequence[MessageTrace], payload: Payload
    ) -> AcceptedBatch:
        refused = {
            place: Refused(index=each.index, error=each.trace.error)
            for place, each in enumerate(messages)
            if each.trace.error
        }
        good = [(place, each) for place, each in enumerate(messages) if place not in refused]
        if not good:
            raise NothingToSendError([(each.index, each.error) for each in refused.values()])
        batch = batch_of(integration, good, idempotency_of(payload))
        stored = await self._outbox.submit_batch(batch)
        outcomes: dict[int, AcceptedMessage | Refused] = {**refused}
        for (place, each), message, outcome in zip(good, batch.messages, stored.outcomes, strict=True):
            if isinstance(outcome, AcceptedMessage):
                outcomes[place] = _with_change(outcome, message, each.trace)
            else:
                outcomes[place] = Refused(index=each.index, error=outcome)
        accepted = AcceptedBatch(
            id=stored.id, replayed=stored.replayed, outcomes=tuple(outcomes[place] for place in range(len(messages)))
        )
        log.info(
            "payload accepted",
            batch_id=accepted.id,
            messages=len(messages),
            refused=accepted.refused,
            replayed=accepted.replayed,
        )
        return accepted

    async def _find(self, ingress_key: str, now: datetime) -> Integration:
        if not has_secret_form(ingress_key, KEY_PREFIX, KEY_LENGTH) or not has_valid_checksum(ingress_key):
            raise NotFoundError
        sha256 = hashlib.sha256(ingress_key.encode()).digest()
        integration = await self._integrations.by_ingress_key(sha256)
        if not integration.answers_to(sha256, now):
            raise NotFoundError
        return integration


def _result_of(accepted: AcceptedMessage | AcceptedBatch) -> str:
    if accepted.replayed:
        return "replayed"
    return "duplicate" if isinstance(accepted, AcceptedMessage) and accepted.duplicate else "new"


def _with_change(accepted: AcceptedMessage, message: NewMessage, trace: Trace) -> AcceptedMessage:
    # A repeat is answered with the text of the first message, of which this payload's trace says nothing.
    if trace.text_changed is None or accepted.text != message.text:
        return accepted
    return replace(accepted, text_changed=trace.text_changed)

"""Show what a payload would become, step by step, and send nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

from servicekit.clock import Clock
from servicekit.errors import NotFoundError, ServiceError
from servicekit.ids import is_id
from services.ingress.domain import Integration, NewMessage, Payload, Preview
from services.ingress.errors import InvalidJsonError, InvalidSignatureError, SignatureProblem, TenantInactiveError
from services.ingress.mapping import FieldTrace, Trace
from services.ingress.payload_items import MessageTrace, PayloadTrace
from services.ingress.read_payload import message_of, refuse_unreadable, trace_payload, verify_signature
from services.ingress.turns import Turns

ACCEPTED: Final = "accepted"

SignatureState = Literal["not_required", "valid"] | SignatureProblem


class IntegrationsById(Protocol):
    """Where an integration is found by its id."""

    async def by_id(self, integration_id: str) -> Integration:
        """Return the integration. Raises NotFoundError without one, UnavailableError when that can not be told now."""


class Previewer(Protocol):
    """Who knows what would become of a message."""

    async def preview(self, message: NewMessage) -> Preview:
        """Return it; store nothing. Raises UnavailableError when it can not be told now."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """All steps of a dry run. `error` is what the sender would be told; None when the payload would be accepted.

    `trace` is the message's, or that of the first one of a batch that would be accepted, else of its first. `batch` has
    every message of a batch.
    """

    trace: Trace
    signature: SignatureState
    error: ServiceError | None = None
    preview: Preview | None = None
    for_each: FieldTrace | None = None
    batch: tuple[MessageTrace, ...] = ()

    @property
    def verdict(self) -> str:
        """`accepted`, or the error's code."""
        return verdict_of(self.error)

    @property
    def sentence(self) -> str:
        """The verdict for a person."""
        if self.error or not self.batch:
            return sentence_of(self.error)
        good = sum(message.trace.error is None for message in self.batch)
        return f"{good} of the payload's {len(self.batch)} messages would be accepted and sent."


def verdict_of(error: ServiceError | None) -> str:
    """Return what is said of something that would fail so: the error's code, or `accepted`."""
    return error.reason.lower() if error else ACCEPTED


def sentence_of(error: ServiceError | None) -> str:
    """Return the same for a person."""
    return error.message if error else "The payload would be accepted and sent."


class ExplainPayload:
    """The use case behind `POST /v1/ingress/wkh_.../explain`."""

    def __init__(
        self, *, integrations: IntegrationsById, previewer: Previewer, clock: Clock, max_messages: int, turns: Turns
    ) -> None:
        self._integrations = integrations
        self._previewer = previewer
        self._clock = clock
        self._max_messages = max_messages
        self._turns = turns

    async def __call__(self, *, tenant_id: str, integration_id: str, payload: Payload) -> Explanation:
        """Return what would happen. What is wrong with the payload is part of that and is never raised.

        A wrong signature is the verdict, yet the mapping is shown all the same: samples are seldom signed, and who
        holds the tenant's API key may see it.
        """
        integration = await self._find(tenant_id, integration_id)
        now = self._clock.now()
        signature = _signature_state(integration, payload, now)
        error = _first_refusal(integration, payload, now)
        mapped = PayloadTrace()
        if error is None or isinstance(error, InvalidSignatureError):
            mapped, problem = await self._traced(integration, payload)
            error = error or problem
        trace = _shown(mapped)
        preview = None if error else await self._previewer.preview(message_of(integration, trace))
        return Explanation(
            trace=trace,
            signature=signature,
            error=error,
            preview=preview,
            for_each=mapped.for_each,
            batch=mapped.messages if mapped.is_batch else (),
        )

    async def _traced(self, integration: Integration, payload: Payload) -> tuple[PayloadTrace, ServiceError | None]:
        try:
            mapped = await trace_payload(integration, payload, max_messages=self._max_messages, turns=self._turns)
        except InvalidJsonError as error:
            return PayloadTrace(), error
        return mapped, mapped.error or _shown(mapped).error

    async def _find(self, tenant_id: str, integration_id: str) -> Integration:
        if not is_id(integration_id, "wkh"):
            raise NotFoundError
        integration = await self._integrations.by_id(integration_id)
        if integration.tenant_id != tenant_id:
            raise NotFoundError
        return integration


def _signature_state(integration: Integration, payload: Payload, now: datetime) -> SignatureState:
    try:
        verify_signature(integration, payload, now)
    except InvalidSignatureError as error:
        return error.problem
    return "valid" if integration.signing_secrets else "not_required"


def _first_refusal(integration: Integration, payload: Payload, now: datetime) -> ServiceError | None:
    if not integration.tenant_active:
        return TenantInactiveError()
    try:
        refuse_unreadable(payload)
        verify_signature(integration, payload, now)
    except ServiceError as error:
        return error
    return None


def _shown(mapped: PayloadTrace) -> Trace:
    traces = [message.trace for message in mapped.messages]
    return next((trace for trace in traces if trace.error is None), traces[0] if traces else Trace())

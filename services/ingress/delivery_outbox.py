"""Hands messages to Delivery, many in one call when many come at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from servicekit import calls, clients, tracing
from servicekit.batching import Batcher
from servicekit.errors import IdempotencyMismatchError, RemoteError, UnavailableError
from services.ingress import convert
from services.ingress.domain import (
    AcceptedMessage,
    Idempotency,
    Integration,
    NewBatch,
    NewMessage,
    Preview,
    StoredBatch,
)
from textway.delivery.v1 import submission_service_pb2_grpc
from textway.delivery.v1.submission_service_pb2 import PreviewMessageRequest, SubmitMessagesRequest

MAX_MESSAGES_PER_CALL: Final = 200
# A call costs a hundred times what a message in it does, so that messages wait for the call that is under way. They do
# not wait for a replica that does not answer, and one message alone waits for nothing.
CALLS_AT_ONCE: Final = 4
CALL_SPACING_SECONDS: Final = 0.002
CALL_OVERLAP_SECONDS: Final = 0.05
CALL_STRETCH: Final = 1.5
# Below the gateway's 5 s, so that the sender gets an answer of ours.
CALL_SECONDS: Final = 4.0
PART: Final = "Delivery"

# What became of one message of a call. One that is refused costs the others nothing.
Outcome = AcceptedMessage | IdempotencyMismatchError | RemoteError

log = structlog.get_logger(__name__)


class Handed(NamedTuple):
    """A message with the request that it came by: many travel together, and each keeps its own."""

    message: NewMessage
    request_id: str
    traceparent: str


class DeliveryOutbox:
    """Submits messages so that their senders can be told that they are on disk, and asks for previews."""

    def __init__(self, delivery: submission_service_pb2_grpc.SubmissionServiceAsyncStub) -> None:
        self._delivery = delivery
        self._batcher: Batcher[Handed, Outcome] = Batcher(
            self._submit_together,
            max_size=MAX_MESSAGES_PER_CALL,
            concurrency=CALLS_AT_ONCE,
            spacing_seconds=CALL_SPACING_SECONDS,
            overlap_seconds=CALL_OVERLAP_SECONDS,
            stretch=CALL_STRETCH,
            name="submit",
        )

    async def submit(self, message: NewMessage) -> AcceptedMessage:
        """Return once the message, or the first of which it is a repeat, is on disk.

        Raises IdempotencyMismatchError for a key that came with another body before, else UnavailableError.
        """
        result = await self._batcher.submit(Handed(message, calls.request_id(), tracing.traceparent()))
        if isinstance(result, IdempotencyMismatchError):
            raise result
        if isinstance(result, RemoteError):
            raise _defect(message, result) from result
        return result

    async def submit_batch(self, batch: NewBatch) -> StoredBatch:
        """Return once a batch's messages are on disk: one call, so that they are stored in one transaction."""
        request = convert.batch_submission_of(batch)
        try:
            response = await clients.call(self._delivery.SubmitBatch, request, part=PART, timeout_seconds=CALL_SECONDS)
        except RemoteError as refusal:
            raise _defect(batch.messages[0], refusal) from refusal
        stored = convert.stored_batch_from(response, batch)
        if all(isinstance(outcome, IdempotencyMismatchError) for outcome in stored.outcomes):
            raise IdempotencyMismatchError
        return stored

    async def find(self, integration: Integration, key: Idempotency) -> AcceptedMessage | None:
        """Return the message that a request with this key and body made before, if it made one."""
        request = convert.find_request_of(integration, key)
        response = await clients.call(self._delivery.FindRequest, request, part=PART, timeout_seconds=CALL_SECONDS)
        return convert.found_from(response)

    async def preview(self, message: NewMessage) -> Preview:
        """Return what would become of a message; nothing is stored."""
        request = PreviewMessageRequest(submission=convert.submission_of(message))
        response = await clients.call(self._delivery.PreviewMessage, request, part=PART, timeout_seconds=CALL_SECONDS)
        return convert.preview_from(response)

    async def drain(self) -> None:
        """Return when everything that was submitted has its answer."""
        await self._batcher.drain()

    async def _submit_together(self, handed: Sequence[Handed]) -> list[Outcome]:
        try:
            return await self._call(handed)
        except RemoteError as refusal:
            if len(handed) == 1:
                return [refusal]
        # All of a call is refused when one message is. Nothing is stored then, and no sender pays for another's.
        results: list[Outcome] = []
        for each in handed:
            results += await self._submit_together([each])
        return results

    async def _call(self, handed: Sequence[Handed]) -> list[Outcome]:
        submissions = [
            convert.submission_of(message, request_id=request_id, traceparent=traceparent)
            for message, request_id, traceparent in handed
        ]
        request = SubmitMessagesRequest(submissions=submissions)
        # One call is the work of many requests and a part of no one's: it has a trace of its own, with a link to each.
        links = [each.traceparent for each in handed] if tracing.is_on() else []
        with tracing.span("submit batch", parent="", links=links, messages=len(handed)):
            response = await clients.call(
                self._delivery.SubmitMessages, request, part=PART, timeout_seconds=CALL_SECONDS
            )
        return [*convert.accepted_from(response)]


def _defect(message: NewMessage, refusal: RemoteError) -> UnavailableError:
    # Ingress checks all that Delivery checks, so that a refusal is a defect and not the sender's fault.
    log.error("message refused by delivery", integration_id=message.integration_id, reason=refusal.reason)
    return UnavailableError("Delivery did not take the message. Send the request again.")

"""Delivery's RPCs: convert, call, convert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from servicekit import calls
from servicekit.clock import Clock
from servicekit.egress_urls import EgressPolicy
from servicekit.errors import ConflictError, IdempotencyMismatchError, NotFoundError
from servicekit.idempotency import idempotency_key, replay_header
from servicekit.ids import is_id
from servicekit.paging import PageRequest
from servicekit.sms_text import measure
from services.delivery import convert
from services.delivery.accept_messages import AcceptMessages
from services.delivery.api_keys import ApiKeys
from services.delivery.carriers.registry import Carriers
from services.delivery.domain import Message, Status
from services.delivery.store import CancelResult, MessageStore, ResolveResult
from services.delivery.timeline import timeline
from services.delivery.webhook_store import WebhookStore
from services.delivery.webhooks import WebhookFilter
from textway.delivery.v1 import (
    message_pb2,
    messages_service_pb2,
    messages_service_pb2_grpc,
    submission_service_pb2,
    submission_service_pb2_grpc,
)

# The newest; more than a message has unless it is answered by the dozen.
MAX_TOLD_WEBHOOKS: Final = 100

Context = grpc.aio.ServicerContext[Any, Any]


class MessagesServicer(messages_service_pb2_grpc.MessagesServiceServicer):
    """The public half: every call is made with an API key."""

    def __init__(
        self,
        *,
        keys: ApiKeys,
        accepting: AcceptMessages,
        store: MessageStore,
        webhooks: WebhookStore,
        clock: Clock,
        carriers: Carriers,
        callbacks: EgressPolicy,
        on_requeued: Callable[[], None],
    ) -> None:
        self._callbacks = callbacks
        self._webhooks = webhooks
        self._carriers = carriers
        self._on_requeued = on_requeued
        self._keys = keys
        self._accepting = accepting
        self._store = store
        self._clock = clock

    async def SendMessage(
        self, request: messages_service_pb2.SendMessageRequest, context: Context
    ) -> messages_service_pb2.SendMessageResponse:
        """Accept one message."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        wanted = convert.wanted_message(tenant_id, request, idempotency_key(context), self._callbacks)
        (accepted,) = await self._accepting.accept([wanted])
        response = convert.send_response(accepted)
        await calls.answer_with(context, 202, **replay_header(replayed=accepted.replayed))
        return response

    async def GetMessage(
        self, request: messages_service_pb2.GetMessageRequest, context: Context
    ) -> message_pb2.Message:
        """Read one message."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        return convert.message(await self._message(tenant_id, request.id))

    async def ListMessages(
        self, request: messages_service_pb2.ListMessagesRequest, context: Context
    ) -> messages_service_pb2.ListMessagesResponse:
        """List messages, newest first."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        wanted, page = convert.list_request(request)
        found = await self._store.list_messages(tenant_id, wanted, page.and_one_more)
        return convert.message_list(found, page)

    async def GetMessageTimeline(
        self, request: messages_service_pb2.GetMessageTimelineRequest, context: Context
    ) -> messages_service_pb2.GetMessageTimelineResponse:
        """Tell every step of one message."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        history = await self._store.history(tenant_id, _message_id(request.id))
        if history is None:
            raise NotFoundError
        about = WebhookFilter(message_id=request.id)
        webhooks = await self._webhooks.list_deliveries(tenant_id, about, PageRequest(size=MAX_TOLD_WEBHOOKS))
        return convert.timeline_response(request.id, timeline(history, webhooks))

    async def CancelMessage(
        self, request: messages_service_pb2.CancelMessageRequest, context: Context
    ) -> message_pb2.Message:
        """Stop a message that no attempt has begun for."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        message_id, now = _message_id(request.id), self._clock.now()
        key = convert.request_key(idempotency_key(context), f"{tenant_id}/{message_id}/cancel", request, now)
        result = await self._store.cancel(tenant_id, message_id, now, key)
        if result is CancelResult.NOT_FOUND:
            raise NotFoundError
        if result is CancelResult.MISMATCH:
            raise IdempotencyMismatchError
        message = await self._message(tenant_id, request.id)
        if result is CancelResult.BEGUN:
            # Between two attempts it is queued, as it was before the first.
            state = "an attempt has begun" if message.status is Status.QUEUED else f"it is {message.status.value}"
            raise ConflictError(f"The message can not be canceled any more: {state}.")
        await calls.answer_with(context, 200, **replay_header(replayed=result is CancelResult.REPLAYED))
        return convert.message(message)

    async def ResolveMessage(
        self, request: messages_service_pb2.ResolveMessageRequest, context: Context
    ) -> message_pb2.Message:
        """Settle a message that is held because its outcome is unknown."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        decided, message_id, now = convert.resolution(request.resolution), _message_id(request.id), self._clock.now()
        key = convert.request_key(idempotency_key(context), f"{tenant_id}/{message_id}/resolve", request, now)
        result = await self._store.resolve(
            tenant_id, message_id, decided, now, key, queue_of=lambda message: self._carriers.route(message).name
        )
        if result is ResolveResult.NOT_FOUND:
            raise NotFoundError
        if result is ResolveResult.MISMATCH:
            raise IdempotencyMismatchError
        message = await self._message(tenant_id, request.id)
        if result is ResolveResult.NOT_HELD:
            raise ConflictError(
                f"Only a message of status unknown can be resolved; this one is {message.status.value}."
            )
        self._on_requeued()
        await calls.answer_with(context, 200, **replay_header(replayed=result is ResolveResult.REPLAYED))
        return convert.message(message)

    async def _message(self, tenant_id: str, message_id: str) -> Message:
        message = await self._store.get(tenant_id, _message_id(message_id))
        if message is None:
            raise NotFoundError
        return message


class SubmissionServicer(submission_service_pb2_grpc.SubmissionServiceServicer):
    """The internal half: callers are services that have checked what they submit."""

    def __init__(self, *, accepting: AcceptMessages, store: MessageStore, clock: Clock, carriers: Carriers) -> None:
        self._accepting = accepting
        self._store = store
        self._clock = clock
        self._carriers = carriers

    async def SubmitMessages(
        self, request: submission_service_pb2.SubmitMessagesRequest, context: Context
    ) -> submission_service_pb2.SubmitMessagesResponse:
        """Store a batch."""
        stored = await self._accepting.accept([convert.submission(each) for each in request.submissions])
        return convert.submit_response(stored)

    async def SubmitBatch(
        self, request: submission_service_pb2.SubmitBatchRequest, context: Context
    ) -> submission_service_pb2.SubmitBatchResponse:
        """Store what one request made."""
        batch_id = self._accepting.new_batch_id()
        wanted = convert.batch(request, batch_id)
        stored = await self._accepting.accept(wanted)
        return convert.batch_response(batch_id, wanted, stored)

    async def FindRequest(
        self, request: submission_service_pb2.FindRequestRequest, context: Context
    ) -> submission_service_pb2.FindRequestResponse:
        """Look for what a request has made already."""
        now = self._clock.now()
        accepted = await self._store.first_answer(request.tenant_id, convert.posted_key(request, now), now)
        return convert.found_response(accepted)

    async def PreviewMessage(
        self, request: submission_service_pb2.PreviewMessageRequest, context: Context
    ) -> submission_service_pb2.PreviewMessageResponse:
        """Tell what would become of a message."""
        wanted = convert.submission(request.submission)
        size = measure(wanted.text)
        first, *_ = self._carriers.route(wanted).members
        return submission_service_pb2.PreviewMessageResponse(
            segments=size.segments, encoding=size.encoding, carrier=first
        )


def _message_id(text: str) -> str:
    if not is_id(text, "msg"):
        raise NotFoundError
    return text

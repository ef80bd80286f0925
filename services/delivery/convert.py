"""Protobuf to domain objects and back, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from servicekit import calls, phone_numbers, tracing
from servicekit.clock import to_milliseconds
from servicekit.egress_urls import EgressPolicy
from servicekit.errors import IdempotencyMismatchError, Issue, ValidationError
from servicekit.paging import PageRequest, page_of, page_request
from services.delivery.accept_messages import IDEMPOTENCY_WINDOW, Dedupe, Idempotency, Submission, checked_submission
from services.delivery.domain import (
    Accepted,
    BatchPlace,
    IdempotencyKey,
    Message,
    MessageFilter,
    OnUnknown,
    Priority,
    Resolution,
    Status,
)
from services.delivery.timeline import Step
from textway.delivery.v1 import message_pb2, messages_service_pb2, submission_service_pb2

ANNOTATE: Final = "annotate"
# A payload has no more bytes, so that only the repeats of another one can have more.
MAX_REPEATED_TEXT_BYTES: Final = 262_144


def wanted_message(
    tenant_id: str,
    request: messages_service_pb2.SendMessageRequest,
    idempotency_key: str | None,
    callbacks: EgressPolicy,
) -> Submission:
    """Return the message that an API caller wants sent; raises what `checked_submission` raises."""
    return checked_submission(
        tenant_id=tenant_id,
        to=request.to,
        text=request.text,
        ref=request.ref,
        callback=request.callback,
        channel=request.channel,
        priority=request.priority,
        on_unknown=request.on_unknown,
        wanted_sender=getattr(request, "from"),  # a keyword in Python, and the contract's word
        tag=request.tag,
        request_id=calls.request_id(),
        traceparent=tracing.traceparent(),
        idempotency=None
        if idempotency_key is None
        else Idempotency(
            key=idempotency_key,
            request_sha256=hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
        ),
        callbacks=callbacks,
    )


def request_key(
    key: str | None,
    scope: str,
    request: messages_service_pb2.CancelMessageRequest | messages_service_pb2.ResolveMessageRequest,
    now: datetime,
) -> IdempotencyKey | None:
    """Return the caller's key for a request about one message; None when it gave none."""
    if key is None:
        return None
    request_sha256 = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return IdempotencyKey(scope=scope, key=key, request_sha256=request_sha256, expires_at=now + IDEMPOTENCY_WINDOW)


def posted_key(request: submission_service_pb2.FindRequestRequest, now: datetime) -> IdempotencyKey:
    """Return the sender's key for a payload that it posted to an integration."""
    return IdempotencyKey(
        scope=request.integration_id,
        key=request.idempotency.key,
        request_sha256=request.idempotency.request_sha256,
        expires_at=now + IDEMPOTENCY_WINDOW,
    )


def submission(request: submission_service_pb2.Submission) -> Submission:
    """Return the message that another service has checked already."""
    return Submission(
        tenant_id=request.tenant_id,
        integration_id=request.integration_id,
        to=request.to,
        text=request.text,
        ref=request.ref,
        priority=Priority(request.priority or Priority.NORMAL),
        on_unknown=OnUnknown(request.on_unknown or OnUnknown.RESEND),
        wanted_sender=request.sender,
        tag=request.tag,
        request_id=request.request_id,
        traceparent=request.traceparent,
        idempotency=Idempotency(key=request.idempotency.key, request_sha256=request.idempotency.request_sha256)
        if request.HasField("idempotency")
        else None,
        dedupe=Dedupe(
            value=request.dedupe.value,
            window=timedelta(seconds=request.dedupe.window_seconds),
            suppresses=request.dedupe.mode != ANNOTATE,
        )
        if request.HasField("dedupe")
        else None,
    )


def batch(request: submission_service_pb2.SubmitBatchRequest, batch_id: str) -> list[Submission]:
    """Return the messages of one request, which another service has checked already."""
    priority = Priority(request.priority or Priority.NORMAL)
    on_unknown = OnUnknown(request.on_unknown or OnUnknown.RESEND)
    tenant_id, integration_id, texts = request.tenant_id, request.integration_id, list(request.texts)
    sender, tag = request.sender, request.tag
    # The call is made for this one request, so that it comes with the request's own id and span.
    request_id, traceparent = calls.request_id(), tracing.traceparent()
    return [
        Submission(
            tenant_id=tenant_id,
            integration_id=integration_id,
            to=item.to,
            text=texts[item.text],
            ref=item.ref,
            priority=priority,
            on_unknown=on_unknown,
            wanted_sender=sender,
            tag=tag,
            request_id=request_id,
            traceparent=traceparent,
            idempotency=_batch_idempotency(request, batch_id, item.place) if request.HasField("idempotency") else None,
            dedupe=_batch_dedupe(request, item.dedupe_value) if item.dedupe_value else None,
        )
        for item in request.items
    ]


def _batch_idempotency(request: submission_service_pb2.SubmitBatchRequest, batch_id: str, place: int) -> Idempotency:
    return Idempotency(
        key=request.idempotency.key,
        request_sha256=request.idempotency.request_sha256,
        batch=BatchPlace(batch_id=batch_id, place=place),
    )


def _batch_dedupe(request: submission_service_pb2.SubmitBatchRequest, value: str) -> Dedupe:
    window = timedelta(seconds=request.dedupe_window_seconds)
    return Dedupe(value=value, window=window, suppresses=request.dedupe_mode != ANNOTATE)


def send_response(accepted: Accepted) -> messages_service_pb2.SendMessageResponse:
    """Return the answer to SendMessage; raise IdempotencyMismatchError when the key was known with another body."""
    if accepted.mismatch:
        raise IdempotencyMismatchError
    return messages_service_pb2.SendMessageResponse(
        id=accepted.message_id,
        status=Status.QUEUED,
        to=accepted.to,
        text=accepted.text,
        ref=accepted.ref,
        created_at=timestamp(accepted.created_at),
    )


def submit_response(accepted: Sequence[Accepted]) -> submission_service_pb2.SubmitMessagesResponse:
    """Return the answer to SubmitMessages."""
    return submission_service_pb2.SubmitMessagesResponse(accepted=[_accepted(each) for each in accepted])


def found_response(accepted: Accepted | None) -> submission_service_pb2.FindRequestResponse:
    """Return the answer to FindRequest."""
    return submission_service_pb2.FindRequestResponse(accepted=_accepted(accepted) if accepted else None)


def _accepted(each: Accepted) -> submission_service_pb2.AcceptedMessage:
    if each.mismatch:
        return submission_service_pb2.AcceptedMessage(idempotency_mismatch=True)
    return submission_service_pb2.AcceptedMessage(
        id=each.message_id,
        status=Status.QUEUED,
        created_at=timestamp(each.created_at),
        to=each.to,
        text=each.text,
        ref=each.ref,
        replayed=each.replayed,
        duplicate=each.duplicate,
    )


def batch_response(
    batch_id: str, wanted: Sequence[Submission], accepted: Sequence[Accepted]
) -> submission_service_pb2.SubmitBatchResponse:
    """Return the answer to SubmitBatch, in which no text is repeated that its caller has."""
    first_id = next((each.batch_id for each in accepted if each.batch_id), "")
    response = submission_service_pb2.SubmitBatchResponse(id=first_id or batch_id, replayed=bool(first_id))
    room = MAX_REPEATED_TEXT_BYTES
    for asked, each in zip(wanted, accepted, strict=True):
        if each.mismatch:
            response.accepted.add(idempotency_mismatch=True)
            continue
        answer = response.accepted.add(
            id=each.message_id, status=Status.QUEUED, replayed=each.replayed, duplicate=each.duplicate
        )
        if (each.to, each.text, each.ref) != (asked.to, asked.text, asked.ref):
            room -= len(each.text.encode())
            answer.to, answer.ref, answer.text = each.to, each.ref, each.text if room >= 0 else ""
    return response


def resolution(word: str) -> Resolution:
    """Return what an operator decides; raise ValidationError for any other word."""
    try:
        return Resolution(word)
    except ValueError:
        known = ", ".join(Resolution)
        raise ValidationError([Issue(path="resolution", message=f"must be one of {known}")]) from None


def message(found: Message) -> message_pb2.Message:
    """Return a message as the API shows it."""
    shown = message_pb2.Message(
        id=found.id,
        status=found.status,
        to=found.to,
        text=found.text,
        ref=found.ref,
        tag=found.tag,
        integration_id=found.integration_id,
        carrier=found.carrier,
        carrier_message_id=found.carrier_message_id,
        segments=found.segments,
        encoding=found.encoding,
        attempts=found.attempts,
        created_at=timestamp(found.created_at),
        updated_at=timestamp(found.updated_at),
        sent_at=timestamp(found.sent_at) if found.sent_at else None,
        delivered_at=timestamp(found.delivered_at) if found.delivered_at else None,
        **{"from": found.sender},  # type: ignore[arg-type]  # a keyword in Python, and the contract's word
    )
    if found.failure:
        shown.error.code = found.failure.reason.code
        shown.error.message = found.failure.reason.sentence
        shown.error.carrier_code = found.failure.carrier_code
    return shown


def message_list(found: Sequence[Message], page: PageRequest) -> messages_service_pb2.ListMessagesResponse:
    """Return one page, with the token of the next if more was found than the page holds."""
    shown, token = page_of(found, page, show=message, place=lambda each: (each.created_at, each.id))
    return messages_service_pb2.ListMessagesResponse(messages=shown, next_page_token=token)


def timeline_response(message_id: str, steps: Sequence[Step]) -> messages_service_pb2.GetMessageTimelineResponse:
    """Return the answer to GetMessageTimeline."""
    return messages_service_pb2.GetMessageTimelineResponse(
        id=message_id,
        entries=[
            message_pb2.TimelineEntry(
                at=timestamp(step.at),
                event=step.event,
                status=step.status,
                attempt=step.attempt,
                carrier=step.carrier,
                outcome=step.outcome,
                detail=step.detail,
                possible_duplicate=step.possible_duplicate,
                webhook_delivery_id=step.webhook_delivery_id,
            )
            for step in steps
        ],
    )


def list_request(request: messages_service_pb2.ListMessagesRequest) -> tuple[MessageFilter, PageRequest]:
    """Return what to list; raise ValidationError naming the filter that can not be used."""
    page = page_request(request.page_size if request.HasField("page_size") else None, request.page_token)
    wanted = MessageFilter(
        status=_status(request.status) if request.status else None,
        ref=filter_text("ref", request.ref),
        to=_number(request.to) if request.to else None,
        integration_id=filter_text("integrationId", request.integration_id),
        created_after=moment("createdAfter", request.created_after) if request.HasField("created_after") else None,
        created_before=moment("createdBefore", request.created_before) if request.HasField("created_before") else None,
    )
    return wanted, page


def filter_text(path: str, text: str) -> str | None:
    """Return what a list is filtered by, None when nothing is; raise ValidationError for what can not be looked for."""
    if "\0" in text:
        raise ValidationError([Issue(path=path, message="must not contain U+0000")])
    return text or None


def timestamp(moment: datetime) -> Timestamp:
    """Return a time as protobuf has it."""
    stamp = Timestamp()
    stamp.FromMilliseconds(to_milliseconds(moment))
    return stamp


def moment(path: str, stamp: Timestamp) -> datetime:
    """Return the time of a request's field; raise ValidationError when there is no such time."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValidationError([Issue(path=path, message="is out of range")]) from None


def _status(word: str) -> Status:
    try:
        return Status(word)
    except ValueError:
        known = ", ".join(status.value for status in Status)
        raise ValidationError([Issue(path="status", message=f"must be one of {known}")]) from None


def _number(text: str) -> str:
    # A plus sign that was not escaped in a query string arrives as a space.
    try:
        return phone_numbers.normalise(text if "+" in text else f"+{text.strip()}")
    except phone_numbers.NotAPhoneNumberError as error:
        raise ValidationError([Issue(path="to", message=f"is no phone number: {error}")]) from None

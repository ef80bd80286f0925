"""Between the contract's messages and the domain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from json.encoder import encode_basestring as _quoted
from typing import Any, Final
from urllib.parse import unquote

import grpc
from google.api.httpbody_pb2 import HttpBody

from servicekit import calls
from servicekit.clock import from_milliseconds
from servicekit.errors import IdempotencyMismatchError, NotFoundError
from servicekit.sms_fitting import Overflow
from services.ingress.check_readiness import PartState
from services.ingress.domain import (
    AcceptedBatch,
    AcceptedMessage,
    DedupeKey,
    DedupeRule,
    Idempotency,
    IngressKey,
    Integration,
    MappingPaths,
    NewBatch,
    NewMessage,
    OldSecret,
    Payload,
    Preview,
    StoredBatch,
    TextLimit,
)
from services.ingress.errors import item_error
from services.ingress.explain_payload import Explanation, sentence_of, verdict_of
from services.ingress.mapping import FieldTrace
from services.ingress.payload_items import MessageTrace
from services.ingress.strict_json import render
from textway.delivery.v1 import submission_service_pb2 as delivery
from textway.ingress.v1 import health_service_pb2 as health_v1
from textway.ingress.v1 import ingress_service_pb2 as ingress_v1
from textway.integrations.v1 import registry_service_pb2 as registry

FOUND_SHOWN: Final = 200
ITEMS_SHOWN: Final = 20

_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Context = grpc.aio.ServicerContext[Any, Any]


def path_variable(value: str, context: Context) -> str:
    """Return a path variable as it stood in the URL's path; raise NotFoundError when it came from elsewhere.

    A query parameter of the same name overrides a path variable in the gateway, so that a link could be made to look
    as if it led to another integration than it does.
    """
    for original in calls.headers(context, "x-envoy-original-path"):
        # Most paths have nothing that is quoted, and unquoting costs more than looking.
        segment = original.partition("?")[0].split("/")[3:4]
        if segment != [value] and [unquote(part) for part in segment] != [value]:
            raise NotFoundError
    return value


def payload_from(body: HttpBody, context: Context) -> Payload:
    """Return a body and its headers as they came."""
    return Payload(body=body.data, headers=calls.all_headers(context))


def ingest_answer(accepted: AcceptedMessage | AcceptedBatch) -> HttpBody:
    """Return the answer to a payload that was accepted: of one shape for a message, of another for a batch."""
    if isinstance(accepted, AcceptedMessage):
        answer = _plain_answer(accepted) if _is_plain(accepted) else _ENCODE(_message_answer(accepted))
    else:
        answer = _ENCODE(_batch_answer(accepted))
    return HttpBody(content_type="application/json", data=answer.encode())


def _is_plain(accepted: AcceptedMessage) -> bool:
    return not accepted.duplicate and accepted.text_changed is None


def _plain_answer(accepted: AcceptedMessage) -> str:
    """Return what `_message_answer` becomes, for nearly every message there is, without a dict and an encoder."""
    return (
        f'{{"id":{_quoted(accepted.id)},"status":{_quoted(accepted.status)},"to":{_quoted(accepted.to)},'
        f'"text":{_quoted(accepted.text)},"ref":{_quoted(accepted.ref)}}}'
    )


def _message_answer(accepted: AcceptedMessage) -> dict[str, object]:
    answer: dict[str, object] = {
        "id": accepted.id,
        "status": accepted.status,
        "to": accepted.to,
        "text": accepted.text,
        "ref": accepted.ref,
    }
    # Left out otherwise, so that answers to payloads that are no repeats look as they always did.
    if accepted.duplicate:
        answer["duplicate"] = True
    if accepted.text_changed:
        answer["textChanged"] = accepted.text_changed
    return answer


def _batch_answer(batch: AcceptedBatch) -> dict[str, object]:
    messages = [
        _message_answer(each) if isinstance(each, AcceptedMessage) else item_error(each.index, each.error)
        for each in batch.outcomes
    ]
    refused = {"refused": batch.refused} if batch.refused else {}
    return {"id": batch.id, **refused, "messages": messages}


def explain_response(explanation: Explanation) -> ingress_v1.ExplainResponse:
    """Return a dry run."""
    trace, preview = explanation.trace, explanation.preview
    first = (explanation.for_each,) if explanation.for_each else ()
    return ingress_v1.ExplainResponse(
        verdict=explanation.verdict,
        message=explanation.sentence,
        fields=[_explained(field) for field in (*first, *trace.fields)],
        signature=explanation.signature,
        to=trace.result_of("to"),
        text=trace.result_of("text"),
        ref=trace.result_of("ref"),
        segments=preview.segments if preview else 0,
        encoding=preview.encoding if preview else "",
        carrier=preview.carrier if preview else "",
        dedupe_value=trace.result_of("dedupe") or None,
        text_changed=trace.text_changed,
        batch=_explained_batch(explanation.batch) if explanation.batch else None,
    )


def _explained_batch(messages: Sequence[MessageTrace]) -> ingress_v1.ExplainedBatch:
    refused = sum(message.trace.error is not None for message in messages)
    # What is wrong is shown first when not all can be shown, and what is shown keeps its order.
    places = sorted(range(len(messages)), key=lambda place: messages[place].trace.error is None)[:ITEMS_SHOWN]
    return ingress_v1.ExplainedBatch(
        accepted=len(messages) - refused,
        refused=refused,
        messages=[_explained_message(messages[place]) for place in sorted(places)],
    )


def _explained_message(message: MessageTrace) -> ingress_v1.ExplainedMessage:
    trace = message.trace
    return ingress_v1.ExplainedMessage(
        index=message.index,
        verdict=verdict_of(trace.error),
        message=sentence_of(trace.error),
        fields=[_explained(field) for field in trace.fields],
        to=trace.result_of("to"),
        text=trace.result_of("text"),
        ref=trace.result_of("ref"),
        dedupe_value=trace.result_of("dedupe") or None,
        text_changed=trace.text_changed,
    )


def _explained(trace: FieldTrace) -> ingress_v1.ExplainedField:
    return ingress_v1.ExplainedField(
        field=trace.field,
        path=trace.path,
        matches=trace.matches,
        found=render(trace.found, FOUND_SHOWN) if trace.matches else None,
        result=trace.result,
        problem=trace.problem,
    )


def integration_from(config: registry.IntegrationConfig) -> Integration:
    """Return an integration as Integrations has it."""
    return Integration(
        id=config.id,
        tenant_id=config.tenant_id,
        tenant_active=config.tenant_active,
        ingress_keys=tuple(_key_from(key) for key in config.ingress_keys),
        paths=MappingPaths(
            to=config.to_path,
            text=config.text_path,
            ref=config.ref_path,
            dedupe=config.dedupe_key,
            for_each=config.for_each,
            default_region=config.default_region,
        ),
        signing_secrets=tuple(config.signing_secrets),
        old_secrets=tuple(_old_secret_from(secret) for secret in config.old_signing_secrets),
        signing_header=config.signing_header,
        priority=config.priority,
        on_unknown=config.on_unknown,
        dedupe=DedupeRule(window_seconds=config.dedupe_window_seconds, mode=config.dedupe_mode)
        if config.dedupe_key
        else None,
        sender=config.sender,
        tag=config.tag,
        text_limit=TextLimit(max_segments=config.max_segments, on_overflow=_overflow_from(config.on_overflow)),
        revision=config.revision,
    )


def _overflow_from(word: str) -> Overflow:
    # No word comes from an older Integrations, and an unknown one from a newer: neither may change a text.
    return Overflow(word) if word in set(Overflow) else Overflow.REJECT


def _key_from(key: registry.IngressKey) -> IngressKey:
    expires_at = from_milliseconds(key.expires_at.ToMilliseconds()) if key.HasField("expires_at") else None
    return IngressKey(sha256=key.sha256, expires_at=expires_at)


def _old_secret_from(secret: registry.SigningSecret) -> OldSecret:
    return OldSecret(secret=secret.secret, expires_at=from_milliseconds(secret.expires_at.ToMilliseconds()))


def submission_of(message: NewMessage, *, request_id: str = "", traceparent: str = "") -> delivery.Submission:
    """Return a message as Delivery takes it, with the request and the span that it came by."""
    return delivery.Submission(
        tenant_id=message.tenant_id,
        integration_id=message.integration_id,
        to=message.to,
        text=message.text,
        ref=message.ref,
        priority=message.priority,
        on_unknown=message.on_unknown,
        sender=message.sender,
        tag=message.tag,
        request_id=request_id,
        traceparent=traceparent,
        idempotency=_idempotency_of(message.idempotency) if message.idempotency else None,
        dedupe=_dedupe_of(message.dedupe) if message.dedupe else None,
    )


def _idempotency_of(idempotency: Idempotency) -> delivery.Idempotency:
    return delivery.Idempotency(key=idempotency.key, request_sha256=idempotency.request_sha256)


def _dedupe_of(dedupe: DedupeKey) -> delivery.DedupeKey:
    return delivery.DedupeKey(value=dedupe.value, window_seconds=dedupe.rule.window_seconds, mode=dedupe.rule.mode)


def accepted_from(response: delivery.SubmitMessagesResponse) -> list[AcceptedMessage | IdempotencyMismatchError]:
    """Return what Delivery has on disk, or why not, in the order of the submissions."""
    return [_accepted_from(message) for message in response.accepted]


def _accepted_from(message: delivery.AcceptedMessage) -> AcceptedMessage | IdempotencyMismatchError:
    if message.idempotency_mismatch:
        return IdempotencyMismatchError()
    return _message_from(message)


def _message_from(message: delivery.AcceptedMessage) -> AcceptedMessage:
    return AcceptedMessage(
        id=message.id,
        status=message.status,
        to=message.to,
        text=message.text,
        ref=message.ref,
        replayed=message.replayed,
        duplicate=message.duplicate,
    )


def batch_submission_of(batch: NewBatch) -> delivery.SubmitBatchRequest:
    """Return a batch as Delivery takes it: what is the same for all of it once, each text once."""
    common = batch.messages[0]
    different = dict.fromkeys(message.text for message in batch.messages)
    texts = {text: place for place, text in enumerate(different)}
    rule = next((message.dedupe.rule for message in batch.messages if message.dedupe), None)
    return delivery.SubmitBatchRequest(
        tenant_id=common.tenant_id,
        integration_id=common.integration_id,
        priority=common.priority,
        on_unknown=common.on_unknown,
        sender=common.sender,
        tag=common.tag,
        idempotency=_idempotency_of(batch.idempotency) if batch.idempotency else None,
        dedupe_window_seconds=rule.window_seconds if rule else 0,
        dedupe_mode=rule.mode if rule else "",
        texts=texts,
        items=[
            delivery.BatchItem(
                place=place,
                to=message.to,
                text=texts[message.text],
                ref=message.ref,
                dedupe_value=message.dedupe.value if message.dedupe else "",
            )
            for place, message in zip(batch.places, batch.messages, strict=True)
        ],
    )


def stored_batch_from(response: delivery.SubmitBatchResponse, batch: NewBatch) -> StoredBatch:
    """Return what Delivery has on disk for a batch. It is silent on what is as it was submitted."""
    outcomes: list[AcceptedMessage | IdempotencyMismatchError] = []
    for message, accepted in zip(batch.messages, response.accepted, strict=True):
        outcome = _accepted_from(accepted)
        if isinstance(outcome, AcceptedMessage) and not outcome.to:
            outcome = replace(outcome, to=message.to, text=message.text, ref=message.ref)
        outcomes.append(outcome)
    return StoredBatch(id=response.id, replayed=response.replayed, outcomes=tuple(outcomes))


def find_request_of(integration: Integration, key: Idempotency) -> delivery.FindRequestRequest:
    """Return the question for what a request has made already."""
    return delivery.FindRequestRequest(
        tenant_id=integration.tenant_id, integration_id=integration.id, idempotency=_idempotency_of(key)
    )


def found_from(response: delivery.FindRequestResponse) -> AcceptedMessage | None:
    """Return what the request has made; None when that is not known to be one message."""
    return _message_from(response.accepted) if response.HasField("accepted") else None


def preview_from(response: delivery.PreviewMessageResponse) -> Preview:
    """Return what would become of a message."""
    return Preview(segments=response.segments, encoding=response.encoding, carrier=response.carrier)


def ready_response(parts: Sequence[PartState]) -> health_v1.CheckReadyResponse:
    """Return which parts are ready."""
    return health_v1.CheckReadyResponse(
        status="ready" if all(part.is_ready for part in parts) else "not_ready",
        parts=[
            health_v1.CheckReadyResponse.Part(name=part.name, ready=part.is_ready, detail=part.detail) for part in parts
        ],
    )

"""The steps from a payload's bytes to its message, the same for the real thing and for the dry run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import structlog

from servicekit import idempotency
from servicekit.errors import UnavailableError
from servicekit.json_paths import PathError
from services.ingress import signatures
from services.ingress.domain import (
    MAX_BODY_BYTES,
    DedupeKey,
    Idempotency,
    Integration,
    NewBatch,
    NewMessage,
    Payload,
)
from services.ingress.errors import PayloadTooLargeError, UnsupportedEncodingError
from services.ingress.mapping import Mapping, Trace, compile_mapping
from services.ingress.payload_items import MessageTrace, PayloadTrace, is_large, map_payload
from services.ingress.strict_json import decode
from services.ingress.turns import Turns, pauses

# Only a change of the integration or of Textway itself mends a broken mapping, so there is no hurry.
BROKEN_MAPPING_RETRY_SECONDS: Final = 60
# Many senders, whose owners can not change that, name the character set where a compression is meant.
_NOT_COMPRESSED: Final = frozenset(("", "identity", "utf-8", "utf8"))

log = structlog.get_logger(__name__)


def refuse_unreadable(payload: Payload) -> None:
    """Raise UnsupportedEncodingError for a compressed body and PayloadTooLargeError for one of too many bytes."""
    encodings = payload.header("content-encoding")
    if any(value.strip().lower() not in _NOT_COMPRESSED for value in encodings):
        raise UnsupportedEncodingError
    if len(payload.body) > MAX_BODY_BYTES:
        raise PayloadTooLargeError(limit=MAX_BODY_BYTES)


def verify_signature(integration: Integration, payload: Payload, now: datetime) -> None:
    """Raise InvalidSignatureError when the integration asks for a signature and the payload has no right one."""
    if integration.signing_secrets:
        header = integration.signing_header
        signatures.verify(integration.secrets_at(now), payload.header(header), payload.body, header=header)


async def trace_payload(integration: Integration, payload: Payload, *, max_messages: int, turns: Turns) -> PayloadTrace:
    """Decode and map a payload; raise InvalidJsonError, or UnavailableError when the paths can not be used.

    A large payload waits for the one of its integration that is being mapped, and lets others be served meanwhile.
    """
    mapping, limit = _mapping_of(integration), integration.text_limit
    document = decode(payload.body)
    if not is_large(mapping, document):
        return await map_payload(mapping, document, limit, max_messages=max_messages)
    turn = turns.of(integration.id)
    has_to_wait = not turn.is_free
    if has_to_wait:
        # Many may wait, and a document takes many times its bytes.
        del document
    async with turn:
        if has_to_wait:
            document = decode(payload.body)
        return await map_payload(mapping, document, limit, max_messages=max_messages, pause=pauses())


def _mapping_of(integration: Integration) -> Mapping:
    """Return an integration's paths, compiled.

    They are checked when it is saved, so that unusable ones mean that this process is older than they are.
    """
    try:
        return compile_mapping(integration.paths)
    except PathError as error:
        log.error("mapping can not be used", integration_id=integration.id, error=str(error))
        raise UnavailableError(
            "This integration's paths can not be used by this version of Textway. Save the integration again.",
            retry_after_seconds=BROKEN_MAPPING_RETRY_SECONDS,
        ) from error


def idempotency_of(payload: Payload) -> Idempotency | None:
    """Return the sender's key for this request, None when it gave none; raise ValidationError for one that is no key.

    Who sends Standard Webhooks gives each event a `webhook-id`, which stays the same when it is sent again.
    """
    for header in (idempotency.HEADER, "webhook-id"):
        key = idempotency.key_from(payload.header(header), header)
        if key is not None:
            return Idempotency(key=key, request_sha256=hashlib.sha256(payload.body).digest())
    return None


def message_of(integration: Integration, trace: Trace, key: Idempotency | None = None) -> NewMessage:
    """Return the message that a mapped payload means."""
    value, rule = trace.result_of("dedupe"), integration.dedupe
    return NewMessage(
        tenant_id=integration.tenant_id,
        integration_id=integration.id,
        to=trace.result_of("to"),
        text=trace.result_of("text"),
        ref=trace.result_of("ref"),
        priority=integration.priority,
        on_unknown=integration.on_unknown,
        sender=integration.sender,
        tag=integration.tag,
        idempotency=key,
        dedupe=DedupeKey(value=value, rule=rule) if value and rule else None,
    )


def batch_of(integration: Integration, good: Sequence[tuple[int, MessageTrace]], key: Idempotency | None) -> NewBatch:
    """Return the batch of the messages that can be sent, each given with its place among all that the payload means."""
    return NewBatch(
        messages=tuple(message_of(integration, message.trace) for _, message in good),
        places=tuple(place for place, _ in good),
        idempotency=key,
    )

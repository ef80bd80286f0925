"""Which messages one payload means: one, one for each of its items, or one for each of an item's recipients."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from servicekit.errors import ServiceError
from services.ingress.domain import MAX_ANSWERED_TEXT_BYTES, NO_LIMIT, TextLimit
from services.ingress.errors import MissingFieldsError, TextsTooLargeError, TooManyMessagesError
from services.ingress.mapping import FieldTrace, Mapping, RoomError, Trace, map_item
from services.ingress.turns import MAX_AT_ONCE, Pause, no_pause


@dataclass(frozen=True, kw_only=True)
class MessageTrace:
    """What was tried for one message, and the place of its item in the payload; without items, of its number."""

    index: int
    trace: Trace


@dataclass(frozen=True, kw_only=True)
class PayloadTrace:
    """What was tried for each message. `is_batch` is whether the answer is a batch's, which may be one of one message.

    `for_each` is the trace of the items' path, None without one. `error` says why there are no messages at all.
    """

    messages: tuple[MessageTrace, ...] = ()
    is_batch: bool = False
    for_each: FieldTrace | None = None
    error: ServiceError | None = None


@dataclass(frozen=True, kw_only=True)
class _Items:
    values: Sequence[object]
    is_array: bool
    trace: FieldTrace | None = None


def is_large(mapping: Mapping, document: object) -> bool:
    """Tell whether a document has more recipients, or items, than are mapped without a pause."""
    if not (mapping.for_each or mapping.to.finds_many or isinstance(document, list)):
        return False
    items = _items_of(mapping, document).values
    return len(items) > MAX_AT_ONCE or sum(len(mapping.to.find(item)) for item in items) > MAX_AT_ONCE


async def map_payload(
    mapping: Mapping, document: object, limit: TextLimit = NO_LIMIT, *, max_messages: int, pause: Pause = no_pause
) -> PayloadTrace:
    """Map each item of a strict JSON document.

    A payload of more than `max_messages`, or of texts whose answer could not be given, has no message at all.
    """
    items = _items_of(mapping, document)
    if mapping.for_each and not items.values:
        error = MissingFieldsError(missing=["forEach"], tried={"forEach": [mapping.for_each.text]})
        return PayloadTrace(for_each=items.trace, error=error)
    try:
        messages = await _messages_of(mapping, items, limit, max_messages, pause)
    except RoomError:
        return PayloadTrace(for_each=items.trace, error=TooManyMessagesError(limit=max_messages))
    if _are_too_large([message.trace.result_of("text") for message in messages if not message.trace.error]):
        return PayloadTrace(for_each=items.trace, error=TextsTooLargeError(limit=MAX_ANSWERED_TEXT_BYTES))
    return PayloadTrace(messages=messages, is_batch=items.is_array or len(messages) > 1, for_each=items.trace)


async def _messages_of(
    mapping: Mapping, items: _Items, limit: TextLimit, max_messages: int, pause: Pause
) -> tuple[MessageTrace, ...]:
    if len(items.values) > max_messages:
        raise RoomError
    messages: list[MessageTrace] = []
    for index, value in enumerate(items.values):
        for trace in await map_item(mapping, value, limit, room=max_messages - len(messages), pause=pause):
            place = index if items.is_array else trace.recipient_place
            messages.append(MessageTrace(index=place, trace=trace))
        await pause()
    return tuple(messages)


def _are_too_large(texts: Sequence[str]) -> bool:
    # No character takes more than six bytes.
    if sum(map(len, texts)) * 6 <= MAX_ANSWERED_TEXT_BYTES:
        return False
    sizes = (len(json.dumps(text, ensure_ascii=False).encode()) * count for text, count in Counter(texts).items())
    return sum(sizes) > MAX_ANSWERED_TEXT_BYTES


def _items_of(mapping: Mapping, document: object) -> _Items:
    """Return what each makes messages of its own.

    An array at the root is one item for paths that read arrays, and so is an empty one, of which nothing can be said.
    """
    if mapping.for_each:
        values = mapping.for_each.find(document)
        if not mapping.for_each.finds_many and len(values) == 1 and isinstance(values[0], list):
            values = values[0]
        return _Items(values=values, is_array=True, trace=_trace_of(mapping.for_each.text, values))
    if isinstance(document, list) and document and not (mapping.to.reads_array or mapping.text.reads_array):
        return _Items(values=document, is_array=True)
    return _Items(values=[document], is_array=False)


def _trace_of(path: str, values: Sequence[object]) -> FieldTrace:
    return FieldTrace(
        field="forEach",
        path=path,
        matches=len(values),
        found=values[0] if values else None,
        problem=None if values else "there is no item at this path",
    )

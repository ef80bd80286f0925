"""The messages of one request, as Ingress submits them: one call, one transaction, one answer when it is repeated."""

from __future__ import annotations

import hashlib

import grpc
import pytest

from servicekit.ids import is_id
from services.delivery.convert import MAX_REPEATED_TEXT_BYTES
from tests.integration.delivery.conftest import refusal_of
from textway.delivery.v1.messages_service_pb2 import GetMessageRequest, ListMessagesRequest
from textway.delivery.v1.submission_service_pb2 import BatchItem, Idempotency, SubmitBatchRequest

TO = "+6581230000"


def batch(texts: list[str], items: list[BatchItem], **fields: object) -> SubmitBatchRequest:
    defaults = {"tenant_id": "ten_mine", "integration_id": "wkh_shop"}
    return SubmitBatchRequest(texts=texts, items=items, **(defaults | fields))


def numbered(count: int, text: int = 0) -> list[BatchItem]:
    return [BatchItem(place=place, to=f"+658123{place:04}", text=text, ref=str(place)) for place in range(count)]


def key(name: str = "k", body: bytes = b"body") -> Idempotency:
    return Idempotency(key=name, request_sha256=hashlib.sha256(body).digest())


async def count_of(messages, owner) -> int:
    return len((await messages.ListMessages(ListMessagesRequest(page_size=1_000), metadata=owner)).messages)


async def test_stores_each_item_with_its_text_and_what_all_have_in_common(messages, submissions, owner):
    items = [BatchItem(place=0, to=TO, text=1, ref="a"), BatchItem(place=3, to="+6581230009", text=0)]

    answer = await submissions.SubmitBatch(batch(["one", "two"], items, tag="orders", sender="+6598760000"))

    stored = [
        await messages.GetMessage(GetMessageRequest(id=accepted.id), metadata=owner) for accepted in answer.accepted
    ]
    assert [(message.to, message.text, message.ref) for message in stored] == [
        (TO, "two", "a"),
        ("+6581230009", "one", ""),
    ]
    assert {message.integration_id for message in stored} == {"wkh_shop"}
    assert is_id(answer.id, "bat")
    assert [(accepted.status, accepted.to, accepted.text) for accepted in answer.accepted] == [("queued", "", "")] * 2


async def test_answers_a_repeat_with_the_first_batch_and_stores_nothing(messages, submissions, owner):
    request = batch(["x"], numbered(3), idempotency=key())

    first = await submissions.SubmitBatch(request)
    again = await submissions.SubmitBatch(request)

    assert (first.replayed, again.replayed, again.id) == (False, True, first.id)
    assert [accepted.id for accepted in again.accepted] == [accepted.id for accepted in first.accepted]
    assert await count_of(messages, owner) == 3


async def test_says_what_the_first_message_had_where_a_repeat_means_something_else(submissions, owner):
    first = await submissions.SubmitBatch(batch(["old"], numbered(2), idempotency=key()))

    again = await submissions.SubmitBatch(batch(["new"], numbered(3), idempotency=key()))
    other = await submissions.SubmitBatch(batch(["new"], numbered(2), idempotency=key(body=b"other")))

    assert [(accepted.id, accepted.text) for accepted in again.accepted[:2]] == [
        (accepted.id, "old") for accepted in first.accepted
    ]
    assert again.accepted[2].idempotency_mismatch
    assert [accepted.idempotency_mismatch for accepted in other.accepted] == [True, True]


@pytest.mark.parametrize("mode", ["suppress", "annotate"])
async def test_applies_a_dedupe_rule_to_each_item(messages, submissions, owner, mode):
    items = [BatchItem(place=place, to=TO, dedupe_value=value) for place, value in enumerate(["a", "b", "a", ""])]

    answer = await submissions.SubmitBatch(batch(["x"], items, dedupe_window_seconds=60, dedupe_mode=mode))

    assert [accepted.duplicate for accepted in answer.accepted] == [False, False, True, False]
    assert (answer.accepted[2].id == answer.accepted[0].id) is (mode == "suppress")
    assert await count_of(messages, owner) == (3 if mode == "suppress" else 4)


async def test_takes_the_largest_batch_of_the_longest_texts(messages, submissions, owner):
    longest = "😀" * 1_600

    answer = await submissions.SubmitBatch(batch([longest], numbered(1_000), idempotency=key()))

    assert len({accepted.id for accepted in answer.accepted}) == 1_000
    told = await messages.GetMessage(GetMessageRequest(id=answer.accepted[-1].id), metadata=owner)
    assert (told.text, told.ref) == (longest, "999")


async def test_a_thousand_repeats_of_long_texts_still_have_an_answer(submissions, owner):
    items = [BatchItem(place=place, to=TO, dedupe_value=str(place)) for place in range(1_000)]
    rule = {"dedupe_window_seconds": 60, "dedupe_mode": "suppress"}
    first = await submissions.SubmitBatch(batch(["x" * 1_600], items, **rule))

    repeats = await submissions.SubmitBatch(batch(["other"], items, **rule))

    told = [accepted.text for accepted in repeats.accepted if accepted.text]
    assert [accepted.id for accepted in repeats.accepted] == [accepted.id for accepted in first.accepted]
    assert len(told) == MAX_REPEATED_TEXT_BYTES // 1_600


@pytest.mark.parametrize("count", [0, 1_001])
async def test_refuses_no_messages_and_too_many(messages, submissions, owner, count):
    refusal = await refusal_of(submissions.SubmitBatch(batch(["x"], numbered(count))))

    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("submissions",))
    assert await count_of(messages, owner) == 0

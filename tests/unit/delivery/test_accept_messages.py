"""What is checked before a message is stored, and how messages share a commit."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from servicekit.errors import UnavailableError, ValidationError
from services.delivery.accept_messages import AcceptMessages, Submission, checked_submission
from services.delivery.domain import Accepted, shard_of
from services.delivery.errors import InvalidRecipientError, TextTooLongError

SUBMISSION = Submission(tenant_id="ten_a", integration_id="wkh_1", to="+6581230000", text="hello", ref="1")


class SlowStore:
    """Holds each commit until it is let go."""

    def __init__(self):
        self.commits = []
        self.release = asyncio.Event()
        self.broken = False
        self.tries = 0

    async def add(self, messages):
        self.tries += 1
        await self.release.wait()
        if self.broken:
            raise UnavailableError("down")
        self.commits.append(list(messages))
        return [
            Accepted(message_id=each.id, to=each.to, text=each.text, ref=each.ref, created_at=each.created_at)
            for each in messages
        ]


def accepting(store, clock, *, shards=1, expect=lambda _owners: None) -> AcceptMessages:
    return AcceptMessages(
        store=store,
        clock=clock,
        shards=shards,
        validity=timedelta(hours=4),
        queue_of=lambda _submission: "default",
        expect=expect,
    )


async def test_lets_calls_that_come_during_a_commit_share_the_next_one(clock):
    store = SlowStore()
    accept = accepting(store, clock)

    calls = [asyncio.create_task(accept.accept([SUBMISSION])) for _ in range(10)]
    await asyncio.sleep(0.01)
    store.release.set()
    await asyncio.gather(*calls)

    assert [len(commit) for commit in store.commits] in ([1, 9], [10])


async def test_asks_who_wants_to_hear_of_a_message_while_it_is_stored(clock):
    store, expected = SlowStore(), []
    accept = accepting(store, clock, expect=expected.append)

    call = asyncio.create_task(accept.accept([SUBMISSION, SUBMISSION]))
    await asyncio.sleep(0.01)

    assert expected == [{("ten_a", "wkh_1")}]
    store.release.set()
    await call


async def test_answers_only_after_the_commit(clock):
    store = SlowStore()
    call = asyncio.create_task(accepting(store, clock).accept([SUBMISSION]))
    await asyncio.sleep(0.01)

    assert not call.done()

    store.release.set()
    (accepted,) = await call
    assert [[message.id for message in commit] for commit in store.commits] == [[accepted.message_id]]


async def test_tells_every_caller_of_a_commit_that_failed(clock):
    store = SlowStore()
    store.broken = True
    store.release.set()
    accept = accepting(store, clock)

    results = await asyncio.gather(*(accept.accept([SUBMISSION]) for _ in range(5)), return_exceptions=True)

    assert [type(result) for result in results] == [UnavailableError] * 5


async def test_does_not_store_what_a_caller_took_back_before_its_commit_began(clock):
    store = SlowStore()
    accept = accepting(store, clock)
    first = asyncio.create_task(accept.accept([SUBMISSION]))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(accept.accept([SUBMISSION]))
    await asyncio.sleep(0.01)

    second.cancel()
    store.release.set()
    await first
    await asyncio.sleep(0.01)

    assert [len(commit) for commit in store.commits] == [1]


async def test_spreads_messages_over_the_shards_that_are_set(clock):
    store = SlowStore()
    store.release.set()

    messages = await accepting(store, clock, shards=4).accept([SUBMISSION] * 200)

    assert {shard_of(message.message_id) for message in messages} == {0, 1, 2, 3}
    assert {shard_of(m.message_id) for m in await accepting(store, clock).accept([SUBMISSION] * 50)} == {0}


@pytest.mark.parametrize("count", [0, 1_001])
async def test_refuses_an_empty_or_an_oversized_batch(clock, count):
    with pytest.raises(ValidationError):
        await accepting(SlowStore(), clock).accept([SUBMISSION] * count)


def test_normalises_the_recipient():
    wanted = checked_submission(tenant_id="ten_a", to=" +65 8123-0000 ", text="hello")

    assert wanted.to == "+6581230000"


@pytest.mark.parametrize("to", ["6581230000", "+1800FLOWERS", "+1202551_00123x99", "+999123456789", "😀", "1" * 250])
def test_refuses_a_recipient_that_is_no_phone_number(to):
    with pytest.raises(InvalidRecipientError) as refused:
        checked_submission(tenant_id="ten_a", to=to, text="hello")

    assert refused.value.extras["to"] == to[:64]
    assert refused.value.extras["reason"]


def test_takes_1600_characters_and_not_one_more():
    assert checked_submission(tenant_id="ten_a", to="+6581230000", text="x" * 1600).text == "x" * 1600

    with pytest.raises(TextTooLongError) as refused:
        checked_submission(tenant_id="ten_a", to="+6581230000", text="x" * 1601)

    assert refused.value.extras == {"limit": 1600, "length": 1601, "unit": "characters"}


def test_lists_every_wrong_field_at_once():
    with pytest.raises(ValidationError) as refused:
        checked_submission(
            tenant_id="ten_a",
            to=" ",
            text="",
            ref="r" * 65,
            callback="ftp://example.com",
            channel="fax",
            priority="urgent",
            on_unknown="guess",
            wanted_sender="1234567890",
            tag="t" * 65,
        )

    paths = [issue.path for issue in refused.value.issues]
    assert paths == ["to", "text", "ref", "callback", "channel", "from", "tag", "priority", "onUnknown"]


def test_refuses_a_text_of_which_nobody_would_see_anything():
    with pytest.raises(ValidationError, match="text: is required"):
        checked_submission(tenant_id="ten_a", to="+6581230000", text="\u200b")


def test_takes_a_ref_of_64_characters():
    assert checked_submission(tenant_id="ten_a", to="+6581230000", text="x", ref="r" * 64).ref == "r" * 64


@pytest.mark.parametrize(("wanted_sender", "tag"), [("", ""), ("+6598765432", "alerts"), ("My Shop 24", "ü" * 64)])
def test_takes_a_sender_and_a_tag(wanted_sender, tag):
    wanted = checked_submission(tenant_id="ten_a", to="+6581230000", text="x", wanted_sender=wanted_sender, tag=tag)

    assert (wanted.wanted_sender, wanted.tag) == (wanted_sender, tag)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"wanted_sender": "ACME Company"}, "from"),
        ({"wanted_sender": "6598765432"}, "from"),
        ({"tag": "a\nb"}, "tag"),
        ({"tag": "a\x00"}, "tag"),
    ],
)
def test_refuses_a_sender_or_a_tag(fields, path):
    with pytest.raises(ValidationError) as refused:
        checked_submission(tenant_id="ten_a", to="+6581230000", text="x", **fields)

    assert [issue.path for issue in refused.value.issues] == [path]


async def test_answers_everybody_at_once_when_the_database_can_not_be_had(clock):
    store = SlowStore()
    store.broken = True
    accept = accepting(store, clock)
    calls = [asyncio.create_task(accept.accept([SUBMISSION])) for _ in range(50)]
    await asyncio.sleep(0.01)

    store.release.set()
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert {type(result) for result in results} == {UnavailableError}
    assert store.tries == 1

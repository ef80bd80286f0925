"""What every message store guarantees, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from servicekit import ids, migrations
from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery import service
from services.delivery.domain import (
    Encoding,
    Failure,
    FailureReason,
    MessageFilter,
    NewMessage,
    Outcome,
    Receipt,
    Reply,
    Status,
)
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import Begin, CancelResult, DueMessage, Finish, FinishedAttempt, Postpone, StartedAttempt

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
LEASE = NOW + timedelta(seconds=30)
TENANT = "ten_a"


@pytest.fixture(params=["memory", "file"])
async def store(request, tmp_path) -> AsyncIterator[SqlMessageStore]:
    url = {"memory": "sqlite://", "file": f"sqlite:///{tmp_path / 'delivery.db'}"}[request.param]
    database = Database.open(url)
    await migrations.migrate(database, service.MIGRATIONS, service.VERSION_TABLE)
    yield SqlMessageStore(database)
    await database.close()


def new_message(**changes: object) -> NewMessage:
    created_at = changes.get("created_at", NOW)
    message = NewMessage(
        id=ids.new_id("msg", created_at, lambda bits: ids.secrets.randbits(bits) >> 5 << 5),
        tenant_id=TENANT,
        integration_id="wkh_1",
        to="+6581230000",
        text="Order confirmed",
        ref="4821",
        callback="",
        segments=1,
        encoding=Encoding.GSM7,
        created_at=NOW,
        valid_until=NOW + timedelta(hours=4),
    )
    return replace(message, **changes)


def begin(_due: DueMessage) -> Begin:
    return Begin(carrier="simulator", sender="+6598765432")


async def claim(store: SqlMessageStore, now: datetime = NOW, limit: int = 100, decide=begin) -> list[StartedAttempt]:
    return await store.claim(shard=0, now=now, lease_until=now + timedelta(seconds=30), limit=limit, decide=decide)


def finished(attempt: StartedAttempt, **changes: object) -> FinishedAttempt:
    result = FinishedAttempt(
        message_id=attempt.message.id,
        number=attempt.number,
        token=attempt.token,
        outcome=Outcome.TAKEN,
        detail="taken",
        carrier_message_id="c-1",
        status=Status.SENT,
        failure=None,
        retry_at=None,
        finished_at=NOW + timedelta(seconds=1),
    )
    return replace(result, **changes)


def receipt(message_id: str, status: Status = Status.DELIVERED) -> Receipt:
    return Receipt(message_id=message_id, status=status, failure=None, detail="told", received_at=NOW)


async def test_gives_no_message_to_two_workers(store):
    await store.add([new_message() for _ in range(40)])

    batches = await asyncio.gather(*(claim(store, limit=7) for _ in range(12)))

    claimed = [attempt.message.id for batch in batches for attempt in batch]
    assert len(claimed) == 40
    assert len(set(claimed)) == 40


async def test_stores_all_messages_of_a_batch_or_none(store):
    first = new_message()
    await store.add([first])

    with pytest.raises(Exception, match="UNIQUE"):
        await store.add([new_message(), first])

    assert len(await store.list_messages(TENANT, MessageFilter(), PageRequest())) == 1


async def test_claims_only_what_is_due_and_longest_due_first(store):
    late, early, future = (new_message(created_at=NOW + timedelta(seconds=seconds)) for seconds in (-1, -9, 60))
    await store.add([late, early, future])

    claimed = await claim(store)

    assert [attempt.message.id for attempt in claimed] == [early.id, late.id]


async def test_commits_an_attempt_as_started_before_it_is_made(store):
    message = new_message()
    await store.add([message])

    (attempt,) = await claim(store)

    history = await store.history(TENANT, message.id)
    assert attempt.number == 1
    assert history.message.status is Status.SENDING
    assert history.message.attempts == 1
    assert [each.outcome for each in history.attempts] == [Outcome.STARTED]
    assert history.message.sender == "+6598765432"


async def test_gives_a_message_again_when_its_lease_is_over_and_closes_the_lost_attempt(store):
    message = new_message()
    await store.add([message])
    await claim(store)
    seen: list[DueMessage] = []

    assert await claim(store, LEASE - timedelta(milliseconds=1)) == []
    (second,) = await claim(store, LEASE, decide=lambda due: seen.append(due) or begin(due))

    history = await store.history(TENANT, message.id)
    assert seen[0].last_attempt.outcome is Outcome.STARTED
    assert second.number == 2
    assert [each.outcome for each in history.attempts] == [Outcome.UNKNOWN, Outcome.STARTED]


async def test_ignores_the_outcome_of_a_worker_whose_lease_was_lost(store):
    message = new_message()
    await store.add([message])
    (lost,) = await claim(store)
    (current,) = await claim(store, LEASE)

    verdicts = await store.finish([finished(lost, status=Status.FAILED, outcome=Outcome.REFUSED)])

    assert verdicts == [False]
    assert (await store.get(TENANT, message.id)).status is Status.SENDING
    assert await store.finish([finished(current)]) == [True]
    assert (await store.get(TENANT, message.id)).status is Status.SENT


async def test_records_an_outcome_once(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)

    assert await store.finish([finished(attempt)]) == [True]
    assert await store.finish([finished(attempt, status=Status.FAILED)]) == [False]

    assert (await store.get(TENANT, message.id)).status is Status.SENT


async def test_renews_only_leases_that_are_still_the_callers(store):
    kept, lost = new_message(), new_message()
    await store.add([kept, lost])
    first = {attempt.message.id: attempt for attempt in await claim(store)}
    await store.finish([finished(first[lost.id])])

    held = await store.renew(list(first.values()), LEASE + timedelta(seconds=30))

    assert held == {kept.id}
    assert await claim(store, LEASE) == []
    assert len(await claim(store, LEASE + timedelta(seconds=30))) == 1


async def test_keeps_a_finished_message_out_of_the_due_queue(store):
    await store.add([new_message()])
    (attempt,) = await claim(store)

    await store.finish([finished(attempt)])

    assert await store.next_due(0) is None


async def test_makes_a_message_due_again_at_its_retry_time(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)
    retry_at = NOW + timedelta(seconds=5)
    failure = Failure(reason=FailureReason.THROTTLED, carrier_code="429")

    await store.finish(
        [finished(attempt, outcome=Outcome.TRY_LATER, status=Status.QUEUED, failure=failure, retry_at=retry_at)]
    )

    assert await store.next_due(0) == retry_at
    assert await claim(store, retry_at - timedelta(milliseconds=1)) == []
    assert (await store.get(TENANT, message.id)).failure == failure
    (second,) = await claim(store, retry_at)
    assert second.number == 2


async def test_marks_both_attempts_of_a_possible_duplicate(store):
    message = new_message()
    await store.add([message])
    await claim(store)

    await claim(store, LEASE, decide=lambda _: Begin(carrier="simulator", sender="x", possible_duplicate=True))

    history = await store.history(TENANT, message.id)
    assert [each.possible_duplicate for each in history.attempts] == [True, True]


async def test_finishes_or_postpones_without_an_attempt_when_told_so(store):
    expired, waiting = new_message(), new_message()
    await store.add([expired, waiting])
    until = NOW + timedelta(seconds=90)

    def decide(due: DueMessage) -> Finish | Postpone:
        if due.message.id == expired.id:
            return Finish(status=Status.EXPIRED, failure=Failure(reason=FailureReason.EXPIRED))
        return Postpone(until=until)

    assert await claim(store, decide=decide) == []

    assert (await store.get(TENANT, expired.id)).status is Status.EXPIRED
    assert (await store.get(TENANT, waiting.id)).attempts == 0
    assert await store.next_due(0) == until


async def test_makes_claimed_messages_due_when_leases_are_released(store):
    claimed, waiting = new_message(), new_message(created_at=NOW + timedelta(hours=1))
    await store.add([claimed, waiting])
    await claim(store)

    assert await store.release_leases(NOW) == 1

    assert [attempt.message.id for attempt in await claim(store)] == [claimed.id]


async def test_applies_a_receipt_once_and_says_whether_its_message_exists(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)
    await store.finish([finished(attempt)])

    verdicts = await store.apply_receipts([receipt(message.id), receipt(new_message().id), receipt(message.id)])

    history = await store.history(TENANT, message.id)
    assert verdicts == [True, False, True]
    assert history.message.status is Status.DELIVERED
    assert history.message.delivered_at == NOW
    assert len(history.receipts) == 1


async def test_keeps_a_terminal_status_whatever_receipts_say_later(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)
    await store.finish([finished(attempt)])

    await store.apply_receipts([receipt(message.id, Status.UNDELIVERED)])
    await store.apply_receipts([receipt(message.id, Status.DELIVERED), receipt(message.id, Status.SENT)])

    assert (await store.get(TENANT, message.id)).status is Status.UNDELIVERED


async def test_keeps_what_a_receipt_said_before_the_outcome_was_recorded(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)

    await store.apply_receipts([receipt(message.id)])
    assert await store.finish([finished(attempt)]) == [True]

    history = await store.history(TENANT, message.id)
    assert history.message.status is Status.DELIVERED
    assert history.message.carrier_message_id == "c-1"
    assert [each.outcome for each in history.attempts] == [Outcome.TAKEN]
    assert await store.next_due(0) is None


async def test_lists_messages_that_wait_for_a_receipt(store):
    waiting, told = new_message(), new_message()
    await store.add([waiting, told])
    await store.finish([finished(attempt) for attempt in await claim(store)])
    await store.apply_receipts([receipt(told.id)])

    later = NOW + timedelta(seconds=2)
    assert [each.id for each in await store.awaiting_receipt(["simulator"], later, 10)] == [waiting.id]
    assert await store.awaiting_receipt(["simulator"], NOW, 10) == []
    assert await store.awaiting_receipt(["another"], later, 10) == []


async def test_matches_a_reply_to_the_newest_message_and_stores_it_once(store):
    older, newer = new_message(), new_message(created_at=NOW + timedelta(seconds=1))
    await store.add([older, newer])
    await claim(store, NOW + timedelta(seconds=2))
    reply = Reply(
        id="mo_1",
        carrier="simulator",
        carrier_reply_id="r-1",
        sender="+6581230000",
        recipient="+6598765432",
        text="YES",
        received_at=NOW,
    )

    await store.add_reply(reply, NOW - timedelta(days=7))
    await store.add_reply(replace(reply, id="mo_2"), NOW - timedelta(days=7))

    assert (await store.history(TENANT, newer.id)).replies == (reply,)
    assert (await store.history(TENANT, older.id)).replies == ()


async def test_cancels_only_before_the_first_attempt(store):
    message, begun = new_message(), new_message()
    await store.add([begun])
    await claim(store)
    await store.add([message])

    assert await store.cancel(TENANT, message.id, NOW) is CancelResult.CANCELED
    assert await store.cancel(TENANT, message.id, NOW) is CancelResult.BEGUN
    assert await store.cancel(TENANT, begun.id, NOW) is CancelResult.BEGUN
    assert await store.cancel("ten_b", message.id, NOW) is CancelResult.NOT_FOUND
    assert await store.cancel(TENANT, new_message().id, NOW) is CancelResult.NOT_FOUND
    assert await claim(store) == []


async def test_shows_a_tenant_only_its_own_messages(store):
    message = new_message()
    await store.add([message])

    assert await store.get("ten_b", message.id) is None
    assert await store.history("ten_b", message.id) is None
    assert await store.list_messages("ten_b", MessageFilter(), PageRequest()) == []


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (MessageFilter(), {"one", "two", "three"}),
        (MessageFilter(ref="two"), {"two"}),
        (MessageFilter(to="+6581230001"), {"three"}),
        (MessageFilter(integration_id="wkh_2"), {"two"}),
        (MessageFilter(status=Status.CANCELED), {"one"}),
        (MessageFilter(created_after=NOW + timedelta(seconds=1)), {"two", "three"}),
        (MessageFilter(created_before=NOW + timedelta(seconds=1)), {"one"}),
        (MessageFilter(ref="two", to="+6581230001"), set()),
    ],
)
async def test_lists_what_matches_every_filter(store, wanted, expected):
    one = new_message(ref="one")
    two = new_message(ref="two", created_at=NOW + timedelta(seconds=1), integration_id="wkh_2")
    three = new_message(ref="three", created_at=NOW + timedelta(seconds=2), to="+6581230001")
    await store.add([one, two, three])
    await store.cancel(TENANT, one.id, NOW)

    found = await store.list_messages(TENANT, wanted, PageRequest())

    assert {message.ref for message in found} == expected


async def test_pages_newest_first_and_never_repeats_when_messages_are_added_meanwhile(store):
    messages = [new_message(created_at=NOW + timedelta(seconds=number // 2)) for number in range(7)]
    await store.add(messages)

    first = await store.list_messages(TENANT, MessageFilter(), PageRequest(size=3))
    await store.add([new_message(created_at=NOW + timedelta(hours=1))])
    after = (int(first[-1].created_at.timestamp() * 1000), first[-1].id)
    rest = await store.list_messages(TENANT, MessageFilter(), PageRequest(size=10, after=after))

    seen = [message.id for message in [*first, *rest]]
    assert sorted(seen) == sorted(message.id for message in messages)
    assert seen == [m.id for m in sorted([*first, *rest], key=lambda m: (m.created_at, m.id), reverse=True)]


async def test_keeps_every_character_of_a_text(store):
    text = "Übergröße €5 {ok} 👩‍👩‍👧 \u202e\u200b 'quoted' \"double\" \\ %s :name"
    message = new_message(text=text, ref=text[:64])
    await store.add([message])

    found = await store.get(TENANT, message.id)

    assert found.text == text
    assert found.ref == text[:64]
    assert found.created_at == NOW

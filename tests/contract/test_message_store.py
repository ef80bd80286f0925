"""What every message store guarantees, on every engine."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from servicekit.paging import PageRequest
from services.delivery.domain import (
    BatchPlace,
    DedupeKey,
    Failure,
    FailureReason,
    IdempotencyKey,
    Message,
    MessageFilter,
    NewMessage,
    OnUnknown,
    Outcome,
    Priority,
    Receipt,
    Resolution,
    Resolved,
    Status,
)
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import (
    Begin,
    CancelResult,
    DueMessage,
    Finish,
    FinishedAttempt,
    Postpone,
    ReceiptResult,
    ResolveResult,
    StartedAttempt,
)
from tests.kit import claims, messages
from tests.kit.claims import ROUTE, begin

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
LEASE = NOW + timedelta(seconds=30)
TENANT = "ten_a"


@pytest.fixture
def store(database) -> SqlMessageStore:
    return SqlMessageStore(database)


def new_message(**changes: object) -> NewMessage:
    return messages.new_message(NOW, **({"ref": "4821"} | changes))


def to_default(_message: Message) -> str:
    return ROUTE


async def claim(store: SqlMessageStore, now: datetime = NOW, limit: int = 100, decide=begin) -> list[StartedAttempt]:
    return await claims.claim(store, now=now, limit=limit, decide=decide)


def finished(attempt: StartedAttempt, **changes: object) -> FinishedAttempt:
    result = FinishedAttempt(
        message_id=attempt.message.id,
        number=attempt.number,
        carrier=attempt.carrier,
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
    return Receipt(
        message_id=message_id,
        carrier="simulator",
        carrier_message_id="",
        status=status,
        failure=None,
        detail="told",
        received_at=NOW,
    )


async def test_gives_no_message_to_two_workers(store):
    await store.add([new_message() for _ in range(40)])

    batches = await asyncio.gather(*(claim(store, limit=7) for _ in range(12)))

    claimed = [attempt.message.id for batch in batches for attempt in batch]
    assert len(claimed) == 40
    assert len(set(claimed)) == 40


async def test_stores_all_messages_of_a_batch_or_none(store):
    first = new_message()
    await store.add([first])

    with pytest.raises(Exception, match=r"(?i)unique"):
        await store.add([new_message(), first])

    assert len(await store.list_messages(TENANT, MessageFilter(), PageRequest())) == 1


async def test_sends_one_integrations_messages_in_the_order_in_which_they_came(store):
    first, second = [new_message() for _ in range(3)], [new_message() for _ in range(3)]
    await store.add(first)
    await store.add(second)

    claimed = [await claim(store, limit=4), await claim(store, limit=4)]

    assert [attempt.message.id for batch in claimed for attempt in batch] == [m.id for m in [*first, *second]]


async def test_lets_integrations_take_turns_however_long_their_queues_are(store):
    await store.add([new_message(integration_id="wkh_flood") for _ in range(400)])
    await claim(store, limit=50)
    await store.add([new_message(integration_id="wkh_small") for _ in range(10)])
    await store.add([new_message(integration_id="wkh_flood") for _ in range(100)])

    claimed = await claim(store, limit=22)

    owners = [attempt.message.integration_id for attempt in claimed]
    assert owners.count("wkh_small") == 10
    assert owners.count("wkh_flood") == 12


async def test_lets_high_priority_go_first_and_starves_nobody(store):
    await store.add([new_message(integration_id="wkh_1", priority=Priority.LOW) for _ in range(50)])
    await store.add([new_message(integration_id="wkh_2") for _ in range(50)])
    await store.add([new_message(integration_id="wkh_3", priority=Priority.HIGH) for _ in range(1500)])

    order = [attempt.message.priority for _ in range(16) for attempt in await claim(store, limit=100)]

    assert order[:1000] == [Priority.HIGH] * 1000
    mixed = order[1030:1500]
    assert 0.08 < mixed.count(Priority.NORMAL) / len(mixed) < 0.16
    assert Priority.LOW in mixed
    assert len(order) == 1600


async def test_does_not_let_retries_of_one_integration_delay_another(store):
    await store.add([new_message(integration_id="wkh_flood") for _ in range(100)])
    failure = Failure(reason=FailureReason.CARRIER_UNAVAILABLE)
    retry_at = NOW + timedelta(seconds=5)
    await store.finish(
        [
            finished(attempt, outcome=Outcome.TRY_LATER, status=Status.QUEUED, failure=failure, retry_at=retry_at)
            for attempt in await claim(store)
        ]
    )
    assert await claim(store, NOW) == []
    await store.add([new_message(integration_id="wkh_small") for _ in range(5)])

    claimed = await claim(store, retry_at, limit=12)

    owners = [attempt.message.integration_id for attempt in claimed]
    assert owners.count("wkh_small") == 5
    assert owners.count("wkh_flood") == 7


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


async def test_renews_no_lease_of_an_attempt_that_has_ended_meanwhile(store):
    await store.add([new_message()])
    (attempt,) = await claim(store)
    retry_at = NOW + timedelta(minutes=10)
    await store.finish(
        [
            finished(
                attempt,
                outcome=Outcome.TRY_LATER,
                status=Status.QUEUED,
                failure=Failure(reason=FailureReason.THROTTLED),
                retry_at=retry_at,
            )
        ]
    )

    assert await store.renew([attempt], LEASE + timedelta(seconds=30)) == set()

    assert await store.next_due(0, [ROUTE]) == retry_at


async def test_keeps_a_finished_message_out_of_the_due_queue(store):
    await store.add([new_message()])
    (attempt,) = await claim(store)

    await store.finish([finished(attempt)])

    assert await store.next_due(0, [ROUTE]) is None


async def test_makes_a_message_due_again_at_its_retry_time(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)
    retry_at = NOW + timedelta(seconds=5)
    failure = Failure(reason=FailureReason.THROTTLED, carrier_code="429")

    await store.finish(
        [finished(attempt, outcome=Outcome.TRY_LATER, status=Status.QUEUED, failure=failure, retry_at=retry_at)]
    )

    assert await store.next_due(0, [ROUTE]) == retry_at
    assert await claim(store, retry_at - timedelta(milliseconds=1)) == []
    assert (await store.get(TENANT, message.id)).failure == failure
    (second,) = await claim(store, retry_at)
    assert second.number == 2


async def test_marks_both_attempts_of_a_possible_duplicate(store):
    message = new_message()
    await store.add([message])
    await claim(store)

    await claim(store, LEASE, decide=lambda _: Begin(carrier="simulator", sender="x", doubles=1))

    history = await store.history(TENANT, message.id)
    assert [each.possible_duplicate for each in history.attempts] == [True, True]


async def test_marks_the_attempt_in_doubt_and_not_the_one_between(store):
    message = new_message()
    await store.add([message])
    await claim(store)
    (second,) = await claim(store, LEASE)
    later = LEASE + timedelta(seconds=1)
    failure = Failure(reason=FailureReason.CARRIER_UNAVAILABLE)
    await store.finish(
        [finished(second, outcome=Outcome.TRY_LATER, status=Status.QUEUED, failure=failure, retry_at=later)]
    )

    await claim(store, later, decide=lambda _: Begin(carrier="simulator", sender="x", doubles=1))

    history = await store.history(TENANT, message.id)
    assert [each.possible_duplicate for each in history.attempts] == [True, False, True]


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
    assert await store.next_due(0, [ROUTE]) == until


async def test_makes_claimed_messages_due_when_leases_are_released(store):
    claimed, waiting = new_message(), new_message()
    await store.add([claimed])
    await claim(store)
    await store.add([waiting])

    assert await store.release_leases(NOW) == 1

    assert {attempt.message.id for attempt in await claim(store)} == {claimed.id, waiting.id}


async def test_applies_a_receipt_once_and_says_what_came_of_it(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)
    await store.finish([finished(attempt)])

    verdicts = await store.apply_receipts([receipt(message.id), receipt(new_message().id), receipt(message.id)])

    history = await store.history(TENANT, message.id)
    assert verdicts == [ReceiptResult.APPLIED, ReceiptResult.UNKNOWN, ReceiptResult.REPEATED]
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
    assert await store.next_due(0, [ROUTE]) is None


async def test_does_not_send_again_what_a_receipt_says_the_carrier_has(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)
    retry_at = NOW + timedelta(seconds=90)
    await store.finish([finished(attempt, outcome=Outcome.UNKNOWN, status=Status.SENDING, retry_at=retry_at)])

    await store.apply_receipts([receipt(message.id, status=Status.SENT)])

    assert await store.next_due(0, [ROUTE]) is None
    assert (await store.get(TENANT, message.id)).status is Status.SENT


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


async def test_keeps_from_whom_a_message_is_wanted_and_its_tag(store):
    message = new_message(wanted_sender="My Shop 24", tag="älerts")
    await store.add([message])

    found = await store.get(TENANT, message.id)

    assert (found.wanted_sender, found.tag, found.sender) == ("My Shop 24", "älerts", "")


def request_key(key: str = "k1", body: bytes = b"body", scope: str = "wkh_1") -> IdempotencyKey:
    return IdempotencyKey(
        scope=scope,
        key=key,
        request_sha256=hashlib.sha256(body).digest(),
        expires_at=NOW + timedelta(hours=24),
    )


def meaning(value: str = "order 4821", *, suppresses: bool = True, scope: str = "wkh_1") -> DedupeKey:
    return DedupeKey(scope=scope, value=value, expires_at=NOW + timedelta(hours=1), suppresses=suppresses)


def batch_key(batch_id: str, place: int, key: str = "k1", body: bytes = b"body") -> IdempotencyKey:
    return replace(request_key(key, body), batch=BatchPlace(batch_id=batch_id, place=place))


async def stored_count(store) -> int:
    return len(await store.list_messages(TENANT, MessageFilter(), PageRequest(size=1000)))


def batch(batch_id: str, places: Iterable[int] = range(3), **key: object) -> list[NewMessage]:
    return [new_message(idempotency=batch_key(batch_id, place, **key), text=f"{batch_id} {place}") for place in places]


async def test_answers_a_repeated_batch_with_the_first_one_place_by_place(store):
    first = batch("bat_1")
    original = await store.add(first)

    repeat = await store.add(batch("bat_2"))

    assert [(answer.message_id, answer.replayed, answer.batch_id) for answer in original] == [
        (message.id, False, "") for message in first
    ]
    assert [(answer.message_id, answer.replayed, answer.batch_id) for answer in repeat] == [
        (message.id, True, "bat_1") for message in first
    ]
    assert [answer.text for answer in repeat] == ["bat_1 0", "bat_1 1", "bat_1 2"]
    assert await stored_count(store) == 3


async def test_a_repeated_batch_stores_nothing_at_places_that_the_first_did_not_have(store):
    first = batch("bat_1", places=[0, 2])
    await store.add(first)

    answers = await store.add(batch("bat_2", places=[0, 1, 2, 3]))

    assert [answer.mismatch for answer in answers] == [False, True, False, True]
    assert [answer.message_id for answer in answers if not answer.mismatch] == [message.id for message in first]
    assert await stored_count(store) == 2


async def test_a_batch_whose_key_came_with_another_body_stores_nothing(store):
    await store.add(batch("bat_1"))

    answers = await store.add(batch("bat_2", body=b"other"))

    assert [answer.mismatch for answer in answers] == [True] * 3
    assert await stored_count(store) == 3


async def test_a_key_is_a_batchs_or_a_single_messages_and_never_both(store):
    await store.add(batch("bat_1", key="of a batch"))
    await store.add([new_message(idempotency=request_key("of one"))])

    answers = await store.add(
        [new_message(idempotency=request_key("of a batch")), *batch("bat_2", places=[0], key="of one")]
    )

    assert [answer.mismatch for answer in answers] == [True, True]
    assert await stored_count(store) == 4


async def test_of_the_same_batch_many_times_at_once_one_is_stored(store):
    answers = await asyncio.gather(*(store.add(batch(f"bat_{number}")) for number in range(8)))

    together = await store.add(batch("bat_a", key="k2") + batch("bat_b", key="k2"))

    assert await stored_count(store) == 6
    assert len({tuple(answer.message_id for answer in each) for each in answers}) == 1
    assert [answer.message_id for answer in together[:3]] == [answer.message_id for answer in together[3:]]
    assert [answer.batch_id for answer in together] == [""] * 3 + ["bat_a"] * 3


async def test_a_batch_suppresses_what_its_dedupe_rule_knows_and_a_replay_says_the_same(store):
    def alike(batch_id: str) -> list[NewMessage]:
        meanings = ("a", "b", "a")
        return [replace(message, dedupe=meaning(word)) for message, word in zip(batch(batch_id), meanings, strict=True)]

    answers = await store.add(alike("bat_1"))
    replay = await store.add(alike("bat_2"))

    assert [answer.duplicate for answer in answers] == [False, False, True]
    assert answers[2].message_id == answers[0].message_id
    assert [(answer.message_id, answer.duplicate) for answer in replay] == [
        (answer.message_id, answer.duplicate) for answer in answers
    ]
    assert await stored_count(store) == 2


async def test_the_largest_batch_is_one_transaction(store):
    wanted = [replace(message, dedupe=meaning(message.id)) for message in batch("bat_1", places=range(1_000))]

    answers = await store.add(wanted)
    replay = await store.add(batch("bat_2", places=range(1_000)))

    assert [answer.message_id for answer in answers] == [message.id for message in wanted]
    assert [answer.message_id for answer in replay] == [message.id for message in wanted]


async def test_answers_a_repeated_request_with_the_first_message(store):
    first = new_message(idempotency=request_key(), text="first words")
    (original,) = await store.add([first])

    (repeat,) = await store.add([new_message(idempotency=request_key(), text="mapped anew")])

    assert (original.message_id, original.replayed) == (first.id, False)
    assert (repeat.message_id, repeat.replayed, repeat.mismatch) == (first.id, True, False)
    assert repeat.text == "first words"
    assert await stored_count(store) == 1
    assert len(await claim(store)) == 1


async def test_tells_the_first_answer_to_a_request_and_stores_nothing(store):
    first, other = new_message(idempotency=request_key()), new_message(idempotency=request_key("k2"), dedupe=meaning())
    suppressed = new_message(idempotency=request_key("k3"), dedupe=meaning())
    await store.add([first, other, suppressed, *batch("bat_1", key="of a batch")])
    before = await stored_count(store)

    answer = await store.first_answer(TENANT, request_key(), NOW)
    duplicate = await store.first_answer(TENANT, request_key("k3"), NOW)
    unknown = [
        await store.first_answer(TENANT, request_key("new"), NOW),
        await store.first_answer(TENANT, request_key(body=b"other"), NOW),
        await store.first_answer(TENANT, request_key(scope="wkh_2"), NOW),
        await store.first_answer("ten_other", request_key(), NOW),
        await store.first_answer(TENANT, request_key(), NOW + timedelta(hours=24)),
        await store.first_answer(TENANT, request_key("of a batch"), NOW),
    ]

    (repeat,) = await store.add([new_message(idempotency=request_key())])
    assert answer == repeat
    assert (answer.message_id, answer.replayed, answer.duplicate) == (first.id, True, False)
    assert (duplicate.message_id, duplicate.replayed, duplicate.duplicate) == (other.id, True, True)
    assert unknown == [None] * 6
    assert await stored_count(store) == before


async def test_tells_a_known_key_with_another_body_and_stores_nothing_for_it(store):
    await store.add([new_message(idempotency=request_key())])

    answers = await store.add([new_message(idempotency=request_key(body=b"other")), new_message()])

    assert [answer.mismatch for answer in answers] == [True, False]
    assert await stored_count(store) == 2


async def test_knows_repeats_within_one_batch(store):
    batch = [new_message(idempotency=request_key()) for _ in range(3)]
    batch.append(new_message(idempotency=request_key(body=b"other")))

    answers = await store.add(batch)

    assert [answer.message_id for answer in answers[:3]] == [batch[0].id] * 3
    assert [answer.replayed for answer in answers[:3]] == [False, True, True]
    assert answers[3].mismatch
    assert await stored_count(store) == 1


async def test_stores_one_message_for_concurrent_requests_with_one_key(store):
    keys = [request_key(f"k{number}") for number in range(10)]

    answers = await asyncio.gather(
        *(store.add([new_message(idempotency=key) for key in keys]) for _ in range(8)),
        *(store.add([new_message(idempotency=key) for key in reversed(keys)]) for _ in range(8)),
    )

    assert await stored_count(store) == 10
    by_key = [{batch[number].message_id for batch in answers[:8]} for number in range(10)]
    assert all(len(ids_of_key) == 1 for ids_of_key in by_key)


async def test_counts_a_key_within_its_scope_and_until_it_expires(store):
    await store.add([new_message(idempotency=request_key())])

    (elsewhere,) = await store.add([new_message(idempotency=request_key(scope="wkh_2"))])
    later = NOW + timedelta(hours=24)
    (expired,) = await store.add([new_message(created_at=later, idempotency=request_key())])

    assert not elsewhere.replayed
    assert not expired.replayed
    assert await stored_count(store) == 3


async def test_suppresses_what_means_the_same_message(store):
    first = new_message(dedupe=meaning())
    await store.add([first])

    (repeat, other) = await store.add([new_message(dedupe=meaning()), new_message(dedupe=meaning("order 9"))])

    assert (repeat.message_id, repeat.duplicate, repeat.replayed) == (first.id, True, False)
    assert not other.duplicate
    assert await stored_count(store) == 2


async def test_sends_a_duplicate_that_is_only_to_be_annotated(store):
    await store.add([new_message(dedupe=meaning(suppresses=False))])
    repeat = new_message(dedupe=meaning(suppresses=False))

    (answer,) = await store.add([repeat])

    assert (answer.message_id, answer.duplicate) == (repeat.id, True)
    assert await stored_count(store) == 2


async def test_takes_a_payload_for_a_new_message_after_the_window(store):
    await store.add([new_message(dedupe=meaning())])

    (answer,) = await store.add([new_message(created_at=NOW + timedelta(hours=1), dedupe=meaning())])

    assert not answer.duplicate
    assert await stored_count(store) == 2


async def test_replays_the_answer_of_a_request_that_was_suppressed(store):
    first = new_message(dedupe=meaning())
    await store.add([first])
    await store.add([new_message(idempotency=request_key(), dedupe=meaning())])

    (replay,) = await store.add([new_message(idempotency=request_key(), dedupe=meaning())])

    assert (replay.message_id, replay.replayed, replay.duplicate) == (first.id, True, True)
    assert await stored_count(store) == 1


async def test_does_not_let_a_replay_claim_a_dedupe_key_anew(store):
    first = new_message(idempotency=request_key(), dedupe=meaning())
    await store.add([first])
    later = NOW + timedelta(hours=2)  # the dedupe window is over, the idempotency key still counts
    await store.add([new_message(created_at=later, idempotency=request_key(), dedupe=meaning())])

    fresh = new_message(created_at=later, dedupe=replace(meaning(), expires_at=later + timedelta(hours=1)))
    (answer,) = await store.add([fresh])

    assert (answer.message_id, answer.duplicate) == (fresh.id, False)


async def test_forgets_keys_that_count_no_more(store):
    await store.add([new_message(idempotency=request_key(f"k{number}")) for number in range(5)])

    assert await store.remove_expired_keys(NOW + timedelta(hours=23), 100) == 0
    assert await store.remove_expired_keys(NOW + timedelta(hours=24), 3) == 3
    assert await store.remove_expired_keys(NOW + timedelta(hours=24), 3) == 2


@pytest.mark.parametrize(
    ("resolution", "status", "sent_again"),
    [(Resolution.SENT, Status.SENT, 0), (Resolution.FAILED, Status.FAILED, 0), (Resolution.RESEND, Status.QUEUED, 1)],
)
async def test_settles_a_held_message_as_the_operator_decides(store, resolution, status, sent_again):
    message = new_message(on_unknown=OnUnknown.HOLD)
    await store.add([message])
    (attempt,) = await claim(store)
    no_answer = Failure(reason=FailureReason.NO_ANSWER)
    await store.finish([finished(attempt, outcome=Outcome.UNKNOWN, status=Status.UNKNOWN, failure=no_answer)])
    held, later = await store.get(TENANT, message.id), NOW + timedelta(hours=1)
    assert held.status is Status.UNKNOWN
    assert await claim(store, LEASE) == []

    assert await store.resolve("ten_b", message.id, resolution, later, queue_of=to_default) is ResolveResult.NOT_FOUND
    assert await store.resolve(TENANT, message.id, resolution, later, queue_of=to_default) is ResolveResult.RESOLVED
    assert await store.resolve(TENANT, message.id, resolution, later, queue_of=to_default) is ResolveResult.NOT_HELD

    resolved = await store.get(TENANT, message.id)
    assert resolved.status is status
    history = await store.history(TENANT, message.id)
    assert [(each.at, each.resolution) for each in history.resolved] == [(later, resolution)]
    assert history.resolved[0].held_at == held.updated_at
    assert len(await claim(store, later)) == sent_again
    if sent_again:
        assert resolved.on_unknown is OnUnknown.RESEND


async def test_lets_a_receipt_settle_a_held_message_and_remembers_that_it_was_held(store):
    message = new_message()
    await store.add([message])
    (attempt,) = await claim(store)
    await store.finish([finished(attempt, outcome=Outcome.UNKNOWN, status=Status.UNKNOWN)])
    held, later = await store.get(TENANT, message.id), NOW + timedelta(hours=1)

    await store.apply_receipts([replace(receipt(message.id), received_at=later)] * 2)

    assert (await store.get(TENANT, message.id)).status is Status.DELIVERED
    history = await store.history(TENANT, message.id)
    assert history.resolved == (Resolved(held_at=held.updated_at, at=later, resolution=None),)


async def test_removes_old_finished_messages_in_steps_and_nothing_else(store):
    old = [new_message(created_at=NOW - timedelta(days=31)) for _ in range(5)]
    unfinished, young = new_message(created_at=NOW - timedelta(days=31)), new_message()
    await store.add([*old, young])
    await store.finish([finished(attempt) for attempt in await claim(store)])
    await store.apply_receipts([receipt(message.id) for message in [*old, young]])
    await store.add([unfinished])
    before = NOW - timedelta(days=30)

    removed = [await store.remove_finished(0, before, 3) for _ in range(3)]

    assert removed == [3, 2, 0]
    left = await store.list_messages(TENANT, MessageFilter(), PageRequest())
    assert {message.id for message in left} == {unfinished.id, young.id}
    assert await store.history(TENANT, old[0].id) is None
    assert len((await store.history(TENANT, young.id)).attempts) == 1


async def test_knows_a_repeated_cancellation_by_its_key(store):
    message = new_message()
    await store.add([message])
    key = request_key(scope=f"{TENANT}/{message.id}/cancel")

    results = [await store.cancel(TENANT, message.id, NOW, key) for _ in range(2)]
    other = await store.cancel(TENANT, message.id, NOW, replace(key, request_sha256=b"other"))

    assert results == [CancelResult.CANCELED, CancelResult.REPLAYED]
    assert other is CancelResult.MISMATCH


async def test_does_not_remember_a_request_that_was_refused(store):
    message = new_message()
    await store.add([message])
    await claim(store)

    results = [await store.cancel(TENANT, message.id, NOW, request_key()) for _ in range(2)]

    assert results == [CancelResult.BEGUN, CancelResult.BEGUN]


async def test_knows_a_repeated_resolution_by_its_key_and_resends_once(store):
    message = new_message(on_unknown=OnUnknown.HOLD)
    await store.add([message])
    (attempt,) = await claim(store)
    await store.finish([finished(attempt, outcome=Outcome.UNKNOWN, status=Status.UNKNOWN)])

    results = await asyncio.gather(
        *(
            store.resolve(TENANT, message.id, Resolution.RESEND, NOW, request_key(), queue_of=to_default)
            for _ in range(5)
        )
    )

    assert sorted(result.value for result in results) == ["replayed"] * 4 + ["resolved"]
    assert len(await claim(store)) == 1


async def test_a_message_keeps_the_request_that_it_came_by_for_whoever_sends_it_later(store):
    origin = {"request_id": "req-1", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    await store.add([new_message(**origin)])
    await claim(store)

    (again,) = await claim(store, now=LEASE)

    assert {name: getattr(again.message, name) for name in origin} == origin
    assert again.number == 2


async def test_who_watches_hears_of_messages_that_receipts_have_moved_and_of_no_others(database):
    heard: list[Message] = []
    store = SqlMessageStore(database, on_moved=heard.extend)
    await store.add([new_message()])
    (attempt,) = await claim(store)
    await store.finish([finished(attempt)])

    for _ in range(2):
        await store.apply_receipts([receipt(attempt.message.id)])

    (moved,) = heard
    assert (moved.id, moved.status) == (attempt.message.id, Status.DELIVERED)

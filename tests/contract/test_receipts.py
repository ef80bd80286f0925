"""What every message store does with receipts, on every engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.delivery.domain import Failure, FailureReason, Outcome, Receipt, Status
from services.delivery.receipt_rules import PARKED_FOR
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import Begin, FinishedAttempt, ReceiptResult, StartedAttempt
from tests.contract.test_message_store import NOW, TENANT, finished, new_message
from tests.kit.claims import claim

APPLIED, REPEATED, PARKED, UNKNOWN = ReceiptResult
LATER = NOW + timedelta(seconds=60)


@pytest.fixture
def store(database) -> SqlMessageStore:
    return SqlMessageStore(database)


def told(status: Status = Status.DELIVERED, **changes: object) -> Receipt:
    receipt = Receipt(
        message_id="",
        carrier="main",
        carrier_message_id="",
        status=status,
        failure=None,
        detail="told",
        received_at=NOW,
    )
    return replace(receipt, **changes)


def by_id(carrier_message_id: str, status: Status = Status.DELIVERED, **changes: object) -> Receipt:
    return told(status, carrier_message_id=carrier_message_id, **changes)


async def start(store: SqlMessageStore, carrier: str = "main", *, now=NOW) -> StartedAttempt:
    (attempt,) = await claim(store, now=now, decide=lambda _due: Begin(carrier=carrier, sender="+6598765432"))
    return attempt


def unknown(attempt: StartedAttempt) -> FinishedAttempt:
    return finished(
        attempt, outcome=Outcome.UNKNOWN, status=Status.SENDING, carrier_message_id="", retry_at=NOW + timedelta(30)
    )


def refused_for_now(attempt: StartedAttempt) -> FinishedAttempt:
    failure = Failure(reason=FailureReason.THROTTLED)
    return finished(
        attempt,
        outcome=Outcome.TRY_LATER,
        status=Status.QUEUED,
        carrier_message_id="",
        failure=failure,
        retry_at=LATER,
    )


async def sent(store: SqlMessageStore, carrier_message_id: str = "c-1", part_ids=(), **changes: object) -> str:
    """Store a message that a carrier took; return its id."""
    message = new_message(**changes)
    await store.add([message])
    attempt = await start(store)
    await store.finish([finished(attempt, carrier_message_id=carrier_message_id, part_ids=part_ids)])
    return message.id


async def resent(store: SqlMessageStore, *carriers: str) -> tuple[str, list[StartedAttempt]]:
    """Store a message with an attempt by each carrier, all but the last of unknown outcome and the last under way."""
    message = new_message()
    await store.add([message])
    attempts = []
    for number, carrier in enumerate(carriers):
        now = NOW + timedelta(seconds=number)
        attempts.append(await start(store, carrier, now=now))
        if number < len(carriers) - 1:
            await store.finish([replace(unknown(attempts[-1]), retry_at=now + timedelta(seconds=1))])
    return message.id, attempts


async def status(store: SqlMessageStore, message_id: str) -> Status:
    return (await store.get(TENANT, message_id)).status


async def test_finds_a_message_by_the_carriers_own_id(store):
    message_id = await sent(store)

    results = await store.apply_receipts([by_id("c-1"), by_id("c-1")])

    history = await store.history(TENANT, message_id)
    assert results == [APPLIED, REPEATED]
    assert history.message.status is Status.DELIVERED
    assert [(each.attempt, each.part) for each in history.receipts] == [(1, 0)]


async def test_applies_the_same_word_once_across_batches(store):
    message_id = await sent(store)
    await store.apply_receipts([by_id("c-1", Status.SENT)])

    results = await store.apply_receipts([by_id("c-1", Status.SENT, detail="again"), by_id("c-1")])

    assert results == [REPEATED, APPLIED]
    assert len((await store.history(TENANT, message_id)).receipts) == 2


async def test_does_not_take_one_carriers_id_for_anothers(store):
    message_id = await sent(store)

    assert await store.apply_receipts([by_id("c-1", carrier="other")]) == [PARKED]

    assert await status(store, message_id) is Status.SENT


async def test_ignores_a_carrier_that_claims_a_message_which_it_never_had(store):
    message_id = await sent(store)

    results = await store.apply_receipts(
        [told(message_id=message_id, carrier="other"), by_id("x", message_id=message_id, carrier="other")]
    )

    assert results == [UNKNOWN, UNKNOWN]
    assert (await store.history(TENANT, message_id)).receipts == ()
    assert await status(store, message_id) is Status.SENT


async def test_ignores_a_receipt_for_a_message_that_no_attempt_has_begun_for(store):
    message = new_message()
    await store.add([message])

    assert await store.apply_receipts([told(message_id=message.id)]) == [UNKNOWN]

    assert await status(store, message.id) is Status.QUEUED


@pytest.mark.parametrize("garbage", ["", "msg_", "msg_1", "nonsense", "msg_" + "0" * 26, "x\u00e9"])
async def test_ignores_what_is_no_id_of_ours(store, garbage):
    assert await store.apply_receipts([told(message_id=garbage)]) == [UNKNOWN]


async def test_of_two_ids_ours_says_which_message(store):
    first, second = await sent(store, "c-1"), await sent(store, "c-2")

    await store.apply_receipts([by_id("c-1", message_id=second)])

    assert [await status(store, each) for each in (first, second)] == [Status.SENT, Status.DELIVERED]


@pytest.mark.parametrize("last", [Status.DELIVERED, Status.UNDELIVERED])
async def test_does_not_take_a_word_on_an_older_attempt_for_one_on_the_attempt_that_has_another_id(store, last):
    message_id, (_, second) = await resent(store, "main", "main")
    await store.finish([finished(second, carrier_message_id="c-2")])

    first = by_id("c-1", Status.UNDELIVERED, message_id=message_id)
    assert await store.apply_receipts([first, first]) == [APPLIED, REPEATED]
    assert await status(store, message_id) is Status.SENT

    assert await store.apply_receipts([by_id("c-2", last, message_id=message_id)]) == [APPLIED]
    assert await status(store, message_id) is last


async def test_believes_an_id_of_another_form_where_every_attempt_has_one(store):
    message_id = await sent(store, "0x1F")

    assert await store.apply_receipts([by_id("31", Status.UNDELIVERED, message_id=message_id)]) == [APPLIED]

    assert await status(store, message_id) is Status.UNDELIVERED


async def test_believes_an_id_of_another_form_of_the_attempt_that_was_not_refused(store):
    message = new_message()
    await store.add([message])
    await store.finish([refused_for_now(await start(store))])
    decide = lambda _due: Begin(carrier="main", sender="+6511111111")  # noqa: E731
    (taken,) = await claim(store, now=LATER, decide=decide)
    await store.finish([finished(taken, carrier_message_id="0x1F")])

    opted_out = Failure(reason=FailureReason.OPTED_OUT)
    receipt = by_id("31", Status.UNDELIVERED, message_id=message.id, failure=opted_out)
    assert await store.apply_receipts([receipt]) == [APPLIED]

    assert await status(store, message.id) is Status.UNDELIVERED
    again = new_message()
    await store.add([again])
    assert await claim(store, now=LATER, decide=decide) == []
    assert await status(store, again.id) is Status.SUPPRESSED


@pytest.mark.parametrize("told_status", [Status.DELIVERED, Status.UNDELIVERED])
async def test_does_not_wait_for_an_id_where_the_other_attempts_were_refused(store, told_status):
    message = new_message()
    await store.add([message])
    await store.finish([refused_for_now(await start(store))])
    await start(store, now=LATER)

    assert await store.apply_receipts([by_id("c-2", told_status, message_id=message.id)]) == [APPLIED]

    assert await status(store, message.id) is told_status
    assert await claim(store, now=LATER + timedelta(hours=1)) == []


async def test_does_not_send_again_what_an_attempt_has_delivered_though_its_id_is_not_known(store):
    message_id, _ = await resent(store, "main", "main")

    assert await store.apply_receipts([by_id("c-1", message_id=message_id)]) == [APPLIED]

    assert await status(store, message_id) is Status.DELIVERED
    assert await claim(store, now=NOW + timedelta(hours=1)) == []


async def test_waits_for_the_id_of_the_attempt_under_way_before_it_believes_one_that_nobody_knows(store):
    message_id, (_, second) = await resent(store, "main", "main")

    assert await store.apply_receipts([by_id("c-1", Status.UNDELIVERED, message_id=message_id)]) == [PARKED]
    await store.finish([finished(second, carrier_message_id="c-2")])
    await store.settle_parked(10, since=NOW - timedelta(hours=1))
    assert await status(store, message_id) is Status.SENT

    await store.apply_receipts([by_id("c-2", Status.DELIVERED, message_id=message_id)])
    assert await status(store, message_id) is Status.DELIVERED


async def test_takes_the_receipts_of_parts_that_the_carrier_names_when_their_attempt_has_ended(store):
    message = new_message(segments=2)
    await store.add([message])
    await store.finish([unknown(await start(store))])
    taken = told(Status.SENT, message_id=message.id, attempt=1, part_ids=("p-1", "p-2"))

    assert await store.apply_receipts([by_id("p-1")]) == [PARKED]
    assert await store.apply_receipts([taken, taken]) == [APPLIED, REPEATED]
    assert await status(store, message.id) is Status.SENT
    assert await claim(store, now=NOW + timedelta(31)) == []

    await store.settle_parked(10, since=NOW - timedelta(hours=1))
    assert await status(store, message.id) is Status.SENT
    await store.apply_receipts([by_id("p-2")])
    assert await status(store, message.id) is Status.DELIVERED


async def test_tells_the_parts_of_an_attempt_that_are_named_late_from_those_of_the_next(store):
    message_id, (_, second) = await resent(store, "main", "main")

    await store.apply_receipts([told(Status.SENT, message_id=message_id, attempt=1, part_ids=("p-1", "p-2"))])
    assert await store.finish([finished(second, carrier_message_id="q-1", part_ids=("q-1", "q-2"))]) == [True]

    await store.apply_receipts([by_id("p-1"), by_id("q-2")])
    assert await status(store, message_id) is Status.SENT
    await store.apply_receipts([by_id("q-1")])
    assert await status(store, message_id) is Status.DELIVERED


async def test_an_attempt_ends_as_it_would_when_its_parts_have_been_told_before_its_end(store):
    message_id, (_, second) = await resent(store, "main", "main")
    parts = ("p-1", "p-2")

    await store.apply_receipts([told(Status.SENT, message_id=message_id, attempt=2, part_ids=parts)])

    assert await store.finish([finished(second, carrier_message_id="p-1", part_ids=parts)]) == [True]
    await store.apply_receipts([by_id("p-1"), by_id("p-2")])
    assert await status(store, message_id) is Status.DELIVERED


async def test_takes_an_id_that_the_carrier_used_before_for_the_newer_message(store):
    older = await sent(store, "c-1")
    newer = await sent(store, "c-1", created_at=NOW + timedelta(seconds=1))

    await store.apply_receipts([by_id("c-1")])

    assert [await status(store, each) for each in (older, newer)] == [Status.SENT, Status.DELIVERED]


async def test_keeps_the_reason_and_the_carriers_code_of_a_message_that_was_not_delivered(store):
    message_id = await sent(store)
    failure = Failure(reason=FailureReason.OPTED_OUT, carrier_code="21610")

    await store.apply_receipts([by_id("c-1", Status.UNDELIVERED, failure=failure)])

    history = await store.history(TENANT, message_id)
    assert history.message.status is Status.UNDELIVERED
    assert history.message.failure == failure
    assert history.receipts[0].failure == failure


class TestParts:
    async def test_a_message_is_delivered_when_all_its_parts_are(self, store):
        message_id = await sent(store, "p-1", ("p-1", "p-2", "p-3"), segments=3)

        await store.apply_receipts([by_id("p-1"), by_id("p-3")])
        assert await status(store, message_id) is Status.SENT
        await store.apply_receipts([by_id("p-2")])

        history = await store.history(TENANT, message_id)
        assert history.message.status is Status.DELIVERED
        assert [(each.part, each.parts) for each in history.receipts] == [(1, 3), (2, 3), (3, 3)]

    async def test_a_repeat_for_one_part_is_not_taken_for_another(self, store):
        message_id = await sent(store, "p-1", ("p-1", "p-2"), segments=2)

        await store.apply_receipts([by_id("p-1"), by_id("p-1"), by_id("p-1", message_id=message_id)])

        assert await status(store, message_id) is Status.SENT

    async def test_a_message_is_undelivered_as_soon_as_one_part_is(self, store):
        message_id = await sent(store, "p-1", ("p-1", "p-2"), segments=2)
        failure = Failure(reason=FailureReason.UNREACHABLE, carrier_code="27")

        await store.apply_receipts([by_id("p-2", Status.UNDELIVERED, failure=failure), by_id("p-1"), by_id("p-2")])

        message = await store.get(TENANT, message_id)
        assert message.status is Status.UNDELIVERED
        assert message.failure == failure

    async def test_goes_with_its_message(self, store):
        message_id = await sent(store, "p-1", ("p-1", "p-2"), segments=2)

        assert await store.remove_finished(0, NOW + timedelta(days=1), 10) == 1

        assert await store.apply_receipts([by_id("p-2"), by_id("x", message_id=message_id)]) == [PARKED, UNKNOWN]

    async def test_waits_for_the_parts_ids_before_one_of_them_is_taken_for_the_whole(self, store):
        message = new_message(segments=2)
        await store.add([message])
        attempt = await start(store)
        early = by_id("p-2", message_id=message.id)

        assert await store.apply_receipts([early]) == [PARKED]
        assert await store.has_parked(since=NOW)
        assert not await store.has_parked(since=NOW + timedelta(days=1))
        assert await store.settle_parked(10, since=NOW) == 0
        await store.finish([finished(attempt, carrier_message_id="p-1", part_ids=("p-1", "p-2"))])
        assert await store.settle_parked(10, since=NOW) == 1
        assert not await store.has_parked(since=NOW)

        assert await status(store, message.id) is Status.SENT
        await store.apply_receipts([by_id("p-1")])
        assert await status(store, message.id) is Status.DELIVERED

    async def test_takes_a_receipt_for_the_whole_when_the_parts_ids_never_became_known(self, store):
        message = new_message(segments=2)
        await store.add([message])
        attempt = await start(store)
        await store.apply_receipts([by_id("p-2", message_id=message.id)])

        await store.finish([unknown(attempt)])
        await store.settle_parked(10, since=NOW)

        assert await status(store, message.id) is Status.DELIVERED


class TestSeveralAttempts:
    async def test_any_attempt_can_say_delivered(self, store):
        message_id, (_, second) = await resent(store, "main", "other")
        await store.finish([finished(second, carrier_message_id="o-1")])

        await store.apply_receipts([told(message_id=message_id, carrier="main")])

        assert await status(store, message_id) is Status.DELIVERED

    @pytest.mark.parametrize("outcome", [Outcome.STARTED, Outcome.TAKEN, Outcome.UNKNOWN])
    async def test_an_older_one_does_not_end_a_message_that_a_newer_may_still_bring(self, store, outcome):
        message_id, (_, second) = await resent(store, "main", "other")
        if outcome is Outcome.TAKEN:
            await store.finish([finished(second, carrier_message_id="o-1")])
        if outcome is Outcome.UNKNOWN:
            await store.finish([unknown(second)])
        before = await status(store, message_id)

        await store.apply_receipts([told(Status.UNDELIVERED, message_id=message_id, carrier="main")])

        assert await status(store, message_id) is before
        await store.apply_receipts([told(Status.UNDELIVERED, message_id=message_id, carrier="other")])
        assert await status(store, message_id) is Status.UNDELIVERED

    async def test_an_older_one_ends_a_message_that_the_newer_did_not_take(self, store):
        message_id, (_, second) = await resent(store, "main", "other")
        await store.finish([refused_for_now(second)])

        await store.apply_receipts([told(Status.UNDELIVERED, message_id=message_id, carrier="main")])

        assert await status(store, message_id) is Status.UNDELIVERED
        assert await claim(store, now=LATER) == []

    async def test_a_repeat_is_known_as_one_after_a_further_attempt_by_the_same_carrier(self, store):
        message_id, (_, second) = await resent(store, "main", "other")
        word = told(Status.UNDELIVERED, message_id=message_id)
        await store.apply_receipts([word])
        await store.finish([refused_for_now(second)])
        await start(store, now=LATER)

        assert await store.apply_receipts([word]) == [REPEATED]

        assert await status(store, message_id) is Status.SENDING

    async def test_a_carrier_that_gives_the_same_id_again_means_its_newer_attempt(self, store):
        message_id, (_, second) = await resent(store, "main", "main")
        await store.finish([finished(second, carrier_message_id="c-1")])

        await store.apply_receipts([by_id("c-1")])

        assert [each.attempt for each in (await store.history(TENANT, message_id)).receipts] == [2]


class TestParked:
    async def test_applies_a_receipt_that_came_before_our_own_commit(self, store):
        message = new_message()
        await store.add([message])
        attempt = await start(store)

        assert await store.apply_receipts([by_id("c-1"), by_id("c-1"), by_id("c-1", Status.SENT)]) == [PARKED] * 3
        assert await store.settle_parked(10, since=NOW) == 0
        await store.finish([finished(attempt)])
        assert await store.settle_parked(10, since=NOW) == 2
        assert await store.settle_parked(10, since=NOW) == 0

        assert await status(store, message.id) is Status.DELIVERED
        assert len((await store.history(TENANT, message.id)).receipts) == 2

    async def test_applies_an_early_receipt_by_our_id_at_once(self, store):
        message = new_message()
        await store.add([message])
        attempt = await start(store)

        assert await store.apply_receipts([by_id("c-1", message_id=message.id)]) == [APPLIED]

        assert await status(store, message.id) is Status.DELIVERED
        await store.finish([finished(attempt)])
        assert await store.apply_receipts([by_id("c-1", message_id=message.id)]) == [REPEATED]

    async def test_keeps_the_failure_and_the_time_of_what_waited(self, store):
        message = new_message()
        await store.add([message])
        attempt = await start(store)
        failure = Failure(reason=FailureReason.UNREACHABLE, carrier_code="27")

        await store.apply_receipts([by_id("c-1", Status.UNDELIVERED, failure=failure, received_at=LATER)])
        await store.finish([finished(attempt)])
        await store.settle_parked(10, since=NOW)

        history = await store.history(TENANT, message.id)
        assert history.message.failure == failure
        assert [each.received_at for each in history.receipts] == [LATER]

    async def test_looks_at_no_more_than_it_is_told_to(self, store):
        ids = [f"c-{number}" for number in range(5)]
        await store.apply_receipts([by_id(each) for each in ids])
        for each in ids:
            await sent(store, each)

        assert await store.settle_parked(10, since=NOW + timedelta(milliseconds=1)) == 0
        assert [await store.settle_parked(2, since=NOW) for _ in range(4)] == [2, 2, 1, 0]

    async def test_many_sweeps_at_once_apply_each_once(self, store):
        ids = [f"c-{number}" for number in range(30)]
        await store.apply_receipts([by_id(each) for each in ids])
        messages = [await sent(store, each) for each in ids]

        await asyncio.gather(*(store.settle_parked(20, since=NOW) for _ in range(6)))
        await store.settle_parked(20, since=NOW)

        assert [await status(store, each) for each in messages] == [Status.DELIVERED] * 30
        assert [len((await store.history(TENANT, each)).receipts) for each in messages] == [1] * 30
        assert await store.remove_parked(NOW + timedelta(days=9), kept=0, limit=10) == 0

    async def test_loses_none_when_the_carrier_and_our_commit_run_against_each_other(self, store):
        messages = [new_message() for _ in range(40)]
        await store.add(messages)
        attempts = await claim(store, now=NOW, decide=lambda _due: Begin(carrier="main", sender=""))

        async def finish(attempt: StartedAttempt) -> None:
            await store.finish([finished(attempt, carrier_message_id=f"c-{attempt.message.id}")])

        async def tell(attempt: StartedAttempt) -> None:
            await store.apply_receipts([by_id(f"c-{attempt.message.id}")])

        await asyncio.gather(*(each(attempt) for attempt in attempts for each in (tell, finish)))
        while await store.settle_parked(100, since=NOW):
            pass

        assert [await status(store, each.id) for each in messages] == [Status.DELIVERED] * 40

    async def test_forgets_after_a_day_and_beyond_the_newest_of_each_carrier(self, store):
        old = [by_id(f"old-{number}", received_at=NOW - PARKED_FOR) for number in range(3)]
        many = [by_id(f"c-{number}", received_at=NOW + timedelta(seconds=number)) for number in range(8)]
        others = [by_id(f"c-{number}", carrier="other") for number in range(2)]
        await store.apply_receipts([*old, *many, *others])

        before = NOW - PARKED_FOR + timedelta(milliseconds=1)
        removed = [await store.remove_parked(before, kept=5, limit=4) for _ in range(3)]

        assert removed == [4, 2, 0]
        for number in range(8):
            await sent(store, f"c-{number}")
        assert await store.settle_parked(100, since=NOW - PARKED_FOR) == 5


class TestMissingReceipts:
    async def test_lists_messages_that_wait_for_a_receipt_page_by_page(self, store):
        ids = [await sent(store, f"c-{number}") for number in range(5)]
        await store.apply_receipts([by_id("c-1")])

        async def page(after, **changes):
            wanted = {"sent_after": NOW, "sent_before": NOW + timedelta(seconds=2), "limit": 3, **changes}
            return await store.awaiting_receipt(wanted.pop("carrier", "main"), after=after, **wanted)

        first = await page(None)
        second = await page(first[-1])
        assert [each.id for each in [*first, *second]] == sorted(each for each in ids if each != ids[1])
        assert await page(None, sent_before=NOW) == []
        assert await page(None, sent_after=NOW + timedelta(seconds=1)) == []
        assert await page(None, carrier="other") == []

    async def test_lists_messages_whose_outcome_is_unknown_page_by_page(self, store):
        messages = [new_message() for _ in range(3)]
        await store.add(messages)
        _under_way, *attempts = await claim(store, now=NOW, decide=lambda _due: Begin(carrier="main", sender=""))
        await store.finish([unknown(attempt) for attempt in attempts])

        since = NOW + timedelta(hours=1)
        first = await store.in_doubt("main", unchanged_since=since, after=None, limit=1)
        second = await store.in_doubt("main", unchanged_since=since, after=first[-1], limit=1)
        third = await store.in_doubt("main", unchanged_since=since, after=second[-1], limit=1)

        assert [each.id for each in [*first, *second]] == sorted(attempt.message.id for attempt in attempts)
        assert third == []
        assert await store.in_doubt("other", unchanged_since=since, after=None, limit=9) == []


@pytest.mark.parametrize("quicker", [Status.SENT, Status.DELIVERED])
@pytest.mark.parametrize("outcome", [(Outcome.TAKEN, Status.SENT), (Outcome.REFUSED, Status.FAILED)])
async def test_tells_nothing_of_an_outcome_when_a_receipt_was_quicker(database, quicker, outcome):
    announced: list[Status] = []
    store = SqlMessageStore(database, announce=lambda message: announced.append(message.status) or ())
    message = new_message()
    await store.add([message])
    attempt = await start(store)

    await store.apply_receipts([told(quicker, message_id=message.id)])
    await store.finish([finished(attempt, outcome=outcome[0], status=outcome[1], message=attempt.message)])

    assert announced == [quicker]
    assert await status(store, message.id) is quicker


async def test_knows_a_message_by_the_id_of_an_outcome_that_came_after_its_lease_was_lost(store):
    message_id, (slow, _newer) = await resent(store, "main", "main")
    late = finished(slow, carrier_message_id="c-late")

    recorded = await store.finish([late])
    result = await store.apply_receipts([by_id("c-late")])

    assert (recorded, result) == ([False], [APPLIED])
    assert await status(store, message_id) is Status.DELIVERED

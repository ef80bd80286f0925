"""What every message store guarantees of messages that begin in the transaction that stores them, on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta

from services.delivery.domain import IdempotencyKey, Message, NewMessage, Outcome, Reply, Status
from services.delivery.optouts import OptOutWords
from services.delivery.reply_store import AddedReply
from services.delivery.sql_replies import SqlReplyStore
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import Added, CancelResult
from tests.contract.test_message_store import LEASE, NOW, TENANT, claim, finished, new_message, request_key, store
from tests.kit.claims import ROUTE, beginnings

__all__ = ["store"]  # a fixture


async def add(store: SqlMessageStore, *messages: NewMessage, now: datetime = NOW) -> Added:
    return await store.add_and_begin(messages, beginnings(messages), now=now, lease_until=now + (LEASE - NOW))


async def hear(store: SqlMessageStore, text: str, sender: str = "+6581230000") -> AddedReply:
    reply = Reply(
        id=f"mo_{text}",
        carrier="simulator",
        carrier_reply_id=text,
        sender=sender,
        recipient="+6598765432",
        text=text,
        received_at=NOW,
    )
    return await SqlReplyStore(store._database).add_reply(
        reply, window_of=lambda _message: timedelta(days=7), announce=lambda _reply: (), words=OptOutWords()
    )


def ids(added: Added) -> list[str]:
    return [attempt.message.id for attempt in added.started]


async def test_commits_the_message_as_sending_and_its_attempt_as_started(store):
    message = new_message()

    added = await add(store, message)

    (started,) = added.started
    history = await store.history(TENANT, message.id)
    (attempt,) = history.attempts
    assert (history.message.status, history.message.attempts) == (Status.SENDING, 1)
    assert (history.message.carrier, history.message.sender) == ("simulator", "+6598765432")
    assert (attempt.number, attempt.outcome, attempt.carrier) == (1, Outcome.STARTED, "simulator")
    assert (attempt.sender, attempt.started_at) == ("+6598765432", NOW)
    assert (started.message, started.number, started.token) == (message, 1, 1)
    assert [(answer.message_id, added.waiting) for answer in added.answers] == [(message.id, set())]


async def test_reads_back_as_what_a_claim_would_have_read(store):
    message = new_message(tag="night", wanted_sender="Shop", despite_opt_out=True, request_id="r", traceparent="t")
    await store.add([message])

    (claimed,) = await claim(store)

    assert all(getattr(message, each.name) == getattr(claimed.message, each.name) for each in fields(Message))


async def test_belongs_to_whoever_began_it_until_the_lease_ends(store):
    added = await add(store, new_message())

    assert await claim(store, now=LEASE - timedelta(milliseconds=1)) == []
    assert await store.next_due(0, [ROUTE]) == LEASE
    assert await store.renew(added.started, LEASE + timedelta(seconds=30)) == set(ids(added))
    assert await claim(store, now=LEASE) == []


async def test_is_recorded_like_any_other_attempt(store):
    added = await add(store, new_message())

    assert await store.finish([finished(each) for each in added.started]) == [True]

    assert (await store.get(TENANT, ids(added)[0])).status is Status.SENT
    assert await store.next_due(0, [ROUTE]) is None


async def test_is_unknown_to_whoever_claims_it_after_the_lease(store):
    added = await add(store, new_message())

    (again,) = await claim(store, now=LEASE)

    assert (again.number, again.token) == (2, 2)
    history = await store.history(TENANT, again.message.id)
    assert [attempt.outcome for attempt in history.attempts] == [Outcome.UNKNOWN, Outcome.STARTED]
    assert await store.finish([finished(each) for each in added.started]) == [False]


async def test_waits_behind_what_is_ready_in_its_queue(store):
    first, second, elsewhere = new_message(), new_message(integration_id="wkh_2"), new_message(route="other")
    await store.add([first])

    added = await add(store, second, elsewhere)

    assert (ids(added), added.waiting) == ([elsewhere.id], {ROUTE})
    assert [attempt.message.id for attempt in await claim(store)] == [first.id, second.id]


async def test_does_not_wait_for_what_is_being_sent_or_has_its_retry_to_come(store):
    await store.add([new_message(), new_message()])
    sending, failing = await claim(store)
    later = NOW + timedelta(minutes=1)
    await store.finish([finished(failing, outcome=Outcome.TRY_LATER, status=Status.QUEUED, retry_at=later)])

    added = await add(store, message := new_message())

    assert ids(added) == [message.id]
    assert sending.message.id != message.id


async def test_what_has_no_beginning_waits_in_the_queue(store):
    begins, waits = new_message(), new_message()

    added = await store.add_and_begin([begins, waits], beginnings([begins]), now=NOW, lease_until=LEASE)

    assert (ids(added), added.waiting) == ([begins.id], {ROUTE})
    assert [attempt.message.id for attempt in await claim(store)] == [waits.id]


async def test_a_repeat_begins_nothing(store):
    message = new_message(idempotency=request_key())
    again = replace(new_message(), idempotency=request_key())
    await add(store, message)

    added = await add(store, again)

    assert (ids(added), added.waiting) == ([], set())
    assert [answer.message_id for answer in added.answers] == [message.id]


async def test_of_one_key_in_one_batch_one_message_begins(store):
    keyed: Sequence[IdempotencyKey] = [request_key(), request_key()]
    messages = [new_message(idempotency=key) for key in keyed]

    added = await add(store, *messages)

    assert ids(added) == [messages[0].id]


async def test_nobody_gets_what_they_have_opted_out_from(store):
    await hear(store, "STOP")
    message, answer = new_message(), new_message(despite_opt_out=True)

    added = await add(store, message, answer)

    assert (ids(added), added.waiting) == ([answer.id], {ROUTE})
    assert await claim(store) == []
    assert (await store.get(TENANT, message.id)).status is Status.SUPPRESSED


async def test_can_not_be_canceled(store):
    added = await add(store, new_message())

    assert await store.cancel(TENANT, ids(added)[0], NOW) is CancelResult.BEGUN


async def test_remembers_who_sent_from_a_number(store):
    await add(store, new_message())

    heard = await hear(store, "hello", sender="+6589999999")

    assert heard.reply.tenant_id == TENANT

"""Holding what waits, on every engine."""

from __future__ import annotations

from datetime import timedelta

from services.delivery.domain import OnUnknown, Outcome, Resolution, Status
from services.delivery.sql_backlog import SqlBacklog
from services.delivery.sql_hold import hold_queue
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import ResolveResult
from tests.contract.test_backlog import NOW, put_off
from tests.contract.test_claiming_at_scale import finished, new_message
from tests.kit.claims import ROUTE, claim

LATER = NOW + timedelta(minutes=1)


async def test_holds_what_waits_and_what_is_being_sent_and_leaves_the_rest(database, monkeypatch):
    monkeypatch.setattr("services.delivery.sql_hold.HELD_AT_ONCE", 2)
    store = SqlMessageStore(database)
    messages = [new_message(NOW + timedelta(milliseconds=each)) for each in range(6)]
    await store.add(messages)
    sending, retried, sent, *_ = await claim(store, now=NOW + timedelta(seconds=1), limit=3)
    await store.finish([put_off(retried), finished(sent, NOW)])

    held = await hold_queue(database, LATER)

    statuses = [(await store.get("ten_a", message.id)).status for message in messages]
    assert held == 5
    assert statuses.count(Status.UNKNOWN) == 5
    assert (await store.get("ten_a", sent.message.id)).status is Status.SENT
    (attempt,) = (await store.history("ten_a", sending.message.id)).attempts
    assert (attempt.outcome, attempt.finished_at) == (Outcome.UNKNOWN, LATER)
    backlog = await SqlBacklog(database, shards=range(1), routes=[ROUTE]).messages(LATER)
    assert backlog.depth == 0
    assert await store.finish([finished(sending, LATER)]) == [False]


async def test_a_held_message_is_sent_when_somebody_says_so(database):
    store = SqlMessageStore(database)
    message = new_message(NOW)
    await store.add([message])
    await hold_queue(database, LATER)

    resolved = await store.resolve("ten_a", message.id, Resolution.RESEND, LATER, queue_of=lambda _message: ROUTE)

    (claimed,) = await claim(store, now=LATER)
    assert resolved is ResolveResult.RESOLVED
    assert claimed.message.id == message.id
    assert claimed.message.on_unknown is OnUnknown.RESEND

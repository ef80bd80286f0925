"""What the dispatcher does with a due message and with a carrier's answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from servicekit.errors import UnavailableError
from services.delivery import dispatch
from services.delivery.carriers.base import (
    Capability,
    Failure,
    FailureReason,
    OutboundMessage,
    Refused,
    Taken,
    TryLater,
    Unknown,
)
from services.delivery.carriers.registry import Carriers
from services.delivery.dispatch import Dispatcher
from services.delivery.domain import Attempt, Encoding, Message, OnUnknown, Outcome, Priority, Status
from services.delivery.store import Begin, DueMessage, Finish, Postpone, StartedAttempt

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
MESSAGE = Message(
    id="msg_01m82aa6rjf2w4dfra4tnmseb0",
    tenant_id="ten_a",
    integration_id="",
    status=Status.QUEUED,
    to="+6581230000",
    sender="",
    text="hello",
    ref="",
    callback="",
    carrier="",
    carrier_message_id="",
    segments=1,
    encoding=Encoding.GSM7,
    attempts=0,
    failure=None,
    created_at=NOW,
    updated_at=NOW,
    valid_until=NOW + timedelta(hours=4),
    priority=Priority.NORMAL,
    on_unknown=OnUnknown.RESEND,
    sent_at=None,
    delivered_at=None,
)


class ScriptedCarrier:
    """Answers what it is told to, and remembers what it was sent."""

    sender = "+6598765432"
    can_look_up = False

    def __init__(self, answer=None, *, name="scripted", capability=Capability.BLIND):
        self.name = name
        self.capability = capability
        self.answer = answer or Taken(carrier_message_id="c-1", detail="ok")
        self.sent: list[OutboundMessage] = []

    async def send(self, message: OutboundMessage):
        self.sent.append(message)
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, asyncio.Event):
            await self.answer.wait()
        return self.answer


class FakeStore:
    """Hands out one batch of due messages, and keeps what is decided and recorded."""

    def __init__(self, *due: DueMessage):
        self.due = list(due)
        self.decisions = []
        self.finished = []
        self.outages = 0
        self.renewed = []

    async def renew(self, attempts, lease_until):
        self.renewed.append([attempt.message.id for attempt in attempts])
        return {attempt.message.id for attempt in attempts}

    async def claim(self, *, shard, now, lease_until, limit, decide):
        batch, self.due = self.due[:limit], self.due[limit:]
        started = []
        for entry in batch:
            decision = decide(entry)
            self.decisions.append(decision)
            if isinstance(decision, Begin):
                started.append(
                    StartedAttempt(
                        message=entry.message,
                        number=entry.message.attempts + 1,
                        carrier=decision.carrier,
                        sender=decision.sender,
                        token=1,
                        possible_duplicate=decision.possible_duplicate,
                    )
                )
        return started

    async def finish(self, attempts):
        if self.outages:
            self.outages -= 1
            raise UnavailableError("down")
        self.finished.extend(attempts)
        return [True] * len(attempts)


def due(message: Message = MESSAGE, last: Attempt | None = None) -> DueMessage:
    return DueMessage(message=message, last_attempt=last)


def last_attempt(outcome: Outcome, *, carrier: str = "scripted", age_seconds: float = 0) -> Attempt:
    return Attempt(
        number=1,
        carrier=carrier,
        outcome=outcome,
        started_at=NOW - timedelta(seconds=age_seconds),
        finished_at=None,
        detail="",
        possible_duplicate=False,
    )


def dispatcher(store, *carriers, clock, max_in_flight=10) -> Dispatcher:
    return Dispatcher(
        store=store,
        carriers=Carriers(*carriers),
        clock=clock,
        random=lambda: 0.5,
        max_in_flight=max_in_flight,
        on_room=lambda: None,
    )


async def send_one(entry: DueMessage, carrier: ScriptedCarrier, clock) -> FakeStore:
    store = FakeStore(entry)
    sending = dispatcher(store, carrier, clock=clock)
    await sending.send_due(0)
    await sending.drain(5)
    return store


async def test_hands_the_message_to_the_carrier_and_records_that_it_was_taken(clock):
    carrier = ScriptedCarrier()

    store = await send_one(due(), carrier, clock)

    (sent,) = carrier.sent
    (outcome,) = store.finished
    assert (sent.message_id, sent.to, sent.text, sent.sender) == (MESSAGE.id, MESSAGE.to, "hello", "+6598765432")
    assert (outcome.outcome, outcome.status, outcome.carrier_message_id) == (Outcome.TAKEN, Status.SENT, "c-1")
    assert outcome.retry_at is None


@pytest.mark.parametrize(
    ("answer", "outcome", "status", "again"),
    [
        (Refused(failure=Failure(reason=FailureReason.INVALID_NUMBER), detail="no"), "refused", "failed", False),
        (TryLater(failure=Failure(reason=FailureReason.THROTTLED), detail="slow"), "try_later", "queued", True),
        (Unknown(detail="cut off"), "unknown", "sending", True),
        (RuntimeError("a defect"), "unknown", "sending", True),
    ],
)
async def test_records_every_other_answer_for_what_it_is(clock, answer, outcome, status, again):
    store = await send_one(due(), ScriptedCarrier(answer), clock)

    (recorded,) = store.finished
    assert (recorded.outcome.value, recorded.status.value) == (outcome, status)
    assert (recorded.retry_at is not None) is again


async def test_does_not_send_when_the_message_has_expired(clock):
    carrier = ScriptedCarrier()

    store = await send_one(due(replace(MESSAGE, valid_until=NOW)), carrier, clock)

    assert carrier.sent == []
    assert store.decisions == [Finish(status=Status.EXPIRED, failure=Failure(reason=FailureReason.EXPIRED))]


async def test_never_plans_a_retry_after_the_validity_ends(clock):
    valid_until = NOW + timedelta(milliseconds=1)

    store = await send_one(due(replace(MESSAGE, valid_until=valid_until)), ScriptedCarrier(Unknown(detail="")), clock)

    assert store.finished[0].retry_at == valid_until


@pytest.mark.parametrize("outcome", [Outcome.STARTED, Outcome.UNKNOWN])
@pytest.mark.parametrize(
    ("capability", "decision"),
    [
        (Capability.IDEMPOTENT, Begin(carrier="scripted", sender="+6598765432", possible_duplicate=False)),
        (Capability.BLIND, Begin(carrier="scripted", sender="+6598765432", possible_duplicate=True)),
    ],
)
async def test_sends_again_at_once_when_nothing_can_be_learnt_by_waiting(clock, outcome, capability, decision):
    entry = due(replace(MESSAGE, attempts=1), last_attempt(outcome))

    store = await send_one(entry, ScriptedCarrier(capability=capability), clock)

    assert store.decisions == [decision]


@pytest.mark.parametrize(
    ("outcome", "age_seconds", "decision"),
    [
        (Outcome.UNKNOWN, 30, Postpone(until=NOW + timedelta(seconds=60))),
        (Outcome.UNKNOWN, 90, Begin(carrier="scripted", sender="+6598765432", possible_duplicate=True)),
        # Nobody could ask while the process was away, so the whole window is still to come.
        (Outcome.STARTED, 30, Postpone(until=NOW + timedelta(seconds=90))),
        (Outcome.STARTED, 100_000, Postpone(until=NOW + timedelta(seconds=90))),
    ],
)
async def test_waits_for_the_word_of_a_carrier_that_can_tell(clock, outcome, age_seconds, decision):
    entry = due(replace(MESSAGE, attempts=1), last_attempt(outcome, age_seconds=age_seconds))

    store = await send_one(entry, ScriptedCarrier(capability=Capability.RECONCILABLE), clock)

    assert store.decisions == [decision]


@pytest.mark.parametrize(
    ("capability", "age_seconds", "decision"),
    [
        (Capability.IDEMPOTENT, 0, Begin),
        (Capability.BLIND, 0, Finish),
        (Capability.RECONCILABLE, 30, Postpone),
        (Capability.RECONCILABLE, 90, Finish),
    ],
)
async def test_never_sends_again_what_is_to_be_held_unless_the_carrier_drops_a_second_one(
    clock, capability, age_seconds, decision
):
    message = replace(MESSAGE, attempts=1, on_unknown=OnUnknown.HOLD)
    entry = due(message, last_attempt(Outcome.UNKNOWN, age_seconds=age_seconds))

    store = await send_one(entry, ScriptedCarrier(capability=capability), clock)

    assert [type(each) for each in store.decisions] == [decision]


async def test_gives_a_message_of_unknown_outcome_only_to_the_carrier_that_may_have_it(clock):
    first, second = ScriptedCarrier(name="first"), ScriptedCarrier(name="second")
    store = FakeStore(due(replace(MESSAGE, attempts=1), last_attempt(Outcome.UNKNOWN, carrier="second")))
    sending = dispatcher(store, first, second, clock=clock)

    await sending.send_due(0)
    await sending.drain(5)

    assert (len(first.sent), len(second.sent)) == (0, 1)


async def test_claims_no_more_than_it_has_room_for(clock):
    carrier = ScriptedCarrier(asyncio.Event())
    store = FakeStore(*(due() for _ in range(5)))
    sending = dispatcher(store, carrier, clock=clock, max_in_flight=3)

    assert await sending.send_due(0) == 3
    assert sending.room == 0

    carrier.answer.set()
    await sending.drain(5)
    assert sending.room == 3


async def test_records_as_unknown_what_is_still_in_flight_when_the_time_to_stop_is_over(clock):
    carrier = ScriptedCarrier(asyncio.Event())
    store = FakeStore(due())
    sending = dispatcher(store, carrier, clock=clock)
    await sending.send_due(0)
    await asyncio.sleep(0)

    await sending.drain(0.01)

    assert [outcome.outcome for outcome in store.finished] == [Outcome.UNKNOWN]


async def test_gives_up_on_a_carrier_that_does_not_answer_in_time(clock, monkeypatch):
    monkeypatch.setattr(dispatch, "CARRIER_CALL_SECONDS", 0.01)

    store = await send_one(due(), ScriptedCarrier(asyncio.Event()), clock)

    assert [outcome.outcome for outcome in store.finished] == [Outcome.UNKNOWN]


async def test_records_the_outcome_after_an_outage_that_is_longer_than_the_lease(clock):
    store = FakeStore(due())
    store.outages = 100
    sending = dispatcher(store, ScriptedCarrier(), clock=clock)

    await sending.send_due(0)
    for _ in range(400):
        await asyncio.sleep(0)
        clock.advance(1)
    await sending.drain(5)

    assert [outcome.outcome for outcome in store.finished] == [Outcome.TAKEN]


async def test_gives_an_outcome_up_when_it_stops_and_the_database_is_still_away(clock):
    store = FakeStore(due())
    store.outages = 1_000_000
    sending = dispatcher(store, ScriptedCarrier(), clock=clock)
    await sending.send_due(0)

    draining = asyncio.create_task(sending.drain(0.05))
    async with asyncio.timeout(5):
        while not draining.done():
            await asyncio.sleep(0)
            clock.advance(1)

    assert store.finished == []


async def test_keeps_what_it_has_in_flight_when_it_has_stood_still(clock):
    store, carrier = FakeStore(due()), ScriptedCarrier(asyncio.Event())
    sending = dispatcher(store, carrier, clock=clock)
    await sending.send_due(0)
    await sending.send_due(0)
    assert store.renewed == []

    clock.advance(31)
    await sending.send_due(0)
    await sending.send_due(0)

    assert store.renewed == [[MESSAGE.id]]
    carrier.answer.set()
    await sending.drain(5)


async def test_records_the_outcome_when_the_database_comes_back(clock):
    store = FakeStore(due())
    store.outages = 2
    sending = dispatcher(store, ScriptedCarrier(), clock=clock)

    await sending.send_due(0)
    for _ in range(20):
        await asyncio.sleep(0)
        clock.advance(1)
    await sending.drain(5)

    assert [outcome.outcome for outcome in store.finished] == [Outcome.TAKEN]

"""What the dispatcher does with a due message and with a carrier's answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from servicekit.errors import UnavailableError
from servicekit.sms_text import Encoding
from services.delivery import dispatch
from services.delivery.carrier_health import LONGEST_OPEN_SECONDS, MOST_TIMES_OPENED, open_seconds
from services.delivery.carrier_monitor import CarrierMonitor
from services.delivery.carrier_states import CarrierState
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
from services.delivery.carriers.registry import DEFAULT_ROUTE, Carriers
from services.delivery.dispatch import Dispatcher
from services.delivery.domain import Attempt, Message, NewMessage, OnUnknown, Outcome, Priority, Status
from services.delivery.routing import CarrierRules, Route
from services.delivery.store import (
    Added,
    Begin,
    CarrierCondition,
    Claimed,
    DueMessage,
    Finish,
    Postpone,
    StartedAttempt,
)
from tests.kit import messages

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

    kind = "scripted"
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
        self.slot = None
        self.beginnings = []
        self.adding = None  # an event for which storing waits
        self.is_busy = False  # messages wait in the queue
        self.is_down = False

    async def renew(self, attempts, lease_until):
        self.renewed.append([attempt.message.id for attempt in attempts])
        return {attempt.message.id for attempt in attempts}

    async def next_due(self, shard, routes):
        return NOW if self.due else None

    async def add_and_begin(self, messages, beginnings, *, now, lease_until):
        self.beginnings.append([(message.id, begin.carrier) for message, begin in beginnings.values()])
        if self.adding:
            await self.adding.wait()
        if self.is_down:
            raise UnavailableError("down")
        free = [] if self.is_busy else beginnings.values()
        started = [StartedAttempt.of(message, begin, token=1) for message, begin in free]
        begun_ids = {attempt.message.id for attempt in started}
        waiting = frozenset(each.route for each in messages if each.id not in begun_ids)
        return Added(answers=[each.id for each in messages], started=started, waiting=waiting)

    async def claim(self, *, shard, now, lease_until, shares, decide, limits):
        limit = sum(share.limit for share in shares)
        batch, self.due = self.due[:limit], self.due[limit:]
        started = []
        for entry in batch:
            decision = decide(entry)
            self.decisions.append(decision)
            if isinstance(decision, Begin):
                started.append(StartedAttempt.of(entry.message, decision, token=1, not_before=self.slot))
        return Claimed(started=tuple(started))

    async def finish(self, attempts):
        if self.outages:
            self.outages -= 1
            raise UnavailableError("down")
        self.finished.extend(attempts)
        return [True] * len(attempts)


class FakeCarrierStore:
    """Keeps what all processes would share."""

    def __init__(self):
        self.kept: dict[str, CarrierCondition] = {}
        self.changes = 0
        self.slot = NOW
        self.late = []

    async def take_slots(self, wishes, limits, now):
        self.late.extend(wishes)
        return [self.slot for _ in wishes]

    async def states(self):
        return dict(self.kept)

    async def change(self, name, change):
        self.changes += 1
        self.kept[name] = change(self.kept.get(name, CarrierCondition(name=name)))
        return self.kept[name]


def due(message: Message = MESSAGE, *attempts: Attempt) -> DueMessage:
    return DueMessage(message=message, attempts=attempts)


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


def dispatcher(
    store, *carriers, clock, max_in_flight=10, carrier_store=None, on_room=lambda: None, **configuration
) -> Dispatcher:
    configured = Carriers(*carriers, **configuration)
    monitor = CarrierMonitor(
        store=carrier_store or FakeCarrierStore(), carriers=configured, clock=clock, in_flight=max_in_flight
    )
    return Dispatcher(
        store=store,
        carriers=configured,
        monitor=monitor,
        clock=clock,
        random=lambda: 0.5,
        max_in_flight=max_in_flight,
        on_room=on_room,
    )


def again(*, doubles: int) -> Begin:
    return Begin(
        carrier="scripted",
        sender="+6598765432",
        why="again, because the outcome of attempt 1 is not known",
        doubles=doubles,
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
@pytest.mark.parametrize(("capability", "doubles"), [(Capability.IDEMPOTENT, 0), (Capability.BLIND, 1)])
async def test_sends_again_at_once_when_nothing_can_be_learnt_by_waiting(clock, outcome, capability, doubles):
    entry = due(replace(MESSAGE, attempts=1), last_attempt(outcome))

    store = await send_one(entry, ScriptedCarrier(capability=capability), clock)

    assert store.decisions == [again(doubles=doubles)]


@pytest.mark.parametrize(
    ("outcome", "age_seconds", "decision"),
    [
        (Outcome.UNKNOWN, 30, Postpone(until=NOW + timedelta(seconds=60))),
        (Outcome.UNKNOWN, 90, again(doubles=1)),
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


# What begins as it is stored


def new(number: int = 0, route: str = DEFAULT_ROUTE) -> NewMessage:
    return messages.new_message(NOW, id=f"{MESSAGE.id[:-2]}{number}0", tag=route, route=route)


def opened(store, *carriers, **given) -> Dispatcher:
    sending = dispatcher(store, *carriers, **given)
    sending.open()
    return sending


async def test_sends_what_is_added_without_a_claim(clock):
    store, carrier, woken = FakeStore(), ScriptedCarrier(), []
    sending = opened(store, carrier, clock=clock, on_room=lambda: woken.append(True))

    answers = await sending.add([new(1), new(2)])
    await sending.drain(5)

    assert list(answers) == [new(1).id, new(2).id]
    assert [sent.message_id for sent in carrier.sent] == [new(1).id, new(2).id]
    assert [outcome.status for outcome in store.finished] == [Status.SENT] * 2
    assert not woken


async def test_lets_who_waits_for_the_commit_go_on_before_it_calls_the_carrier(clock):
    store, carrier = FakeStore(), ScriptedCarrier()
    sending = opened(store, carrier, clock=clock)

    await asyncio.create_task(sending.add([new(1), new(2)]))
    sent_by_then = list(carrier.sent)
    await sending.drain(5)

    assert (len(sent_by_then), len(carrier.sent)) == (0, 2)


async def test_wakes_who_claims_when_something_waits(clock):
    store, carrier, woken = FakeStore(), ScriptedCarrier(), []
    store.is_busy = True

    await opened(store, carrier, clock=clock, on_room=lambda: woken.append(True)).add([new()])

    assert (carrier.sent, woken) == ([], [True])


@pytest.mark.parametrize("was_open", [True, False])
async def test_begins_nothing_at_once_before_it_is_opened_or_once_it_is_closed(clock, was_open):
    store = FakeStore()
    sending = dispatcher(store, ScriptedCarrier(), clock=clock)
    if was_open:
        sending.open()
        sending.close()

    await sending.add([new()])

    assert store.beginnings == [[]]


async def test_leaves_more_than_there_is_room_for_to_the_queue_which_says_what_goes_first(clock):
    store = FakeStore()
    sending = opened(store, ScriptedCarrier(), clock=clock, max_in_flight=2)

    await sending.add([new(1), new(2), new(3)])
    await sending.send_due(0)  # none is left: others have claimed them
    await sending.add([new(4), new(5)])

    assert store.beginnings == [[], [(new(4).id, "scripted"), (new(5).id, "scripted")]]
    await sending.drain(5)


async def test_holds_no_room_for_what_will_wait_until_a_claim_has_found_the_end_of_the_queue(clock):
    store = FakeStore()
    sending = opened(store, ScriptedCarrier(), clock=clock, max_in_flight=2)
    store.is_busy = True
    await sending.add([new(1)])
    store.is_busy, store.due = False, [due(), due()]

    await sending.add([new(2)])
    await sending.send_due(0)  # as many as there is room for
    await sending.add([new(3)])
    await sending.drain(5)
    await sending.send_due(0)
    await sending.add([new(4)])

    assert store.beginnings == [[(new(1).id, "scripted")], [], [], [(new(4).id, "scripted")]]
    await sending.drain(5)


async def test_holds_the_room_of_what_is_being_stored(clock):
    store, carrier = FakeStore(due(), due()), ScriptedCarrier()
    store.adding = asyncio.Event()
    sending = opened(store, carrier, clock=clock, max_in_flight=3)

    adding = asyncio.create_task(sending.add([new(1), new(2)]))
    await asyncio.sleep(0)

    assert sending.room == 1
    assert await sending.send_due(0) == 1  # of two that are due
    store.adding.set()
    await adding
    assert sending.room == 0
    await sending.drain(5)
    assert sending.room == 3


async def test_takes_nothing_before_what_was_being_stored_while_it_stood_still_is_its_own_again(clock):
    store, carrier = FakeStore(due()), ScriptedCarrier(asyncio.Event())
    store.adding = asyncio.Event()
    sending = opened(store, carrier, clock=clock)
    adding = asyncio.create_task(sending.add([new(1)]))
    await asyncio.sleep(0)

    clock.advance(31)  # the lease that is on its way to the disk has ended
    claiming = asyncio.create_task(sending.send_due(0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert store.decisions == []
    store.adding.set()
    await asyncio.gather(adding, claiming)

    assert store.renewed == [[new(1).id]]
    assert len(store.decisions) == 1
    carrier.answer.set()
    await sending.drain(5)


async def test_gives_the_room_back_when_nothing_could_be_stored(clock):
    store = FakeStore()
    store.is_down = True
    sending = opened(store, ScriptedCarrier(), clock=clock, max_in_flight=2)

    with pytest.raises(UnavailableError):
        await sending.add([new()])

    assert sending.room == 2
    store.is_down = False
    await sending.add([new(1), new(2)])
    assert len(store.beginnings[-1]) == 2
    await sending.drain(5)


@pytest.mark.parametrize("rules", [{"segments_per_second": 100}, {"sender_segments_per_second": 100}])
async def test_leaves_a_carriers_limits_to_those_who_claim(clock, rules):
    store = FakeStore()
    sending = opened(store, ScriptedCarrier(), clock=clock, rules={"scripted": CarrierRules(**rules)})

    await sending.add([new()])

    assert store.beginnings == [[]]


async def test_keeps_to_the_calls_that_a_carrier_may_have(clock):
    store = FakeStore()
    few, many = ScriptedCarrier(asyncio.Event(), name="few"), ScriptedCarrier(name="many")
    routes = [Route(name="a", carriers={"few": 1}, tags=frozenset({"a"})), Route(name="b", carriers={"many": 1})]
    sending = opened(store, few, many, clock=clock, rules={"few": CarrierRules(in_flight=1)}, routes=routes)

    await sending.add([new(1, "a"), new(2, "b")])
    await sending.add([new(3, "a"), new(4, "b")])

    assert store.beginnings == [[(new(1).id, "few"), (new(2).id, "many")], [(new(4).id, "many")]]
    few.answer.set()
    await sending.drain(5)


async def test_begins_nothing_at_a_carrier_that_fails(clock):
    down = TryLater(failure=Failure(reason=FailureReason.CARRIER_UNAVAILABLE), detail="down")
    store, carrier = FakeStore(*(due() for _ in range(10))), ScriptedCarrier(down)
    sending = opened(store, carrier, clock=clock, max_in_flight=20)
    await sending.send_due(0)
    await asyncio.sleep(0.05)

    await sending.add([new()])

    assert store.beginnings == [[]]
    await sending.drain(5)


# More than one carrier


TWO = [
    {"answer": Refused(failure=Failure(reason=FailureReason.SENDER_REJECTED), detail="not this name")},
    {"answer": TryLater(failure=Failure(reason=FailureReason.CARRIER_UNAVAILABLE), detail="down")},
]


@pytest.mark.parametrize("first", TWO)
async def test_gives_what_one_carrier_did_not_take_to_the_next_one_at_once(clock, first):
    refusing, second = ScriptedCarrier(first["answer"], name="first"), ScriptedCarrier(name="second")
    store = FakeStore(due())
    sending = dispatcher(store, refusing, second, clock=clock)

    await sending.send_due(0)
    await sending.drain(5)

    (recorded,) = store.finished
    assert (recorded.carrier, recorded.status, recorded.retry_at) == ("first", Status.QUEUED, clock.now())
    assert second.sent == []


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.TRY_LATER])
async def test_takes_the_next_carrier_after_one_that_did_not_take_it(clock, outcome):
    first, second = ScriptedCarrier(name="first"), ScriptedCarrier(name="second")
    store = FakeStore(due(replace(MESSAGE, attempts=1), last_attempt(outcome, carrier="first")))
    sending = dispatcher(store, first, second, clock=clock)

    await sending.send_due(0)
    await sending.drain(5)

    assert (len(first.sent), len(second.sent)) == (0, 1)
    assert store.decisions[0].why == "route default: failover"


async def test_begins_a_new_round_when_every_carrier_was_tried_in_vain(clock):
    first, second = ScriptedCarrier(name="first"), ScriptedCarrier(name="second")
    tried = [last_attempt(Outcome.TRY_LATER, carrier=name) for name in ("first", "second")]
    store = FakeStore(due(replace(MESSAGE, attempts=2), *tried))
    sending = dispatcher(store, first, second, clock=clock)

    await sending.send_due(0)
    await sending.drain(5)

    assert (len(first.sent), len(second.sent)) == (1, 0)


@pytest.mark.parametrize("reason", [FailureReason.INVALID_NUMBER, FailureReason.OPTED_OUT])
async def test_gives_up_at_once_on_what_every_carrier_would_refuse(clock, reason):
    store = FakeStore(due())
    refusing = ScriptedCarrier(Refused(failure=Failure(reason=reason), detail="no"), name="first")
    sending = dispatcher(store, refusing, ScriptedCarrier(name="second"), clock=clock)

    await sending.send_due(0)
    await sending.drain(5)

    assert [(outcome.status, outcome.retry_at) for outcome in store.finished] == [(Status.FAILED, None)]


async def test_fails_a_message_that_every_carrier_of_its_route_has_refused(clock):
    failure = Failure(reason=FailureReason.SENDER_REJECTED, carrier_code="7")
    tried = [last_attempt(Outcome.REFUSED, carrier=name) for name in ("first", "second")]
    store = FakeStore(due(replace(MESSAGE, attempts=2, failure=failure), *tried))
    sending = dispatcher(store, ScriptedCarrier(name="first"), ScriptedCarrier(name="second"), clock=clock)

    await sending.send_due(0)

    assert store.decisions == [Finish(status=Status.FAILED, failure=failure)]


@pytest.mark.parametrize("reason", [FailureReason.ACCOUNT_REJECTED, FailureReason.INSUFFICIENT_FUNDS])
async def test_keeps_messages_when_it_is_the_account_that_is_refused(clock, reason):
    store = await send_one(due(), ScriptedCarrier(Refused(failure=Failure(reason=reason), detail="401")), clock)

    (recorded,) = store.finished
    assert (recorded.outcome, recorded.status) == (Outcome.TRY_LATER, Status.QUEUED)
    assert recorded.retry_at


# Who it is sent from


@pytest.mark.parametrize(
    ("wanted", "route_sender", "by_country", "sender"),
    [
        ("ACME", "SHOP", {"SG": "+6590000000"}, "ACME"),
        ("", "SHOP", {"SG": "+6590000000"}, "SHOP"),
        ("", "", {"SG": "+6590000000"}, "+6590000000"),
        ("", "", {"US": "+15005550006"}, "+6598765432"),
    ],
)
async def test_sends_from_what_the_message_the_route_the_country_or_the_carrier_says(
    clock, wanted, route_sender, by_country, sender
):
    carrier, store = ScriptedCarrier(), FakeStore(due(replace(MESSAGE, wanted_sender=wanted)))
    sending = dispatcher(
        store,
        carrier,
        clock=clock,
        routes=[Route(name="only", carriers={"scripted": 1}, sender=route_sender)],
        rules={"scripted": CarrierRules(senders=by_country)},
    )

    await sending.send_due(0)
    await sending.drain(5)

    assert [sent.sender for sent in carrier.sent] == [sender]


# A carrier that fails


DOWN = TryLater(failure=Failure(reason=FailureReason.CARRIER_UNAVAILABLE), detail="HTTP 503")


async def sent_so_far(sending: Dispatcher, carrier: ScriptedCarrier) -> int:
    await sending.send_due(0)
    while sending.room < 10:
        await asyncio.sleep(0)
    return len(carrier.sent)


@pytest.fixture
async def failing(clock):
    """A dispatcher whose only carrier has just been found to fail, with messages left."""
    carrier, store = ScriptedCarrier(DOWN), FakeStore(*(due() for _ in range(50)))
    sending = dispatcher(store, carrier, clock=clock, carrier_store=FakeCarrierStore())
    assert await sent_so_far(sending, carrier) == 10
    return sending, carrier, store


async def test_sends_nothing_more_to_a_carrier_that_fails(clock, failing):
    sending, carrier, store = failing

    for _ in range(5):
        await sending.send_due(0)

    assert len(carrier.sent) == 10
    assert sending.open_routes == []
    assert len(store.due) == 40


async def test_tries_a_failing_carrier_with_one_message_when_its_time_has_come_and_waits_longer_each_time(
    clock, failing
):
    sending, carrier, _ = failing
    sent = []

    for seconds in (4.9, 0.1, 9.9, 0.1, 19.9, 0.1):
        clock.advance(seconds)
        sent.append(await sent_so_far(sending, carrier))

    assert sent == [10, 11, 11, 12, 12, 13]


async def test_sends_all_again_once_one_message_went_through(clock, failing):
    sending, carrier, _ = failing
    carrier.answer = Taken(carrier_message_id="c", detail="ok")
    clock.advance(5)

    await sent_so_far(sending, carrier)
    await sent_so_far(sending, carrier)

    assert len(carrier.sent) > 12
    assert sending.open_routes == ["default"]


async def test_does_not_send_what_still_waits_for_its_turn_when_the_carrier_is_found_to_fail(clock):
    carrier = ScriptedCarrier(DOWN)
    store = FakeStore(*(due() for _ in range(100)))
    sending = dispatcher(store, carrier, clock=clock, max_in_flight=100)

    await sending.send_due(0)
    await sending.drain(5)

    assert len(carrier.sent) < 100
    unsent = [outcome for outcome in store.finished if outcome.detail.startswith("not sent")]
    assert len(unsent) + len(carrier.sent) == 100
    assert {outcome.retry_at for outcome in unsent} == {clock.now()}


async def test_leaves_the_other_carrier_its_messages_when_one_fails(clock):
    down, well = ScriptedCarrier(DOWN, name="down"), ScriptedCarrier(name="well")
    store = FakeStore(*(due(replace(MESSAGE, id=f"msg_{n:026}")) for n in range(200)))
    routes = [Route(name="both", carriers={"down": 1, "well": 1})]
    sending = dispatcher(store, down, well, clock=clock, routes=routes)

    while store.due:
        await sending.send_due(0)
        await asyncio.sleep(0.001)
    await sending.drain(5)

    assert 10 <= len(down.sent) <= 25
    assert len(well.sent) >= 150


@pytest.mark.parametrize(("wish", "pause"), [(None, 1), (30, 30), (-1, 1), (3600, 900)])
async def test_leaves_a_carrier_alone_for_as_long_as_it_asks(clock, wish, pause):
    slow = TryLater(failure=Failure(reason=FailureReason.THROTTLED), detail="429", after_seconds=wish)
    carrier, store = ScriptedCarrier(slow), FakeStore(due(), due())
    sending = dispatcher(store, carrier, clock=clock, max_in_flight=1)
    await sending.send_due(0)
    while not sending.room:
        await asyncio.sleep(0)

    before = sending.open_routes
    clock.advance(pause - 0.001)
    just_before = sending.open_routes
    clock.advance(0.001)

    assert (before, just_before, sending.open_routes) == ([], [], ["default"])


async def test_tells_other_processes_that_a_carrier_fails(clock):
    shared = FakeCarrierStore()
    carrier, store = ScriptedCarrier(DOWN), FakeStore(*(due() for _ in range(50)))
    first = dispatcher(store, carrier, clock=clock, carrier_store=shared)
    second = dispatcher(store, ScriptedCarrier(), clock=clock, carrier_store=shared)
    await sent_so_far(first, carrier)

    await second._monitor.refresh()

    assert second.open_routes == []
    assert shared.kept["scripted"].error.reason is FailureReason.CARRIER_UNAVAILABLE


async def test_judges_a_carrier_that_is_back_by_what_it_has_done_since(clock):
    # Also where another process has found out that it failed, and that it is back.
    shared = FakeCarrierStore()
    configured = Carriers(ScriptedCarrier())
    first, second = (CarrierMonitor(store=shared, carriers=configured, clock=clock, in_flight=10) for _ in range(2))
    for _ in range(9):
        await second.hear("scripted", DOWN, probe=False)
    for _ in range(10):
        await first.hear("scripted", DOWN, probe=False)
    await second.refresh()
    clock.advance(5)
    assert await first.win_probe("scripted")
    await first.hear("scripted", Taken(carrier_message_id="c", detail="ok"), probe=True)
    await second.refresh()

    await second.hear("scripted", DOWN, probe=False)

    assert second.may_send("scripted")


async def test_counts_the_openings_of_a_carrier_that_is_dead_for_weeks_only_as_far_as_they_matter(clock):
    shared = FakeCarrierStore()
    monitor = CarrierMonitor(store=shared, carriers=Carriers(ScriptedCarrier()), clock=clock, in_flight=10)

    for _ in range(50):
        await monitor.hear("scripted", DOWN, probe=True)

    assert shared.kept["scripted"].times_opened == MOST_TIMES_OPENED
    assert open_seconds(MOST_TIMES_OPENED) == open_seconds(MOST_TIMES_OPENED + 1) == LONGEST_OPEN_SECONDS


async def test_shows_the_last_thing_that_went_wrong_at_a_carrier(clock):
    store = FakeStore(due())
    sending = dispatcher(store, ScriptedCarrier(DOWN), clock=clock)
    await sending.send_due(0)
    await sending.drain(5)

    (overview,) = sending._monitor.overview()

    assert (overview.last_error.code, overview.last_error.message) == ("carrier_unavailable", "HTTP 503")
    assert (overview.state, overview.sent_last_minute, overview.failed_last_minute) == (CarrierState.HEALTHY, 0, 1)


async def test_shows_a_carrier_that_gets_nothing_as_open_and_one_that_is_tried_as_probing(clock, failing):
    sending, carrier, _ = failing
    (before,) = sending._monitor.overview()
    carrier.answer = asyncio.Event()
    clock.advance(5)
    await sending.send_due(0)
    (meanwhile,) = sending._monitor.overview()
    carrier.answer.set()
    await sending.drain(5)

    assert (before.state, before.in_flight) == (CarrierState.OPEN, 0)
    assert before.state_until == clock.now()
    assert (meanwhile.state, meanwhile.in_flight) == (CarrierState.PROBING, 1)


# A carrier that has a limit


LIMITED = {"scripted": CarrierRules(segments_per_second=10)}


async def test_waits_for_its_slot(clock):
    carrier, store = ScriptedCarrier(), FakeStore(due())
    store.slot = NOW + timedelta(seconds=0.2)
    sending = dispatcher(store, carrier, clock=clock, rules=LIMITED)
    await sending.send_due(0)
    await asyncio.sleep(0)
    before = len(carrier.sent)

    clock.advance(0.2)
    await sending.drain(5)

    assert (before, len(carrier.sent)) == (0, 1)


async def test_finds_another_slot_when_it_has_stood_still_beyond_its_own(clock):
    carrier, store, shared = ScriptedCarrier(), FakeStore(due()), FakeCarrierStore()
    store.slot = NOW - timedelta(seconds=1)
    shared.slot = NOW + timedelta(seconds=0.3)
    sending = dispatcher(store, carrier, clock=clock, rules=LIMITED, carrier_store=shared)
    await sending.send_due(0)
    while not clock.sleepers:
        await asyncio.sleep(0)
    before = len(carrier.sent)

    clock.advance(0.3)
    await sending.drain(5)

    assert (before, len(carrier.sent)) == (0, 1)
    assert [wish.message_id for wish in shared.late] == [MESSAGE.id]

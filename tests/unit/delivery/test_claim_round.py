"""How the room for calls is shared among routes, and what keeps a message where it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from services.delivery.carriers.base import Capability
from services.delivery.carriers.registry import Carriers
from services.delivery.claim_round import CLAIM_SIZE, ClaimRound, Room
from services.delivery.domain import Attempt, Failure, FailureReason, OnUnknown, Outcome, Status
from services.delivery.routing import Route
from services.delivery.store import Begin, DueMessage, Finish, Leave, Postpone
from tests.unit.delivery.test_dispatch import MESSAGE, last_attempt

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
MAIN = Route(name="main", carriers={"a": 1}, failover=("b",), prefixes=("+65",))
REST = Route(name="rest", carriers={"b": 1, "c": 1})


def carrier(name: str, capability: Capability) -> SimpleNamespace:
    return SimpleNamespace(name=name, sender="", capability=capability)


def attempts(*outcomes: str, carrier: str = "a") -> tuple[Attempt, ...]:
    made = [last_attempt(Outcome(outcome), carrier=carrier, age_seconds=1000) for outcome in outcomes]
    return tuple(replace(each, number=number) for number, each in enumerate(made, 1))


def claim_round(
    *, available="abc", free=None, slots=None, routes=(MAIN, REST), capability=Capability.BLIND
) -> ClaimRound:
    room = Room(
        available=set(available),
        free={"a": 1000, "b": 1000, "c": 1000} | (free or {}),
        health={},
        slots=slots or {},
    )
    carriers = Carriers(*(carrier(name, capability) for name in "abc"), routes=routes)
    return ClaimRound(carriers=carriers, room=room, now=NOW, evidence=timedelta(seconds=90))


def shares(most: int, **given: object) -> dict[str, int]:
    return {share.route: share.limit for share in claim_round(**given).shares(most)}


@pytest.mark.parametrize(
    ("most", "given", "expected"),
    [
        (100, {}, {"main": 50, "rest": 50}),
        (1000, {}, {"main": CLAIM_SIZE, "rest": CLAIM_SIZE}),
        (100, {"free": {"a": 3}}, {"main": 3, "rest": 97}),  # what one leaves over is the other's
        (100, {"slots": {"a": 13}}, {"main": 13, "rest": 87}),
        (100, {"free": {"a": 0}}, {"rest": 100}),  # busy is waited for, not passed over
        (100, {"available": "bc"}, {"main": 50, "rest": 50}),  # failing is passed over
        (100, {"available": "c"}, {"rest": 100}),
        (100, {"available": ""}, {}),
        (0, {}, {}),
        (1, {}, {"rest": 1}),
    ],
)
def test_shares_its_room_among_the_routes_that_have_a_carrier(most, given, expected):
    assert shares(most, **given) == expected


def test_gives_a_carrier_no_more_than_it_has_room_for():
    deciding = claim_round(free={"a": 2}, routes=[MAIN])

    decisions = [deciding.decide(DueMessage(message=MESSAGE)) for _ in range(4)]

    assert [type(each) for each in decisions] == [Begin, Begin, Leave, Leave]


def test_gives_the_share_of_a_busy_carrier_to_those_of_the_same_rank():
    deciding = claim_round(free={"b": 0}, routes=[REST])

    decisions = [deciding.decide(DueMessage(message=MESSAGE)) for _ in range(50)]

    assert {each.carrier for each in decisions} == {"c"}


def test_puts_off_a_message_whose_only_carriers_can_not_take_it_now():
    tried = last_attempt(Outcome.REFUSED, carrier="b")
    deciding = claim_round(available="b", routes=[MAIN])

    assert deciding.decide(DueMessage(message=MESSAGE, attempts=(tried,))) == Postpone(until=NOW + timedelta(seconds=5))


def test_waits_for_the_carrier_that_may_have_the_message_and_takes_no_other():
    tried = last_attempt(Outcome.UNKNOWN, carrier="a")
    deciding = claim_round(available="bc")

    assert MESSAGE.on_unknown is OnUnknown.RESEND
    assert deciding.decide(DueMessage(message=MESSAGE, attempts=(tried,))) == Postpone(until=NOW + timedelta(seconds=5))


@pytest.mark.parametrize("capability", list(Capability))
@pytest.mark.parametrize(
    "outcomes", [("unknown", "try_later"), ("unknown", "try_later", "try_later"), ("started", "try_later")]
)
def test_gives_no_other_carrier_what_an_earlier_attempt_may_have_sent(capability, outcomes):
    due = DueMessage(message=MESSAGE, attempts=attempts(*outcomes))

    away = claim_round(available="bc", capability=capability).decide(due)
    back = claim_round(capability=capability).decide(due)

    assert isinstance(away, Postpone)
    # An idempotent carrier sends it once. One that can tell has had the time for it, unless it has just come back.
    is_open = capability is Capability.RECONCILABLE and outcomes[0] == "started"
    expected = None if is_open else ("a", 0 if capability is Capability.IDEMPOTENT else 1)
    assert (None if isinstance(back, Postpone) else (back.carrier, back.doubles)) == expected


@pytest.mark.parametrize("capability", [Capability.BLIND, Capability.RECONCILABLE])
def test_sends_nothing_more_of_what_is_to_be_held_when_an_earlier_attempt_may_have_sent_it(capability):
    held = replace(MESSAGE, on_unknown=OnUnknown.HOLD)

    decision = claim_round(capability=capability).decide(
        DueMessage(message=held, attempts=attempts("unknown", "try_later"))
    )

    assert decision == Finish(status=Status.UNKNOWN, failure=Failure(reason=FailureReason.NO_ANSWER))


def test_doubts_the_newest_attempt_of_those_in_doubt():
    due = DueMessage(message=MESSAGE, attempts=attempts("unknown", "unknown", "try_later"))

    assert claim_round().decide(due).doubles == 2


def test_takes_a_carriers_refusal_for_its_word_on_the_attempts_before_it():
    due = DueMessage(message=MESSAGE, attempts=attempts("unknown", "refused"))

    decision = claim_round(routes=[MAIN]).decide(due)

    assert (decision.carrier, decision.doubles) == ("b", 0)


def test_passes_over_what_could_not_take_it_since_the_carrier_in_doubt_was_removed():
    gone, tried = attempts("unknown", "try_later", carrier="gone")
    due = DueMessage(message=MESSAGE, attempts=(gone, replace(tried, carrier="a")))

    decision = claim_round(routes=[MAIN]).decide(due)

    assert (decision.carrier, decision.doubles) == ("b", 1)


def test_marks_both_attempts_when_the_carrier_that_may_have_it_is_no_longer_configured():
    tried = last_attempt(Outcome.UNKNOWN, carrier="gone")

    decision = claim_round().decide(DueMessage(message=MESSAGE, attempts=(tried,)))

    assert (decision.carrier, decision.doubles) == ("a", 1)


@pytest.mark.parametrize("available", ["abc", "ab", "a", "bc", "b", ""])
@pytest.mark.parametrize("free", [{}, {"a": 1}, {"a": 0}])
@pytest.mark.parametrize("routes", [[MAIN], [Route(name="sole", carriers={"a": 1})], [REST]])
def test_what_is_decided_once_for_a_route_is_what_would_be_decided_for_each_message(
    monkeypatch, available, free, routes
):
    given = {"available": available, "free": free, "routes": routes}
    messages = [replace(MESSAGE, id=f"{MESSAGE.id[:-1]}{character}") for character in "0123456789"]
    deciding = claim_round(**given)
    decided = [deciding.decide(DueMessage(message=message)) for message in messages]

    monkeypatch.setattr(ClaimRound, "_straight", lambda _round, _route: None)
    deciding = claim_round(**given)
    one_by_one = [deciding.decide(DueMessage(message=message)) for message in messages]

    assert decided == one_by_one

"""How a message's life reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from services.delivery.domain import Attempt, History, Outcome, Receipt, Reply, Status
from services.delivery.timeline import timeline
from tests.unit.delivery.test_dispatch import MESSAGE, NOW


def at(seconds: int):
    return NOW + timedelta(seconds=seconds)


def attempt(number: int, started: int, finished: int | None, outcome: Outcome, *, double: bool = False) -> Attempt:
    return Attempt(
        number=number,
        carrier="simulator",
        outcome=outcome,
        started_at=at(started),
        finished_at=None if finished is None else at(finished),
        detail="its own words",
        possible_duplicate=double,
    )


def test_tells_every_step_in_the_order_in_which_it_happened():
    history = History(
        message=replace(MESSAGE, status=Status.DELIVERED),
        attempts=(attempt(1, 0, 2, Outcome.UNKNOWN, double=True), attempt(2, 3, 4, Outcome.TAKEN, double=True)),
        receipts=(
            Receipt(message_id=MESSAGE.id, status=Status.DELIVERED, failure=None, detail="done", received_at=at(5)),
        ),
        replies=(
            Reply(
                id="mo_1",
                carrier="simulator",
                carrier_reply_id="r",
                sender="+6581230000",
                recipient="+6598765432",
                text="YES",
                received_at=at(6),
            ),
        ),
    )

    steps = timeline(history)

    assert [(step.event, step.status and step.status.value, step.attempt) for step in steps] == [
        ("accepted", "queued", None),
        ("attempt_started", "sending", 1),
        ("attempt_finished", "sending", 1),
        ("attempt_started", "sending", 2),
        ("attempt_finished", "sent", 2),
        ("receipt", "delivered", None),
        ("reply", None, None),
    ]
    assert [step.possible_duplicate for step in steps if step.event == "attempt_finished"] == [True, True]
    assert steps[2].detail == "its own words"


def test_shows_an_attempt_that_is_under_way_without_an_end():
    history = History(message=MESSAGE, attempts=(attempt(1, 0, None, Outcome.STARTED),), receipts=(), replies=())

    assert [step.event for step in timeline(history)] == ["accepted", "attempt_started"]


def test_ends_with_the_cancellation_of_a_canceled_message():
    message = replace(MESSAGE, status=Status.CANCELED, updated_at=at(1))

    steps = timeline(History(message=message, attempts=(), receipts=(), replies=()))

    assert [step.event for step in steps] == ["accepted", "canceled"]

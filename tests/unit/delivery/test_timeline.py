"""How a message's life reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.delivery.domain import (
    Attempt,
    Failure,
    FailureReason,
    History,
    Outcome,
    RecordedReceipt,
    Reply,
    Resolution,
    Resolved,
    Status,
)
from services.delivery.timeline import timeline
from services.delivery.webhooks import (
    Destination,
    DestinationKind,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookLog,
    WebhookStatus,
)
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


def receipt(status: Status = Status.DELIVERED, seconds: int = 5, **changes: object) -> RecordedReceipt:
    told = RecordedReceipt(
        attempt=1, part=0, parts=0, status=status, failure=None, detail="done", received_at=at(seconds)
    )
    return replace(told, **changes)


def history_of(attempts: tuple[Attempt, ...], *receipts: RecordedReceipt) -> History:
    return History(message=MESSAGE, attempts=attempts, receipts=receipts, replies=())


def test_tells_every_step_in_the_order_in_which_it_happened():
    history = History(
        message=replace(MESSAGE, status=Status.DELIVERED),
        attempts=(attempt(1, 0, 2, Outcome.UNKNOWN, double=True), attempt(2, 3, 4, Outcome.TAKEN, double=True)),
        receipts=(receipt(attempt=2),),
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
        ("receipt", "delivered", 2),
        ("reply", None, None),
    ]
    assert [step.possible_duplicate for step in steps if step.event == "attempt_finished"] == [True, True]
    assert steps[2].detail == "its own words"


def test_shows_an_attempt_that_is_under_way_without_an_end():
    history = History(message=MESSAGE, attempts=(attempt(1, 0, None, Outcome.STARTED),), receipts=(), replies=())

    assert [step.event for step in timeline(history)] == ["accepted", "attempt_started"]


@pytest.mark.parametrize(
    ("resolution", "status"),
    [(Resolution.SENT, Status.SENT), (Resolution.FAILED, Status.FAILED), (Resolution.RESEND, Status.QUEUED)],
)
def test_remembers_that_a_message_was_held_once_it_has_been_resolved(resolution, status):
    resolved = Resolved(held_at=at(2), at=at(60), resolution=resolution)
    history = replace(history_of((attempt(1, 0, 2, Outcome.UNKNOWN),)), resolved=(resolved,))

    steps = timeline(history)

    assert [step.event for step in steps] == ["accepted", "attempt_started", "attempt_finished", "held", "resolved"]
    assert [(step.at, step.status) for step in steps[3:]] == [(at(2), Status.UNKNOWN), (at(60), status)]
    assert steps[-1].detail.startswith(f"resolved as {resolution.value}: ")


def test_remembers_that_a_message_was_held_once_a_late_receipt_has_settled_it():
    history = history_of((attempt(1, 0, 2, Outcome.UNKNOWN),), receipt(seconds=60))

    steps = timeline(replace(history, resolved=(Resolved(held_at=at(3), at=at(60), resolution=None),)))

    assert [(step.event, step.at) for step in steps[2:]] == [
        ("attempt_finished", at(2)),
        ("held", at(3)),
        ("receipt", at(60)),
    ]


def test_ends_with_the_cancellation_of_a_canceled_message():
    message = replace(MESSAGE, status=Status.CANCELED, updated_at=at(1))

    steps = timeline(History(message=message, attempts=(), receipts=(), replies=()))

    assert [step.event for step in steps] == ["accepted", "canceled"]


def test_says_why_a_carrier_was_chosen():
    chosen = replace(attempt(1, 0, None, Outcome.STARTED), carrier="main", why="route singapore: 80 % by weight")

    steps = timeline(history_of((chosen, replace(attempt(2, 1, None, Outcome.STARTED), carrier="smsc"))))

    assert [step.detail for step in steps[1:]] == ["handed to main: route singapore: 80 % by weight", "handed to smsc"]


@pytest.mark.parametrize(
    ("failure", "detail", "shown"),
    [
        (None, "busy", "busy"),
        (Failure(reason=FailureReason.THROTTLED), "busy", "busy (throttled)"),
        (Failure(reason=FailureReason.THROTTLED, carrier_code="20429"), "busy", "busy (throttled, carrier code 20429)"),
        (Failure(reason=FailureReason.UNREACHABLE, carrier_code="27"), "", "unreachable, carrier code 27"),
    ],
)
def test_shows_the_failure_of_an_attempt_and_of_a_receipt(failure, detail, shown):
    failed = replace(attempt(1, 0, 1, Outcome.TRY_LATER), detail=detail, failure=failure)

    steps = timeline(history_of((failed,), receipt(Status.UNDELIVERED, detail=detail, failure=failure)))

    assert [step.detail for step in steps[2:]] == [shown, shown]


def test_shows_no_failure_where_nobody_knows_the_outcome():
    silent = replace(attempt(1, 0, 1, Outcome.UNKNOWN), failure=Failure(reason=FailureReason.NO_ANSWER))

    assert timeline(history_of((silent,)))[-1].detail == "its own words"


def test_shows_whose_word_a_receipt_is_and_which_part_it_is_about():
    attempts = (
        replace(attempt(1, 0, 1, Outcome.UNKNOWN), carrier="main"),
        replace(attempt(2, 2, 3, Outcome.TAKEN), carrier="smsc"),
    )
    receipts = (receipt(seconds=5), receipt(seconds=6, attempt=2, part=2, parts=3))

    steps = timeline(history_of(attempts, *receipts))

    assert [(step.carrier, step.attempt, step.detail) for step in steps if step.event == "receipt"] == [
        ("main", 1, "done"),
        ("smsc", 2, "part 2 of 3: done"),
    ]


@pytest.mark.parametrize(("carriers", "shown"), [(("main", "main"), "main"), (("main", "smsc"), None)])
def test_names_no_carrier_for_an_old_receipt_that_may_be_of_either(carriers, shown):
    attempts = tuple(
        replace(attempt(number, 0, 1, Outcome.TAKEN), carrier=carrier) for number, carrier in enumerate(carriers, 1)
    )

    step = timeline(history_of(attempts, receipt(attempt=0)))[-1]

    assert (step.carrier, step.attempt) == (shown, None)


def webhook(kind: DestinationKind, *attempts: WebhookAttempt, **changes: object) -> WebhookLog:
    delivery = WebhookDelivery(
        id="whd_1",
        tenant_id="ten_1",
        destination=Destination(kind=kind, id="wkh_1"),
        event=Event.MESSAGE_DELIVERED,
        event_id="evt_1",
        message_id=MESSAGE.id,
        reply_id="",
        body=b"{}",
        created_at=at(5),
    )
    return WebhookLog(delivery=replace(delivery, **changes), attempts=attempts)


def call(number: int, started: int, finished: int | None, status_code: int | None, problem: str = "") -> WebhookAttempt:
    return WebhookAttempt(
        number=number,
        started_at=at(started),
        finished_at=None if finished is None else at(finished),
        url="",
        status_code=status_code,
        milliseconds=12,
        problem=problem,
        excerpt="",
    )


def test_tells_each_call_of_a_webhook_and_how_it_ended():
    log = webhook(
        DestinationKind.INTEGRATION,
        call(1, 5, 6, None, "timeout: no whole answer came within 15 s"),
        call(2, 8, 9, 200),
        status=WebhookStatus.DELIVERED,
        finished_at=at(9),
    )

    steps = timeline(history_of((), receipt(seconds=7)), [log])

    what = "message.delivered to the integration's webhook"
    assert [(step.event, step.attempt, step.detail) for step in steps[1:]] == [
        ("webhook_attempt", 1, f"{what}: timeout: no whole answer came within 15 s"),
        ("receipt", 1, "done"),
        ("webhook_attempt", 2, f"{what}: answered 200 in 12 ms"),
        ("webhook_delivered", None, what),
    ]
    assert [step.webhook_delivery_id for step in steps] == [None, "whd_1", None, "whd_1", "whd_1"]
    assert [step.status for step in steps[3:]] == [None, None]


@pytest.mark.parametrize(
    ("status", "event"), [(WebhookStatus.FAILED, "webhook_failed"), (WebhookStatus.MISSED, "webhook_missed")]
)
def test_says_why_a_webhook_was_given_up(status, event):
    log = webhook(DestinationKind.TENANT, status=status, finished_at=at(9), problem="x" * 600)

    step = timeline(history_of(()), [log])[-1]

    assert (step.event, step.at, len(step.detail)) == (event, at(9), 500)
    assert step.detail.startswith("message.delivered to the tenant's webhook: xxx")


def test_shows_a_call_that_is_under_way_and_no_end_of_a_webhook_that_waits():
    steps = timeline(history_of(()), [webhook(DestinationKind.CALLBACK, call(1, 6, None, None))])

    assert [(step.event, step.at) for step in steps[1:]] == [("webhook_attempt", at(6))]
    assert steps[1].detail == "message.delivered to the message's callback: under way"

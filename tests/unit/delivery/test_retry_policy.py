"""What follows from a carrier's answer."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.delivery.carriers.base import (
    Capability,
    Failure,
    FailureReason,
    Refused,
    Status,
    Taken,
    TryLater,
    Unknown,
)
from services.delivery.domain import OnUnknown
from services.delivery.retry_policy import (
    EVIDENCE_SECONDS,
    LONGEST_DELAY_SECONDS,
    Retry,
    Settle,
    backoff_seconds,
    next_step,
)

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
THROTTLED = Failure(reason=FailureReason.THROTTLED)


def decide(result, *, attempt_number=1, capability=Capability.BLIND, on_unknown=OnUnknown.RESEND, jitter=0.5):
    return next_step(
        result,
        attempt_number=attempt_number,
        capability=capability,
        on_unknown=on_unknown,
        now=NOW,
        jitter=jitter,
    )


def test_settles_as_sent_when_the_carrier_took_it():
    assert decide(Taken(carrier_message_id="c", detail="")) == Settle(status=Status.SENT)


def test_settles_as_failed_when_the_carrier_refuses_for_good():
    failure = Failure(reason=FailureReason.INVALID_NUMBER, carrier_code="21211")

    assert decide(Refused(failure=failure, detail="")) == Settle(status=Status.FAILED, failure=failure)


def test_waits_at_least_as_long_as_the_carrier_asks():
    step = decide(TryLater(failure=THROTTLED, detail="", after_seconds=120))

    assert isinstance(step, Retry)
    assert (step.at - NOW).total_seconds() == 120
    assert step.status is Status.QUEUED
    assert step.failure is THROTTLED


@pytest.mark.parametrize(
    ("attempt_number", "ceiling"), [(1, 2.0), (2, 4.0), (3, 8.0), (9, 512.0), (10, LONGEST_DELAY_SECONDS), (500, 600.0)]
)
def test_backs_off_exponentially_to_a_cap_with_full_jitter(attempt_number, ceiling):
    assert backoff_seconds(attempt_number, 0.0) == pytest.approx(ceiling * 0.1)
    assert backoff_seconds(attempt_number, 1.0) == pytest.approx(ceiling)


@pytest.mark.parametrize(
    ("capability", "seconds"),
    [(Capability.IDEMPOTENT, 2.0), (Capability.BLIND, 2.0), (Capability.RECONCILABLE, EVIDENCE_SECONDS)],
)
def test_waits_for_evidence_after_an_unknown_outcome_only_where_there_can_be_some(capability, seconds):
    step = decide(Unknown(detail=""), capability=capability, jitter=1.0)

    assert isinstance(step, Retry)
    assert (step.at - NOW).total_seconds() == seconds
    assert step.status is Status.SENDING


@pytest.mark.parametrize(
    ("capability", "holds"),
    [(Capability.BLIND, True), (Capability.IDEMPOTENT, False), (Capability.RECONCILABLE, False)],
)
def test_holds_only_what_nothing_can_tell_about(capability, holds):
    step = decide(Unknown(detail=""), capability=capability, on_unknown=OnUnknown.HOLD)

    if holds:
        assert step == Settle(status=Status.UNKNOWN, failure=Failure(reason=FailureReason.NO_ANSWER))
    else:
        assert isinstance(step, Retry)

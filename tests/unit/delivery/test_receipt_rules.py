"""What receipts do to a message."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from services.delivery.domain import TERMINAL, Outcome, Status, status_after_receipt
from services.delivery.receipt_rules import Standing, after_receipt, rolled_up
from tests.kit.receipt_histories import Model, Replay, random_life

LIVES = 100_000
SENT, DELIVERED, UNDELIVERED = Status.SENT, Status.DELIVERED, Status.UNDELIVERED


@pytest.mark.parametrize("told", [SENT, DELIVERED, UNDELIVERED])
@pytest.mark.parametrize("current", sorted(TERMINAL - {Status.EXPIRED, Status.SUPPRESSED}))
def test_a_terminal_status_never_goes_back(current, told):
    assert status_after_receipt(current, told) is current


@pytest.mark.parametrize("told", [SENT, DELIVERED, UNDELIVERED])
@pytest.mark.parametrize("current", sorted(set(Status) - TERMINAL | {Status.EXPIRED, Status.SUPPRESSED}))
def test_any_other_status_learns_from_a_receipt(current, told):
    assert status_after_receipt(current, told) is told


@pytest.mark.parametrize(("told", "after"), [(SENT, SENT), (DELIVERED, DELIVERED), (UNDELIVERED, Status.SENDING)])
def test_an_older_attempt_can_not_say_undelivered_for_a_newer_one(told, after):
    assert status_after_receipt(Status.SENDING, told, newer_may_arrive=True) is after


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([SENT], SENT),
        ([DELIVERED], DELIVERED),
        ([DELIVERED, SENT, DELIVERED], SENT),
        ([DELIVERED, DELIVERED], DELIVERED),
        ([SENT, UNDELIVERED], UNDELIVERED),
        ([DELIVERED, UNDELIVERED], UNDELIVERED),
    ],
)
def test_parts_speak_with_one_voice(parts, status):
    assert rolled_up(parts) is status


@pytest.mark.parametrize(
    ("newest", "after"),
    [
        (Outcome.STARTED, Status.SENDING),
        (Outcome.TAKEN, Status.SENDING),
        (Outcome.UNKNOWN, Status.SENDING),
        (Outcome.TRY_LATER, UNDELIVERED),
        (Outcome.REFUSED, UNDELIVERED),
    ],
)
def test_an_older_attempt_ends_a_message_only_when_the_newer_one_is_over(newest, after):
    standing = Standing(status=Status.SENDING, attempts={1: Outcome.UNKNOWN, 2: newest}, parts={})

    assert after_receipt(standing, attempt=1, part=0, told=UNDELIVERED).status is after
    assert after_receipt(standing, attempt=1, part=0, told=DELIVERED).status is DELIVERED
    assert after_receipt(standing, attempt=2, part=0, told=UNDELIVERED).status is UNDELIVERED


class Rules:
    """The rules, told what happened step by step as the store tells them."""

    def __init__(self) -> None:
        self._standing = Standing(status=Status.QUEUED, attempts={}, parts={})

    @property
    def status(self) -> Status:
        return self._standing.status

    def started(self, attempt: int) -> None:
        self._become(Status.SENDING, {attempt: Outcome.STARTED})

    def ended(self, attempt: int, outcome: Outcome, parts: int, *, goes_on: bool) -> None:
        refused = Status.QUEUED if goes_on else Status.FAILED
        after = {Outcome.TAKEN: SENT, Outcome.UNKNOWN: Status.SENDING, Outcome.REFUSED: refused}
        status = after.get(outcome, Status.QUEUED) if self.status is Status.SENDING else self.status
        self._become(status, {attempt: outcome}, {(attempt, part): SENT for part in range(1, parts + 1)})

    def settled(self, status: Status) -> None:
        self._become(status)

    def said(self, attempt: int, part: int, status: Status) -> None:
        self._standing = after_receipt(self._standing, attempt=attempt, part=part, told=status)

    def _become(self, status: Status, attempts: dict | None = None, parts: dict | None = None) -> None:
        now = self._standing
        self._standing = Standing(
            status=status, attempts={**now.attempts, **(attempts or {})}, parts={**now.parts, **(parts or {})}
        )


def test_every_random_history_ends_as_the_model_says():
    random = Random(1)
    ends: Counter[Status] = Counter()

    for _ in range(LIVES):
        life = random_life(random)
        rounds = len(life.events) + 1
        by_rules, by_model = Replay(life, Rules()).run(rounds), Replay(life, Model()).run(rounds)
        assert by_rules is by_model, life
        ends[by_model] += 1

    assert set(ends) >= {SENT, DELIVERED, UNDELIVERED, Status.FAILED, Status.EXPIRED, Status.UNKNOWN}
    assert min(ends.values()) > LIVES // 1000

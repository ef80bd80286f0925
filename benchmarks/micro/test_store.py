"""The steps that end on the disk, in the groups that they come in under load. Divide by the group for one message."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.conftest import Runs
from servicekit.clock import SystemClock
from services.delivery import convert
from services.delivery.accept_messages import AcceptMessages
from services.delivery.domain import Outcome, Status
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import Begin, DueMessage, FinishedAttempt, Share, StartedAttempt
from textway.delivery.v1.submission_service_pb2 import Submission, SubmitMessagesRequest

ROUTE = "default"
BATCH = 50
CLAIM = 100
ROUNDS = 30
LEASE = timedelta(seconds=30)

_numbers = itertools.count(14_152_000_000)


def test_submit_a_batch_of_50(benchmark: BenchmarkFixture, store: SqlMessageStore, run: Runs) -> None:
    # What Delivery does with one call of Ingress: convert, make messages, commit.
    accepting = _accepting(store)

    stored = benchmark.pedantic(
        lambda request: run(_submit(accepting, request)), setup=lambda: ((_request(),), {}), rounds=ROUNDS
    )

    assert stored == BATCH


def test_claim_100(benchmark: BenchmarkFixture, store: SqlMessageStore, run: Runs) -> None:
    _queue_up(store, run, (ROUNDS + 1) * CLAIM)

    claimed = benchmark.pedantic(lambda: run(_claim(store)), rounds=ROUNDS, warmup_rounds=1)

    assert len(claimed) == CLAIM


def test_finish_100(benchmark: BenchmarkFixture, store: SqlMessageStore, run: Runs) -> None:
    _queue_up(store, run, (ROUNDS + 1) * CLAIM)

    recorded = benchmark.pedantic(
        lambda attempts: run(store.finish(attempts)),
        setup=lambda: (([_finished(attempt) for attempt in run(_claim(store))],), {}),
        rounds=ROUNDS,
        warmup_rounds=1,
    )

    assert recorded == [True] * CLAIM


def _accepting(store: SqlMessageStore) -> AcceptMessages:
    return AcceptMessages(
        store=store,
        clock=SystemClock(),
        shards=1,
        validity=timedelta(hours=4),
        queue_of=lambda _submission: ROUTE,
    )


async def _submit(accepting: AcceptMessages, request: SubmitMessagesRequest) -> int:
    stored = await accepting.accept([convert.submission(each) for each in request.submissions])
    return len(convert.submit_response(stored).accepted)


def _request() -> SubmitMessagesRequest:
    submissions = [
        Submission(
            tenant_id="ten_bench",
            integration_id="wkh_bench",
            to=f"+{next(_numbers)}",
            text="Your order INV-000004821 is on its way.",
            ref="INV-000004821",
        )
        for _ in range(BATCH)
    ]
    return SubmitMessagesRequest(submissions=submissions)


def _queue_up(store: SqlMessageStore, run: Runs, count: int) -> None:
    accepting = _accepting(store)
    for _ in range(count // BATCH):
        run(_submit(accepting, _request()))


async def _claim(store: SqlMessageStore) -> list[StartedAttempt]:
    now = datetime.now(UTC)
    claimed = await store.claim(
        shard=0,
        now=now,
        lease_until=now + LEASE,
        shares=[Share(route=ROUTE, limit=CLAIM)],
        decide=_begin,
        limits={},
    )
    return list(claimed.started)


def _begin(_due: DueMessage) -> Begin:
    return Begin(carrier="sink", sender="+14155550100")


def _finished(attempt: StartedAttempt) -> FinishedAttempt:
    return FinishedAttempt(
        message_id=attempt.message.id,
        number=attempt.number,
        carrier=attempt.carrier,
        token=attempt.token,
        outcome=Outcome.TAKEN,
        detail="202",
        carrier_message_id=f"carrier-{attempt.message.id}",
        status=Status.SENT,
        failure=None,
        retry_at=None,
        finished_at=datetime.now(UTC),
        message=attempt.message,
    )

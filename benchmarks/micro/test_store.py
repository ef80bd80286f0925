"""The steps that end on the disk, in the groups that they come in under load. Divide by the group for one message."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.conftest import Runs
from servicekit.clock import SystemClock
from servicekit.ids import new_id
from services.delivery import convert
from services.delivery.accept_messages import AcceptMessages
from services.delivery.domain import Outcome, Receipt, Status
from services.delivery.sql_store import SqlMessageStore
from services.delivery.sql_webhooks import SqlWebhookStore
from services.delivery.store import Begin, DueMessage, FinishedAttempt, ReceiptResult, Share, StartedAttempt
from services.delivery.webhook_store import ClaimedWebhook, FinishedWebhook, Limits, Recorded
from services.delivery.webhooks import Destination, DestinationKind, Event, WebhookDelivery, WebhookStatus
from textway.delivery.v1.submission_service_pb2 import Submission, SubmitMessagesRequest

ROUTE = "default"
BATCH = 50
CLAIM = 100
FEW = 4
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


def test_apply_4_receipts(benchmark: BenchmarkFixture, store: SqlMessageStore, run: Runs) -> None:
    # As many as come together at moderate rates.
    _queue_up(store, run, 2 * CLAIM)
    finished = [_finished(attempt) for _ in range(2) for attempt in run(_claim(store))]
    run(store.finish(finished))
    receipts = map(_delivered, finished)

    applied = benchmark.pedantic(
        lambda batch: run(store.apply_receipts(batch)),
        setup=lambda: ((list(itertools.islice(receipts, FEW)),), {}),
        rounds=ROUNDS,
        warmup_rounds=1,
    )

    assert applied == [ReceiptResult.APPLIED] * FEW


def test_store_claim_and_finish_4_webhooks(benchmark: BenchmarkFixture, webhooks: SqlWebhookStore, run: Runs) -> None:
    # As many as one endpoint has called at a time.
    recorded = benchmark.pedantic(
        lambda deliveries: run(_bring(webhooks, deliveries)),
        setup=lambda: (([_event() for _ in range(FEW)],), {}),
        rounds=ROUNDS,
        warmup_rounds=1,
    )

    assert [each.kept for each in recorded] == [True] * FEW


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


def _delivered(finished: FinishedAttempt) -> Receipt:
    return Receipt(
        message_id="",
        carrier=finished.carrier,
        carrier_message_id=finished.carrier_message_id,
        status=Status.DELIVERED,
        failure=None,
        detail="delivered",
        received_at=datetime.now(UTC),
    )


def _event() -> WebhookDelivery:
    now = datetime.now(UTC)
    return WebhookDelivery(
        id=new_id("whd", now),
        tenant_id="ten_bench",
        destination=Destination(kind=DestinationKind.INTEGRATION, id="wkh_bench"),
        event=Event.MESSAGE_DELIVERED,
        event_id=new_id("evt", now),
        message_id=new_id("msg", now),
        reply_id="",
        body=b'{"type":"message.delivered","data":{"status":"delivered"}}',
        created_at=now,
        next_at=now,
    )


async def _bring(webhooks: SqlWebhookStore, deliveries: Sequence[WebhookDelivery]) -> list[Recorded]:
    await webhooks.add(deliveries)
    now = datetime.now(UTC)
    limits = Limits(in_all=100, per_endpoint=FEW, per_failing_endpoint=1, per_tenant=20)
    claimed = await webhooks.claim(now=now, lease_until=now + LEASE, limits=limits)
    return await webhooks.finish([_answered(each) for each in claimed])


def _answered(claimed: ClaimedWebhook) -> FinishedWebhook:
    return FinishedWebhook(
        delivery_id=claimed.delivery.id,
        endpoint=claimed.delivery.endpoint,
        number=claimed.number,
        token=claimed.token,
        called=True,
        url="https://shop.example/hooks",
        status_code=200,
        milliseconds=12,
        problem="",
        excerpt="OK",
        status=WebhookStatus.DELIVERED,
        retry_at=None,
        finished_at=datetime.now(UTC),
    )

"""Claiming by many at once, and beside many finished messages: a slice of it always, all of it when it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from servicekit import migrations
from servicekit.clock import to_milliseconds
from servicekit.database import Database
from services.delivery import maintenance
from services.delivery.domain import Failure, FailureReason, NewMessage, Outcome, Status
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import FinishedAttempt, StartedAttempt
from tests.fakes.postgres import new_database
from tests.kit import messages
from tests.kit.claims import ROUTE, claim
from tests.kit.statements import watched

FULL = os.environ.get("TEXTWAY_FULL_FAULTS") == "1"
CLAIMERS = 8
MESSAGES = 50_000 if FULL else 3_000
FINISHED = 2_000_000 if FULL else 100_000
SEED = int(os.environ.get("TEXTWAY_TEST_SEED", "20261122"))
LEASE = timedelta(seconds=2)
IN_TIME_SECONDS = 600 if FULL else 90


@dataclass(frozen=True, kw_only=True)
class Held:
    """What one claimer says of one attempt: from when to when the message was its own."""

    claimer: int
    message_id: str
    number: int
    since: datetime
    until: datetime
    outcome: Outcome | None  # None where it walked away from it


def new_message(created_at: datetime, integration_id: str = "wkh_1") -> NewMessage:
    return messages.new_message(created_at, integration_id=integration_id)


def finished(attempt: StartedAttempt, at: datetime) -> FinishedAttempt:
    return FinishedAttempt(
        message_id=attempt.message.id,
        number=attempt.number,
        carrier=attempt.carrier,
        token=attempt.token,
        outcome=Outcome.TAKEN,
        detail="taken",
        carrier_message_id="c-1",
        status=Status.SENT,
        failure=None,
        retry_at=None,
        finished_at=at,
    )


def refused_for_now(attempt: StartedAttempt, at: datetime) -> FinishedAttempt:
    return replace(
        finished(attempt, at),
        outcome=Outcome.TRY_LATER,
        carrier_message_id="",
        status=Status.QUEUED,
        failure=Failure(reason=FailureReason.CARRIER_UNAVAILABLE),
        retry_at=at + timedelta(milliseconds=100),
    )


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database.open(url)
    try:
        yield database
    finally:
        await database.close()


async def add_all(store: SqlMessageStore, messages: list[NewMessage]) -> None:
    for start in range(0, len(messages), 250):
        await store.add(messages[start : start + 250])


async def claim_until_empty(url: str, claimer: int) -> list[Held]:
    """Claim, hold for a moment, let go: mostly taken, sometimes to be tried again, sometimes never heard of again."""
    chance = random.Random(SEED + claimer)
    held: list[Held] = []
    async with opened(url) as database:
        store = SqlMessageStore(database)
        deadline = time.monotonic() + IN_TIME_SECONDS
        while time.monotonic() < deadline:
            now = datetime.now(UTC)
            claimed = await claim(store, now=now, lease=LEASE, limit=chance.randint(1, 60))
            if not claimed and await store.next_due(0, [ROUTE]) is None:
                return held
            await asyncio.sleep(0.02 if claimed else 0.1)
            held += await let_go(store, chance, claimer, now, claimed)
    raise AssertionError("messages are left")


async def let_go(
    store: SqlMessageStore, chance: random.Random, claimer: int, since: datetime, claimed: list[StartedAttempt]
) -> list[Held]:
    at = datetime.now(UTC)
    fates = [(attempt, chance.choices(["taken", "later", "silence"], [94, 4, 2])[0]) for attempt in claimed]
    ends = [
        finished(attempt, at) if fate == "taken" else refused_for_now(attempt, at)
        for attempt, fate in fates
        if fate != "silence"
    ]
    verdicts = dict(zip([end.message_id for end in ends], await store.finish(ends) if ends else [], strict=True))
    outcomes = {end.message_id: end.outcome for end in ends if verdicts[end.message_id]}
    return [
        Held(
            claimer=claimer,
            message_id=attempt.message.id,
            number=attempt.number,
            since=since,
            until=at if attempt.message.id in outcomes else since + LEASE,
            outcome=outcomes.get(attempt.message.id),
        )
        for attempt, _ in fates
    ]


def in_a_process(url: str, claimer: int) -> list[Held]:
    return asyncio.run(claim_until_empty(url, claimer))


async def all_claimers(url: str) -> list[list[Held]]:
    if not FULL:
        return list(await asyncio.gather(*(claim_until_empty(url, claimer) for claimer in range(CLAIMERS))))
    with ProcessPoolExecutor(CLAIMERS, mp_context=multiprocessing.get_context("spawn")) as processes:
        loop = asyncio.get_running_loop()
        return list(
            await asyncio.gather(
                *(loop.run_in_executor(processes, in_a_process, url, claimer) for claimer in range(CLAIMERS))
            )
        )


@pytest.mark.faults
@pytest.mark.timeout(IN_TIME_SECONDS * 2)
async def test_eight_claimers_hold_each_message_one_at_a_time_and_starve_none(postgres_database):
    async with opened(postgres_database) as database:
        messages = [new_message(datetime.now(UTC), f"wkh_{number % 5}") for number in range(MESSAGES)]
        await add_all(SqlMessageStore(database), messages)

        by_claimer = await all_claimers(postgres_database)

        async with database.read(patience_seconds=60) as connection:
            ledger = (
                await connection.execute(
                    text(
                        "SELECT message_id, number, outcome, started_at_ms, finished_at_ms FROM delivery_attempts"
                        " ORDER BY message_id, number"
                    )
                )
            ).all()
    assert all(by_claimer), "a claimer never got anything"
    held = [each for claimer in by_claimer for each in claimer]
    check_that_one_held_each_at_a_time(held)
    check_the_ledger(ledger, held, {message.id for message in messages})


def check_that_one_held_each_at_a_time(held: list[Held]) -> None:
    of_message: dict[str, list[Held]] = defaultdict(list)
    for each in held:
        of_message[each.message_id].append(each)
    for turns in of_message.values():
        turns.sort(key=lambda each: each.number)
        assert [each.number for each in turns] == list(range(1, len(turns) + 1))
        assert [each.outcome for each in turns].count(Outcome.TAKEN) == 1
        assert turns[-1].outcome is Outcome.TAKEN
        for before, after in itertools.pairwise(turns):
            # The store counts in whole milliseconds.
            assert to_milliseconds(before.until) <= to_milliseconds(after.since), (before, after)


def check_the_ledger(ledger, held: list[Held], message_ids: set[str]) -> None:
    assert {row.message_id for row in ledger} == message_ids
    said = {(each.message_id, each.number): each.outcome or Outcome.UNKNOWN for each in held}
    assert {(row.message_id, row.number): Outcome(row.outcome) for row in ledger} == said
    for before, after in itertools.pairwise(ledger):
        if before.message_id == after.message_id:
            assert before.finished_at_ms <= after.started_at_ms


# Claims beside many finished messages


async def add_finished(database: Database, count: int) -> None:
    """Send one message, and copy all that is left of it so many times."""
    store = SqlMessageStore(database)
    now = datetime(2026, 6, 1, tzinfo=UTC)
    await store.add([new_message(now)])
    (attempt,) = await claim(store, now=now, limit=1)
    await store.finish([finished(attempt, now)])
    series = f"WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {count}) "
    async with database.write(patience_seconds=600) as connection:
        for table, key in (("delivery_messages", "id"), ("delivery_attempts", "message_id")):
            row = (await connection.execute(text(f"SELECT * FROM {table}"))).mappings().one()
            names = ", ".join(row)
            values = ", ".join("'msg_0' || n" if name == key else name for name in row)
            statement = f"INSERT INTO {table} ({names}) {series} SELECT {values} FROM {table}, series"
            if connection.dialect.name == "sqlite":
                statement = f"{series} INSERT INTO {table} ({names}) SELECT {values} FROM {table}, series"
            await connection.execute(text(statement))
        await connection.execute(text("ANALYZE"))


@contextlib.contextmanager
def statements_of_a_claim():
    """The statements that are run meanwhile, each with the parameters of its first row."""
    seen: list[tuple[str, object]] = []

    def keep(_connection, statement, parameters, many):
        seen.append((statement, parameters[0] if many else parameters))

    with watched(keep):
        yield seen


async def explain(database: Database, statements: list[tuple[str, object]]) -> list[tuple[str, dict]]:
    """Return for each step of each plan its statement and what the engine says of it."""
    steps: list[tuple[str, dict]] = []
    async with database.write(patience_seconds=30) as connection:
        is_postgres = connection.dialect.name == "postgresql"
        how = "EXPLAIN (FORMAT JSON)" if is_postgres else "EXPLAIN QUERY PLAN"
        for statement, parameters in statements:
            if not statement.startswith(("SELECT", "UPDATE", "DELETE")):
                continue
            measured = "EXPLAIN (ANALYZE, FORMAT JSON)" if is_postgres and statement.startswith("SELECT") else how
            rows = (await connection.exec_driver_sql(f"{measured} {statement}", parameters)).all()
            if is_postgres:
                plan = rows[0][0] if isinstance(rows[0][0], list) else json.loads(rows[0][0])
                steps += [(statement, step) for step in flat(plan[0]["Plan"])]
            else:
                steps += [(statement, {"detail": row.detail}) for row in rows]
    return steps


def flat(plan: dict) -> list[dict]:
    return [plan, *(step for inner in plan.get("Plans", ()) for step in flat(inner))]


@pytest.fixture
def engine_url(database_url, request):
    if "memory" in request.node.callspec.id:
        pytest.skip("a database in memory holds nothing for long")
    return database_url


@pytest.mark.parametrize("backlog", [100, 5_000])
async def test_a_claim_reads_the_due_rows_that_it_takes_and_no_finished_ones(engine_url, backlog):
    now = datetime(2026, 6, 12, tzinfo=UTC)
    limit = 100
    async with opened(engine_url) as database:
        store = SqlMessageStore(database)
        await add_finished(database, FINISHED)
        # The statistics are of an empty queue, as they mostly are where the queue is kept up with.
        await add_all(store, [new_message(now) for _ in range(backlog)])
        with statements_of_a_claim() as statements:
            assert len(await claim(store, now=now, limit=limit)) == limit
            await store.next_due(0, [ROUTE])
        steps = await explain(database, statements)

    assert any("delivery_due_ready" in str(step) for _, step in steps), steps
    for statement, step in steps:
        if "detail" in step:
            assert "SCAN delivery" not in step["detail"], (statement, step)
            assert "TEMP B-TREE" not in step["detail"], (statement, step)
        else:
            assert step["Node Type"] != "Seq Scan", (statement, step)
            assert step.get("Actual Rows", 0) + step.get("Rows Removed by Filter", 0) <= 2 * limit, (statement, step)


@pytest.mark.faults
@pytest.mark.skipif(not FULL, reason="times are compared in the full campaign only: TEXTWAY_FULL_FAULTS=1")
@pytest.mark.timeout(1800)
async def test_a_claim_takes_as_long_beside_two_million_finished_messages_as_beside_none(
    engine_url, tmp_path, postgres_url
):
    now = datetime(2026, 6, 12, tzinfo=UTC)
    with contextlib.ExitStack() as stack:
        if engine_url.startswith("sqlite"):
            other_url = f"sqlite:///{tmp_path / 'empty.db'}"
        else:
            other_url = stack.enter_context(new_database(postgres_url))
        async with opened(engine_url) as full, opened(other_url) as empty:
            await migrations.migrate(empty, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
            await add_finished(full, FINISHED)
            took: dict[str, list[float]] = {"full": [], "empty": []}
            for number in range(120):
                pair = [("full", full), ("empty", empty)]
                for name, database in pair if number % 2 else pair[::-1]:
                    store = SqlMessageStore(database)
                    await store.add([new_message(now) for _ in range(100)])
                    started = time.perf_counter()
                    claimed = await claim(store, now=now)
                    took[name].append(time.perf_counter() - started)
                    await store.finish([finished(attempt, now) for attempt in claimed])

    medians = {name: statistics.median(times[20:]) * 1000 for name, times in took.items()}
    print(f"median claim of 100: {medians} ms")  # noqa: T201
    assert medians["full"] <= 1.2 * medians["empty"], medians

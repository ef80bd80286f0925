"""Somebody says STOP in the very moment in which a message to them is due: it has begun to go by then or never does."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import pytest
from sqlalchemy import text

from servicekit import migrations
from servicekit.database import Database
from servicekit.ids import new_id
from services.delivery import maintenance
from services.delivery.domain import NewMessage, Reply
from services.delivery.optouts import OptOutWords
from services.delivery.sql_replies import SqlReplyStore
from services.delivery.sql_store import SqlMessageStore
from tests.contract.test_claiming_at_scale import new_message
from tests.fakes import postgres
from tests.faults.conftest import FULL, SEED
from tests.kit.claims import ROUTE, beginnings, claim

PROCESSES = 4
RACES = 1000 if FULL else 100
# How long those who claim give the STOP: from nothing to more than it takes, race by race, so that each side comes
# first in some and they meet in others, on slow machines and on fast ones.
HEAD_STARTS = 21  # an odd number, so that each is given in both kinds of races
LONGEST_HEAD_START_SECONDS = 0.04
# By how much any of them is late.
LATE_SECONDS = 0.004
# No lease ends meanwhile: a row of the ledger is written once.
LEASE = timedelta(hours=1)
IN_TIME_SECONDS = 300
OURS = "+6598765432"


# One where it is claimed, and one of each process but one where it begins as it is stored.
MESSAGES = sum(1 if race // PROCESSES % 2 == 0 else PROCESSES - 1 for race in range(RACES))


def person(race: int) -> str:
    return f"+65{80000000 + race}"


def to_person(race: int) -> NewMessage:
    return replace(new_message(datetime.now(UTC)), to=person(race))


def stop(race: int) -> Reply:
    now = datetime.now(UTC)
    return Reply(
        id=new_id("mo", now),
        carrier="simulator",
        carrier_reply_id=f"stop-{race}",
        sender=person(race),
        recipient=OURS,
        text="STOP",
        received_at=now,
    )


async def run_races(url: str, runner: int, line: Barrier) -> None:
    """Take part in every race: one process hears STOP while the others claim, or bring messages of their own."""
    chance = random.Random(SEED * PROCESSES + runner)
    database = Database.open(url)
    messages, replies = SqlMessageStore(database), SqlReplyStore(database)
    try:
        for race in range(RACES):
            hears_stop = race % PROCESSES == runner
            is_claimed = race // PROCESSES % 2 == 0
            if hears_stop and is_claimed:
                await messages.add([to_person(race)])
            line.wait(IN_TIME_SECONDS)
            head_start = LONGEST_HEAD_START_SECONDS * (race // PROCESSES % HEAD_STARTS) / HEAD_STARTS
            await asyncio.sleep(chance.random() * LATE_SECONDS + (0 if hears_stop else head_start))
            if hears_stop:
                await replies.add_reply(
                    stop(race),
                    window_of=lambda _message: timedelta(days=7),
                    announce=lambda _reply: (),
                    words=OptOutWords(),
                )
            elif is_claimed:
                await claim(messages, now=datetime.now(UTC), lease=LEASE)
            else:
                # In a queue of its own, where nothing waits, or it would wait too.
                mine = [replace(to_person(race), route=f"{race}-{runner}")]
                now = datetime.now(UTC)
                await messages.add_and_begin(mine, beginnings(mine), now=now, lease_until=now + LEASE)
    finally:
        await database.close()


def in_a_process(url: str, runner: int, line: Barrier, ended: Queue[str]) -> None:
    try:
        asyncio.run(run_races(url, runner, line))
        ended.put("")
    except BaseException as error:
        line.abort()
        ended.put(repr(error))
        raise


@pytest.fixture(scope="module")
def dated_postgres_url() -> Iterator[str]:
    """A PostgreSQL that remembers when each transaction was committed."""
    with postgres.running_server(track_commit_timestamp="on") as server, postgres.new_database(server.url) as url:
        yield url


@pytest.mark.faults
@pytest.mark.timeout(IN_TIME_SECONDS * 2)
async def test_no_attempt_starts_after_an_opt_out_is_committed(dated_postgres_url, figures):
    database = Database.open(dated_postgres_url)
    await migrations.migrate(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
    context = multiprocessing.get_context("spawn")
    line, ended = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=in_a_process, args=(dated_postgres_url, runner, line, ended), daemon=True)
        for runner in range(PROCESSES)
    ]

    since = time.monotonic()
    for process in processes:
        process.start()
    problems = [await asyncio.to_thread(ended.get, True, IN_TIME_SECONDS) for _ in processes]
    seconds = time.monotonic() - since

    # What nobody got, because another had it locked, or because it waits in a queue of its own.
    messages = SqlMessageStore(database)
    await messages.adopt_queues([ROUTE], ROUTE, datetime.now(UTC), MESSAGES)
    for _ in range(MESSAGES // 100 + 1):
        await claim(messages, now=datetime.now(UTC), lease=LEASE)

    async with database.read(patience_seconds=60) as connection:
        found = await connection.execute(
            text(
                "SELECT m.status, pg_xact_commit_timestamp(o.xmin) AS bound_at,"
                " pg_xact_commit_timestamp(a.xmin) AS started_at"
                " FROM delivery_messages m JOIN delivery_opt_outs o ON o.theirs = m.recipient"
                " LEFT JOIN delivery_attempts a ON a.shard = m.shard AND a.message_id = m.id"
            )
        )
        races = found.all()
    await database.close()
    late = [race for race in races if race.started_at is not None and race.started_at > race.bound_at]
    went = sum(race.started_at is not None for race in races)
    figures(f"{MESSAGES} races in {seconds:.1f} s, {went} won by the message, {len(late)} attempts after the opt-out")
    assert problems == [""] * PROCESSES
    assert len(races) == MESSAGES
    assert late == []
    assert 0 < went < MESSAGES
    assert {race.status for race in races if race.started_at is None} == {"suppressed"}
    assert {race.status for race in races if race.started_at is not None} == {"sending"}

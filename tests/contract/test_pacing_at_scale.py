"""One limit for all processes that send: four of them share a carrier's rate on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime

import pytest

from servicekit.clock import SystemClock
from servicekit.database import Database
from services.delivery.carrier_monitor import CarrierMonitor
from services.delivery.carriers.base import Capability, Taken
from services.delivery.carriers.registry import Carriers
from services.delivery.dispatch import Dispatcher
from services.delivery.domain import NewMessage
from services.delivery.routing import CarrierRules
from services.delivery.sql_carriers import SqlCarrierStore
from services.delivery.sql_store import SqlMessageStore
from services.delivery.worker import Worker
from tests.kit import messages

FULL = os.environ.get("TEXTWAY_FULL_FAULTS") == "1"
PROCESSES = 4
LIMIT = 50  # segments a second
SECONDS = 60 if FULL else 8
# The promise is 1.1 and 0.8 of the limit. A short run beside other tests also sees how the machine jumps.
MOST, LEAST = (1.1, 0.8) if FULL else (1.5, 0.5)


class Counting:
    """A carrier that keeps when each message came, and how many segments it had."""

    name = "main"
    kind = "scripted"
    sender = "+6598765432"
    capability = Capability.BLIND
    can_look_up = False

    def __init__(self) -> None:
        self.came: list[tuple[float, int]] = []

    async def send(self, message):
        self.came.append((datetime.now(UTC).timestamp(), len(message.text)))
        await asyncio.sleep(0.02)
        return Taken(carrier_message_id=f"c-{message.message_id}", detail="taken")


class Idle:
    """Nothing to look up and nothing to clean."""

    async def look_up_missing(self):
        return 0

    async def settle_parked(self):
        return 0

    async def clean(self):
        return 0


def new_message(segments: int) -> NewMessage:
    # As many characters as segments, for the carrier to count.
    return messages.new_message(datetime.now(UTC), text="x" * segments, segments=segments)


async def send_for(url: str, seconds: float) -> list[tuple[float, int]]:
    database, clock, carrier = Database.open(url), SystemClock(), Counting()
    store = SqlMessageStore(database)
    carriers = Carriers(carrier, rules={"main": CarrierRules(segments_per_second=LIMIT)})
    monitor = CarrierMonitor(store=SqlCarrierStore(database), carriers=carriers, clock=clock, in_flight=256)
    sending = Dispatcher(
        store=store,
        carriers=carriers,
        monitor=monitor,
        clock=clock,
        random=random.random,
        max_in_flight=256,
        on_room=lambda: None,
    )
    worker = Worker(
        store=store,
        dispatcher=sending,
        monitor=monitor,
        follow_up=Idle(),
        housekeeping=Idle(),
        clock=clock,
        random=random.random,
        shards=[0],
    )
    await worker.start()
    await asyncio.sleep(seconds)
    await worker.stop(5)
    await database.close()
    return carrier.came


def in_a_process(url: str, seconds: float) -> list[tuple[float, int]]:
    return asyncio.run(send_for(url, seconds))


def segments_by_window(came: list[tuple[float, int]]) -> list[int]:
    """Segments that came within a second from each arrival on."""
    within, start, total = [], 0, 0
    for at, segments in came:
        total += segments
        while came[start][0] <= at - 1.0:
            total -= came[start][1]
            start += 1
        within.append(total)
    return within


@pytest.mark.faults
@pytest.mark.timeout(SECONDS * 5 + 60)
async def test_four_processes_together_keep_to_one_limit_and_make_use_of_it(postgres_database):
    database = Database.open(postgres_database)
    store, chance = SqlMessageStore(database), random.Random(4)
    for _ in range(1 + LIMIT * (SECONDS + 10) // 300):
        await store.add([new_message(chance.choice([1, 1, 1, 2, 3])) for _ in range(300)])
    await database.close()

    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as processes:
        loop = asyncio.get_running_loop()
        runs = [loop.run_in_executor(processes, in_a_process, postgres_database, SECONDS) for _ in range(PROCESSES)]
        came = sorted(each for run in await asyncio.gather(*runs) for each in run)

    start, end = came[0][0] + 1, came[-1][0] - 1
    whole_seconds = [
        sum(segments for at, segments in came if start + n <= at < start + n + 1) for n in range(int(end - start))
    ]
    print(f"segments a second: at most {max(segments_by_window(came))}, at least {min(whole_seconds)}")  # noqa: T201
    assert max(segments_by_window(came)) <= MOST * LIMIT
    assert min(whole_seconds) >= LEAST * LIMIT

"""Campaign: a Delivery process stands still beyond its leases, and changes nothing when it wakes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.delivery.dispatch import CARRIER_CALL_SECONDS
from services.launcher.runtime import running_address
from tests.e2e.conftest import eventually
from tests.faults.conftest import FULL, SEED, Campaign
from tests.kit.chaos import Chaos
from tests.kit.ports import free_port
from tests.kit.senders import send_payloads

MESSAGES = 200 if FULL else 60
LEASE_SECONDS = 30 if FULL else 4
CALL_MS = (1_500, 3_000)  # so that all are in flight when the process is stopped
SHORT_LEASE_SECONDS = 4

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@contextlib.contextmanager
def another_delivery(campaign: Campaign, log: Path) -> Iterator[int]:
    """A second Delivery on the same database; yields its pid."""
    integrations = running_address(campaign.product.data_dir, "integrations")
    environment = {
        **campaign.product.environment,
        "TEXTWAY_DELIVERY_LISTEN": f"127.0.0.1:{free_port()}",
        "TEXTWAY_DELIVERY_METRICS_LISTEN": "",
        "TEXTWAY_INTEGRATIONS_ADDRESS": str(integrations),
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services", "serve", "delivery"], env=environment, stderr=output, stdout=output
        )
    try:
        yield process.pid
    finally:
        process.kill()
        with process:
            process.wait(10)


def ledger(url: str) -> list[tuple[Any, ...]]:
    """Every message and attempt as the database has them, save the carrier's ids: those are kept however late."""

    async def read() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            messages = await connection.fetch("SELECT * FROM delivery_messages ORDER BY id")
            attempts = await connection.fetch(
                "SELECT message_id, number, carrier, outcome, token, started_at_ms, finished_at_ms, detail,"
                " possible_duplicate, failure_reason FROM delivery_attempts ORDER BY message_id, number"
            )
        finally:
            await connection.close()
        return [tuple(row.values()) for row in (*messages, *attempts)]

    return asyncio.run(read())


def under_way(url: str) -> int:
    async def read() -> int:
        connection = await asyncpg.connect(url)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM delivery_due"))
        finally:
            await connection.close()

    return asyncio.run(read())


def test_a_process_that_wakes_after_its_leases_are_gone_changes_nothing(campaign, figures, tmp_path):
    begun = campaign(
        engine="postgresql", capability="blind", latency_ms=CALL_MS, TEXTWAY_LEASE_SECONDS=str(LEASE_SECONDS)
    )
    database = begun.product.environment["TEXTWAY_DELIVERY_DATABASE_URL"]
    delivery = begun.product.children()["delivery"]
    with begun.product.client() as api:
        asyncio.run(send_payloads(begun.integration_url(api), begun.oracle, at_least=MESSAGES, per_second=200))

        os.kill(delivery, signal.SIGSTOP)
        try:
            with another_delivery(begun, tmp_path / "another.log"):
                eventually(lambda: under_way(database), 0, seconds=LEASE_SECONDS + 45)
                before = ledger(database)
                os.kill(delivery, signal.SIGCONT)
                time.sleep(6)
                after = ledger(database)
        finally:
            os.kill(delivery, signal.SIGCONT)

        assert after == before
        verdict = begun.oracle.settled(api, within_seconds=10)
    figures(f"pauses=1 lease={LEASE_SECONDS} s {verdict}")
    assert verdict.acknowledged == MESSAGES
    assert verdict.tried_again > 0, "nothing was in flight when the process was stopped"
    assert not verdict.lost
    assert not verdict.stuck
    assert not verdict.unmarked
    assert verdict.duplicates <= verdict.tried_again


def test_a_pause_of_the_only_process_beyond_its_leases_and_its_calls_deadlines_is_harmless(campaign, figures):
    begun = campaign(capability="blind", TEXTWAY_LEASE_SECONDS=str(SHORT_LEASE_SECONDS))
    chaos = Chaos(begun.product, seed=SEED)

    async def flow(url: str) -> None:
        async def pause() -> None:
            while begun.oracle.acknowledged < MESSAGES / 3:
                await asyncio.sleep(0.01)
            async with chaos.paused("delivery"):
                await asyncio.sleep(CARRIER_CALL_SECONDS + 1)

        paused = asyncio.create_task(pause())
        await send_payloads(url, begun.oracle, at_least=MESSAGES, per_second=50, until=paused.done)
        await paused

    with begun.product.client() as api:
        asyncio.run(flow(begun.integration_url(api)))
        verdict = begun.oracle.settled(api, within_seconds=30)

    figures(f"pauses=1 of {CARRIER_CALL_SECONDS + 1:.0f} s lease={SHORT_LEASE_SECONDS} s {verdict}")
    assert not verdict.lost
    assert not verdict.stuck
    assert verdict.duplicates == 0
    assert verdict.tried_again == 0

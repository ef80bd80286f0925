"""Campaign: the power goes while the message store commits to SQLite."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from servicekit import migrations
from servicekit.database import Database
from services.delivery import maintenance
from services.delivery.domain import NewMessage, Outcome, Receipt, Status
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import FinishedAttempt
from tests.faults.conftest import FULL, SEED
from tests.kit import messages, powercut
from tests.kit.claims import claim
from tests.kit.powercut import Disk, Workload

CUTS, ROUNDS = (100, 250) if FULL else (10, 50)
NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)

pytestmark = [pytest.mark.faults]


def new_message(number: int) -> NewMessage:
    return messages.new_message(NOW, text=("Order confirmed. " * (number % 10 + 1)).strip(), ref=str(number))


async def work(store: SqlMessageStore) -> None:
    """Take messages in, send them and hear of them, as the service does."""
    for turn in range(ROUNDS):
        now = NOW + timedelta(seconds=turn)
        await store.add([new_message(turn * 10 + number) for number in range(turn % 7 + 1)])
        started = await claim(store, now=now)
        await store.finish(
            [
                FinishedAttempt(
                    message_id=attempt.message.id,
                    number=attempt.number,
                    carrier=attempt.carrier,
                    token=attempt.token,
                    outcome=Outcome.TAKEN,
                    detail="HTTP 202",
                    carrier_message_id=f"c-{attempt.message.id}",
                    status=Status.SENT,
                    failure=None,
                    retry_at=None,
                    finished_at=now,
                )
                for attempt in started
            ]
        )
        await store.apply_receipts(
            [
                Receipt(
                    message_id=attempt.message.id,
                    carrier=attempt.carrier,
                    carrier_message_id="",
                    status=Status.DELIVERED,
                    failure=None,
                    detail="",
                    received_at=now,
                )
                for attempt in started
            ]
        )


@pytest.fixture
async def workload(tmp_path: Path) -> Workload:
    path = tmp_path / powercut.DATABASE
    database = Database.open(f"sqlite:///{path}")
    await migrations.migrate(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
    await database.close()
    base = path.read_bytes()
    database = Database.open(f"sqlite:///{path}")
    with powercut.recorded() as transactions:
        await work(SqlMessageStore(database))
    await database.close()
    (tmp_path / "reference").mkdir()
    made = Workload.of(base, transactions, tmp_path / "reference")
    assert len(made.transactions) == len(set(made.states)) - 1 == 4 * ROUNDS
    return made


@pytest.fixture
def operations(workload: Workload) -> int:
    """How many disk operations the workload takes when the power stays."""
    disk = Disk()
    assert powercut.replay(workload, disk, synchronous=powercut.FULL) == len(workload.transactions)
    return disk.operations


def cut_often(workload: Workload, folder: Path, operations: int, synchronous: int) -> list[powercut.Aftermath]:
    found = []
    for number in range(CUTS):
        (cut_folder := folder / f"{synchronous}-{number}").mkdir()
        seed = SEED * 10_000 + number
        found.append(
            powercut.cut_power(workload, cut_folder, operations=operations, seed=seed, synchronous=synchronous)
        )
    return found


def test_power_cuts_lose_no_acknowledged_commit(workload, operations, tmp_path, figures):
    found = cut_often(workload, tmp_path, operations, powercut.FULL)

    lost = sum(each.lost for each in found)
    sound = sum(each.integrity == "ok" for each in found)
    acknowledged = sum(each.acknowledged for each in found)
    figures(f"cuts={len(found)} acknowledged commits={acknowledged} lost={lost} integrity ok={sound}/{len(found)}")
    assert acknowledged > 0
    assert lost == 0
    assert sound == len(found)
    # All of a commit or nothing of it, and nothing that was not asked for.
    assert all(each.kept in (each.acknowledged, each.acknowledged + 1) for each in found)


def test_this_campaign_would_see_a_weaker_setting(workload, operations, tmp_path, figures):
    found = cut_often(workload, tmp_path, operations // 2, powercut.NORMAL)

    lost = sum(each.lost for each in found)
    figures(f"cuts={len(found)} acknowledged commits={sum(each.acknowledged for each in found)} lost={lost}")
    assert lost > 0

"""Campaign: a database is away for a while; senders are told so in time, and nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Product, eventually, on_postgres
from tests.fakes.postgres import running_server
from tests.faults.conftest import FULL
from tests.kit.ports import free_port

OUTAGE_SECONDS = 30.0 if FULL else 4.0
BEFORE_SECONDS = 1.0
AFTER_SECONDS = 6.0 if FULL else 2.0
SENDERS = 4
TOLD_WITHIN_SECONDS = 2.0
BACK_WITHIN_SECONDS = 5.0
PAYLOAD = {"to": "+6581230000", "text": "Order #4821 confirmed", "ref": "4821"}

pytestmark = [pytest.mark.faults]


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    product = Product(tmp_path / "data", free_port())
    yield product
    product.stop()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one sender got for one post."""

    sent_at: float
    seconds: float
    status: int
    retry_after: str
    message_id: str


class Load:
    """Senders that post a few messages a second, whatever comes back."""

    def __init__(self, product: Product, path: str) -> None:
        self._product = product
        self._path = path
        self._stopping = asyncio.Event()
        self.answers: list[Answer] = []

    async def run(self) -> None:
        async with httpx.AsyncClient(base_url=self._product.address, trust_env=False, timeout=10) as client:
            await asyncio.gather(*(self._send(client) for _ in range(SENDERS)))

    def stop(self) -> None:
        self._stopping.set()

    async def _send(self, client: httpx.AsyncClient) -> None:
        while not self._stopping.is_set():
            sent_at = time.monotonic()
            answer = await client.post(self._path, json=PAYLOAD)
            self.answers.append(
                Answer(
                    sent_at=sent_at,
                    seconds=time.monotonic() - sent_at,
                    status=answer.status_code,
                    retry_after=answer.headers.get("retry-after", ""),
                    message_id=answer.json().get("id", ""),
                )
            )
            await asyncio.sleep(0.1)


async def load_through(product: Product, path: str, go_away, come_back) -> tuple[list[Answer], float]:
    """Post before, during and after an outage; return the answers and when the database was back."""
    load = Load(product, path)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(BEFORE_SECONDS)
    await asyncio.to_thread(go_away)
    await asyncio.sleep(OUTAGE_SECONDS)
    await asyncio.to_thread(come_back)
    back_at = time.monotonic()
    await asyncio.sleep(AFTER_SECONDS)
    load.stop()
    await running
    return load.answers, back_at


def check(product: Product, answers: list[Answer], back_at: float, figures: Callable[[str], None]) -> None:
    refused = [answer for answer in answers if answer.status != 202]
    assert {answer.status for answer in refused} == {503}
    assert all(int(answer.retry_after) >= 1 for answer in refused)
    assert max(answer.seconds for answer in refused) < TOLD_WITHIN_SECONDS
    assert any(answer.sent_at < back_at - OUTAGE_SECONDS for answer in answers if answer.status == 202)
    late = [answer for answer in refused if answer.sent_at > back_at + BACK_WITHIN_SECONDS]
    assert not late
    taken_again = [answer for answer in answers if answer.status == 202 and answer.sent_at > back_at]
    recovered = min(answer.sent_at + answer.seconds for answer in taken_again)
    slowest = max(answer.seconds for answer in refused)
    figures(f"{len(refused)} refused, slowest {slowest:.2f} s, back after {recovered - back_at:.2f} s")
    assert recovered - back_at < BACK_WITHIN_SECONDS
    waiting = {answer.message_id for answer in answers if answer.status == 202}
    with product.client() as api:

        def not_delivered() -> set[str]:
            for message_id in list(waiting):
                answer = api.get(f"/v1/messages/{message_id}")
                assert answer.status_code == 200, answer.text
                if answer.json()["status"] == "delivered":
                    waiting.discard(message_id)
            return waiting

        # What was in the carrier's hands when the database went is settled when its lease is over.
        eventually(not_delivered, set(), seconds=60)


def test_answers_503_while_postgres_is_stopped_and_loses_nothing(product, figures):
    with running_server() as server, on_postgres(product, server.url):
        with product.client() as api:
            made = api.post("/v1/ingress", json={"name": "Order system"}).json()

        seen: list[httpx.Response] = []

        def go_away() -> None:
            server.stop()
            with product.client() as api:
                seen.append(api.get("/health/ready"))

        answers, back_at = asyncio.run(
            load_through(product, f"/v1/ingress/{made['ingressKey']}", go_away, server.start)
        )

        check(product, answers, back_at, figures)
        with product.client() as api:
            seen.append(api.get("/health/ready"))
        assert [answer.status_code for answer in seen] == [503, 200]
        parts = {part["name"]: part for part in seen[0].json()["parts"]}
        assert [parts[name]["detail"] for name in ("integrations", "delivery")] == ["its database does not answer"] * 2


def test_answers_503_while_another_process_holds_the_sqlite_file_and_loses_nothing(product, figures):
    product.start()
    with product.client() as api:
        made = api.post("/v1/ingress", json={"name": "Order system"}).json()
    other = sqlite3.connect(product.data_dir / "delivery.db", isolation_level=None, check_same_thread=False, timeout=5)

    answers, back_at = asyncio.run(
        load_through(
            product,
            f"/v1/ingress/{made['ingressKey']}",
            lambda: other.execute("BEGIN IMMEDIATE"),
            lambda: other.execute("ROLLBACK"),
        )
    )

    other.close()
    check(product, answers, back_at, figures)

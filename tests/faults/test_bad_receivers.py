"""Campaign: some receivers of webhooks are as bad as can be; the others must not notice, and no memory may be lost."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.conftest import Product, eventually, free_port
from tests.faults.conftest import FULL
from tests.kit.receivers import BAD_WAYS, BadReceiver, Receiver

WELL = [f"/well/{number}" for number in range(6)]
SECONDS, PER_SECOND = (60, 30) if FULL else (8, 15)
# Of each message two events go out. More than may be called at once of one endpoint, so that some wait in line.
MESSAGES_TO_BAD = 40 if FULL else 3
EVENTS_OF_MESSAGE = 2
CALL_SECONDS = 15
CLOSED_WITHIN_SECONDS = 1
MOST_GROWTH_MIB = 32
MOST_P99_RATIO = 1.2 if FULL else 3
# Below this, a ratio tells of the machine's other work only.
NOISE_SECONDS = 0 if FULL else 0.1

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc"),
]


class Memory:
    """The most that a process has had in memory since a moment, compared with that moment."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak begins anew (proc_pid_clear_refs(5))
        self._before = self._mib("VmRSS")

    @property
    def growth_mib(self) -> float:
        return self._mib("VmHWM") - self._before

    def _mib(self, name: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    product = Product(tmp_path / "data", free_port())
    product.start()
    yield product
    product.stop()


@pytest.fixture
def well() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def bad() -> Iterator[BadReceiver]:
    with BadReceiver() as receiver:
        yield receiver


def integration_address(product: Product, outbound_url: str) -> str:
    """Make an integration whose status events go to a URL; return where it posts."""
    events = ["message.sent", "message.delivered"]
    with product.client() as api:
        answer = api.post("/v1/ingress", json={"name": "x", "outboundUrl": outbound_url, "outboundEvents": events})
    assert answer.status_code == 201, answer.text
    return f"{product.address}/v1/ingress/{answer.json()['ingressKey']}"


async def post(session: aiohttp.ClientSession, address: str) -> None:
    async with session.post(address, json={"to": "+6581230000", "text": "hello"}) as answer:
        assert answer.status == 202, await answer.text()


async def post_in_turn(addresses: Sequence[str], seconds: float) -> int:
    """Post to each address in turn, at the pace of the campaign; return how many messages that made."""
    messages = round(seconds * PER_SECOND)
    began = time.monotonic()
    async with aiohttp.ClientSession(trust_env=False) as session, asyncio.TaskGroup() as group:
        for number in range(messages):
            await asyncio.sleep(began + number / PER_SECOND - time.monotonic())
            group.create_task(post(session, addresses[number % len(addresses)]))
    return messages


async def post_to_bad(addresses: Sequence[str]) -> None:
    async with aiohttp.ClientSession(trust_env=False) as session:
        for _ in range(MESSAGES_TO_BAD):
            for address in addresses:
                await post(session, address)


def latencies(receiver: Receiver, since: int) -> list[float]:
    """Return how long each event took from the moment when it happened, in seconds, in ascending order."""
    moments = [(call.at, call.event["updatedAt"]) for call in receiver.calls[since:]]
    return sorted(at - datetime.fromisoformat(happened).timestamp() for at, happened in moments)


def p99(values: Sequence[float]) -> float:
    return values[math.ceil(len(values) * 0.99) - 1]


def test_bad_receivers_harm_no_others_and_cost_no_memory(product, well, bad, figures):
    to_well = [integration_address(product, well.url(path)) for path in WELL]
    to_bad = [integration_address(product, bad.url(path)) for path in BAD_WAYS]
    asyncio.run(post_in_turn(to_well, 2))
    messages = asyncio.run(post_in_turn(to_well, SECONDS)) + 2 * PER_SECOND
    eventually(lambda: len(well.calls), messages * EVENTS_OF_MESSAGE)
    baseline = latencies(well, since=2 * PER_SECOND * EVENTS_OF_MESSAGE)

    memory = Memory(product.children()["delivery"])
    before = len(well.calls)
    asyncio.run(post_to_bad(to_bad))
    messages = asyncio.run(post_in_turn(to_well, SECONDS))
    eventually(lambda: len(well.calls) - before, messages * EVENTS_OF_MESSAGE)
    disturbed = latencies(well, since=before)
    eventually(lambda: bool(bad.stayed_seconds.keys() >= BAD_WAYS.keys()), True, seconds=CALL_SECONDS + 10)

    growth = memory.growth_mib
    ratio = p99(disturbed) / p99(baseline)
    longest = {path: round(max(seconds), 1) for path, seconds in bad.stayed_seconds.items()}
    figures(
        f"events={len(disturbed)} p99={p99(disturbed) * 1000:.0f} ms, without bad ones {p99(baseline) * 1000:.0f} ms,"
        f" ratio {ratio:.2f}; memory +{growth:.1f} MiB; calls={dict(bad.begun)} longest, in seconds={longest}"
    )
    assert growth < MOST_GROWTH_MIB
    assert ratio <= MOST_P99_RATIO or p99(disturbed) < NOISE_SECONDS
    assert max(longest.values()) <= CALL_SECONDS + CLOSED_WITHIN_SECONDS
    assert all(longest[path] >= CALL_SECONDS - 1 for path in ("/hang", "/drip", "/drip-body"))
    assert set(bad.begun) == set(BAD_WAYS), "a redirect was followed"
    # Both events of a message arrive at once where the status line was 2xx, and come again where it was not.
    arrived = EVENTS_OF_MESSAGE * MESSAGES_TO_BAD
    assert all(bad.begun[path] <= arrived for path in ("/bomb", "/chunks"))

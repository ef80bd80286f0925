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

from tests.e2e.conftest import Product, eventually
from tests.faults.conftest import FULL
from tests.kit.ports import free_port
from tests.kit.receivers import BAD_WAYS, BadReceiver, Call, Receiver

WELL = [f"/well/{number}" for number in range(6)]
# What the bad ones are compared with: as many, with as much to do, and nothing wrong with them.
STAND_INS = [f"/stand-in{path}" for path in BAD_WAYS]
SECONDS, PER_SECOND = (90 if FULL else 8), 14
EVENTS = ("message.sent", "message.delivered")
CALL_SECONDS = 15
CLOSED_WITHIN_SECONDS = 1
MOST_GROWTH_MIB = 32
MOST_P99_RATIO = 1.2 if FULL else 3
# Below this, a ratio tells of the machine's other work only.
NOISE_SECONDS = 0 if FULL else 0.2

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
    with product.client() as api:
        answer = api.post("/v1/ingress", json={"name": "x", "outboundUrl": outbound_url, "outboundEvents": EVENTS})
    assert answer.status_code == 201, answer.text
    return f"{product.address}/v1/ingress/{answer.json()['ingressKey']}"


async def post(session: aiohttp.ClientSession, address: str) -> None:
    async with session.post(address, json={"to": "+6581230000", "text": "hello"}) as answer:
        assert answer.status == 202, await answer.text()


async def post_in_turn(addresses: Sequence[str], seconds: float) -> None:
    """Post to each address in turn, at the pace of the campaign."""
    began = time.monotonic()
    async with aiohttp.ClientSession(trust_env=False) as session, asyncio.TaskGroup() as group:
        for number in range(round(seconds * PER_SECOND / len(addresses)) * len(addresses)):
            await asyncio.sleep(began + number / PER_SECOND - time.monotonic())
            group.create_task(post(session, addresses[number % len(addresses)]))


def latencies(
    receiver: Receiver, to_well: Sequence[str], others: Sequence[str], seconds: float = SECONDS
) -> list[float]:
    """Post to both; return how long each event took to those that are well, in seconds, in ascending order."""
    before = len(receiver.calls)
    asyncio.run(post_in_turn([*to_well, *others], seconds))
    rounds = round(seconds * PER_SECOND / (len(to_well) + len(others)))

    def calls() -> list[Call]:
        return [call for call in receiver.calls[before:] if call.path in WELL]

    eventually(lambda: len(calls()), rounds * len(to_well) * len(EVENTS))
    moments = [(call.at, call.event["updatedAt"]) for call in calls()]
    return sorted(at - datetime.fromisoformat(happened).timestamp() for at, happened in moments)


def p99(values: Sequence[float]) -> float:
    return values[math.ceil(len(values) * 0.99) - 1]


def test_bad_receivers_harm_no_others_and_cost_no_memory(product, well, bad, figures):
    to_well = [integration_address(product, well.url(path)) for path in WELL]
    to_stand_ins = [integration_address(product, well.url(path)) for path in STAND_INS]
    to_bad = [integration_address(product, bad.url(path)) for path in BAD_WAYS]
    latencies(well, to_well, to_stand_ins, seconds=2)  # so that everything has been used once
    baseline = latencies(well, to_well, to_stand_ins)

    memory = Memory(product.children()["delivery"])
    disturbed = latencies(well, to_well, to_bad)
    eventually(lambda: bad.stayed_seconds.keys() >= BAD_WAYS.keys(), True, seconds=CALL_SECONDS + 10)

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
    assert bad.begun.keys() == BAD_WAYS.keys(), "a redirect was followed"
    events_of_each = len(disturbed) // len(to_well)
    for path in ("/bomb", "/chunks"):  # their status line says 200, so that one call is enough
        eventually(lambda path=path: bad.begun[path], events_of_each)

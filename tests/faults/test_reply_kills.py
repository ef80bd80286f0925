"""Campaign: Delivery is killed at any moment while replies come in; each is told, and never as two."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import pytest
import yaml

from services.delivery import carriers
from tests.e2e.conftest import Product, eventually
from tests.faults.conftest import FULL, SEED
from tests.kit.carrier import ScriptedCarrier
from tests.kit.carriers import SENDER
from tests.kit.chaos import Chaos
from tests.kit.pages import every
from tests.kit.ports import free_port
from tests.kit.receivers import Call, Receiver

KILLS, PER_SECOND = (50, 20) if FULL else (4, 20)
PEOPLE = 20
# How many come in between two kills, or about so: after its start a process lives for five seconds at least.
REPLIES = KILLS * 4 * PER_SECOND
CARRIER_WORKERS = 16
GIVE_UP_SECONDS = 60
TOLD_AGAIN_UNASKED = 0.1  # the share of callbacks that the carrier repeats although they were answered with 2xx
# Long enough that most kills find calls in flight, and short enough that four at a time keep up.
RECEIVER_SECONDS = (0.02, 0.15)
MAX_PER_ENDPOINT = 4
SETTLED_WITHIN_SECONDS = 60
SECRET = "a secret that only the carrier knows"
OWN_GATEWAY = Path(carriers.__path__[0]) / "definitions" / "own-gateway.yaml"
INTEGRATION, TENANT = "/integration", "/tenant"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the campaign has shown of one destination. Sets hold texts; no two replies have the same."""

    told: int
    repeats: int  # how many calls there were beyond one for each reply
    lost: frozenset[str]
    under_two_ids: frozenset[str]
    in_two_bodies: frozenset[str]

    def __str__(self) -> str:
        return f"told={self.told} lost={len(self.lost)} repeats={self.repeats} two_ids={len(self.under_two_ids)}"


def verdict(calls: Sequence[Call], acknowledged: frozenset[str]) -> Verdict:
    ids: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    bodies: defaultdict[str, set[bytes]] = defaultdict(set)
    for call in calls:
        text = call.event["text"]
        ids[text].add((call.headers["webhook-id"], call.event["id"]))
        bodies[text].add(call.body)
    return Verdict(
        told=len(ids),
        repeats=len(calls) - len(ids),
        lost=acknowledged - ids.keys(),
        under_two_ids=frozenset(text for text, found in ids.items() if len(found) > 1),
        in_two_bodies=frozenset(text for text, found in bodies.items() if len(found) > 1),
    )


def carriers_file(folder: Path, url: str) -> Path:
    """Write a file with one carrier: `own-gateway`, which brings replies besides."""
    definition = yaml.safe_load(OWN_GATEWAY.read_text())
    definition["name"] = "two-way"
    definition["settings"]["callback_secret"] = {"secret": True, "description": "Signs callbacks."}
    definition["inbound_callback"] = {
        "format": "json",
        "verify": {"scheme": "hmac", "secret": "{settings.callback_secret}", "header": "X-Signature"},
        **{name: name for name in ("id", "from", "to", "text")},
    }
    (folder / "two-way.yaml").write_text(json.dumps(definition))  # JSON is YAML
    carrier = {
        "definition": "./two-way.yaml",
        "from": SENDER,
        "settings": {"url": url, "callback_secret": SECRET},
    }
    path = folder / "carriers.yaml"
    path.write_text(json.dumps({"carriers": {"gateway": carrier}}))
    return path


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    with ScriptedCarrier(tmp_path) as carrier:
        product = Product(tmp_path / "data", free_port())
        product.environment["TEXTWAY_CARRIERS"] = str(carriers_file(tmp_path, carrier.url))
        product.start()
        yield product
        product.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    pauses = random.Random(SEED)
    with Receiver(pause_seconds=lambda: pauses.uniform(*RECEIVER_SECONDS)) as running:
        yield running


def write_to_people(api: httpx.Client, receiver: Receiver) -> list[str]:
    """Send each person a message that can be answered; return their numbers."""
    api.put("/v1/webhooks", json={"url": receiver.url(TENANT)}).raise_for_status()
    made = api.post("/v1/ingress", json={"name": "Order system", "outboundUrl": receiver.url(INTEGRATION)})
    assert made.status_code == 201, made.text
    path = f"/v1/ingress/{made.json()['ingressKey']}"
    people = [f"+658124{number:04d}" for number in range(PEOPLE)]
    for person in people:
        sent = api.post(path, json={"to": person, "text": "Coming?", "ref": person})
        assert sent.status_code == 202, sent.text
    eventually(lambda: len(api.get("/v1/messages", params={"status": "sent"}).json()["messages"]), PEOPLE)
    return people


class Carrier:
    """Brings replies at a pace, each again until it is answered with 2xx, and some even then."""

    def __init__(self, product: Product, people: Sequence[str]) -> None:
        self.acknowledged: set[str] = set()
        self.refusals: Counter[int] = Counter()
        self._url = f"{product.address}/v1/carriers/gateway/inbound"
        self._people = people
        self._random = random.Random(SEED)

    @property
    def progress(self) -> float:
        return len(self.acknowledged) / REPLIES

    async def bring(self, until: Callable[[], bool]) -> None:
        numbers = itertools.count()
        started = time.monotonic()

        async def bring_on(session: aiohttp.ClientSession) -> None:
            for number in numbers:
                if number >= REPLIES and until():
                    return
                await asyncio.sleep(started + number / PER_SECOND - time.monotonic())
                await self._tell(session, number)
                if self._random.random() < TOLD_AGAIN_UNASKED:
                    await self._tell(session, number)

        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, asyncio.TaskGroup() as group:
            for _ in range(CARRIER_WORKERS):
                group.create_task(bring_on(session))

    async def _tell(self, session: aiohttp.ClientSession, number: int) -> None:
        text = f"answer {number}"
        person = self._people[number % len(self._people)]
        body = json.dumps({"id": f"in-{number}", "from": person, "to": SENDER, "text": text}).encode()
        headers = {"X-Signature": hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            assert time.monotonic() < deadline, f"{text} was not taken in {GIVE_UP_SECONDS} s: {self.refusals}"
            try:
                async with session.post(self._url, data=body, headers=headers) as answer:
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            if 200 <= status < 300:
                self.acknowledged.add(text)
                return
            self.refusals[status] += 1
            await asyncio.sleep(0.05)


def pending(api: httpx.Client) -> list[object]:
    """Return webhook deliveries that are not settled, at most 50."""
    return list(api.get("/v1/webhook-deliveries", params={"status": "pending"}).json()["webhookDeliveries"])


def inbound(api: httpx.Client) -> Counter[str]:
    """Return how often each text is listed, over all pages."""
    return Counter(reply["text"] for reply in every(api.get, "/v1/inbound", "inbound"))


def test_kills_lose_no_reply_and_tell_none_as_two(product, receiver, figures):
    chaos = Chaos(product, seed=SEED, victims=("delivery",))
    with product.client() as api:
        people = write_to_people(api, receiver)
        carrier = Carrier(product, people)

        async def flow_under_fire() -> None:
            fire = asyncio.create_task(chaos.kill(KILLS, lambda: carrier.progress))
            await carrier.bring(until=fire.done)
            await fire

        asyncio.run(flow_under_fire())
        eventually(lambda: pending(api), [], seconds=SETTLED_WITHIN_SECONDS)
        listed = inbound(api)

    acknowledged = frozenset(carrier.acknowledged)
    verdicts = {path: verdict(receiver.calls_to(path), acknowledged) for path in (INTEGRATION, TENANT)}
    figures(
        f"kills={chaos.killed.total()} acknowledged={len(acknowledged)}"
        f" refusals={dict(carrier.refusals)} {' '.join(f'{path} {found}' for path, found in verdicts.items())}"
    )
    assert chaos.killed["delivery"] == KILLS
    assert set(carrier.refusals) <= {429, 503}
    assert listed == Counter(acknowledged)
    for found in verdicts.values():
        assert not found.lost
        assert found.told == len(acknowledged)
        assert not found.under_two_ids
        assert not found.in_two_bodies
        assert found.repeats <= MAX_PER_ENDPOINT * KILLS
    assert sum(found.repeats for found in verdicts.values()) > 0, "no kill found a call in flight"

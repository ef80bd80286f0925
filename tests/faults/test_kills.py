"""Campaign: any process is killed at any time while messages flow, on each engine and with each kind of carrier."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.conftest import FULL, SEED, Campaign
from tests.kit.chaos import CHILDREN, Chaos
from tests.kit.oracle import Verdict
from tests.kit.pages import every_message
from tests.kit.senders import send_payloads

KILLS, MESSAGES, PER_SECOND = (50, 5_000, 50) if FULL else (4, 400, 80)
IN_FLIGHT = 32
LEASE_SECONDS = 5
EVIDENCE_SECONDS = 20
SETTINGS = {
    "TEXTWAY_DELIVERY_IN_FLIGHT": str(IN_FLIGHT),
    "TEXTWAY_LEASE_SECONDS": str(LEASE_SECONDS),
    "TEXTWAY_EVIDENCE_SECONDS": str(EVIDENCE_SECONDS),
}
SETTLED_WITHIN_SECONDS = 60

only_in_full = pytest.mark.skipif(not FULL, reason="part of `make test-faults`")
pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def run(campaign: Campaign, **integration: object) -> tuple[Verdict, Chaos]:
    chaos = Chaos(campaign.product, seed=SEED, victims=("delivery", *CHILDREN))

    async def flow_under_fire(url: str) -> None:
        fire = asyncio.create_task(chaos.kill(KILLS, lambda: campaign.oracle.acknowledged / MESSAGES))
        await send_payloads(url, campaign.oracle, at_least=MESSAGES, per_second=PER_SECOND, until=fire.done)
        await fire

    with campaign.product.client() as api:
        asyncio.run(flow_under_fire(campaign.integration_url(api, **integration)))
        return campaign.oracle.settled(api, within_seconds=SETTLED_WITHIN_SECONDS), chaos


@pytest.mark.parametrize(
    ("engine", "capability"),
    [
        ("sqlite", "blind"),
        pytest.param("sqlite", "idempotent", marks=only_in_full),
        pytest.param("sqlite", "reconcilable", marks=only_in_full),
        pytest.param("postgresql", "blind", marks=only_in_full),
        pytest.param("postgresql", "idempotent", marks=only_in_full),
        pytest.param("postgresql", "reconcilable", marks=only_in_full),
    ],
)
def test_kills_lose_nothing_and_double_nothing_without_saying_so(campaign, figures, engine, capability):
    begun = campaign(engine=engine, capability=capability, **SETTINGS)

    verdict, chaos = run(begun)

    figures(f"kills={chaos.killed.total()} {dict(chaos.killed)} {verdict}")
    assert chaos.killed.total() == KILLS
    assert verdict.acknowledged >= MESSAGES
    assert not verdict.lost
    assert not verdict.stuck
    assert not verdict.ended_otherwise
    assert not verdict.held
    assert not verdict.unmarked
    most_duplicates = IN_FLIGHT * chaos.killed["delivery"] if capability == "blind" else 0
    assert verdict.duplicates <= min(most_duplicates, verdict.tried_again)


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=only_in_full)])
def test_holds_what_it_can_not_know_and_doubles_nothing(campaign, figures, engine):
    begun = campaign(engine=engine, capability="blind", **SETTINGS)

    verdict, chaos = run(begun, onUnknown="hold")

    figures(f"kills={chaos.killed.total()} {dict(chaos.killed)} {verdict}")
    assert not verdict.lost
    assert not verdict.stuck
    assert not verdict.ended_otherwise
    assert verdict.duplicates == 0
    assert verdict.tried_again == 0
    assert len(verdict.held) <= IN_FLIGHT * chaos.killed["delivery"]
    with begun.product.client() as api:
        listed = every_message(api, status="unknown")
    assert {message["id"] for message in listed} == verdict.held

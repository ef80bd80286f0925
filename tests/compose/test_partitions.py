"""What senders see while two parts of the product can not reach each other: every packet between them is dropped."""

from __future__ import annotations

import time

import pytest

from .engine import Installation, can_partition, partition, wait_until_ready
from .load import Load

PER_SECOND = 20
PARTITION_SECONDS = 30
# Requests that were on their way as it began are answered within their own deadline; after it, no doubt is left.
NOTICED_WITHIN_SECONDS = 6
ANSWERED_WITHIN_SECONDS = 5.5
RECOVERED_WITHIN_SECONDS = 5

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not can_partition(), reason="dropping packets in containers needs root, nsenter and iptables"),
]


def between(fleet: Installation, one: str, other: str, network: str, load: Load) -> tuple[float, float]:
    """Keep two services apart for a while under a load; return from when to when."""
    time.sleep(2)
    with partition(fleet.containers(one), fleet.containers(other), network):
        began = time.monotonic()
        time.sleep(PARTITION_SECONDS)
    healed = time.monotonic()
    time.sleep(RECOVERED_WITHIN_SECONDS + 4)
    return began, healed


def check_outage(load: Load, began: float, healed: float) -> float:
    """Hold answers against what a sender is promised; return how many seconds after healing the last request failed."""
    before = [answer for answer in load.answers if answer.began < began - 0.5]
    during = [answer for answer in load.since(began + NOTICED_WITHIN_SECONDS) if answer.began < healed - 6]
    after = load.since(healed)
    assert {answer.status for answer in before} == {202}, load.failures()
    assert {answer.status for answer in during} == {503}, load.failures()
    assert all(answer.retry_after for answer in load.failed if answer.status == 503)
    assert {answer.status for answer in load.failed} <= {503}
    assert max(answer.seconds for answer in load.answers) < ANSWERED_WITHIN_SECONDS
    recovery = max((answer.began - healed for answer in after if not answer.is_accepted), default=0.0)
    assert recovery < RECOVERED_WITHIN_SECONDS
    return recovery


def test_known_integrations_go_on_while_ingress_can_not_reach_integrations(fleet, figure):
    url = fleet.new_integration()["ingressUrl"]

    with Load(url, per_second=PER_SECOND) as load:
        between(fleet, "ingress", "integrations", "services", load)

    figure(f"ingress apart from integrations for {PARTITION_SECONDS} s: {load.statuses()}")
    assert not load.failed, load.failures()
    wait_until_ready(fleet)
    another = fleet.new_integration()["ingressUrl"]
    with Load(another, per_second=PER_SECOND) as fresh:
        time.sleep(2)
    assert not fresh.failed, fresh.failures()


@pytest.mark.parametrize(
    ("one", "other", "network"), [("ingress", "delivery", "services"), ("delivery", "postgres", "database")]
)
def test_senders_are_told_to_come_back_during_an_outage_and_are_served_soon_after(fleet, figure, one, other, network):
    url = fleet.new_integration()["ingressUrl"]

    with Load(url, per_second=PER_SECOND) as load:
        began, healed = between(fleet, one, other, network, load)

    slowest = max(answer.seconds for answer in load.answers)
    recovery = check_outage(load, began, healed)
    figure(
        f"{one} apart from {other} for {PARTITION_SECONDS} s: {load.statuses()}, slowest answer {slowest:.2f} s,"
        f" recovered {recovery:.2f} s after healing"
    )

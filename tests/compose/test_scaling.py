"""Four replicas of Delivery send what one can not, when the carrier is what takes the time."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from .engine import OWN_CARRIER, wait_until, wait_until_ready
from .load import post_many

LATENCY_MS = 200
# So few calls at once that the carrier's latency is the limit, and not the two processors that four replicas, their
# database and the carrier have to share: 10 messages a second for one replica.
IN_FLIGHT = 2
BACKLOG = 1_500
MEASURED_SECONDS = 12
LEAST_FACTOR = 3.0


@pytest.mark.timeout(600)
def test_four_replicas_of_delivery_send_three_times_as_much_and_everything_once(new_installation, figure):
    installation = new_installation(
        OWN_CARRIER, CARRIER_LATENCY_MS=str(LATENCY_MS), TEXTWAY_DELIVERY_IN_FLIGHT=str(IN_FLIGHT)
    )
    installation.up()
    wait_until_ready(installation)
    carrier = installation.carrier()
    answers = post_many(installation.new_integration()["ingressUrl"], BACKLOG, at_once=32)
    assert Counter(answer.status for answer in answers) == {202: BACKLOG}

    def rate() -> float:
        began, before = time.monotonic(), carrier.count()
        time.sleep(MEASURED_SECONDS)
        after, took = carrier.count(), time.monotonic() - began
        assert after < BACKLOG, "there was not enough to send"
        return (after - before) / took

    one = rate()
    installation.up(delivery=4)
    wait_until(lambda: len(installation.containers("delivery")) == 4, "four replicas run")
    for replica in installation.containers("delivery"):
        wait_until(lambda one=replica: one.health == "healthy", "every replica is healthy")
    four = rate()
    wait_until(lambda: carrier.count() == BACKLOG, "everything is sent", within=120)

    figure(
        f"delivery from 1 to 4 replicas, {LATENCY_MS} ms a call: {one:.0f}/s to {four:.0f}/s, {four / one:.2f} times"
    )
    assert set(carrier.seen()) == {answer.message_id for answer in answers}
    assert set(carrier.seen().values()) == {1}
    assert four >= LEAST_FACTOR * one
    installation.down()

"""What senders see while replicas are restarted one after the other, and when one is killed."""

from __future__ import annotations

import time

import pytest

from .engine import Container, Installation, wait_until, wait_until_ready
from .load import Load

SERVICES = ("integrations", "ingress", "delivery")
PER_SECOND = 100
STOPPED_WITHIN_SECONDS = 25
FORGIVEN_SECONDS = 3
# Envoy takes requests for five seconds after it was told to stop; a busy sender may post later than it was due.
DRAINED_SECONDS = 2
# A replica that was killed holds its messages until its lease ends, which is 30 s.
SENT_WITHIN_SECONDS = 120


def restart(container: Container) -> float:
    """Restart one replica, and wait until it is healthy; return how many seconds its stop took."""
    took = container.stop()
    assert container.exit_code == 0
    container.start()
    wait_until(lambda: container.health == "healthy", f"{container.service} is healthy again")
    return took


def wait_until_sent(fleet: Installation, accepted: list[str]) -> dict[str, int]:
    carrier = fleet.carrier()
    wait_until(lambda: not set(accepted) - set(carrier.seen()), "every accepted message is sent", SENT_WITHIN_SECONDS)
    seen = carrier.seen()
    return {message_id: seen[message_id] for message_id in accepted}


@pytest.mark.timeout(900)
def test_a_rolling_restart_of_every_service_fails_and_loses_nothing(fleet, figure):
    url = fleet.new_integration()["ingressUrl"]
    stops = {}

    with Load(url, per_second=PER_SECOND) as load:
        time.sleep(2)
        for service in SERVICES:
            for number, replica in enumerate(fleet.containers(service), start=1):
                stops[f"{service} {number}"] = restart(replica)
        time.sleep(2)

    sent = wait_until_sent(fleet, load.accepted)
    twice = sum(number > 1 for number in sent.values())
    slowest = max(answer.seconds for answer in load.answers)
    figure(
        f"rolling restart at {PER_SECOND}/s: {len(load.answers)} requests, {load.failures()}, 0 lost,"
        f" {twice} sent twice, slowest answer {slowest:.2f} s,"
        f" stops {', '.join(f'{name} {seconds:.1f} s' for name, seconds in stops.items())}"
    )
    assert not load.failed, load.failures()
    assert twice == 0
    assert max(stops.values()) < STOPPED_WITHIN_SECONDS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_replica_loses_nothing_and_is_felt_only_for_a_moment(fleet, figure, service):
    url = fleet.new_integration()["ingressUrl"]
    victim = fleet.containers(service)[0]

    with Load(url, per_second=PER_SECOND) as load:
        time.sleep(2)
        killed_at = time.monotonic()
        victim.kill()
        gone_at = time.monotonic()
        time.sleep(8)
    victim.start()
    wait_until(lambda: victim.health == "healthy", f"{service} is healthy again")

    sent = wait_until_sent(fleet, load.accepted)
    late = [answer.began - gone_at for answer in load.failed]
    figure(
        f"{service} killed at {PER_SECOND}/s: {len(load.failed)} of {len(load.answers)} requests failed"
        f"{f', the last of them begun {max(late):.2f} s after it was gone' if late else ''}, 0 lost,"
        f" {sum(number > 1 for number in sent.values())} sent twice"
    )
    assert all(answer.began >= killed_at - 1 for answer in load.failed), load.failures()
    assert all(answer.began <= gone_at + FORGIVEN_SECONDS for answer in load.failed), load.failures()


def test_the_gateway_answers_what_it_has_in_hand_before_it_ends(fleet, figure):
    url = fleet.new_integration()["ingressUrl"]
    (gateway,) = fleet.containers("gateway")

    with Load(url, per_second=PER_SECOND) as load:
        time.sleep(2)
        told_at = time.monotonic()
        took, exit_code = gateway.stop(), gateway.exit_code
    gateway.start()
    wait_until_ready(fleet)

    drained = [answer for answer in load.answers if answer.began < told_at + DRAINED_SECONDS]
    wait_until_sent(fleet, load.accepted)
    figure(f"gateway stopped at {PER_SECOND}/s: {len(drained)} requests in its last {DRAINED_SECONDS} s, all answered")
    assert [answer for answer in drained if not answer.is_accepted] == []
    assert exit_code == 0
    assert took < STOPPED_WITHIN_SECONDS

"""The least that the product is compared with: a real Envoy, a real PostgreSQL, and the benchmark's own load."""

from __future__ import annotations

from benchmarks import ceiling, least
from tests.fakes.postgres import running_server


def test_the_least_stores_and_hands_on_every_message(tmp_path):
    with running_server() as server, least.staged_least(tmp_path, server) as stage:
        measured = least.measure(stage, 0.3, rates=[100.0], success=ceiling.SUCCESS, warm_up_seconds=0.1)

    at_once, at_a_rate = measured[0.0], measured[100.0]
    assert (at_once.lost, at_a_rate.lost) == (0, 0)
    assert at_once.outcome.accepted == at_once.outcome.requests > 0
    assert at_a_rate.outcome.accepted == at_a_rate.outcome.requests == 30
    assert set(at_once.cpu_us) == {"gateway", "ingress", "delivery", "postgresql"}
    assert at_once.cpu_us_of_ours < sum(at_once.cpu_us.values())

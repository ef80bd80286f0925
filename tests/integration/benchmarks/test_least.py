"""The least that the product is compared with: a real Envoy, a real PostgreSQL, and the benchmark's own load."""

from __future__ import annotations

from benchmarks import least
from tests.fakes.postgres import running_server


def test_the_least_stores_and_hands_on_every_message(tmp_path):
    with running_server() as server:
        at_once, at_a_rate = least.measure(tmp_path, server, 0.3, rates=[100.0], warm_up_seconds=0.1)

    assert (at_once.lost, at_a_rate.lost) == (0, 0)
    assert at_once.outcome.requests > 0
    assert at_a_rate.outcome.requests == 30
    assert set(at_once.cpu_us) == {"gateway", "ingress", "delivery", "postgresql"}
    assert at_once.cpu_us_without_database < sum(at_once.cpu_us.values())

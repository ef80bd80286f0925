"""The ceiling: a real Envoy, an empty handler, and the benchmark's own load."""

from __future__ import annotations

from benchmarks import ceiling


def test_the_empty_handler_answers_every_request_through_envoy(tmp_path):
    measured = ceiling.measure(tmp_path, 0.2, warm_up_seconds=0.1)

    assert measured.requests_per_second > 0
    assert set(measured.cpu_us) == {"envoy", "python"}

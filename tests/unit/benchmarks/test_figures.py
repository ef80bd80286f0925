"""The arithmetic of the benchmarks, and what they post."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from benchmarks import figures
from benchmarks.figures import Spread
from benchmarks.payloads import Payloads
from benchmarks.processes import Process, Snapshot, Usage, named


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 500), (0.99, 990), (0.999, 999), (0.9991, 1000), (1, 1000), (0.0001, 1)]
)
def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed(share, expected):
    assert figures.percentile(range(1, 1001), share) == expected


def test_percentiles_do_not_depend_on_the_order_in_which_answers_came():
    assert figures.percentiles([3.0, 1.0, 2.0]) == {"p50": 2.0, "p99": 3.0, "p99_9": 3.0, "worst": 3.0}
    assert figures.percentiles([]) == {"p50": 0.0, "p99": 0.0, "p99_9": 0.0, "worst": 0.0}


def test_the_worst_second_is_the_poorest_whole_one():
    moments = [10.1, 10.9, 11.5, 12.0, 12.1, 12.2, 13.9]

    assert figures.worst_second(moments, 10.0, 13.5) == 1
    assert figures.worst_second([10.1, 12.1], 10.0, 13.0) == 0


def test_a_spread_names_its_ends_only_when_there_are_two():
    assert Spread.of([3, 1, 2]).text(1) == "2.0 [1.0-3.0]"
    assert Spread.of([2000]).text() == "2,000"


def test_what_nobody_measured_used_is_the_others_share():
    before = Snapshot(at=10.0, cpu_seconds={"ingress": 1.0}, machine_busy_seconds=100.0)
    after = Snapshot(at=12.0, cpu_seconds={"ingress": 2.0}, machine_busy_seconds=101.5)

    usage = Usage.between(before, after)

    assert usage.cpu_seconds == {"ingress": 1.0}
    assert usage.others_share == 0.25


def test_a_process_is_filed_under_the_nearest_name_above_it():
    processes = {
        pid: Process(pid=pid, parent=parent, command=command, cpu_seconds=0, resident_bytes=0)
        for pid, parent, command in [
            (1, 0, "sh -c 'textway up # serve ingress'"),
            (2, 1, "textway up"),
            (3, 2, "textway serve ingress"),
            (4, 3, "a worker of it"),
            (5, 2, "envoy --config-path x"),
            (6, 1, "textway serve ingress"),
        ]
    }

    found = named(2, {"gateway": "envoy", "ingress": "serve ingress"}, processes)

    pids = {name: {process.pid for process in group} for name, group in found.items()}
    assert pids == {"gateway": {5}, "ingress": {3, 4}, "launcher": {2}}


@pytest.mark.parametrize("items", [1, 3])
def test_every_payload_is_signed_and_is_for_somebody_else(items):
    payloads = Payloads(path="/v1/ingress/ig_x", secret="top", items=items, first_number=7, port=8080)

    requests = [next(payloads) for _ in range(2)]

    recipients = []
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        headers = dict(line.lower().split(": ") for line in head.decode().split("\r\n")[1:])
        assert int(headers["content-length"]) == len(body)
        assert headers["x-webhook-signature"] == f"sha256={hmac.digest(b'top', body, hashlib.sha256).hex()}"
        orders = json.loads(body)
        recipients += [order["customer"]["phone"] for order in (orders if items > 1 else [orders])]
    assert recipients == [f"+1415200{number:04d}" for number in range(7, 7 + 2 * items)]

"""The load generator against the carrier of the benchmarks, each in a process of its own as in `make bench`."""

from __future__ import annotations

import os

from benchmarks import peers, processes
from benchmarks.load import Load


def test_every_request_is_answered_counted_and_sent_when_it_was_due():
    with peers.running_sink() as sink:
        load = {"port": sink.port, "path": "/messages", "secret": "s", "seconds": 0.2}

        closed = peers.send(Load(**load, connections=4))
        after_closed = sink.stats()["total"]
        opened = peers.send(Load(**load, connections=8, rate=200.0))

        assert closed.accepted == closed.requests == after_closed > 0
        assert opened.accepted == opened.requests == sink.stats()["total"] - after_closed == 40
        assert not closed.refused | opened.refused
        assert closed.broken + opened.broken == 0
        assert opened.ended_at - opened.started_at >= 0.2
        assert 0 < opened.latency_ms["p50"] <= opened.latency_ms["p99"] <= opened.latency_ms["worst"]
        used = processes.tree(sink.pid, processes.all_processes())
        assert [process.pid for process in used] == [sink.pid]
        assert used[0].resident_bytes > 1_000_000
        shared_once, resident = (
            processes.proportional_mebibytes({"sink": used}),
            processes.resident_mebibytes({"sink": used}),
        )
        assert 1 < shared_once["sink"] <= resident["sink"] + 1  # they were read one after the other
        assert os.getpid() in processes.all_processes()

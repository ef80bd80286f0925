"""The processes around the product: the carrier that takes everything, and the load generator."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from benchmarks.load import LAST_ANSWERS_SECONDS, Load, Outcome
from benchmarks.machine import ROOT
from tests.kit.ports import free_port

STOPPED_WITHIN_SECONDS: Final = 10
_POLL_SECONDS: Final = 0.1


class Sink:
    """The carrier. It can be stopped and started again on the same port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Return when it can be called."""
        command = [sys.executable, "-m", "benchmarks.sink", str(self.port)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the carrier of the benchmark did not start")

    def stop(self) -> None:
        """End it; what it knew is gone."""
        if self._process:
            with self._process as process:
                process.send_signal(signal.SIGTERM)
                process.wait(STOPPED_WITHIN_SECONDS)
            self._process = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process
        return self._process.pid

    def stats(self) -> dict[str, Any]:
        """Return what has arrived since the last reset."""
        return self._get("/stats")

    def reset(self) -> None:
        """Let it forget."""
        self._get("/reset")

    def wait_for(self, messages: int, within_seconds: float) -> dict[str, Any]:
        """Return what has arrived once it is this many different messages, or once the time is over."""
        deadline = time.monotonic() + within_seconds
        while (stats := self.stats())["distinct"] < messages and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return stats

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=STOPPED_WITHIN_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return dict(json.loads(connection.getresponse().read()))


@contextlib.contextmanager
def running_sink() -> Iterator[Sink]:
    """Start a carrier on a free port, and stop it afterwards."""
    sink = Sink(free_port())
    sink.start()
    try:
        yield sink
    finally:
        sink.stop()


@contextlib.contextmanager
def under_load(load: Load) -> Iterator[subprocess.Popen[str]]:
    """Have a load sent meanwhile; `outcome_of` waits for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    json.dump(asdict(load), process.stdin)
    process.stdin.close()
    process.stdin = None
    try:
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout:
            process.stdout.close()


def outcome_of(process: subprocess.Popen[str], load: Load) -> Outcome:
    """Wait until a load has been sent, and return what came of it."""
    printed, _ = process.communicate(timeout=load.seconds + LAST_ANSWERS_SECONDS + STOPPED_WITHIN_SECONDS)
    if process.returncode:
        raise RuntimeError("the load generator failed")
    return Outcome(**json.loads(printed))


def send(load: Load) -> Outcome:
    """Send a load and return what came of it."""
    with under_load(load) as process:
        return outcome_of(process, load)

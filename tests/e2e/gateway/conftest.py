"""Real Envoy before stub services, started once for all tests of this folder."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.launcher import gateway, gateway_process
from tests.kit.ports import free_port

from .stubs import Stubs


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A running Envoy."""

    port: int
    process: subprocess.Popen[bytes]
    access_log: Path
    stubs: Stubs
    admin: str

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=15, **options)

    def access_log_until(self, request_id: str) -> list[str]:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            lines = self.access_log.read_text().splitlines()
            if lines and request_id in lines[-1]:
                return lines
            time.sleep(0.1)
        raise AssertionError("the access log does not have the request")

    def stats(self, needle: str) -> dict[str, int]:
        transport = httpx.HTTPTransport(uds=self.admin)
        with httpx.Client(transport=transport, base_url="http://admin") as admin:
            lines = admin.get("/stats", params={"filter": needle}).text.splitlines()
        return {name: int(value) for name, value in (line.split(": ") for line in lines)}


@contextlib.contextmanager
def started(folder: Path, *, changed: Callable[[str], str] = str) -> Iterator[Gateway]:
    """Run Envoy with its files in a folder, and with its configuration as the test has changed it."""
    stubs = Stubs()
    for name in ("integrations", "ingress", "delivery"):
        stubs.start(name)
    port = free_port()
    upstreams = gateway.Upstreams(**{**stubs.addresses, "ingress": (stubs.addresses["ingress"],)})
    configuration = gateway.prepare(folder, listen=f"127.0.0.1:{port}", upstreams=upstreams)
    configuration.write_text(changed(configuration.read_text()))
    access_log = folder / "access.log"
    with access_log.open("wb") as log, (folder / "envoy.log").open("wb") as errors:
        # Its log is written at once, which is otherwise done every ten seconds.
        command = (*gateway_process.command(configuration, workers=1), "--file-flush-interval-msec", "100")
        process = subprocess.Popen(command, stdout=log, stderr=errors)
    running = Gateway(
        port=port, process=process, access_log=access_log, stubs=stubs, admin=str(folder / gateway_process.ADMIN_SOCKET)
    )
    try:
        _wait_until_ready(running, folder / "envoy.log")
        yield running
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        stubs.close()


@pytest.fixture(scope="session")
def running_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with started(tmp_path_factory.mktemp("gw")) as running:
        yield running


@pytest.fixture
def gate(running_gateway: Gateway) -> Iterator[Gateway]:
    running_gateway.stubs.forget()
    yield running_gateway
    running_gateway.stubs.forget()


@pytest.fixture
def client(gate: Gateway) -> Iterator[httpx.Client]:
    with gate.client() as client:
        yield client


def _wait_until_ready(running: Gateway, log: Path) -> None:
    deadline = time.monotonic() + 20
    paths = ("/health/ready", "/v1/ingress", "/v1/messages")
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            break
        try:
            with running.client() as client:
                if all(client.get(path).status_code == 200 for path in paths):
                    return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"Envoy is not ready:\n{log.read_text()[-4000:]}")

"""The product as a user runs it, `textway up`, on a data folder and a database of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import processes
from benchmarks.machine import ROOT
from benchmarks.payloads import PATHS, SIGNING_HEADER
from servicekit import ids
from tests.kit.ports import free_port

STARTED_WITHIN_SECONDS: Final = 120
STOPPED_WITHIN_SECONDS: Final = 60
CALL_SECONDS: Final = 10
# Each process by the word in its command line.
NAMES: Final = {
    "gateway": "envoy",
    "integrations": "serve integrations",
    "ingress": "serve ingress",
    "delivery": "serve delivery",
}
# One carrier over HTTP, as somebody with a gateway of their own has it.
_CARRIERS: Final = """
carriers:
  sink:
    definition: own-gateway
    from: "+14155550100"
    settings: {{url: "http://127.0.0.1:{port}/messages"}}
"""


class Product:
    """One running product, with one integration."""

    def __init__(self, process: subprocess.Popen[str], port: int, key: str) -> None:
        self._process = process
        self._key = key
        self.port = port
        self.secret = secrets.token_hex(24)
        self.path = ""

    def connect_a_system(self) -> None:
        """Make the integration that the payloads are for."""
        body = {"name": "Shop", **PATHS, "signingSecret": self.secret, "signingHeader": SIGNING_HEADER}
        self.path = f"/v1/ingress/{self.call('/v1/ingress', body)['ingressKey']}"

    def call(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Call the public API; return what it answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self._key}", "content-type": "application/json"},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=CALL_SECONDS) as answer:
            return json.load(answer)

    def processes(self) -> dict[str, list[processes.Process]]:
        """Return its processes by name."""
        return processes.named(self._process.pid, NAMES, processes.all_processes())


@contextlib.contextmanager
def running(folder: Path, *, carrier_port: int, settings: Mapping[str, str]) -> Iterator[Product]:
    """Start it, with an integration, and stop it afterwards. `settings` are those of the database."""
    carriers, port, key = folder / "carriers.yaml", free_port(), ids.new_secret("sk_live", 40)
    carriers.write_text(_CARRIERS.format(port=carrier_port))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TEXTWAY_")} | {
        "TEXTWAY_DATA_DIR": str(folder / "data"),
        "TEXTWAY_HTTP_PORT": str(port),
        "TEXTWAY_BOOTSTRAP_KEY": key,
        "TEXTWAY_CARRIERS": str(carriers),
        **settings,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services", "up"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_until_ready(process)
        product = Product(process, port, key)
        product.connect_a_system()
        yield product
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOPPED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    said: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            said.append(line)
            if line.startswith("ready "):
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    if not ready.wait(STARTED_WITHIN_SECONDS) or not any(line.startswith("ready ") for line in said):
        raise RuntimeError("`textway up` did not get ready:\n" + "".join(said))

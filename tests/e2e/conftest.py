"""The product as a user runs it: `textway up` with real Envoy and real processes, on a data folder of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from servicekit import ids
from tests.fakes.postgres import new_database
from tests.kit.ports import free_port

STARTED_WITHIN_SECONDS = 90
STOPPED_WITHIN_SECONDS = 30
SERVES = re.compile(r"serve (integrations|ingress|delivery)(?: --number ([0-9]+))?")


class Product:
    """One running `textway up`."""

    python = (sys.executable, "-m", "services")

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.address = f"http://127.0.0.1:{port}"
        self.key = ids.new_secret("sk_live", 40)
        self.output: list[str] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TEXTWAY_")},
            "TEXTWAY_DATA_DIR": str(data_dir),
            "TEXTWAY_HTTP_PORT": str(port),
            "TEXTWAY_BOOTSTRAP_KEY": self.key,
            # By default it depends on the machine.
            "TEXTWAY_INGRESS_WORKERS": "1",
        }
        self._process: subprocess.Popen[str] | None = None

    def start(self, **settings: str | None) -> None:
        changed = {**self.environment, **settings}
        before = len(self.output)
        self._process = subprocess.Popen(
            [*self.python, "up"],
            env={name: value for name, value in changed.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ready = threading.Event()
        threading.Thread(target=self._read, args=(self._process, ready), daemon=True).start()
        # The end of its output wakes us too, and may come before its exit can be seen.
        if not ready.wait(STARTED_WITHIN_SECONDS) or not any(
            line.startswith("ready ") for line in self.output[before:]
        ):
            self.stop()
            raise AssertionError("`textway up` did not get ready:\n" + "".join(self.output))

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout
        for line in process.stdout:
            self.output.append(line)
            if line.startswith("ready "):
                ready.set()
        ready.set()

    def stop(self) -> int:
        if self._process is None:
            return 0
        process, children, self._process = self._process, self.children(), None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            with process:
                return process.wait(STOPPED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in children.values():
                os.kill(pid, signal.SIGKILL)
            process.kill()
            raise

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def children(self) -> dict[str, int]:
        """The pids of gateway, integrations, ingress, delivery, and further processes of Ingress: ingress-2."""
        listing = subprocess.run(["ps", "-ewwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listing.splitlines()]
        parents = {int(row[0]): int(row[1]) for row in rows}
        found = {}
        for row in rows:
            pid, args = int(row[0]), row[2] if len(row) > 2 else ""
            ancestor = parents.get(pid, 0)
            while ancestor not in (0, 1, self.pid):
                ancestor = parents.get(ancestor, 0)
            if ancestor != self.pid:
                continue
            if serves := SERVES.search(args):
                found["-".join(part for part in serves.groups() if part)] = pid
            if "envoy" in args.split()[0]:
                found["gateway"] = pid
        return found

    def command(self, *arguments: str) -> str:
        """Run `textway ...` on this data folder; return what it printed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `textway ...` on this data folder, whatever comes of it."""
        return subprocess.run(
            [*self.python, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.address, headers=headers, trust_env=False, timeout=10, **options)


@contextlib.contextmanager
def products(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Product]]:
    """Make products, and stop in the end whichever still runs."""
    with contextlib.ExitStack() as stack:

        def make() -> Product:
            product = Product(tmp_path_factory.mktemp("data"), free_port())
            stack.callback(product.stop)
            return product

        yield make


@contextlib.contextmanager
def on_postgres(product: Product, url: str) -> Iterator[Product]:
    """The product with a database for each service."""
    with new_database(url) as integrations, new_database(url) as delivery:
        product.environment |= {
            "TEXTWAY_INTEGRATIONS_DATABASE_URL": integrations,
            "TEXTWAY_DELIVERY_DATABASE_URL": delivery,
        }
        product.start()
        try:
            yield product
        finally:
            product.stop()


@pytest.fixture(scope="module")
def new_product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Product]]:
    """Make a product that is a module's own: it does not go on beside the tests of another."""
    with products(tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The product that tests share; whoever hurts it takes one of its own."""
    with products(tmp_path_factory) as make:
        shared = make()
        shared.start()
        yield shared


@pytest.fixture
def api(product: Product) -> Iterator[httpx.Client]:
    with product.client() as client:
        yield client


@pytest.fixture
def post(product: Product) -> Iterator[httpx.Client]:
    """A sender: no key, no default headers."""
    with httpx.Client(base_url=product.address, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def integration(api: httpx.Client) -> dict[str, Any]:
    answer = api.post("/v1/ingress", json={"name": "Order system", "preset": "generic"})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def eventually(read: Callable[[], Any], expected: Any, seconds: float = 10) -> None:
    """Wait until `read` returns what is expected; fail with what it returned last."""
    deadline = time.monotonic() + seconds
    while (found := read()) != expected:
        if time.monotonic() > deadline:
            assert found == expected
        time.sleep(0.02)

"""What the campaigns share: their size, their seed, a product that sends through a scripted carrier, and a report."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Product
from tests.fakes import postgres
from tests.kit.carrier import ScriptedCarrier
from tests.kit.oracle import Oracle
from tests.kit.ports import free_port

FULL = os.environ.get("TEXTWAY_FULL_FAULTS") == "1"
SEED = int(os.environ.get("TEXTWAY_FAULT_SEED", "1"))
# Long enough that every kill finds attempts in flight.
LATENCY_MS = (20, 300)
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figures(request) -> Callable[[str], None]:
    """Take a line of figures, to be printed when all tests have run."""
    lines = request.config.stash.setdefault(FIGURES, [])
    size = "full" if FULL else "slice"
    return lambda line: lines.append(f"{request.node.name} ({size}, seed {SEED}): {line}")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("figures of the fault campaigns")
        for line in lines:
            terminalreporter.line(line)


class Campaign:
    """A product on its way through trouble, its carrier, and the oracle that watches both."""

    def __init__(self, product: Product, carrier: ScriptedCarrier, oracle: Oracle) -> None:
        self.product = product
        self.carrier = carrier
        self.oracle = oracle

    def integration_url(self, api: httpx.Client, **options: Any) -> str:
        """Make an integration; return where its payloads go."""
        answer = api.post("/v1/ingress", json={"name": "Order system", **options})
        assert answer.status_code == 201, answer.text
        return f"{self.product.address}/v1/ingress/{answer.json()['ingressKey']}"


@pytest.fixture
def databases(request) -> Iterator[Callable[[str], dict[str, str]]]:
    """Give the settings that put both databases on an engine, and drop them afterwards."""
    with contextlib.ExitStack() as stack:

        def settings(engine: str) -> dict[str, str]:
            if engine == "sqlite":
                return {}
            server = request.getfixturevalue("postgres_url")
            return {
                f"TEXTWAY_{service}_DATABASE_URL": stack.enter_context(postgres.new_database(server))
                for service in ("DELIVERY", "INTEGRATIONS")
            }

        yield settings


@pytest.fixture
def campaign(tmp_path: Path, databases) -> Iterator[Callable[..., Campaign]]:
    """Start a product of its own, which sends through a scripted carrier.

    `way` turns the carrier's address into the one that the product is told; `settings` are the product's.
    """
    with contextlib.ExitStack() as stack:

        def begin(
            *,
            engine: str = "sqlite",
            capability: str = "blind",
            latency_ms: tuple[int, int] = LATENCY_MS,
            way: Callable[[str], str] = lambda carrier_url: carrier_url,
            **settings: str,
        ) -> Campaign:
            carrier = stack.enter_context(
                ScriptedCarrier(tmp_path, capability=capability, seed=SEED, latency_ms=latency_ms)
            )
            product = Product(tmp_path / "data", free_port())
            product.environment.update({**databases(engine), **carrier.settings(way(carrier.url)), **settings})
            stack.callback(product.stop)
            product.start()
            return Campaign(product, carrier, Oracle(ledger=tmp_path / "acknowledged.log", carrier=carrier))

        yield begin

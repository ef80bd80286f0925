"""The product in containers, as an operator runs it; every test says what it measured at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from .engine import OWN_CARRIER, Installation, NoEngineError, build, compose_command, wait_until_ready

_figures: list[str] = []


@pytest.fixture(scope="session")
def figure() -> Callable[[str], None]:
    """Keeps a line for the end of the run."""
    return _figures.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("figures")
        for line in _figures:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def compose(figure) -> Sequence[str]:
    """The compose command of this machine, with the image built."""
    try:
        command = compose_command()
    except NoEngineError as error:
        pytest.skip(f"the containers are not tested here: {error}")
    figure(f"image built in {build():.0f} s; run by `{' '.join(command)}`")
    return command


@pytest.fixture(scope="session")
def new_installation(compose) -> Iterator[Callable[..., Installation]]:
    """Makes installations that are taken down at the end, whatever happens."""
    made: list[Installation] = []

    def make(*overrides: str, **settings: str) -> Installation:
        made.append(Installation(compose, *overrides, **settings))
        return made[-1]

    yield make
    for installation in made:
        installation.down()


@pytest.fixture(scope="session")
def fleet(new_installation) -> Installation:
    """Two replicas of each service before a quick carrier; shared, so whoever changes it puts it back."""
    installation = new_installation(OWN_CARRIER, CARRIER_LATENCY_MS="5")
    installation.up(**TWO_OF_EACH)
    wait_until_ready(installation)
    return installation


TWO_OF_EACH = {"integrations": 2, "ingress": 2, "delivery": 2}

"""What docs/guides/carriers.md gives as an example for each shipped definition is accepted as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from servicekit.clock import SystemClock
from services.delivery.carriers.http.definition import load_definition, shipped
from services.delivery.carriers.yaml_document import read_yaml
from services.delivery.installation.carrier_settings import Surroundings
from services.delivery.installation.carriers_file import configured

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "carriers.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
ROWS = dict(re.findall(r"^\| \[`([a-z-]+)`\]\(#[a-z-]+\) \|[^|]*\| (?:`([a-z]+)`)?", GUIDE, re.MULTILINE))


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_carrier(example):
    surroundings = Surroundings(
        folder=Path("/nowhere"),
        environment=dict.fromkeys(re.findall(r"\$\{(\w+)\}", example), "not-a-real-secret-0123456789abcdef"),
        public_url="https://sms.example.com",
        simulator_number="+6598765432",
        clock=SystemClock(),
    )

    found = configured(read_yaml(example, "carriers.yaml"), surroundings)

    assert [carrier.name for carrier in found.carriers] == ["main"]


def test_every_shipped_definition_has_an_example_and_a_row():
    names = set(re.findall(r"^    definition: (\S+)$", "\n".join(EXAMPLES), re.MULTILINE))

    assert names == set(shipped()) == set(ROWS)


@pytest.mark.parametrize("name", sorted(set(shipped()) - {"own-gateway"}))
def test_a_row_names_the_capability_of_the_definition(name):
    assert ROWS[name] == load_definition(shipped()[name]).capability.value

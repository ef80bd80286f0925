"""What is measured, what the guide says of it, and what alerts and the dashboard ask for: all the same names."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "textway.json"
GUIDE = ROOT / "docs" / "guides" / "observe.md"

# What every Prometheus client shows of its process, and what Prometheus itself says of a scrape.
FOREIGN = re.compile(r"process_[a-z_]+|up")
NAME = re.compile(r"\b(textway_[a-z_]+|process_[a-z_]+|up)\b(?!\()")
# Units and suffixes of https://prometheus.io/docs/practices/naming/.
ENDINGS = ("_seconds", "_total", "_items", "_bytes")
COUNTED_THINGS = ("_messages", "_deliveries", "_connections", "_connections_in_use", "_integrations", "_failing")
POOL_LABELS = ("database", "pool")  # of the one collector that asks when it is read
STATES = ("_open", "_live", "_throttled", "_waiting", "_in_flight")


def exported() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every metric of ours by its name, with its type and labels."""
    for service in ("servicekit", "services.ingress", "services.delivery"):
        importlib.import_module(f"{service}.metrics")
    labels = {
        name: tuple(getattr(collector, "_labelnames", POOL_LABELS))
        for name, collector in REGISTRY._names_to_collectors.items()
    }
    return {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, labels[family.name])
        for family in REGISTRY.collect()
        if family.name.startswith("textway_")
    }


def samples() -> set[str]:
    """Every name that may stand in a query."""
    names = set()
    for name, (kind, _) in exported().items():
        names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return names


def rules() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [*(str(rule["expr"]) for rule in rules()), *asked]


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = re.findall(r"^\| `(textway_[a-z_]+)` \| (\w+) \|([^|]*)\|", GUIDE.read_text(), re.MULTILINE)
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_the_guide_tells_of_every_metric_and_of_no_other():
    assert documented() == exported()


def test_names_follow_the_conventions():
    for name in exported():
        assert name.endswith((*ENDINGS, *COUNTED_THINGS, *STATES)), name
    for name, (kind, _) in exported().items():
        assert name.endswith("_total") == (kind == "counter"), name


@pytest.mark.parametrize("label", ["tenant", "tenant_id", "to", "number", "message_id", "integration_id", "url"])
def test_no_label_has_as_many_values_as_there_are_customers_or_messages(label):
    assert not [name for name, (_, labels) in exported().items() if label in labels]


def test_alerts_and_dashboard_ask_only_for_what_is_exported():
    asked = {name for query in queries() for name in NAME.findall(query)}

    assert len(asked) > 20
    assert {name for name in asked if not FOREIGN.fullmatch(name)} <= samples()


def test_every_alert_says_how_bad_it_is_and_what_to_look_at():
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule
        assert rule["annotations"]["summary"], rule
        assert rule["annotations"]["runbook"].endswith("."), rule


def test_the_guide_tells_of_every_alert_and_of_no_other():
    told = set(re.findall(r"^\| `(Textway\w+)` \|", GUIDE.read_text(), re.MULTILINE))

    assert told == {rule["alert"] for rule in rules()}


def test_every_panel_has_a_place_of_its_own():
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)")
def test_the_alert_names_each_service_that_is_gone(tmp_path):
    alert = next(rule for rule in rules() if rule["alert"] == "TextwayServiceGone")
    # One that is down, one that is no more found, and one of whose two replicas one is well.
    series = {
        'up{job="textway-ingress",instance="a"}': "1x8 0x40",
        'up{job="textway-delivery",instance="a"}': "1x8 _x40",
        'up{job="textway-integrations",instance="a"}': "1x48",
        'up{job="textway-integrations",instance="b"}': "0x48",
    }
    expected = [
        {
            "exp_labels": {"severity": "page", "job": job},
            "exp_annotations": {
                "summary": f"No replica of {job} can be scraped.",
                "runbook": alert["annotations"]["runbook"],
            },
        }
        for job in ("textway-ingress", "textway-delivery")
    ]
    told = [
        {"eval_time": moment, "alertname": alert["alert"], "exp_alerts": alerts}
        for moment, alerts in (("2m", []), ("11m", expected))
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "15s", "input_series": inputs, "alert_rule_test": told}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))

    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)")
def test_prometheus_takes_the_configuration_and_the_rules():
    done = subprocess.run(
        ["promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr

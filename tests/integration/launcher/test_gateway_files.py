from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from servicekit.tls import Identity, KeyPair
from services.launcher import gateway, gateway_process

UPSTREAMS = gateway.Upstreams(integrations="10.0.0.1:7101", ingress=("ingress:7102",), delivery="[::1]:7103")


def test_fills_every_placeholder(tmp_path: Path) -> None:
    configuration = gateway.prepare(tmp_path / "gateway", listen="0.0.0.0:8080", upstreams=UPSTREAMS)

    loaded = yaml.safe_load(configuration.read_text())
    assert "${" not in configuration.read_text()
    listener = loaded["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert listener == {"address": "0.0.0.0", "port_value": 8080}


def test_names_each_upstream_once(tmp_path: Path) -> None:
    configuration = gateway.prepare(tmp_path / "gateway", listen="127.0.0.1:1", upstreams=UPSTREAMS)

    clusters = yaml.safe_load(configuration.read_text())["static_resources"]["clusters"]
    found = {
        cluster["name"]: cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        for cluster in clusters
    }
    assert {name: tuple(address["socket_address"].values()) for name, address in found.items()} == {
        "integrations": ("10.0.0.1", 7101),
        "ingress": ("ingress", 7102),
        "delivery": ("::1", 7103),
    }


def test_balances_over_all_processes_of_ingress_and_leaves_out_those_that_are_not_well(tmp_path: Path) -> None:
    upstreams = gateway.Upstreams(
        integrations="127.0.0.1:1", ingress=("127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"), delivery="127.0.0.1:5"
    )

    configuration = gateway.prepare(tmp_path, listen="127.0.0.1:6", upstreams=upstreams)

    clusters = yaml.safe_load(configuration.read_text())["static_resources"]["clusters"]
    (ingress,) = [cluster for cluster in clusters if cluster["name"] == "ingress"]
    (locality,) = ingress["load_assignment"]["endpoints"]
    addresses = [each["endpoint"]["address"]["socket_address"] for each in locality["lb_endpoints"]]
    assert [(each["address"], each["port_value"]) for each in addresses] == [("127.0.0.1", port) for port in (2, 3, 4)]
    assert ingress["lb_policy"] == "LEAST_REQUEST"
    assert ingress["health_checks"]
    assert ingress["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}


@pytest.mark.parametrize(("asked", "interval"), [({}, "0.25s"), ({"health_seconds": 1.0}, "1.0s")])
def test_asks_replicas_for_their_health_as_often_as_it_is_told(tmp_path: Path, asked: Any, interval: str) -> None:
    configuration = gateway.prepare(tmp_path / "gateway", listen="127.0.0.1:1", upstreams=UPSTREAMS, **asked)

    clusters = yaml.safe_load(configuration.read_text())["static_resources"]["clusters"]
    checks = [cluster["health_checks"][0] for cluster in clusters]
    assert {(check["interval"], check["unhealthy_interval"]) for check in checks} == {(interval, "0.1s")}


def blocks(configuration: Path) -> dict[str, dict[str, Any]]:
    """The transport socket of the listener and of each cluster."""
    resources = yaml.safe_load(configuration.read_text())["static_resources"]
    found = {"public": resources["listeners"][0]["filter_chains"][0]["transport_socket"]}
    return found | {cluster["name"]: cluster["transport_socket"] for cluster in resources["clusters"]}


def test_speaks_plaintext_unless_it_has_certificates(tmp_path: Path) -> None:
    configuration = gateway.prepare(tmp_path / "gateway", listen="127.0.0.1:1", upstreams=UPSTREAMS)

    assert {block["name"] for block in blocks(configuration).values()} == {"envoy.transport_sockets.raw_buffer"}


def test_believes_a_service_by_the_name_or_the_address_that_it_calls(tmp_path: Path) -> None:
    pair = KeyPair(certificate=Path("/tls/a.crt"), key=Path("/tls/a.key"))
    secured = gateway.Tls(listener=pair, identity=Identity(pair=pair, authority=Path("/tls/ca.crt")))

    configuration = gateway.prepare(tmp_path / "gateway", listen="127.0.0.1:1", upstreams=UPSTREAMS, secured=secured)

    found = blocks(configuration)
    checks = {
        name: block["typed_config"]["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
        for name, block in found.items()
        if name != "public"
    }
    assert {name: (check["san_type"], check["matcher"]["exact"]) for name, (check,) in checks.items()} == {
        "integrations": ("IP_ADDRESS", "10.0.0.1"),
        "ingress": ("DNS", "ingress"),
        "delivery": ("IP_ADDRESS", "::1"),
    }
    assert found["public"]["typed_config"]["common_tls_context"]["alpn_protocols"] == ["h2", "http/1.1"]


def test_keeps_its_folder_to_this_user(tmp_path: Path) -> None:
    gateway.prepare(tmp_path / "gateway", listen="127.0.0.1:1", upstreams=UPSTREAMS)

    assert stat.S_IMODE((tmp_path / "gateway").stat().st_mode) == 0o700


def test_writes_a_descriptor_set_that_needs_nothing_else(tmp_path: Path) -> None:
    gateway.prepare(tmp_path, listen="127.0.0.1:1", upstreams=UPSTREAMS)

    files = FileDescriptorSet.FromString((tmp_path / "descriptors.binpb").read_bytes()).file
    seen: set[str] = set()
    for file in files:
        assert set(file.dependency) <= seen
        seen.add(file.name)


def test_is_administered_at_a_socket_of_this_user_where_it_is_told(tmp_path: Path) -> None:
    configuration = gateway.prepare(
        tmp_path / "gateway", listen="127.0.0.1:1", upstreams=UPSTREAMS, sockets=tmp_path / "sockets"
    )

    admin = yaml.safe_load(configuration.read_text())["admin"]
    assert admin["address"] == {"pipe": {"path": str(tmp_path / "sockets" / "envoy.sock"), "mode": 0o600}}


def test_runs_as_many_workers_as_asked() -> None:
    command = gateway_process.command(Path("/x/envoy.yaml"), workers=3)

    assert Path(command[0]).is_file()
    assert command[command.index("--concurrency") + 1] == "3"


def test_finds_a_service_at_its_socket_where_nothing_is_to_be_looked_up_or_enciphered(tmp_path: Path) -> None:
    pair = KeyPair(certificate=Path("/tls/a.crt"), key=Path("/tls/a.key"))
    secured = gateway.Tls(identity=Identity(pair=pair, authority=Path("/tls/ca.crt")))
    ingress = "unix:/run/i.sock", "unix:/run/i-2.sock"
    upstreams = gateway.Upstreams(integrations="integrations:7101", ingress=ingress, delivery="unix:/run/d.sock")

    configuration = gateway.prepare(tmp_path / "gateway", listen="127.0.0.1:1", upstreams=upstreams, secured=secured)

    clusters = yaml.safe_load(configuration.read_text())["static_resources"]["clusters"]
    named = {cluster["name"]: cluster for cluster in clusters}
    (locality,) = named["ingress"]["load_assignment"]["endpoints"]
    assert [each["endpoint"]["address"] for each in locality["lb_endpoints"]] == [
        {"pipe": {"path": "/run/i.sock"}},
        {"pipe": {"path": "/run/i-2.sock"}},
    ]
    assert {name: cluster["cluster_type"]["name"] for name, cluster in named.items()} == {
        "integrations": "envoy.cluster.dns",
        "ingress": "envoy.cluster.static",
        "delivery": "envoy.cluster.static",
    }
    assert {name: block["name"] for name, block in blocks(configuration).items() if name != "public"} == {
        "integrations": "envoy.transport_sockets.tls",
        "ingress": "envoy.transport_sockets.raw_buffer",
        "delivery": "envoy.transport_sockets.raw_buffer",
    }

"""What is public is listed thrice, and the same each time: proto annotations, envoy.yaml, gateway/README.md."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import yaml
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from services.launcher import gateway

MODULES = [
    *("integrations.v1.integrations_service", "integrations.v1.webhooks_service"),
    *("integrations.v1.registry_service", "integrations.v1.keys_service"),
    *("ingress.v1.ingress_service", "ingress.v1.health_service"),
    *("delivery.v1.messages_service", "delivery.v1.submission_service"),
    *("delivery.v1.carriers_service", "delivery.v1.callbacks_service"),
    *("delivery.v1.inbound_service", "delivery.v1.opt_outs_service"),
    *("delivery.v1.webhook_deliveries_service", "delivery.v1.webhook_examples_service"),
    "operations.v1.operations_service",
]


def services() -> list[ServiceDescriptor]:
    modules = [importlib.import_module(f"textway.{name}_pb2") for name in MODULES]
    return [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]


def annotations(method: MethodDescriptor) -> set[str]:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return set()
    rule = options.Extensions[annotations_pb2.http]
    return {address(each) for each in (rule, *rule.additional_bindings)}


def address(rule: http_pb2.HttpRule) -> str:
    if rule.WhichOneof("pattern") == "custom":
        return f"{rule.custom.kind} {rule.custom.path}"
    return f"{rule.WhichOneof('pattern').upper()} {getattr(rule, rule.WhichOneof('pattern'))}"


def full_name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


def http_connection_manager() -> Any:
    filled = re.sub(r"\$\{\w+\}", "1", (gateway.FOLDER / "envoy.yaml").read_text())
    configuration = yaml.safe_load(filled)
    return configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def routes() -> list[Any]:
    routes: list[Any] = http_connection_manager()["route_config"]["virtual_hosts"][0]["routes"]
    return routes


ALL_METHODS = [method for service in services() for method in service.methods]
PUBLIC = {full_name(method): annotations(method) for method in ALL_METHODS if annotations(method)}


def test_every_service_of_the_contract_is_looked_at() -> None:
    on_disk = {path.stem for path in (gateway.FOLDER.parent / "proto").rglob("*_service.proto")}

    assert on_disk == {name.rpartition(".")[2] for name in MODULES}


def test_each_public_call_has_its_route_and_no_internal_one_has() -> None:
    assert {route["match"]["path"].removeprefix("/") for route in routes()} == set(PUBLIC)
    assert [route["name"] for route in routes()] == [route["match"]["path"].removeprefix("/") for route in routes()]


def test_no_route_takes_what_the_transcoder_has_not_made() -> None:
    transcoded = [{"name": "x-envoy-original-path", "present_match": True}]

    assert all(route["match"]["headers"] == transcoded for route in routes())


def test_each_route_leads_to_the_service_that_has_the_call() -> None:
    for route in routes():
        assert route["route"]["cluster"] == route["name"].split(".")[1]


def test_the_transcoder_knows_the_public_services_only() -> None:
    transcoder = next(each for each in http_connection_manager()["http_filters"] if "transcoder" in each["name"])

    assert set(transcoder["typed_config"]["services"]) == {name.split("/")[0] for name in PUBLIC}


def test_a_service_is_public_as_a_whole_or_not_at_all() -> None:
    for service in services():
        assert len({not annotations(method) for method in service.methods}) == 1


def test_the_table_in_the_readme_is_the_annotations() -> None:
    text = (gateway.FOLDER / "README.md").read_text()

    rows = re.findall(r"^\| `([A-Z]+ /[^`]*)` \| `([^`]+)` \|$", text, re.MULTILINE)

    listed: dict[str, set[str]] = {}
    for address, call in rows:
        listed.setdefault(call, set()).add(address)
    assert listed == PUBLIC
    assert len(rows) == sum(len(addresses) for addresses in PUBLIC.values())


@pytest.mark.parametrize("name", ["textway.delivery.v1.SubmissionService", "textway.integrations.v1.RegistryService"])
def test_the_descriptor_set_has_no_internal_service(name: str) -> None:
    files = gateway.descriptor_set().file

    assert name not in {f"{file.package}.{service.name}" for file in files for service in file.service}

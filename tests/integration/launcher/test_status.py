"""`textway status` with several replicas behind one name."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field

import pytest

from servicekit.errors import UnavailableError
from servicekit.server import RunningServer
from servicekit.settings import ProcessSettings
from services.launcher import status_command
from services.launcher.runtime import write_addresses
from tests.kit.ports import free_port
from textway.operations.v1 import operations_service_pb2 as operations_v1


@dataclass
class Service:
    """A service that says what it is told to."""

    name: str
    listen: str
    told: operations_v1.ServiceStatus = field(default_factory=operations_v1.ServiceStatus)
    lacks: list[str] = field(default_factory=list)
    is_cut_off: bool = False
    grpc_services: tuple[str, ...] = ()
    metrics_listen: str = ""

    def add_to(self, server) -> None:
        """It has nothing but its status."""

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to finish."""

    async def problems(self):
        if self.is_cut_off:
            raise UnavailableError("The database can not be used just now. Send the request again.")
        return self.lacks

    async def status(self):
        return self.told


@pytest.fixture
async def serve(tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "0")
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path))
    port = free_port()
    replicas = {"integrations.test": ["127.0.0.1"], "ingress.test": ["127.0.0.2"], "delivery.test": []}
    resolve = socket.getaddrinfo

    def look_up(host, *rest, **options):
        if host not in replicas:
            return resolve(host, *rest, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in replicas[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for name in ("integrations", "ingress", "delivery"):
        monkeypatch.setenv(f"TEXTWAY_{name.upper()}_ADDRESS", f"{name}.test:{port}")
    running = []

    async def serve(*deliveries: Service) -> None:
        others = [Service("integrations", f"127.0.0.1:{port}"), Service("ingress", f"127.0.0.2:{port}")]
        others[0].told.disabled_webhooks = 2
        for number, delivery in enumerate(deliveries, start=3):
            delivery.listen = f"127.0.0.{number}:{port}"
            replicas["delivery.test"].append(f"127.0.0.{number}")
        settings = ProcessSettings(data_dir=tmp_path)
        running.extend([await RunningServer.start([each], settings) for each in (*others, *deliveries)])

    yield serve
    for each in running:
        await each.stop(0)


def delivery(*, state: str = "healthy", sent: int = 0, **more: object) -> Service:
    told = operations_v1.ServiceStatus(
        messages=operations_v1.MessageQueue(ready=1200, waiting=3, in_hand=5, late_seconds=7501),
        webhooks=operations_v1.WebhookQueue(pending=4, failing_endpoints=1),
        carriers=[operations_v1.Carrier(name="main", kind="http", state=state, sent_last_minute=sent)],
    )
    return Service("delivery", "", told, **more)


async def test_asks_every_replica_behind_a_name_and_adds_up_what_each_counts(serve):
    await serve(delivery(sent=10), delivery(sent=32, state="open"))

    report = await status_command.ask()

    told = json.loads(status_command.as_json(report))
    assert report.is_ready
    assert [each["service"] for each in told["replicas"]] == ["integrations", "delivery", "delivery", "ingress"]
    assert (told["carriers"][0]["state"], told["carriers"][0]["sentLastMinute"]) == ("open", 42)
    assert told["disabledWebhooks"] == 2
    text = status_command.as_text(report)
    assert "queue     1,200 ready, 3 put off, 5 being sent; the oldest is late by 2 h 5 min" in text
    assert "webhooks  4 pending, 1 endpoint failing, 2 URLs disabled" in text


async def test_tells_of_the_one_replica_that_is_not_well(serve):
    await serve(delivery(), delivery(is_cut_off=True))

    report = await status_command.ask()

    assert not report.is_ready
    first, *_ = status_command.as_text(report).splitlines()
    assert first.startswith("delivery at 127.0.0.4:")
    assert first.endswith(": its database does not answer")
    assert report.messages.ready == 1200  # the other one can tell


async def test_tells_of_a_name_that_nobody_has(serve, monkeypatch):
    await serve(delivery())
    monkeypatch.setenv("TEXTWAY_DELIVERY_ADDRESS", "no-such-host.invalid:7103")

    report = await status_command.ask()

    assert [replica.problem for replica in report.replicas if not replica.is_ready] == ["there is no such name"]


async def test_asks_each_process_that_up_has_started(serve, tmp_path):
    await serve(delivery())
    port = free_port()
    second = await RunningServer.start([Service("ingress", f"127.0.0.2:{port}")], ProcessSettings(data_dir=tmp_path))
    first = os.environ["TEXTWAY_INGRESS_ADDRESS"].replace("ingress.test", "127.0.0.2")
    addresses = {"ingress": first, "ingress-2": f"127.0.0.2:{port}", "ingress-3": f"127.0.0.3:{port}"}
    write_addresses(tmp_path, {**addresses, "ingress_metrics": "127.0.0.1:1", "ingress-2_metrics": "127.0.0.1:2"})

    report = await status_command.ask()
    await second.stop(0)

    found = {replica.address: replica.problem for replica in report.replicas if replica.service == "ingress"}
    assert found == {first: "", f"127.0.0.2:{port}": "", f"127.0.0.3:{port}": "does not answer"}


async def test_tells_of_a_gateway_that_does_not_answer(serve, tmp_path):
    await serve(delivery())
    write_addresses(tmp_path, {"gateway": "http://127.0.0.1:8080", "gateway_admin": str(tmp_path / "envoy.sock")})

    report = await status_command.ask()

    assert not report.is_ready
    assert [replica.service for replica in report.replicas if not replica.is_ready] == ["gateway"]
    first, *_ = status_command.as_text(report).splitlines()
    assert first == "gateway at http://127.0.0.1:8080: does not answer"

"""`textway up` with real Envoy and stand-ins for the services."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from servicekit.settings import SettingsError
from services.launcher import laptop
from tests.kit.ports import free_port

GREET = """
from servicekit.settings import load
from services.launcher import greeting
from services.launcher.settings import LauncherSettings
greeting.greet(load(LauncherSettings), announce=lambda address: print("hello", address))
"""
RUN_UP = """
import sys
from servicekit.settings import SettingsError, load
from services.launcher import laptop
from services.launcher.settings import LauncherSettings
try:
    settings = load(LauncherSettings)
    greet, *python = sys.argv[1:]
    sys.exit(laptop.run_up(settings, greeter=(sys.executable, "-c", greet), python=python))
except SettingsError as error:
    sys.exit(f"refused: {error}")
"""
# Serves every public address's health and refuses the rest as a service without a key would; then notes its settings.
SERVICE = """
import asyncio, json, os, signal, sys
from pathlib import Path
if sys.argv[1] == "migrate":
    sys.exit(int(os.environ.get("MIGRATE", "0")))
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from servicekit.error_translation import guarded
from servicekit.errors import UnauthorizedError
from textway.delivery.v1 import messages_service_pb2_grpc
from textway.ingress.v1 import health_service_pb2, health_service_pb2_grpc
from textway.integrations.v1 import integrations_service_pb2_grpc

service, *number = sys.argv[2:]
name = "-".join([service, *number[1:]])
Path(os.environ["TEXTWAY_DATA_DIR"], name + ".env").write_text(json.dumps(dict(os.environ)))

class Health(health_service_pb2_grpc.HealthServiceServicer):
    async def CheckReady(self, request, context):
        return health_service_pb2.CheckReadyResponse(status="ready")

class Integrations(integrations_service_pb2_grpc.IntegrationsServiceServicer):
    async def ListIntegrations(self, request, context):
        raise UnauthorizedError("no key")

class Messages(messages_service_pb2_grpc.MessagesServiceServicer):
    async def ListMessages(self, request, context):
        raise UnauthorizedError("no key")

async def main():
    server = grpc.aio.server()
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    health_service_pb2_grpc.add_HealthServiceServicer_to_server(Health(), guarded(server))
    integrations_service_pb2_grpc.add_IntegrationsServiceServicer_to_server(Integrations(), guarded(server))
    messages_service_pb2_grpc.add_MessagesServiceServicer_to_server(Messages(), guarded(server))
    server.add_insecure_port(os.environ[f"TEXTWAY_{service.upper()}_LISTEN"])
    await server.start()
    while Path(os.environ["TEXTWAY_DATA_DIR"], name + ".held").exists():
        await asyncio.sleep(0.02)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1)

asyncio.run(main())
"""


class Up:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.service = folder.parent / "service.py"
        self.service.write_text(SERVICE)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, **environment: str) -> subprocess.Popen[str]:
        settings = {"TEXTWAY_DATA_DIR": str(self.folder), "TEXTWAY_HTTP_PORT": str(self.port)}
        settings |= {"TEXTWAY_INGRESS_WORKERS": "1", **environment}
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_UP, GREET, sys.executable, str(self.service)],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def start_and_wait(self, **environment: str) -> subprocess.Popen[str]:
        process = self.start(**environment)
        assert process.stdout
        assert process.stdout.readline() == f"hello http://127.0.0.1:{self.port}\n"
        assert process.stdout.readline() == f"ready http://127.0.0.1:{self.port}\n"
        return process

    def wait_until_the_gateway_answers(self) -> None:
        """Return when it has found some process of each service."""
        for path in ("/health/ready", "/v1/ingress", "/v1/messages"):
            deadline = time.monotonic() + 30
            while self._status_of(path) not in (200, 401):
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def _status_of(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def environment_of(self, name: str) -> dict[str, str]:
        environment: dict[str, str] = json.loads((self.folder / f"{name}.env").read_text())
        return environment


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path / "data")
    yield up
    for process in up.processes:
        process.kill()
        process.communicate()


def test_greets_when_all_is_serving_and_ends_well_on_sigterm(up: Up) -> None:
    process = up.start_and_wait()

    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 0, errors
    assert errors == ""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", up.port))


def test_tells_other_commands_where_the_services_are(up: Up) -> None:
    process = up.start_and_wait()
    file = up.folder / "run" / "addresses.json"

    addresses = json.loads(file.read_text())
    mode = stat.S_IMODE(file.stat().st_mode)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    services = ("integrations", "ingress", "delivery")
    assert set(addresses) == {*services, *(f"{name}_metrics" for name in services), "gateway", "gateway_admin"}
    assert len(set(addresses.values())) == len(addresses)
    assert mode == 0o600
    assert not file.exists()


def test_listens_where_nobody_else_can_call_however_long_the_data_folders_path_is(
    tmp_path: Path, short_path: Path, up: Up
) -> None:
    up.folder = tmp_path / ("long" * 25)
    process = up.start_and_wait(TMPDIR=str(short_path))

    (folder,) = short_path.iterdir()
    mode = stat.S_IMODE(folder.stat().st_mode)
    addresses = json.loads((up.folder / "run" / "addresses.json").read_text())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    assert {addresses[name] for name in ("integrations", "ingress", "delivery")} == {
        f"unix:{folder}/{name}.sock" for name in ("integrations", "ingress", "delivery")
    }
    assert mode == 0o700
    assert not folder.exists()


def test_gives_each_service_its_settings_by_the_environment(up: Up) -> None:
    secret = "sk_live_" + "s" * 40
    up.start_and_wait(TEXTWAY_BOOTSTRAP_KEY=secret)

    ingress, delivery = up.environment_of("ingress"), up.environment_of("delivery")

    assert ingress["TEXTWAY_DELIVERY_ADDRESS"] == delivery["TEXTWAY_DELIVERY_LISTEN"]
    assert ingress["TEXTWAY_INGRESS_METRICS_LISTEN"] != delivery["TEXTWAY_DELIVERY_METRICS_LISTEN"]
    assert ingress["TEXTWAY_PUBLIC_URL"] == f"http://127.0.0.1:{up.port}"
    assert Path(delivery["TEXTWAY_DATA_DIR"]).is_absolute()
    assert delivery["TEXTWAY_BOOTSTRAP_KEY"] == secret
    assert secret not in (up.folder / "run" / "supervisor.conf").read_text()


def test_starts_as_many_processes_of_ingress_as_it_is_told_and_waits_for_each(up: Up) -> None:
    up.folder.mkdir()
    held = up.folder / "ingress-2.held"
    held.touch()
    process = up.start(TEXTWAY_INGRESS_WORKERS="2")
    assert process.stdout
    up.wait_until_the_gateway_answers()

    early, _, _ = select.select([process.stdout], [], [], 0.5)
    held.unlink()
    greeting = process.stdout.readline()
    addresses = json.loads((up.folder / "run" / "addresses.json").read_text())
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)

    assert early == []
    assert greeting == f"hello http://127.0.0.1:{up.port}\n"
    assert (process.returncode, errors) == (0, "")
    assert len(set(addresses.values())) == len(addresses) == 10
    for name in ("ingress", "ingress-2"):
        environment = up.environment_of(name)
        assert environment["TEXTWAY_INGRESS_LISTEN"] == addresses[name]
        assert environment["TEXTWAY_INGRESS_METRICS_LISTEN"] == addresses[f"{name}_metrics"]
        assert (up.folder / "logs" / f"{name}.log").exists()


@pytest.mark.parametrize(
    ("environment", "allowed"),
    [({}, "127.0.0.0/8,::1/128"), ({"TEXTWAY_EGRESS_ALLOW": ""}, ""), ({"TEXTWAY_EGRESS_ALLOW": "::1"}, "::1")],
)
def test_lets_webhooks_go_to_this_machine_unless_told_otherwise(up: Up, environment, allowed) -> None:
    up.start_and_wait(**environment)

    assert up.environment_of("integrations")["TEXTWAY_EGRESS_ALLOW"] == allowed
    assert up.environment_of("delivery")["TEXTWAY_EGRESS_ALLOW"] == allowed


def test_refuses_a_port_that_is_taken_and_names_the_setting(up: Up) -> None:
    with socket.create_server(("127.0.0.1", up.port)):
        process = up.start()
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "TEXTWAY_HTTP_PORT" in errors
    assert str(up.port) in errors


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "can not be listened on (Cannot assign requested address): choose another host"),
        ("localhost", "must be an IP address, such as 127.0.0.1, or 0.0.0.0 for every interface"),
        ("", "must be an IP address, such as 127.0.0.1, or 0.0.0.0 for every interface"),
    ],
)
def test_refuses_a_host_that_can_not_be_listened_on_and_names_the_setting(up: Up, host: str, why: str) -> None:
    process = up.start(TEXTWAY_HTTP_HOST=host)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert errors.startswith("refused: TEXTWAY_HTTP_HOST: ")
    assert why in errors


@pytest.mark.parametrize("setting", ["MAX_MESSAGES_PER_REQUEST", "MESSAGE_VALIDITY_SECONDS", "BOOTSTRAP_KEY"])
def test_refuses_a_setting_of_any_service_before_anything_starts(up: Up, setting: str) -> None:
    process = up.start(**{f"TEXTWAY_{setting}": "0"})
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert errors.startswith(f"refused: TEXTWAY_{setting}: ")
    assert errors.count("\n") == 1
    assert not list((up.folder / "logs").iterdir())


def test_says_which_settings_there_are_not_and_goes_on(up: Up) -> None:
    process = up.start(TEXTWAY_HTTP_PRT="9090", TEXTWAY_INGRESS_URL="http://127.0.0.1:8080", TEXTWAY_BOOTSTRAP_KEY="0")
    _, errors = process.communicate(timeout=30)

    first, second, third, *_ = errors.splitlines()
    assert first == "textway: TEXTWAY_HTTP_PRT is no setting and changes nothing: is TEXTWAY_HTTP_PORT meant?"
    assert second == (
        "textway: TEXTWAY_INGRESS_URL is no setting and changes nothing: docs/configuration.md lists them all"
    )
    assert third.startswith("refused: TEXTWAY_BOOTSTRAP_KEY: ")


@pytest.mark.parametrize(
    ("in_the_way", "data_dir", "why"),
    [
        ("data", "data", "it is a file"),
        ("data", "data/deeper", "Not a directory"),
        ("data/logs", "data", "it is a file"),
        ("data/run/up.lock/x", "data", "Is a directory"),
        ("data/run/gateway/descriptors.binpb/x", "data", "Is a directory"),
        ("", "/proc/textway", "No such file or directory"),
    ],
)
def test_refuses_a_data_folder_that_can_not_be_written_to(up: Up, in_the_way: str, data_dir: str, why: str) -> None:
    if in_the_way:
        file = up.folder.parent / in_the_way
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    process = up.start(TEXTWAY_DATA_DIR=str(up.folder.parent / data_dir))
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert errors.startswith("refused: TEXTWAY_DATA_DIR: ")
    assert f"can not be written to ({why}): choose another folder" in errors
    assert errors.count("\n") == 1


def test_refuses_a_data_folder_of_somebody_else(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # root may write everywhere

    with pytest.raises(SettingsError, match=r"^TEXTWAY_DATA_DIR: .*Permission denied"):
        laptop._make(tmp_path)


def test_refuses_a_data_folder_that_another_up_is_using(up: Up) -> None:
    up.start_and_wait()

    second = up.start()
    _, errors = second.communicate(timeout=30)

    assert second.returncode == 1
    assert "TEXTWAY_DATA_DIR" in errors


def test_does_not_start_when_the_databases_can_not_be_brought_up_to_date(up: Up) -> None:
    process = up.start(MIGRATE="3")

    _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "databases" in errors
    assert not (up.folder / "logs" / "delivery.log").exists()


def test_leaves_no_folder_of_sockets_behind_when_it_does_not_start(tmp_path: Path, short_path: Path, up: Up) -> None:
    up.folder = tmp_path / ("long" * 25)
    process = up.start(MIGRATE="3", TMPDIR=str(short_path))

    process.communicate(timeout=30)

    assert process.returncode == 1
    assert not list(short_path.iterdir())

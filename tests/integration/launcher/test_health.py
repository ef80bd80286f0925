"""`textway healthy`, and what asks in containers: the gRPC health of real servers, without a gRPC client."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from servicekit.server import RunningServer
from servicekit.settings import ProcessSettings
from services.launcher import certificates, health
from services.launcher.parts import PARTS


class Quiet:
    """A service without a call."""

    name = "ingress"
    listen = "127.0.0.1:0"
    metrics_listen = ""
    grpc_services = ()

    def add_to(self, server) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


@pytest.fixture
def settings(tmp_path) -> ProcessSettings:
    return ProcessSettings(data_dir=tmp_path, notice_seconds=4)


@pytest.fixture
async def address(settings) -> AsyncIterator[str]:
    running = await RunningServer.start([Quiet()], settings)
    yield running.addresses["ingress"]
    running._notice_seconds = 0
    await running.stop(0)


@pytest.fixture
def nobody_listens() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


async def test_a_server_that_serves_is_serving(address):
    assert await asyncio.to_thread(health.ask, address) == health.SERVING


async def test_a_server_is_asked_at_its_socket(settings, tmp_path):
    quiet = Quiet()
    quiet.listen = f"unix:{tmp_path}/quiet.sock"
    running = await RunningServer.start([quiet], settings)

    serving = await asyncio.to_thread(health.ask, quiet.listen)
    running._notice_seconds = 0
    await running.stop(0)

    assert serving == health.SERVING
    assert await asyncio.to_thread(health.ask, quiet.listen) == health.NOT_THERE


async def test_a_server_that_listens_on_every_interface_is_asked_on_this_machine(address):
    port = address.rpartition(":")[2]

    assert await asyncio.to_thread(health.ask, f"0.0.0.0:{port}") == health.SERVING


async def test_a_server_that_is_leaving_is_not_serving(settings):
    running = await RunningServer.start([Quiet()], settings)
    leaving = asyncio.create_task(running.stop(0))

    async with asyncio.timeout(4):
        while (state := await asyncio.to_thread(health.ask, running.addresses["ingress"])) == health.SERVING:
            await asyncio.sleep(0.01)

    assert state == health.NOT_SERVING
    await leaving


async def test_a_port_without_a_server_has_nobody_there(nobody_listens):
    assert await asyncio.to_thread(health.ask, nobody_listens) == health.NOT_THERE


async def test_what_does_not_speak_grpc_does_not_answer():
    async def hang_up(_reader, writer) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        state = await asyncio.to_thread(health.ask, f"127.0.0.1:{port}")

    assert state == health.NOT_ANSWERING


async def test_shows_its_certificate_to_a_server_that_demands_one(tmp_path, monkeypatch):
    certificates.write(tmp_path, [])
    files = {"cert": tmp_path / "ingress.crt", "key": tmp_path / "ingress.key", "ca": tmp_path / "ca.crt"}
    secured = ProcessSettings(
        data_dir=tmp_path, notice_seconds=0, **{f"tls_{name}": file for name, file in files.items()}
    )
    running = await RunningServer.start([Quiet()], secured)

    without = await asyncio.to_thread(health.ask, running.addresses["ingress"])
    for name, file in files.items():
        monkeypatch.setenv(f"TEXTWAY_TLS_{name.upper()}", str(file))
    with_it = await asyncio.to_thread(health.ask, running.addresses["ingress"])

    assert (without, with_it) == (health.NOT_ANSWERING, health.SERVING)
    await running.stop(0)


@pytest.mark.parametrize(
    ("names", "code"), [([], 0), (["ingress"], 0), (["ingress", "delivery"], 1), (["delivery"], 1)]
)
async def test_the_exit_code_says_whether_all_are_well(address, nobody_listens, monkeypatch, names, code):
    monkeypatch.setenv("TEXTWAY_INGRESS_LISTEN", address)
    for name in ("INTEGRATIONS", "DELIVERY"):
        monkeypatch.setenv(f"TEXTWAY_{name}_LISTEN", nobody_listens)

    assert await asyncio.to_thread(health.check, names) == code


def test_none_that_listens_is_not_well_and_the_way_to_those_of_up_is_told(nobody_listens, monkeypatch, capsys):
    for name in PARTS:
        monkeypatch.setenv(f"TEXTWAY_{name.upper()}_LISTEN", nobody_listens)

    assert health.check([]) == 1
    assert "`textway status` tells of those that `textway up` runs" in capsys.readouterr().out


def test_asks_where_the_settings_say_that_services_listen():
    defaults = {name: part.settings_type.model_fields[f"{name}_listen"].default for name, part in PARTS.items()}

    assert defaults == health.LISTENS


def test_loads_next_to_nothing():
    program = "import sys; from services.launcher import health; print(*{m.partition('.')[0] for m in sys.modules})"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert not {"grpc", "pydantic", "cryptography", "click"} & set(loaded)

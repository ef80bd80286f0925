"""Calls to a service with several replicas: they take turns, find new ones, and lose no more than must be lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from servicekit import clients, server
from servicekit.server import RunningServer
from servicekit.settings import ProcessSettings
from tests.fakes.http2 import PING, answers_to_pings, bare_server
from tests.fakes.names import NameServer, name_server
from tests.kit.proxy import HEALTHY, FaultProxy, Toxic
from textway.ingress.v1.health_service_pb2 import CheckLiveRequest, CheckLiveResponse
from textway.ingress.v1.health_service_pb2_grpc import (
    HealthServiceServicer,
    HealthServiceStub,
    add_HealthServiceServicer_to_server,
)
from textway.integrations.v1.registry_service_pb2 import WatchIntegrationsRequest, WatchIntegrationsResponse
from textway.integrations.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)

CALLERS = 8
HOST = "replicas.test"
HEALTH = "textway.ingress.v1.HealthService"


class Replica(HealthServiceServicer, RegistryServiceServicer):
    """One of several that serve the same; it counts its calls and watches until it is told to end."""

    name = "replica"
    metrics_listen = ""
    grpc_services = (HEALTH, "textway.integrations.v1.RegistryService")

    def __init__(self, listen: str) -> None:
        self.listen = listen
        self.calls = 0
        self.may_end = asyncio.Event()

    async def CheckLive(self, request, context):
        self.calls += 1
        return CheckLiveResponse(status=self.listen)

    async def WatchIntegrations(self, request_iterator, context):
        yield WatchIntegrationsResponse(revision=1)
        await self.may_end.wait()
        yield WatchIntegrationsResponse(revision=2)

    def add_to(self, server: grpc.aio.Server) -> None:
        add_HealthServiceServicer_to_server(self, server)
        add_RegistryServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """It has nothing to begin."""

    async def stop(self) -> None:
        """It has nothing to finish."""


class Replicas:
    """Replicas at 127.0.0.2 and so on, all at one port, behind one name."""

    def __init__(self, names: NameServer) -> None:
        self._names = names
        self._running: dict[str, RunningServer] = {}
        self._port = "0"

    @property
    def target(self) -> str:
        return self._names.target(HOST, self._port)

    async def add(self, host: str, *, known: bool = True) -> Replica:
        replica = Replica(f"{host}:{self._port}")
        self._running[host] = await RunningServer.start([replica], ProcessSettings())
        self._port = self._running[host].addresses["replica"].rpartition(":")[2]
        replica.listen = f"{host}:{self._port}"
        if known:
            self._names.addresses[HOST] = tuple(self._running)
        return replica

    async def stop(self, host: str, *, seconds: float = 5) -> None:
        await self._running.pop(host).stop(seconds)
        self._names.addresses[HOST] = tuple(self._running)

    async def close(self) -> None:
        await asyncio.gather(*(running.stop(0) for running in self._running.values()))


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    async with name_server() as names:
        replicas = Replicas(names)
        yield replicas
        await replicas.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections age, and names may be looked up again, after tenths of a second."""
    monkeypatch.setattr(server, "MAX_CONNECTION_AGE_SECONDS", 0.3)
    set_option(monkeypatch, "grpc.dns_min_time_between_resolutions_ms", 100)


def set_option(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    options = dict(clients._OPTIONS)
    assert name in options
    monkeypatch.setattr(clients, "_OPTIONS", tuple({**options, name: value}.items()))


async def call(channel: grpc.aio.Channel, seconds: float = 10) -> str:
    return (await HealthServiceStub(channel).CheckLive(CheckLiveRequest(), timeout=seconds)).status


async def outcome(channel: grpc.aio.Channel, seconds: float = 10) -> str:
    """Make one call; return nothing when it went well, else what went wrong."""
    try:
        await call(channel, seconds)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return ""


@contextlib.asynccontextmanager
async def under_load(channel: grpc.aio.Channel) -> AsyncIterator[list[str]]:
    """Make calls all the time, several at once; give what went wrong with any of them, complete at the end."""
    failures: list[str] = []
    stopping = asyncio.Event()

    async def caller() -> None:
        while not stopping.is_set():
            failures.extend(filter(None, [await outcome(channel)]))
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(caller())
        try:
            yield failures
        finally:
            stopping.set()


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_calls_go_well(make: Callable[[], Awaitable[str]], times: int, seconds: float = 20) -> None:
    well = 0
    async with asyncio.timeout(seconds):
        while well < times:
            well = 0 if await make() else well + 1


@pytest.mark.parametrize("is_socket", [False, True])
async def test_a_connection_ends_after_a_while_unless_it_is_to_a_socket(impatient, tmp_path, is_socket):
    replica = Replica(f"unix:{tmp_path / 'replica.sock'}" if is_socket else "127.0.0.1:0")
    running = await RunningServer.start([replica], ProcessSettings())

    async with grpc.aio.insecure_channel(running.addresses["replica"]) as channel:
        await call(channel)
        changed = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        ended, _ = await asyncio.wait([changed], timeout=2 if is_socket else 30)
        changed.cancel()

    assert bool(ended) is not is_socket
    await running.stop(0)


async def test_calls_take_turns_over_all_addresses_of_a_name(replicas):
    one, other = await replicas.add("127.0.0.2"), await replicas.add("127.0.0.3")

    async with clients.open_channel(replicas.target, health_of=HEALTH) as channel:
        await until(lambda: channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY)
        async with asyncio.timeout(10):
            while not (one.calls and other.calls):
                await call(channel)
        before = one.calls, other.calls
        for _ in range(20):
            await call(channel)

    assert (one.calls - before[0], other.calls - before[1]) == (10, 10)


@pytest.mark.usefixtures("impatient")
async def test_a_new_replica_is_found_without_a_failed_call(replicas):
    await replicas.add("127.0.0.2")

    async with clients.open_channel(replicas.target, health_of=HEALTH) as channel, under_load(channel) as failures:
        await until(lambda: channel.get_state() is grpc.ChannelConnectivity.READY)
        new = await replicas.add("127.0.0.3")
        await until(lambda: new.calls > 0)

    assert failures == []


async def test_no_call_fails_while_a_replica_is_stopped(replicas):
    kept, leaving = await replicas.add("127.0.0.2"), await replicas.add("127.0.0.3")

    async with clients.open_channel(replicas.target, health_of=HEALTH) as channel, under_load(channel) as failures:
        for _ in range(3):
            await until(lambda: leaving.calls > 0)  # noqa: B023  # it is awaited here
            await replicas.stop("127.0.0.3")
            before = kept.calls
            await until(lambda: kept.calls > before + 20)  # noqa: B023  # as above
            leaving = await replicas.add("127.0.0.3")

    assert failures == []


async def test_a_replica_that_says_that_it_is_not_serving_gets_no_calls(replicas, monkeypatch):
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "1.0")
    await replicas.add("127.0.0.2")
    leaving = await replicas.add("127.0.0.3")

    async with clients.open_channel(replicas.target, health_of=HEALTH) as channel:
        async with asyncio.timeout(10):
            while not leaving.calls:
                await call(channel)
        stopping = asyncio.create_task(replicas.stop("127.0.0.3"))
        async with asyncio.timeout(0.9):  # while it still listens
            alone = 0
            while alone < 20:
                before = leaving.calls
                await call(channel)
                alone = alone + 1 if leaving.calls == before else 0
        await stopping


async def test_the_loss_of_a_replica_costs_the_calls_that_it_had_and_no_more(replicas, monkeypatch):
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "0")
    await replicas.add("127.0.0.2")
    lost = await replicas.add("127.0.0.3")

    async with clients.open_channel(replicas.target) as channel, under_load(channel) as failures:
        await until(lambda: lost.calls > 0)
        await replicas._running["127.0.0.3"]._server.stop(None)
        await until_calls_go_well(lambda: outcome(channel), 50)

    assert len(failures) <= CALLERS


async def test_a_replica_that_falls_silent_is_noticed_while_the_others_go_on(replicas):
    kept, cut_off = await replicas.add("127.0.0.2"), await replicas.add("127.0.0.3")

    with FaultProxy(f"http://{cut_off.listen}") as proxy:
        target = f"ipv4:{kept.listen},{proxy.url.removeprefix('http://')}"
        async with clients.open_channel(target) as channel, under_load(channel):
            await until(lambda: cut_off.calls > 0)
            proxy.toxic = Toxic(black_hole=True)
            before = kept.calls
            # The callers' own deadline is 10 s. Half of these would go to the silent one if it were not noticed.
            await until_calls_go_well(lambda: outcome(channel, 0.5), 20, seconds=9)
            assert kept.calls > before
            proxy.toxic = HEALTHY
            before = cut_off.calls
            await until(lambda: cut_off.calls > before)


async def test_an_address_that_swallows_connections_is_soon_given_up():
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # it never takes any, and the kernel drops what comes when it keeps as many as it may
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        async with clients.open_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
            failure = await outcome(channel, seconds=15)

    assert failure.startswith("UNAVAILABLE")  # and not the call's own deadline


async def test_a_server_bears_clients_that_only_ask_whether_it_is_there(replicas):
    replica = await replicas.add("127.0.0.2")

    # gRPC's own patience ends with the third.
    async with asyncio.timeout(10):
        answers = await answers_to_pings(replica.listen, 10)

    assert answers == [PING] * 10


@pytest.mark.usefixtures("impatient")
async def test_a_watch_outlives_its_connection(replicas):
    replica = await replicas.add("127.0.0.2")

    with FaultProxy(f"http://{replica.listen}") as proxy:
        async with clients.open_channel(proxy.url.removeprefix("http://"), health_of=HEALTH) as channel:
            watch: Any = RegistryServiceStub(channel).WatchIntegrations(iter([WatchIntegrationsRequest()]))
            first = await watch.read()
            await until(lambda: proxy.connections > 3)
            replica.may_end.set()
            second = await watch.read()
            end = await watch.read()

    assert [first.revision, second.revision] == [1, 2]
    assert end is grpc.aio.EOF


async def test_a_call_that_a_replica_has_not_begun_is_made_again_elsewhere(replicas):
    replica = await replicas.add("127.0.0.2")

    async with bare_server(disowns=True) as disowning:
        target = f"ipv4:{replica.listen},{disowning.address}"
        async with clients.open_channel(target) as channel:
            failures = [failure for _ in range(50) if (failure := await outcome(channel))]

    assert failures == []
    assert disowning.calls > 0
    assert replica.calls == 50


async def test_a_call_that_a_replica_may_have_begun_is_never_made_again(replicas):
    replica = await replicas.add("127.0.0.2")

    async with bare_server(disowns=False) as dying:
        target = f"ipv4:{replica.listen},{dying.address}"
        async with clients.open_channel(target) as channel:
            failures = [failure for _ in range(50) if (failure := await outcome(channel))]

    # One that meets the end of the connection before it fails too, and is in no count of the server's.
    assert 0 < dying.calls <= len(failures)
    assert replica.calls == 50 - len(failures)
    assert all(failure.startswith("UNAVAILABLE") for failure in failures)


async def test_a_call_goes_past_an_address_where_nobody_listens(replicas):
    replica = await replicas.add("127.0.0.2")
    replicas._names.addresses[HOST] = ("127.0.0.9", "127.0.0.2")

    async with clients.open_channel(replicas.target, health_of=HEALTH) as channel:
        failures = [failure for _ in range(20) if (failure := await outcome(channel))]

    assert failures == []
    assert replica.calls == 20


@pytest.mark.parametrize(
    ("listen", "host"), [("127.0.0.1", "127.0.0.1"), ("[::1]", "[::1]"), ("127.0.0.1", "localhost")]
)
async def test_one_address_of_any_kind_goes_on_working(listen, host):
    replica = Replica(f"{listen}:0")
    running = await RunningServer.start([replica], ProcessSettings())
    port = running.addresses["replica"].rpartition(":")[2]

    async with clients.open_channel(f"{host}:{port}", health_of=HEALTH) as channel:
        assert await outcome(channel) == ""
    await running.stop(0)


async def test_a_unix_socket_goes_on_working(tmp_path):
    served: Any = grpc.aio.server()
    Replica("unix").add_to(served)
    served.add_insecure_port(f"unix:{tmp_path}/s")
    await served.start()

    async with clients.open_channel(f"unix:{tmp_path}/s") as channel:
        assert await outcome(channel) == ""
    await served.stop(None)

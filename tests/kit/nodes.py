"""Several Integrations processes on one database, in this process, each with a copy of Ingress' own that watches it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from servicekit.clients import open_channel
from servicekit.clock import SystemClock
from servicekit.server import RunningServer
from services.ingress.integrations_replica import IntegrationsReplica
from services.integrations import maintenance, service
from services.integrations.settings import IntegrationsSettings
from textway.integrations.v1.integrations_service_pb2_grpc import IntegrationsServiceStub
from textway.integrations.v1.keys_service_pb2_grpc import KeysServiceStub
from textway.integrations.v1.registry_service_pb2_grpc import RegistryServiceStub


class Gate:
    """Storage that can be made to stand still, as it does for a process that is paused."""

    def __init__(self, nodes: Any) -> None:
        self._nodes = nodes
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def renew(self, node_id, applied_revision, *, is_news):
        await self._open.wait()
        return await self._nodes.renew(node_id, applied_revision, is_news=is_news)

    async def look(self):
        await self._open.wait()
        return await self._nodes.look()

    def __getattr__(self, name):
        return getattr(self._nodes, name)


@dataclass(kw_only=True)
class NodeUnderTest:
    """One process and the copy that watches it."""

    integrations: IntegrationsServiceStub
    registry: RegistryServiceStub
    keys: KeysServiceStub
    replica: IntegrationsReplica
    gate: Gate
    service: service.IntegrationsService
    running: RunningServer
    background: contextlib.AsyncExitStack = field(repr=False)

    @property
    def is_live(self) -> bool:
        """Whether the copy takes itself for exact."""
        return self.replica._is_live

    def known(self, integration_id: str) -> Any:
        return self.replica._integrations.by_id.get(integration_id)

    async def until_live(self) -> None:
        await until(lambda: self.is_live)


async def until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for what other tasks bring about over a network."""
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.005)


async def start_node(settings: IntegrationsSettings, *, hears: bool = True) -> NodeUnderTest:
    """Start one; the database's notifications do not reach it if it does not hear."""
    built = await service.build(settings, SystemClock())
    follower = built._follower
    assert follower is not None
    gate = Gate(follower._nodes)
    follower._nodes = gate
    if not hears:
        follower._hear = lambda node_id: None
    stack = contextlib.AsyncExitStack()
    running = await RunningServer.start([built], settings)
    stack.push_async_callback(running.stop, 0)
    channel = await stack.enter_async_context(open_channel(running.addresses["integrations"]))
    replica = IntegrationsReplica(RegistryServiceStub(channel), clock=SystemClock(), known_for_seconds=60)
    await replica.start(5)
    stack.push_async_callback(replica.stop)
    return NodeUnderTest(
        integrations=IntegrationsServiceStub(channel),
        registry=RegistryServiceStub(channel),
        keys=KeysServiceStub(channel),
        replica=replica,
        gate=gate,
        service=built,
        running=running,
        background=stack,
    )


@contextlib.asynccontextmanager
async def nodes(settings: IntegrationsSettings, *, count: int = 2) -> AsyncIterator[list[NodeUnderTest]]:
    """Start some on an empty database, all at once; stop them, and those that are added, at the end."""
    await maintenance.migrate(settings)
    started = list(await asyncio.gather(*(start_node(settings) for _ in range(count))))
    try:
        for node in started:
            await node.until_live()
        yield started
    finally:
        for node in started:
            node.gate.open()
        await asyncio.gather(*(node.background.aclose() for node in started))

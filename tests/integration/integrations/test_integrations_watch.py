"""What the services that keep a copy of all integrations can rely on, over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from hashlib import sha256

import grpc
import pytest

from servicekit.clients import open_channel
from servicekit.clock import SystemClock
from servicekit.server import RunningServer
from services.integrations import maintenance, service, watch_integrations
from textway.integrations.v1.integrations_service_pb2 import (
    CreateIntegrationRequest,
    DeleteIntegrationRequest,
    ReplaceIntegrationRequest,
    RotateIngressKeyRequest,
    UpdateIntegrationRequest,
)
from textway.integrations.v1.keys_service_pb2 import SetTenantActiveRequest
from textway.integrations.v1.registry_service_pb2 import ResolveIngressKeyRequest, WatchIntegrationsRequest
from textway.integrations.v1.registry_service_pb2_grpc import RegistryServiceStub


class Copy:
    """A watcher's copy of all integrations, kept as the contract says."""

    def __init__(self, call, *, acknowledges=True):
        self.call = call
        self.configs = {}
        self.complete = asyncio.Event()
        self.pages = 0
        self.acknowledges = acknowledges
        self.log = []

    async def keep(self):
        await self.call.write(WatchIntegrationsRequest())
        while (response := await self.call.read()) is not grpc.aio.EOF:
            self.pages += 1
            self.configs.update({config.id: config for config in response.changed})
            for deleted_id in response.deleted_ids:
                self.configs.pop(deleted_id, None)
            self.log.append(response.revision)
            if response.snapshot_complete:
                self.complete.set()
            if self.acknowledges:
                await self.call.write(WatchIntegrationsRequest(applied_revision=response.revision))


@contextlib.asynccontextmanager
async def watching(clients, *, acknowledges=True) -> AsyncIterator[Copy]:
    copy = Copy(clients.registry.WatchIntegrations(), acknowledges=acknowledges)
    task = asyncio.create_task(copy.keep())
    await asyncio.wait_for(copy.complete.wait(), 5)
    try:
        yield copy
    finally:
        task.cancel()
        copy.call.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await task


async def create(clients, owner, name="shop", **fields):
    return await clients.integrations.CreateIntegration(CreateIntegrationRequest(name=name, **fields), metadata=owner)


async def test_a_watcher_starts_with_everything_there_is(clients, owner, monkeypatch):
    monkeypatch.setattr(watch_integrations, "PAGE_SIZE", 2)
    made = [await create(clients, owner, f"number {n}", signing_secret="a good secret") for n in range(5)]

    async with watching(clients) as copy:
        assert set(copy.configs) == {one.id for one in made}
        assert copy.pages == 3
        config = copy.configs[made[0].id]

    assert [key.sha256 for key in config.ingress_keys] == [sha256(made[0].ingress_key.encode()).digest()]
    assert list(config.signing_secrets) == ["a good secret"]
    assert config.tenant_active
    # Only the last page can be acknowledged: before it, the copy is not whole.
    assert [revision > 0 for revision in copy.log] == [False, False, True]


async def test_a_watcher_knows_the_old_secret_and_when_it_ends(clients, owner):
    made = await create(clients, owner, signing_secret="the first secret")
    change = UpdateIntegrationRequest(id=made.id, signing_secret="the second secret", signing_secret_overlap_seconds=60)

    async with watching(clients) as copy:
        changed = await clients.integrations.UpdateIntegration(change, metadata=owner)
        told = copy.configs[made.id]
        async with watching(clients) as fresh:
            assert fresh.configs[made.id] == told
        await clients.integrations.UpdateIntegration(
            UpdateIntegrationRequest(id=made.id, signing_secret=""), metadata=owner
        )
        removed = copy.configs[made.id]

    assert list(told.signing_secrets) == ["the second secret"]
    (old,) = told.old_signing_secrets
    assert (old.secret, old.expires_at) == ("the first secret", changed.previous_signing_secret_expires_at)
    assert old.expires_at.ToMilliseconds() == changed.updated_at.ToMilliseconds() + 60_000
    assert (list(removed.signing_secrets), list(removed.old_signing_secrets)) == ([], [])


async def test_an_empty_snapshot_is_complete_too(clients):
    async with watching(clients) as copy:
        assert copy.configs == {}


async def test_every_change_is_applied_before_its_author_has_the_answer(clients, owner):
    async with watching(clients) as one, watching(clients) as other:
        for round_number in range(20):
            made = await create(clients, owner)
            assert [made.id in copy.configs for copy in (one, other)] == [True, True]
            await clients.integrations.ReplaceIntegration(
                ReplaceIntegrationRequest(id=made.id, name="shop", to_path=f"put{round_number}"), metadata=owner
            )
            assert {copy.configs[made.id].to_path for copy in (one, other)} == {f"put{round_number}"}
            await clients.integrations.UpdateIntegration(
                UpdateIntegrationRequest(id=made.id, to_path=f"patch{round_number}"), metadata=owner
            )
            assert {copy.configs[made.id].to_path for copy in (one, other)} == {f"patch{round_number}"}
            await clients.integrations.RotateIngressKey(RotateIngressKeyRequest(id=made.id), metadata=owner)
            assert {len(copy.configs[made.id].ingress_keys) for copy in (one, other)} == {2}
            await clients.integrations.DeleteIntegration(DeleteIntegrationRequest(id=made.id), metadata=owner)
            assert [made.id in copy.configs for copy in (one, other)] == [False, False]


async def test_suspending_a_tenant_reaches_every_watcher_in_pages(clients, owner, monkeypatch):
    monkeypatch.setattr(watch_integrations, "PAGE_SIZE", 2)
    made = [await create(clients, owner) for _ in range(5)]

    async with watching(clients) as copy:
        copy.log.clear()
        await clients.keys.SetTenantActive(SetTenantActiveRequest(tenant="default", active=False))

        assert {copy.configs[one.id].tenant_active for one in made} == {False}
        assert [revision > 0 for revision in copy.log] == [False, False, True]


async def test_a_watcher_that_does_not_acknowledge_is_cut_off_after_a_second(clients, owner):
    async with watching(clients) as good, watching(clients, acknowledges=False) as laggard:
        began = time.monotonic()
        made = await create(clients, owner)
        waited = time.monotonic() - began

        assert 0.9 < waited < 5  # a second, and what a busy machine adds
        assert made.id in good.configs
        assert await laggard.call.code() == grpc.StatusCode.UNAVAILABLE
        began = time.monotonic()
        await create(clients, owner)
        assert time.monotonic() - began < 0.9


async def test_a_watcher_that_goes_away_holds_nobody_back(clients, owner):
    async with watching(clients, acknowledges=False):
        pass

    began = time.monotonic()
    await create(clients, owner)

    assert time.monotonic() - began < 0.9


async def test_no_change_is_missed_by_watchers_that_join_while_changes_are_made(clients, owner):
    made = await create(clients, owner, to_path="path0")
    stopping = asyncio.Event()
    written = [0]

    async def author() -> None:
        while not stopping.is_set():
            number = len(written)
            await clients.integrations.UpdateIntegration(
                UpdateIntegrationRequest(id=made.id, to_path=f"path{number}"), metadata=owner
            )
            written.append(number)

    authoring = asyncio.create_task(author())
    while len(written) < 50:
        async with watching(clients) as copy:
            known = len(written) - 1
            # What had been answered by now is in the snapshot, or has followed it.
            assert int(copy.configs[made.id].to_path.removeprefix("path")) >= known
    stopping.set()
    await authoring


async def test_a_change_is_told_even_when_its_author_goes_away(clients, owner):
    made = await create(clients, owner)

    async with watching(clients) as copy:
        for number in range(20):
            call = clients.integrations.UpdateIntegration(
                UpdateIntegrationRequest(id=made.id, to_path=f"path{number}"), metadata=owner
            )
            await asyncio.sleep(0.0005 * number)
            call.cancel()
        await asyncio.sleep(0.2)
        last = copy.configs[made.id].to_path
        async with watching(clients) as fresh:
            assert fresh.configs[made.id].to_path == last


async def test_revisions_grow_across_restarts(settings, serving, owner):
    async with serving(settings) as clients, watching(clients) as copy:
        made = await create(clients, owner)
        await clients.integrations.DeleteIntegration(DeleteIntegrationRequest(id=made.id), metadata=owner)
        before = copy.log[-1]

    async with serving(settings) as clients, watching(clients) as copy:
        await create(clients, owner)
        after = copy.log

    assert after == [before, before + 1]


async def test_an_open_watch_does_not_hold_up_a_stop(settings):
    await maintenance.migrate(settings)
    running = await RunningServer.start([await service.build(settings, SystemClock())], settings)
    async with open_channel(running.addresses["integrations"]) as channel:
        call = RegistryServiceStub(channel).WatchIntegrations()
        await call.write(WatchIntegrationsRequest())
        await call.read()

        began = time.monotonic()
        await running.stop(drain_seconds=5)

        assert time.monotonic() - began < 2
        assert await call.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("digest", [b"", b"short", b"\0" * 32])
async def test_an_unknown_address_is_not_found(clients, refusal, digest):
    refused = await refusal(clients.registry.ResolveIngressKey(ResolveIngressKeyRequest(sha256=digest)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")

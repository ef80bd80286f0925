"""A real Ingress behind real gRPC, with a registry and a delivery that a test directs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit.clients import open_channel
from servicekit.clock import SystemClock
from servicekit.errors import NotFoundError, ServiceError
from servicekit.ids import new_id, new_secret
from servicekit.server import RunningServer
from services.ingress.service import IngressService, build
from services.ingress.settings import IngressSettings
from services.integrations.errors import InvalidApiKeyError
from tests.kit.ports import free_address
from textway.delivery.v1 import submission_service_pb2 as delivery_v1
from textway.delivery.v1.submission_service_pb2_grpc import (
    SubmissionServiceServicer,
    add_SubmissionServiceServicer_to_server,
)
from textway.ingress.v1.health_service_pb2_grpc import HealthServiceStub
from textway.ingress.v1.ingress_service_pb2_grpc import IngressServiceStub
from textway.integrations.v1 import registry_service_pb2 as registry_v1
from textway.integrations.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)


class ShiftedClock(SystemClock):
    """The machine's clock, which a test can put forward."""

    def __init__(self) -> None:
        self.shift_seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.shift_seconds


class FakeRegistry(RegistryServiceServicer):
    """Integrations' internal service: sends what a test publishes, and remembers what was acknowledged."""

    name = "registry"
    grpc_services = ("textway.integrations.v1.RegistryService",)

    def __init__(self, listen: str) -> None:
        self.listen, self.metrics_listen = listen, ""
        self.known: dict[str, registry_v1.IntegrationConfig] = {}
        self.tenants_by_key: dict[str, str] = {}
        self.revision = 1
        self.acknowledged: list[int] = []
        self.acknowledgement = asyncio.Condition()
        self.watches: list[asyncio.Queue[registry_v1.WatchIntegrationsResponse | None]] = []
        self.resolved = 0
        self.page_size = 2
        self.exact_for_ms = 0  # as a release that answers no pings
        self.answers_pings = True

    async def publish(self, *changed: registry_v1.IntegrationConfig, deleted: tuple[str, ...] = ()) -> None:
        """Send a change and return when every watcher has acknowledged it, as the real service does."""
        self.revision += 1
        for config in changed:
            self.known[config.id] = config
        for integration_id in deleted:
            del self.known[integration_id]
        for watch in self.watches:
            watch.put_nowait(
                registry_v1.WatchIntegrationsResponse(
                    revision=self.revision, changed=changed, deleted_ids=list(deleted)
                )
            )
        if self.watches:
            await self.until_acknowledged(self.revision)

    async def until_acknowledged(self, revision: int) -> None:
        async with asyncio.timeout(5), self.acknowledgement:
            await self.acknowledgement.wait_for(lambda: revision in self.acknowledged)

    def cut_off_watchers(self) -> None:
        for watch in self.watches:
            watch.put_nowait(None)

    async def WatchIntegrations(self, request_iterator, context):  # the contract's name
        await anext(request_iterator)
        queue = asyncio.Queue()
        self.watches.append(queue)
        reader = asyncio.create_task(self._read_acknowledgements(request_iterator, queue))
        try:
            for page in self._snapshot():
                yield page
            while (change := await queue.get()) is not None:
                yield change
        finally:
            self.watches.remove(queue)
            reader.cancel()

    def _snapshot(self) -> list[registry_v1.WatchIntegrationsResponse]:
        configs = list(self.known.values())
        pages = [configs[start : start + self.page_size] for start in range(0, len(configs), self.page_size)] or [[]]
        return [
            registry_v1.WatchIntegrationsResponse(
                revision=self.revision,
                changed=page,
                snapshot_complete=page is pages[-1],
                exact_for_ms=self.exact_for_ms if page is pages[-1] else 0,
            )
            for page in pages
        ]

    async def _read_acknowledgements(self, requests, queue) -> None:
        async for request in requests:
            if request.ping and self.answers_pings:
                queue.put_nowait(registry_v1.WatchIntegrationsResponse(pong=request.ping))
            async with self.acknowledgement:
                self.acknowledged.append(request.applied_revision)
                self.acknowledgement.notify_all()

    async def ResolveIngressKey(self, request, context):  # the contract's name
        self.resolved += 1
        for config in self.known.values():
            if any(key.sha256 == request.sha256 for key in config.ingress_keys):
                return registry_v1.ResolveIngressKeyResponse(integration=config)
        raise NotFoundError

    async def AuthenticateApiKey(self, request, context):  # the contract's name
        tenant_id = self.tenants_by_key.get(request.api_key)
        if tenant_id is None:
            raise InvalidApiKeyError
        return registry_v1.AuthenticateApiKeyResponse(tenant_id=tenant_id, key_id="key_x")

    def add_to(self, server: grpc.aio.Server) -> None:
        add_RegistryServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to finish."""


class FakeDelivery(SubmissionServiceServicer):
    """Delivery's internal service: remembers each call, knows repeats as the real one does, and forgets nothing."""

    name = "delivery"
    grpc_services = ("textway.delivery.v1.SubmissionService",)

    def __init__(self, listen: str) -> None:
        self.listen, self.metrics_listen = listen, ""
        self.calls: list[list[delivery_v1.Submission]] = []
        # By integration and key: the hash of the first request, and its answer.
        self.requests: dict[tuple[str, str], tuple[bytes, delivery_v1.AcceptedMessage]] = {}
        # By integration and dedupe value: the first message.
        self.meanings: dict[tuple[str, str], delivery_v1.AcceptedMessage] = {}
        self.stored: list[delivery_v1.Submission] = []
        self.batches: list[delivery_v1.SubmitBatchRequest] = []
        self.batch_ids: dict[str, str] = {}
        self.refs: Counter[str] = Counter()
        self.received = 0
        self.previews = 0
        self.refused_texts: dict[str, ServiceError] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @property
    def submitted(self) -> list[delivery_v1.Submission]:
        return [submission for call in self.calls for submission in call]

    async def SubmitMessages(self, request, context):  # the contract's name
        self.received += len(request.submissions)
        await self.may_answer.wait()
        for submission in request.submissions:
            if submission.text in self.refused_texts:
                raise self.refused_texts[submission.text]
        self.calls.append(list(request.submissions))
        return delivery_v1.SubmitMessagesResponse(accepted=[self._accept(one) for one in request.submissions])

    def _accept(self, submission: delivery_v1.Submission) -> delivery_v1.AcceptedMessage:
        if not submission.HasField("idempotency"):
            return self._store(submission)
        key = (submission.integration_id, submission.idempotency.key)
        sha256 = submission.idempotency.request_sha256
        if key not in self.requests:
            self.requests[key] = (sha256, self._store(submission))
            return self.requests[key][1]
        first_sha256, accepted = self.requests[key]
        if first_sha256 != sha256:
            return delivery_v1.AcceptedMessage(idempotency_mismatch=True)
        return changed(accepted, replayed=True)

    def _store(self, submission: delivery_v1.Submission) -> delivery_v1.AcceptedMessage:
        rule = submission.dedupe
        first = self.meanings.get((submission.integration_id, rule.value)) if rule.value else None
        if first and rule.mode == "suppress":
            return changed(first, duplicate=True)
        self.stored.append(submission)
        # Several of one `ref` are told apart by their place.
        self.refs[submission.ref] += 1
        place = self.refs[submission.ref]
        accepted = delivery_v1.AcceptedMessage(
            id=f"msg_{submission.ref}{f'_{place}' if place > 1 else ''}",
            status="queued",
            to=submission.to,
            text=submission.text,
            ref=submission.ref,
            duplicate=first is not None,
        )
        if rule.value:
            self.meanings.setdefault((submission.integration_id, rule.value), accepted)
        return accepted

    async def SubmitBatch(self, request, context):  # the contract's name
        self.received += len(request.items)
        await self.may_answer.wait()
        self.batches.append(request)
        answers = [self._accept_item(request, item) for item in request.items]
        known = self.batch_ids.get(request.idempotency.key)
        if known is None:
            known = f"bat_{len(self.batches)}"
            if request.idempotency.key:
                self.batch_ids[request.idempotency.key] = known
        return delivery_v1.SubmitBatchResponse(id=known, replayed=any(a.replayed for a in answers), accepted=answers)

    def _accept_item(
        self, batch: delivery_v1.SubmitBatchRequest, item: delivery_v1.BatchItem
    ) -> delivery_v1.AcceptedMessage:
        submission = delivery_v1.Submission(
            tenant_id=batch.tenant_id,
            integration_id=batch.integration_id,
            to=item.to,
            text=batch.texts[item.text],
            ref=item.ref,
        )
        if batch.HasField("idempotency"):
            key = f"{batch.idempotency.key}/{item.place}"
            submission.idempotency.MergeFrom(
                delivery_v1.Idempotency(key=key, request_sha256=batch.idempotency.request_sha256)
            )
        if item.dedupe_value:
            submission.dedupe.value, submission.dedupe.mode = item.dedupe_value, batch.dedupe_mode
        accepted = self._accept(submission)
        if (accepted.to, accepted.text, accepted.ref) == (submission.to, submission.text, submission.ref):
            accepted = changed(accepted)
            for field in ("to", "text", "ref"):
                accepted.ClearField(field)
        return accepted

    async def FindRequest(self, request, context):  # the contract's name
        sha256, accepted = self.requests.get((request.integration_id, request.idempotency.key), (b"", None))
        if accepted is None or sha256 != request.idempotency.request_sha256:
            return delivery_v1.FindRequestResponse()
        return delivery_v1.FindRequestResponse(accepted=changed(accepted, replayed=True))

    async def PreviewMessage(self, request, context):  # the contract's name
        self.previews += 1
        return delivery_v1.PreviewMessageResponse(segments=2, encoding="ucs2", carrier="simulator")

    def add_to(self, server: grpc.aio.Server) -> None:
        add_SubmissionServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to finish."""


def changed(accepted: delivery_v1.AcceptedMessage, **fields: bool) -> delivery_v1.AcceptedMessage:
    copy = delivery_v1.AcceptedMessage(**fields)
    copy.MergeFrom(accepted)
    return copy


@dataclass(frozen=True, kw_only=True)
class FlatAnswer:
    """The JSON that answers a payload of one message."""

    id: str
    status: str
    to: str
    text: str
    ref: str
    duplicate: bool | None = None
    textChanged: str | None = None  # noqa: N815  # the contract's name


def flat_answer(body: HttpBody) -> FlatAnswer:
    """Read the answer to one message, whose members come in this order and no others with them."""
    members = json.loads(body.data)
    assert body.content_type == "application/json"
    assert tuple(members) in {
        ("id", "status", "to", "text", "ref", *more)
        for more in ((), ("duplicate",), ("textChanged",), ("duplicate", "textChanged"))
    }
    return FlatAnswer(**members)


@dataclass(kw_only=True)
class World:
    """Ingress with its neighbours, each of which can be stopped."""

    registry: FakeRegistry
    delivery: FakeDelivery
    clock: ShiftedClock
    settings: IngressSettings
    running: dict[str, RunningServer] = field(default_factory=dict)
    service: IngressService | None = None

    async def serve(self, neighbour: FakeRegistry | FakeDelivery) -> None:
        self.running[neighbour.name] = await RunningServer.start([neighbour], self.settings)

    async def stop(self, name: str) -> None:
        await self.running.pop(name).stop(0)

    async def serve_ingress(self) -> None:
        self.service = await build(self.settings, self.clock)
        self.running["ingress"] = await RunningServer.start([self.service], self.settings)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what another task brings about; a network is in between, so that there is no event to await."""
        async with asyncio.timeout(5):
            while not is_so():  # see above
                await asyncio.sleep(0.005)

    async def until_handed_in(self, count: int) -> None:
        """Wait until so many messages are at Delivery or wait for their turn."""
        assert self.service is not None
        batcher = self.service._outbox._batcher
        await self.until(lambda: self.delivery.received + batcher.depth == count)

    @property
    def is_live(self) -> bool:
        assert self.service is not None
        return self.service._replica._is_live


@pytest.fixture
async def unstarted_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "0")
    settings = IngressSettings(
        data_dir=tmp_path,
        ingress_listen=free_address(),
        integrations_address=free_address(),
        delivery_address=free_address(),
    )
    world = World(
        registry=FakeRegistry(settings.integrations_address),
        delivery=FakeDelivery(settings.delivery_address),
        clock=ShiftedClock(),
        settings=settings,
    )
    yield world
    for name in ("ingress", "delivery", "registry"):
        if name in world.running:
            world.registry.cut_off_watchers()
            await world.stop(name)


@pytest.fixture
async def world(unstarted_world: World) -> World:
    for neighbour in (unstarted_world.registry, unstarted_world.delivery):
        await unstarted_world.serve(neighbour)
    await unstarted_world.serve_ingress()
    return unstarted_world


@pytest.fixture
async def channel(unstarted_world: World) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(unstarted_world.settings.ingress_listen) as channel:
        yield channel


@pytest.fixture
def ingress(channel: grpc.aio.Channel) -> IngressServiceStub:
    return IngressServiceStub(channel)


@pytest.fixture
def health(channel: grpc.aio.Channel) -> HealthServiceStub:
    return HealthServiceStub(channel)


@pytest.fixture
def ingress_key() -> str:
    return new_secret("ig", 32)


def config_of(*keys: str, integration_id: str = "", **fields: object) -> registry_v1.IntegrationConfig:
    """Return an integration as the registry has it."""
    defaults = {
        "tenant_id": "ten_mine",
        "tenant_active": True,
        "to_path": "to",
        "text_path": "text",
        "ref_path": "ref",
        "signing_header": "X-Webhook-Signature",
        "revision": 1,
    }
    return registry_v1.IntegrationConfig(
        id=integration_id or new_id("wkh", NOW),
        ingress_keys=[registry_v1.IngressKey(sha256=hashlib.sha256(key.encode()).digest()) for key in keys],
        **(defaults | fields),
    )

"""An integration, and an outbox that remembers."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from servicekit.errors import IdempotencyMismatchError, NotFoundError, ServiceError
from servicekit.ids import new_id, new_secret
from services.ingress.domain import (
    AcceptedMessage,
    Idempotency,
    IngressKey,
    Integration,
    MappingPaths,
    NewBatch,
    NewMessage,
    Preview,
    StoredBatch,
)

# The time at which the shared clock stands.
NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)


class KnownIntegrations:
    """Both look-ups, over integrations that a test puts in."""

    def __init__(self) -> None:
        self.all: list[Integration] = []
        self.lookups = 0

    async def by_ingress_key(self, sha256: bytes) -> Integration:
        self.lookups += 1
        for integration in self.all:
            if any(key.sha256 == sha256 for key in integration.ingress_keys):
                return integration
        raise NotFoundError

    async def by_id(self, integration_id: str) -> Integration:
        for integration in self.all:
            if integration.id == integration_id:
                return integration
        raise NotFoundError


class RememberingDelivery:
    """Outbox and previewer."""

    def __init__(self) -> None:
        self.submitted: list[NewMessage] = []
        self.previewed: list[NewMessage] = []
        self.answer: dict[str, str | bool] = {}
        self.refusal: ServiceError | None = None
        self.batches: list[NewBatch] = []
        self.unknown_places: set[int] = set()
        self.made_before: dict[tuple[str, Idempotency], AcceptedMessage] = {}
        self.looked_for: list[Idempotency] = []

    async def submit(self, message: NewMessage) -> AcceptedMessage:
        self.submitted.append(message)
        if self.refusal:
            raise self.refusal
        accepted = AcceptedMessage(
            id=new_id("msg", NOW), status="queued", to=message.to, text=message.text, ref=message.ref
        )
        return replace(accepted, **self.answer)

    async def submit_batch(self, batch: NewBatch) -> StoredBatch:
        self.batches.append(batch)
        if self.refusal:
            raise self.refusal
        outcomes: list[AcceptedMessage | IdempotencyMismatchError] = []
        for place, message in zip(batch.places, batch.messages, strict=True):
            if place in self.unknown_places:
                outcomes.append(IdempotencyMismatchError())
            else:
                accepted = AcceptedMessage(
                    id=new_id("msg", NOW), status="queued", to=message.to, text=message.text, ref=message.ref
                )
                outcomes.append(replace(accepted, **self.answer))
        return StoredBatch(id="bat_1", replayed=False, outcomes=tuple(outcomes))

    async def find(self, integration: Integration, key: Idempotency) -> AcceptedMessage | None:
        self.looked_for.append(key)
        return self.made_before.get((integration.id, key))

    async def preview(self, message: NewMessage) -> Preview:
        self.previewed.append(message)
        return Preview(segments=1, encoding="gsm7", carrier="simulator")


@pytest.fixture
def integrations() -> KnownIntegrations:
    return KnownIntegrations()


@pytest.fixture
def delivery() -> RememberingDelivery:
    return RememberingDelivery()


@pytest.fixture
def ingress_key() -> str:
    return new_secret("ig", 32)


@pytest.fixture
def integration(ingress_key: str) -> Integration:
    return Integration(
        id=new_id("wkh", NOW),
        tenant_id="ten_mine",
        ingress_keys=(IngressKey(sha256=hashlib.sha256(ingress_key.encode()).digest()),),
        paths=MappingPaths(to="to", text="text", ref="ref", default_region="SG"),
    )

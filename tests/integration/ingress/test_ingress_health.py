"""Health through real gRPC: which part can not take work, with a status that a load balancer understands."""

from __future__ import annotations

import pytest

from tests.integration.ingress.conftest import World
from textway.ingress.v1.health_service_pb2 import CheckLiveRequest, CheckReadyRequest, CheckReadyResponse
from textway.ingress.v1.health_service_pb2_grpc import HealthServiceStub


async def ready(health: HealthServiceStub) -> tuple[CheckReadyResponse, dict[str, str]]:
    call = health.CheckReady(CheckReadyRequest(), timeout=5)
    return await call, dict(await call.initial_metadata())


async def test_is_live_as_long_as_it_answers(world: World, health: HealthServiceStub) -> None:
    response = await health.CheckLive(CheckLiveRequest(), timeout=5)

    assert response.status == "live"


async def test_is_ready_when_every_part_is(world: World, health: HealthServiceStub) -> None:
    response, metadata = await ready(health)

    assert response.status == "ready"
    assert [(part.name, part.ready, part.detail) for part in response.parts] == [
        ("ingress", True, ""),
        ("integrations", True, ""),
        ("delivery", True, ""),
    ]
    assert "x-http-status" not in metadata


async def test_says_which_part_is_down_with_status_503(world: World, health: HealthServiceStub) -> None:
    await world.stop("delivery")

    response, metadata = await ready(health)

    assert response.status == "not_ready"
    assert [part.name for part in response.parts if not part.ready] == ["delivery"]
    assert response.parts[2].detail
    assert metadata["x-http-status"] == "503"


async def test_is_not_ready_before_it_has_heard_from_integrations(
    unstarted_world: World, health: HealthServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingress.service.FIRST_SNAPSHOT_SECONDS", 0.05)
    await unstarted_world.serve_ingress()

    response, metadata = await ready(health)

    assert [part.ready for part in response.parts] == [False, False, False]
    assert metadata["x-http-status"] == "503"


async def test_is_not_ready_when_it_has_not_heard_from_integrations_for_too_long(
    world: World, health: HealthServiceStub
) -> None:
    world.registry.cut_off_watchers()
    await world.stop("registry")
    await world.until(lambda: not world.is_live)

    within, _ = await ready(health)
    world.clock.shift_seconds = 61
    beyond, _ = await ready(health)

    assert (within.parts[0].ready, beyond.parts[0].ready) == (True, False)
    assert "lost its watch" in beyond.parts[0].detail

"""GET /v1/carriers, as Delivery answers it."""

from __future__ import annotations

from pathlib import Path

import pytest

from servicekit.settings import SettingsError
from services.delivery import service
from tests.integration.delivery.conftest import World, message_with, refusal_of
from textway.delivery.v1.carriers_service_pb2 import Carrier, ListCarriersRequest
from textway.delivery.v1.carriers_service_pb2_grpc import CarriersServiceStub
from textway.delivery.v1.messages_service_pb2 import SendMessageRequest

FILE = """\
carriers:
  z: {simulator: {}, from: ACME, limits: {segments_per_second: 50}}
  main: {definition: twilio, settings: {account_sid: AC1, auth_token: s3cret-that-nobody-may-see}}
  play: {simulator: {}}
routes:
  - {name: all, carriers: [z, play, main]}
"""


@pytest.fixture
async def configured_world(unstarted_world: World, tmp_path: Path) -> World:
    file = tmp_path / "carriers.yaml"
    file.write_text(FILE)
    unstarted_world.settings = unstarted_world.settings.model_copy(update={"carriers": file})
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    return unstarted_world


async def listed(world: World, owner) -> list[Carrier]:
    answer = await CarriersServiceStub(world.channel).ListCarriers(ListCarriersRequest(), metadata=owner)
    return list(answer.carriers)


async def test_lists_carriers_in_the_order_of_the_file(configured_world: World, owner) -> None:
    carriers = await listed(configured_world, owner)

    shown = [(each.name, each.kind, each.definition, each.capability, each.state) for each in carriers]
    assert shown == [
        ("z", "simulator", "", "idempotent", "healthy"),
        ("main", "http", "twilio", "blind", "healthy"),
        ("play", "simulator", "", "idempotent", "healthy"),
    ]
    first = carriers[0]
    assert (getattr(first, "from"), first.limit_segments_per_second, first.current_segments_per_second) == (
        "ACME",
        50,
        50,
    )
    assert not first.HasField("last_error")
    assert not first.HasField("state_until")


async def test_shows_no_secret(configured_world: World, owner) -> None:
    carriers = await listed(configured_world, owner)

    assert "s3cret" not in str(carriers)


async def test_counts_what_a_carrier_took(configured_world: World, owner) -> None:
    sent = await configured_world.messages.SendMessage(
        SendMessageRequest(to="+6581230000", text="Order confirmed"), metadata=owner
    )
    await message_with(configured_world.messages, owner, sent.id, "sent", "delivered")

    carriers = await listed(configured_world, owner)

    assert [(each.name, each.sent_last_minute, each.failed_last_minute) for each in carriers] == [
        ("z", 1, 0),
        ("main", 0, 0),
        ("play", 0, 0),
    ]


async def test_is_refused_without_a_key(configured_world: World) -> None:
    refusal = await refusal_of(listed(configured_world, ()))

    assert refusal.reason == "UNAUTHORIZED"


async def test_does_not_start_with_a_wrong_file(unstarted_world: World, tmp_path: Path) -> None:
    file = tmp_path / "carriers.yaml"
    file.write_text("carriers:\n  main: {definition: twillio}\n")
    settings = unstarted_world.settings.model_copy(update={"carriers": file})

    with pytest.raises(SettingsError, match=r"carriers\.yaml:2: carriers\.main\.definition: there is no definition"):
        await service.build(settings, unstarted_world.clock)

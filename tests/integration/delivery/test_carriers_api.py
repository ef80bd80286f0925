"""GET /v1/carriers, as Delivery answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from servicekit.settings import SettingsError
from services.delivery import service
from tests.fakes.smsc import OK, FakeSmsc
from tests.integration.delivery.conftest import PATIENCE_SECONDS, World, message_with, refusal_of
from tests.kit.ports import free_address
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

SMPP_FILE = """\
carriers:
  smsc: {{smpp: {{host: 127.0.0.1, port: {port}, system_id: textway, password: secret}}, from: ACME}}
"""
INVALID_PASSWORD = 0x0E


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


async def listed_when(world: World, owner, is_so: Callable[[Carrier], bool]) -> Carrier:
    """Ask again and again until the one carrier is as it is to be."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            (carrier,) = await listed(world, owner)
            if is_so(carrier):
                return carrier
            await asyncio.sleep(0.01)


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


@pytest.mark.parametrize(
    ("bind_status", "why"),
    [
        (None, "the SMSC could not be reached (ConnectionRefusedError)"),
        (INVALID_PASSWORD, "the SMSC refused the bind: ESME_RINVPASWD"),
    ],
    ids=["closed port", "refused bind"],
)
async def test_shows_that_a_carrier_has_no_link_and_why_before_any_message(
    unstarted_world: World, owner, tmp_path: Path, bind_status: int | None, why: str
) -> None:
    async with FakeSmsc() as smsc:
        smsc.bind_status = bind_status or OK
        address = free_address() if bind_status is None else f"127.0.0.1:{smsc.port}"
        file = tmp_path / "carriers.yaml"
        file.write_text(SMPP_FILE.format(port=address.rpartition(":")[2]))
        file.chmod(0o600)
        unstarted_world.settings = unstarted_world.settings.model_copy(update={"carriers": file})
        await unstarted_world.serve_registry()
        await unstarted_world.serve_delivery()

        shown = await listed_when(unstarted_world, owner, lambda carrier: carrier.HasField("last_error"))

    assert (shown.state, shown.failed_last_minute) == ("healthy", 0)
    assert (shown.last_error.code, shown.last_error.message) == (
        "carrier_unavailable",
        f"no link (bind_transceiver): {why}",
    )


async def test_shows_no_error_of_a_link_that_is_up_again(unstarted_world: World, owner, tmp_path: Path) -> None:
    async with FakeSmsc() as smsc:
        smsc.bind_status = INVALID_PASSWORD
        file = tmp_path / "carriers.yaml"
        file.write_text(SMPP_FILE.format(port=smsc.port))
        file.chmod(0o600)
        unstarted_world.settings = unstarted_world.settings.model_copy(update={"carriers": file})
        await unstarted_world.serve_registry()
        await unstarted_world.serve_delivery()
        await listed_when(unstarted_world, owner, lambda carrier: carrier.HasField("last_error"))

        smsc.bind_status = OK

        await listed_when(unstarted_world, owner, lambda carrier: not carrier.HasField("last_error"))
        await unstarted_world.stop("delivery")

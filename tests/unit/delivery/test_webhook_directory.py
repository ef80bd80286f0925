"""What Delivery knows of webhooks while Integrations can be asked, and while it can not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from servicekit.errors import UnavailableError
from services.delivery.webhook_directory import TRUSTED_SECONDS, WebhookDirectory
from services.delivery.webhooks import Destination, DestinationKind, Event, WebhookDelivery
from tests.conftest import FixedClock
from textway.integrations.v1 import registry_service_pb2


class Registry:
    """Integrations as far as Delivery asks it: with a webhook of the tenant or none, and there or not."""

    def __init__(self) -> None:
        self.url = ""
        self.is_down = False

    async def GetWebhookTargets(
        self, request: registry_service_pb2.GetWebhookTargetsRequest, **_: object
    ) -> registry_service_pb2.GetWebhookTargetsResponse:
        if self.is_down:
            raise UnavailableError("Integrations can not be asked just now.")
        webhook = registry_service_pb2.WebhookTarget(url=self.url, enabled=True, events=[Event.MESSAGE_RECEIVED.value])
        return registry_service_pb2.GetWebhookTargetsResponse(webhook=webhook)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def directory(registry, clock) -> AsyncIterator[WebhookDirectory]:
    directory = WebhookDirectory(registry, clock)
    yield directory
    await directory.close()


def new_delivery(clock: FixedClock) -> WebhookDelivery:
    return WebhookDelivery(
        id="whd_1",
        tenant_id="ten_a",
        destination=Destination(kind=DestinationKind.TENANT, id="ten_a"),
        event=Event.MESSAGE_RECEIVED,
        event_id="evt_1",
        message_id="",
        reply_id="mo_1",
        body=b"{}",
        created_at=clock.now(),
        next_at=clock.now(),
    )


async def test_gives_up_an_event_that_nobody_wants(directory, clock):
    assert await directory.target(new_delivery(clock)) is None


async def test_gives_up_no_event_for_what_it_remembers_from_before_integrations_was_away(directory, registry, clock):
    await directory.target(new_delivery(clock))
    registry.is_down, registry.url = True, "https://shop.example/hooks"
    clock.advance(TRUSTED_SECONDS + 1)

    with pytest.raises(UnavailableError):
        await directory.target(new_delivery(clock))

    registry.is_down = False
    clock.advance(TRUSTED_SECONDS)
    target = await directory.target(new_delivery(clock))
    assert target is not None
    assert target.url == registry.url


async def test_brings_events_where_they_went_before_integrations_was_away(directory, registry, clock):
    registry.url = "https://shop.example/hooks"
    await directory.target(new_delivery(clock))
    registry.is_down = True
    clock.advance(60)

    target = await directory.target(new_delivery(clock))

    assert target is not None
    assert target.url == registry.url

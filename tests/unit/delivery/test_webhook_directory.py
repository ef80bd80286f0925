"""What Delivery knows of webhooks while Integrations can be asked, and while it can not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from servicekit.errors import UnavailableError
from services.delivery.deliver_webhooks import Target
from services.delivery.webhook_directory import TRUSTED_SECONDS, WebhookDirectory
from services.delivery.webhooks import Event
from tests.unit.delivery.test_call_endpoint import delivery
from textway.integrations.v1 import registry_service_pb2


class Registry:
    """Integrations as far as Delivery asks it: with a webhook of the integration or none, and there or not."""

    def __init__(self) -> None:
        self.url = ""
        self.is_enabled = True
        self.is_down = False

    async def GetWebhookTargets(
        self, request: registry_service_pb2.GetWebhookTargetsRequest, **_: object
    ) -> registry_service_pb2.GetWebhookTargetsResponse:
        if self.is_down:
            raise UnavailableError("Integrations can not be asked just now.")
        webhook = registry_service_pb2.WebhookTarget(
            url=self.url, enabled=self.is_enabled, events=[Event.MESSAGE_RECEIVED.value]
        )
        integration = registry_service_pb2.IntegrationTarget(outbound=webhook)
        return registry_service_pb2.GetWebhookTargetsResponse(integration=integration)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def directory(registry, clock) -> AsyncIterator[WebhookDirectory]:
    directory = WebhookDirectory(registry, clock)
    yield directory
    await directory.close()


async def test_gives_up_an_event_that_nobody_wants(directory, clock):
    assert await directory.target(delivery(clock)) is None


async def test_has_no_event_missed_for_what_it_remembers_from_before_the_webhook_was_enabled(
    directory, registry, clock
):
    registry.url, registry.is_enabled = "https://shop.example/hooks", False
    await directory.target(delivery(clock))
    registry.is_enabled = True

    target = await directory.target(delivery(clock))

    assert target is not None
    assert target.is_enabled


async def target_once_integrations_can_be_asked(directory, registry, clock) -> Target:
    """See that nothing is decided while Integrations is away, and return the target when it is back."""
    with pytest.raises(UnavailableError):
        await directory.target(delivery(clock))
    registry.is_down = False
    clock.advance(TRUSTED_SECONDS)
    target = await directory.target(delivery(clock))
    assert target is not None
    return target


async def test_gives_up_no_event_for_what_it_remembers_from_before_integrations_was_away(directory, registry, clock):
    await directory.target(delivery(clock))
    registry.is_down, registry.url = True, "https://shop.example/hooks"
    clock.advance(TRUSTED_SECONDS + 1)

    target = await target_once_integrations_can_be_asked(directory, registry, clock)
    assert target.url == registry.url


async def test_has_no_event_missed_for_a_webhook_that_was_disabled_before_integrations_was_away(
    directory, registry, clock
):
    registry.url, registry.is_enabled = "https://shop.example/hooks", False
    target = await directory.target(delivery(clock))
    assert target is not None
    assert not target.is_enabled
    registry.is_down, registry.is_enabled = True, True
    clock.advance(TRUSTED_SECONDS + 1)

    target = await target_once_integrations_can_be_asked(directory, registry, clock)
    assert target.is_enabled


async def test_brings_events_where_they_went_before_integrations_was_away(directory, registry, clock):
    registry.url = "https://shop.example/hooks"
    await directory.target(delivery(clock))
    registry.is_down = True
    clock.advance(60)

    target = await directory.target(delivery(clock))

    assert target is not None
    assert target.url == registry.url

"""The services that make up the product, by name, in the order in which they start: the one list.

A service is imported by who builds it: a process of one must not hold the libraries of the others, 50 MiB of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from servicekit.clock import Clock
from servicekit.settings import ProcessSettings, load
from services.delivery.settings import DeliverySettings
from services.ingress.settings import IngressSettings
from services.integrations.settings import IntegrationsSettings

if TYPE_CHECKING:
    from servicekit.server import Service


@dataclass(frozen=True, kw_only=True)
class Part:
    """One service: its settings, and how it is built and its schema brought up to date."""

    settings_type: type[ProcessSettings]
    build: Callable[[Clock], Awaitable[Service]]
    migrate: Callable[[], Coroutine[None, None, None]]


async def _build_integrations(clock: Clock) -> Service:
    from services.integrations import service as integrations

    return await integrations.build(load(IntegrationsSettings), clock)


async def _migrate_integrations() -> None:
    from services.integrations import maintenance
    from services.launcher import databases

    await databases.reach("integrations")
    await maintenance.migrate(load(IntegrationsSettings))


async def _build_ingress(clock: Clock) -> Service:
    from services.ingress import service as ingress

    return await ingress.build(load(IngressSettings), clock)


async def _migrate_nothing() -> None:
    """Ingress owns no table."""


async def _build_delivery(clock: Clock) -> Service:
    from services.delivery import service as delivery

    return await delivery.build(load(DeliverySettings), clock)


async def _migrate_delivery() -> None:
    from services.delivery import maintenance
    from services.launcher import databases

    await databases.reach("delivery")
    await maintenance.migrate(load(DeliverySettings))


PARTS: Final[Mapping[str, Part]] = {
    "integrations": Part(settings_type=IntegrationsSettings, build=_build_integrations, migrate=_migrate_integrations),
    "delivery": Part(settings_type=DeliverySettings, build=_build_delivery, migrate=_migrate_delivery),
    "ingress": Part(settings_type=IngressSettings, build=_build_ingress, migrate=_migrate_nothing),
}

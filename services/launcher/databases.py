"""Waits for databases on servers, and finds out whether a database is there before a command works on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import click
from sqlalchemy.engine import URL

from servicekit.database import parse_url
from servicekit.schema import BETWEEN_TRIES_SECONDS, START_SECONDS
from servicekit.settings import ENV_PREFIX, SettingsError, load
from services.delivery.settings import DeliverySettings
from services.integrations.settings import IntegrationsSettings
from services.launcher.places import of_delivery, of_integrations

_PORT: Final = 5432
_URLS: Final[Mapping[str, Callable[[], str]]] = {
    "integrations": lambda: load(IntegrationsSettings).database_url,
    "delivery": lambda: load(DeliverySettings).database_url,
}
_FILES: Final = {"integrations": of_integrations, "delivery": of_delivery}


async def require(service: str) -> None:
    """Return when the service's database is there: its file, or its server.

    A command that works on what there is would otherwise make an empty installation in the wrong folder, and nobody
    would notice. Raises NotThereError and SettingsError.
    """
    if place := _FILES[service]():
        place.require()
    else:
        await reach(service)


async def reach(service: str, *, seconds: float = START_SECONDS) -> None:
    """Wait for the server of the service's database, if it is on one, and say once what is waited for and why.

    Raises SettingsError when it can not be had within that time.
    """
    url = parse_url(_URLS[service]())
    if url.get_backend_name() != "postgresql":
        return
    # Its driver is of no use beside SQLite.
    from servicekit import postgres  # noqa: PLC0415

    deadline = asyncio.get_running_loop().time() + seconds
    at, has_said = _address(url), False
    while problem := await postgres.problem(url):
        if not has_said:
            click.echo(
                f"textway: the database of {service.capitalize()} at {at} can not be had ({problem});"
                f" it is tried again for {seconds:g} s",
                err=True,
            )
            has_said = True
        if asyncio.get_running_loop().time() > deadline:
            raise SettingsError(
                f"{ENV_PREFIX}{service.upper()}_DATABASE_URL: the database at {at} can not be had ({problem}):"
                " start PostgreSQL there, or correct the setting"
            )
        await asyncio.sleep(BETWEEN_TRIES_SECONDS)


def _address(url: URL) -> str:
    if url.host:
        return f"{url.host}:{url.port or _PORT}"
    said = url.query.get("host", "")  # the folder of a socket, or several servers
    return said if isinstance(said, str) else ", ".join(said)

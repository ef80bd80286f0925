"""Where the product keeps its databases and its key ring, by the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from servicekit.errors import ServiceError
from servicekit.settings import load
from services.delivery.settings import DeliverySettings
from services.integrations.settings import IntegrationsSettings

KEY_RING: Final = "key-ring"


class NotThereError(ServiceError):
    """A command that works on what there is has found nothing; the message says what it looked for."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file of the product, by its name in a backup."""

    name: str
    path: Path

    def require(self) -> None:
        """Raise NotThereError when there is no such file."""
        if not self.path.is_file():
            raise NotThereError(f"{self.path} is not there: has the product ever run with these settings?")


@dataclass(frozen=True, kw_only=True)
class Places:
    """What there is to back up, in the order in which it must be copied."""

    databases: tuple[Place, ...]
    key_ring: Place
    on_servers: tuple[str, ...]  # services whose database is PostgreSQL


def places() -> Places:
    """Return where everything is."""
    # Delivery first: its rows name integrations, which must be in a copy that is no older. The key ring last: it must
    # open what is in the copy, and never loses a key.
    files = {"delivery": of_delivery(), "integrations": of_integrations()}
    return Places(
        databases=tuple(place for place in files.values() if place),
        key_ring=Place(name=KEY_RING, path=load(IntegrationsSettings).key_ring_path),
        on_servers=tuple(name for name, place in files.items() if place is None),
    )


def of_delivery() -> Place | None:
    """Return where Delivery's database is; None when it is on a server."""
    return _file("delivery.db", load(DeliverySettings).database_url)


def of_integrations() -> Place | None:
    """Return where Integrations' database is; None when it is on a server."""
    return _file("integrations.db", load(IntegrationsSettings).database_url)


def _file(name: str, url: str) -> Place | None:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Place(name=name, path=Path(parsed.database))

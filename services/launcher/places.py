"""Where the product keeps its databases and its key ring, by the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from servicekit.database import parse_url
from servicekit.errors import ServiceError
from servicekit.settings import ENV_PREFIX, SettingsError, load
from services.delivery.settings import DeliverySettings
from services.integrations.settings import IntegrationsSettings

KEY_RING: Final = "key-ring"
_DATA_DIR: Final = "DATA_DIR"


class NotThereError(ServiceError):
    """A command that works on what there is has found nothing; the message says what it looked for."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file of the product, by its name in a backup."""

    name: str
    path: Path
    setting: str  # that says where it is

    def require(self) -> None:
        """Raise NotThereError when there is no such file, and SettingsError when it can not be read."""
        try:
            self.path.open("rb").close()
        except FileNotFoundError:
            raise NotThereError(f"{self.path} is not there: has the product ever run with these settings?") from None
        except OSError as error:
            raise SettingsError(f"{self.setting}: {self.path} can not be read ({error.strerror})") from None


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
        key_ring=_key_ring(load(IntegrationsSettings)),
        on_servers=tuple(name for name, place in files.items() if place is None),
    )


def of_delivery() -> Place | None:
    """Return where Delivery's database is; None when it is on a server."""
    settings = load(DeliverySettings)
    return _file("delivery", settings.database_url, is_said=bool(settings.delivery_database_url))


def of_integrations() -> Place | None:
    """Return where Integrations' database is; None when it is on a server."""
    settings = load(IntegrationsSettings)
    return _file("integrations", settings.database_url, is_said=bool(settings.integrations_database_url))


def _key_ring(settings: IntegrationsSettings) -> Place:
    setting = "KEY_RING_FILE" if settings.key_ring_file else _DATA_DIR
    return Place(name=KEY_RING, path=settings.key_ring_path, setting=f"{ENV_PREFIX}{setting}")


def _file(service: str, url: str, *, is_said: bool) -> Place | None:
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    setting = f"{service.upper()}_DATABASE_URL" if is_said else _DATA_DIR
    return Place(name=f"{service}.db", path=Path(parsed.database), setting=f"{ENV_PREFIX}{setting}")

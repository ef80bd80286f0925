"""What is done to Integrations' database before it serves, or while it does not: schema steps, and the key ring.

`textway up` waits for it at each start, so that it imports nothing that only a serving process needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from servicekit import schema, stopped_services
from servicekit.database import Database
from servicekit.settings import SettingsError
from services.integrations.key_ring import KeyRing
from services.integrations.settings import IntegrationsSettings
from services.integrations.sql_sealed import holds_secrets
from services.integrations.sql_store import SqlIntegrationStore

MIGRATIONS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = "integrations_schema_version"
# What PostgreSQL shows for the connections of a process that serves, and for those of the work here.
SERVING: Final = "textway-integrations"
MAINTAINING: Final = "textway-integrations-maintenance"

log = structlog.get_logger(__name__)


def open_database(settings: IntegrationsSettings, name: str = SERVING) -> Database:
    """Open the service's own database; raise SettingsError when it can not be."""
    return Database.open(settings.database_url, name=name)


async def migrate(settings: IntegrationsSettings) -> None:
    """Bring the schema to the newest step, and make the key ring if there is none: replicas share both.

    Raises SettingsError when the key ring does not fit the database.
    """
    from servicekit import migrations  # noqa: PLC0415  # a process that serves has no need of Alembic

    async with open_database(settings, MAINTAINING) as database:
        await migrations.migrate(database, MIGRATIONS, VERSION_TABLE)
        await open_key_ring(database, settings)


async def rotate_key_ring(settings: IntegrationsSettings) -> int:
    """Put a new key at the head of the ring and encrypt every stored secret with it; return how many there were.

    The service must not be running, because it reads the ring at its start: raises SettingsError when a connection of
    it is seen on the database, also one of a process that stands still. Old keys stay in the file, since backups of the
    database need them. A crash on the way does no harm: run it again.
    """
    async with open_database(settings, MAINTAINING) as database:
        await schema.require_usable(database, MIGRATIONS, VERSION_TABLE)
        key_ring = (await open_key_ring(database, settings)).with_new_key()
        await stopped_services.require_stopped(database, SERVING, of="Integrations")
        # The file comes first: a key that has sealed something must never be lost.
        key_ring.save(settings.key_ring_path)
        count = await SqlIntegrationStore(database, key_ring).reseal()
    log.info("key ring rotated", secrets=count)
    return count


async def open_key_ring(database: Database, settings: IntegrationsSettings) -> KeyRing:
    """Open the key ring, or make one where nothing is sealed; raise SettingsError when it does not fit the database."""
    path = settings.key_ring_path
    # A new ring in the place of a lost one would open nothing that is stored.
    key_ring = KeyRing.open(path, may_create=not await holds_secrets(database))
    unreadable = await SqlIntegrationStore(database, key_ring).count_unreadable_secrets()
    if unreadable:
        raise SettingsError(
            f"key ring {path}: it does not open {unreadable} of the stored secrets."
            " Put back the keys that they were made with, one a line, below the newest."
        )
    return key_ring

"""What is done to Delivery's database before it serves, or while it does not: schema steps, and holding the queue.

`textway up` waits for it at each start, so that it imports nothing that only a serving process needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from servicekit import schema
from servicekit.clock import Clock
from servicekit.database import Database
from services.delivery import sql_hold
from services.delivery.settings import DeliverySettings

MIGRATIONS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = "delivery_schema_version"


def open_database(settings: DeliverySettings) -> Database:
    """Open the service's own database; raise SettingsError when it can not be."""
    return Database.open(settings.database_url, name="textway-delivery")


async def migrate(settings: DeliverySettings) -> None:
    """Bring the schema to the newest step."""
    from servicekit import migrations  # noqa: PLC0415  # a process that serves has no need of Alembic

    async with open_database(settings) as database:
        await migrations.migrate(database, MIGRATIONS, VERSION_TABLE)


async def hold_queue(settings: DeliverySettings, clock: Clock) -> int:
    """Hold everything that waits or is being sent as `unknown`; return how many. Delivery must be stopped."""
    async with open_database(settings) as database:
        await schema.require_usable(database, MIGRATIONS, VERSION_TABLE)
        return await sql_hold.hold_queue(database, clock.now())

"""What is done to Delivery's database before it serves, or while it does not: schema steps, and holding the queue.

`textway up` waits for it at each start, so that it imports nothing that only a serving process needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from servicekit import schema, stopped_services
from servicekit.clock import Clock
from servicekit.database import Database
from services.delivery.settings import DeliverySettings

MIGRATIONS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = "delivery_schema_version"
# What PostgreSQL shows for the connections of a process that serves, and for those of the work here.
SERVING: Final = "textway-delivery"
MAINTAINING: Final = "textway-delivery-maintenance"


def open_database(settings: DeliverySettings, name: str = SERVING) -> Database:
    """Open the service's own database; raise SettingsError when it can not be."""
    return Database.open(settings.database_url, name=name)


async def migrate(settings: DeliverySettings) -> None:
    """Bring the schema to the newest step."""
    from servicekit import migrations  # noqa: PLC0415  # a process that serves has no need of Alembic

    async with open_database(settings, MAINTAINING) as database:
        await migrations.migrate(database, MIGRATIONS, VERSION_TABLE)


async def hold_queue(settings: DeliverySettings, clock: Clock) -> int:
    """Hold everything that waits or is being sent as `unknown`; return how many.

    Delivery must not be running, because it would go on sending what it has in hand and what comes: raises
    SettingsError when a connection of it is seen on the database.
    """
    from services.delivery import sql_hold  # noqa: PLC0415  # whoever migrates has no need of the tables' classes

    async with open_database(settings, MAINTAINING) as database:
        await schema.require_usable(database, MIGRATIONS, VERSION_TABLE)
        await stopped_services.require_stopped(database, SERVING, of="Delivery")
        return await sql_hold.hold_queue(database, clock.now())

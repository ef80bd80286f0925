"""Which tenant has sent from which number, in SQL: whose an inbound message is that answers nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from servicekit.connection import Connection
from services.delivery.sql_statements import insert_ignoring
from services.delivery.store import StartedAttempt
from services.delivery.tables import SENDERS

# There are as many as numbers and names times tenants; beyond this a process starts to remember anew.
REMEMBERED: Final = 10_000


class Sender(NamedTuple):
    """A number or name, the carrier that sends from it, and a tenant whose message that was."""

    sender: str
    carrier: str
    tenant_id: str


async def keep(
    connection: Connection, started: Sequence[StartedAttempt], *, known: frozenset[Sender]
) -> frozenset[Sender]:
    """Write the senders of attempts that are not known; return what is known once this is committed."""
    used = {Sender(each.sender, each.carrier, each.message.tenant_id) for each in started}
    if used <= known:
        return known
    # Sorted, so that no two transactions wait for each other's.
    await connection.execute(
        insert_ignoring(connection, SENDERS), [sender._asdict() for sender in sorted(used - known)]
    )
    return known | used if len(known | used) <= REMEMBERED else frozenset(used)

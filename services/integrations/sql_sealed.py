"""All that the key ring has sealed, in whatever table: whether there is any, whether it opens, and sealing it anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Column, Table, exists, or_, select, update

from servicekit.connection import Connection
from servicekit.database import Database
from services.integrations.key_ring import KeyRing, UnreadableSecretError
from services.integrations.sql_kept_answers import opens_answer, reseal_kept_answers
from services.integrations.sql_rows import AnyRow, LoadedIntegration, load_integrations, opened_secrets
from services.integrations.tables import INGRESS_KEYS, INTEGRATIONS, KEPT_ANSWERS, WEBHOOKS

# Each with the column that names a row. Kept answers are apart: three columns name one.
_SEALED: Final[tuple[tuple[Table, Column[object], Column[str]], ...]] = (
    (INTEGRATIONS, INTEGRATIONS.c.id, INTEGRATIONS.c.signing_secret_sealed),
    (INTEGRATIONS, INTEGRATIONS.c.id, INTEGRATIONS.c.old_signing_secret_sealed),
    (INGRESS_KEYS, INGRESS_KEYS.c.sha256, INGRESS_KEYS.c.key_sealed),
    (WEBHOOKS, WEBHOOKS.c.tenant_id, WEBHOOKS.c.signing_secret_sealed),
    (WEBHOOKS, WEBHOOKS.c.tenant_id, WEBHOOKS.c.old_signing_secret_sealed),
)


async def holds_secrets(database: Database) -> bool:
    """Tell whether anything is stored that only a key ring opens; this needs none."""
    async with database.read() as connection:
        secrets = or_(*(exists().select_from(table) for table in (INTEGRATIONS, WEBHOOKS, KEPT_ANSWERS)))
        return bool((await connection.execute(select(secrets))).scalar_one())


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """Every row that has a secret, still sealed."""

    integrations: Sequence[LoadedIntegration]
    webhooks: Sequence[AnyRow]
    answers: Sequence[AnyRow]


async def load_sealed(connection: Connection) -> Sealed:
    """Return everything that is sealed."""
    return Sealed(
        integrations=await load_integrations(connection),
        webhooks=(await connection.execute(select(WEBHOOKS))).all(),
        answers=(await connection.execute(select(KEPT_ANSWERS))).all(),
    )


def count_unreadable(stored: Sealed, key_ring: KeyRing) -> int:
    """Return how many integrations, webhooks and kept answers have a secret that the key ring does not open."""
    return (
        sum(not _opens(key_ring, one) for one in stored.integrations)
        + sum(not _opens_webhook(key_ring, row) for row in stored.webhooks)
        + sum(not opens_answer(key_ring, row) for row in stored.answers)
    )


async def reseal_all(connection: Connection, key_ring: KeyRing) -> int:
    """Encrypt every secret again, with the ring's first key; return how many there were."""
    count = 0
    for table, id_column, sealed in _SEALED:
        for row_id, old in (await connection.execute(select(id_column, sealed).where(sealed.is_not(None)))).all():
            values = {sealed.name: key_ring.reseal(old)}
            await connection.execute(update(table).where(id_column == row_id).values(values))
            count += 1
    return count + await reseal_kept_answers(connection, key_ring)


def _opens(key_ring: KeyRing, loaded: LoadedIntegration) -> bool:
    try:
        loaded.opened(key_ring)
    except UnreadableSecretError:
        return False
    return True


def _opens_webhook(key_ring: KeyRing, row: AnyRow) -> bool:
    try:
        opened_secrets(key_ring, row, owner=row.tenant_id)
    except UnreadableSecretError:
        return False
    return True

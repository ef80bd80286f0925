"""The processes that share a database, and what each has to know of the others' changes, in SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, true, union_all, update

from servicekit.database import Database
from servicekit.hot_statements import HotStatement, Values
from services.integrations.domain import Change
from services.integrations.key_ring import KeyRing
from services.integrations.sql_rows import CHANNEL, current_revision, load_integrations
from services.integrations.store import LeaseLostError, Node, View
from services.integrations.tables import CHANGES, INTEGRATIONS, NODES, REVISION

# Less than a lease: a node that waits for longer has lost it anyway.
PATIENCE_SECONDS: Final = 0.6

# Run three times a second for as long as the process lives, and so as cheap as can be.
_RENEWAL: Final = (
    update(NODES)
    .where(NODES.c.id == bindparam("at_id"))
    .values(renewals=NODES.c.renewals + 1, applied_revision=bindparam("to_revision"))
    .returning(NODES)
)
_RENEW: Final = HotStatement(_RENEWAL, ("at_id", "to_revision"))
# One statement, so that the count and the nodes are of one moment also where each statement has its own snapshot.
_EVERYTHING: Final = HotStatement(
    select(REVISION.c.value, NODES).select_from(REVISION.outerjoin(NODES, true())),
    (),
)
# Both at once, where a statement may change rows and read others. It reads them as they were before, but for its own.
_OTHERS: Final = select(NODES).where(NODES.c.id != bindparam("at_id"))
_RENEWED: Final = union_all(select(_RENEWAL.cte("renewed")), _OTHERS).subquery()
_RENEW_AND_LOOK: Final = HotStatement(
    select(REVISION.c.value, _RENEWED).select_from(REVISION.outerjoin(_RENEWED, true())), ("at_id", "to_revision")
)


class SqlNodeStore:
    """A NodeStore on a Database."""

    def __init__(self, database: Database, key_ring: KeyRing) -> None:
        self._database = database
        self._key_ring = key_ring

    async def join(self, node_id: str, *, instead_of: str | None = None) -> View:
        """See NodeStore."""
        async with self._database.write(patience_seconds=PATIENCE_SECONDS) as connection:
            await connection.execute(delete(NODES).where(NODES.c.id == instead_of))
            await connection.execute(insert(NODES).values(id=node_id, renewals=0, applied_revision=0))
        # Only after the commit: whoever commits a change from now on sees the node.
        return await self.look()

    async def renew(self, node_id: str, applied_revision: int, *, is_news: bool) -> View:
        """See NodeStore."""
        if not is_news and not self._database.is_exclusive:
            rows = await self._database.step(
                _RENEW_AND_LOOK, node_id, applied_revision, patience_seconds=PATIENCE_SECONDS
            )
            view = _view(rows)
            if all(node.id != node_id for node in view.nodes):
                raise LeaseLostError
            return view
        async with self._database.write(patience_seconds=PATIENCE_SECONDS) as connection:
            if not await _RENEW.rows(connection, node_id, applied_revision):
                raise LeaseLostError
            if is_news:
                await connection.execute(select(func.pg_notify(CHANNEL, node_id)))
            return _view(await _EVERYTHING.rows(connection))

    async def look(self) -> View:
        """See NodeStore."""
        return _view(await self._database.look(_EVERYTHING, patience_seconds=PATIENCE_SECONDS))

    async def remove(self, node: Node) -> None:
        """See NodeStore."""
        unchanged = (NODES.c.id == node.id) & (NODES.c.renewals == node.renewals)
        async with self._database.write(patience_seconds=PATIENCE_SECONDS) as connection:
            await connection.execute(delete(NODES).where(unchanged))

    async def leave(self, node_id: str) -> None:
        """See NodeStore."""
        async with self._database.write(patience_seconds=PATIENCE_SECONDS) as connection:
            await connection.execute(delete(NODES).where(NODES.c.id == node_id))
            await connection.execute(select(func.pg_notify(CHANNEL, node_id)))

    async def changes_after(self, revision: int) -> Change | None:
        """See NodeStore."""
        async with self._database.read(patience_seconds=PATIENCE_SECONDS) as connection:
            newest = await current_revision(connection)
            logged = (await connection.execute(select(CHANGES).where(CHANGES.c.revision > revision))).all()
            if len(logged) != newest - revision:
                return None
            loaded = await load_integrations(connection, INTEGRATIONS.c.revision > revision)
        return Change(
            revision=newest,
            changed=[one.opened(self._key_ring) for one in loaded],
            deleted_ids=[row.deleted_id for row in logged if row.deleted_id],
        )

    async def listen(self, heard: Callable[[str], None]) -> None:
        """See NodeStore."""
        await self._database.listen(CHANNEL, heard)


def _view(rows: Sequence[Values]) -> View:
    nodes = [
        Node(id=node_id, renewals=renewals, applied_revision=applied_revision)
        for _, node_id, renewals, applied_revision in rows
        if node_id is not None
    ]
    return View(revision=rows[0][0], nodes=nodes)

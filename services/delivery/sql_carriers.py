"""Carriers in SQL: how they are, and how far their limits are used up, for all processes together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, select, tuple_, update

from servicekit.clock import from_microseconds, from_milliseconds, to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.hot_statements import HotStatement
from services.delivery.domain import REASON_BY_CODE, Failure
from services.delivery.pacing import Limits, Line, Pace, Wish, lines_of, next_slots
from services.delivery.sql_statements import insert_ignoring
from services.delivery.store import Breaker, CarrierCondition
from services.delivery.tables import CARRIERS, PACES

_STATES: Final = HotStatement(select(CARRIERS), ())
_UPDATE_PACE: Final = (
    update(PACES)
    .where(PACES.c.carrier == bindparam("at_carrier"), PACES.c.sender == bindparam("at_sender"))
    .values(next_us=bindparam("to_next_us"), planned_us=bindparam("to_planned_us"))
)


class SqlCarrierStore:
    """Keeps the guarantees of `store.CarrierStore` on a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def states(self) -> dict[str, CarrierCondition]:
        """Read all rows: there are as many as carriers."""
        found = [_condition(row) for row in await self._database.look(_STATES)]
        return {each.name: each for each in found}

    async def change(self, name: str, change: Callable[[CarrierCondition], CarrierCondition]) -> CarrierCondition:
        """Make the row if there is none, lock it, and write what becomes of it."""
        async with self._database.write() as connection:
            await connection.execute(insert_ignoring(connection, CARRIERS), [_row(CarrierCondition(name=name))])
            row = (await connection.execute(select(CARRIERS).where(CARRIERS.c.name == name).with_for_update())).one()
            changed = change(_condition(row))
            await connection.execute(update(CARRIERS).where(CARRIERS.c.name == name).values(**_row(changed)))
            return changed

    async def take_slots(self, wishes: Sequence[Wish], limits: Mapping[str, Limits], now: datetime) -> list[datetime]:
        """Move the lines under their locks."""
        lines = lines_of(wishes, limits)
        async with self._database.write() as connection:
            before = await lock_lines(connection, sorted(lines)) if lines else {}
            found, after = next_slots(wishes, limits, before, to_milliseconds(now) * 1000)
            await move_lines(connection, before, list(after.items()))
        return [from_microseconds(at) for at in found]


async def lock_lines(connection: Connection, lines: Sequence[Line]) -> dict[Line, Pace]:
    """Lock lines of slots, in one order everywhere; one that is new is empty."""
    ordered = sorted(lines)
    await connection.execute(
        insert_ignoring(connection, PACES),
        [{"carrier": carrier, "sender": sender, "next_us": 0, "planned_us": 0} for carrier, sender in ordered],
    )
    found = await connection.execute(
        select(PACES)
        .where(tuple_(PACES.c.carrier, PACES.c.sender).in_(ordered))
        .order_by(PACES.c.carrier, PACES.c.sender)
        .with_for_update()
    )
    return {Line(row.carrier, row.sender): Pace(next_us=row.next_us, planned_us=row.planned_us) for row in found}


async def move_lines(connection: Connection, before: dict[Line, Pace], after: Sequence[tuple[Line, Pace]]) -> None:
    """Write the lines that have changed."""
    changed = [
        {
            "at_carrier": line.carrier,
            "at_sender": line.sender,
            "to_next_us": pace.next_us,
            "to_planned_us": pace.planned_us,
        }
        for line, pace in after
        if before[line] != pace
    ]
    if changed:
        await connection.execute(_UPDATE_PACE, changed)


def _row(state: CarrierCondition) -> dict[str, object]:
    return {
        "name": state.name,
        "breaker": state.breaker.value,
        "open_until_ms": _or_zero(state.open_until),
        "times_opened": state.times_opened,
        "paused_until_ms": _or_zero(state.paused_until),
        "slowed_at_ms": _or_zero(state.slowed_at),
        "rate_factor": state.rate_factor,
        "error_reason": state.error.reason.code if state.error else "",
        "error_detail": state.error_detail,
        "error_at_ms": _or_zero(state.error_at),
    }


def _condition(row: Sequence[Any]) -> CarrierCondition:
    """Return what is in a row, in the order of the table's columns."""
    name, breaker, open_until_ms, times_opened, paused_until_ms, slowed_at_ms, rate_factor, *error = row
    reason, detail, error_at_ms = error
    return CarrierCondition(
        name=name,
        breaker=Breaker(breaker),
        open_until=_or_none(open_until_ms),
        times_opened=times_opened,
        paused_until=_or_none(paused_until_ms),
        slowed_at=_or_none(slowed_at_ms),
        rate_factor=rate_factor,
        error=Failure(reason=REASON_BY_CODE[reason]) if reason else None,
        error_detail=detail,
        error_at=_or_none(error_at_ms),
    )


def _or_zero(moment: datetime | None) -> int:
    return 0 if moment is None else to_milliseconds(moment)


def _or_none(milliseconds: int) -> datetime | None:
    return from_milliseconds(milliseconds) if milliseconds else None

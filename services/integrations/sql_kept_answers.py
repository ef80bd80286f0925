"""The first answers of repeatable calls, in SQL: a primary key decides which call is the first."""

from __future__ import annotations

import base64
from typing import Final

from sqlalchemy import delete, select, tuple_, update

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.errors import IdempotencyMismatchError
from servicekit.idempotency import KEPT
from services.integrations.domain import KeptAnswer, RepeatableCall
from services.integrations.key_ring import KeyRing, UnreadableSecretError
from services.integrations.sql_rows import AnyRow, insert_where_none_is
from services.integrations.store import AnsweredBeforeError
from services.integrations.tables import KEPT_ANSWERS

_ID: Final = (KEPT_ANSWERS.c.tenant_id, KEPT_ANSWERS.c.operation, KEPT_ANSWERS.c.idempotency_key)


async def keep_or_repeat(connection: Connection, key_ring: KeyRing, kept: KeptAnswer) -> None:
    """Keep an answer; raise AnsweredBeforeError or IdempotencyMismatchError when one is kept for its call already.

    Two transactions with the same call take turns: on SQLite there is one writer, and on PostgreSQL the second insert
    waits for the end of the first one's transaction.
    """
    now_ms = to_milliseconds(kept.answered_at)
    # Here and nowhere else: whoever keeps an answer makes room for it, so that nothing has to run in the background.
    forgotten = KEPT_ANSWERS.c.answered_at_ms <= to_milliseconds(kept.answered_at - KEPT)
    await connection.execute(delete(KEPT_ANSWERS).where(forgotten))
    row = {**_row_id(kept.call), "answer_sealed": _sealed(key_ring, kept), "answered_at_ms": now_ms}
    insert = insert_where_none_is(connection, KEPT_ANSWERS, row, unique=_ID)
    if (await connection.execute(insert.returning(*_ID))).first() is None:
        sealed = select(KEPT_ANSWERS.c.answer_sealed).filter_by(**_row_id(kept.call))
        raise _first_answer(key_ring, kept.call, (await connection.execute(sealed)).scalar_one())


async def reseal_kept_answers(connection: Connection, key_ring: KeyRing) -> int:
    """Encrypt every kept answer again, with the ring's first key; return how many there were."""
    rows = (await connection.execute(select(KEPT_ANSWERS))).all()
    for row in rows:
        resealed = update(KEPT_ANSWERS).where(tuple_(*_ID) == tuple(row[:3]))
        await connection.execute(resealed.values(answer_sealed=key_ring.reseal(row.answer_sealed)))
    return len(rows)


def opens_answer(key_ring: KeyRing, row: AnyRow) -> bool:
    """Tell whether the key ring opens a kept answer."""
    try:
        key_ring.open_sealed(row.answer_sealed, owner=_owner(row.tenant_id, row.operation, row.idempotency_key))
    except UnreadableSecretError:
        return False
    return True


def _sealed(key_ring: KeyRing, kept: KeptAnswer) -> str:
    # The request's hash goes in with the answer: a short signing secret could be guessed from it.
    secret = f"{kept.call.request_sha256.hex()} {base64.b64encode(kept.answer).decode()}"
    return key_ring.seal(secret, owner=_owner(*_row_id(kept.call).values()))


def _first_answer(key_ring: KeyRing, call: RepeatableCall, sealed: str) -> Exception:
    opened = key_ring.open_sealed(sealed, owner=_owner(*_row_id(call).values()))
    request_sha256, _, answer = opened.partition(" ")
    if bytes.fromhex(request_sha256) != call.request_sha256:
        return IdempotencyMismatchError()
    return AnsweredBeforeError(base64.b64decode(answer))


def _row_id(call: RepeatableCall) -> dict[str, str]:
    return {"tenant_id": call.tenant_id, "operation": call.operation, "idempotency_key": call.key}


def _owner(tenant_id: str, operation: str, key: str) -> str:
    return f"{tenant_id} {operation} {key}"

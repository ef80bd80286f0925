"""Keys that make repeats known, in SQL: a primary key decides who holds one, inside the storing transaction."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Executable, Row, bindparam, delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from servicekit.clock import to_milliseconds
from services.delivery.domain import DedupeKey, IdempotencyKey, NewMessage
from services.delivery.tables import KEYS

SHARDS: Final = 32
BATCH_PREFIX: Final = "bat_"

_REPOINT: Final = (
    update(KEYS)
    .where(
        KEYS.c.shard == bindparam("at_shard"), KEYS.c.scope == bindparam("at_scope"), KEYS.c.key == bindparam("at_key")
    )
    .values(message_id=bindparam("to_message_id"), duplicate=True)
)

KeyId = tuple[int, str, str]


def _claiming(insert: postgresql.Insert | sqlite.Insert) -> Executable:
    taken = ("request_sha256", "message_id", "duplicate", "expires_at_ms")
    return insert.on_conflict_do_update(
        index_elements=[KEYS.c.shard, KEYS.c.scope, KEYS.c.key],
        set_={name: insert.excluded[name] for name in taken},
        where=KEYS.c.expires_at_ms <= bindparam("now_ms"),
    )


# Run with a list of rows, each of which is one short statement: PostgreSQL takes seconds
# for one of seven thousand parameters.
_CLAIMS: Final = {
    "postgresql": _claiming(postgresql.insert(KEYS)),
    "sqlite": _claiming(sqlite.insert(KEYS)),
}


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """A message that is a repeat: of which one, and by which of the two words."""

    first_id: str
    replayed: bool = False
    duplicate: bool = False
    mismatch: bool = False
    batch_id: str = ""  # of the first batch with its key


async def repeats(connection: AsyncConnection, messages: Sequence[NewMessage], now_ms: int) -> dict[str, Repeat]:
    """Claim the messages' keys; return those of the messages, by id, that are repeats.

    A repeat that its dedupe rule only annotates is to be stored all the same. Concurrent transactions with the same key
    wait here for each other, on SQLite for the write lock and on PostgreSQL for the row.
    """
    held = await _claim(connection, [_request_row(m, m.idempotency) for m in messages if m.idempotency], now_ms)
    found: dict[str, Repeat] = {}
    for message in messages:
        if message.idempotency:
            holder = held[_idempotency_id(message.idempotency)]
            if holder.message_id != _claimant(message, message.idempotency):
                found[message.id] = Repeat(
                    first_id=holder.message_id,
                    replayed=True,
                    duplicate=holder.duplicate,
                    mismatch=holder.request_sha256 != message.idempotency.request_sha256
                    or holder.is_batch != bool(message.idempotency.batch),
                )
    await _find_places(connection, messages, found, now_ms)
    await _dedupe(connection, [message for message in messages if message.id not in found], found, now_ms)
    return found


async def known_request(connection: AsyncConnection, key: IdempotencyKey, now_ms: int) -> Repeat | None:
    """Return of what a request is a repeat; None for a new one. The caller holds a lock that repeats wait for."""
    shard, scope, text = _idempotency_id(key)
    found = await connection.execute(
        select(KEYS).where(
            KEYS.c.shard == shard, KEYS.c.scope == scope, KEYS.c.key == text, KEYS.c.expires_at_ms > now_ms
        )
    )
    row = found.first()
    if row is None:
        return None
    return Repeat(first_id=row.message_id, replayed=True, mismatch=row.request_sha256 != key.request_sha256)


async def remember_request(connection: AsyncConnection, key: IdempotencyKey, message_id: str, now_ms: int) -> None:
    """Let later requests with this key be known as repeats."""
    await _claim(connection, [_row(_idempotency_id(key), message_id, key.request_sha256, key.expires_at)], now_ms)


async def remove_expired(connection: AsyncConnection, now_ms: int, limit: int) -> int:
    """Delete keys that count no more, at most so many; return how many."""
    found = await connection.execute(
        select(KEYS.c.shard, KEYS.c.scope, KEYS.c.key).where(KEYS.c.expires_at_ms <= now_ms).limit(limit)
    )
    expired = [tuple(row) for row in found]
    if expired:
        await connection.execute(
            delete(KEYS).where(
                tuple_(KEYS.c.shard, KEYS.c.scope, KEYS.c.key).in_(expired), KEYS.c.expires_at_ms <= now_ms
            )
        )
    return len(expired)


@dataclass(frozen=True, kw_only=True)
class _Holder:
    message_id: str
    request_sha256: bytes
    duplicate: bool

    @property
    def is_batch(self) -> bool:
        return self.message_id.startswith(BATCH_PREFIX)


async def _find_places(
    connection: AsyncConnection, messages: Sequence[NewMessage], found: dict[str, Repeat], now_ms: int
) -> None:
    """Claim each place of new batches; say for each place of a repeated one which message the first has there.

    A batch whose key is held stores nothing, also at a place that the first did not have: an integration's mapping may
    have changed in between.
    """
    batched = [message for message in messages if message.idempotency and message.idempotency.batch]
    fresh = [message for message in batched if message.id not in found]
    await _claim(connection, [_place_row(m, m.idempotency) for m in fresh if m.idempotency], now_ms)
    places = {message.id: _place_id(message.idempotency) for message in batched if message.idempotency}
    held = await _holders(connection, [places[message.id] for message in batched if message.id in found])
    for message in batched:
        repeat = found.get(message.id)
        if repeat and not repeat.mismatch:
            first = held.get(places[message.id])
            found[message.id] = Repeat(
                first_id=first.message_id if first else repeat.first_id,
                replayed=True,
                duplicate=bool(first and first.duplicate),
                mismatch=first is None,
                batch_id=repeat.first_id,
            )


async def _dedupe(
    connection: AsyncConnection, messages: Sequence[NewMessage], found: dict[str, Repeat], now_ms: int
) -> None:
    held = await _claim(connection, [_meaning_row(m, m.dedupe) for m in messages if m.dedupe], now_ms)
    repointed: list[dict[str, object]] = []
    for message in messages:
        if message.dedupe is None:
            continue
        holder = held[_dedupe_id(message.dedupe)]
        if holder.message_id == message.id:
            continue
        found[message.id] = Repeat(first_id=holder.message_id, duplicate=True)
        if message.idempotency:
            # A replay of this request is to get the same answer again.
            answer_id = holder.message_id if message.dedupe.suppresses else message.id
            request = message.idempotency
            shard, scope, key = _place_id(request) if request.batch else _idempotency_id(request)
            repointed.append({"at_shard": shard, "at_scope": scope, "at_key": key, "to_message_id": answer_id})
    if repointed:
        await connection.execute(_REPOINT, repointed)


async def _claim(connection: AsyncConnection, wanted: Sequence[dict[str, object]], now_ms: int) -> dict[KeyId, _Holder]:
    """Insert the keys that nobody holds, for the first that wants each; return who holds them."""
    if not wanted:
        return {}
    first = {(row["shard"], row["scope"], row["key"]): row for row in reversed(wanted)}
    # In one order everywhere, or two transactions could each wait for a key of the other.
    key_ids = sorted(first)
    claim = _CLAIMS[connection.dialect.name]
    await connection.execute(claim, [{**first[key_id], "now_ms": now_ms} for key_id in key_ids])
    return await _holders(connection, key_ids)


async def _holders(
    connection: AsyncConnection, key_ids: Sequence[tuple[object, object, object]]
) -> dict[KeyId, _Holder]:
    if not key_ids:
        return {}
    found = await connection.execute(select(KEYS).where(tuple_(KEYS.c.shard, KEYS.c.scope, KEYS.c.key).in_(key_ids)))
    return {(row.shard, row.scope, row.key): _holder(row) for row in found}


def _holder(row: Row[Any]) -> _Holder:
    return _Holder(message_id=row.message_id, request_sha256=row.request_sha256, duplicate=row.duplicate)


def _request_row(message: NewMessage, key: IdempotencyKey) -> dict[str, object]:
    return _row(_idempotency_id(key), _claimant(message, key), key.request_sha256, key.expires_at)


def _claimant(message: NewMessage, key: IdempotencyKey) -> str:
    # The request's own key is held by the batch, and each of the batch's places by a message.
    return key.batch.batch_id if key.batch else message.id


def _place_row(message: NewMessage, key: IdempotencyKey) -> dict[str, object]:
    return _row(_place_id(key), message.id, key.request_sha256, key.expires_at)


def _meaning_row(message: NewMessage, key: DedupeKey) -> dict[str, object]:
    return _row(_dedupe_id(key), message.id, b"", key.expires_at)


def _row(key_id: KeyId, message_id: str, request_sha256: bytes, expires_at: datetime) -> dict[str, object]:
    shard, scope, key = key_id
    return {
        "shard": shard,
        "scope": scope,
        "key": key,
        "request_sha256": request_sha256,
        "message_id": message_id,
        "duplicate": False,
        "expires_at_ms": to_milliseconds(expires_at),
    }


def _idempotency_id(key: IdempotencyKey) -> KeyId:
    return _key_id(f"request/{key.scope}", key.key)


def _place_id(key: IdempotencyKey) -> KeyId:
    place = key.batch.place if key.batch else 0
    return _key_id(f"place/{key.scope}", f"{place}/{key.key}")


def _dedupe_id(key: DedupeKey) -> KeyId:
    return _key_id(f"meaning/{key.scope}", key.value)


def _key_id(scope: str, key: str) -> KeyId:
    # By a hash that is the same for ever: how many shards messages have may change, where a key is found may not.
    return zlib.crc32(f"{scope}\n{key}".encode()) % SHARDS, scope, key

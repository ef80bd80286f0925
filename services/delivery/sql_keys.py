"""Keys that make repeats known, in SQL: a primary key decides who holds one, inside the storing transaction."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import (
    JSON,
    Executable,
    SmallInteger,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
    tuple_,
    update,
)

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.hot_statements import HotStatement, insert_for
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

_COLUMNS: Final = tuple(column.name for column in KEYS.columns)
_TOLD: Final = (KEYS.c.shard, KEYS.c.scope, KEYS.c.key, KEYS.c.message_id, KEYS.c.request_sha256, KEYS.c.duplicate)


def _take_free(engine: str) -> Executable:
    wanted = insert_for(engine, KEYS).values({name: bindparam(name) for name in _COLUMNS})
    taking: Executable = wanted.on_conflict_do_update(
        index_elements=[KEYS.c.shard, KEYS.c.scope, KEYS.c.key],
        set_={name: wanted.excluded[name] for name in ("request_sha256", "message_id", "duplicate", "expires_at_ms")},
        where=KEYS.c.expires_at_ms <= bindparam("now_ms"),
    )
    return taking


def _holding(engine: str) -> Executable:
    # The keys come as one JSON array of arrays, and each is found by the primary key.
    if engine == "postgresql":
        listed = func.json_array_elements(cast(bindparam("keys", type_=Text), JSON))
        wanted = listed.table_valued("value").render_derived()
    else:
        wanted = func.json_each(bindparam("keys")).table_valued("value")
    shard, scope, key = (wanted.c.value.op("->>")(literal_column(place)) for place in "012")
    return select(*_TOLD).where(KEYS.c.shard == cast(shard, SmallInteger), KEYS.c.scope == scope, KEYS.c.key == key)


_TAKE_FREE: Final = HotStatement(_take_free, (*_COLUMNS, "now_ms"))
_HOLDERS: Final = HotStatement(_holding, ("keys",))

KeyId = tuple[int, str, str]
Row = tuple[int, str, str, bytes, str, bool, int]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """A message that is a repeat: of which one, and by which of the two words."""

    first_id: str
    replayed: bool = False
    duplicate: bool = False
    mismatch: bool = False
    batch_id: str = ""  # of the first batch with its key


async def repeats(connection: Connection, messages: Sequence[NewMessage], now_ms: int) -> dict[str, Repeat]:
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


async def known_request(connection: Connection, key: IdempotencyKey, now_ms: int) -> Repeat | None:
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
    return Repeat(
        first_id=row.message_id,
        replayed=True,
        duplicate=bool(row.duplicate),
        mismatch=row.request_sha256 != key.request_sha256,
    )


async def remember_request(connection: Connection, key: IdempotencyKey, message_id: str, now_ms: int) -> None:
    """Let later requests with this key be known as repeats."""
    await _claim(connection, [_row(_idempotency_id(key), message_id, key.request_sha256, key.expires_at)], now_ms)


async def remove_expired(connection: Connection, now_ms: int, limit: int) -> int:
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
    connection: Connection, messages: Sequence[NewMessage], found: dict[str, Repeat], now_ms: int
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
    connection: Connection, messages: Sequence[NewMessage], found: dict[str, Repeat], now_ms: int
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


async def _claim(connection: Connection, wanted: Sequence[Row], now_ms: int) -> dict[KeyId, _Holder]:
    """Insert the keys that nobody holds, for the first that wants each; return who holds them."""
    if not wanted:
        return {}
    first: dict[KeyId, Row] = {row[:3]: row for row in reversed(wanted)}
    # In one order everywhere, or two transactions could each wait for a key of the other.
    key_ids = sorted(first)
    await _TAKE_FREE.each(connection, [(*first[key_id], now_ms) for key_id in key_ids])
    return await _holders(connection, key_ids)


async def _holders(connection: Connection, key_ids: Sequence[KeyId]) -> dict[KeyId, _Holder]:
    if not key_ids:
        return {}
    return {
        (shard, scope, key): _Holder(message_id=message_id, request_sha256=request_sha256, duplicate=bool(duplicate))
        for shard, scope, key, message_id, request_sha256, duplicate in await _HOLDERS.rows(
            connection, json.dumps(key_ids)
        )
    }


def _request_row(message: NewMessage, key: IdempotencyKey) -> Row:
    return _row(_idempotency_id(key), _claimant(message, key), key.request_sha256, key.expires_at)


def _claimant(message: NewMessage, key: IdempotencyKey) -> str:
    # The request's own key is held by the batch, and each of the batch's places by a message.
    return key.batch.batch_id if key.batch else message.id


def _place_row(message: NewMessage, key: IdempotencyKey) -> Row:
    return _row(_place_id(key), message.id, key.request_sha256, key.expires_at)


def _meaning_row(message: NewMessage, key: DedupeKey) -> Row:
    return _row(_dedupe_id(key), message.id, b"", key.expires_at)


def _row(key_id: KeyId, message_id: str, request_sha256: bytes, expires_at: datetime) -> Row:
    return (*key_id, request_sha256, message_id, False, to_milliseconds(expires_at))


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

"""What a person decides about a message, in SQL: it is not to go, or what became of it when nobody else knows."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import insert

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from services.delivery import rows, sql_keys, sql_messages, sql_queue
from services.delivery.domain import (
    RESOLVED_STATUS,
    IdempotencyKey,
    Message,
    OnUnknown,
    Resolution,
    Status,
    shard_of,
)
from services.delivery.fair_order import lane_of
from services.delivery.sql_queue import Entry
from services.delivery.sql_statements import LEAVE_QUEUE, UPDATE_MESSAGE, at
from services.delivery.store import CancelResult, ResolveResult
from services.delivery.tables import RESOLUTIONS


async def cancel(
    connection: Connection, tenant_id: str, message_id: str, now_ms: int, idempotency: IdempotencyKey | None
) -> CancelResult:
    """Cancel a message that no attempt has begun for, under the lock that a claim takes too."""
    message = await _locked(connection, tenant_id, message_id)
    if message is None:
        return CancelResult.NOT_FOUND
    if idempotency and (repeat := await sql_keys.known_request(connection, idempotency, now_ms)):
        return CancelResult.MISMATCH if repeat.mismatch else CancelResult.REPLAYED
    if message.status is not Status.QUEUED or message.attempts:
        return CancelResult.BEGUN
    await connection.execute(
        UPDATE_MESSAGE.values(status=Status.CANCELED.value, updated_at_ms=now_ms),
        [at(message_id)],
    )
    await LEAVE_QUEUE.each(connection, [(shard_of(message_id), message_id)])
    if idempotency:
        await sql_keys.remember_request(connection, idempotency, message_id, now_ms)
    return CancelResult.CANCELED


async def resolve(
    connection: Connection,
    tenant_id: str,
    message_id: str,
    resolution: Resolution,
    *,
    now_ms: int,
    idempotency: IdempotencyKey | None,
    queue_of: Callable[[Message], str],
) -> ResolveResult:
    """Settle or requeue a held message, under its lock. `queue_of` names the queue that it goes back to."""
    message = await _locked(connection, tenant_id, message_id)
    if message is None:
        return ResolveResult.NOT_FOUND
    if idempotency and (repeat := await sql_keys.known_request(connection, idempotency, now_ms)):
        return ResolveResult.MISMATCH if repeat.mismatch else ResolveResult.REPLAYED
    if message.status is not Status.UNKNOWN:
        return ResolveResult.NOT_HELD
    changes: dict[str, object] = {"status": RESOLVED_STATUS[resolution].value, "updated_at_ms": now_ms}
    if resolution is Resolution.SENT:
        changes |= {"sent_at_ms": now_ms, **rows.failure_columns(None)}
    if resolution is Resolution.RESEND:
        # The operator has decided: from now on this one message is to be sent, whatever the policy was.
        changes |= {"on_unknown": OnUnknown.RESEND.value}
        lane = lane_of(message.integration_id or message.tenant_id, message.priority)
        entries = [Entry(message_id, queue_of(message), lane, now_ms)]
        await sql_queue.enter(connection, entries, await sql_queue.look(connection, entries))
    await connection.execute(UPDATE_MESSAGE.values(**changes), [at(message_id)])
    await connection.execute(
        insert(RESOLUTIONS).values(
            shard=shard_of(message_id),
            message_id=message_id,
            resolved_at_ms=now_ms,
            held_at_ms=to_milliseconds(message.updated_at),
            resolution=resolution.value,
        )
    )
    if idempotency:
        await sql_keys.remember_request(connection, idempotency, message_id, now_ms)
    return ResolveResult.RESOLVED


async def _locked(connection: Connection, tenant_id: str, message_id: str) -> Message | None:
    """Return the tenant's message, under its lock and that of its place in the queue, in the order of claims."""
    await sql_queue.lock(connection, [message_id])
    return await sql_messages.one(connection, tenant_id, message_id, for_update=True)

"""Receipts in SQL: found to be about a message or a part of it, stored once, and their messages moved forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func, literal_column, select, union_all, update

from servicekit.connection import Connection
from servicekit.hot_statements import HotStatement, inserting, one_of
from servicekit.ids import is_id
from services.delivery import rows, sql_ledger, sql_opt_outs, sql_parked_receipts, sql_queue
from services.delivery.domain import FailureReason, Outcome, Receipt, Status, shard_of
from services.delivery.receipt_rules import OVER, Place, Standing, after_receipt
from services.delivery.sql_opt_outs import Refused
from services.delivery.sql_statements import LEAVE_QUEUE, UPDATE_MESSAGE, shards_of
from services.delivery.store import ReceiptResult
from services.delivery.tables import ATTEMPTS, MESSAGES, PARTS, RECEIPTS, RESOLUTIONS

_MOVE_MESSAGE: Final = HotStatement(
    UPDATE_MESSAGE.values(
        status=bindparam("to_status"),
        failure_reason=bindparam("to_reason"),
        failure_code=bindparam("to_code"),
        updated_at_ms=bindparam("to_updated_at_ms"),
        sent_at_ms=func.coalesce(MESSAGES.c.sent_at_ms, bindparam("to_updated_at_ms")),
        delivered_at_ms=func.coalesce(bindparam("to_delivered_at_ms"), MESSAGES.c.delivered_at_ms),
    ),
    ("at_shard", "at_id", "to_status", "to_reason", "to_code", "to_updated_at_ms", "to_delivered_at_ms"),
)
_MOVE_PART: Final = HotStatement(
    update(PARTS)
    .where(
        PARTS.c.shard == bindparam("at_shard"),
        PARTS.c.message_id == bindparam("at_id"),
        PARTS.c.attempt == bindparam("at_attempt"),
        PARTS.c.part == bindparam("at_part"),
    )
    .values(status=bindparam("to_status")),
    ("at_shard", "at_id", "at_attempt", "at_part", "to_status"),
)
_BY_ID: Final = HotStatement(
    union_all(
        select(ATTEMPTS.c.carrier_message_id, ATTEMPTS.c.message_id, ATTEMPTS.c.number, literal_column("0")).where(
            ATTEMPTS.c.carrier == bindparam("carrier"),
            one_of(ATTEMPTS.c.carrier_message_id, "ids"),
            ATTEMPTS.c.carrier_message_id != literal_column("''"),  # as the partial index has it
        ),
        select(PARTS.c.carrier_message_id, PARTS.c.message_id, PARTS.c.attempt, PARTS.c.part).where(
            PARTS.c.carrier == bindparam("carrier"), one_of(PARTS.c.carrier_message_id, "ids")
        ),
    ),
    ("carrier", "ids"),
)
_LOCK_MESSAGES: Final = HotStatement(
    select(MESSAGES.c.id, MESSAGES.c.status, MESSAGES.c.segments, MESSAGES.c.updated_at_ms)
    .where(one_of(MESSAGES.c.shard, "shards"), one_of(MESSAGES.c.id, "ids"))
    .order_by(MESSAGES.c.id)
    .with_for_update(),
    ("shards", "ids"),
)
_ATTEMPTS_OF: Final = HotStatement(
    select(
        ATTEMPTS.c.message_id,
        ATTEMPTS.c.number,
        ATTEMPTS.c.carrier,
        ATTEMPTS.c.outcome,
        ATTEMPTS.c.carrier_message_id,
    ).where(one_of(ATTEMPTS.c.shard, "shards"), one_of(ATTEMPTS.c.message_id, "ids")),
    ("shards", "ids"),
)
_PARTS_OF: Final = HotStatement(
    select(PARTS.c.message_id, PARTS.c.attempt, PARTS.c.part, PARTS.c.status).where(
        one_of(PARTS.c.shard, "shards"), one_of(PARTS.c.message_id, "ids")
    ),
    ("shards", "ids"),
)
_RECEIPTS_OF: Final = HotStatement(
    select(RECEIPTS.c.message_id, RECEIPTS.c.attempt, RECEIPTS.c.part, RECEIPTS.c.status).where(
        one_of(RECEIPTS.c.shard, "shards"), one_of(RECEIPTS.c.message_id, "ids")
    ),
    ("shards", "ids"),
)
_RECORD: Final = inserting(RECEIPTS)
_SETTLE_HELD: Final = inserting(RESOLUTIONS)

# What carriers' own ids stand for, by carrier and id, as far as that is on disk.
PlacesById = dict[tuple[str, str], list[Place]]


class KnownAttempt(NamedTuple):
    """What is known of an attempt that a receipt may be about."""

    carrier: str
    outcome: Outcome
    carrier_id: str  # the carrier's own for the message; empty when it did not tell


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a message that a receipt may be about."""

    status: Status
    is_long: bool  # so that a carrier may take it in parts
    updated_at_ms: int  # of one that is held, when that began
    attempts: Mapping[int, KnownAttempt]  # by number

    @property
    def outcomes(self) -> Mapping[int, Outcome]:
        """The outcome of each attempt, by its number."""
        return {number: each.outcome for number, each in self.attempts.items()}

    def attempts_of(self, carrier: str) -> list[int]:
        """Return the numbers of a carrier's attempts."""
        return [number for number, each in self.attempts.items() if each.carrier == carrier]

    def meant_by(self, receipt: Receipt) -> int | None:
        """Return the newest attempt that a receipt of its carrier can be about; None when that has made none.

        One that tells its attempt is about that. One with another id than an attempt's is about another attempt, as
        long as there is one without an id of which anything may have arrived.
        """
        attempts = self.attempts_of(receipt.carrier)
        if receipt.attempt in attempts:
            return receipt.attempt
        if not receipt.carrier_message_id:
            return max(attempts, default=None)
        known = ((number, self.attempts[number]) for number in attempts)
        nameless = [number for number, each in known if not each.carrier_id and each.outcome not in OVER]
        return max(nameless or attempts, default=None)

    def has_to_wait(self, receipt: Receipt) -> bool:
        """Tell whether a receipt with an id that nobody knows waits for those of an attempt of its carrier under way.

        It may be about a part. And `undelivered` may be the word on an older attempt; all else says the same of the
        message whichever attempt it is about, and must keep it from being sent again should this one be cut off.
        """
        attempts = [self.attempts[number] for number in self.attempts_of(receipt.carrier)]
        may_arrive = [each for each in attempts if each.outcome not in OVER]
        may_be_anothers = self.is_long or (receipt.status is Status.UNDELIVERED and len(may_arrive) > 1)
        return may_be_anothers and any(each.outcome is Outcome.STARTED for each in attempts)


class Placed(NamedTuple):
    """A receipt with what it is about."""

    receipt: Receipt
    place: Place
    attempt: int  # the one that it speaks for


async def take_in(connection: Connection, receipts: Sequence[Receipt]) -> tuple[list[ReceiptResult], list[str]]:
    """Apply receipts or park them; return what came of each, and the ids of the messages that have moved."""
    by_id = await _places_by_id(connection, [receipt for receipt in receipts if not receipt.message_id])
    known = await _known_messages(connection, _messages_of(receipts, by_id))
    # Only now: an attempt that is not open under its message's lock has all its ids on disk.
    by_id |= await _places_by_id(connection, [receipt for receipt in receipts if receipt.message_id in known])
    found = [_placed(receipt, by_id, known) for receipt in receipts]
    placed = [each for each in found if isinstance(each, Placed)]
    await sql_ledger.keep_parts(connection, [part for each in placed for part in _parts_told(each)])
    unseen = await _record(connection, placed)
    fresh: list[Placed] = []
    results: list[ReceiptResult] = []
    for each in found:
        if isinstance(each, ReceiptResult):
            results.append(each)
        elif (each.place, each.receipt.status) in unseen:
            unseen.remove((each.place, each.receipt.status))  # its repeats in this batch say nothing new
            fresh.append(each)
            results.append(ReceiptResult.APPLIED)
        else:
            results.append(ReceiptResult.REPEATED)
    moved = await _move(connection, fresh, known)
    # Last, as `park` wants it.
    to_park = [receipt for receipt, result in zip(receipts, results, strict=True) if result is ReceiptResult.PARKED]
    await sql_parked_receipts.park(connection, to_park)
    # And this behind it, because it locks out every claim.
    await sql_opt_outs.bind_refused(connection, _opted_out(fresh))
    return results, moved


def _opted_out(told: Iterable[Placed]) -> list[Refused]:
    return [
        Refused(place.message_id, attempt, receipt.received_at)
        for receipt, place, attempt in told
        if receipt.failure and receipt.failure.reason is FailureReason.OPTED_OUT
    ]


async def _places_by_id(connection: Connection, receipts: Sequence[Receipt]) -> PlacesById:
    ids: dict[str, set[str]] = defaultdict(set)
    for receipt in receipts:
        if receipt.carrier_message_id:
            ids[receipt.carrier].add(receipt.carrier_message_id)
    places: PlacesById = defaultdict(list)
    for carrier, its_ids in ids.items():
        for carrier_message_id, *place in await _BY_ID.rows(connection, carrier, sorted(its_ids)):
            places[carrier, carrier_message_id].append(Place(*place))
    return places


def _messages_of(receipts: Iterable[Receipt], by_id: PlacesById) -> list[str]:
    ours = {receipt.message_id for receipt in receipts if is_id(receipt.message_id, "msg")}
    return sorted(ours | {place.message_id for places in by_id.values() for place in places})


async def _known_messages(connection: Connection, message_ids: Sequence[str]) -> dict[str, Known]:
    """Lock messages; return what is known of those that exist.

    Meanwhile no attempt of theirs begins, and one that ends waits for the message to write its outcome there.
    """
    if not message_ids:
        return {}
    await sql_queue.lock(connection, message_ids)
    theirs = shards_of(message_ids), list(message_ids)
    messages = await _LOCK_MESSAGES.rows(connection, *theirs)
    attempts: dict[str, dict[int, KnownAttempt]] = defaultdict(dict)
    for message_id, number, carrier, outcome, carrier_id in await _ATTEMPTS_OF.rows(connection, *theirs):
        attempts[message_id][number] = KnownAttempt(carrier, Outcome(outcome), carrier_id)
    return {
        message_id: Known(
            status=Status(status), is_long=segments > 1, updated_at_ms=updated_at_ms, attempts=attempts[message_id]
        )
        for message_id, status, segments, updated_at_ms in messages
    }


def _placed(receipt: Receipt, by_id: PlacesById, known: Mapping[str, Known]) -> Placed | ReceiptResult:
    with_its_id = [
        place
        for place in by_id.get((receipt.carrier, receipt.carrier_message_id), ())
        if place.message_id in known and receipt.message_id in ("", place.message_id)
    ]
    if with_its_id:
        # Carriers use an id again, in the course of time or for the same message: the newest is meant.
        place = max(with_its_id)
        return Placed(receipt, place, place.attempt)
    if not receipt.message_id:
        return ReceiptResult.PARKED if receipt.carrier_message_id else ReceiptResult.UNKNOWN
    message = known.get(receipt.message_id)
    attempt = message.meant_by(receipt) if message else None
    if message is None or attempt is None:
        return ReceiptResult.UNKNOWN
    if receipt.carrier_message_id and message.has_to_wait(receipt):
        return ReceiptResult.PARKED
    # The carrier's first attempt names the row, so that a repeat finds it after a further one.
    return Placed(receipt, Place(receipt.message_id, min(message.attempts_of(receipt.carrier)), 0), attempt)


def _parts_told(told: Placed) -> list[dict[str, object]]:
    receipt, place, attempt = told
    return rows.parts(place.message_id, attempt, receipt.carrier, receipt.part_ids)


async def _record(connection: Connection, told: Sequence[Placed]) -> set[tuple[Place, Status]]:
    """Write receipts that are not there yet, under their messages' locks; return these."""
    if not told:
        return set()
    ids = sorted({each.place.message_id for each in told})
    found = await _RECEIPTS_OF.rows(connection, shards_of(ids), ids)
    known = {(Place(*place), Status(status)) for *place, status in found}
    new: dict[tuple[Place, Status], Placed] = {}
    for each in told:
        if (key := (each.place, each.receipt.status)) not in known:
            new.setdefault(key, each)
    await _RECORD.each(connection, [rows.new_receipt(each.receipt, each.place) for each in new.values()])
    return set(new)


async def _move(connection: Connection, told: Sequence[Placed], known: Mapping[str, Known]) -> list[str]:
    in_parts = await _parts(connection, {each.place.message_id for each in told if each.place.part})
    standings = {
        message_id: Standing(status=message.status, attempts=message.outcomes, parts=in_parts[message_id])
        for message_id, message in known.items()
    }
    parts: list[tuple[Any, ...]] = []
    messages: list[tuple[Any, ...]] = []
    settled: list[tuple[Any, ...]] = []
    for receipt, place, attempt in told:
        message_id = place.message_id
        before = standings[message_id]
        after = after_receipt(before, attempt=attempt, part=place.part, told=receipt.status)
        standings[message_id] = after
        if after.parts != before.parts:
            status = after.parts[attempt, place.part]
            parts.append((shard_of(message_id), message_id, attempt, place.part, status.value))
        if after.status is not before.status:
            messages.append(rows.message_after_receipt(message_id, receipt, after.status))
            if before.status is Status.UNKNOWN:
                settled.append(rows.settled_by_receipt(message_id, known[message_id].updated_at_ms, receipt))
    await _MOVE_PART.each(connection, parts)
    await _MOVE_MESSAGE.each(connection, messages)
    await _SETTLE_HELD.each(connection, settled)
    # Also `sent`: the carrier has it, so whatever was still to be done must not send it again.
    await LEAVE_QUEUE.each(connection, [(shard, message_id) for shard, message_id, *_ in messages])
    return [message_id for _, message_id, *_ in messages]


async def _parts(connection: Connection, message_ids: set[str]) -> dict[str, dict[tuple[int, int], Status]]:
    parts: dict[str, dict[tuple[int, int], Status]] = defaultdict(dict)
    if message_ids:
        found = await _PARTS_OF.rows(connection, shards_of(message_ids), sorted(message_ids))
        for message_id, attempt, part, status in found:
            parts[message_id][attempt, part] = Status(status)
    return parts

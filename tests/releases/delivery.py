"""What Delivery's code does to its tables: what a release leaves, and what it goes on to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery.domain import Failure, FailureReason, MessageFilter, OnUnknown, Outcome, Resolution, Status
from services.delivery.optouts import OptOutWords
from services.delivery.pacing import Limits, Wish
from services.delivery.replies import InboundFilter
from services.delivery.sql_carriers import SqlCarrierStore
from services.delivery.sql_replies import SqlReplyStore
from services.delivery.sql_store import SqlMessageStore
from services.delivery.sql_webhooks import SqlWebhookStore
from services.delivery.store import Breaker
from services.delivery.webhooks import Destination, DestinationKind, WebhookFilter, WebhookStatus
from tests.contract import test_webhook_store as webhooks
from tests.contract.test_message_store import NOW, TENANT, claim, finished, meaning, new_message, request_key
from tests.contract.test_receipts import by_id, refused_for_now, told, unknown
from tests.contract.test_replies import Stores, said, told_of
from tests.kit.claims import ROUTE

AT_ONCE = 500
LEASE = timedelta(seconds=30)
ENDED = (Status.SENT, Status.DELIVERED, Status.FAILED, Status.UNDELIVERED)


async def leave(database: Database) -> None:
    """Leave messages, receipts, replies, opt-outs, webhooks and carriers in every state there is."""
    stores = _stores(database)
    await stores.messages.add(
        [
            new_message(ref=str(number), created_at=NOW + timedelta(milliseconds=number), tag="älerts")
            for number in range(14)
        ]
    )
    attempts = await claim(stores.messages, now=NOW + timedelta(seconds=1), limit=11)
    taken = [finished(each, carrier_message_id=f"c-{number}") for number, each in enumerate(attempts[:6])]
    taken[0] = replace(taken[0], part_ids=("p-1", "p-2"), carrier_message_id="p-1")
    refused = finished(
        attempts[6],
        outcome=Outcome.REFUSED,
        status=Status.FAILED,
        carrier_message_id="",
        failure=Failure(reason=FailureReason.INVALID_NUMBER, carrier_code="21211"),
    )
    held = replace(unknown(attempts[7]), status=Status.UNKNOWN, retry_at=None)
    await stores.messages.finish([*taken, refused, held, refused_for_now(attempts[8])])
    await stores.messages.apply_receipts(
        [
            told(Status.DELIVERED, carrier="simulator", carrier_message_id="c-1"),
            told(Status.UNDELIVERED, carrier="simulator", carrier_message_id="c-2"),
            told(Status.DELIVERED, carrier="simulator", carrier_message_id="p-1"),
            told(Status.DELIVERED, carrier="simulator", carrier_message_id="parked"),
        ]
    )
    await stores.messages.add(
        [
            new_message(ref="once", idempotency=request_key(), dedupe=meaning(), on_unknown=OnUnknown.HOLD),
            new_message(ref="other", to="+6581239999", integration_id="wkh_2", callback="https://a.example/x"),
        ]
    )
    await stores.add(said(id="mo_left", carrier_reply_id="r-left"), announce=told_of)
    await stores.add(said("STOP", sender="+6581239998", carrier_reply_id="r-stop"), announce=told_of)
    await _leave_webhooks(stores.webhooks)
    carriers = SqlCarrierStore(database)
    await carriers.change("main", lambda known: replace(known, breaker=Breaker.OPEN, open_until=NOW, times_opened=2))
    await carriers.take_slots([Wish("msg_1", "main", "+6598765432", 2)], {"main": Limits()}, NOW)


async def _leave_webhooks(store: SqlWebhookStore) -> None:
    to_callback = Destination(kind=DestinationKind.CALLBACK, id="wkh_2", url="https://a.example/x")
    await store.add([webhooks.new_delivery(owner) for owner in ("wkh_1", "wkh_1", "wkh_2", "wkh_3")])
    await store.add([webhooks.new_delivery("wkh_2", destination=to_callback)])
    one, two, three, *_ = await webhooks.claim(store, now=webhooks.NOW, limit=4)
    again = webhooks.failed(two, status=WebhookStatus.PENDING, retry_at=webhooks.NOW + timedelta(seconds=5))
    await store.finish([webhooks.finished(one), again, webhooks.failed(three)])


async def work(database: Database) -> None:
    """Do once all that Delivery does, on what a release has left."""
    stores = _stores(database)
    later = NOW + timedelta(minutes=2)
    await _start(database, stores)
    await _accept_and_send(stores, later)
    await _hear_from_carriers(stores, later)
    await _read_and_manage(stores, later)
    await _deliver_webhooks(stores.webhooks, later)
    await _clean_up(stores)


async def _start(database: Database, stores: Stores) -> None:
    await stores.messages.release_leases(NOW + timedelta(seconds=40))
    await stores.webhooks.release_leases(NOW + timedelta(seconds=40))
    await stores.messages.adopt_queues([ROUTE], ROUTE, NOW, 100)
    carriers = SqlCarrierStore(database)
    await carriers.states()
    await carriers.change("main", lambda known: replace(known, breaker=Breaker.CLOSED, open_until=None))
    await carriers.take_slots([Wish("msg_2", "other", "+6598765432", 1)], {"other": Limits()}, NOW)
    await stores.messages.next_due(0, [ROUTE])


async def _accept_and_send(stores: Stores, later) -> None:
    fresh = new_message(ref="new", created_at=later, valid_until=later + timedelta(hours=4))
    repeat = new_message(ref="again", idempotency=request_key(), dedupe=meaning())
    key = request_key("k-new")
    keyed = new_message(ref="keyed", created_at=later, idempotency=key, dedupe=meaning("order 2"))
    await stores.messages.add([fresh, repeat, keyed])
    attempts = await claim(stores.messages, now=later)
    await stores.messages.renew(attempts, later + LEASE)
    parts = finished(attempts[0], carrier_message_id="n-1", part_ids=("n-1", "n-2"))
    tried, doubted = refused_for_now(attempts[1]), unknown(attempts[2])
    await stores.messages.finish([parts, tried, doubted, *(finished(each) for each in attempts[3:-1])])
    await stores.messages.expire(0, later + timedelta(days=1), AT_ONCE)


async def _hear_from_carriers(stores: Stores, later) -> None:
    await stores.messages.apply_receipts(
        [
            told(Status.DELIVERED, carrier="simulator", carrier_message_id="c-3"),
            told(Status.DELIVERED, carrier="simulator", carrier_message_id="n-2"),
            by_id("not-yet-known"),
        ]
    )
    await stores.messages.settle_parked(AT_ONCE, since=NOW - timedelta(days=1))
    await stores.messages.in_doubt("simulator", unchanged_since=later, after=None, limit=AT_ONCE)
    await stores.messages.awaiting_receipt("simulator", sent_after=NOW, sent_before=later, after=None, limit=AT_ONCE)
    await stores.add(said("YES", carrier_reply_id="r-new"), announce=told_of)
    await stores.add(said("STOP", carrier_reply_id="r-stop-new"), words=OptOutWords())
    await stores.add(said("START", sender="+6581239998", carrier_reply_id="r-start"))


async def _read_and_manage(stores: Stores, later) -> None:
    everything = PageRequest(size=100)
    for wanted in (MessageFilter(), MessageFilter(status=Status.SENT, ref="1"), MessageFilter(to="+6581230000")):
        messages = await stores.messages.list_messages(TENANT, wanted, everything)
    for message in messages:
        await stores.messages.history(TENANT, message.id)
    held = await stores.messages.list_messages(TENANT, MessageFilter(status=Status.UNKNOWN), everything)
    for message in held:
        await stores.messages.resolve(TENANT, message.id, Resolution.RESEND, later, queue_of=lambda _message: ROUTE)
    waiting = await stores.messages.list_messages(TENANT, MessageFilter(status=Status.QUEUED), everything)
    for message in waiting[:1]:
        await stores.messages.cancel(TENANT, message.id, later, request_key("k-cancel", scope=TENANT))
    await stores.replies.list_inbound(TENANT, InboundFilter(), everything)
    opt_outs = await stores.replies.list_opt_outs(TENANT, None, everything)
    for opt_out in opt_outs[:1]:
        await stores.replies.delete_opt_out(TENANT, opt_out.id)


async def _deliver_webhooks(store: SqlWebhookStore, later) -> None:
    await store.fill_lines(later)
    claimed = await webhooks.claim(store, now=later)
    await store.renew(claimed, later + LEASE)
    await store.finish([webhooks.finished(claimed[0]), *(webhooks.failed(each) for each in claimed[1:])])
    deliveries = await store.list_deliveries(TENANT, WebhookFilter(), PageRequest(size=100))
    await store.list_deliveries(TENANT, WebhookFilter(status=WebhookStatus.FAILED), PageRequest(size=100))
    await store.replay(TENANT, deliveries[0].delivery.id, later)
    await store.count_replayable(TENANT, NOW - timedelta(days=1))
    await store.replay_since(TENANT, NOW - timedelta(days=1), later, AT_ONCE)
    await store.miss_waiting(deliveries[0].delivery.endpoint, "disabled", later, AT_ONCE)
    await store.next_due()


async def _clean_up(stores: Stores) -> None:
    next_year = NOW + timedelta(days=400)
    await stores.messages.remove_parked(NOW + timedelta(days=1), kept=10, limit=AT_ONCE)
    await stores.messages.remove_expired_keys(next_year, AT_ONCE)
    await stores.webhooks.remove_finished(next_year, AT_ONCE)
    await stores.replies.remove_unmatched(next_year, AT_ONCE)
    await stores.messages.remove_finished(0, next_year, AT_ONCE)


def _stores(database: Database) -> Stores:
    return Stores(
        messages=SqlMessageStore(database), replies=SqlReplyStore(database), webhooks=SqlWebhookStore(database)
    )

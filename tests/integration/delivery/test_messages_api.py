"""Delivery as its callers see it: accept, show, list, cancel, and go on after an outage or a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.database import Database
from servicekit.ids import ID_LENGTH, new_id, new_secret
from servicekit.settings import SettingsError
from services.delivery import service
from services.delivery.carriers.base import OutboundMessage, SendResult
from services.delivery.carriers.simulator import Simulator
from services.delivery.dispatch import Dispatcher
from services.delivery.domain import Receipt
from services.delivery.follow_up import LOOK_UP_AFTER_SECONDS
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import Added, Claimed, ReceiptResult
from tests.integration.delivery.conftest import World, message_with, refusal_of
from tests.kit.claims import claim
from textway.delivery.v1.message_pb2 import Message
from textway.delivery.v1.messages_service_pb2 import (
    CancelMessageRequest,
    GetMessageRequest,
    GetMessageTimelineRequest,
    ListMessagesRequest,
    SendMessageRequest,
    SendMessageResponse,
)
from textway.delivery.v1.messages_service_pb2_grpc import MessagesServiceStub
from textway.delivery.v1.submission_service_pb2 import PreviewMessageRequest, Submission, SubmitMessagesRequest

TO = "+6581230000"
REFUSED_BY_CARRIER = "+6581230001"
FAILING_AT_FIRST = "+6581230002"
HANGING = "+6581230003"
SWITCHED_OFF = "+6581230004"
ANSWERING = "+6581230005"


async def send(messages: MessagesServiceStub, owner, **changes: str) -> SendMessageResponse:
    fields = {"to": TO, "text": "Order confirmed", "ref": "4821"} | changes
    return await messages.SendMessage(SendMessageRequest(**fields), metadata=owner)


async def listed(messages: MessagesServiceStub, owner, **filters: object) -> list[Message]:
    response = await messages.ListMessages(ListMessagesRequest(**filters), metadata=owner)
    return list(response.messages)


def submission(**changes: str) -> Submission:
    fields = {"tenant_id": "ten_mine", "integration_id": "wkh_1", "to": TO, "text": "hello", "ref": "1"} | changes
    return Submission(**fields)


def timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


@pytest.fixture
async def one_at_a_time(unstarted_world: World) -> World:
    """A Delivery that makes one carrier call at a time: while that one hangs, nothing else is begun."""
    unstarted_world.settings = unstarted_world.settings.model_copy(update={"delivery_in_flight": 1})
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    return unstarted_world


async def test_accepts_a_message_with_202_and_delivers_it(messages, owner):
    call = messages.SendMessage(SendMessageRequest(to="+65 8123 0000", text="Hi 👋", ref="4821"), metadata=owner)
    sent = await call

    assert dict(await call.initial_metadata())["x-http-status"] == "202"
    assert (sent.status, sent.to, sent.text, sent.ref) == ("queued", TO, "Hi 👋", "4821")
    assert sent.id.startswith("msg_")
    assert len(sent.id) == len("msg_") + ID_LENGTH
    delivered = await message_with(messages, owner, sent.id, "delivered")
    assert (delivered.carrier, delivered.attempts, delivered.encoding) == ("simulator", 1, "ucs2")
    assert getattr(delivered, "from") == "+6598765432"
    assert delivered.created_at == sent.created_at
    assert delivered.HasField("delivered_at")
    assert not delivered.HasField("error")


@pytest.mark.parametrize(
    ("to", "status", "code"),
    [(REFUSED_BY_CARRIER, "failed", "invalid_number"), (SWITCHED_OFF, "undelivered", "unreachable")],
)
async def test_says_why_a_message_was_not_delivered(messages, owner, to, status, code):
    sent = await send(messages, owner, to=to)

    message = await message_with(messages, owner, sent.id, status)

    assert message.error.code == code
    assert message.error.message.endswith(".")
    assert message.error.carrier_code.startswith("sim-")


@pytest.mark.parametrize(
    ("changes", "code", "reason", "fields"),
    [
        ({"to": ""}, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", ("to",)),
        ({"to": " ", "text": "\n"}, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", ("to", "text")),
        ({"text": "a\x00b"}, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", ("text",)),
        ({"ref": "x" * 65}, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", ("ref",)),
        ({"callback": "ftp://x"}, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", ("callback",)),
        ({"channel": "fax"}, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", ("channel",)),
        ({"from": "1234567890", "tag": "a\tb"}, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", ("from", "tag")),
        ({"to": "81230000"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_RECIPIENT", ()),
        ({"text": "x" * 1601}, grpc.StatusCode.INVALID_ARGUMENT, "TEXT_TOO_LONG", ()),
    ],
)
async def test_refuses_a_message_that_can_not_be_sent_and_stores_nothing(
    messages, owner, changes, code, reason, fields
):
    refusal = await refusal_of(send(messages, owner, **changes))

    assert (refusal.code, refusal.reason, refusal.fields) == (code, reason, fields)
    assert refusal.http_status == "400"
    assert await listed(messages, owner) == []


@pytest.mark.parametrize("text", ["x" * 1600, "€" * 1600, "👩‍👩‍👧\u202e\u200b 'quoted' %s :name \\ \"", " leading"])
async def test_keeps_a_text_as_it_was_given(messages, owner, text):
    sent = await send(messages, owner, text=text)

    message = await messages.GetMessage(GetMessageRequest(id=sent.id), metadata=owner)

    assert message.text == text


async def test_sends_from_who_is_asked_for_and_shows_the_tag(messages, submissions, owner):
    sent = await send(messages, owner, tag="alerts", **{"from": "ACME"})
    request = SubmitMessagesRequest(submissions=[submission(sender="+6598760000", tag="orders")])
    (submitted,) = (await submissions.SubmitMessages(request)).accepted

    by_api = await message_with(messages, owner, sent.id, "delivered")
    by_integration = await message_with(messages, owner, submitted.id, "delivered")

    assert (getattr(by_api, "from"), by_api.tag) == ("ACME", "alerts")
    assert (getattr(by_integration, "from"), by_integration.tag) == ("+6598760000", "orders")


async def test_two_calls_of_one_content_are_two_messages(messages, owner):
    first, second = await send(messages, owner), await send(messages, owner)

    assert first.id != second.id
    assert {message.id for message in await listed(messages, owner)} == {first.id, second.id}


async def test_accepts_many_calls_at_once(messages, owner):
    sent = await asyncio.gather(*(send(messages, owner, ref=str(number)) for number in range(100)))

    found = await listed(messages, owner, page_size=1000)

    assert {message.id: message.ref for message in found} == {each.id: str(ref) for ref, each in enumerate(sent)}


async def test_lists_newest_first_in_pages_that_never_repeat(messages, owner):
    sent = [(await send(messages, owner, ref=str(number))).id for number in range(7)]

    seen, token = [], ""
    while True:
        request = ListMessagesRequest(page_size=3, page_token=token)
        page = await messages.ListMessages(request, metadata=owner)
        seen += [message.id for message in page.messages]
        token = page.next_page_token
        if len(seen) == 3:
            await send(messages, owner, ref="meanwhile")
        if not token:
            break

    assert sorted(seen) == sorted(sent)
    assert len(seen) == 7


async def test_lists_more_than_one_answer_can_carry(messages, submissions, owner):
    for _ in range(3):
        long = [submission(text="語" * 1600) for _ in range(300)]
        await submissions.SubmitMessages(SubmitMessagesRequest(submissions=long))

    seen, token, pages = set(), "", 0
    while token or not pages:
        page = await messages.ListMessages(ListMessagesRequest(page_size=1000, page_token=token), metadata=owner)
        seen |= {message.id for message in page.messages}
        token, pages = page.next_page_token, pages + 1

    assert len(seen) == 900
    assert pages > 1


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {"one", "two", "three"}),
        ({"ref": "two"}, {"two"}),
        ({"to": REFUSED_BY_CARRIER}, {"three"}),
        ({"to": REFUSED_BY_CARRIER.replace("+", " ")}, {"three"}),
        ({"to": REFUSED_BY_CARRIER.removeprefix("+")}, {"three"}),
        ({"to": "(+65) 8123-0001"}, {"three"}),
        ({"to": "\uff0b6581230001"}, {"three"}),
        ({"integration_id": "wkh_2"}, {"two"}),
        ({"status": "failed"}, {"three"}),
        ({"status": "delivered"}, {"one", "two"}),
        ({"status": "canceled"}, set()),
        ({"ref": "two", "status": "failed"}, set()),
        ({"created_after": timestamp(datetime(2000, 1, 1, tzinfo=UTC))}, {"one", "two", "three"}),
        ({"created_before": timestamp(datetime(2000, 1, 1, tzinfo=UTC))}, set()),
    ],
)
async def test_lists_what_matches_every_filter(messages, submissions, owner, filters, expected):
    request = SubmitMessagesRequest(
        submissions=[
            submission(ref="one"),
            submission(ref="two", integration_id="wkh_2"),
            submission(ref="three", to=REFUSED_BY_CARRIER),
        ]
    )
    for accepted in (await submissions.SubmitMessages(request)).accepted:
        await message_with(messages, owner, accepted.id, "delivered", "failed")

    found = await listed(messages, owner, **filters)

    assert {message.ref for message in found} == expected


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"status": "lost"}, "status"),
        ({"status": "QUEUED"}, "status"),
        ({"to": "nobody"}, "to"),
        ({"page_size": 0}, "pageSize"),
        ({"page_size": 1001}, "pageSize"),
        ({"page_token": "forged"}, "pageToken"),
        ({"created_after": Timestamp(seconds=10**12)}, "createdAfter"),
        ({"created_before": Timestamp(seconds=-(10**12))}, "createdBefore"),
    ],
)
async def test_refuses_a_filter_that_can_not_be_used(messages, owner, filters, field):
    refusal = await refusal_of(listed(messages, owner, **filters))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR")
    assert refusal.fields == (field,)


async def test_tells_a_messages_life_step_by_step(messages, owner):
    sent = await send(messages, owner, to=ANSWERING)
    await message_with(messages, owner, sent.id, "delivered")
    request = GetMessageTimelineRequest(id=sent.id)
    async with asyncio.timeout(5):
        while "reply" not in [e.event for e in (await messages.GetMessageTimeline(request, metadata=owner)).entries]:
            await asyncio.sleep(0.01)

    told = await messages.GetMessageTimeline(request, metadata=owner)

    assert [entry.event for entry in told.entries] == [
        *("accepted", "attempt_started", "attempt_finished", "receipt", "reply")
    ]
    finished = told.entries[2]
    assert (finished.attempt, finished.carrier, finished.outcome, finished.status) == (1, "simulator", "taken", "sent")
    assert not finished.HasField("possible_duplicate")
    assert told.entries[-1].detail == "YES"
    times = [entry.at.ToMilliseconds() for entry in told.entries]
    assert times == sorted(times)


async def test_refuses_to_cancel_what_has_begun(messages, owner):
    sent = await send(messages, owner, to=HANGING)
    await message_with(messages, owner, sent.id, "sending")

    refusal = await refusal_of(messages.CancelMessage(CancelMessageRequest(id=sent.id), metadata=owner))

    assert (refusal.code, refusal.reason, refusal.http_status) == (grpc.StatusCode.ABORTED, "CONFLICT", "409")
    assert "sending" in refusal.message


async def test_says_that_an_attempt_has_begun_when_a_message_waits_for_its_next_one(messages, owner):
    sent = await send(messages, owner, to=FAILING_AT_FIRST)
    async with asyncio.timeout(5):
        while (await messages.GetMessage(GetMessageRequest(id=sent.id), metadata=owner)).attempts == 0:
            await asyncio.sleep(0.01)
    waiting = await message_with(messages, owner, sent.id, "queued")

    refusal = await refusal_of(messages.CancelMessage(CancelMessageRequest(id=sent.id), metadata=owner))

    assert waiting.attempts == 1
    assert refusal.message == "The message can not be canceled any more: an attempt has begun."


async def test_cancels_a_message_that_no_attempt_has_begun_for(one_at_a_time, owner):
    world = one_at_a_time
    hanging = await send(world.messages, owner, to=HANGING)
    await message_with(world.messages, owner, hanging.id, "sending")
    waiting = await send(world.messages, owner)

    canceled = await world.messages.CancelMessage(CancelMessageRequest(id=waiting.id), metadata=owner)
    again = await refusal_of(world.messages.CancelMessage(CancelMessageRequest(id=waiting.id), metadata=owner))

    told = await world.messages.GetMessageTimeline(GetMessageTimelineRequest(id=waiting.id), metadata=owner)
    assert (canceled.status, canceled.attempts) == ("canceled", 0)
    assert again.reason == "CONFLICT"
    assert [entry.event for entry in told.entries] == ["accepted", "canceled"]


REQUESTS_BY_ID = {
    "GetMessage": GetMessageRequest,
    "GetMessageTimeline": GetMessageTimelineRequest,
    "CancelMessage": CancelMessageRequest,
}


@pytest.mark.parametrize("rpc", REQUESTS_BY_ID)
async def test_answers_alike_for_what_is_another_tenants_and_for_what_is_not(messages, owner, stranger, rpc):
    sent = await send(messages, owner, to=HANGING)
    ids = (sent.id, new_id("msg", datetime.now(UTC)), new_id("wkh", datetime.now(UTC)), "", "msg_", "' OR 1=1", "é")

    refusals = [
        await refusal_of(getattr(messages, rpc)(REQUESTS_BY_ID[rpc](id=message_id), metadata=stranger))
        for message_id in ids
    ]

    assert len(set(refusals)) == 1
    assert (refusals[0].code, refusals[0].reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert await listed(messages, stranger) == []
    assert (await messages.GetMessage(GetMessageRequest(id=sent.id), metadata=owner)).status != "canceled"


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "sk_live_x"),),
        (("authorization", "Basic dTpw"),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer a"), ("authorization", "Bearer b")),
    ],
)
async def test_refuses_a_call_without_a_key_and_asks_nobody(world, messages, metadata):
    refusal = await refusal_of(send(messages, metadata))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED")
    assert refusal.http_status == "401"
    assert world.registry.asked == []


async def test_passes_on_what_the_registry_says_of_a_key(messages):
    unknown = (("authorization", f"Bearer {new_secret('sk_live', 40)}"),)

    refusal = await refusal_of(send(messages, unknown))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
    assert refusal.http_status == "401"
    assert "not valid" in refusal.message


async def test_a_key_that_is_revoked_stops_working_within_a_second(world, messages, owner):
    await listed(messages, owner)
    world.registry.tenants_by_key.clear()
    world.clock.shift_seconds += 1

    refusal = await refusal_of(listed(messages, owner))

    assert refusal.reason == "INVALID_API_KEY"


async def test_answers_unavailable_to_a_new_key_while_the_registry_is_down(world, messages, owner):
    await world.stop("registry")

    refusal = await refusal_of(send(messages, owner))

    assert (refusal.code, refusal.reason, refusal.http_status) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "503")


async def test_a_known_key_goes_on_working_for_a_minute_while_the_registry_is_down(world, messages, owner):
    await listed(messages, owner)
    await world.stop("registry")
    world.clock.shift_seconds += 55

    sent = await send(messages, owner)
    assert (await message_with(messages, owner, sent.id, "delivered")).id == sent.id
    world.clock.shift_seconds += 5

    assert (await refusal_of(listed(messages, owner))).reason == "UNAVAILABLE"


async def test_works_again_as_soon_as_the_registry_does(world, messages, owner):
    await world.stop("registry")
    await refusal_of(listed(messages, owner))
    await world.serve_registry()

    async with asyncio.timeout(5):
        while True:
            try:
                assert await listed(messages, owner) == []
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)


async def test_asks_the_registry_once_for_calls_that_come_together(world, messages, owner):
    world.registry.may_answer.clear()
    calls = [asyncio.create_task(listed(messages, owner)) for _ in range(20)]
    async with asyncio.timeout(5):
        while not world.registry.asked:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)

    world.registry.may_answer.set()
    await asyncio.gather(*calls)

    assert len(world.registry.asked) == 1


async def test_submits_in_order_and_stores_every_message(messages, submissions, owner):
    refs = [str(number) for number in range(500)]
    request = SubmitMessagesRequest(submissions=[submission(ref=ref) for ref in refs])

    accepted = (await submissions.SubmitMessages(request)).accepted

    assert len({each.id for each in accepted}) == 500
    assert {each.status for each in accepted} == {"queued"}
    stored = {message.id: message.ref for message in await listed(messages, owner, page_size=1000)}
    assert [stored[each.id] for each in accepted] == refs


@pytest.mark.parametrize("count", [0, 1_001])
async def test_refuses_a_batch_of_no_or_too_many_messages_and_stores_none(messages, submissions, owner, count):
    request = SubmitMessagesRequest(submissions=[submission()] * count)

    refusal = await refusal_of(submissions.SubmitMessages(request))

    assert refusal.fields == ("submissions",)
    assert await listed(messages, owner) == []


async def test_stores_all_messages_of_a_batch_or_none(messages, submissions, owner, monkeypatch):
    sent = await submissions.SubmitMessages(SubmitMessagesRequest(submissions=[submission(ref="first")]))
    ids = iter([new_id("msg", datetime.now(UTC), lambda _: 0), sent.accepted[0].id])
    monkeypatch.setattr("services.delivery.accept_messages.new_id", lambda *_: next(ids))

    refusal = await refusal_of(
        submissions.SubmitMessages(SubmitMessagesRequest(submissions=[submission(ref="a"), submission(ref="b")]))
    )

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert [message.ref for message in await listed(messages, owner)] == ["first"]


@pytest.mark.parametrize(
    ("text", "segments", "encoding"),
    [("hello", 1, "gsm7"), ("x" * 161, 2, "gsm7"), ("€" * 81, 2, "gsm7"), ("👋" * 36, 2, "ucs2")],
)
async def test_previews_a_message_and_stores_nothing(messages, submissions, owner, text, segments, encoding):
    preview = await submissions.PreviewMessage(PreviewMessageRequest(submission=submission(text=text)))

    assert (preview.segments, preview.encoding, preview.carrier) == (segments, encoding, "simulator")
    assert await listed(messages, owner) == []


async def test_a_fresh_start_takes_over_what_a_killed_process_had_begun(one_at_a_time, owner):
    world = one_at_a_time
    hanging = await send(world.messages, owner, to=HANGING)
    await message_with(world.messages, owner, hanging.id, "sending")
    orphans = [(await send(world.messages, owner)).id for _ in range(3)]
    await world.stop("delivery")
    await begin_and_die(world.settings.database_url, orphans)

    world.settings = world.settings.model_copy(update={"delivery_in_flight": 10})
    await world.serve_delivery()

    for orphan in orphans:
        message = await message_with(world.messages, owner, orphan, "delivered")
        told = await world.messages.GetMessageTimeline(GetMessageTimelineRequest(id=orphan), metadata=owner)
        finished = [entry for entry in told.entries if entry.event == "attempt_finished"]
        assert message.attempts == 2
        assert [entry.outcome for entry in finished] == ["unknown", "taken"]
        assert "stopped before it knew" in finished[0].detail
        # The simulator drops a second message of the same id, so that nobody got two.
        assert not any(entry.HasField("possible_duplicate") for entry in told.entries)


async def begin_and_die(url: str, expected: list[str]) -> None:
    """Do what a process does that is killed at its carrier: the attempts are open, their lease is not over for long."""
    now = datetime.now(UTC)
    database = Database.open(url)
    claimed = await claim(SqlMessageStore(database), now=now + timedelta(seconds=1), lease=timedelta(hours=1))
    await database.close()
    assert {attempt.message.id for attempt in claimed} >= set(expected)


async def test_a_stop_hands_what_hangs_to_the_next_start(world, owner):
    sent = await send(world.messages, owner, to=HANGING)
    await message_with(world.messages, owner, sent.id, "sending")

    await world.stop("delivery")
    await world.serve_delivery()

    told = await world.messages.GetMessageTimeline(GetMessageTimelineRequest(id=sent.id), metadata=owner)
    first = next(entry for entry in told.entries if entry.event == "attempt_finished")
    assert (first.attempt, first.outcome) == (1, "unknown")
    assert first.detail == "the process stopped before the carrier answered"


async def test_keeps_every_accepted_message_over_a_restart(world, owner, monkeypatch):
    # No receipt comes before the stop: after it, all are looked up.
    monkeypatch.setattr("services.delivery.carriers.simulator.RECEIPT_DELAY_SECONDS", 60)
    sent = [(await send(world.messages, owner, ref=str(number))).id for number in range(20)]

    await world.stop("delivery")
    monkeypatch.undo()
    world.clock.shift_seconds += LOOK_UP_AFTER_SECONDS + 1
    await world.serve_delivery()

    for message_id in sent:
        assert (await message_with(world.messages, owner, message_id, "delivered")).id == message_id


async def test_a_stop_waits_for_the_receipts_that_are_being_stored(world, owner, monkeypatch):
    begun, may_write = asyncio.Event(), asyncio.Event()

    async def slow(store: SqlMessageStore, receipts: Sequence[Receipt]) -> list[ReceiptResult]:
        begun.set()
        await may_write.wait()
        return [ReceiptResult.APPLIED for _ in receipts]

    monkeypatch.setattr(SqlMessageStore, "apply_receipts", slow)
    await send(world.messages, owner)
    await begun.wait()

    stopping = asyncio.create_task(world.stop("delivery"))
    stopped, _ = await asyncio.wait({stopping}, timeout=0.15)
    may_write.set()
    await stopping

    assert not stopped


@pytest.mark.parametrize("begins_by", ["claim", "add_and_begin"])
async def test_a_stop_loses_no_attempt_that_is_committed_as_started(world, owner, monkeypatch, begins_by):
    begun, may_go_on = asyncio.Event(), asyncio.Event()
    begin, answer = getattr(SqlMessageStore, begins_by), Simulator.send

    async def slow(store: SqlMessageStore, *given: object, **wanted: object) -> Claimed | Added:
        result = await begin(store, *given, **wanted)
        if result.started:
            begun.set()
            await may_go_on.wait()
        return result

    async def answer_late(carrier: Simulator, message: OutboundMessage) -> SendResult:
        await asyncio.sleep(0.1)  # which a stop waits for
        return await answer(carrier, message)

    monkeypatch.setattr(SqlMessageStore, begins_by, slow)
    monkeypatch.setattr(Simulator, "send", answer_late)
    if begins_by == "claim":
        monkeypatch.setattr(Dispatcher, "_beginnings", lambda *_: {})
    sending = asyncio.create_task(send(world.messages, owner))
    await begun.wait()
    stopping = asyncio.create_task(world.stop("delivery"))
    # Who is not answered while calls may still end does not learn whether the message is stored.
    await asyncio.wait({sending})
    await asyncio.wait({stopping}, timeout=0.1)
    may_go_on.set()
    await asyncio.gather(sending, stopping, return_exceptions=True)
    world.clock.shift_seconds += LOOK_UP_AFTER_SECONDS + 1
    await world.serve_delivery()
    (sent,) = await listed(world.messages, owner)

    message = await message_with(world.messages, owner, sent.id, "delivered")

    assert message.attempts == 1


@pytest.fixture
async def left_open(monkeypatch) -> AsyncIterator[list[Database]]:
    """The databases that Delivery has opened and not closed. They are closed in the end, lest they harm other tests."""
    left: list[Database] = []

    def open_and_remember(url: str, **options: str) -> Database:
        database = Database.open(url, **options)
        close = database.close

        async def close_and_forget() -> None:
            left.remove(database)
            await close()

        monkeypatch.setattr(database, "close", close_and_forget)
        left.append(database)
        return database

    monkeypatch.setattr(service, "Database", SimpleNamespace(open=open_and_remember))
    yield left
    for database in left:
        await database.close()


async def test_does_not_start_while_migrations_are_pending(tmp_path, unstarted_world, left_open):
    settings = unstarted_world.settings.model_copy(update={"data_dir": tmp_path / "new"})

    with pytest.raises(SettingsError, match="run `textway migrate`"):
        await service.build(settings, unstarted_world.clock)


async def test_lets_go_of_its_database_when_it_does_not_start(tmp_path, unstarted_world, left_open):
    settings = unstarted_world.settings.model_copy(update={"data_dir": tmp_path / "new"})

    with pytest.raises(SettingsError, match="run `textway migrate`"):
        await service.build(settings, unstarted_world.clock)

    assert left_open == []

"""Inbound messages and opt-outs from end to end: the simulated handset answers, and the API shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from servicekit import paging
from tests.integration.delivery.conftest import PATIENCE_SECONDS, Metadata, World, message_with, refusal_of
from textway.delivery.v1 import inbound_service_pb2, opt_outs_service_pb2
from textway.delivery.v1.inbound_service_pb2_grpc import InboundServiceStub
from textway.delivery.v1.messages_service_pb2 import GetMessageTimelineRequest, SendMessageRequest
from textway.delivery.v1.opt_outs_service_pb2_grpc import OptOutsServiceStub

OURS = "+6598765432"
SAYS_YES = "+6581230005"
SAYS_STOP = "+6581230006"
CONFIRMATION = "You will get no more messages from us."


async def send(world: World, owner: Metadata, to: str, **options: str) -> str:
    answer = await world.messages.SendMessage(
        SendMessageRequest(to=to, text="Coming?", ref="4821", **options), metadata=owner
    )
    return answer.id


async def inbound(world: World, owner: Metadata, count: int = 1, **wanted: object):
    """Return what came in, as soon as there are so many."""
    request = inbound_service_pb2.ListInboundRequest(**wanted)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (
            len((page := await InboundServiceStub(world.channel).ListInbound(request, metadata=owner)).inbound) < count
        ):
            await asyncio.sleep(0.01)
    return page


async def opt_outs(world: World, owner: Metadata, **wanted: object) -> list[opt_outs_service_pb2.OptOut]:
    request = opt_outs_service_pb2.ListOptOutsRequest(**wanted)
    return list((await OptOutsServiceStub(world.channel).ListOptOuts(request, metadata=owner)).opt_outs)


@pytest.fixture
async def confirming_world(unstarted_world: World) -> World:
    unstarted_world.settings = unstarted_world.settings.model_copy(update={"opt_out_confirmation": CONFIRMATION})
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    return unstarted_world


async def test_shows_what_came_in_and_what_it_answers(world: World, owner, stranger) -> None:
    message_id = await send(world, owner, SAYS_YES)

    (shown,) = (await inbound(world, owner)).inbound

    assert shown.id.startswith("mo_")
    assert (getattr(shown, "from"), shown.to, shown.text, shown.carrier) == (SAYS_YES, OURS, "YES", "simulator")
    assert (shown.in_reply_to.id, shown.in_reply_to.ref, shown.in_reply_to.integration_id) == (message_id, "4821", "")
    assert shown.in_reply_to.sent_at.seconds
    assert shown.keyword == ""
    assert list((await inbound(world, stranger, count=0)).inbound) == []


async def test_ends_a_page_that_one_answer_could_not_carry(world: World, owner, monkeypatch) -> None:
    for _ in range(2):
        await send(world, owner, SAYS_YES)
    everything = await inbound(world, owner, 2)
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 1)

    page = await inbound(world, owner, 1)
    rest = await inbound(world, owner, 1, page_token=page.next_page_token)

    assert [len(page.inbound), len(rest.inbound)] == [1, 1]
    assert [*page.inbound, *rest.inbound] == list(everything.inbound)
    assert rest.next_page_token == ""


async def test_pages_and_filters(world: World, owner) -> None:
    first = await send(world, owner, SAYS_YES)
    await inbound(world, owner, 1)
    second = await send(world, owner, SAYS_YES)
    everything = await inbound(world, owner, 2)

    page = await inbound(world, owner, 1, page_size=1)
    rest = await inbound(world, owner, 1, page_size=1, page_token=page.next_page_token)

    assert [*page.inbound, *rest.inbound] == list(everything.inbound)
    assert rest.next_page_token == ""
    newest = everything.inbound[0]
    assert (newest.in_reply_to.id, list(newest.other_candidates)) == (second, [first])
    of_first = await inbound(world, owner, 1, message_id=first)
    assert [each.in_reply_to.id for each in of_first.inbound] == [first]
    assert len((await inbound(world, owner, 2, **{"from": SAYS_YES.removeprefix("+"), "to": OURS})).inbound) == 2
    assert list((await inbound(world, owner, 0, to="+6590000000")).inbound) == []


async def test_sends_nothing_more_to_somebody_who_said_stop_until_the_opt_out_is_deleted(
    world: World, owner, stranger
) -> None:
    await send(world, owner, SAYS_STOP)
    await inbound(world, owner)

    suppressed = await message_with(world.messages, owner, await send(world, owner, SAYS_STOP), "suppressed")
    (opt_out,) = await opt_outs(world, owner, number=SAYS_STOP)
    steps = await world.messages.GetMessageTimeline(GetMessageTimelineRequest(id=suppressed.id), metadata=owner)
    delete = OptOutsServiceStub(world.channel).DeleteOptOut
    request = opt_outs_service_pb2.DeleteOptOutRequest(id=opt_out.id)
    strangers = await refusal_of(delete(request, metadata=stranger))
    call = delete(request, metadata=owner)
    await call
    repeated = await refusal_of(delete(request, metadata=owner))
    sent = await message_with(world.messages, owner, await send(world, owner, SAYS_STOP), "sent", "delivered")

    assert (suppressed.error.code, suppressed.attempts) == ("opted_out", 0)
    assert [step.event for step in steps.entries] == ["accepted", "suppressed"]
    assert (opt_out.number, opt_out.our_number, opt_out.source, opt_out.word) == (SAYS_STOP, OURS, "reply", "STOP")
    assert opt_out.reply_id.startswith("mo_")
    assert dict(await call.initial_metadata())["x-http-status"] == "204"
    assert strangers.code == repeated.code == grpc.StatusCode.NOT_FOUND
    assert sent.attempts == 1


async def test_confirms_an_opt_out_once_to_a_machine_that_says_stop_to_everything(
    confirming_world: World, owner
) -> None:
    await send(confirming_world, owner, SAYS_STOP)

    # The handset answers the confirmation too, and nothing answers that.
    page = await inbound(confirming_world, owner, 2)

    assert [each.keyword for each in page.inbound] == ["stop", "stop"]
    confirmation = page.inbound[0].in_reply_to.id
    found = await message_with(confirming_world.messages, owner, confirmation, "sent", "delivered")
    assert found.text == CONFIRMATION
    assert getattr(found, "from") == OURS
    assert len(await opt_outs(confirming_world, owner)) == 1


@pytest.mark.parametrize("opt_out_id", ["opt_1", "", "opt_01kty3ydr0ahgwrkpb0htetyz0"])
async def test_knows_no_opt_out_by_another_id(world: World, owner, opt_out_id) -> None:
    request = opt_outs_service_pb2.DeleteOptOutRequest(id=opt_out_id)

    refusal = await refusal_of(OptOutsServiceStub(world.channel).DeleteOptOut(request, metadata=owner))

    assert refusal.reason == "NOT_FOUND"


@pytest.mark.parametrize(
    "call",
    [
        lambda channel: InboundServiceStub(channel).ListInbound(inbound_service_pb2.ListInboundRequest()),
        lambda channel: OptOutsServiceStub(channel).ListOptOuts(opt_outs_service_pb2.ListOptOutsRequest()),
        lambda channel: OptOutsServiceStub(channel).DeleteOptOut(opt_outs_service_pb2.DeleteOptOutRequest(id="x")),
    ],
)
async def test_answers_nobody_without_a_key(world: World, call: Callable[[grpc.aio.Channel], object]) -> None:
    refusal = await refusal_of(call(world.channel))

    assert refusal.code == grpc.StatusCode.UNAUTHENTICATED

"""What every storage of inbound messages and opt-outs guarantees, on every engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from servicekit.ids import new_id
from servicekit.paging import PageRequest
from services.delivery.domain import Failure, FailureReason, NewMessage, Outcome, Receipt, Reply, Status
from services.delivery.optouts import OptOutWords
from services.delivery.replies import LONGEST_WINDOW, InboundFilter, OptOutSource, ReceivedReply
from services.delivery.reply_store import AddedReply
from services.delivery.sql_replies import SqlReplyStore
from services.delivery.sql_store import SqlMessageStore
from services.delivery.sql_webhooks import SqlWebhookStore
from services.delivery.store import Begin, DueMessage, StartedAttempt
from services.delivery.webhook_events import reply_deliveries
from services.delivery.webhooks import Destination, DestinationKind, WebhookDelivery, WebhookFilter
from tests.contract.test_message_store import NOW, TENANT, finished, new_message
from tests.kit import claims

OURS, THEIRS = "+6598765432", "+6581230000"
OUR_OTHER = "+6598760000"
WEEK = timedelta(days=7)
LATER = NOW + timedelta(seconds=10)  # within the leases of what was begun before
EVERYTHING = PageRequest(size=100)


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Three stores over one database."""

    messages: SqlMessageStore
    replies: SqlReplyStore
    webhooks: SqlWebhookStore

    async def add(self, reply: Reply, **options: object) -> AddedReply:
        given = {"window_of": lambda _message: WEEK, "announce": lambda _reply: (), "words": OptOutWords()}
        return await self.replies.add_reply(reply, **{**given, **options})

    async def send(
        self, *messages: NewMessage, sender: str = OURS, carrier: str = "simulator", at=NOW
    ) -> list[StartedAttempt]:
        """Add messages and begin attempts at all that is due."""
        await self.messages.add(messages)

        def decide(_due: DueMessage) -> Begin:
            return Begin(carrier=carrier, sender=sender)

        return await claims.claim(self.messages, now=at, decide=decide)

    async def status(self, message: NewMessage) -> Status:
        return (await self.messages.get(message.tenant_id, message.id)).status


@pytest.fixture
def stores(database) -> Stores:
    return Stores(
        messages=SqlMessageStore(database), replies=SqlReplyStore(database), webhooks=SqlWebhookStore(database)
    )


def said(text: str = "YES", **changes: object) -> Reply:
    reply = Reply(
        id=new_id("mo", NOW),
        carrier="simulator",
        carrier_reply_id=new_id("r", NOW),
        sender=THEIRS,
        recipient=OURS,
        text=text,
        received_at=NOW + timedelta(hours=1),
    )
    return replace(reply, **changes)


def told_of(reply: ReceivedReply) -> list[WebhookDelivery]:
    return reply_deliveries(reply, [Destination(kind=DestinationKind.TENANT, id=reply.tenant_id)])


async def test_answers_the_newest_message_and_lists_the_others(stores):
    messages = [new_message(ref=str(n), created_at=NOW + timedelta(seconds=n)) for n in range(13)]
    await stores.send(*messages, at=NOW + timedelta(seconds=20))

    added = await stores.add(said())

    newest_first = [message.id for message in reversed(messages)]
    assert added.reply.in_reply_to.id == newest_first[0]
    assert added.reply.in_reply_to.ref == "12"
    assert added.reply.in_reply_to.integration_id == "wkh_1"
    assert added.reply.other_candidates == tuple(newest_first[1:11])
    assert added.reply.tenant_id == TENANT
    assert (await stores.messages.history(TENANT, newest_first[0])).replies[0].text == "YES"
    assert (await stores.messages.history(TENANT, newest_first[1])).replies == ()


async def test_takes_for_the_newest_the_one_that_went_last(stores):
    waited, overtook = new_message(), new_message(created_at=NOW + timedelta(seconds=10))
    first, second = await stores.send(waited, overtook, at=NOW + timedelta(seconds=20))
    await stores.messages.finish(
        [
            finished(first, finished_at=NOW + timedelta(minutes=30)),
            finished(second, finished_at=LATER),
        ]
    )

    added = await stores.add(said())

    assert added.reply.in_reply_to.id == waited.id
    assert added.reply.in_reply_to.sent_at == NOW + timedelta(minutes=30)


async def test_stores_a_repeat_once_and_announces_it_once(stores):
    message = new_message()
    await stores.send(message)
    first = said()

    added = await stores.add(first, announce=told_of)
    newer = new_message(created_at=LATER)
    await stores.send(newer, at=LATER)
    repeat = await stores.add(replace(first, id=new_id("mo", NOW), text="NO"), announce=told_of)

    assert repeat == AddedReply(reply=added.reply, is_new=False)
    assert len(await stores.replies.list_inbound(TENANT, InboundFilter(), EVERYTHING)) == 1
    assert len(await stores.webhooks.list_deliveries(TENANT, WebhookFilter(), EVERYTHING)) == 1


async def test_stores_once_what_is_told_many_times_at_once(stores):
    await stores.send(new_message())
    reply = said("STOP")

    added = await asyncio.gather(*(stores.add(replace(reply, id=new_id("mo", NOW))) for _ in range(8)))

    assert sorted(each.is_new for each in added) == [False] * 7 + [True]
    assert len({each.reply.id for each in added}) == 1
    assert len({each.opt_out_id for each in added}) == 1
    assert len(await stores.replies.list_opt_outs(TENANT, None, EVERYTHING)) == 1


async def test_keeps_the_same_id_of_two_carriers_apart(stores):
    await stores.send(new_message())

    added = [await stores.add(said(carrier=carrier, carrier_reply_id="1")) for carrier in ("a", "b")]

    assert [each.is_new for each in added] == [True, True]


async def test_leaves_nothing_when_its_webhooks_can_not_be_stored(stores):
    await stores.send(new_message())
    reply = said("STOP")

    def fail(_reply: ReceivedReply) -> list[WebhookDelivery]:
        raise LookupError

    with pytest.raises(LookupError):
        await stores.add(reply, announce=fail)

    assert await stores.replies.list_opt_outs(TENANT, None, EVERYTHING) == []
    assert (await stores.add(reply)).is_new


@pytest.mark.parametrize(("age", "is_answered"), [(WEEK, True), (WEEK + timedelta(seconds=1), False)])
async def test_matches_within_the_window_only(stores, age, is_answered):
    message = new_message()
    (attempt,) = await stores.send(message)
    await stores.messages.finish([finished(attempt)])
    sent_at = finished(attempt).finished_at

    added = await stores.add(said(received_at=sent_at + age))

    assert (added.reply.in_reply_to is not None) == is_answered


async def test_matches_each_message_within_its_own_integrations_window(stores):
    patient = new_message(integration_id="wkh_patient")
    hasty = new_message(integration_id="wkh_hasty", created_at=NOW + timedelta(seconds=1))
    await stores.send(patient, hasty, at=NOW + timedelta(seconds=2))
    windows = {"wkh_patient": LONGEST_WINDOW, "wkh_hasty": timedelta(minutes=5)}

    added = await stores.add(
        said(received_at=NOW + timedelta(days=29)), window_of=lambda message: windows[message.integration_id]
    )

    assert added.reply.in_reply_to.id == patient.id
    assert added.reply.other_candidates == ()


async def test_matches_across_carriers(stores):
    message = new_message()
    await stores.send(message, carrier="main")

    added = await stores.add(said(carrier="backup"))

    assert added.reply.in_reply_to.id == message.id


@pytest.mark.parametrize(
    ("sender", "recipient"), [("+6598765432", "+6598765432"), ("72345", "72345"), ("6598765432", "+6598765432")]
)
async def test_knows_our_number_however_it_is_written(stores, sender, recipient):
    message = new_message()
    await stores.send(message, sender=sender)

    added = await stores.add(said(recipient=recipient))

    assert added.reply.in_reply_to.id == message.id


@pytest.mark.parametrize("changes", [{"sender": "+6581239999"}, {"recipient": OUR_OTHER}])
async def test_does_not_match_what_went_another_way(stores, changes):
    await stores.send(new_message())

    assert (await stores.add(said(**changes))).reply.in_reply_to is None


async def test_does_not_match_what_no_carrier_has(stores):
    refused, again, waiting = (new_message() for _ in range(3))
    first, second = await stores.send(refused, again)
    failure = Failure(reason=FailureReason.CARRIER_REJECTED)
    await stores.messages.finish(
        [
            finished(first, outcome=Outcome.REFUSED, status=Status.FAILED, failure=failure),
            finished(
                second,
                outcome=Outcome.TRY_LATER,
                status=Status.QUEUED,
                failure=failure,
                retry_at=NOW + timedelta(hours=2),
            ),
        ]
    )
    await stores.messages.add([waiting])

    assert (await stores.add(said())).reply.in_reply_to is None


@pytest.mark.parametrize("outcome", [None, Outcome.UNKNOWN])
async def test_matches_what_a_carrier_may_have(stores, outcome):
    message = new_message()
    (attempt,) = await stores.send(message)
    if outcome:
        await stores.messages.finish([finished(attempt, outcome=outcome, status=Status.UNKNOWN)])

    assert (await stores.add(said())).reply.in_reply_to.id == message.id


async def test_matches_an_attempt_in_doubt_although_a_later_one_had_another_sender(stores):
    message = new_message()
    (attempt,) = await stores.send(message)
    retry_at = NOW + timedelta(seconds=5)
    await stores.messages.finish([finished(attempt, outcome=Outcome.UNKNOWN, status=Status.SENDING, retry_at=retry_at)])
    (second,) = await stores.send(sender=OUR_OTHER, at=retry_at)
    await stores.messages.finish([finished(second)])

    added = [await stores.add(said(recipient=number)) for number in (OURS, OUR_OTHER)]

    assert [each.reply.in_reply_to.id for each in added] == [message.id] * 2


async def test_matches_what_went_from_a_number_that_the_carrier_chose(stores):
    message = new_message()
    await stores.send(message, sender="", carrier="pool")

    added = [await stores.add(said(carrier=carrier)) for carrier in ("pool", "other")]

    assert added[0].reply.in_reply_to.id == message.id
    assert added[1].reply.in_reply_to is None


async def test_does_not_show_one_tenant_the_messages_of_another(stores):
    await stores.send(new_message(tenant_id="ten_b"))
    message = new_message(created_at=NOW + timedelta(seconds=1))
    await stores.send(message, at=NOW + timedelta(seconds=1))

    added = await stores.add(said())

    assert added.reply.in_reply_to.id == message.id
    assert added.reply.other_candidates == ()


async def test_gives_an_unmatched_reply_to_the_only_tenant_that_ever_sent_from_the_number(stores):
    await stores.send(new_message(to="+6581111111"))

    added = await stores.add(said())

    assert added.reply.in_reply_to is None
    assert added.reply.tenant_id == TENANT


async def test_remembers_who_sent_from_a_number_beyond_the_message(stores):
    message = new_message(to="+6581111111")
    (attempt,) = await stores.send(message)
    await stores.messages.finish([finished(attempt)])
    assert await stores.messages.remove_finished(0, NOW + timedelta(days=1), 10) == 1

    assert (await stores.add(said())).reply.tenant_id == TENANT


async def test_gives_an_unmatched_reply_to_nobody_when_several_send_from_the_number_or_none(stores):
    await stores.send(new_message(to="+6581111111"), new_message(to="+6581111111", tenant_id="ten_b"))

    added = [await stores.add(said(recipient=number)) for number in (OURS, OUR_OTHER)]

    assert [each.reply.tenant_id for each in added] == ["", ""]


async def test_lists_what_matches_newest_first_and_by_pages(stores):
    message = new_message()
    await stores.send(message)
    replies = [(await stores.add(said(str(n), received_at=NOW + timedelta(minutes=n // 2)))).reply for n in range(5)]
    stranger = (await stores.add(said(sender="+6585550000", received_at=NOW + timedelta(hours=2)))).reply

    listed = await stores.replies.list_inbound(TENANT, InboundFilter(), EVERYTHING)
    pages: list[ReceivedReply] = []
    while page := await stores.replies.list_inbound(
        TENANT,
        InboundFilter(),
        PageRequest(size=2, after=(int(pages[-1].received_at.timestamp() * 1000), pages[-1].id) if pages else None),
    ):
        pages += page

    assert pages == listed == sorted([*replies, stranger], key=lambda each: (each.received_at, each.id), reverse=True)
    assert await stores.replies.list_inbound("ten_b", InboundFilter(), EVERYTHING) == []
    assert await stores.replies.list_inbound(TENANT, InboundFilter(sender="+6585550000"), EVERYTHING) == [stranger]
    assert await stores.replies.list_inbound(TENANT, InboundFilter(recipient=OUR_OTHER), EVERYTHING) == []
    answers = await stores.replies.list_inbound(TENANT, InboundFilter(message_id=message.id), EVERYTHING)
    assert {each.id for each in answers} == {each.id for each in replies}
    within = InboundFilter(received_after=NOW + timedelta(minutes=1), received_before=NOW + timedelta(minutes=2))
    assert {each.text for each in await stores.replies.list_inbound(TENANT, within, EVERYTHING)} == {"2", "3"}


async def test_forgets_old_unmatched_replies_and_leaves_the_others_to_their_messages(stores):
    await stores.send(new_message())
    matched = (await stores.add(said())).reply
    for minutes in range(3):
        await stores.add(said(sender="+6585550000", received_at=NOW + timedelta(minutes=minutes)))

    removed = [await stores.replies.remove_unmatched(NOW + timedelta(minutes=2), 1) for _ in range(3)]

    assert removed == [1, 1, 0]
    left = await stores.replies.list_inbound(TENANT, InboundFilter(), EVERYTHING)
    assert {each.sender for each in left} == {"+6585550000", matched.sender}


async def test_binds_an_opt_out_for_every_tenant_and_sends_nothing_more_that_way(stores):
    await stores.send(new_message())
    queued = new_message(created_at=LATER)
    await stores.messages.add([queued])

    added = await stores.add(said(" Stop! "))
    mine, others, elsewhere = new_message(), new_message(tenant_id="ten_b"), new_message(to="+6581111111")
    started = await stores.send(mine, others, elsewhere, at=LATER)

    assert [attempt.message.id for attempt in started] == [elsewhere.id]
    for message in (queued, mine, others):
        found = await stores.messages.get(message.tenant_id, message.id)
        assert (found.status, found.attempts, found.failure.reason) == (
            Status.SUPPRESSED,
            0,
            FailureReason.OPTED_OUT,
        )
    assert added.reply.keyword == "stop"
    (opt_out,) = await stores.replies.list_opt_outs(TENANT, None, EVERYTHING)
    assert opt_out.id == added.opt_out_id
    assert (opt_out.ours, opt_out.theirs, opt_out.source) == (OURS, THEIRS, OptOutSource.REPLY)
    assert (opt_out.word, opt_out.reply_id) == (" Stop! ", added.reply.id)
    assert opt_out.created_at == added.reply.received_at


async def test_lets_other_numbers_write_to_somebody_who_has_opted_out_from_one(stores):
    await stores.send(new_message())
    await stores.add(said("STOP"))

    assert len(await stores.send(new_message(), sender=OUR_OTHER, at=LATER)) == 1


async def test_sends_what_goes_despite_an_opt_out(stores):
    await stores.send(new_message())
    await stores.add(said("STOP"))

    assert len(await stores.send(new_message(despite_opt_out=True), at=LATER)) == 1


async def test_does_not_recall_a_message_that_is_being_sent_and_does_not_send_it_again(stores):
    message = new_message()
    (attempt,) = await stores.send(message)

    await stores.add(said("STOP"))
    retry_at = NOW + timedelta(seconds=5)
    failure = Failure(reason=FailureReason.CARRIER_UNAVAILABLE)
    kept = await stores.messages.finish(
        [finished(attempt, outcome=Outcome.TRY_LATER, status=Status.QUEUED, failure=failure, retry_at=retry_at)]
    )

    assert kept == [True]
    assert await stores.send(at=retry_at) == []
    assert await stores.status(message) is Status.SUPPRESSED


async def test_takes_the_word_of_a_carrier_that_has_a_suppressed_message_after_all(stores):
    message = new_message()
    (attempt,) = await stores.send(message)
    await stores.add(said("STOP"))
    retry_at = NOW + timedelta(seconds=5)
    await stores.messages.finish([finished(attempt, outcome=Outcome.UNKNOWN, status=Status.SENDING, retry_at=retry_at)])
    await stores.send(at=retry_at)
    assert await stores.status(message) is Status.SUPPRESSED

    await stores.messages.apply_receipts([receipt_for(message, Status.DELIVERED, None)])

    assert await stores.status(message) is Status.DELIVERED


async def test_says_only_once_that_somebody_has_opted_out(stores):
    await stores.send(new_message())

    added = [await stores.add(said("STOP")) for _ in range(3)]

    assert [bool(each.opt_out_id) for each in added] == [True, False, False]
    assert [each.reply.keyword for each in added] == ["stop"] * 3


@pytest.mark.parametrize("word", ["START", "yes"])
async def test_lifts_an_opt_out_when_the_person_asks_for_it(stores, word):
    await stores.send(new_message())
    await stores.add(said("STOP"))

    added = await stores.add(said(word))

    assert (added.reply.keyword, added.opt_out_id) == ("start", "")
    assert await stores.replies.list_opt_outs(TENANT, None, EVERYTHING) == []
    assert len(await stores.send(new_message(), at=LATER)) == 1


async def test_takes_a_word_that_changes_something_as_said_again_where_its_id_is_made_of_what_it_says(stores):
    await stores.send(new_message())
    stop, start = (said(word, carrier_reply_id=f"made of {word}", has_own_id=False) for word in ("STOP", "START"))

    told = [await stores.add(replace(each, id=new_id("mo", NOW))) for each in (stop, stop, start, start, stop, stop)]

    assert [each.is_new for each in told] == [True, False, True, False, True, False]
    assert await stores.send(new_message(), at=LATER) == []
    (opt_out,) = await stores.replies.list_opt_outs(TENANT, None, EVERYTHING)
    assert (opt_out.id, opt_out.reply_id) == (told[4].opt_out_id, told[4].reply.id)


async def test_does_not_take_a_word_that_the_carrier_tells_again_as_said_again(stores):
    await stores.send(new_message())
    stop = said("STOP")
    await stores.add(stop)
    await stores.add(said("START"))

    assert not (await stores.add(replace(stop, id=new_id("mo", NOW)))).is_new

    assert len(await stores.send(new_message(), at=LATER)) == 1


@pytest.mark.parametrize(("text", "keyword"), [("HELP", "help"), ("yes", ""), ("stop by at five", "")])
async def test_binds_nothing_for_other_words(stores, text, keyword):
    await stores.send(new_message())

    added = await stores.add(said(text))

    assert (added.reply.keyword, added.opt_out_id) == (keyword, "")
    assert await stores.replies.list_opt_outs(TENANT, None, EVERYTHING) == []


async def test_binds_words_of_the_installation(stores):
    await stores.send(new_message())

    assert (await stores.add(said("ARRET"), words=OptOutWords(["arret"]))).opt_out_id


async def test_binds_the_unnamed_sender_where_the_carrier_chose_the_number(stores):
    await stores.send(new_message(), sender="", carrier="pool")

    await stores.add(said("STOP", carrier="pool"))

    assert await stores.send(new_message(), sender="", carrier="pool", at=LATER) == []
    assert await stores.send(new_message(), at=LATER) == []
    bound = {each.ours for each in await stores.replies.list_opt_outs(TENANT, THEIRS, EVERYTHING)}
    assert bound == {"", OURS}


async def test_binds_and_frees_the_unnamed_sender_however_long_ago_the_last_message_went(stores):
    await stores.send(new_message(), sender="", carrier="pool")
    long_after = NOW + LONGEST_WINDOW * 2
    soon = {"created_at": long_after, "valid_until": long_after + timedelta(hours=4)}
    at = long_after + timedelta(minutes=1)

    await stores.add(said("STOP", carrier="pool", received_at=long_after))
    assert await stores.send(new_message(**soon), sender="", carrier="pool", at=at) == []

    await stores.add(said("START", carrier="pool", received_at=long_after))
    assert len(await stores.send(new_message(**soon), sender="", carrier="pool", at=at)) == 1


@pytest.mark.parametrize("word", ["YES", "START"])
async def test_a_word_to_a_named_number_does_not_lift_the_opt_out_from_the_unnamed_sender(stores, word):
    await stores.send(new_message(), sender="", carrier="pool")
    await stores.add(said("STOP", carrier="pool"))
    long_after = NOW + LONGEST_WINDOW * 2
    soon = {"created_at": long_after, "valid_until": long_after + timedelta(hours=4)}
    at = long_after + timedelta(minutes=1)

    await stores.send(new_message(**soon), sender=OUR_OTHER, carrier="pool", at=at)
    await stores.add(said(word, carrier="pool", recipient=OUR_OTHER, received_at=at))

    assert await stores.send(new_message(**soon), sender="", carrier="pool", at=at) == []


async def test_lifts_what_a_word_to_the_same_number_has_bound_though_somebody_has_named_that_since(stores):
    await stores.send(new_message(), sender="", carrier="pool")
    await stores.add(said("STOP", carrier="pool"))
    long_after = NOW + LONGEST_WINDOW * 2
    soon = {"created_at": long_after, "valid_until": long_after + timedelta(hours=4)}
    at = long_after + timedelta(minutes=1)

    await stores.send(new_message(to="+6590000001", **soon), sender=OURS, carrier="pool", at=at)
    await stores.add(said("START", carrier="pool", received_at=at))

    assert len(await stores.send(new_message(**soon), sender="", carrier="pool", at=at)) == 1


async def test_an_opt_out_from_a_number_that_somebody_has_named_binds_the_unnamed_sender_of_its_carrier_too(stores):
    await stores.send(new_message(tenant_id="ten_other", to="+6590000001"), sender="", carrier="pool")
    await stores.send(new_message(), sender=OUR_OTHER, carrier="pool")

    await stores.add(said("STOP", carrier="pool", recipient=OUR_OTHER))

    # The carrier may choose that very number.
    assert await stores.send(new_message(tenant_id="ten_other"), sender="", carrier="pool", at=LATER) == []
    await stores.add(said("START", carrier="pool", recipient=OUR_OTHER))
    assert len(await stores.send(new_message(), sender="", carrier="pool", at=LATER)) == 1


async def test_an_opt_out_from_another_carriers_number_leaves_the_unnamed_sender_alone(stores):
    await stores.send(new_message(), sender="", carrier="pool")
    await stores.send(new_message(), sender=OUR_OTHER)

    await stores.add(said("STOP", recipient=OUR_OTHER))

    assert len(await stores.send(new_message(), sender="", carrier="pool", at=LATER)) == 1


@pytest.mark.parametrize("named", [True, False])
async def test_a_word_to_one_number_of_a_pool_does_not_lift_what_was_said_to_another(stores, named):
    await stores.send(new_message(), sender="", carrier="pool")
    if named:
        await stores.send(new_message(to="+6590000001"), sender=OURS, carrier="pool")
    await stores.add(said("STOP", carrier="pool"))
    await stores.add(said("STOP", carrier="pool", recipient=OUR_OTHER))

    await stores.add(said("START", carrier="pool", recipient=OUR_OTHER))
    assert await stores.send(new_message(), sender="", carrier="pool", at=LATER) == []
    assert len(await stores.send(new_message(), sender=OUR_OTHER, carrier="pool", at=LATER)) == 1

    answer = await stores.add(said("YES", carrier="pool", recipient=OUR_OTHER))
    assert answer.reply.keyword == ""
    await stores.add(said("START", carrier="pool"))
    assert len(await stores.send(new_message(), sender="", carrier="pool", at=LATER)) == 1


async def test_an_opt_out_from_another_carriers_number_does_not_keep_a_pool_from_being_started_again(stores):
    await stores.send(new_message(), sender="", carrier="pool")
    await stores.send(new_message(), sender=OUR_OTHER)
    await stores.add(said("STOP", recipient=OUR_OTHER))
    await stores.add(said("STOP", carrier="pool"))

    await stores.add(said("START", carrier="pool"))

    assert len(await stores.send(new_message(), sender="", carrier="pool", at=LATER)) == 1
    assert await stores.send(new_message(), sender=OUR_OTHER, at=LATER) == []


async def test_binds_an_opt_out_of_somebody_whom_no_message_went_to(stores):
    await stores.add(said("STOP"))

    assert await stores.send(new_message()) == []


async def test_takes_a_carriers_refusal_for_an_opt_out(stores):
    message = new_message()
    (attempt,) = await stores.send(message)
    refused = finished(
        attempt,
        outcome=Outcome.REFUSED,
        status=Status.FAILED,
        carrier_message_id="",
        failure=Failure(reason=FailureReason.OPTED_OUT, carrier_code="21610"),
    )

    await stores.messages.finish([refused])
    await stores.messages.finish([refused])

    assert await stores.send(new_message(), at=LATER) == []
    (opt_out,) = await stores.replies.list_opt_outs(TENANT, None, EVERYTHING)
    assert (opt_out.ours, opt_out.theirs, opt_out.source) == (OURS, THEIRS, OptOutSource.CARRIER)
    assert (opt_out.word, opt_out.reply_id, opt_out.created_at) == ("", "", refused.finished_at)
    assert await stores.status(message) is Status.FAILED


async def test_takes_a_carriers_receipt_for_an_opt_out(stores):
    message = new_message()
    (attempt,) = await stores.send(message)
    await stores.messages.finish([finished(attempt)])
    opted_out = receipt_for(message, Status.UNDELIVERED, Failure(reason=FailureReason.OPTED_OUT))

    await stores.messages.apply_receipts([opted_out, opted_out])

    assert await stores.send(new_message(), at=LATER) == []
    (opt_out,) = await stores.replies.list_opt_outs(TENANT, None, EVERYTHING)
    assert (opt_out.ours, opt_out.source, opt_out.created_at) == (OURS, OptOutSource.CARRIER, NOW)


async def test_lists_a_tenants_opt_outs_by_pages_and_of_one_person(stores):
    for n in range(3):
        person = f"+658123000{n}"
        await stores.send(new_message(to=person), at=NOW + timedelta(minutes=n))
        await stores.add(said("STOP", sender=person, received_at=NOW + timedelta(minutes=n)))

    first = await stores.replies.list_opt_outs(TENANT, None, PageRequest(size=2))
    after = (int(first[-1].created_at.timestamp() * 1000), first[-1].id)
    rest = await stores.replies.list_opt_outs(TENANT, None, PageRequest(size=2, after=after))

    assert [each.theirs for each in [*first, *rest]] == ["+6581230002", "+6581230001", "+6581230000"]
    assert [each.theirs for each in await stores.replies.list_opt_outs(TENANT, "+6581230001", EVERYTHING)] == [
        "+6581230001"
    ]
    assert await stores.replies.list_opt_outs("ten_b", None, EVERYTHING) == []


async def test_deletes_only_the_tenants_own_opt_out(stores):
    await stores.send(new_message())
    opt_out_id = (await stores.add(said("STOP"))).opt_out_id

    deleted = [await stores.replies.delete_opt_out(tenant, opt_out_id) for tenant in ("ten_b", TENANT, TENANT)]

    assert deleted == [False, True, False]
    assert len(await stores.send(new_message(), at=LATER)) == 1


def receipt_for(message: NewMessage, status: Status, failure: Failure | None) -> Receipt:
    return Receipt(
        message_id=message.id,
        carrier="simulator",
        carrier_message_id="",
        status=status,
        failure=failure,
        detail="told",
        received_at=NOW,
    )

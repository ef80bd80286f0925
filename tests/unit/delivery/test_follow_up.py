"""What is done with the words of carriers, and whom is asked for them."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from servicekit.errors import UnavailableError
from services.delivery import follow_up
from services.delivery.carriers.base import Capability, CarrierReceipt, CarrierReply
from services.delivery.carriers.registry import Carriers
from services.delivery.domain import MAX_CARRIER_ID_LENGTH, MAX_DETAIL_LENGTH, Message, Receipt, Status
from services.delivery.follow_up import FollowUp
from services.delivery.receipt_rules import PARKED_FOR
from services.delivery.store import ReceiptResult
from tests.unit.delivery.test_dispatch import MESSAGE


class FakeStore:
    """Remembers what it is given, and has messages that carriers said nothing of."""

    def __init__(self) -> None:
        self.batches: list[list[Receipt]] = []
        self.result = ReceiptResult.APPLIED
        self.is_down = False
        self.sent: list[Message] = []
        self.doubtful: list[Message] = []
        self.settled_since = []
        self.has_young = False

    async def apply_receipts(self, receipts):
        await asyncio.sleep(0)
        if self.is_down:
            raise UnavailableError("The database can not be used just now.")
        self.batches.append(list(receipts))
        return [self.result for _ in receipts]

    async def in_doubt(self, carrier, *, unchanged_since, after, limit):
        return _page(self.doubtful, carrier, after, limit)

    async def awaiting_receipt(self, carrier, *, sent_after, sent_before, after, limit):
        if self.is_down:
            raise UnavailableError("The database can not be used just now.")
        between = [message for message in self.sent if sent_after < message.sent_at < sent_before]
        return _page(between, carrier, after, limit)

    async def has_parked(self, *, since):
        return self.has_young

    async def settle_parked(self, limit, *, since):
        self.settled_since.append(since)
        return 3


def _page(messages: list[Message], carrier: str, after: Message | None, limit: int) -> list[Message]:
    own = [message for message in messages if message.carrier == carrier]
    return own[own.index(after) + 1 if after else 0 :][:limit]


class AskedCarrier:
    """Can be asked, and says what it is told to."""

    kind = "scripted"
    sender = "+6598765432"
    capability = Capability.RECONCILABLE

    def __init__(self, name: str = "main", *, can_look_up: bool = True) -> None:
        self.name = name
        self.can_look_up = can_look_up
        self.answers: dict[str, CarrierReceipt | Exception] = {}
        self.asked: list[str] = []

    async def look_up(self, message):
        self.asked.append(message.message_id)
        answer = self.answers.get(message.message_id)
        if isinstance(answer, Exception):
            raise answer
        return answer


def told(**changes: object) -> CarrierReceipt:
    return replace(
        CarrierReceipt(status=Status.DELIVERED, failure=None, detail="done", carrier_message_id="c-1"), **changes
    )


def waiting(count: int, carrier: str = "main") -> list[Message]:
    sent_at = MESSAGE.created_at - timedelta(seconds=3)
    return [replace(MESSAGE, id=f"{carrier}-{number}", carrier=carrier, sent_at=sent_at) for number in range(count)]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def carrier() -> AskedCarrier:
    return AskedCarrier()


@pytest.fixture
def taken() -> list[tuple[str, CarrierReply]]:
    return []


@pytest.fixture
def following(store, carrier, clock, taken) -> FollowUp:
    async def take(name: str, reply: CarrierReply) -> None:
        taken.append((name, reply))

    return FollowUp(store=store, carriers=Carriers(carrier), clock=clock, replies=take)


async def test_receipts_that_come_together_share_a_transaction(following, store):
    await asyncio.gather(*(following.receipt("main", told(carrier_message_id=f"c-{n}")) for n in range(50)))

    assert [len(batch) for batch in store.batches] == [50]
    assert {(each.carrier, each.carrier_message_id) for each in store.batches[0]} == {
        ("main", f"c-{n}") for n in range(50)
    }


async def test_a_receipt_that_is_not_on_disk_is_not_taken_in(following, store):
    store.is_down = True

    with pytest.raises(UnavailableError):
        await following.receipt("main", told())


@pytest.mark.parametrize("result", ReceiptResult)
async def test_each_receipt_is_logged_in_one_line_that_says_what_came_of_it(following, store, result):
    store.result = result

    with capture_logs() as lines:
        await following.receipt("main", told(detail="to +6581230000: hello"))

    (line,) = lines
    assert line["event"] == follow_up._LOGGED[result]
    assert line["carrier"] == "main"
    assert line["carrier_message_id"] == "c-1"
    assert line["log_level"] == ("debug" if result is ReceiptResult.APPLIED else "info")
    assert "81230000" not in str(line)


async def test_what_no_database_takes_is_taken_out_of_a_carriers_words(following, store):
    await following.receipt("main", told(carrier_message_id="c\0-1" + "x" * 300, detail="a\0\ud800" + "y" * 600))

    (receipt,) = store.batches[0]
    assert receipt.carrier_message_id == ("c-1" + "x" * 300)[:MAX_CARRIER_ID_LENGTH]
    assert receipt.detail == ("a?" + "y" * 600)[:MAX_DETAIL_LENGTH]


async def test_hands_replies_on(following, taken):
    reply = CarrierReply(carrier_reply_id="r-1", sender="+6581230000", recipient="+6598765432", text="YES")

    await following.reply("main", reply)

    assert taken == [("main", reply)]


async def test_asks_for_messages_in_doubt_and_for_sent_ones(following, store, carrier):
    store.doubtful, store.sent = waiting(3)[:1], waiting(3)[1:]
    carrier.answers["main-1"] = told(message_id="main-1")

    assert await following.look_up_missing() == 1

    assert carrier.asked == ["main-0", "main-1", "main-2"]
    assert [each.message_id for each in store.batches[0]] == ["main-1"]


async def test_messages_that_a_carrier_never_settles_starve_no_others(following, store, carrier, clock, monkeypatch):
    monkeypatch.setattr(follow_up, "LOOK_UPS_IN_ROUND", 10)
    store.sent = waiting(25)

    rounds = []
    for _ in range(4):
        await following.look_up_missing()
        clock.advance(2)
        rounds.append(len(carrier.asked))

    assert rounds == [10, 20, 25, 35]
    assert carrier.asked[:25] == [message.id for message in store.sent]
    assert carrier.asked[25:] == carrier.asked[:10]


async def test_asks_about_a_message_less_and_less_often_and_in_the_end_no_more(following, store, carrier, clock):
    (message,) = store.sent = waiting(1)
    asked_at = []

    while (age := (clock.now() - message.sent_at).total_seconds()) < 4 * 86_400:
        before = len(carrier.asked)
        await following.look_up_missing()
        if len(carrier.asked) > before:
            asked_at.append(age)
        clock.advance(2 if age < 3600 else 60)

    assert asked_at[:3] == [3, 5, 7]
    gaps = [(later - earlier) / earlier for earlier, later in itertools.pairwise(asked_at) if earlier > 60]
    assert 0.1 < min(gaps) < max(gaps) < 0.3
    assert 2 * 86_400 < asked_at[-1] < 3 * 86_400


async def test_makes_up_for_the_turn_in_which_the_database_was_away(following, store, carrier, clock):
    store.sent = waiting(1)
    for _ in range(1800):
        await following.look_up_missing()
        clock.advance(2)
    asked = len(carrier.asked)

    store.is_down = True
    for _ in range(450):  # a quarter of its age, in which it would have been asked about once
        with pytest.raises(UnavailableError):
            await following.look_up_missing()
        clock.advance(2)
    store.is_down = False
    await following.look_up_missing()

    assert len(carrier.asked) == asked + 1


async def test_goes_on_behind_the_page_before_which_the_database_was_away(
    following, store, carrier, clock, monkeypatch
):
    monkeypatch.setattr(follow_up, "LOOK_UPS_IN_ROUND", 10)
    store.sent = waiting(15)

    await following.look_up_missing()
    store.is_down = True
    with pytest.raises(UnavailableError):
        await following.look_up_missing()
    store.is_down = False
    await following.look_up_missing()

    assert carrier.asked == [message.id for message in store.sent]


async def test_a_process_that_has_just_started_asks_about_all(store, carrier, clock):
    store.sent = waiting(3)
    clock.advance(86_400)

    for _ in range(2):
        await FollowUp(store=store, carriers=Carriers(carrier), clock=clock, replies=None).look_up_missing()

    assert len(carrier.asked) == 6


async def test_one_carriers_backlog_delays_no_other_carriers(store, clock, monkeypatch):
    monkeypatch.setattr(follow_up, "LOOK_UPS_IN_ROUND", 10)
    flooded, other, mute = AskedCarrier("flooded"), AskedCarrier("other"), AskedCarrier("mute", can_look_up=False)
    store.sent = [*waiting(40, "flooded"), *waiting(2, "other"), *waiting(2, "mute")]

    await FollowUp(store=store, carriers=Carriers(flooded, other, mute), clock=clock, replies=None).look_up_missing()

    assert [len(carrier.asked) for carrier in (flooded, other, mute)] == [10, 2, 0]


async def test_one_failing_look_up_does_not_keep_the_others_from_being_asked(following, store, carrier):
    store.sent = waiting(3)
    carrier.answers = {"main-0": RuntimeError("password=hunter2"), "main-2": told(message_id="main-2")}

    with capture_logs() as lines:
        assert await following.look_up_missing() == 1

    assert len(carrier.asked) == 3
    assert lines[0]["event"] == "look-up failed"
    assert "hunter2" not in str(lines)


async def test_a_look_up_that_hangs_is_given_up(following, store, carrier, monkeypatch):
    monkeypatch.setattr(follow_up, "LOOK_UP_CALL_SECONDS", 0)
    store.sent = waiting(1)

    async def hang(_message):
        await asyncio.Event().wait()

    carrier.look_up = hang

    assert await following.look_up_missing() == 0


async def test_sweeps_what_is_young_and_now_and_then_everything(following, store, clock):
    store.has_young = True

    settled = [await following.settle_parked() for _ in range(follow_up.SWEEPS_UNTIL_FULL + 1)]

    ages = [clock.now() - since for since in store.settled_since]
    assert set(settled) == {3}
    assert ages[0] == ages[-1] == PARKED_FOR
    assert set(ages[1:-1]) == {timedelta(minutes=2)}


async def test_sweeps_only_now_and_then_while_it_has_parked_nothing(following, store):
    for _ in range(follow_up.SWEEPS_UNTIL_FULL + 1):
        await following.settle_parked()

    assert len(store.settled_since) == 2


@pytest.mark.parametrize("before", ["the start", "the sweep"])
async def test_sweeps_while_a_young_receipt_may_be_parked(following, store, clock, before):
    store.has_young = before == "the start"
    await following.settle_parked()
    if before == "the sweep":
        store.result = ReceiptResult.PARKED
        await following.receipt("main", told())

    clock.advance(follow_up.SETTLED_SOON.total_seconds() - 1)
    await following.settle_parked()
    while_young = len(store.settled_since)
    clock.advance(2)
    await following.settle_parked()

    assert while_young == len(store.settled_since) == 2

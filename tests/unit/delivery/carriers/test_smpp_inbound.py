"""Long inbound messages and the ids of replies: bounds, and what is taken for a repeat."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from services.delivery.carriers.smpp import assembly as parts
from services.delivery.carriers.smpp.assembly import Assembler, PartKey
from services.delivery.carriers.smpp.pdu import Address, Delivery, Tag
from services.delivery.carriers.smpp.reply_ids import ReplyIds, has_own_id
from services.delivery.carriers.smpp.text import Part

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)


def key(reference: int = 9, *, sender: str = "+6581230000", total: int = 2) -> PartKey:
    return PartKey(sender=sender, recipient="+6598765432", reference=("udh8", reference), total=total)


def part(number: int, content: bytes = b"x", *, reference: int = 9, total: int = 2) -> Part:
    return Part(reference=("udh8", reference), total=total, number=number, data_coding=0, content=content)


class Told(list):
    """Keeps what is told."""

    async def __call__(self, key, parts) -> None:
        self.append([each.content for each in parts])


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def assembler(clock, told):
    return Assembler(carrier="smsc", clock=clock, tell=told, at_once=True)


async def test_keeps_messages_of_different_senders_and_references_apart(assembler, told):
    await assembler.take(key(1), part(1, b"a", reference=1))
    await assembler.take(key(2), part(2, b"b", reference=2))
    await assembler.take(key(1, sender="+6581239999"), part(2, b"c", reference=1))

    assert told == []
    assert assembler.waiting == 3


async def test_tells_a_message_once_however_often_its_parts_come(assembler, told):
    for number in (1, 1, 2, 2, 1):
        assert await assembler.take(key(), part(number, bytes([number])))

    assert told == [[b"\1", b"\2"]]


async def test_tells_an_unfinished_message_when_its_reference_is_used_again(assembler, told):
    await assembler.take(key(), part(1, b"old"))
    await assembler.take(key(), part(1, b"new"))
    await assembler.take(key(), part(2, b"end"))

    assert told == [[b"old"], [b"new", b"end"]]


async def test_holds_a_bounded_number_of_messages_and_loses_none(assembler, told, monkeypatch):
    monkeypatch.setattr(parts, "MAX_MESSAGES", 5)

    for number in range(8):
        await assembler.take(key(number), part(1, bytes([number]), reference=number))

    assert assembler.waiting == 5
    assert told == [[b"\0"], [b"\1"], [b"\2"]]


async def test_holds_a_bounded_number_of_octets_and_loses_none(assembler, told, monkeypatch):
    monkeypatch.setattr(parts, "MAX_OCTETS", 1000)

    for number in range(8):
        await assembler.take(key(number), part(1, bytes(300), reference=number))

    assert assembler.waiting == 3
    assert len(told) == 5


async def test_stores_a_message_once_when_its_last_parts_come_together(clock):
    stored, go_on = [], asyncio.Event()

    async def tell(_, parts):
        await go_on.wait()
        stored.append(parts)

    assembler = Assembler(carrier="smsc", clock=clock, tell=tell, at_once=True)
    await assembler.take(key(), part(1))
    last = [asyncio.create_task(assembler.take(key(), part(2))) for _ in range(2)]
    await asyncio.sleep(0)

    go_on.set()

    assert await asyncio.gather(*last) == [True, True]
    assert len(stored) == 1


def delivery(content: bytes = b"YES", **changes) -> Delivery:
    fields = {
        "source": Address(ton=1, npi=1, text="6581230000"),
        "destination": Address(ton=1, npi=1, text="6598765432"),
        "esm_class": 0,
        "data_coding": 0,
        "content": content,
    }
    return Delivery(**{**fields, **changes})


def test_a_reply_that_was_not_answered_keeps_its_id():
    ids = ReplyIds()

    assert ids.id_of(delivery(), "link", NOW) == ids.id_of(delivery(), "link", NOW + timedelta(minutes=50))


def test_a_reply_that_comes_again_over_a_new_link_keeps_its_id():
    ids = ReplyIds()
    first = ids.id_of(delivery(), "link", NOW)
    ids.answered(delivery())

    assert ids.id_of(delivery(), "new link", NOW) == first


def test_a_reply_that_comes_again_after_a_crash_keeps_its_id():
    assert ReplyIds().id_of(delivery(), "link", NOW) == ReplyIds().id_of(delivery(), "other", NOW)


@pytest.mark.parametrize("later", [timedelta(seconds=1), timedelta(hours=2)])
def test_the_same_words_again_on_the_same_link_are_another_reply(later):
    ids = ReplyIds()
    first = ids.id_of(delivery(), "link", NOW)
    ids.answered(delivery())

    assert ids.id_of(delivery(), "link", NOW + later) != first


@pytest.mark.parametrize(
    "changes",
    [
        {"content": b"NO"},
        {"data_coding": 8},
        {"tlvs": {0x1400: b"1"}},
        {"destination": Address(ton=0, npi=0, text="1")},
    ],
)
def test_other_words_are_another_reply(changes):
    ids = ReplyIds()

    assert ids.id_of(delivery(), "link", NOW) != ids.id_of(delivery(**changes), "link", NOW)


@pytest.mark.parametrize("changes", [{"scheduled": "260612143200000+"}, {"tlvs": {Tag.RECEIPTED_MESSAGE_ID: b"77\0"}}])
def test_an_smscs_own_time_or_id_tells_repeats_for_ever(changes):
    first = ReplyIds().id_of(delivery(**changes), "link", NOW)

    assert ReplyIds().id_of(delivery(**changes), "link", NOW + timedelta(days=2)) == first
    assert has_own_id(delivery(**changes))

"""What is done with an inbound message, and how its keyword is answered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from servicekit.errors import UnavailableError
from servicekit.ids import is_id
from services.delivery.answer_keywords import CONFIRMED_FOR, HELPED_FOR, AnswerKeywords
from services.delivery.carriers.base import CarrierReply
from services.delivery.optouts import OptOutWords
from services.delivery.receive_reply import ReceiveReply
from services.delivery.replies import ReceivedReply
from services.delivery.reply_store import AddedReply
from tests.conftest import FixedClock

TOLD = CarrierReply(carrier_reply_id="r-1", sender="+6581230000", recipient="+6598765432", text="my secret")
REPLY = ReceivedReply(
    id="mo_1",
    tenant_id="ten_a",
    sender="+6581230000",
    recipient="+6598765432",
    text="STOP",
    received_at=FixedClock().now(),
    in_reply_to=None,
    keyword="stop",
    carrier="main",
)
OPTED_OUT = AddedReply(reply=REPLY, opt_out_id="opt_1")
ASKED_FOR_HELP = AddedReply(reply=replace(REPLY, text="HELP", keyword="help"))


class FakeStore:
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.told = []
        self.is_down = False

    async def add_reply(self, reply, *, window_of, announce, words):
        if self.is_down:
            raise UnavailableError("The database can not be used just now.")
        self.told.append(reply)
        return AddedReply(reply=replace(REPLY, sender=reply.sender, text=reply.text, keyword=""))


class FakeAccepting:
    """Remembers what is to be sent."""

    def __init__(self) -> None:
        self.wanted = []

    async def accept(self, submissions):
        self.wanted += submissions
        return []


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def answered() -> list[AddedReply]:
    return []


@pytest.fixture
def receive(store, clock, answered) -> ReceiveReply:
    async def answer(added: AddedReply) -> None:
        answered.append(added)

    return ReceiveReply(
        store=store,
        clock=clock,
        words=OptOutWords(),
        window_of=lambda _message: None,
        announce=lambda _reply: (),
        answer=answer,
    )


@pytest.fixture
def accepting() -> FakeAccepting:
    return FakeAccepting()


@pytest.fixture
def answer(accepting) -> AnswerKeywords:
    return AnswerKeywords(accepting=accepting, confirmation="You will hear no more.", help_text="Call +65 6000 0000.")


async def test_stores_a_reply_with_numbers_in_one_spelling(receive, store, clock):
    await receive("main", replace(TOLD, sender="6581230000", recipient="65 9876 5432"))

    (told,) = store.told
    assert is_id(told.id, "mo")
    assert (told.sender, told.recipient) == ("+6581230000", "+6598765432")
    assert (told.carrier, told.carrier_reply_id, told.received_at) == ("main", "r-1", clock.now())


async def test_takes_out_what_no_database_takes(receive, store):
    await receive("main", replace(TOLD, text="Y\0ES\ud800", carrier_reply_id="r\0-1"))

    assert (store.told[0].text, store.told[0].carrier_reply_id) == ("YES?", "r-1")


async def test_answers_the_keyword_of_what_is_on_disk(receive, answered):
    await receive("main", TOLD)

    assert [each.reply.text for each in answered] == ["my secret"]


async def test_a_reply_that_is_not_on_disk_is_not_taken_in(receive, store, answered):
    store.is_down = True

    with pytest.raises(UnavailableError):
        await receive("main", TOLD)

    assert answered == []


async def test_logs_one_line_without_the_text_and_the_whole_number(receive):
    with capture_logs() as lines:
        await receive("main", TOLD)

    assert len(lines) == 1
    assert "secret" not in str(lines)
    assert "81230000" not in str(lines)


async def test_confirms_an_opt_out_from_the_number_that_it_is_about(answer, accepting):
    await answer(OPTED_OUT)

    (wanted,) = accepting.wanted
    assert (wanted.to, wanted.wanted_sender, wanted.text) == (
        "+6581230000",
        "+6598765432",
        "You will hear no more.",
    )
    assert wanted.despite_opt_out
    assert (wanted.tenant_id, wanted.integration_id) == ("ten_a", "")


async def test_a_repeat_of_the_word_asks_for_the_same_confirmation_and_no_other(answer, accepting):
    await answer(OPTED_OUT)
    await answer(replace(OPTED_OUT, is_new=False))

    first, second = (wanted.dedupe for wanted in accepting.wanted)
    assert first == second
    assert first.suppresses
    assert first.window == CONFIRMED_FOR


async def test_answers_help_once_an_hour_for_each_person_and_number(answer, accepting):
    for sender in ("+6581230000", "+6581230001"):
        await answer(replace(ASKED_FOR_HELP, reply=replace(ASKED_FOR_HELP.reply, sender=sender)))

    assert [wanted.text for wanted in accepting.wanted] == ["Call +65 6000 0000."] * 2
    assert all(wanted.dedupe.window == HELPED_FOR and wanted.dedupe.suppresses for wanted in accepting.wanted)
    assert len({wanted.dedupe.value for wanted in accepting.wanted}) == 2


@pytest.mark.parametrize(
    "added",
    [
        pytest.param(AddedReply(reply=REPLY), id="stop of somebody who has opted out before"),
        pytest.param(AddedReply(reply=replace(REPLY, keyword="start")), id="start"),
        pytest.param(AddedReply(reply=replace(REPLY, keyword="")), id="an ordinary text"),
        pytest.param(replace(OPTED_OUT, reply=replace(REPLY, tenant_id="")), id="nobody's"),
        pytest.param(replace(OPTED_OUT, reply=replace(REPLY, sender="72345")), id="from a short code"),
        pytest.param(replace(OPTED_OUT, reply=replace(REPLY, sender="ACME")), id="from a name"),
        pytest.param(replace(OPTED_OUT, reply=replace(REPLY, recipient="")), id="to no number"),
    ],
)
async def test_answers_nothing_else(answer, accepting, added):
    await answer(added)

    assert accepting.wanted == []


async def test_answers_nothing_without_texts(accepting):
    answer = AnswerKeywords(accepting=accepting, confirmation="", help_text="")

    await answer(OPTED_OUT)
    await answer(ASKED_FOR_HELP)

    assert accepting.wanted == []

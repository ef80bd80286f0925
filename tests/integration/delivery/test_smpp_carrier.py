"""The SMPP carrier against an SMSC that is made with another library: links, outcomes, receipts and replies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import struct
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from servicekit.clock import SystemClock
from servicekit.errors import UnavailableError
from services.delivery import service
from services.delivery.carriers.base import (
    Capability,
    CarrierReceipt,
    CarrierReply,
    OutboundMessage,
    Refused,
    Taken,
    TryLater,
    Unknown,
)
from services.delivery.carriers.registry import Carriers
from services.delivery.carriers.smpp.assembly import PATIENCE_SECONDS
from services.delivery.carriers.smpp.carrier import ANSWER_SECONDS, LEAVE_SECONDS, SmppCarrier
from services.delivery.carriers.smpp.link import (
    AnswerParts,
    BindAs,
    IdForm,
    LongMessages,
    MessageIdFormat,
    SmppLink,
)
from services.delivery.domain import FailureReason, Status
from tests.fakes.smsc import (
    HANGS,
    INVALID_DESTINATION,
    OK,
    QUEUE_FULL,
    THROTTLED,
    UDH,
    FakeSmsc,
    Treatment,
    decimal,
    hexadecimal,
)
from tests.integration.delivery.conftest import message_with
from textway.delivery.v1.messages_service_pb2 import SendMessageRequest

OURS = "6598765432"
THEIRS = "6581230000"
LONG = "0123456789" * 40  # three parts
TEMPORARY = 0x64
ENQUIRE_LINK = struct.pack(">IIII", 16, 0x15, 0, 77)


@dataclass
class Events:
    """Keeps what a carrier tells; `broken` makes the disk fail."""

    receipts: list[CarrierReceipt] = field(default_factory=list)
    replies: list[CarrierReply] = field(default_factory=list)
    broken: bool = False

    async def receipt(self, carrier: str, receipt: CarrierReceipt) -> None:
        if self.broken:
            raise UnavailableError("The database is down.")
        self.receipts.append(receipt)

    async def reply(self, carrier: str, reply: CarrierReply) -> None:
        if self.broken:
            raise UnavailableError("The database is down.")
        self.replies.append(reply)


@pytest.fixture
def events():
    return Events()


@pytest.fixture
async def smsc():
    async with FakeSmsc() as opened:
        yield opened


@pytest.fixture
async def connect(smsc, events, clock):
    """Start a carrier with some settings, and wait for its links unless it gets none."""
    started = []

    async def start(*, links: int = 1, **settings) -> SmppCarrier:
        link = SmppLink(
            name="smsc",
            sender=f"+{OURS}",
            host="127.0.0.1",
            port=smsc.port,
            system_id="textway",
            password="secret",
            system_type="VMA",
        )
        carrier = SmppCarrier(replace(link, **settings), clock, random=lambda: 1.0)
        started.append(carrier)
        await carrier.start(events)
        if links:
            await smsc.bound(links)
            await until(lambda: not carrier.last_error)
        return carrier

    yield start
    for carrier in started:
        await carrier.stop()


def message(number: int = 1, *, to: str = f"+{THEIRS}", text: str = "hello", sender: str = f"+{OURS}"):
    return OutboundMessage(message_id=f"msg_{number}", attempt_number=1, to=to, sender=sender, text=text)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def advance(clock, seconds: float, step: float = 0.5) -> None:
    """Let time pass in steps, and everything that is due happen."""
    for _ in range(round(seconds / step)):
        clock.advance(step)
        for _ in range(10):
            await asyncio.sleep(0)


async def pass_until(clock, condition) -> None:
    """Let time pass until something has happened."""
    async with asyncio.timeout(5):
        while not condition():
            clock.advance(0.25)
            await asyncio.sleep(0.002)


# --- Sending


async def test_binds_as_the_settings_say(smsc, connect):
    await connect()

    assert smsc.binds == [("bind_transceiver", b"textway", b"secret", b"VMA")]


async def test_submits_with_addresses_a_receipt_wish_and_a_validity(smsc, connect):
    carrier = await connect(validity_minutes=90)

    result = await carrier.send(message(sender="ACME"))

    (submit,) = smsc.submits
    assert isinstance(result, Taken)
    assert (submit.source, submit.destination) == ((5, 0, "ACME"), (1, 1, THEIRS))
    assert (submit.short_message, submit.data_coding, submit.esm_class) == (b"hello", 0, 0)
    assert (submit.registered_delivery, submit.validity_period) == (1, "000000013000000R")


async def test_sends_a_long_text_in_parts_with_headers_of_one_reference(smsc, connect):
    carrier = await connect()

    result = await carrier.send(message(text=LONG))

    headers = sorted(submit.short_message[:6] for submit in smsc.submits)
    assert [(header[:3], header[4:]) for header in headers] == [(b"\5\0\3", bytes([3, n])) for n in (1, 2, 3)]
    assert len({header[3] for header in headers}) == 1
    assert {submit.esm_class for submit in smsc.submits} == {UDH}
    assert b"".join(sorted_content(smsc)).decode() == LONG
    assert len(result.part_ids) == 3
    assert result.carrier_message_id == result.part_ids[0]


def sorted_content(smsc) -> list[bytes]:
    return [submit.short_message[6:] for submit in sorted(smsc.submits, key=lambda submit: submit.short_message[5])]


async def test_sends_a_long_text_whole_as_a_payload(smsc, connect):
    carrier = await connect(long_messages=LongMessages.PAYLOAD)

    result = await carrier.send(message(text="é" + "漢😀" * 60))

    (submit,) = smsc.submits
    assert isinstance(result, Taken)
    assert result.part_ids == ()
    assert (submit.short_message, submit.data_coding) == (b"", 8)
    assert submit.payload.decode("utf-16-be") == "é" + "漢😀" * 60


async def test_never_has_more_unanswered_than_the_window(smsc, connect):
    smsc.treat = lambda _: Treatment(delay_seconds=0.001)
    carrier = await connect(window=4)

    results = await asyncio.gather(*(carrier.send(message(number)) for number in range(40)))

    assert {type(result) for result in results} == {Taken}
    assert smsc.most_unanswered == 4


@pytest.mark.parametrize("status", [THROTTLED, QUEUE_FULL])
async def test_shrinks_the_window_when_throttled_and_recovers(smsc, connect, status):
    answer = Treatment(status=status)
    smsc.treat = lambda _: answer
    carrier = await connect(window=8)

    results = [await carrier.send(message(number)) for number in range(3)]
    answer = Treatment(delay_seconds=0.001)
    smsc.most_unanswered = 0
    await asyncio.gather(*(carrier.send(message(number)) for number in range(3)))
    shrunk_to = smsc.most_unanswered
    for _ in range(10):
        await asyncio.gather(*(carrier.send(message(number)) for number in range(8)))

    assert {result.failure.reason for result in results} == {FailureReason.THROTTLED}
    assert {type(result) for result in results} == {TryLater}
    assert all(result.after_seconds for result in results)
    assert shrunk_to <= 2  # 1, and one more with the first that is taken
    assert smsc.most_unanswered == 8


async def test_counts_a_submit_without_an_answer_as_unknown(smsc, connect, clock):
    carrier = await connect()
    sending = asyncio.create_task(carrier.send(message(to=f"+{HANGS}")))
    await until(lambda: smsc.submits)

    clock.advance(ANSWER_SECONDS)

    assert isinstance(await sending, Unknown)


async def test_reads_first_what_was_answered_while_the_process_stood_still(smsc, connect, clock):
    carrier = await connect()
    sending = asyncio.create_task(carrier.send(message(to=f"+{HANGS}")))
    await until(lambda: smsc.submits)

    smsc.links[0].send("submit_sm_resp", sequence=smsc.submits[0].sequence, message_id="c-1")
    clock.advance(ANSWER_SECONDS + 1)

    assert isinstance(await sending, Taken)


async def test_counts_a_submit_as_unknown_when_the_link_ends_before_its_answer(smsc, connect):
    smsc.treat = lambda _: Treatment(status=None, drops=True)
    carrier = await connect()

    result = await carrier.send(message())

    assert isinstance(result, Unknown)


async def test_knows_that_nothing_was_sent_while_the_window_was_full(smsc, connect, clock):
    carrier = await connect(window=1)
    hanging = asyncio.create_task(carrier.send(message(1, to=f"+{HANGS}")))
    await until(lambda: smsc.submits)
    waiting = asyncio.create_task(carrier.send(message(2)))
    await asyncio.sleep(0)

    clock.advance(LEAVE_SECONDS)

    result = await waiting
    assert isinstance(result, TryLater)
    assert result.failure.reason is FailureReason.CARRIER_UNAVAILABLE
    assert len(smsc.submits) == 1
    hanging.cancel()


async def test_knows_that_nothing_was_sent_without_a_link(smsc, connect, clock):
    smsc.bind_status = 0x0E
    carrier = await connect(links=0)

    result = await carrier.send(message())

    assert isinstance(result, TryLater)
    assert (result.failure.reason, result.failure.carrier_code) == (
        FailureReason.CARRIER_UNAVAILABLE,
        "ESME_RINVPASWD",
    )
    assert carrier.last_error == "the SMSC refused the bind: ESME_RINVPASWD"
    assert "secret" not in repr(carrier.__dict__) + result.detail


async def test_a_late_answer_makes_known_what_was_unknown_and_nothing_is_sent_again(smsc, connect, clock, events):
    open_now = asyncio.Event()

    async def late(_):
        await open_now.wait()
        return Treatment()

    smsc.treat, smsc.tells = late, False
    carrier = await connect()
    sending = asyncio.create_task(carrier.send(message()))
    await until(lambda: smsc.submits)
    clock.advance(ANSWER_SECONDS)
    first = await sending

    open_now.set()
    await until(lambda: events.receipts)
    again = await carrier.send(message())

    assert isinstance(first, Unknown)
    assert (events.receipts[0].message_id, events.receipts[0].status) == ("msg_1", Status.SENT)
    assert isinstance(again, Taken)
    assert len(smsc.submits) == 1


def answers_part_two(when):
    """Answer each part at once, but the second when something has happened."""

    async def treat(submit):
        if submit.short_message[5] == 2:
            await when.wait()
        return Treatment()

    return treat


async def test_a_late_answer_for_the_last_part_is_told_with_the_ids_of_all(smsc, connect, clock, events):
    open_now = asyncio.Event()
    smsc.treat, smsc.tells = answers_part_two(open_now), False
    carrier = await connect()
    sending = asyncio.create_task(carrier.send(message(text=LONG)))
    await until(lambda: len(smsc.submits) == 3)
    clock.advance(ANSWER_SECONDS)
    first = await sending

    open_now.set()
    await until(lambda: events.receipts)
    again = await carrier.send(message(text=LONG))

    assert isinstance(first, Unknown)
    (told,) = events.receipts
    assert (told.message_id, told.attempt_number, told.status) == ("msg_1", 1, Status.SENT)
    assert told.carrier_message_id == ""
    assert len(set(told.part_ids)) == 3
    assert isinstance(again, Taken)
    assert again.part_ids == told.part_ids
    assert len(smsc.submits) == 3


async def test_a_late_answer_to_an_older_attempt_is_told_of_the_last_one_which_left_out_what_was_taken(
    smsc, connect, clock, events
):
    open_now = asyncio.Event()
    smsc.treat, smsc.tells = answers_part_two(open_now), False
    carrier = await connect()
    for number, submits in ((1, 3), (2, 4)):
        sending = asyncio.create_task(carrier.send(replace(message(text=LONG), attempt_number=number)))
        await until(lambda submits=submits: len(smsc.submits) == submits)
        clock.advance(ANSWER_SECONDS)
        assert isinstance(await sending, Unknown)

    open_now.set()
    await until(lambda: events.receipts)

    assert {told.attempt_number for told in events.receipts} == {2}


async def test_a_late_answer_tells_nothing_while_another_part_is_missing(smsc, connect, clock, events):
    open_now = asyncio.Event()

    async def late(submit):
        if submit.short_message[5] == 2:
            await open_now.wait()
        if submit.short_message[5] == 3:
            await asyncio.Event().wait()
        return Treatment()

    smsc.treat, smsc.tells = late, False
    carrier = await connect()
    sending = asyncio.create_task(carrier.send(message(text=LONG)))
    await until(lambda: len(smsc.submits) == 3)
    clock.advance(ANSWER_SECONDS)
    await sending

    with structlog.testing.capture_logs() as logs:
        open_now.set()
        await until(lambda: any(line["event"] == "an answer came late" for line in logs))

    assert events.receipts == []


async def test_a_refused_first_part_keeps_the_others_from_being_sent(smsc, connect):
    smsc.treat = lambda _: Treatment(status=INVALID_DESTINATION)
    carrier = await connect()

    result = await carrier.send(message(text=LONG))

    assert isinstance(result, Refused)
    assert len(smsc.submits) == 1


async def test_goes_on_with_the_missing_parts_of_a_message(smsc, connect):
    throttled_once = iter([True])
    smsc.treat = lambda submit: Treatment(
        status=THROTTLED if submit.short_message[5] == 2 and next(throttled_once, False) else OK
    )
    carrier = await connect()

    first = await carrier.send(message(text=LONG))
    second = await carrier.send(message(text=LONG))

    assert isinstance(first, TryLater)
    assert isinstance(second, Taken)
    assert len(second.part_ids) == 3
    assert sorted(submit.short_message[5] for submit in smsc.submits) == [1, 2, 2, 3]
    assert len({submit.short_message[3] for submit in smsc.submits}) == 1


async def test_a_later_part_without_an_answer_makes_the_message_unknown(smsc, connect, clock):
    smsc.treat = lambda submit: Treatment(status=None if submit.short_message[5] == 3 else OK)
    carrier = await connect()
    sending = asyncio.create_task(carrier.send(message(text=LONG)))
    await until(lambda: len(smsc.submits) == 3)

    await advance(clock, ANSWER_SECONDS + 1)

    result = await sending
    assert isinstance(result, Unknown)
    assert "part 3 of 3" in result.detail


async def test_a_later_part_refused_for_good_refuses_the_message(smsc, connect):
    smsc.treat = lambda submit: Treatment(status=INVALID_DESTINATION if submit.short_message[5] == 2 else OK)
    carrier = await connect()

    result = await carrier.send(message(text=LONG))

    assert isinstance(result, Refused)
    assert "part 2 of 3" in result.detail


async def test_takes_no_notice_of_answers_that_are_repeated_or_that_nobody_waits_for(smsc, connect):
    smsc.treat = lambda _: Treatment(answers=3)
    carrier = await connect()
    smsc.links[0].send("submit_sm_resp", sequence=4711, message_id="1")

    results = [await carrier.send(message(number)) for number in range(3)]

    assert {type(result) for result in results} == {Taken}
    assert len({result.carrier_message_id for result in results}) == 3


async def test_refuses_a_sender_that_no_address_can_hold(smsc, connect):
    carrier = await connect()

    result = await carrier.send(message(sender="Größe"))

    assert isinstance(result, Refused)
    assert result.failure.reason is FailureReason.SENDER_REJECTED
    assert smsc.submits == []


# --- Links


async def test_comes_again_after_growing_pauses_when_the_bind_is_refused(smsc, connect, clock):
    smsc.bind_status = 0x0D
    carrier = await connect(links=0)
    times = []

    for binds in (1, 2, 3, 4):
        await pass_until(clock, lambda binds=binds: len(smsc.binds) == binds)
        times.append(clock.monotonic())
    smsc.bind_status = OK
    await pass_until(clock, lambda: not carrier.last_error)

    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert all(pause >= longest for pause, longest in zip(pauses, (1.0, 2.0, 4.0), strict=True))
    assert isinstance(await carrier.send(message()), Taken)


async def test_tells_which_link_is_missing_and_nothing_until_the_first_try_has_failed(smsc, connect, clock):
    smsc.bind_status = 0x0D
    carrier = await connect(links=0, bind=BindAs.PAIR)
    at_first = carrier.link_problem

    await until(lambda: carrier.link_problem and "bind_transmitter" in carrier.link_problem.detail)
    refused = carrier.link_problem
    smsc.bind_status = OK
    await pass_until(clock, lambda: carrier.link_problem is None)
    at = clock.now()
    next(link for link in smsc.links if link.bound_as == "bind_receiver").drop()
    await until(lambda: carrier.link_problem)

    assert at_first is None
    assert refused.detail == "no link (bind_transmitter): the SMSC refused the bind: ESME_RBINDFAIL"
    assert (carrier.link_problem.at, carrier.link_problem.detail.partition(":")[0]) == (at, "no link (bind_receiver)")


async def test_comes_again_after_a_lost_link(smsc, connect, clock):
    carrier = await connect()

    smsc.links[0].drop()
    await until(lambda: carrier.last_error)
    refused = await carrier.send(message(1))
    await pass_until(clock, lambda: not carrier.last_error)

    assert isinstance(refused, TryLater)
    assert refused.after_seconds == pytest.approx(1.0)
    assert isinstance(await carrier.send(message(2)), Taken)


async def test_asks_a_silent_smsc_whether_it_is_there_and_drops_a_dead_link(smsc, connect, clock):
    carrier = await connect(enquire_link_seconds=30)
    link = smsc.links[0]
    await advance(clock, 31)
    await until(lambda: [pdu.command for pdu in link.heard].count("enquire_link") == 1)
    await asyncio.sleep(0.02)
    assert not carrier.last_error

    smsc.answers_enquiries = False
    await pass_until(clock, lambda: carrier.last_error)

    assert carrier.last_error == "the SMSC did not answer an enquire_link"
    assert [pdu.command for pdu in link.heard].count("enquire_link") == 2


async def test_answers_what_it_does_not_know_and_stays_up(smsc, connect):
    carrier = await connect()
    link = smsc.links[0]

    link.send_raw(struct.pack(">IIII", 20, 0x103, 0, 5) + b"\0\0\0\0")  # data_sm
    link.send_raw(struct.pack(">IIII", 16, 0x8000ABCD, 0, 6))
    link.send_raw(ENQUIRE_LINK)
    await until(lambda: "enquire_link_resp" in [pdu.command for pdu in link.heard])

    nacks = [(pdu.sequence, pdu.status) for pdu in link.heard if pdu.command == "generic_nack"]
    assert nacks == [(5, 3)]
    assert isinstance(await carrier.send(message()), Taken)


@pytest.mark.parametrize("length", [0, 1, 15, 65_537, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
async def test_drops_a_link_that_sends_an_impossible_length(smsc, connect, clock, length):
    carrier = await connect()

    smsc.links[0].send_raw(struct.pack(">IIII", length, 5, 0, 1))

    await until(lambda: carrier.last_error == f"a PDU claims to have {length} octets")
    await pass_until(clock, lambda: not carrier.last_error)
    assert isinstance(await carrier.send(message()), Taken)


async def test_stays_up_whatever_is_in_the_pdus(smsc, connect, events):
    carrier = await connect()
    link, chance = smsc.links[0], random.Random(4)
    commands = [0x4, 0x5, 0x15, 0x80000004, 0x80000005, 0x80000009, 0x80000000, 0x102, 0x103, 0x7FFFFFFF]

    for sequence in range(2000):
        body = chance.randbytes(chance.choice([0, 1, 17, 60, 300]))
        if chance.random() < 0.5:
            body = b"\0\1\1658123\0\1\1659876\0" + bytes([chance.choice([0, 4, 0x40])]) + b"\0\0\0\0\0\0" + body
        header = struct.pack(
            ">IIII", 16 + len(body), chance.choice(commands), chance.choice([0, 0, 0x58, 0x4FF]), sequence
        )
        link.send_raw(header + body)
        if not sequence % 50:
            await asyncio.sleep(0)

    assert isinstance(await carrier.send(message(text="still here")), Taken)
    assert len(smsc.binds) == 1
    assert events.replies


async def test_drops_a_link_that_stays_in_the_middle_of_a_pdu(smsc, connect, clock):
    carrier = await connect(enquire_link_seconds=30)

    smsc.links[0].send_raw(struct.pack(">II", 400, 5))
    await pass_until(clock, lambda: carrier.last_error)

    assert carrier.last_error == "the SMSC did not answer an enquire_link"


async def test_answers_an_unreadable_delivery_with_a_permanent_error(smsc, connect):
    carrier = await connect()

    smsc.links[0].send_raw(struct.pack(">IIII", 20, 5, 0, 9) + b"\xff\xff\xff\xff")

    await until(lambda: smsc.answered)
    assert smsc.answered == [(9, 0x65)]
    assert not carrier.last_error


async def test_says_goodbye(smsc, connect):
    carrier = await connect()
    link = smsc.links[0]

    await carrier.stop()

    await until(lambda: link.heard[-1].command == "unbind")


async def test_sends_over_one_link_and_listens_on_another(smsc, connect, events):
    carrier = await connect(links=2, bind=BindAs.PAIR)

    await carrier.send(message())
    await until(lambda: events.receipts)

    assert sorted(bind[0] for bind in smsc.binds) == ["bind_receiver", "bind_transmitter"]
    assert smsc.submits[0].link.bound_as == "bind_transmitter"


# --- TLS


@pytest.fixture
def certificate(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "smsc")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "smsc.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
async def secure_smsc(smsc, certificate):
    await smsc.close()
    smsc.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    smsc.tls.load_cert_chain(certificate)
    smsc.port = 0
    await smsc.open()
    return smsc


async def test_binds_over_tls_with_the_authority_from_the_settings(secure_smsc, connect, certificate):
    carrier = await connect(tls=True, ca_file=str(certificate))

    assert isinstance(await carrier.send(message()), Taken)


async def test_does_not_bind_when_the_certificate_is_not_trusted(secure_smsc, connect):
    carrier = await connect(tls=True, links=0)

    result = await carrier.send(message())

    assert isinstance(result, TryLater)
    assert "certificate is not accepted" in carrier.last_error
    assert secure_smsc.binds == []


# --- Receipts


@pytest.mark.parametrize(
    ("submit_id", "receipt_id", "tlvs", "form"),
    [
        (hexadecimal, decimal, False, MessageIdFormat()),
        (hexadecimal, hexadecimal, False, MessageIdFormat()),
        (decimal, decimal, True, MessageIdFormat()),
        (decimal, hexadecimal, False, MessageIdFormat()),
        (hexadecimal, decimal, True, MessageIdFormat(submit=IdForm.HEX, receipt=IdForm.DECIMAL)),
        ((lambda n: f"A-{n}"), (lambda n: f"a-{n}"), False, MessageIdFormat(submit=IdForm.TEXT, receipt=IdForm.TEXT)),
    ],
    ids=["hex then decimal", "hex", "decimal with tlvs", "decimal then hex", "as set", "text"],
)
async def test_matches_a_receipt_by_the_id_however_it_is_written(
    smsc, connect, events, submit_id, receipt_id, tlvs, form
):
    smsc.submit_id, smsc.receipt_id, smsc.receipt_tlvs = submit_id, receipt_id, tlvs
    carrier = await connect(message_id_format=form)

    result = await carrier.send(message())
    await until(lambda: events.receipts)

    (receipt,) = events.receipts
    assert receipt.carrier_message_id == result.carrier_message_id
    assert (receipt.message_id, receipt.status, receipt.failure) == ("msg_1", Status.DELIVERED, None)


async def test_tells_a_receipt_that_comes_before_the_answer(smsc, connect, events):
    smsc.treat = lambda _: Treatment(early=True)
    carrier = await connect()

    result = await carrier.send(message())

    (receipt,) = events.receipts
    assert receipt.message_id == ""
    assert receipt.carrier_message_id == result.carrier_message_id


async def test_a_receipt_tells_of_a_message_whose_answer_was_lost(smsc, connect, clock, events):
    smsc.treat = lambda _: Treatment(status=None)
    carrier = await connect(receipts=True)
    sending = asyncio.create_task(carrier.send(message()))
    await until(lambda: smsc.submits)
    clock.advance(ANSWER_SECONDS)
    result = await sending

    await smsc.receipt(4711, smsc.submits[0])

    assert isinstance(result, Unknown)
    assert (events.receipts[0].message_id, events.receipts[0].status) == ("msg_1", Status.DELIVERED)


async def test_tells_every_repeat_of_a_receipt(smsc, connect, events):
    smsc.treat = lambda _: Treatment(receipts=2)
    carrier = await connect()

    await carrier.send(message())
    await until(lambda: len(events.receipts) == 2)

    assert events.receipts[0] == events.receipts[1]


async def test_tells_the_receipt_of_each_part(smsc, connect, events):
    carrier = await connect()

    result = await carrier.send(message(text=LONG))
    await until(lambda: len(events.receipts) == 3)

    assert {receipt.carrier_message_id for receipt in events.receipts} == set(result.part_ids)
    # One part's receipt names no message: it would be taken for a word on all of it.
    assert {receipt.message_id for receipt in events.receipts} == {""}


@pytest.mark.parametrize("state", ["ENROUTE", "DELIVRD"])
@pytest.mark.parametrize("receipts", [False, True])
async def test_sends_the_parts_that_are_missing_though_others_have_receipts(
    smsc, unstarted_world, owner, monkeypatch, state, receipts
):
    throttled_once = iter([True])
    smsc.treat = lambda submit: Treatment(
        status=THROTTLED if submit.short_message[5] == 2 and next(throttled_once, False) else OK, state=state
    )
    link = SmppLink(
        name="smsc", sender=f"+{OURS}", host="127.0.0.1", port=smsc.port, system_id="textway", receipts=receipts
    )
    carriers = Carriers(SmppCarrier(link, SystemClock()))
    monkeypatch.setattr(service, "configured_carriers", lambda *_: carriers)
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    await smsc.bound(1)

    sent = await unstarted_world.messages.SendMessage(SendMessageRequest(to=f"+{THEIRS}", text=LONG), metadata=owner)
    ended = "delivered" if state == "DELIVRD" else "sent"
    told = await message_with(unstarted_world.messages, owner, sent.id, ended)

    assert told.attempts == 2
    assert sorted(submit.short_message[5] for submit in smsc.submits) == [1, 2, 2, 3]


async def test_parts_of_texts_that_go_to_one_handset_at_once_are_told_apart(smsc, connect):
    carrier = await connect(window=32)
    texts = [f"<{number:03}>" * 60 for number in range(100)]

    await asyncio.gather(*(carrier.send(message(number, text=text)) for number, text in enumerate(texts)))

    shown, waiting = [], {}
    for submit in smsc.submits:  # as a handset does it: by sender, reference and how many there are
        header, content = submit.short_message[:6], submit.short_message[6:].decode()
        parts = waiting.setdefault((submit.source, header[3], header[4]), {})
        parts[header[5]] = content
        if len(parts) == header[4]:
            shown.append("".join(parts[number] for number in sorted(parts)))
            parts.clear()
    assert sorted(shown) == texts


async def test_keeps_the_smscs_code_when_a_message_could_not_be_delivered(smsc, connect, events):
    smsc.treat = lambda _: Treatment(state="UNDELIV")
    carrier = await connect()

    await carrier.send(message())
    await until(lambda: events.receipts)

    (receipt,) = events.receipts
    assert receipt.status is Status.UNDELIVERED
    assert (receipt.failure.reason, receipt.failure.carrier_code) == (FailureReason.UNREACHABLE, "011")


# --- Replies


async def test_answers_only_what_is_on_disk(smsc, connect, events):
    await connect()
    events.broken = True
    refused = await smsc.inbound(THEIRS, OURS, b"YES")

    events.broken = False
    answered = await smsc.inbound(THEIRS, OURS, b"YES")

    assert (refused, answered) == (TEMPORARY, OK)
    assert [reply.text for reply in events.replies] == ["YES"]


async def test_gives_a_reply_that_is_told_again_the_same_id(smsc, connect, events, clock):
    carrier = await connect()
    await smsc.inbound(THEIRS, OURS, b"YES")
    smsc.links[0].drop()
    await until(lambda: carrier.last_error)
    await pass_until(clock, lambda: not carrier.last_error)

    await smsc.inbound(THEIRS, OURS, b"YES")

    assert len(events.replies) == 2
    assert len({reply.carrier_reply_id for reply in events.replies}) == 1
    assert not any(reply.has_own_id for reply in events.replies)


async def test_takes_the_same_words_on_a_link_that_stands_for_a_new_reply(smsc, connect, events):
    await connect()

    await smsc.inbound(THEIRS, OURS, b"YES")
    await smsc.inbound(THEIRS, OURS, b"YES")

    assert len({reply.carrier_reply_id for reply in events.replies}) == 2


@pytest.mark.parametrize(
    ("header", "tlvs"),
    [
        (lambda n: bytes([5, 0, 3, 9, 3, n]), lambda _: {}),
        (lambda n: bytes([6, 8, 4, 1, 9, 3, n]), lambda _: {}),
        (lambda n: bytes([11, 5, 4, 0, 1, 0, 2, 0, 3, 9, 3, n]), lambda _: {}),
        (lambda _: b"", lambda n: {0x20C: b"\1\x09", 0x20E: b"\3", 0x20F: bytes([n])}),
    ],
    ids=["udh8", "udh16", "udh with ports", "sar"],
)
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
async def test_puts_parts_together_in_whatever_order_they_come(smsc, connect, events, header, tlvs, order):
    await connect()
    octets = "one 漢 two 😀 three".encode("utf-16-be")
    middle, end = octets.index("two".encode("utf-16-be")), octets.index("😀".encode("utf-16-be")) + 2
    words = {1: octets[:middle], 2: octets[middle:end], 3: octets[end:]}  # the last cut is within the emoji

    answers = await asyncio.gather(
        *(
            smsc.inbound(
                THEIRS,
                OURS,
                header(number) + words[number],
                data_coding=8,
                esm_class=UDH if header(number) else 0,
                tlvs=tlvs(number),
            )
            for number in order
        )
    )

    assert answers == [OK, OK, OK]
    assert [reply.text for reply in events.replies] == ["one 漢 two 😀 three"]


async def part(smsc, number: int, text: bytes, *, total: int = 2, reference: int = 9) -> int:
    return await smsc.inbound(THEIRS, OURS, bytes([5, 0, 3, reference, total, number]) + text, esm_class=UDH)


async def test_asks_for_a_part_again_until_the_others_are_there(smsc, connect, events, clock):
    await connect()
    first = asyncio.create_task(part(smsc, 1, b"one "))
    await pass_until(clock, first.done)

    answers = [await first, await part(smsc, 2, b"two"), await part(smsc, 1, b"one ")]

    assert answers == [TEMPORARY, OK, OK]
    assert [reply.text for reply in events.replies] == ["one two"]


async def test_lets_a_repeated_part_go_so_that_the_next_can_come(smsc, connect, events, clock):
    await connect()
    first = asyncio.create_task(part(smsc, 1, b"one "))
    await pass_until(clock, first.done)

    answers = [await first, await part(smsc, 1, b"one "), await part(smsc, 2, b"two")]

    assert answers == [TEMPORARY, OK, OK]
    assert [reply.text for reply in events.replies] == ["one two"]


async def test_answers_parts_at_once_where_the_settings_say_so(smsc, connect, events):
    await connect(answer_parts=AnswerParts.AT_ONCE)

    answers = [await part(smsc, 1, b"one "), await part(smsc, 2, b"two")]

    assert answers == [OK, OK]
    assert [reply.text for reply in events.replies] == ["one two"]


async def test_tells_an_incomplete_message_as_it_is_after_ten_minutes(smsc, connect, events, clock):
    await connect(answer_parts=AnswerParts.AT_ONCE, enquire_link_seconds=3600)
    await part(smsc, 1, b"one", total=3)
    await part(smsc, 3, b"three", total=3)

    await advance(clock, PATIENCE_SECONDS - 10, step=5)
    assert events.replies == []
    await advance(clock, 15, step=5)

    assert [reply.text for reply in events.replies] == ["one [...] three"]


async def test_stores_what_only_it_has_before_it_stops(smsc, connect, events):
    carrier = await connect(answer_parts=AnswerParts.AT_ONCE)
    await part(smsc, 1, b"one", total=2)

    await carrier.stop()

    assert [reply.text for reply in events.replies] == ["one"]


async def test_asks_for_parts_again_that_could_not_be_stored(smsc, connect, events):
    await connect(answer_parts=AnswerParts.AT_ONCE)
    await part(smsc, 1, b"one ")
    events.broken = True
    refused = await part(smsc, 2, b"two")

    events.broken = False
    answered = await part(smsc, 2, b"two")

    assert (refused, answered) == (TEMPORARY, OK)
    assert [reply.text for reply in events.replies] == ["one two"]


async def test_a_text_that_looks_like_a_receipt_is_a_reply(smsc, connect, events):
    await connect()

    await smsc.inbound(THEIRS, OURS, b"id:1 sub:001 dlvrd:001 stat:DELIVRD err:000 text:")

    assert events.receipts == []
    assert len(events.replies) == 1


# --- Everything at once


async def test_sends_every_message_once_over_links_that_break(smsc, connect, clock, events):
    count = 0

    def treat(_):
        nonlocal count
        count += 1
        return Treatment(status=None, drops=True) if count % 25 == 0 else Treatment()

    smsc.treat = treat
    carrier = await connect(window=8)
    taken, unknown, waiting = set(), set(), list(range(200))

    async with asyncio.timeout(20):
        while waiting:
            results = await asyncio.gather(*(carrier.send(message(number, text=str(number))) for number in waiting))
            by_number = list(zip(waiting, results, strict=True))
            taken |= {number for number, result in by_number if isinstance(result, Taken)}
            unknown |= {number for number, result in by_number if isinstance(result, Unknown)}
            waiting = [number for number, result in by_number if isinstance(result, TryLater)]
            await advance(clock, 60, step=1)
            with contextlib.suppress(TimeoutError):
                await smsc.bound()

    assert taken | unknown == set(range(200))
    assert unknown
    assert max(Counter(submit.short_message for submit in smsc.submits).values()) == 1


def test_promises_evidence_only_where_receipts_always_come(clock):
    link = SmppLink(name="smsc", sender="", host="smsc.example", system_id="textway")

    assert SmppCarrier(link, clock).capability is Capability.BLIND
    assert SmppCarrier(replace(link, receipts=True), clock).capability is Capability.RECONCILABLE

"""The settings of a link, and what statuses mean."""

import pytest

from servicekit.errors import ValidationError
from services.delivery.carriers.base import FailureReason
from services.delivery.carriers.smpp.connection import pause_seconds, tls_context
from services.delivery.carriers.smpp.link import BindAs, SmppLink
from services.delivery.carriers.smpp.statuses import meaning_of

GOOD = {"name": "smsc", "sender": "ACME", "host": "smsc.example", "system_id": "textway"}


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("host", {"host": ""}),
        ("system_id", {"system_id": ""}),
        ("system_id", {"system_id": "x" * 16}),
        ("password", {"password": "pass\0word"}),
        ("port", {"port": 0}),
        ("window", {"window": 0}),
        ("window", {"window": 1001}),
        ("enquire_link_seconds", {"enquire_link_seconds": 0.5}),
        ("source_ton", {"source_ton": 256}),
        ("validity_minutes", {"validity_minutes": 0}),
        ("receipts", {"receipts": True, "bind": BindAs.TRANSMITTER}),
        ("default_region", {"default_region": "sg"}),
        ("ca_file", {"ca_file": "/ca.pem"}),
    ],
)
def test_names_the_setting_that_is_wrong(path, changes):
    with pytest.raises(ValidationError) as raised:
        SmppLink(**{**GOOD, **changes})

    assert [issue.path for issue in raised.value.issues] == [path]


def test_names_every_wrong_setting_at_once():
    with pytest.raises(ValidationError) as raised:
        SmppLink(**{**GOOD, "port": 0, "window": 0})

    assert [issue.path for issue in raised.value.issues] == ["port", "window"]


def test_tells_the_password_to_nobody():
    assert "hush" not in repr(SmppLink(**GOOD, password="hush"))


def test_says_that_a_ca_file_can_not_be_read():
    with pytest.raises(ValidationError) as raised:
        tls_context(SmppLink(**GOOD, tls=True, ca_file="/nowhere/ca.pem"))

    assert raised.value.issues[0].path == "ca_file"


@pytest.mark.parametrize(
    ("status", "name", "reason", "retryable"),
    [
        (0x0B, "ESME_RINVDSTADR", FailureReason.INVALID_NUMBER, False),
        (0x0A, "ESME_RINVSRCADR", FailureReason.SENDER_REJECTED, False),
        (0x58, "ESME_RTHROTTLED", FailureReason.THROTTLED, True),
        (0x14, "ESME_RMSGQFUL", FailureReason.THROTTLED, True),
        (0x08, "ESME_RSYSERR", FailureReason.CARRIER_UNAVAILABLE, True),
        (0x45, "ESME_RSUBMITFAIL", FailureReason.CARRIER_UNAVAILABLE, True),
        (0x101, "ESME_RPROHIBITED", FailureReason.DESTINATION_NOT_ALLOWED, False),
        (0x40A, "0x0000040A", FailureReason.CARRIER_REJECTED, False),
    ],
)
def test_knows_what_a_refusal_means(status, name, reason, retryable):
    meaning = meaning_of(status)

    assert (meaning.name, meaning.reason, meaning.retryable) == (name, reason, retryable)


def test_pauses_grow_to_a_minute_and_are_half_chance():
    assert [pause_seconds(n, 1.0) for n in (1, 2, 3, 7, 100)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    assert pause_seconds(3, 0.0) == 2.0

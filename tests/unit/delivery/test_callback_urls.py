"""What a message's status events may be sent to, decided when it is accepted."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from servicekit.egress_urls import EgressPolicy
from servicekit.errors import ValidationError
from services.delivery.accept_messages import checked_submission
from tests.kit.refused_urls import SPELLINGS


@pytest.mark.parametrize("spelling", [spelling for spelling, url in SPELLINGS.items() if url])
def test_refuses_the_spelling(spelling):
    url = SPELLINGS[spelling].format(port=9000)
    policy = EgressPolicy(ports=frozenset({443, 9000}), own=("sms.example", 9000))

    with pytest.raises(ValidationError) as refusal:
        checked_submission(tenant_id="ten_1", to="+6581230000", text="x", callback=url, callbacks=policy)

    assert [issue.path for issue in refusal.value.issues] == ["callback"]


@pytest.mark.parametrize("url", ["", "https://public.example/events?of=1", "https://8.8.8.8:8443/"])
def test_keeps_what_may_be_called(url):
    assert checked_submission(tenant_id="ten_1", to="+6581230000", text="x", callback=url).callback == url


def test_keeps_a_receiver_inside_where_the_operator_allows_it():
    url, inside = "http://10.0.0.1:9000/", EgressPolicy(allowed=(ip_network("10.0.0.0/24"),))

    wanted = checked_submission(tenant_id="ten_1", to="+6581230000", text="x", callback=url, callbacks=inside)

    assert wanted.callback == url

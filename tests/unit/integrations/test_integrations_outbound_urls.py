"""What an integration's replies may be sent to, decided when it is saved."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from servicekit.egress_names import UrlGuard
from servicekit.egress_urls import EgressPolicy
from servicekit.errors import NotFoundError, ValidationError
from services.integrations import validation
from services.integrations.commit_changes import ChangeFeed
from services.integrations.domain import IntegrationChanges
from services.integrations.load_presets import presets
from services.integrations.manage_integrations import ManageIntegrations
from services.integrations.watchers import Broadcaster
from tests.kit.refused_urls import SPELLINGS

UNKNOWN = "wkh_01m82nt6615nwn5qdymhh2hxm0"


class OneName:
    """Knows one name, and notes what it is asked for."""

    def __init__(self, name, *addresses):
        self._known = {name: [ip_address(each) for each in addresses]}
        self.asked = []

    async def addresses_of(self, host):
        self.asked.append(host)
        if host not in self._known:
            raise OSError("no such name")
        return self._known[host]

    def close(self):
        pass


class NoIntegrations:
    """A store in which nothing is found or kept: a call that gets here has passed every check."""

    async def create_integration(self, integration, keep):
        raise NotFoundError("stored")

    async def change_integration(self, tenant_id, integration_id, fields, now):
        raise NotFoundError("stored")


def managing(clock, names, **policy):
    return ManageIntegrations(
        store=NoIntegrations(),
        changes=ChangeFeed(Broadcaster(clock)),
        presets=presets(),
        urls=UrlGuard(EgressPolicy(**policy), names),
        clock=clock,
    )


async def issues_of(managing, url):
    """Save the URL in every way that there is; return the one answer that all of them gave."""
    asked = IntegrationChanges(name="shop", outbound_url=url)
    answers = []
    for save in (
        managing.create("ten_1", asked),
        managing.replace("ten_1", UNKNOWN, asked),
        managing.update("ten_1", UNKNOWN, asked),
    ):
        try:
            await save
        except NotFoundError:
            answers.append([])
        except ValidationError as error:
            answers.append([issue.path for issue in error.issues])
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


@pytest.mark.parametrize("spelling", [spelling for spelling, url in SPELLINGS.items() if url])
def test_refuses_the_spelling(spelling):
    policy = EgressPolicy(ports=frozenset({443, 9000}), own=("sms.example", 9000))
    asked = IntegrationChanges(outbound_url=SPELLINGS[spelling].format(port=9000))

    with pytest.raises(ValidationError) as refusal:
        validation.changed_fields(asked, policy)

    assert [issue.path for issue in refusal.value.issues] == ["outboundUrl"]


async def test_refuses_a_name_of_which_any_address_is_not_public(clock):
    names = OneName("receiver.example", "8.8.8.8", "10.0.0.1")

    assert await issues_of(managing(clock, names), "https://receiver.example/") == ["outboundUrl"]
    assert names.asked == ["receiver.example"] * 3


async def test_takes_a_name_of_public_addresses_and_one_that_does_not_exist_yet(clock):
    names = OneName("receiver.example", "8.8.8.8", "2a00:1450:4001:829::200e")

    assert await issues_of(managing(clock, names), "https://receiver.example/") == []
    assert await issues_of(managing(clock, names), "https://coming.example/") == []


async def test_takes_a_receiver_inside_where_the_operator_allows_it(clock):
    names = OneName("hooks.internal", "10.0.0.1")
    inside = managing(clock, names, allowed=(ip_network("10.0.0.0/24"),))

    assert await issues_of(inside, "http://hooks.internal:9000/") == []
    assert await issues_of(inside, "http://10.0.1.1:9000/") == ["outboundUrl"]


async def test_asks_for_no_name_when_another_field_is_wrong(clock):
    names = OneName("receiver.example", "8.8.8.8")

    with pytest.raises(ValidationError):
        await managing(clock, names).create(
            "ten_1", IntegrationChanges(name="", outbound_url="https://receiver.example/")
        )

    assert names.asked == []


async def test_no_url_is_no_question(clock):
    names = OneName("receiver.example", "8.8.8.8")

    assert await issues_of(managing(clock, names), "") == []
    assert names.asked == []

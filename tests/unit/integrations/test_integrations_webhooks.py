"""What a tenant may say of its webhook, and what Delivery is told of where events go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from structlog.testing import capture_logs

from servicekit.egress_names import UrlGuard
from servicekit.egress_urls import EgressPolicy
from servicekit.errors import NotFoundError, ValidationError
from services.integrations import outbound_rules
from services.integrations.commit_changes import ChangeFeed
from services.integrations.domain import Change
from services.integrations.find_targets import Failure, FindTargets
from services.integrations.manage_webhooks import ManageWebhooks
from services.integrations.signing_secrets import OldSecret, SigningSecrets
from services.integrations.watchers import Broadcaster
from services.integrations.webhooks import (
    BY_ITS_OWNER,
    EVENTS,
    Disabled,
    IntegrationTarget,
    SavedWebhook,
    Target,
    Targets,
    Webhook,
    WebhookFields,
    by_its_owner,
    switched,
)
from tests.kit.refused_urls import SPELLINGS

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
URL = "https://receiver.example/"


def kept(**fields):
    return outbound_rules.webhook(WebhookFields(**{"url": URL, **fields}), EgressPolicy())


def issues_of(call, *arguments, **fields):
    with pytest.raises(ValidationError) as caught:
        call(*arguments, **fields)
    return caught.value.issues


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_refuses_the_spelling(spelling):
    policy = EgressPolicy(ports=frozenset({443, 9000}), own=("sms.example", 9000))
    url = SPELLINGS[spelling].format(port=9000)

    (issue,) = issues_of(outbound_rules.webhook, WebhookFields(url=url), policy)

    assert issue.path == "url"


def test_an_empty_url_is_answered_with_how_to_remove_a_webhook():
    (issue,) = issues_of(kept, url="")

    assert "DELETE /v1/webhooks" in issue.message


@pytest.mark.parametrize(
    ("asked", "events"),
    [
        ((), ()),
        (("message.failed",), ("message.failed",)),
        (("message.failed", "message.received", "message.failed"), ("message.received", "message.failed")),
        (tuple(reversed(EVENTS)), EVENTS),
    ],
)
def test_keeps_events_once_each_and_in_order(asked, events):
    assert kept(events=asked).events == events


@pytest.mark.parametrize("event", ["message.queued", "MESSAGE.SENT", "", "*"])
def test_refuses_an_event_that_there_is_not_and_names_those_that_there_are(event):
    (issue,) = issues_of(kept, events=("message.sent", event))

    assert issue.path == "events"
    assert all(known in issue.message for known in EVENTS)


def test_lists_all_that_is_wrong_at_once():
    assert [issue.path for issue in issues_of(kept, url="http://x.example/", events=("x",))] == ["url", "events"]


@pytest.mark.parametrize(("asked", "seconds"), [(None, 86_400), (0, 0), (604_800, 604_800)])
def test_takes_an_overlap(asked, seconds):
    assert outbound_rules.overlap_seconds(asked) == seconds


@pytest.mark.parametrize("asked", [-1, 604_801])
def test_refuses_an_overlap(asked):
    assert [issue.path for issue in issues_of(outbound_rules.overlap_seconds, asked)] == ["overlapSeconds"]


def test_who_switches_off_what_is_off_keeps_why_and_when():
    gone = Disabled(at=NOW, reason="The endpoint answered 410 Gone.", missed_since=NOW)
    later = NOW + timedelta(hours=1)

    assert switched(gone, is_enabled=False, now=later) == gone
    assert switched(None, is_enabled=False, now=later) == Disabled(at=later, reason=BY_ITS_OWNER, missed_since=later)
    assert switched(gone, is_enabled=True, now=later) is None
    assert switched(None, is_enabled=True, now=later) is None


class OneName:
    """Knows one name, whose address is inside."""

    async def addresses_of(self, host):
        if host != "inside.example":
            raise OSError("no such name")
        return [ip_address("10.0.0.1")]

    def close(self):
        pass


class Settings:
    """A store of one webhook and one integration, with what was asked of it."""

    def __init__(self, targets=None):
        self.targets = targets
        self.put = []
        self.disabled = []

    async def put_webhook(self, tenant_id, fields, *, new_secret, now):
        self.put.append((tenant_id, fields, new_secret))
        secrets = SigningSecrets(newest=new_secret)
        webhook = Webhook(
            tenant_id=tenant_id, url=fields.url, events=EVENTS[:1], secrets=secrets, created_at=now, updated_at=now
        )
        return SavedWebhook(webhook=webhook, is_new=True)

    async def find_targets(self, tenant_id, integration_id):
        return self.targets

    async def disable_webhook(self, tenant_id, url, disabled):
        self.disabled.append((tenant_id, "", url, disabled))
        return url == URL

    async def disable_outbound(self, tenant_id, integration_id, url, disabled):
        self.disabled.append((tenant_id, integration_id, url, disabled))
        if url != URL:
            raise NotFoundError
        return Change(revision=1)


async def test_sets_a_webhook_with_a_secret_of_its_own(clock):
    store = Settings()
    manage = ManageWebhooks(store=store, urls=UrlGuard(EgressPolicy(), OneName()), clock=clock)

    saved = await manage.put("ten_1", WebhookFields(url=URL, events=("message.failed", "message.received")))

    ((tenant_id, fields, secret),) = store.put
    assert (tenant_id, fields.events) == ("ten_1", ("message.received", "message.failed"))
    assert secret.startswith("whsec_")
    assert secret not in repr(saved)


async def test_a_name_that_leads_inside_sets_no_webhook(clock):
    store = Settings()
    manage = ManageWebhooks(store=store, urls=UrlGuard(EgressPolicy(), OneName()), clock=clock)

    with pytest.raises(ValidationError) as refusal:
        await manage.put("ten_1", WebhookFields(url="https://inside.example/"))

    assert [issue.path for issue in refusal.value.issues] == ["url"]
    assert store.put == []


def finding(clock, store):
    return FindTargets(webhooks=store, integrations=store, changes=ChangeFeed(Broadcaster(clock)), clock=clock)


async def test_targets_have_the_secrets_that_are_in_force(clock):
    both = SigningSecrets(newest="new", old=OldSecret(secret="old", expires_at=clock.now() + timedelta(seconds=60)))
    target = Target(url=URL, events=EVENTS, is_enabled=True, secrets=both)
    outbound = IntegrationTarget(id="wkh_1", name="shop", outbound=target, reply_window_seconds=0)
    targets = Targets(integration=outbound, webhook=target)
    find = finding(clock, Settings(targets))

    clock.advance(59.999)
    before = await find.of("ten_1", "wkh_1")
    clock.advance(0.001)
    after = await find.of("ten_1", "wkh_1")

    only_new = replace(target, secrets=SigningSecrets(newest="new"))
    assert before == targets
    assert after == Targets(integration=replace(outbound, outbound=only_new), webhook=only_new)


async def test_there_may_be_no_targets(clock):
    assert await finding(clock, Settings(Targets())).of("ten_1", "wkh_1") == Targets()


@pytest.mark.parametrize("integration_id", ["", "wkh_1"])
async def test_a_url_that_only_fails_is_switched_off_and_what_it_missed_is_since_it_failed(clock, integration_id):
    store, since = Settings(), clock.now() - timedelta(days=5)
    failure = Failure(
        tenant_id="ten_1", integration_id=integration_id, url=URL, reason="It " * 100, failing_since=since
    )

    with capture_logs() as lines:
        assert await finding(clock, store).disable(failure)

    disabled = Disabled(at=clock.now(), reason=("It " * 100)[:200], missed_since=since)
    assert store.disabled == [("ten_1", integration_id, URL, disabled)]
    assert [line["event"] for line in lines] == ["webhook disabled"]
    assert URL not in str(lines)


@pytest.mark.parametrize("since", [None, timedelta(hours=1)])
async def test_what_it_missed_is_since_now_when_it_has_not_failed_before(clock, since):
    store = Settings()
    failing_since = clock.now() + since if since else None
    failure = Failure(tenant_id="ten_1", integration_id="", url=URL, reason="Gone.", failing_since=failing_since)

    await finding(clock, store).disable(failure)

    assert store.disabled[0][3].missed_since == clock.now()


@pytest.mark.parametrize("integration_id", ["", "wkh_1"])
async def test_switching_off_what_is_another_url_by_now_is_no_failure(clock, integration_id):
    failure = Failure(tenant_id="ten_1", integration_id=integration_id, url="https://old.example/", reason="Gone.")

    with capture_logs() as lines:
        assert not await finding(clock, Settings(Targets())).disable(failure)

    assert lines == []


def test_an_owners_reason_is_a_sentence():
    assert by_its_owner(NOW).reason == "It was switched off by a call of the API."

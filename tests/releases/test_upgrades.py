"""Every recorded release on the newest schema: its rows are read, and its statements run as they did."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from servicekit import migrations
from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery import maintenance as delivery_service
from services.delivery.domain import MessageFilter, Outcome, Status
from services.delivery.sql_store import SqlMessageStore
from services.delivery.sql_webhooks import SqlWebhookStore
from services.delivery.webhooks import WebhookFilter
from services.integrations import maintenance as integrations_service
from services.integrations.key_ring import KeyRing
from tests.contract.test_message_store import NOW, TENANT
from tests.contract.test_message_store import finished as message_finished
from tests.kit import claims
from tests.releases import delivery, integrations
from tests.releases.recording import FOLDER, Release, engine_of, fill, play

SERVICES = {"delivery": delivery_service, "integrations": integrations_service}
EVERYTHING = PageRequest(size=1000)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'release.db'}"
    return request.getfixturevalue("postgres_database")


def recordings(service: str) -> pytest.MarkDecorator:
    files = sorted(FOLDER.glob(f"{service}-*.json"))
    return pytest.mark.parametrize("file", files, ids=[file.stem for file in files])


async def left_by(release: Release, url: str) -> Database:
    """A database as that release has left it, brought to the newest schema."""
    service = SERVICES[release.service]
    database = Database.open(url)
    await migrations.migrate(database, service.MIGRATIONS, service.VERSION_TABLE, to=release.revision)
    await fill(database, release.rows)
    await migrations.migrate(database, service.MIGRATIONS, service.VERSION_TABLE)
    return database


@recordings("*")
async def test_the_release_goes_on_working_on_the_newest_schema(file, url):
    release = Release.load(file)
    database = await left_by(release, url)
    await database.close()

    touched = await play(url, release.statements[engine_of(url)])

    assert touched == release.touched[engine_of(url)]


@recordings("delivery")
async def test_delivery_reads_and_goes_on_with_what_the_release_has_left(file, url):
    release = Release.load(file)
    database = await left_by(release, url)
    store = SqlMessageStore(database)

    messages = await store.list_messages(TENANT, MessageFilter(), EVERYTHING)
    histories = [await store.history(TENANT, message.id) for message in messages]
    webhooks = await SqlWebhookStore(database).list_deliveries(TENANT, WebhookFilter(), EVERYTHING)
    sent = await claims.claim(store, now=NOW + timedelta(minutes=5))
    await store.finish([message_finished(attempt) for attempt in sent])

    rows = release.rows
    assert {message.id for message in messages} == {row["id"] for row in rows["delivery_messages"]}
    assert len({message.status for message in messages}) >= 7
    assert sum(len(each.attempts) for each in histories) == len(rows["delivery_attempts"])
    assert sum(len(each.receipts) for each in histories) == len(rows["delivery_receipts"])
    assert {each.outcome for history in histories for each in history.attempts} >= {Outcome.STARTED, Outcome.TAKEN}
    assert {each.delivery.id for each in webhooks} == {row["id"] for row in rows["delivery_webhooks"]}
    assert {attempt.message.id for attempt in sent} >= {row["message_id"] for row in rows["delivery_due"]}
    assert {(await store.get(TENANT, attempt.message.id)).status for attempt in sent} == {Status.SENT}
    await database.close()


@recordings("delivery")
async def test_delivery_does_all_its_work_on_what_the_release_has_left(file, url):
    database = await left_by(Release.load(file), url)

    await delivery.work(database)

    found = await SqlMessageStore(database).list_messages(TENANT, MessageFilter(), EVERYTHING)
    assert not any(message.status is Status.DELIVERED for message in found)  # its housekeeping came last
    await database.close()


@recordings("integrations")
async def test_integrations_opens_and_goes_on_with_what_the_release_has_left(file, url):
    release = Release.load(file)
    database, ring = await left_by(release, url), KeyRing([release.key_ring])
    stores = integrations.stores_over(database, ring)

    snapshot = await stores.integrations.snapshot(10)
    signed = await stores.integrations.find_by_ingress_key(hashlib.sha256(integrations.ADDRESS.encode()).digest())
    webhook = await stores.webhooks.get_webhook(signed.tenant_id)

    assert await stores.integrations.count_unreadable_secrets() == 0
    assert sum(len(page) for page in snapshot.pages) == len(release.rows["integrations_integrations"])
    assert signed.secrets.newest == integrations.SECRET
    assert signed.ingress_key == f"{integrations.ADDRESS}new"
    assert (webhook.secrets.newest, webhook.secrets.old.secret) == ("second", integrations.SECRET)
    assert await stores.webhooks.count_disabled() == 2
    await integrations.work(database, ring)
    await database.close()

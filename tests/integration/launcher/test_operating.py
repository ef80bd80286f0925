"""Keys, tenants and the key ring, as an operator on the machine has them in hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from servicekit.settings import load
from services.integrations import maintenance
from services.integrations.settings import IntegrationsSettings
from services.launcher import backup, operating
from services.launcher.places import NotThereError
from tests.kit.ports import free_address

COMMANDS: dict[str, Callable[[], Awaitable[object]]] = {
    "keys create": lambda: operating.create_key("", "job"),
    "keys list": lambda: operating.list_keys(""),
    "keys revoke": lambda: operating.revoke_key("key_1"),
    "tenants create": lambda: operating.create_tenant("shop"),
    "tenants list": operating.list_tenants,
    "tenants suspend": lambda: operating.set_tenant_active("shop", active=False),
    "rotate-key-ring": operating.rotate_key_ring,
    "hold-queue": backup.hold_queue,
}


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(folder))
    monkeypatch.setenv("TEXTWAY_INTEGRATIONS_LISTEN", free_address())
    return folder


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
async def test_makes_no_installation_where_there_is_none(data_dir, command):
    with pytest.raises(NotThereError, match=f"^{data_dir}/[a-z]+.db is not there: has the product ever run"):
        await command()

    assert not data_dir.exists()


async def test_works_on_an_installation_that_does_not_run(data_dir):
    await maintenance.migrate(load(IntegrationsSettings))

    made = await operating.create_key("", "nightly job")

    assert made.startswith("sk_live_")
    assert (await operating.list_keys("")).endswith("nightly job")

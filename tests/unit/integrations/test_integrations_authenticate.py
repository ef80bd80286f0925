"""Whose a key is, and how little a wrong one costs."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import create_autospec

import pytest
from pydantic import ValidationError as BadSettings

from servicekit.errors import UnauthorizedError
from servicekit.ids import new_secret
from services.integrations.authenticate import ApiKeys, Authenticator
from services.integrations.domain import ApiKey, Caller, Tenant, sha256
from services.integrations.errors import InvalidApiKeyError, TenantInactiveError
from services.integrations.settings import IntegrationsSettings

NOW = datetime(2026, 6, 12, tzinfo=UTC)
BOOTSTRAP_KEY = "sk_live_" + "z" * 40


def keys_with(*, active=True, revoked_at=None):
    keys = create_autospec(ApiKeys, instance=True)
    keys.find_api_key.return_value = (
        ApiKey(id="key_1", tenant_id="ten_1", name="", hint="", created_at=NOW, revoked_at=revoked_at),
        Tenant(id="ten_1", name="shop", active=active, created_at=NOW),
    )
    return keys


async def test_a_good_key_tells_its_owner():
    keys, api_key = keys_with(), new_secret("sk_live", 40)

    caller = await Authenticator(keys).caller_of(api_key)

    assert caller == Caller(tenant_id="ten_1", key_id="key_1")
    keys.find_api_key.assert_awaited_once_with(sha256(api_key))


@pytest.mark.parametrize("api_key", ["", "nonsense", "sk_live_", "sk_live_" + "a" * 41, "sk_live_" + "-" * 40])
async def test_a_wrong_form_is_refused_without_a_look_at_the_database(api_key):
    keys = keys_with()

    with pytest.raises(UnauthorizedError):
        await Authenticator(keys).caller_of(api_key)
    keys.find_api_key.assert_not_awaited()


async def test_every_mistyped_character_is_refused_without_a_look_at_the_database():
    keys, api_key = keys_with(), new_secret("sk_live", 40)

    for position in range(len("sk_live_"), len(api_key)):
        other = "a" if api_key[position] != "a" else "b"
        with pytest.raises(InvalidApiKeyError):
            await Authenticator(keys, BOOTSTRAP_KEY).caller_of(api_key[:position] + other + api_key[position + 1 :])
    keys.find_api_key.assert_not_awaited()


async def test_the_bootstrap_key_needs_no_checksum():
    keys = keys_with()

    assert (await Authenticator(keys, BOOTSTRAP_KEY).caller_of(BOOTSTRAP_KEY)).tenant_id == "ten_1"
    with pytest.raises(InvalidApiKeyError):
        await Authenticator(keys).caller_of(BOOTSTRAP_KEY)


async def test_a_revoked_key_is_invalid_and_a_suspended_tenants_is_not_in_force():
    api_key = new_secret("sk_live", 40)

    with pytest.raises(InvalidApiKeyError):
        await Authenticator(keys_with(active=False, revoked_at=NOW)).caller_of(api_key)
    with pytest.raises(TenantInactiveError):
        await Authenticator(keys_with(active=False)).caller_of(api_key)


async def test_an_unknown_key_is_invalid():
    keys = create_autospec(ApiKeys, instance=True)
    keys.find_api_key.return_value = None

    with pytest.raises(InvalidApiKeyError):
        await Authenticator(keys).caller_of(new_secret("sk_live", 40))


@pytest.mark.parametrize("value", ["sk_live_canary", "canary" * 8, "sk_live_" + "!" * 40])
def test_a_bootstrap_key_of_another_form_is_refused_without_being_repeated(value):
    with pytest.raises(BadSettings, match="must be sk_live_ and 40") as caught:
        IntegrationsSettings(bootstrap_key=value)
    assert "canary" not in str(caught.value)


def test_settings_have_their_defaults_in_the_data_folder(tmp_path):
    settings = IntegrationsSettings(data_dir=tmp_path, bootstrap_key="")

    assert settings.database_url == f"sqlite:///{tmp_path}/integrations.db"
    assert settings.key_ring_path == tmp_path / "key-ring"
    assert settings.bootstrap_key is None

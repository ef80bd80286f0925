"""What commands say when a service speaks TLS and their shell does not, or the other way round."""

from __future__ import annotations

import pytest

from servicekit.clock import SystemClock
from servicekit.server import RunningServer
from servicekit.settings import SettingsError, load
from services.integrations import maintenance, service
from services.integrations.settings import IntegrationsSettings
from services.launcher import certificates, operating, status_command, tls_mismatch
from tests.kit.ports import free_address

FILES = {"TEXTWAY_TLS_CERT": "up.crt", "TEXTWAY_TLS_KEY": "up.key", "TEXTWAY_TLS_CA": "ca.crt"}
SPEAKING = {
    True: "speaks TLS, and this shell does not: set TEXTWAY_TLS_CERT, TEXTWAY_TLS_KEY and TEXTWAY_TLS_CA",
    False: "speaks plaintext, and this shell TLS: unset TEXTWAY_TLS_CERT, TEXTWAY_TLS_KEY and TEXTWAY_TLS_CA",
}


@pytest.fixture
def shell(tmp_path, monkeypatch):
    certificates.write(tmp_path / "tls", ())
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TEXTWAY_INTEGRATIONS_METRICS_LISTEN", "")
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "0")
    address = free_address()
    for setting in ("LISTEN", "ADDRESS"):
        monkeypatch.setenv(f"TEXTWAY_INTEGRATIONS_{setting}", address)

    def use_tls(*, is_used: bool) -> str:
        for setting, file in FILES.items():
            if is_used:
                monkeypatch.setenv(setting, str(tmp_path / "tls" / file))
            else:
                monkeypatch.delenv(setting, raising=False)
        return address

    return use_tls


@pytest.fixture(params=[True, False], ids=["TLS", "plaintext"])
async def speaks_tls(request, shell):
    shell(is_used=request.param)
    settings = load(IntegrationsSettings)
    await maintenance.migrate(settings)
    running = await RunningServer.start([await service.build(settings, SystemClock())], settings)
    yield request.param
    await running.stop(0)


async def test_status_says_who_speaks_tls(shell, speaks_tls):
    address = shell(is_used=not speaks_tls)

    report = await status_command.ask()

    assert f"integrations at {address}: {SPEAKING[speaks_tls]}" in status_command.as_text(report)


async def test_keys_and_tenants_say_who_speaks_tls(shell, speaks_tls):
    address = shell(is_used=not speaks_tls)

    with pytest.raises(SettingsError) as refused:
        await operating.list_tenants()

    assert str(refused.value) == f"Integrations at {address} {SPEAKING[speaks_tls]}"


async def test_nothing_is_said_where_both_speak_the_same(shell, speaks_tls):
    address = shell(is_used=speaks_tls)

    assert tls_mismatch.between(address, is_secured=speaks_tls) == ""
    assert (await operating.list_tenants()).endswith("active  default")


def test_nothing_is_said_of_nobody():
    for address in (free_address(), "unix:/nowhere/integrations.sock"):
        assert tls_mismatch.between(address, is_secured=True) == ""

"""Which processes `textway up` runs, and where each listens."""

from __future__ import annotations

import pytest

from servicekit.settings import SettingsError, load
from services.launcher import settings
from services.launcher.processes import choose_addresses, planned
from services.launcher.settings import LauncherSettings, ingress_workers_for


@pytest.mark.parametrize(
    ("cores", "workers"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (12, 3), (16, 4), (20, 4), (128, 4)]
)
def test_starts_an_ingress_for_every_four_cores_from_one_to_four(cores, workers):
    found = ingress_workers_for(cores)

    assert found == workers


@pytest.mark.parametrize("said", [None, ""])
def test_goes_by_the_cores_when_nobody_says_how_many(monkeypatch, said):
    monkeypatch.setattr(settings, "usable_cores", lambda: 12)
    if said is not None:
        monkeypatch.setenv("TEXTWAY_INGRESS_WORKERS", said)

    found = load(LauncherSettings)

    assert found.ingress_workers == 3


@pytest.mark.parametrize("said", ["1", "64"])
def test_takes_what_it_is_told(monkeypatch, said):
    monkeypatch.setenv("TEXTWAY_INGRESS_WORKERS", said)

    found = load(LauncherSettings)

    assert found.ingress_workers == int(said)


@pytest.mark.parametrize("said", ["0", "-1", "65", "1.5", "many"])
def test_refuses_any_other_number_and_names_the_setting(monkeypatch, said):
    monkeypatch.setenv("TEXTWAY_INGRESS_WORKERS", said)

    with pytest.raises(SettingsError, match="TEXTWAY_INGRESS_WORKERS"):
        load(LauncherSettings)


def test_numbers_the_processes_of_a_service_from_the_second_on():
    services = planned(LauncherSettings(ingress_workers=3))

    assert [each.name for each in services] == ["integrations", "delivery", "ingress", "ingress-2", "ingress-3"]
    assert services[2].arguments == ("serve", "ingress")
    assert services[3].arguments == ("serve", "ingress", "--number", "2")


def test_gives_each_process_addresses_of_its_own():
    told = LauncherSettings(ingress_workers=3, ingress_listen="127.0.0.2:7102", ingress_metrics_listen="[::1]:7112")
    services = planned(told)

    addresses = choose_addresses(services, told)

    assert len(set(addresses.values())) == len(addresses) == 2 * len(services)
    assert addresses["ingress"] == "127.0.0.2:7102"
    assert addresses["ingress_metrics"] == "[::1]:7112"
    # A certificate names the host, and not the port.
    assert {addresses[f"ingress-{number}"].rpartition(":")[0] for number in (2, 3)} == {"127.0.0.2"}
    assert {addresses[f"ingress-{number}_metrics"].rpartition(":")[0] for number in (2, 3)} == {"[::1]"}
    assert services[3].environment(addresses) == {
        "TEXTWAY_INGRESS_LISTEN": addresses["ingress-2"],
        "TEXTWAY_INGRESS_METRICS_LISTEN": addresses["ingress-2_metrics"],
    }


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_names_the_setting_whose_host_has_no_room_for_another_process(host):
    told = LauncherSettings(ingress_workers=2, ingress_listen=f"{host}:7102")

    with pytest.raises(SettingsError, match=f"TEXTWAY_INGRESS_LISTEN: {host} can not be listened on"):
        choose_addresses(planned(told), told)

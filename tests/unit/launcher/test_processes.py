"""Which processes `textway up` runs, and where each listens."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from servicekit.settings import MAX_SOCKET_PATH, SettingsError, load
from services.launcher import settings
from services.launcher.processes import choose_addresses, planned, sockets_folder
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


def test_gives_each_process_addresses_of_its_own(tmp_path):
    told = LauncherSettings(ingress_workers=3, ingress_listen="127.0.0.2:7102", ingress_metrics_listen="[::1]:7112")
    services = planned(told)

    addresses = choose_addresses(services, told, tmp_path)

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
def test_names_the_setting_whose_host_has_no_room_for_another_process(host, tmp_path):
    told = LauncherSettings(ingress_workers=2, ingress_listen=f"{host}:7102")

    with pytest.raises(SettingsError, match=f"TEXTWAY_INGRESS_LISTEN: {host} can not be listened on"):
        choose_addresses(planned(told), told, tmp_path)


def test_listens_at_sockets_where_nobody_says_another_place(tmp_path):
    told = LauncherSettings(ingress_workers=2, delivery_listen="127.0.0.2:7103")
    services = planned(told)

    addresses = choose_addresses(services, told, tmp_path)

    assert addresses["integrations"] == f"unix:{tmp_path}/integrations.sock"
    assert addresses["delivery"] == "127.0.0.2:7103"
    assert addresses["ingress"] == f"unix:{tmp_path}/ingress.sock"
    assert addresses["ingress-2"] == f"unix:{tmp_path}/ingress-2.sock"
    assert addresses["ingress-2_metrics"].startswith("127.0.0.1:")


def test_puts_a_second_process_beside_a_socket_that_it_is_told(tmp_path):
    told = LauncherSettings(ingress_workers=2, ingress_listen=f"unix:{tmp_path}/mine.sock")

    addresses = choose_addresses(planned(told), told, tmp_path / "run")

    assert addresses["ingress"] == f"unix:{tmp_path}/mine.sock"
    assert addresses["ingress-2"] == f"unix:{tmp_path}/mine-2.sock"


def test_takes_ports_where_calls_are_to_be_enciphered(tmp_path):
    secured = LauncherSettings(tls_cert="a.pem", tls_key="a.key", tls_ca="ca.pem")

    addresses = choose_addresses(planned(secured), secured, tmp_path)

    assert all(address.startswith("127.0.0.1:") for address in addresses.values())


def test_makes_sockets_in_the_data_folder_where_their_paths_have_room(tmp_path):
    with sockets_folder(tmp_path, planned(LauncherSettings())) as folder:
        assert folder == tmp_path
    assert tmp_path.exists()


def test_makes_sockets_in_a_folder_of_this_user_alone_where_their_paths_would_be_too_long(short_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    services = planned(LauncherSettings())
    room = MAX_SOCKET_PATH - len("/integrations.sock")
    exactly, longer = (Path("/" + "x" * (length - 1)) for length in (room, room + 1))

    with sockets_folder(exactly, services) as folder:
        assert folder == exactly
    with sockets_folder(longer, services) as folder:
        assert folder.parent == short_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    assert not folder.exists()


def test_refuses_to_start_where_no_folder_has_room_for_sockets(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))

    with (
        pytest.raises(SettingsError, match=f"TEXTWAY_DATA_DIR: sockets in {long} .* TMPDIR"),
        sockets_folder(long, planned(LauncherSettings())),
    ):
        pass

    assert list(long.iterdir()) == []


@pytest.mark.parametrize("said", ["unix:relative.sock", "unix:", "unix:/" + "x" * 100, "unix:a:12", "unix:/"])
def test_refuses_what_is_no_socket(monkeypatch, said):
    monkeypatch.setenv("TEXTWAY_INGRESS_LISTEN", said)

    with pytest.raises(SettingsError, match="TEXTWAY_INGRESS_LISTEN"):
        load(LauncherSettings)

"""`textway prepare-containers`, and docker-compose.yml, which must pass on every setting."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from servicekit.settings import SettingsError
from services.__main__ import cli
from services.launcher import containers
from services.launcher.settings import GatewayFilesSettings
from services.launcher.settings_reference import groups

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
# Which service reads which group of docs/configuration.md.
READERS = {"Integrations": "integrations", "Ingress": "ingress", "Delivery": "delivery"}


def prepare(folder: Path) -> None:
    done = CliRunner().invoke(
        cli, ["prepare-containers", "--gateway", str(folder / "gateway"), "--login", str(folder / "login" / "login")]
    )
    assert done.exit_code == 0, done.output


def test_writes_all_that_the_gateway_needs_into_one_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTWAY_DELIVERY_ADDRESS", "delivery.internal:7000")

    prepare(tmp_path)

    names = {file.name for file in (tmp_path / "gateway").iterdir()}
    text = (tmp_path / "gateway" / "envoy.yaml").read_text()
    loaded = yaml.safe_load(text)
    assert names == {"envoy.yaml", "answers.lua", "descriptors.binpb", "run-in-container.sh"}
    assert loaded["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert loaded["static_resources"]["listeners"][0]["address"]["socket_address"]["address"] == "0.0.0.0"
    assert "delivery.internal" in text
    assert str(ROOT) not in text


@pytest.mark.parametrize(
    ("gateway", "login", "what"),
    [
        ("file/x", "login", r"x can not be written to \(Not a directory"),
        ("gateway", "file/x", r"x can not be written \(File exists"),
    ],
)
def test_what_can_not_be_written_is_one_sentence(tmp_path, gateway, login, what):
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match=rf"/file/{what}\)$"):
        containers.prepare(GatewayFilesSettings(), gateway_folder=tmp_path / gateway, login=tmp_path / login)


def test_the_script_asks_where_the_gateway_is_administered(tmp_path):
    prepare(tmp_path)

    admin = yaml.safe_load((tmp_path / "gateway" / "envoy.yaml").read_text())["admin"]["address"]["socket_address"]
    script = (tmp_path / "gateway" / "run-in-container.sh").read_text()
    assert f"ADMIN_PORT={admin['port_value']}\n" in script


def test_makes_a_login_once_that_only_its_owner_can_read(tmp_path):
    prepare(tmp_path)
    login = tmp_path / "login" / "login"
    first = login.read_text()

    prepare(tmp_path)

    assert re.fullmatch(r"postgres:5432:textway:textway:[0-9a-f]{48}\n", first)
    assert login.read_text() == first
    assert stat.S_IMODE(login.stat().st_mode) == 0o600
    assert [file.name for file in login.parent.iterdir()] == ["login"]


def test_every_setting_reaches_the_containers_that_read_it():
    shared: set[str] = set()
    for title, settings in groups():
        names = {each.name for each in settings}
        if title == "every process":
            shared = names - {"TEXTWAY_DATA_DIR"}  # which the image sets
        elif title in READERS:
            passed = set(COMPOSE["services"][READERS[title]]["environment"])
            assert (names | shared) - passed == set(), title
    gateway = {f"TEXTWAY_{name.upper()}" for name in GatewayFilesSettings.model_fields}
    passed = set(COMPOSE["services"]["prepare"]["environment"])
    assert gateway - {"TEXTWAY_DATA_DIR"} - passed == set()


def test_what_migrates_is_told_what_the_services_are_told():
    migrate = COMPOSE["services"]["migrate"]["environment"]

    for name in ("integrations", "delivery"):
        told = COMPOSE["services"][name]["environment"]
        assert {key: migrate.get(key) for key in told} == told


def test_the_compose_file_holds_no_secret_and_no_way_around_the_gateway():
    for name, service in COMPOSE["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|_KEY$|HEADERS", variable):
                assert value is None, f"{name}: {variable}"
            assert not re.search(r"://[^/]*:[^/]*@", str(value)), f"{name}: {variable}"
        assert not service.get("privileged"), name
        assert "container_name" not in service, name
    published = {
        name for name, service in COMPOSE["services"].items() if "ports" in service and "profiles" not in service
    }
    assert published == {"gateway"}

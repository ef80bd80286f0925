"""carriers.yaml on a disk: what it names beside itself, and files that are no carriers.yaml at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from servicekit.clock import SystemClock
from services.delivery.carriers.http.definition import shipped
from services.delivery.carriers.smpp.link import SmppLink
from services.delivery.installation.carriers_file import CarriersFileError, ConfiguredCarriers, load
from services.delivery.routing import CarrierRules
from services.delivery.settings import DeliverySettings

ROOT = Path(__file__).parents[3]
EXAMPLE_ENVIRONMENT = {"TWILIO_AUTH_TOKEN": "t", "SMSC_PASSWORD": "p", "OUR_GATEWAY_TOKEN": "o"}


def read(path: Path, environment: dict[str, str] | None = None) -> ConfiguredCarriers:
    return load(
        path,
        simulator_number="+6598765432",
        public_url="https://sms.example",
        environment=environment or {},
        clock=SystemClock(),
    )


def problems(path: Path) -> str:
    with pytest.raises(CarriersFileError) as caught:
        read(path)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "carriers.yaml"


def with_password(password: str) -> str:
    return f"carriers:\n  smsc: {{smpp: {{host: h, system_id: s, password: '{password}'}}}}\n"


def test_the_example_can_be_used_as_it_is():
    found = read(ROOT / "carriers.example.yaml", EXAMPLE_ENVIRONMENT)

    assert [carrier.name for carrier in found.carriers] == ["main", "smsc", "ours", "play"]
    assert found.warnings == ()


@pytest.mark.parametrize("kind", [SmppLink, CarrierRules])
def test_the_guide_tells_every_key(kind):
    guide = (ROOT / "docs/guides/routing.md").read_text()
    beside = {"name", "sender", "senders"}  # told as the carrier's name, `from` and `from_by_country`

    untold = {each.name for each in dataclasses.fields(kind) if f"`{each.name}`" not in guide}

    assert untold <= beside


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_from_a_file_loses_its_last_line_break_only(file, ending):
    secret = file.parent / "secret"
    secret.write_bytes(f"pass  word{ending}".encode())
    secret.chmod(0o600)
    file.write_text("carriers:\n  main: {definition: own-gateway, settings: {url: 'http://h', token: 'file:secret'}}\n")

    found = read(file)

    assert found.warnings == ()
    assert found.carriers[0]._settings["settings.token"] == "pass  word"


def test_a_secret_that_everybody_may_read_is_doubted(file):
    secret = file.parent / "secret"
    secret.write_text("pa$$")
    secret.chmod(0o644)
    file.write_text(with_password(f"file:{secret}"))

    found = read(file)

    (warning,) = found.warnings
    assert warning.startswith(f"carriers.yaml:2: carriers.smsc.smpp.password: {secret} can be read by every user")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff", "is not UTF-8"),
        (b"x" * 65_537, "has 65537 bytes"),
    ],
)
def test_a_secret_that_can_not_be_had_is_told_without_its_content(file, content, problem):
    secret = file.parent / "secret"
    if content is not None:
        secret.write_bytes(content)
        secret.chmod(0o600)
    file.write_text(with_password("file:secret"))

    found = problems(file)

    assert found.startswith(f"carriers.yaml:2: carriers.smsc.smpp.password: {secret} {problem}")
    assert len(found) < 300


def test_a_secret_is_no_folder(file):
    file.write_text(with_password("file:/"))

    assert "/ is not a file" in problems(file)


def test_a_definition_of_ones_own_lies_beside_the_file(file):
    own = file.parent / "mine.yaml"
    own.write_text(shipped()["own-gateway"].read_text().replace("name: own-gateway", "name: mine"))
    file.write_text("carriers:\n  main: {definition: ./mine.yaml, settings: {url: 'https://sms.example/messages'}}\n")

    assert [each.definition_name for each in read(file).carriers] == ["mine"]


def test_what_is_wrong_in_a_definition_of_ones_own_has_the_place_there(file):
    own = file.parent / "mine.yaml"
    own.write_text(shipped()["own-gateway"].read_text().replace("capability: blind", "capability: bland"))
    line = own.read_text().splitlines().index("capability: bland") + 1
    file.write_text("carriers:\n  main: {definition: ./mine.yaml, settings: {url: 'https://sms.example/messages'}}\n")

    assert problems(file).startswith(f"mine.yaml:{line}: capability: must be one of")


def test_a_definition_that_is_not_there_is_told(file):
    file.write_text("carriers:\n  main: {definition: ./mine.yaml}\n")

    assert "mine.yaml: can not be read: No such file" in problems(file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "carriers.yaml: can not be read: No such file"),
        (b"", "carriers.yaml: is empty"),
        (b"# nothing\n", "carriers.yaml: is empty"),
        (b"carriers:\n\tmain: {}\n", "carriers.yaml:2: has a tab: indent with spaces"),
        (b"carriers: {a: {simulator: {}}}\n---\na: 1\n", "carriers.yaml:2: begins a second document"),
        (b"carriers:\n  a: x\n   b: y\n", "carriers.yaml:3: has a colon out of place"),
        (b"carriers: \xff\n", "is no UTF-8"),
        (b"carriers: {" + b"#" * 1_100_000, "carriers.yaml: is longer than"),
        (b"carriers:\n  a: {simulator: {}}\n  a: {simulator: {}}\n", "carriers.yaml:3: carriers.a: is there twice"),
        (b"carriers: &x {a: {simulator: {}}}\n", "carriers.yaml:1: has an anchor"),
        (b"carriers: !!python/object:os.system {}\n", "carriers.yaml:1: has a tag"),
        (b"carriers: [\n", "carriers.yaml:2: "),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_told(file, content, problem):
    if content is not None:
        file.write_bytes(content)

    assert problem in problems(file)


def test_an_empty_setting_means_no_file(monkeypatch):
    monkeypatch.setenv("TEXTWAY_CARRIERS", "")

    assert DeliverySettings().carriers is None

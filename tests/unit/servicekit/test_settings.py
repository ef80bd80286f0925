"""Settings: every bad one is named as its reader knows it, and no secret is ever printed."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, SecretStr, ValidationError, field_validator

from servicekit.settings import Address, DatabaseUrl, ProcessSettings, PublicUrl, SettingsError, load


class ProbeSettings(ProcessSettings):
    """Settings with an address, a number and two secrets."""

    probe_listen: Address = Field("127.0.0.1:1", description="Where.")
    probe_metrics_listen: Address | Literal[""] = Field("127.0.0.1:2", description="Where to be measured.")
    probe_url: PublicUrl = Field("http://127.0.0.1:8080", description="Where from outside.")
    probe_size: int = Field(1, ge=1, le=10, description="How many.")
    probe_secret: SecretStr = Field(SecretStr("unset-secret"), min_length=8, description="A secret.")
    probe_database_url: DatabaseUrl = Field(SecretStr(""), description="A database.")
    probe_key: SecretStr | None = Field(None, description="A checked secret.")

    @field_validator("probe_key")
    @classmethod
    def _begins_well(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith("sk_"):
            raise ValueError("must begin with sk_")
        return value


@pytest.fixture
def setting(monkeypatch):
    """Set one environment variable."""
    return monkeypatch.setenv


def test_reads_the_environment_under_its_prefix(setting):
    setting("TEXTWAY_PROBE_SIZE", "7")
    setting("PROBE_LISTEN", "0.0.0.0:9")

    settings = load(ProbeSettings)

    assert settings.probe_size == 7
    assert settings.probe_listen == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROBE_SIZE", "11"),
        ("PROBE_SIZE", "many"),
        ("PROBE_SIZE", ""),
        ("PROBE_LISTEN", "7103"),
        ("PROBE_LISTEN", "http://127.0.0.1:7103"),
        ("PROBE_LISTEN", "127.0.0.1:7103 "),
        ("PROBE_LISTEN", "127.0.0.1:7103\n"),
        ("PROBE_LISTEN", "host:123456"),
        ("PROBE_URL", "https://sms.example.com:99999"),
        ("PROBE_URL", "http://[::1"),
        ("PROBE_URL", "https://:443"),
        ("PROBE_URL", "sms.example.com"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "nan"),
        ("DRAIN_SECONDS", "21"),
        ("GRPC_REFLECTION", "perhaps"),
    ],
)
def test_names_a_bad_setting_with_its_prefix(setting, name, value):
    setting(f"TEXTWAY_{name}", value)

    with pytest.raises(SettingsError, match=f"^TEXTWAY_{name}: ."):
        load(ProbeSettings)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PROBE_SIZE", "11", "must be less than or equal to 10"),
        ("PROBE_LISTEN", "7103", "must be a host and a port, as in 127.0.0.1:7101"),
        ("PROBE_METRICS_LISTEN", "7103", "must be a host and a port, as in 127.0.0.1:7101"),
        (
            "PROBE_URL",
            "sms.example.com",
            "must be an http or https URL without a query, such as https://sms.example.com",
        ),
        ("PROBE_KEY", "correct-horse", "must begin with sk_"),
    ],
)
def test_says_in_one_sentence_what_a_setting_must_be(setting, name, value, told):
    setting(f"TEXTWAY_{name}", value)

    with pytest.raises(SettingsError) as refused:
        load(ProbeSettings)

    assert str(refused.value) == f"TEXTWAY_{name}: {told}"


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://shop:hunter2@db/textway", "postgresql://shop:hunter2@db:x/textway"]
)
def test_says_how_the_url_of_a_database_is_written_and_tells_nothing_of_it(setting, url):
    setting("TEXTWAY_PROBE_DATABASE_URL", url)

    with pytest.raises(SettingsError) as refused:
        load(ProbeSettings)

    assert str(refused.value).startswith("TEXTWAY_PROBE_DATABASE_URL: must be postgresql://user:password@host/name, ")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["", "sqlite:////var/lib/textway/delivery.db", "postgresql://shop:p%40ss@db:5432/textway?sslmode=require"]
)
def test_takes_the_url_of_a_database_as_it_is(setting, url):
    setting("TEXTWAY_PROBE_DATABASE_URL", url)

    assert load(ProbeSettings).probe_database_url.get_secret_value() == url


def test_names_every_bad_setting(setting):
    setting("TEXTWAY_PROBE_SIZE", "0")
    setting("TEXTWAY_LOG_LEVEL", "loud")
    setting("TEXTWAY_PROBE_LISTEN", "nowhere")

    with pytest.raises(SettingsError) as refused:
        load(ProbeSettings)

    named = {line.partition(":")[0] for line in str(refused.value).splitlines()}
    assert named == {"TEXTWAY_PROBE_SIZE", "TEXTWAY_LOG_LEVEL", "TEXTWAY_PROBE_LISTEN"}


@pytest.mark.parametrize(("name", "secret"), [("PROBE_SECRET", "hunter2"), ("PROBE_KEY", "correct-horse")])
def test_never_shows_a_bad_secret(setting, name, secret):
    setting(f"TEXTWAY_{name}", secret)

    with pytest.raises(SettingsError) as refused:
        load(ProbeSettings)

    assert str(refused.value).startswith(f"TEXTWAY_{name}: ")
    assert secret not in str(refused.value)
    assert refused.value.__suppress_context__


def test_never_shows_a_good_secret_when_settings_are_printed(setting):
    setting("TEXTWAY_PROBE_SECRET", "correct-horse")

    settings = load(ProbeSettings)

    assert settings.probe_secret.get_secret_value() == "correct-horse"
    assert "correct-horse" not in f"{settings!r} {settings} {settings.model_dump()}"


def test_settings_do_not_change_after_the_start():
    with pytest.raises(ValidationError):
        load(ProbeSettings).probe_size = 2

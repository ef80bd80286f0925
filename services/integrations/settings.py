"""The settings of Integrations."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from servicekit.egress_settings import EgressSettings
from servicekit.ids import has_secret_form
from servicekit.settings import Address, DatabaseUrl, PublicUrl, ServiceAddress
from services.integrations.domain import API_KEY_LENGTH, API_KEY_PREFIX


class IntegrationsSettings(EgressSettings):
    """What the Integrations service reads from the environment."""

    integrations_listen: ServiceAddress = Field("127.0.0.1:7101", description="Where Integrations is served.")
    integrations_metrics_listen: Address | Literal[""] = Field(
        "127.0.0.1:7111", description="Where Prometheus reads Integrations' metrics; empty for nowhere."
    )
    integrations_database_url: DatabaseUrl = Field(
        SecretStr(""),
        description="`postgresql://user:password@host/name`; empty for a SQLite file in the data folder.",
    )
    public_url: PublicUrl = Field(
        "http://127.0.0.1:8080", description="Address of the gateway as senders reach it; begins every ingress URL."
    )
    key_ring_file: Path | None = Field(
        None, description="File of the keys that encrypt secrets at rest; `key-ring` in the data folder when unset."
    )
    bootstrap_key: SecretStr | None = Field(
        None, description="An API key of the default tenant, valid from the start: `sk_live_` and 40 letters or digits."
    )

    @field_validator("bootstrap_key")
    @classmethod
    def _has_the_form_of_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if not has_secret_form(value.get_secret_value(), API_KEY_PREFIX, API_KEY_LENGTH):
            raise ValueError(f"must be {API_KEY_PREFIX}_ and {API_KEY_LENGTH} letters or digits")
        return value

    @property
    def database_url(self) -> str:
        """The database's URL, the default filled in."""
        path = (self.data_dir / "integrations.db").absolute()
        return self.integrations_database_url.get_secret_value() or f"sqlite:///{path}"

    @property
    def key_ring_path(self) -> Path:
        """The key ring's file, the default filled in."""
        return self.key_ring_file or self.data_dir / "key-ring"

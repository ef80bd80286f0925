"""Delivery's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from servicekit.settings import Address, ProcessSettings


class DeliverySettings(ProcessSettings):
    """What Delivery reads from the environment."""

    delivery_listen: Address = Field("127.0.0.1:7103", description="Where Delivery listens.")
    delivery_database_url: SecretStr = Field(
        SecretStr(""),
        description="`postgresql://user:password@host/name`; empty for a SQLite file in the data folder.",
    )
    delivery_shards: int = Field(
        1,
        ge=1,
        le=32,
        description="Over how many shards new messages are spread; 1 unless the database is distributed.",
    )
    delivery_in_flight: int = Field(256, ge=1, le=10_000, description="How many carrier calls are made at once.")
    integrations_address: Address = Field("127.0.0.1:7101", description="Where Integrations is reached.")
    message_validity_seconds: int = Field(
        14_400, ge=60, le=259_200, description="How long a message may wait for a carrier before it expires."
    )
    lease_seconds: float = Field(
        30.0, ge=3, le=600, description="How long a sending process may stand still before another takes its messages."
    )
    evidence_seconds: float = Field(
        90.0, ge=1, le=600, description="How long a carrier that can tell what it has is waited for before a resend."
    )
    retention_days: int = Field(30, ge=1, le=3650, description="How long finished messages are kept.")
    simulator_number: str = Field(
        "+6598765432", pattern=r"^\+[0-9]{5,15}$", description="The number that the simulated carrier sends from."
    )
    carrier_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Where your own gateway takes messages (docs/guides/own-gateway.md); empty: simulated carrier.",
    )
    carrier_capability: Literal["idempotent", "reconcilable", "blind"] = Field(
        "blind", description="What your gateway offers for the case that its answer is lost."
    )
    carrier_sender: str = Field(
        "",
        pattern=r"^(\+[0-9]{5,15}|[A-Za-z0-9 ]{1,11})?$",
        description="The number or name that your gateway sends from; empty to let it choose.",
    )
    carrier_token: SecretStr = Field(SecretStr(""), description="Bearer token for your gateway; empty for none.")

    @property
    def database_url(self) -> str:
        """The database that is used."""
        path = (self.data_dir / "delivery.db").absolute()
        return self.delivery_database_url.get_secret_value() or f"sqlite:///{path}"

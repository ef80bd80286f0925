"""Delivery's settings."""

from __future__ import annotations

from pydantic import Field, SecretStr

from servicekit.settings import Address, ProcessSettings


class DeliverySettings(ProcessSettings):
    """What Delivery reads from the environment."""

    delivery_listen: Address = Field("127.0.0.1:7103", description="Where Delivery listens.")
    delivery_database_url: SecretStr = Field(
        SecretStr(""), description="Database of Delivery; empty for `delivery.db` in the data folder."
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
    simulator_number: str = Field(
        "+6598765432", pattern=r"^\+[0-9]{5,15}$", description="The number that the simulated carrier sends from."
    )

    @property
    def database_url(self) -> str:
        """The database that is used."""
        path = (self.data_dir / "delivery.db").absolute()
        return self.delivery_database_url.get_secret_value() or f"sqlite:///{path}"

"""Delivery's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from servicekit.egress_settings import EgressSettings
from servicekit.settings import Address, DatabaseUrl, PublicUrl, ServiceAddress, reads_as
from servicekit.sms_text import MAX_TEXT_LENGTH


class DeliverySettings(EgressSettings):
    """What Delivery reads from the environment."""

    delivery_listen: ServiceAddress = Field("127.0.0.1:7103", description="Where Delivery listens.")
    delivery_metrics_listen: Address | Literal[""] = Field(
        "127.0.0.1:7113", description="Where Prometheus reads Delivery's metrics; empty for nowhere."
    )
    delivery_database_url: DatabaseUrl = Field(
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
    webhooks_in_flight: int = Field(128, ge=1, le=10_000, description="How many webhook calls are made at once.")
    integrations_address: ServiceAddress = Field("127.0.0.1:7101", description="Where Integrations is reached.")
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
    carriers: Path | None = Field(
        None,
        description="File of the carriers and routes (docs/guides/routing.md); the simulated carrier alone when unset.",
    )
    public_url: PublicUrl = Field(
        "http://127.0.0.1:8080", description="Address of the gateway as carriers reach it; begins every callback URL."
    )
    simulator_number: Annotated[
        str, reads_as("a plus sign and 5 to 15 digits, as in +6598765432", r"\+[0-9]{5,15}")
    ] = Field("+6598765432", description="The number that the simulated carrier sends from.")

    reply_window_seconds: int = Field(
        604_800,
        ge=60,
        le=2_592_000,
        description="How long after a message an inbound one from its recipient is taken for an answer, unless its"
        " integration says otherwise.",
    )
    stop_words: str = Field(
        "", max_length=1000, description="Opt-out words beyond STOP and its like, with commas between them."
    )
    opt_out_confirmation: str = Field(
        "",
        max_length=MAX_TEXT_LENGTH,
        description="Text that confirms an opt-out, once; empty for none, since most carriers confirm by themselves.",
    )
    help_text: str = Field(
        "",
        max_length=MAX_TEXT_LENGTH,
        description="Text that answers HELP, at most once an hour for each person; empty for none, as above.",
    )

    @field_validator("carriers", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @property
    def database_url(self) -> str:
        """The database that is used."""
        path = (self.data_dir / "delivery.db").absolute()
        return self.delivery_database_url.get_secret_value() or f"sqlite:///{path}"

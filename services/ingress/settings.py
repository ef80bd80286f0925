"""What can be set for Ingress."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from servicekit.settings import Address, ProcessSettings, ServiceAddress


class IngressSettings(ProcessSettings):
    """Settings of the Ingress service."""

    ingress_listen: ServiceAddress = Field("127.0.0.1:7102", description="Where Ingress is served.")
    ingress_metrics_listen: Address | Literal[""] = Field(
        "127.0.0.1:7112", description="Where Prometheus reads Ingress' metrics; empty for nowhere."
    )
    integrations_address: ServiceAddress = Field("127.0.0.1:7101", description="Where Integrations is reached.")
    delivery_address: ServiceAddress = Field("127.0.0.1:7103", description="Where Delivery is reached.")
    known_for_seconds: float = Field(
        60.0, ge=0, le=3_600, description="How long Ingress goes on with what it knows when Integrations is down."
    )
    max_messages_per_request: int = Field(
        1_000, ge=1, le=1_000, description="How many messages one request to Ingress may make."
    )

"""What `textway up` can be told by the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from servicekit.egress_settings import Networks
from servicekit.settings import Address, ProcessSettings


class LauncherSettings(ProcessSettings):
    """Settings of the process that starts all others on one machine."""

    http_host: str = Field("127.0.0.1", description="Address that the gateway listens on; 0.0.0.0 for every interface.")
    http_port: int = Field(8080, ge=1, le=65_535, description="Port that the gateway listens on.")
    gateway_workers: int = Field(
        1, ge=1, le=64, description="Threads of the gateway. With two cores, one gives the steadier answers."
    )
    public_url: str = Field(
        "", description="Address under which senders reach the gateway; empty for http://127.0.0.1:<port>."
    )
    egress_allow: Networks = Field(
        "127.0.0.0/8,::1/128",
        description="Networks that customers' URLs may lead to although they are not public: this machine, so that it"
        " can receive its own webhooks. Empty for none.",
    )
    integrations_listen: Address | Literal[""] = Field(
        "", description="Where Integrations listens; `up` takes a free port when empty."
    )
    ingress_listen: Address | Literal[""] = Field(
        "", description="Where Ingress listens; `up` takes a free port when empty."
    )
    delivery_listen: Address | Literal[""] = Field(
        "", description="Where Delivery listens; `up` takes a free port when empty."
    )

    @property
    def address(self) -> str:
        """The URL that a person on this machine opens."""
        host = self.http_host if self.http_host not in {"0.0.0.0", "::", ""} else "127.0.0.1"  # compared
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http_port}"

"""What `textway up` can be told by the environment."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from servicekit.egress_settings import Networks
from servicekit.settings import Address, File, ProcessSettings, ServiceAddress
from services.launcher.cores import usable_cores

CORES_FOR_EACH_INGRESS: Final = 4
# Delivery is one process here, and more of Ingress than this only hand it the same in smaller groups, which cost more.
MOST_INGRESS_UNASKED: Final = 4


def ingress_workers_for(cores: int) -> int:
    """Return how many processes of Ingress a machine gets when nobody says."""
    return min(MOST_INGRESS_UNASKED, max(1, cores // CORES_FOR_EACH_INGRESS))


def _workers_by_cores() -> int:
    return ingress_workers_for(usable_cores())


def _by_cores_when_empty(said: Any) -> Any:  # Any: pydantic has not looked at it yet
    return _workers_by_cores() if said == "" else said


def _is_an_address(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:  # Envoy looks no name up
        raise ValueError("must be an IP address, such as 127.0.0.1, or 0.0.0.0 for every interface") from None
    return host


class StatusSettings(ProcessSettings):
    """Where `textway status` and the gateway find the services; each name may stand for many replicas."""

    integrations_address: ServiceAddress = Field("127.0.0.1:7101", description="Where Integrations is reached.")
    delivery_address: ServiceAddress = Field("127.0.0.1:7103", description="Where Delivery is reached.")
    ingress_address: ServiceAddress = Field("127.0.0.1:7102", description="Where Ingress is reached.")


class GatewaySettings(ProcessSettings):
    """Settings of whoever writes the gateway's files."""

    http_tls_cert: File = Field(
        None,
        description="File of the certificate, with its chain, that the gateway shows to senders"
        " (docs/guides/secure.md); it speaks plain http when this and the next are unset.",
    )
    http_tls_key: File = Field(None, description="File of the private key of that certificate, without a password.")


class LauncherSettings(GatewaySettings):
    """Settings of the process that starts all others on one machine."""

    http_host: Annotated[str, AfterValidator(_is_an_address)] = Field(
        "127.0.0.1", description="Address that the gateway listens on; 0.0.0.0 for every interface."
    )
    http_port: int = Field(8080, ge=1, le=65_535, description="Port that the gateway listens on.")
    gateway_workers: int = Field(
        1, ge=1, le=64, description="Threads of the gateway. With two cores, one gives the steadier answers."
    )
    ingress_workers: Annotated[int, BeforeValidator(_by_cores_when_empty)] = Field(
        default_factory=_workers_by_cores,
        ge=1,
        le=64,
        description="Processes of Ingress on this machine; when empty, one for every four cores that `up` may use, but"
        " one at least and four at most. In containers each has one, and replicas are scaled"
        " (docs/guides/run-at-scale.md).",
    )
    public_url: str = Field(
        "",
        description="Address under which senders reach the gateway; empty for http://127.0.0.1:<port>, https with TLS.",
    )
    egress_allow: Networks = Field(
        "127.0.0.0/8,::1/128",
        description="Networks that customers' URLs may lead to although they are not public: this machine, so that it"
        " can receive its own webhooks. Empty for none.",
    )
    integrations_listen: ServiceAddress | Literal[""] = Field(
        "", description="Where Integrations listens. When empty: a socket in the data folder, or with TLS a free port."
    )
    ingress_listen: ServiceAddress | Literal[""] = Field(
        "", description="Where Ingress listens. When empty: a socket in the data folder, or with TLS a free port."
    )
    delivery_listen: ServiceAddress | Literal[""] = Field(
        "", description="Where Delivery listens. When empty: a socket in the data folder, or with TLS a free port."
    )
    integrations_metrics_listen: Address | Literal[""] = Field(
        "", description="Where Integrations shows its metrics; `up` takes a free port when empty."
    )
    ingress_metrics_listen: Address | Literal[""] = Field(
        "", description="Where Ingress shows its metrics; `up` takes a free port when empty."
    )
    delivery_metrics_listen: Address | Literal[""] = Field(
        "", description="Where Delivery shows its metrics; `up` takes a free port when empty."
    )

    @property
    def address(self) -> str:
        """The gateway's URL on this machine."""
        host = self.http_host if self.http_host not in {"0.0.0.0", "::"} else "127.0.0.1"  # compared
        scheme = "https" if self.http_tls_cert else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.http_port}"

    @property
    def shown_address(self) -> str:
        """The URL that a person is told: with TLS the one that the certificate is for, if it is known."""
        return self.public_url if self.http_tls_cert and self.public_url else self.address


class GatewayFilesSettings(GatewaySettings, StatusSettings):
    """What the gateway's files of an installation in containers are made from."""

    gateway_listen: Address = Field("0.0.0.0:8080", description="Where the gateway listens in its container.")

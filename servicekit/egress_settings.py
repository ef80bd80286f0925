"""The settings that say what URLs of customers may lead to."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from servicekit.egress_urls import DEFAULT_PORTS, MAX_PORT, EgressPolicy, Network
from servicekit.settings import ProcessSettings

_BETWEEN: Final = re.compile(r"[,\s]+")


def _words(text: str) -> list[str]:
    return [word for word in _BETWEEN.split(text) if word]


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ip_network(word) for word in _words(text))


def _ports(text: str) -> frozenset[int]:
    if any(not word.isascii() or not word.isdecimal() or not 1 <= int(word) <= MAX_PORT for word in _words(text)):
        raise ValueError(f"must be ports from 1 to {MAX_PORT}, with commas between them")
    return frozenset(int(word) for word in _words(text))


def _has_networks(text: str) -> str:
    _networks(text)
    return text


def _has_ports(text: str) -> str:
    _ports(text)
    return text


Networks = Annotated[str, AfterValidator(_has_networks)]
Ports = Annotated[str, AfterValidator(_has_ports)]


class EgressSettings(ProcessSettings):
    """What every service reads that saves or calls a customer's URL."""

    egress_allow: Networks = Field(
        "",
        description="Networks that customers' URLs may lead to although they are not public, such as `10.1.2.3/32,"
        " fd00::/64`: on any port, over http too. `textway up` allows the machine itself.",
    )
    egress_http: bool = Field(default=False, description="Let customers' URLs be plain http, on port 80.")
    egress_ports: Ports = Field("443,8443", description="Ports that customers' URLs may name.")

    def egress_policy(self, public_url: str) -> EgressPolicy:
        """Return the settings as a policy; `public_url` is the gateway's own, which no webhook may go to."""
        own = urlsplit(public_url)
        return EgressPolicy(
            allowed=_networks(self.egress_allow),
            allow_http=self.egress_http,
            ports=_ports(self.egress_ports),
            own=(own.hostname, own.port or DEFAULT_PORTS.get(own.scheme, 0)) if own.hostname else None,
        )

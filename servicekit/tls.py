"""Who a process is to the others of its installation: its certificate, key and authority, checked at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from servicekit.settings import ENV_PREFIX, ProcessSettings, SettingsError


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """The files of a certificate, with its chain if it has one, and of the key that it is for."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a process shows to the others, and the authority whose word it takes for them."""

    pair: KeyPair
    authority: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return what a server needs that serves only clients with a certificate of the same authority."""
        return grpc.ssl_server_credentials(
            [(self.pair.key.read_bytes(), self.pair.certificate.read_bytes())],
            root_certificates=self.authority.read_bytes(),
            require_client_auth=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return what a client needs that shows itself and believes only servers with the name that it called."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority.read_bytes(),
            private_key=self.pair.key.read_bytes(),
            certificate_chain=self.pair.certificate.read_bytes(),
        )


def identity(settings: ProcessSettings) -> Identity | None:
    """Return this process's identity, None for plaintext; raise SettingsError when the three files can not be used."""
    files = {"TLS_CERT": settings.tls_cert, "TLS_KEY": settings.tls_key, "TLS_CA": settings.tls_ca}
    certificate, key, authority = _all_or_none(files)
    if certificate is None or key is None or authority is None:
        return None
    from servicekit import certificate_files  # noqa: PLC0415  # see below

    pair = _checked_pair("TLS", certificate, key)
    certificate_files.check_signed(certificate, authority)
    return Identity(pair=pair, authority=authority)


def key_pair(prefix: str, certificate: Path | None, key: Path | None) -> KeyPair | None:
    """Return the pair that the settings `<prefix>_CERT` and `<prefix>_KEY` name, None when they name none.

    Raises SettingsError when it can not be used.
    """
    certificate, key = _all_or_none({f"{prefix}_CERT": certificate, f"{prefix}_KEY": key})
    return None if certificate is None or key is None else _checked_pair(prefix, certificate, key)


def _all_or_none(files: dict[str, Path | None]) -> Sequence[Path | None]:
    given = [name for name, file in files.items() if file is not None]
    missing = [name for name, file in files.items() if file is None]
    if given and missing:
        raise SettingsError(
            f"{ENV_PREFIX}{missing[0]}: must be set, because {ENV_PREFIX}{given[0]} is; set all of them or none"
        )
    return [file.absolute() if file else None for file in files.values()]


def _checked_pair(prefix: str, certificate: Path, key: Path) -> KeyPair:
    # A process that speaks plaintext has no need of the library.
    from servicekit import certificate_files  # noqa: PLC0415

    certificate_files.check_pair(prefix, certificate, key)
    return KeyPair(certificate=certificate, key=key)

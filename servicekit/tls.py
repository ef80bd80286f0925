"""Who a process is to the others of its installation: its certificate, key and authority, checked at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from servicekit.clock import SystemClock
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
    pair = _checked_pair("TLS", certificate, key)
    authorities = _certificates("TLS_CA", authority)
    for one in authorities:
        _require_in_force("TLS_CA", authority, one)
    if not _leads_to(_certificates("TLS_CERT", certificate), authorities):
        raise _refusal("TLS_CERT", certificate, f"was not signed by the authority in {authority}")
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
    leaf = _certificates(f"{prefix}_CERT", certificate)[0]
    _require_in_force(f"{prefix}_CERT", certificate, leaf)
    if _encoded(_private_key(f"{prefix}_KEY", key).public_key()) != _encoded(leaf.public_key()):
        raise _refusal(f"{prefix}_KEY", key, f"is not the key of the certificate in {certificate}")
    return KeyPair(certificate=certificate, key=key)


def _certificates(setting: str, file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(setting, file))
    except ValueError:
        raise _refusal(setting, file, "holds no certificate in PEM form") from None


def _private_key(setting: str, file: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(_read(setting, file), password=None)
    except TypeError:
        raise _refusal(setting, file, "is locked by a password; give a key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _refusal(setting, file, "holds no private key in PEM form") from None


def _read(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _refusal(setting, file, f"can not be read ({error.strerror})") from None


def _require_in_force(setting: str, file: Path, certificate: x509.Certificate) -> None:
    now = SystemClock().now()
    if certificate.not_valid_after_utc <= now:
        raise _refusal(setting, file, f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if certificate.not_valid_before_utc > now:
        raise _refusal(setting, file, f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")


def _leads_to(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> bool:
    """Tell whether the first certificate was signed by an authority, directly or by way of those that follow it."""
    signed = chain[0]
    for signer in chain[1:]:
        if any(_is_signed_by(signed, authority) for authority in authorities):
            return True
        if not _is_signed_by(signed, signer):
            return False
        signed = signer
    return any(_is_signed_by(signed, authority) for authority in authorities)


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _refusal(setting: str, file: Path, what: str) -> SettingsError:
    return SettingsError(f"{ENV_PREFIX}{setting}: {file} {what}")

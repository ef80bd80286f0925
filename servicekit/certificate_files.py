"""Checks the files of certificates and keys that settings name; imported where there are some, for it weighs 9 MiB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from servicekit.clock import SystemClock
from servicekit.settings import ENV_PREFIX, SettingsError


def check_pair(prefix: str, certificate: Path, key: Path) -> None:
    """Raise SettingsError when the certificate is not in force, or the key is not its own."""
    leaf = _certificates(f"{prefix}_CERT", certificate)[0]
    _require_in_force(f"{prefix}_CERT", certificate, leaf)
    if _encoded(_private_key(f"{prefix}_KEY", key).public_key()) != _encoded(leaf.public_key()):
        raise _refusal(f"{prefix}_KEY", key, f"is not the key of the certificate in {certificate}")


def check_signed(certificate: Path, authority: Path) -> None:
    """Raise SettingsError when the authority is not in force, or the certificate was not signed by it."""
    authorities = _certificates("TLS_CA", authority)
    for one in authorities:
        _require_in_force("TLS_CA", authority, one)
    if not _leads_to(_certificates("TLS_CERT", certificate), authorities):
        raise _refusal("TLS_CERT", certificate, f"was not signed by the authority in {authority}")


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

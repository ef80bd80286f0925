"""`textway certificates`: an authority of the installation's own, for whoever has none, and what it signs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from servicekit.clock import SystemClock
from servicekit.file_refusals import refusal_told
from servicekit.settings import SettingsError
from services.launcher.parts import PARTS

AUTHORITY: Final = "ca"
# One for each process that has a machine or a container of its own, and one for all of `textway up`.
HOLDERS: Final = (*PARTS, "gateway", "up")
AUTHORITY_DAYS: Final = 3_650
CERTIFICATE_DAYS: Final = 365
# In every certificate, so that commands and probes on the process's own machine can reach it.
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
# Clocks differ.
_BACKDATED: Final = timedelta(hours=1)


def write(folder: Path, names: Sequence[str]) -> Sequence[Path]:
    """Write certificates and keys for all processes, signed by the folder's authority; return the new files.

    The authority is made the first time and kept after that, so that to run this again is to renew. `names` are further
    names and addresses under which the processes are reached. Raises SettingsError when the authority can not be used
    or a part of it is gone, or the folder can not be written to.
    """
    with refusal_told(f"{folder} can not be written to"):
        return _write_all(folder, names)


def _write_all(folder: Path, names: Sequence[str]) -> Sequence[Path]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    written: list[Path] = []
    authority_file, authority_key_file = folder / f"{AUTHORITY}.crt", folder / f"{AUTHORITY}.key"
    if not authority_file.exists():
        if authority_key_file.exists():
            raise SettingsError(
                f"{authority_file} is gone: put it back, or remove {authority_key_file.name} too to begin with a new"
                " authority, which every process must be given then"
            )
        written += _write_pair(folder, AUTHORITY, *_new_authority())
    authority, authority_key = _read_authority(folder)
    for holder in HOLDERS:
        own = () if holder == "up" else (holder,)
        certificate, key = _signed(holder, (*own, *LOOPBACK, *names), authority, authority_key)
        written += _write_pair(folder, holder, certificate, key)
    return written


def _new_authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named("Textway private authority")
    certificate = (
        _builder(name, name, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _read_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    file = folder / f"{AUTHORITY}.key"
    try:
        # The first is the one that signs; an older one may follow it for as long as its certificates are about.
        certificate = x509.load_pem_x509_certificates((folder / f"{AUTHORITY}.crt").read_bytes())[0]
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"{folder}: the authority's {AUTHORITY}.crt and {AUTHORITY}.key can not be read ({type(error).__name__})"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise SettingsError(f"{file}: this is not the key of the authority beside it")
    return certificate, key


def _signed(
    holder: str, names: Sequence[str], authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    both_ways = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(_named(f"textway {holder}"), authority.subject, key, CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both_ways), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = SystemClock().now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise SettingsError(f"{name}: this is neither a name in ASCII nor an address") from None


def _write_pair(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> Sequence[Path]:
    files = folder / f"{name}.key", folder / f"{name}.crt"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _replace(files[0], private)
    _replace(files[1], certificate.public_bytes(serialization.Encoding.PEM))
    return files


def _replace(file: Path, content: bytes) -> None:
    # Whole or not at all: a process may start while this runs.
    fresh = file.with_name(f"{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        os.fchmod(opened.fileno(), 0o600)  # a left-over keeps the mode that it had
        opened.write(content)
    fresh.replace(file)

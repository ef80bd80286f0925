"""An authority of a test's own, and the certificates that it gives out."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_MAY_SIGN = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Signs certificates; `trusting` is the context of a client that believes it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self.certificate = _authority_builder(self._name, self._key, self._name).sign(self._key, hashes.SHA256())

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=_pem(self.certificate).decode())

    def serving(self, folder: Path, host: str, *, days: int = 1, is_self_signed: bool = False) -> ssl.SSLContext:
        """Return a server's context for a name or an address; with `days` below nought it is expired."""
        private, certificate = self._pair(host, days=days, is_self_signed=is_self_signed)
        file = folder / f"{host.replace(':', '_')}-{days}-{is_self_signed}.pem"
        file.write_bytes(private + certificate)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context

    def write(self, file: Path) -> None:
        file.write_bytes(_pem(self.certificate))

    def write_pair(self, stem: Path, host: str, *, days: int = 1) -> None:
        """Write `<stem>.key` and `<stem>.crt` for a name or an address."""
        private, certificate = self._pair(host, days=days)
        stem.with_name(f"{stem.name}.key").write_bytes(private)
        stem.with_name(f"{stem.name}.crt").write_bytes(certificate)

    def sign(self, other: Authority, name: str) -> x509.Certificate:
        """Make another authority one below this, with a name of its own; return its new certificate."""
        other._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return (
            _authority_builder(other._name, other._key, self._name)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _pair(self, host: str, *, days: int, is_self_signed: bool = False) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        issuer, issuer_key = (name, key) if is_self_signed else (self._name, self._key)
        certificate = (
            _builder(name, issuer, key, days=days)
            .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private, _pem(certificate)


def _authority_builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name
) -> x509.CertificateBuilder:
    # All that RFC 5280 wants of an authority, which Python insists on from 3.13 on.
    return (
        _builder(subject, issuer, key, days=1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_MAY_SIGN, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

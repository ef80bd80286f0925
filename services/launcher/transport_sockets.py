"""How Envoy's connections are secured: its `transport_socket` blocks, each as JSON on one line, which is YAML too."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any, Final

from servicekit.tls import Identity, KeyPair

# TLS 1.3 has its own, all of which are good. These are for 1.2: forward secrecy and authenticated encryption only.
CIPHERS: Final = (
    *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    *("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    *("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
)
_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_RAW: Final = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"


def listening(pair: KeyPair | None) -> str:
    """Return the block of the public listener: TLS with a certificate, HTTP/2 for those that want it; or plaintext."""
    if pair is None:
        return _plaintext()
    common = {**_common(pair, "TLSv1_2"), "alpn_protocols": ["h2", "http/1.1"]}
    return _tls("DownstreamTlsContext", {"common_tls_context": common})


def calling(identity: Identity | None, host: str) -> str:
    """Return the block of a service's cluster: TLS, and nobody is believed to be `host` but by our authority's word."""
    if identity is None:
        return _plaintext()
    name_type = "IP_ADDRESS" if _is_address(host) else "DNS"
    common = {
        **_common(identity.pair, "TLSv1_3"),
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": {"filename": str(identity.authority)},
            "match_typed_subject_alt_names": [{"san_type": name_type, "matcher": {"exact": host}}],
        },
    }
    named = {} if name_type == "IP_ADDRESS" else {"sni": host}
    return _tls("UpstreamTlsContext", {"common_tls_context": common, **named})


def _common(pair: KeyPair, least: str) -> dict[str, Any]:
    files = {
        "certificate_chain": {"filename": str(pair.certificate)},
        "private_key": {"filename": str(pair.key)},
    }
    parameters: dict[str, Any] = {"tls_minimum_protocol_version": least, "tls_maximum_protocol_version": "TLSv1_3"}
    if least != "TLSv1_3":
        parameters["cipher_suites"] = CIPHERS
    return {"tls_params": parameters, "tls_certificates": [files]}


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _tls(context: str, fields: dict[str, Any]) -> str:
    return _block("envoy.transport_sockets.tls", {"@type": f"{_TLS}{context}", **fields})


def _plaintext() -> str:
    return _block("envoy.transport_sockets.raw_buffer", {"@type": _RAW})


def _block(name: str, configuration: dict[str, Any]) -> str:
    return json.dumps({"name": name, "typed_config": configuration})

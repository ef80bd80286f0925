"""Which URLs that a customer gives may be called: one rule for the text, and one for each address that it leads to.

The text is read by one strict form and nothing else, because whatever two readers of a URL understand differently gets
past the one that checks. The list of addresses is ours, because `ipaddress.is_global` lets through forms of loopback.
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_BYTES: Final = 2048
MAX_NAME_LENGTH: Final = 253
MAX_PORT: Final = 65_535
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
WEB_PORTS: Final = frozenset({443, 8443})

# IANA's special-purpose registry, multicast, and 168.63.129.16, where a cloud keeps its machine agent.
BLOCKED_IPV4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
    )
)
# Everything outside the one public block is refused, and with it every form that carries an IPv4 address inside.
PUBLIC_IPV6: Final = IPv6Network("2000::/3")
BLOCKED_IPV6: Final = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))

# Names that exist inside networks only (RFC 6761, 6762, 8375 and ICANN's `internal`).
_INSIDE: Final = ("localhost", "local", "internal", "home.arpa")

_FORM: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)([/?].*)?")
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([1-9][0-9]{0,4}))?")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# What other readers take for an IPv4 address (WHATWG URL, "ends in a number").
_ENDS_IN_A_NUMBER: Final = re.compile(r"(.*\.)?([0-9]+|0[xX][0-9A-Fa-f]*)\.?")
_URL_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "-._~:/?[]@!$&'()*+,;=%")  # RFC 3986
_LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

_EXAMPLE: Final = "such as https://example.com/replies"


class UrlNotAllowedError(ValueError):
    """The URL can not be used; the message follows the field's name."""


class BlockedAddressError(UrlNotAllowedError):
    """The URL is in order, and leads to an address that may not be called."""


@dataclass(frozen=True, kw_only=True)
class EgressPolicy:
    """What may be called. By default: public addresses, over https, on the usual ports."""

    allowed: tuple[Network, ...] = ()  # may be called nevertheless, on any port, over http too
    allow_http: bool = False  # plain http to public addresses, on port 80 and the others
    ports: frozenset[int] = WEB_PORTS
    own: tuple[str, int] | None = None  # host and port of the gateway itself: what is sent there comes back for ever

    def allows(self, address: Address) -> bool:
        """Tell whether an address may be called at all."""
        address = unwrapped(address)
        return any(address in network for network in self.allowed) or not is_blocked(address)


PUBLIC_ONLY: Final = EgressPolicy()


@dataclass(frozen=True, kw_only=True)
class CheckedUrl:
    """A URL in parts, every one of them checked. The host is in lower case, an IPv6 address without its brackets."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)  # path and query; people put tokens there
    address: Address | None  # None when the host is a name

    @property
    def text(self) -> str:
        """The URL as it is called."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def check_url(text: str, policy: EgressPolicy) -> CheckedUrl:
    """Return the URL in parts; raise UrlNotAllowedError, BlockedAddressError for a literal address.

    No name is looked up here: `check_address` is for each address that a look-up gives.
    """
    _check_characters(text)
    form = _FORM.fullmatch(text)
    if form is None or form[1].lower() not in DEFAULT_PORTS:
        raise UrlNotAllowedError(f"must be an absolute https URL, {_EXAMPLE}")
    scheme, authority, target = form[1].lower(), form[2], form[3] or "/"
    if "@" in authority:
        raise UrlNotAllowedError("may not hold a user name or password: the signature proves who sends")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or int(parts[2] or 1) > MAX_PORT:
        raise UrlNotAllowedError("is no URL: its host or port can not be read")
    host = parts[1].lower()
    address = _literal(host)
    url = CheckedUrl(
        scheme=scheme,
        host=host.strip("[]"),
        port=int(parts[2] or DEFAULT_PORTS[scheme]),
        target=target if target.startswith("/") else f"/{target}",
        address=address,
    )
    if address is None:
        _check_name(url, policy)
    else:
        check_address(address, url, policy)
    return url


def check_address(address: Address, url: CheckedUrl, policy: EgressPolicy) -> None:
    """Raise BlockedAddressError or UrlNotAllowedError when a URL may not be called at this address of its host.

    The message does not name the address: what a name means inside the network is nobody's business outside it.
    """
    address = unwrapped(address)
    _check_not_own(url, policy, address)
    if any(address in network for network in policy.allowed):
        return
    if is_blocked(address):
        raise BlockedAddressError(
            "leads to an address that is not public: whoever runs Textway can allow it with TEXTWAY_EGRESS_ALLOW"
        )
    _check_scheme_and_port(url, policy)


def is_blocked(address: Address) -> bool:
    """Tell whether an address is not public."""
    address = unwrapped(address)
    if isinstance(address, IPv4Address):
        return any(address in network for network in BLOCKED_IPV4)
    return (
        address not in PUBLIC_IPV6
        or address.scope_id is not None
        or any(address in network for network in BLOCKED_IPV6)
    )


def unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv4-mapped IPv6 address stands for, and any other as it is."""
    return getattr(address, "ipv4_mapped", None) or address


def _check_characters(text: str) -> None:
    if len(text) > MAX_URL_BYTES:
        raise UrlNotAllowedError(f"must be at most {MAX_URL_BYTES} bytes")
    if "\\" in text or any(each.isspace() or not each.isprintable() for each in text):
        raise UrlNotAllowedError("may not contain spaces, control characters or backslashes")
    if "#" in text:
        raise UrlNotAllowedError("may not have a fragment: a server never sees it")
    strange = next((each for each in text if each not in _URL_CHARACTERS), None)
    if strange is not None:
        raise UrlNotAllowedError(
            f"may not contain {strange!r}: write a host in its ASCII form (xn--...), and anything else as %XX"
        )
    if _LONE_PERCENT.search(text):
        raise UrlNotAllowedError("has a % that no two hexadecimal digits follow: write it as %25")


def _literal(host: str) -> Address | None:
    """Return the address that a host is; None for a name. Raises UrlNotAllowedError for any form but the canonical."""
    if not host.startswith("[") and not _ENDS_IN_A_NUMBER.fullmatch(host):
        return None
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        address = None
    if address is None or isinstance(address, IPv6Address) != host.startswith("[") or "%" in host:
        raise UrlNotAllowedError(
            "has a host that looks like an IP address and is none: write 192.0.2.1 or [2001:db8::1]"
        )
    if address != unwrapped(address):
        raise UrlNotAllowedError(f"has an IPv4 address in an IPv6 address: write {unwrapped(address)}")
    if str(address) != host.strip("[]"):
        raise UrlNotAllowedError(f"has an IP address that is not in its shortest form: write {address}")
    return address


def _check_name(url: CheckedUrl, policy: EgressPolicy) -> None:
    labels = url.host.split(".")
    if len(url.host) > MAX_NAME_LENGTH or not all(_is_label(label) for label in labels):
        raise UrlNotAllowedError("has a host that is no name: letters, digits and hyphens, with dots between them")
    _check_not_own(url, policy, None)
    if policy.allowed:
        return  # what a name may do depends on its addresses, some of which may be inside
    if len(labels) == 1 or url.host.endswith(tuple(f".{name}" for name in _INSIDE)) or url.host in _INSIDE:
        raise BlockedAddressError(
            "has a host that only exists inside a network: give its public name, or have whoever runs Textway allow its"
            " addresses with TEXTWAY_EGRESS_ALLOW"
        )
    _check_scheme_and_port(url, policy)


def _is_label(label: str) -> bool:
    if not _LABEL.fullmatch(label):
        return False
    return _is_international(label) if label.startswith("xn--") else True


def _is_international(label: str) -> bool:
    """Tell whether an A-label has one reading only: a reader that folds its characters must not get other ones."""
    try:
        text = label[4:].encode().decode("punycode")
        is_only_spelling = text.encode("punycode").decode() == label[4:]
    except UnicodeError:
        return False
    is_folded = unicodedata.normalize("NFKC", text) == text == text.lower()
    return (
        is_only_spelling
        and is_folded
        and all(unicodedata.category(each)[0] in "LMN" or each in "-·・" for each in text)
    )


def _check_scheme_and_port(url: CheckedUrl, policy: EgressPolicy) -> None:
    if url.scheme == "http" and not policy.allow_http:
        raise UrlNotAllowedError("must begin with https://: replies do not travel in clear")
    ports = policy.ports | ({DEFAULT_PORTS["http"]} if policy.allow_http else set())
    if url.port not in ports:
        raise UrlNotAllowedError(f"may only name port {_or(sorted(ports))}, not {url.port}")


def _check_not_own(url: CheckedUrl, policy: EgressPolicy, address: Address | None) -> None:
    if policy.own is None or url.port != policy.own[1]:
        return
    host = policy.own[0]
    own = ip_address("127.0.0.1") if host == "localhost" else _address_or_none(host)
    is_own = own is not None and address is not None and (own == address or (own.is_loopback and address.is_loopback))
    if url.host == host or is_own:
        raise UrlNotAllowedError("is Textway's own address: what is sent there would come back for ever")


def _address_or_none(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _or(numbers: list[int]) -> str:
    *most, last = (str(number) for number in numbers)
    return f"{', '.join(most)} or {last}" if most else last

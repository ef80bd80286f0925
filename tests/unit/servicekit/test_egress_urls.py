"""Which URLs of customers may be called, as far as their text and an address tell."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.egress_names import UrlGuard
from servicekit.egress_settings import EgressSettings
from servicekit.egress_urls import (
    BlockedAddressError,
    EgressPolicy,
    UrlNotAllowedError,
    check_address,
    check_url,
    is_blocked,
)
from servicekit.settings import SettingsError, load
from tests.kit.refused_urls import BLOCKED_ADDRESSES, PUBLIC_ADDRESSES, SPELLINGS

STRICT = EgressPolicy(ports=frozenset({443, 8443, 9000}), own=("sms.example", 9000))


def policy(*allowed: str, **others) -> EgressPolicy:
    return EgressPolicy(allowed=tuple(ip_network(each) for each in allowed), **others)


class KnownNames:
    """Knows the names that a test gives it."""

    def __init__(self, **addresses):
        self._addresses = {
            name.replace("_", "."): [ip_address(each) for each in found] for name, found in addresses.items()
        }

    async def addresses_of(self, host):
        if host not in self._addresses:
            raise OSError("no such name")
        return self._addresses[host]

    def close(self):
        pass


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_refuses_the_spelling(spelling):
    url = SPELLINGS[spelling].format(port=9000)

    with pytest.raises(UrlNotAllowedError):
        check_url(url, STRICT)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("https://user@public.example/", "user name"),
        ("https://public.example/#here", "fragment"),
        ("https://bücher.example/", "xn--"),
        ("https://public.example/é", "%XX"),
        ("https://[2A00:1450:4001:0829::200E]/", "write 2a00:1450:4001:829::200e"),
        ("https://[2a00:1450:4001:829:0:0:0:200e]/", "write 2a00:1450:4001:829::200e"),
        ("https://[::ffff:8.8.8.8]/", "write 8.8.8.8"),
        ("https://[::ffff:808:808]/", "write 8.8.8.8"),
        ("http://public.example/", "https://"),
        ("https://public.example:22/", "443, 8443 or 9000"),
        ("https://10.0.0.1/", "TEXTWAY_EGRESS_ALLOW"),
    ],
)
def test_says_what_to_write_instead(url, advice):
    with pytest.raises(UrlNotAllowedError, match=advice):
        check_url(url, STRICT)


@pytest.mark.parametrize(
    "url",
    [
        "https://public.example",
        "https://public.example/",
        "https://public.example:8443/hooks/textway?token=a%20b&list[]=1",
        "https://public.example?x=/",
        "https://8.8.8.8/",
        "https://[2a00:1450:4001:829::200e]:8443/",
        "https://xn--mnchen-3ya.example/",
        "https://r3---a.public.example/",
        "https://1st.7eleven.example/",
        "https://public.example/" + "x" * 2025,
    ],
)
def test_takes_the_url_and_calls_it_as_it_is_written(url):
    checked = check_url(url, STRICT)

    assert checked.text in (url, url + "/", url.replace("?", "/?"))


def test_reads_a_url_into_its_parts():
    checked = check_url("HTTPS://Public.Example:8443/Path?Query=1", STRICT)

    assert (checked.scheme, checked.host, checked.port) == ("https", "public.example", 8443)
    assert (checked.target, checked.address) == ("/Path?Query=1", None)
    assert checked.text == "https://public.example:8443/Path?Query=1"


def test_keeps_the_path_and_query_out_of_what_is_logged():
    assert "secret" not in repr(check_url("https://public.example/a?token=secret", STRICT))


@pytest.mark.parametrize("address", BLOCKED_ADDRESSES)
def test_refuses_the_address(address):
    url = check_url("https://public.example/", STRICT)

    with pytest.raises(BlockedAddressError):
        check_address(ip_address(address), url, STRICT)
    assert not STRICT.allows(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_allows_the_address(address):
    check_address(ip_address(address), check_url("https://public.example/", STRICT), STRICT)

    assert STRICT.allows(ip_address(address))


@given(st.ip_addresses(v=4))
def test_treats_a_mapped_address_as_the_one_inside(address):
    assert is_blocked(ip_address(f"::ffff:{address}")) == is_blocked(address)


@given(st.ip_addresses())
def test_refuses_at_least_what_python_knows_as_not_global(address):
    if not address.is_global and address not in ip_network("2001::/23"):
        assert is_blocked(address)


@given(st.text(alphabet="htps:/127.0x@[]%#\\é①a\n", max_size=40))
def test_never_leads_anywhere_but_to_public_addresses_and_names(text):
    try:
        checked = check_url("https://" + text, STRICT)
    except UrlNotAllowedError:
        return

    assert checked.address is None or STRICT.allows(checked.address)


def test_says_in_an_error_where_the_url_leads_only_if_the_customer_wrote_it():
    url = check_url("https://public.example/", STRICT)

    with pytest.raises(BlockedAddressError) as refusal:
        check_address(ip_address("10.9.8.7"), url, STRICT)

    assert "10.9.8.7" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/", "https://127.0.0.1:6379/", "http://127.255.0.1/x", "https://[::1]:9/"]
)
def test_an_allowed_network_is_reached_on_any_port_and_over_http(url):
    check_url(url, policy("127.0.0.0/8", "::1/128"))


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1:65536/", "http://10.0.0.1/", "https://10.0.0.1/", "http://8.8.8.8/", "https://8.8.8.8:22/"],
)
def test_allowing_one_network_allows_no_other_address_more(url):
    with pytest.raises(UrlNotAllowedError):
        check_url(url, policy("127.0.0.0/8"))


def test_with_an_allowed_network_a_name_waits_for_its_addresses():
    allowing = policy("10.0.0.0/8")

    url = check_url("http://hooks.internal:9000/", allowing)

    check_address(ip_address("10.1.1.1"), url, allowing)
    with pytest.raises(BlockedAddressError):
        check_address(ip_address("192.168.1.1"), url, allowing)
    with pytest.raises(UrlNotAllowedError):
        check_address(ip_address("8.8.8.8"), url, allowing)


def test_plain_http_can_be_allowed():
    check_url("http://public.example/", policy(allow_http=True))
    with pytest.raises(UrlNotAllowedError, match="https"):
        check_url("http://public.example/", policy())


@pytest.mark.parametrize(
    ("own", "url"),
    [
        (("127.0.0.1", 8080), "http://127.0.0.1:8080/v1/ingress/ig_x"),
        (("127.0.0.1", 8080), "http://127.0.0.2:8080/"),
        (("localhost", 8080), "http://[::1]:8080/"),
        (("sms.example", 443), "https://SMS.example/v1/messages"),
        (("8.8.8.8", 443), "https://8.8.8.8/"),
    ],
)
def test_never_sends_to_the_gateway_itself(own, url):
    with pytest.raises(UrlNotAllowedError, match="own address"):
        check_url(url, policy("127.0.0.0/8", "::1/128", own=own))


def test_another_port_of_the_gateways_machine_is_another_receiver():
    check_url("http://127.0.0.1:9000/", policy("127.0.0.0/8", own=("127.0.0.1", 8080)))


async def test_at_save_a_name_is_judged_by_its_addresses():
    names = KnownNames(
        good_example=["8.8.8.8"], mixed_example=["8.8.8.8", "10.0.0.1"], inside_example=["::ffff:127.0.0.1"]
    )
    guard = UrlGuard(EgressPolicy(), names)

    await guard.check("https://good.example/")
    await guard.check("https://8.8.8.8/")
    await guard.check("https://not-yet.example/")
    for url in ("https://mixed.example/", "https://inside.example/", "https://127.0.0.1/"):
        with pytest.raises(BlockedAddressError):
            await guard.check(url)


async def test_at_save_a_name_server_that_does_not_answer_is_not_waited_for():
    class Silent(KnownNames):
        async def addresses_of(self, host):
            await asyncio.Event().wait()

    await UrlGuard(EgressPolicy(), Silent(), seconds=0.01).check("https://good.example/")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("EGRESS_ALLOW", "10.0.0.1/8"),
        ("EGRESS_ALLOW", "loopback"),
        ("EGRESS_PORTS", "443;8443"),
        ("EGRESS_PORTS", "65536"),
        ("EGRESS_PORTS", "-1"),
        ("EGRESS_HTTP", "perhaps"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(monkeypatch, setting, value):
    monkeypatch.setenv(f"TEXTWAY_{setting}", value)

    with pytest.raises(SettingsError, match=setting):
        load(EgressSettings)


def test_settings_make_the_policy(monkeypatch):
    monkeypatch.setenv("TEXTWAY_EGRESS_ALLOW", "10.1.2.3/32, fd00::/64 192.168.0.0/16")
    monkeypatch.setenv("TEXTWAY_EGRESS_PORTS", "443, 9443")
    monkeypatch.setenv("TEXTWAY_EGRESS_HTTP", "true")

    made = load(EgressSettings).egress_policy("https://sms.example")

    assert made == policy(
        "10.1.2.3/32",
        "fd00::/64",
        "192.168.0.0/16",
        allow_http=True,
        ports=frozenset({443, 9443}),
        own=("sms.example", 443),
    )


def test_without_settings_only_public_https_is_allowed():
    assert load(EgressSettings).egress_policy("http://127.0.0.1:8080") == policy(own=("127.0.0.1", 8080))

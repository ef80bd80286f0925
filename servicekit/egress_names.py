"""Looks names up for the calls that customers direct, and checks a URL by what its name means when it is saved."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Final, Protocol

from servicekit.egress_urls import Address, CheckedUrl, EgressPolicy, check_address, check_url

# Each is a thread while it lasts, which for a dead name server is up to half a minute, whatever our own deadline.
LOOK_UPS_AT_ONCE: Final = 128
SAVE_SECONDS: Final = 2.0


class Names(Protocol):
    """Who knows the addresses of a name."""

    async def addresses_of(self, host: str) -> Sequence[Address]:
        """Ask once and return every address; raise OSError when there is none. Has no deadline of its own."""

    def close(self) -> None:
        """Let go of what it holds."""


class SystemNames:
    """The machine's resolver: its hosts file, its name servers.

    It has threads of its own, since asking can not be called off: somebody's name server that never answers would
    otherwise hold the few threads that the event loop keeps for everything else.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOK_UPS_AT_ONCE, thread_name_prefix="look-up")

    async def addresses_of(self, host: str) -> Sequence[Address]:
        """Ask for addresses of both families."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _ask, host)
        return [ip_address(address) for address in found]

    def close(self) -> None:
        """Take no more questions; those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _ask(host: str) -> list[str]:
    # As bytes, because a text would be read once more, by Python's own rules for international names.
    answers = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class UrlGuard:
    """Judges URLs when they are saved. A name that nobody knows yet is let through: each call judges it again."""

    def __init__(self, policy: EgressPolicy, names: Names, seconds: float = SAVE_SECONDS) -> None:
        self.policy = policy
        self._names = names
        self._seconds = seconds

    async def check(self, text: str) -> None:
        """Raise UrlNotAllowedError when a URL may not be called as things are."""
        url = check_url(text, self.policy)
        if url.address is not None:
            return
        try:
            async with asyncio.timeout(self._seconds):
                addresses = await self._names.addresses_of(url.host)
        except OSError:  # a deadline that has passed is one too
            return
        check_addresses(addresses, url, self.policy)


def check_addresses(addresses: Sequence[Address], url: CheckedUrl, policy: EgressPolicy) -> None:
    """Raise UrlNotAllowedError when any one of a name's addresses may not be called."""
    for address in addresses:
        check_address(address, url, policy)

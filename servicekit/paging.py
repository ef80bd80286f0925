"""Pages of a list: sizes, what fits, and opaque tokens that survive concurrent inserts: they name the last row seen."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol, TypeVar

from servicekit.clock import to_milliseconds
from servicekit.errors import Issue, ValidationError

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000
# An answer may have 4 MiB, with gRPC and with the gateway, and in JSON one byte of a text may take six.
MAX_PAGE_BYTES: Final = 512 * 1024


class Sized(Protocol):
    """What a list shows of a row: a protobuf message."""

    def ByteSize(self) -> int:  # noqa: N802  # protobuf's name
        """Return how many bytes it takes."""


Row = TypeVar("Row")
Shown = TypeVar("Shown", bound=Sized)


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """How many rows to read, and after which one: its sort key, a time in milliseconds and an id."""

    size: int = DEFAULT_PAGE_SIZE
    after: tuple[int, str] | None = None

    @property
    def and_one_more(self) -> PageRequest:
        """The same page and one row more, which tells whether there is a next one."""
        return replace(self, size=self.size + 1)


def page_request(size: int | None, token: str) -> PageRequest:
    """Check a page's size and token; raise ValidationError naming `pageSize` or `pageToken`."""
    if size is not None and not 1 <= size <= MAX_PAGE_SIZE:
        raise ValidationError([Issue(path="pageSize", message=f"must be 1 to {MAX_PAGE_SIZE}, not {size}")])
    return PageRequest(size=size or DEFAULT_PAGE_SIZE, after=_decode(token) if token else None)


def page_of(
    found: Sequence[Row],
    page: PageRequest,
    *,
    show: Callable[[Row], Shown],
    place: Callable[[Row], tuple[datetime, str]],
) -> tuple[list[Shown], str]:
    """Return what a page shows of the rows that were found, and the token of the next page; empty at the end.

    It ends before the size that was asked for where it would become too large, and has one row in any case. `place` is
    a row's time and id, by which the list is sorted. That there are more rows shows by one more than the size.
    """
    shown: list[Shown] = []
    size = 0
    for row in found[: page.size]:
        one = show(row)
        size += one.ByteSize()
        if shown and size > MAX_PAGE_BYTES:
            break
        shown.append(one)
    if len(shown) == len(found):
        return shown, ""
    time, row_id = place(found[len(shown) - 1])
    return shown, page_token(to_milliseconds(time), row_id)


def page_token(milliseconds: int, row_id: str) -> str:
    """Return the token that asks for what comes after this row."""
    return base64.urlsafe_b64encode(json.dumps([milliseconds, row_id]).encode()).decode().rstrip("=")


def _decode(token: str) -> tuple[int, str]:
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        match json.loads(base64.b64decode(padded, altchars=b"-_", validate=True)):
            case [milliseconds, str(row_id)] if type(milliseconds) is int and 0 <= milliseconds < 1 << 53:
                row_id.encode()
                # No row has this in its id, and PostgreSQL can not even be asked.
                if "\0" not in row_id:
                    return milliseconds, row_id
    except (UnicodeEncodeError, binascii.Error, ValueError, RecursionError):
        pass
    raise ValidationError([Issue(path="pageToken", message="is not a token that a list has answered with")])

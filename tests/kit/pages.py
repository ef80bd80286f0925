"""Lists as a reader of all their pages gets them: a page ends by its size in bytes too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx


def every(get: Callable[..., httpx.Response], path: str, field: str, **wanted: str) -> Iterator[dict[str, Any]]:
    """Yield what a list has, over all its pages; `get` is a client's, or one that is as patient as its caller."""
    token = ""
    while True:
        answer = get(path, params={**wanted, "pageSize": 1000, "pageToken": token})
        assert answer.status_code == httpx.codes.OK, answer.text
        page = answer.json()
        yield from page[field]
        token = page["nextPageToken"]
        if not token:
            return


def every_message(api: httpx.Client, **wanted: str) -> list[dict[str, Any]]:
    """Return the tenant's messages, newest first."""
    return list(every(api.get, "/v1/messages", "messages", **wanted))

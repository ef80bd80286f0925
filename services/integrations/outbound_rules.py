"""The rules for what goes out: which URLs may be called, which events there are, how long a reply counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from servicekit.egress_names import UrlGuard
from servicekit.egress_urls import EgressPolicy, UrlNotAllowedError, check_url
from servicekit.errors import Issue, ValidationError
from services.integrations.signing_secrets import DEFAULT_OVERLAP_SECONDS
from services.integrations.webhooks import EVENTS, WebhookFields, in_order

MAX_OVERLAP_SECONDS: Final = 604_800
MIN_REPLY_WINDOW_SECONDS: Final = 60
MAX_REPLY_WINDOW_SECONDS: Final = 2_592_000
MAX_REASON_LENGTH: Final = 200


def webhook(asked: WebhookFields, policy: EgressPolicy) -> WebhookFields:
    """Return a webhook's fields as they are kept; its name is not looked up. Raises ValidationError."""
    issues: list[Issue] = []
    if asked.url:
        check_url_form("url", asked.url, policy, issues)
    else:
        issues.append(Issue(path="url", message="may not be empty: DELETE /v1/webhooks removes a webhook"))
    events = check_events("events", asked.events, issues)
    if issues:
        raise ValidationError(issues)
    return WebhookFields(url=asked.url, events=events, is_enabled=asked.is_enabled)


def check_url_form(path: str, url: str, policy: EgressPolicy, issues: list[Issue]) -> None:
    """Add an issue when a URL may not be called; its name is not looked up."""
    try:
        check_url(url, policy)
    except UrlNotAllowedError as error:
        issues.append(Issue(path=path, message=str(error)))


def check_events(path: str, events: Sequence[str], issues: list[Issue]) -> tuple[str, ...]:
    """Return events in their order, and add an issue when one is unknown."""
    if set(events) - set(EVENTS):
        issues.append(Issue(path=path, message=f"must be some of: {', '.join(EVENTS)}"))
    return in_order(events)


def check_reply_window(path: str, seconds: int | None, issues: list[Issue]) -> None:
    """Add an issue when a reply window is out of bounds; 0 is the installation's default."""
    if seconds and not MIN_REPLY_WINDOW_SECONDS <= seconds <= MAX_REPLY_WINDOW_SECONDS:
        bounds = f"{MIN_REPLY_WINDOW_SECONDS} to {MAX_REPLY_WINDOW_SECONDS}"
        issues.append(Issue(path=path, message=f"must be {bounds}, or 0 for the installation's default, not {seconds}"))


def check_overlap(path: str, seconds: int | None, issues: list[Issue]) -> None:
    """Add an issue when an overlap is out of bounds."""
    if seconds is not None and not 0 <= seconds <= MAX_OVERLAP_SECONDS:
        issues.append(Issue(path=path, message=f"must be 0 to {MAX_OVERLAP_SECONDS}, not {seconds}"))


def overlap_seconds(asked: int | None) -> int:
    """Return how long what was in force goes on working beside the new; raise ValidationError."""
    issues: list[Issue] = []
    check_overlap("overlapSeconds", asked, issues)
    if issues:
        raise ValidationError(issues)
    return DEFAULT_OVERLAP_SECONDS if asked is None else asked


async def look_up(path: str, url: str, urls: UrlGuard) -> None:
    """Raise ValidationError when a URL's name leads where nothing may be sent."""
    try:
        await urls.check(url)
    except UrlNotAllowedError as error:
        raise ValidationError([Issue(path=path, message=str(error))]) from None

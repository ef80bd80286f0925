"""What a carrier's answer means, by the rules of its definition and, where those say nothing, by the engine's.

Documentation: docs/guides/new-carrier.md, "answer". Pure functions: one place sends, and these decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from services.delivery.carriers.base import (
    CarrierReceipt,
    Failure,
    FailureReason,
    OutboundMessage,
    Refused,
    SendResult,
    Status,
    Taken,
    TryLater,
    Unknown,
)
from services.delivery.carriers.http.model import Answer, LookUp, OutcomeWord, ReceiptPlaces, Verdict
from services.delivery.carriers.http.places import Content, Fit, Format, body_of, find_all, find_first, fit

MAX_CARRIER_ID_LENGTH: Final = 128
MAX_EXCERPT_LENGTH: Final = 200
LONGEST_WAIT_SECONDS: Final = 86_400.0

LATER_BY_STATUS: Final = frozenset(
    {
        # See Other is not among the redirects: it follows a request that was carried out.
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
        # The account can be put right, and then the message can go.
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.PAYMENT_REQUIRED,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
REASON_BY_STATUS: Final[Mapping[int, FailureReason]] = {
    HTTPStatus.UNAUTHORIZED: FailureReason.ACCOUNT_REJECTED,
    HTTPStatus.PAYMENT_REQUIRED: FailureReason.INSUFFICIENT_FUNDS,
    HTTPStatus.TOO_MANY_REQUESTS: FailureReason.THROTTLED,
}
LATER_BY_REASON: Final = frozenset({FailureReason.THROTTLED, FailureReason.CARRIER_UNAVAILABLE})
_NO_VERDICT: Final = Verdict()


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def content(self, form: Format) -> Content:
        """Return it taken apart."""
        return Content(body=body_of(self.body, form), headers=self.headers)

    def told(self, detail: str) -> str:
        """Return a line for the timeline: the status, and the words found or else the body's beginning."""
        words = detail or clean(self.body.decode("utf-8", "replace"), MAX_EXCERPT_LENGTH)
        return f"HTTP {self.status}: {words}" if words else f"HTTP {self.status}"


def send_result(rules: Answer, answer: HttpAnswer, message: OutboundMessage, now: datetime) -> SendResult:
    """Return what became of a message."""
    content = answer.content(rules.format)
    detail = answer.told(clean(find_first(rules.detail, content), MAX_EXCERPT_LENGTH))
    is_yes = any(status in rules.taken_statuses for status in _names_of(answer.status))
    how_far = fit(rules.taken_where, content) if is_yes else Fit.NONE
    if how_far is Fit.ALL:
        ids = tuple(filter(None, map(clean, find_all(rules.message_id, content))))
        return Taken(
            carrier_message_id=ids[0] if ids else message.message_id,
            detail=detail,
            part_ids=ids if len(ids) > 1 else (),
        )
    if how_far is Fit.SOME:
        return Unknown(detail=f"some parts were taken and some were not ({detail})")
    return _no(rules, answer, content, detail, now)


def _names_of(status: int) -> tuple[str, str]:
    return str(status), f"{status // 100}xx"


def _no(rules: Answer, answer: HttpAnswer, content: Content, detail: str, now: datetime) -> SendResult:
    code = clean(find_first(rules.code, content))
    of_code = rules.codes.get(code, _NO_VERDICT)
    of_status, of_class = (rules.statuses.get(name, _NO_VERDICT) for name in _names_of(answer.status))
    said = (of_code, of_status, of_class)
    outcome = next((verdict.outcome for verdict in said if verdict.outcome), None)
    outcome = outcome or _outcome_of(answer.status, of_code.reason)
    if outcome is OutcomeWord.UNKNOWN:
        return Unknown(detail=detail)
    default = FailureReason.CARRIER_UNAVAILABLE if outcome is OutcomeWord.TRY_LATER else FailureReason.CARRIER_REJECTED
    reason = next((verdict.reason for verdict in said if verdict.reason), None)
    reason = reason or REASON_BY_STATUS.get(answer.status, default)
    failure = Failure(reason=reason, carrier_code=code or str(answer.status))
    if outcome is OutcomeWord.REFUSED:
        return Refused(failure=failure, detail=detail)
    asked = find_first(rules.retry_after, content) or answer.headers.get("retry-after", "")
    wait = wait_seconds(asked.strip(), now)
    if wait is None:
        wait = next((verdict.after_seconds for verdict in said if verdict.after_seconds is not None), None)
    return TryLater(failure=failure, detail=detail, after_seconds=wait)


def _outcome_of(status: int, reason: FailureReason | None) -> OutcomeWord:
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES and reason:
        return OutcomeWord.TRY_LATER if reason in LATER_BY_REASON else OutcomeWord.REFUSED
    if status in LATER_BY_STATUS:
        return OutcomeWord.TRY_LATER
    is_no = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    # A request timeout comes from whoever waited for the request: it may have been passed on in part.
    return OutcomeWord.REFUSED if is_no and status != HTTPStatus.REQUEST_TIMEOUT else OutcomeWord.UNKNOWN


def wait_seconds(asked: str, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), at most a day; None if none."""
    if asked.isascii() and asked.isdecimal():
        return min(float(asked[:10]), LONGEST_WAIT_SECONDS)
    try:
        until = parsedate_to_datetime(asked)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_WAIT_SECONDS)


def look_up_result(rules: LookUp, answer: HttpAnswer, message: OutboundMessage) -> CarrierReceipt | None:
    """Return what the carrier tells of a message; None when it tells nothing."""
    if answer.status != HTTPStatus.OK:
        return None
    content = answer.content(rules.format)
    told = read_receipt(rules.receipt, content)
    if told is None:
        return None
    status, failure, detail = told
    return CarrierReceipt(
        message_id=message.message_id,
        carrier_message_id=clean(find_first(rules.receipt.carrier_message_id, content)),
        status=status,
        failure=failure,
        detail=answer.told(detail),
    )


def read_receipt(places: ReceiptPlaces, content: Content) -> tuple[Status, Failure | None, str] | None:
    """Return a receipt's status, failure and the carrier's own words; None when the status is of no interest."""
    word = clean(find_first(places.status, content))
    meaning = places.statuses.get(word)
    if meaning is None or meaning.status is None:
        return None
    code = clean(find_first(places.code, content))
    detail = clean(find_first(places.detail, content), MAX_EXCERPT_LENGTH)
    if meaning.status is not Status.UNDELIVERED:
        return meaning.status, None, detail
    reason = places.codes.get(code) or meaning.reason or FailureReason.UNREACHABLE
    return meaning.status, Failure(reason=reason, carrier_code=code), detail


def clean(text: str, length: int = MAX_CARRIER_ID_LENGTH) -> str:
    """Return a text that can go into the database and onto screens: no control characters, no lone surrogates."""
    kept = text[:length]
    return (kept if kept.isprintable() else "".join(each if each.isprintable() else " " for each in kept)).strip()

"""Take messages in: check them, give them ids, and answer when they are on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Final, Protocol

from servicekit import phone_numbers, senders, tracing
from servicekit.batching import Batcher
from servicekit.clock import Clock
from servicekit.egress_urls import PUBLIC_ONLY, EgressPolicy, UrlNotAllowedError, check_url
from servicekit.errors import Issue, ValidationError
from servicekit.ids import new_id, random_bits
from servicekit.sms_text import MAX_TEXT_LENGTH, is_blank, measure
from services.delivery import metrics
from services.delivery.announcements import Owner
from services.delivery.domain import (
    MAX_REF_LENGTH,
    MAX_TAG_LENGTH,
    Accepted,
    BatchPlace,
    DedupeKey,
    IdempotencyKey,
    NewMessage,
    OnUnknown,
    Priority,
)
from services.delivery.errors import InvalidRecipientError, TextTooLongError

MAX_SUBMISSIONS: Final = 1_000
MAX_MESSAGES_IN_COMMIT: Final = 1_000
CHANNEL: Final = "sms"
IDEMPOTENCY_WINDOW: Final = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """The caller's key for its request, and the hash of the request's body."""

    key: str
    request_sha256: bytes
    batch: BatchPlace | None = None


@dataclass(frozen=True, kw_only=True)
class Dedupe:
    """What must be equal in payloads that mean the same message, and for how long that counts."""

    value: str
    window: timedelta
    suppresses: bool


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A message that somebody wants sent. `to` is in E.164."""

    tenant_id: str
    integration_id: str
    to: str
    text: str
    ref: str
    callback: str = ""
    priority: Priority = Priority.NORMAL
    on_unknown: OnUnknown = OnUnknown.RESEND
    wanted_sender: str = ""  # empty for the route's own
    tag: str = ""  # a word for routing rules
    despite_opt_out: bool = False  # only for what answers an opt-out word
    request_id: str = ""  # of the request that it came by
    traceparent: str = ""  # of that request
    idempotency: Idempotency | None = None
    dedupe: Dedupe | None = None

    @property
    def scope(self) -> str:
        """Within what its keys count."""
        return self.integration_id or self.tenant_id


class AddsMessages(Protocol):
    """Whoever stores messages and sends them."""

    async def add(self, messages: Sequence[NewMessage]) -> Sequence[Accepted]:
        """Store messages, all or none, on disk; return the answer to each."""


class AcceptMessages:
    """Accepts messages by group commit: calls that come while a commit is under way share the next one."""

    def __init__(
        self,
        *,
        store: AddsMessages,
        clock: Clock,
        shards: int,
        validity: timedelta,
        queue_of: Callable[[Submission], str],
        expect: Callable[[set[Owner]], None] = lambda _owners: None,
    ) -> None:
        """Take `expect` for who prepares to tell of the owners' messages."""
        self._store = store
        self._clock = clock
        self._shards = shards
        self._validity = validity
        self._queue_of = queue_of  # the route in whose queue a message waits
        self._expect = expect
        self._commits = Batcher(self._commit, max_size=MAX_MESSAGES_IN_COMMIT, weigh=len, name="accept")

    async def accept(self, submissions: Sequence[Submission]) -> list[Accepted]:
        """Store all of them or none, repeats excepted, and return the answer to each.

        Raises ValidationError when there are none or too many, and UnavailableError when they can not be stored.
        """
        if not 1 <= len(submissions) <= MAX_SUBMISSIONS:
            raise ValidationError([Issue(path="submissions", message=f"must be 1 to {MAX_SUBMISSIONS}")])
        now, started = self._clock.now(), time.perf_counter()
        accepted = await self._commits.submit([self._new_message(submission) for submission in submissions])
        metrics.ACCEPT_SECONDS.observe(time.perf_counter() - started)
        if tracing.is_on():
            for submission, answer in zip(submissions, accepted, strict=True):
                tracing.record(
                    "store message", parent=submission.traceparent, started_at=now, message_id=answer.message_id
                )
        return accepted

    def new_batch_id(self) -> str:
        """Return an id for the messages that one request makes."""
        return new_id("bat", self._clock.now())

    async def drain(self) -> None:
        """Return when every call has its answer."""
        await self._commits.drain()

    def _new_message(self, submission: Submission) -> NewMessage:
        now = self._clock.now()
        size = measure(submission.text)
        return NewMessage(
            id=new_id("msg", now, self._random_bits),
            tenant_id=submission.tenant_id,
            integration_id=submission.integration_id,
            to=submission.to,
            text=submission.text,
            ref=submission.ref,
            callback=submission.callback,
            segments=size.segments,
            encoding=size.encoding,
            created_at=now,
            updated_at=now,
            valid_until=now + self._validity,
            priority=submission.priority,
            on_unknown=submission.on_unknown,
            wanted_sender=submission.wanted_sender,
            tag=submission.tag,
            route=self._queue_of(submission),
            despite_opt_out=submission.despite_opt_out,
            request_id=submission.request_id,
            traceparent=submission.traceparent,
            idempotency=_idempotency_key(submission, now),
            dedupe=_dedupe_key(submission, now),
        )

    def _random_bits(self, count: int) -> int:
        # The last five bits are the id's last character, which names the message's shard.
        drawn = random_bits(count)
        return drawn >> 5 << 5 | drawn % self._shards

    async def _commit(self, groups: Sequence[Sequence[NewMessage]]) -> list[list[Accepted]]:
        messages = [message for group in groups for message in group]
        self._expect({Owner(message.tenant_id, message.integration_id) for message in messages})
        accepted = await self._store.add(messages)
        stored = sum(answer.message_id == message.id for answer, message in zip(accepted, messages, strict=True))
        metrics.accepted("stored").inc(stored)
        metrics.accepted("known").inc(len(messages) - stored)
        answers = iter(accepted)
        return [list(islice(answers, len(group))) for group in groups]


def _idempotency_key(submission: Submission, now: datetime) -> IdempotencyKey | None:
    given = submission.idempotency
    if given is None:
        return None
    return IdempotencyKey(
        scope=submission.scope,
        key=given.key,
        request_sha256=given.request_sha256,
        expires_at=now + IDEMPOTENCY_WINDOW,
        batch=given.batch,
    )


def _dedupe_key(submission: Submission, now: datetime) -> DedupeKey | None:
    rule = submission.dedupe
    if rule is None:
        return None
    return DedupeKey(scope=submission.scope, value=rule.value, expires_at=now + rule.window, suppresses=rule.suppresses)


def checked_submission(
    *,
    tenant_id: str,
    to: str,
    text: str,
    ref: str = "",
    callback: str = "",
    channel: str = "",
    priority: str = "",
    on_unknown: str = "",
    wanted_sender: str = "",
    tag: str = "",
    request_id: str = "",
    traceparent: str = "",
    idempotency: Idempotency | None = None,
    callbacks: EgressPolicy = PUBLIC_ONLY,
) -> Submission:
    """Check what an API caller wants sent. `callbacks` says what its callback may lead to.

    Raises ValidationError listing every wrong field, InvalidRecipientError or TextTooLongError.
    """
    issues = [
        *_presence_issues(to, text),
        *_optional_issues(ref, callback, channel, callbacks),
        *_routing_issues(wanted_sender, tag),
        *_word_issues("priority", priority, Priority),
        *_word_issues("onUnknown", on_unknown, OnUnknown),
    ]
    if issues:
        raise ValidationError(issues)
    if len(text) > MAX_TEXT_LENGTH:
        raise TextTooLongError(
            f"The text has {len(text)} characters; a message has at most {MAX_TEXT_LENGTH}.",
            limit=MAX_TEXT_LENGTH,
            length=len(text),
            unit="characters",
        )
    try:
        number = phone_numbers.normalise(to)
    except phone_numbers.NotAPhoneNumberError as error:
        shown = to[:MAX_REF_LENGTH]
        raise InvalidRecipientError(f"{shown!r} is no phone number: {error}.", to=shown, reason=str(error)) from None
    return Submission(
        tenant_id=tenant_id,
        integration_id="",
        to=number,
        text=text,
        ref=ref,
        callback=callback,
        priority=Priority(priority or Priority.NORMAL),
        on_unknown=OnUnknown(on_unknown or OnUnknown.RESEND),
        wanted_sender=wanted_sender,
        tag=tag,
        request_id=request_id,
        traceparent=traceparent,
        idempotency=idempotency,
    )


def _presence_issues(to: str, text: str) -> list[Issue]:
    issues = []
    if not to.strip():
        issues.append(Issue(path="to", message="is required: the recipient's number, such as +6581230000"))
    if is_blank(text):
        issues.append(Issue(path="text", message="is required: 1 to 1600 characters"))
    if "\x00" in text:
        issues.append(Issue(path="text", message="must not contain U+0000"))
    return issues


def _optional_issues(ref: str, callback: str, channel: str, callbacks: EgressPolicy) -> list[Issue]:
    issues = []
    if len(ref) > MAX_REF_LENGTH:
        issues.append(Issue(path="ref", message=f"has {len(ref)} characters; at most {MAX_REF_LENGTH} are kept"))
    if "\x00" in ref:
        issues.append(Issue(path="ref", message="must not contain U+0000"))
    try:
        # Its name is looked up at each call, and not here, where every message would wait for that.
        if callback:
            check_url(callback, callbacks)
    except UrlNotAllowedError as error:
        issues.append(Issue(path="callback", message=str(error)))
    if channel not in ("", CHANNEL):
        issues.append(Issue(path="channel", message=f"must be {CHANNEL!r}, the only channel there is"))
    return issues


def _routing_issues(wanted_sender: str, tag: str) -> list[Issue]:
    issues = []
    if wanted_sender and not senders.is_sender(wanted_sender):
        issues.append(Issue(path="from", message=senders.RULE))
    if len(tag) > MAX_TAG_LENGTH or not tag.isprintable():
        issues.append(Issue(path="tag", message=f"must be at most {MAX_TAG_LENGTH} printable characters"))
    return issues


def _word_issues(path: str, word: str, known: type[StrEnum]) -> list[Issue]:
    if word and word not in set(known):
        return [Issue(path=path, message=f"must be one of {', '.join(known)}")]
    return []

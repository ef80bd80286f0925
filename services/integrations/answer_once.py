"""Calls that may be repeated: what is kept of the first, and how a repeat is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from services.integrations.domain import KeptAnswer, RepeatableCall

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Once(Generic[Made]):
    """What makes a call repeatable: which call it is, and what answers for what it made."""

    call: RepeatableCall
    answer_of: Callable[[Made], bytes]


@dataclass(frozen=True, kw_only=True)
class FirstAnswer:
    """The call was a repeat and changed nothing: this is what its first time was answered with."""

    answer: bytes = field(repr=False)


def kept_answer(once: Once[Made] | None, made: Made, now: datetime) -> KeptAnswer | None:
    """Return what is to be kept of a call; None when it is not repeatable."""
    return KeptAnswer(call=once.call, answer=once.answer_of(made), answered_at=now) if once else None

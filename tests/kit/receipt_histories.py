"""Random lives of messages as carriers tell them, and a model that says how each must end.

A life is a list of rounds with one event each. Receipts in it come twice, out of order, before the outcome of their
attempt, or never; for messages as a whole and for parts; by our id, by the carrier's, or by both; from older attempts
and from carriers that never had the message. After some rounds, the same for all lives, the parked ones are swept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from services.delivery.domain import Outcome, Status

SWEEP_EVERY: Final = 3
FINAL: Final = (Status.DELIVERED, Status.UNDELIVERED)
OVER: Final = (Outcome.REFUSED, Outcome.TRY_LATER)


@dataclass(frozen=True)
class Start:
    """An attempt begins, if the message is still due."""

    carrier: str


@dataclass(frozen=True)
class End:
    """The attempt that is under way ends."""

    outcome: Outcome
    goes_on: bool = False  # another attempt may follow


@dataclass(frozen=True)
class Settle:
    """The message ends without a further attempt, if it is still due."""

    status: Status


@dataclass(frozen=True)
class Word:
    """A carrier tells something about an attempt, or a part of it."""

    carrier: str
    attempt: int
    part: int  # 0 for the whole
    status: Status
    has_ours: bool
    has_theirs: bool


Event = Start | End | Settle | Word


@dataclass(frozen=True)
class Life:
    """What happens to one message, round by round."""

    segments: int
    in_parts: bool
    events: tuple[Event, ...]


def random_life(random: Random) -> Life:
    """Make a life up."""
    segments = random.choice((1, 1, 1, 2, 3))
    in_parts = segments > 1 and random.random() < 0.7
    carriers = [random.choice("ab")]
    if random.random() < 0.35:
        carriers.append(random.choice("ab"))
    events: list[Event] = []
    for number, carrier in enumerate(carriers, 1):
        is_last = number == len(carriers)
        outcome = random.choices(list(_OUTCOMES), _OUTCOMES.values())[0] if is_last else random.choice(_GOES_ON)
        events += [Start(carrier), End(outcome, goes_on=not is_last)]
    if random.random() < 0.5:
        events.append(Settle(random.choice((Status.UNKNOWN, Status.EXPIRED))))
    for number, carrier in enumerate(carriers, 1):
        _let_tell(random, events, _words(random, carrier, number, segments if in_parts else 0), number)
    if random.random() < 0.1:
        stranger = Word("c", 1, 0, random.choice(FINAL), has_ours=True, has_theirs=random.random() < 0.5)
        events.insert(random.randint(0, len(events)), stranger)
    return Life(segments=segments, in_parts=in_parts, events=tuple(events))


_OUTCOMES: Final = {Outcome.TAKEN: 70, Outcome.UNKNOWN: 15, Outcome.TRY_LATER: 10, Outcome.REFUSED: 5}
_GOES_ON: Final = (Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.TRY_LATER, Outcome.REFUSED)


def _words(random: Random, carrier: str, attempt: int, parts: int) -> list[Word]:
    words = []
    by_whole = parts == 0 or random.random() < 0.1
    has_ours, has_theirs = random.choice(((True, False), (False, True), (True, True)))
    for part in (0,) if by_whole else range(1, parts + 1):
        final = random.choices(FINAL, (3, 1))[0]
        told = [Status.SENT] * (random.random() < 0.4) + [final] + [random.choice(FINAL)] * (random.random() < 0.05)
        for status in told:
            # A part is told by the carrier's id, or nobody could know which one it is.
            word = Word(carrier, attempt, part, status, has_ours=has_ours, has_theirs=has_theirs or part > 0)
            words += [word] * random.choices((0, 1, 2, 3), (1, 6, 2, 1))[0]
    random.shuffle(words)
    return words


def _let_tell(random: Random, events: list[Event], words: Sequence[Word], attempt: int) -> None:
    starts = [index for index, event in enumerate(events) if isinstance(event, Start)]
    for word in words:
        events.insert(random.randint(starts[attempt - 1] + 1, len(events)), word)


class Judge(Protocol):
    """Says how a message stands, from what happened to it in that order."""

    @property
    def status(self) -> Status:
        """The status by now."""

    def started(self, attempt: int) -> None:
        """An attempt has begun."""

    def ended(self, attempt: int, outcome: Outcome, parts: int, *, goes_on: bool) -> None:
        """An attempt has ended; taken in so many parts, 0 for as a whole."""

    def settled(self, status: Status) -> None:
        """The message has ended without a further attempt."""

    def said(self, attempt: int, part: int, status: Status) -> None:
        """A new receipt was applied to an attempt, or to a part of it."""


@dataclass
class Replay:
    """Tells a judge a life: which receipts are applied, in which order, and when they have what they need for it."""

    life: Life
    judge: Judge
    carriers: list[str] = field(default_factory=list)  # of the attempts that began
    open: bool = False
    taken: int = 0  # the attempt that was
    over: set[int] = field(default_factory=set)  # the attempts of which nothing can arrive
    moved: bool = False  # by a receipt, so that nothing more is to be sent
    recorded: set[tuple[int, int, Status]] = field(default_factory=set)
    waiting: list[Word] = field(default_factory=list)

    def run(self, rounds: int) -> Status:
        """Return how the message stands after so many rounds."""
        for number in range(rounds):
            if number < len(self.life.events):
                self._happen(self.life.events[number])
            if number % SWEEP_EVERY == SWEEP_EVERY - 1 or number == rounds - 1:
                words, self.waiting = self.waiting, []
                for word in words:
                    self._tell(word)
        return self.judge.status

    @property
    def _due(self) -> bool:
        return not self.open and not self.moved and self.judge.status in (Status.QUEUED, Status.SENDING)

    def _happen(self, event: Event) -> None:
        match event:
            case Start() if self._due:
                self.carriers.append(event.carrier)
                self.open = True
                self.judge.started(len(self.carriers))
            case End() if self.open:
                self.open = False
                if event.outcome is Outcome.TAKEN:
                    self.taken = len(self.carriers)
                if event.outcome in OVER:
                    self.over.add(len(self.carriers))
                parts = self.life.segments if self.life.in_parts and event.outcome is Outcome.TAKEN else 0
                self.judge.ended(len(self.carriers), event.outcome, parts, goes_on=event.goes_on)
            case Settle() if self._due:
                self.judge.settled(event.status)
            case Word():
                self._tell(event)

    def _tell(self, word: Word) -> None:
        if word.has_theirs and self.taken and word.attempt == self.taken and word.carrier == self.carriers[-1]:
            self._apply((word.attempt, word.part, word.status), word.attempt)
            return
        if not word.has_ours:
            self.waiting.append(word)
            return
        attempts = [number for number, carrier in enumerate(self.carriers, 1) if carrier == word.carrier]
        if not attempts:
            return
        is_on_its_way = self.open and self.carriers[-1] == word.carrier
        may_be_anothers = word.status is Status.UNDELIVERED and len({*attempts} - self.over) > 1
        if word.has_theirs and (self.life.segments > 1 or may_be_anothers) and is_on_its_way:
            self.waiting.append(word)
            return
        # With an id that nothing has, it can not be about the one whose id is known, nor about one of which nothing can
        # arrive, as long as there is another.
        meant = [number for number in attempts if not (word.has_theirs and number in {self.taken, *self.over})]
        self._apply((attempts[0], 0, word.status), (meant or attempts)[-1])

    def _apply(self, key: tuple[int, int, Status], attempt: int) -> None:
        if key in self.recorded:
            return
        self.recorded.add(key)
        before = self.judge.status
        self.judge.said(attempt, key[1], key[2])
        self.moved = self.moved or self.judge.status is not before


class Model:
    """How a message must stand, worked out anew from all that happened to it."""

    def __init__(self) -> None:
        self._facts: list[tuple[object, ...]] = []

    def started(self, attempt: int) -> None:
        self._facts.append(("started", attempt))

    def ended(self, attempt: int, outcome: Outcome, parts: int, *, goes_on: bool) -> None:
        self._facts.append(("ended", attempt, outcome, parts, goes_on))

    def settled(self, status: Status) -> None:
        self._facts.append(("settled", status))

    def said(self, attempt: int, part: int, status: Status) -> None:
        self._facts.append(("said", attempt, part, status))

    @property
    def status(self) -> Status:
        status = Status.QUEUED
        for count, fact in enumerate(self._facts, 1):
            status = self._after(status, self._facts[:count], fact)
        return status

    def _after(self, status: Status, known: list[tuple[object, ...]], fact: tuple[object, ...]) -> Status:
        match fact:
            case ("started", _):
                return Status.SENDING
            case ("ended", _, outcome, _, goes_on) if status is Status.SENDING:
                if outcome is Outcome.REFUSED and not goes_on:
                    return Status.FAILED
                return {Outcome.TAKEN: Status.SENT, Outcome.UNKNOWN: Status.SENDING}.get(outcome, Status.QUEUED)
            case ("settled", end):
                return end
            case ("said", attempt, _, _) if status not in (*FINAL, Status.FAILED):
                verdict = self._verdict(known, fact)
                if verdict is Status.UNDELIVERED and self._newer_may_arrive(known, attempt):
                    return status
                return verdict
        return status

    def _verdict(self, known: list[tuple[object, ...]], fact: tuple[object, ...]) -> Status:
        _, attempt, part, told = fact
        if part == 0:
            return told
        parts = next(each[3] for each in known if each[0] == "ended" and each[1] == attempt)
        finals = []
        for number in range(1, parts + 1):
            words = [each[3] for each in known if each[:3] == ("said", attempt, number)]
            finals += [word for word in words if word in FINAL][:1]
        if Status.UNDELIVERED in finals:
            return Status.UNDELIVERED
        return Status.DELIVERED if len(finals) == parts else Status.SENT

    def _newer_may_arrive(self, known: list[tuple[object, ...]], attempt: object) -> bool:
        newest = [each[1] for each in known if each[0] == "started"][-1]
        outcomes = [each[2] for each in known if each[0] == "ended" and each[1] == newest]
        return attempt != newest and not any(outcome in OVER for outcome in outcomes)

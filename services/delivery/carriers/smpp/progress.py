"""What an SMSC is known to have of messages whose sending did not come to an end.

A message of several parts may stop in the middle, and an answer may come after everybody has given up on it. What the
SMSC has by then is not sent again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

REMEMBERED: Final = 10_000


@dataclass(kw_only=True)
class Progress:
    """The parts of one message that the SMSC has: their ids by their numbers, from 1."""

    total: int
    attempt_number: int = 0  # of the last attempt
    given_up: bool = False  # its sender no longer waits for answers
    taken: dict[int, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """The numbers of the parts that are still to be taken."""
        return [number for number in range(1, self.total + 1) if number not in self.taken]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the parts that were taken, in order."""
        return tuple(self.taken[number] for number in sorted(self.taken))


class ProgressBook:
    """Progress by message and sender, as long as it matters, and of the last 10,000 messages at most."""

    def __init__(self) -> None:
        self._pages: OrderedDict[tuple[str, str], Progress] = OrderedDict()

    def open(self, message_id: str, sender: str, total: int) -> Progress:
        """Return what is known of a message, for another try at it."""
        page = self._pages.get((message_id, sender))
        if page is None or page.total != total:
            page = self._pages[message_id, sender] = Progress(total=total)
        self._pages.move_to_end((message_id, sender))
        if len(self._pages) > REMEMBERED:
            self._pages.popitem(last=False)
        page.given_up = False
        return page

    def close(self, message_id: str, sender: str) -> None:
        """Forget a message that has come to its end here."""
        self._pages.pop((message_id, sender), None)

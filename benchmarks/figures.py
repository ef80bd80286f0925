"""The arithmetic of measuring: percentiles, medians with their spread, ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PERCENTILES: Final = {"p50": 0.50, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some repeats, and the least and the greatest of them."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(median=statistics.median(values), least=min(values), greatest=max(values))

    def text(self, decimals: int = 0) -> str:
        """Return it as `median [least-greatest]`."""
        if self.least == self.greatest:
            return f"{self.median:,.{decimals}f}"
        return f"{self.median:,.{decimals}f} [{self.least:,.{decimals}f}-{self.greatest:,.{decimals}f}]"


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed; 0 when there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the percentiles that are reported, and the greatest value."""
    ordered = sorted(values)
    return {name: percentile(ordered, share) for name, share in PERCENTILES.items()} | {"worst": percentile(ordered, 1)}


def worst_second(moments: Sequence[float], start: float, end: float) -> int:
    """Return how many of the moments fall into the poorest whole second between two times."""
    seconds = math.floor(end - start)
    counts = [0] * max(seconds, 0)
    for moment in moments:
        index = math.floor(moment - start)
        if 0 <= index < seconds:
            counts[index] += 1
    return min(counts, default=0)

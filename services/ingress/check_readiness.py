"""Tell whether every part of the product can take work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PartState:
    """One part of the product: whether it can take work, and what is wrong; empty when nothing is."""

    name: str
    is_ready: bool
    detail: str = ""


Check = Callable[[], Awaitable[tuple[bool, str]]]


class CheckReadiness:
    """The use case behind `GET /health/ready`.

    Each check returns whether its part is ready and what is wrong, within a second or so, and never raises.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    async def __call__(self) -> list[PartState]:
        """Ask all parts at once and return them in their order."""
        answers = await asyncio.gather(*(check() for check in self._checks.values()))
        return [
            PartState(name=name, is_ready=is_ready, detail=detail)
            for name, (is_ready, detail) in zip(self._checks, answers, strict=True)
        ]

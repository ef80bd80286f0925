"""Writes the log lines of a moment together: a system call costs more than a line, and so does waking its reader."""

from __future__ import annotations

import asyncio
import atexit
import threading
from typing import Final, TextIO

# For so long a line may wait for others. A process that is killed loses what waits; one that ends, however, does not.
GATHERED_SECONDS: Final = 0.05
GATHERED_CHARACTERS: Final = 65_536


class GatheredLines:
    """A stream for loggers. Inside an event loop lines wait for a moment; elsewhere only while such a moment lasts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._characters = 0
        self._scheduled_on: asyncio.AbstractEventLoop | None = None
        atexit.register(self.write_out)

    def write(self, text: str) -> int:
        """Take text; `flush` follows each line."""
        with self._lock:
            self._waiting.append(text)
            self._characters += len(text)
        return len(text)

    def flush(self) -> None:
        """See to it that what was taken is written: in a moment, or now where nobody else will do it."""
        if self._characters >= GATHERED_CHARACTERS:
            self.write_out()
            return
        if self._scheduled_on is not None and not self._scheduled_on.is_closed():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write_out()
            return
        self._scheduled_on = loop
        loop.call_later(GATHERED_SECONDS, self._write_out_scheduled)

    def write_out(self) -> None:
        """Write all that waits."""
        with self._lock:
            text, self._waiting, self._characters = "".join(self._waiting), [], 0
            if text:
                self._stream.write(text)
                self._stream.flush()

    def _write_out_scheduled(self) -> None:
        self._scheduled_on = None
        self.write_out()

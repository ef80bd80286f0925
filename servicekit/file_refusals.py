"""What a command says when the file system does not let it do what it was told to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from servicekit.settings import SettingsError


@contextlib.contextmanager
def refusal_told(what: str) -> Iterator[None]:
    """Say in one sentence what the file system does not let us do: raise SettingsError in the place of OSError."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{what} ({error.strerror or error})") from None

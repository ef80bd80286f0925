"""Secrets that a file names instead of holding: `${NAME}` is read from the environment, `file:/path` from a file."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FILE_PREFIX: Final = "file:"
MAX_FILE_BYTES: Final = 65_536

# `$${` is for those who need the two characters themselves.
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


class UnresolvedReferenceError(ValueError):
    """A reference leads nowhere. The message says what is wrong and what to do, and never holds a secret."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A value as it is used."""

    value: str = field(repr=False)
    is_reference: bool  # it is not in the file itself
    warning: str = ""  # about where it is kept


def resolve(text: str, *, environment: Mapping[str, str], folder: Path) -> Resolved:
    """Return a value with its references replaced; a relative `file:` begins at `folder`.

    Raises UnresolvedReferenceError.
    """
    if text.startswith(FILE_PREFIX):
        return _from_file(folder / text.removeprefix(FILE_PREFIX))
    names: list[str] = []

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        names.append(found["name"])
        return _from_environment(found["name"], environment)

    # What an environment variable holds is taken as it is: a `${` in it is part of the secret.
    return Resolved(value=_REFERENCE.sub(replaced, text), is_reference=bool(names))


def _from_environment(name: str | None, environment: Mapping[str, str]) -> str:
    if name is None:
        raise UnresolvedReferenceError(
            "has a `${` without a variable's name and a `}` behind it: write `${NAME}`, or `$${` for the characters"
        )
    if name not in environment:
        raise UnresolvedReferenceError(f"${{{name}}} is not set in the environment: set it, or write another name")
    if not environment[name]:
        raise UnresolvedReferenceError(f"${{{name}}} is empty in the environment: give it a value")
    return environment[name]


def _from_file(path: Path) -> Resolved:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnresolvedReferenceError(f"{path} is not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise UnresolvedReferenceError(f"{path} has {status.st_size} bytes: at most {MAX_FILE_BYTES} are read")
        value = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UnresolvedReferenceError(f"{path} does not exist: make it, or name another file") from None
    except UnicodeDecodeError:
        raise UnresolvedReferenceError(f"{path} is not UTF-8") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnresolvedReferenceError):
            raise
        raise UnresolvedReferenceError(f"{path} can not be read ({type(error).__name__})") from None
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise UnresolvedReferenceError(f"{path} is empty: put the secret into it")
    warning = f"{path} can be read by every user of this machine: run `chmod o-r {path}`"
    return Resolved(value=value, is_reference=True, warning=warning if status.st_mode & stat.S_IROTH else "")

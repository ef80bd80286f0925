"""Encryption at rest: Fernet keys in a file, of which the first encrypts and all decrypt."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from servicekit.file_refusals import refusal_told
from servicekit.settings import SettingsError

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class UnreadableSecretError(Exception):
    """A sealed secret can not be opened: no key of the ring made it, or it was made for another row."""


class KeyRing:
    """Seals secrets and opens them. What is sealed names the row that it belongs to, so that it opens in no other."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)
        self._fernet = MultiFernet([Fernet(key) for key in self._keys])

    @classmethod
    def open(cls, path: Path, *, may_create: bool = True) -> KeyRing:
        """Read the file, one key a line; make it with one new key when there is none.

        Raises SettingsError when it can not be read or written, is missing and may not be made, empty, malformed or
        readable by other users.
        """
        with refusal_told(_unusable(path)):
            if not path.exists():
                if not may_create:
                    raise SettingsError(
                        f"key ring {path}: the file is missing, and secrets are stored that only it opens"
                    )
                _create(path, Fernet.generate_key().decode())
            return cls(_read(path))

    def with_new_key(self) -> KeyRing:
        """Return a ring that encrypts with a new key and still decrypts with all the others."""
        return KeyRing((Fernet.generate_key().decode(), *self._keys))

    def save(self, path: Path) -> None:
        """Put this ring in the place of the file, all at once; raise SettingsError when it can not be written."""
        with refusal_told(_unusable(path)):
            temporary = _write_beside(path, self._keys)
            temporary.replace(path)
            _sync_folder(path.parent)

    def seal(self, secret: str, *, owner: str) -> str:
        """Encrypt a secret for the row of that id."""
        return self._fernet.encrypt(f"{owner}\n{secret}".encode()).decode()

    def open_sealed(self, sealed: str, *, owner: str) -> str:
        """Decrypt a secret that was sealed for the row of that id; raise UnreadableSecretError."""
        try:
            name, _, secret = self._fernet.decrypt(sealed.encode()).decode().partition("\n")
        except InvalidToken:
            raise UnreadableSecretError(f"no key of the ring opens the secret of {owner}") from None
        if name != owner:
            raise UnreadableSecretError(f"the secret of {owner} was sealed for {name}")
        return secret

    def reseal(self, sealed: str) -> str:
        """Encrypt with the first key what any of the keys opens; raise UnreadableSecretError."""
        try:
            return self._fernet.rotate(sealed.encode()).decode()
        except InvalidToken:
            raise UnreadableSecretError("no key of the ring opens a stored secret") from None


def _unusable(path: Path) -> str:
    return f"key ring {path}: it can not be read or written"


def _read(path: Path) -> tuple[str, ...]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError(f"key ring {path}: it is not a file")
    if status.st_mode & OTHERS:
        raise SettingsError(f"key ring {path}: other users may read it; run `chmod 600 {path}`")
    try:
        keys = tuple(line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip())
    except (UnicodeDecodeError, PermissionError) as error:
        raise SettingsError(f"key ring {path}: it can not be read ({type(error).__name__})") from None
    if not keys:
        raise SettingsError(f"key ring {path}: it is empty; put back the key that the stored secrets were made with")
    for number, key in enumerate(keys, start=1):
        try:
            Fernet(key)
        except ValueError:
            raise SettingsError(f"key ring {path}: line {number} is no key (32 bytes in URL-safe base64)") from None
    return keys


def _create(path: Path, key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _write_beside(path, (key,))
    # A link fails when the name is taken: of two processes that start at once, both use the one ring.
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(temporary)
    temporary.unlink()
    _sync_folder(path.parent)


def _write_beside(path: Path, keys: Iterable[str]) -> Path:
    # mkstemp gives mode 0600. The keys are on disk before the file has its name: losing them loses every secret.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.writelines(f"{key}\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

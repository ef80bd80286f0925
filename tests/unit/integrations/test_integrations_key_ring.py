"""Encryption at rest: who can open what, and which files are refused."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from cryptography.fernet import Fernet

from servicekit.settings import SettingsError
from services.integrations.key_ring import KeyRing, UnreadableSecretError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "key-ring"


def new_key() -> str:
    return Fernet.generate_key().decode()


def test_makes_a_file_that_only_its_owner_reads(path):
    KeyRing.open(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().splitlines()) == 1
    assert [file.name for file in path.parent.iterdir()] == ["key-ring"]


def test_opens_after_a_restart_what_it_sealed(path):
    sealed = KeyRing.open(path).seal("höchst geheim\n2", owner="wkh_1")

    assert KeyRing.open(path).open_sealed(sealed, owner="wkh_1") == "höchst geheim\n2"
    assert "geheim" not in sealed


def test_two_sealings_of_one_secret_differ():
    ring = KeyRing([new_key()])

    assert ring.seal("secret", owner="a") != ring.seal("secret", owner="a")


def test_a_secret_opens_in_its_own_row_only():
    ring = KeyRing([new_key()])
    sealed = ring.seal("secret", owner="wkh_1")

    with pytest.raises(UnreadableSecretError):
        ring.open_sealed(sealed, owner="wkh_2")


def test_a_changed_character_is_noticed():
    ring = KeyRing([new_key()])
    sealed = ring.seal("secret", owner="wkh_1")

    for position in range(0, len(sealed), 7):
        other = "A" if sealed[position] != "A" else "B"
        with pytest.raises(UnreadableSecretError):
            ring.open_sealed(sealed[:position] + other + sealed[position + 1 :], owner="wkh_1")


def test_the_first_key_encrypts_and_all_decrypt():
    old, new = new_key(), new_key()
    sealed_before = KeyRing([old]).seal("secret", owner="a")
    both = KeyRing([new, old])

    assert both.open_sealed(sealed_before, owner="a") == "secret"
    assert KeyRing([new]).open_sealed(both.seal("secret", owner="a"), owner="a") == "secret"
    assert KeyRing([new]).open_sealed(both.reseal(sealed_before), owner="a") == "secret"
    with pytest.raises(UnreadableSecretError):
        KeyRing([new]).open_sealed(sealed_before, owner="a")


def test_a_new_key_goes_to_the_head_of_the_file(path):
    ring = KeyRing.open(path)
    before = path.read_text().splitlines()
    sealed = ring.seal("secret", owner="a")

    ring.with_new_key().save(path)

    after = path.read_text().splitlines()
    assert after[1:] == before
    assert after[0] not in before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing.open(path).open_sealed(sealed, owner="a") == "secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_refuses_a_file_that_others_may_read(path, mode):
    KeyRing.open(path)
    path.chmod(mode)

    with pytest.raises(SettingsError, match="chmod 600"):
        KeyRing.open(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"\n \n", "empty"), (b"nonsense\n", "line 1"), (b"\xff\xfe", "can not be read")],
)
def test_refuses_a_file_without_good_keys(path, content, message):
    KeyRing.open(path)
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=message):
        KeyRing.open(path)


def test_says_which_line_is_malformed_without_repeating_it(path):
    KeyRing.open(path)
    path.write_text(f"{new_key()}\ncanary\n")

    with pytest.raises(SettingsError, match="line 2") as caught:
        KeyRing.open(path)
    assert "canary" not in str(caught.value)


def test_refuses_a_folder(path):
    path.mkdir(parents=True)

    with pytest.raises(SettingsError, match="not a file"):
        KeyRing.open(path)


def test_does_not_make_a_ring_where_secrets_wait_for_a_lost_one(path):
    with pytest.raises(SettingsError, match="missing"):
        KeyRing.open(path, may_create=False)
    assert not path.exists()


def test_says_that_it_can_not_be_made_below_a_file(path):
    path.parent.mkdir()
    path.touch()

    with pytest.raises(SettingsError, match=f"^key ring {path}/ring: it can not be read or written \\("):
        KeyRing.open(path / "ring")


def test_keeps_the_old_keys_and_leaves_nothing_beside_them_when_the_disk_is_full(path, monkeypatch):
    ring = KeyRing.open(path)
    old = path.read_text()

    def fill_the_disk(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill_the_disk)

    with pytest.raises(SettingsError, match=r"it can not be read or written \(No space left on device\)$"):
        ring.with_new_key().save(path)

    assert path.read_text() == old
    assert list(path.parent.iterdir()) == [path]

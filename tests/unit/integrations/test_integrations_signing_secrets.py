"""Secrets that sign: two at most are in force, and one of them ends."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from services.integrations.signing_secrets import NO_SECRETS, OldSecret, SigningSecrets, new_signing_secret

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
A_DAY = 86_400


def secrets(newest="", old="", old_seconds=0):
    expires_at = NOW + timedelta(seconds=old_seconds)
    return SigningSecrets(newest=newest, old=OldSecret(secret=old, expires_at=expires_at) if old else None)


NONE, FIRST, BOTH = NO_SECRETS, secrets("first"), secrets("second", "first", 60)


@pytest.mark.parametrize(
    ("before", "new", "overlap", "after"),
    [
        (NONE, "first", None, FIRST),
        (NONE, "first", 60, FIRST),
        (FIRST, "second", None, secrets("second", "first", A_DAY)),
        (FIRST, "second", 60, secrets("second", "first", 60)),
        (FIRST, "second", 0, secrets("second")),
        (BOTH, "third", 10, secrets("third", "second", 10)),
        (BOTH, "third", 0, secrets("third")),
        (BOTH, "first", 10, secrets("first", "second", 10)),
    ],
)
def test_a_new_secret_makes_the_newest_the_old_one(before, new, overlap, after):
    assert before.changed(new, overlap_seconds=overlap, now=NOW) == after


@pytest.mark.parametrize("before", [NONE, FIRST, BOTH])
def test_an_empty_secret_removes_both(before):
    assert before.changed("", overlap_seconds=None, now=NOW) == NONE


@pytest.mark.parametrize("new", [None, "second"])
@pytest.mark.parametrize(("overlap", "left"), [(None, 60), (59, 59), (61, 60), (A_DAY, 60)])
def test_without_a_new_secret_an_overlap_can_end_sooner_and_not_later(new, overlap, left):
    assert BOTH.changed(new, overlap_seconds=overlap, now=NOW) == secrets("second", "first", left)


@pytest.mark.parametrize("new", [None, "second"])
def test_without_a_new_secret_no_overlap_cuts_the_old_one_off(new):
    assert BOTH.changed(new, overlap_seconds=0, now=NOW) == secrets("second")


@pytest.mark.parametrize(("seconds", "works"), [(59.999, True), (60, False), (61, False)])
def test_an_old_secret_works_until_it_expires_and_is_forgotten_by_the_next_change(seconds, works):
    moment = NOW + timedelta(seconds=seconds)

    assert (BOTH.old_at(moment) is not None) is works
    assert BOTH.changed(None, overlap_seconds=None, now=moment) == (BOTH if works else secrets("second"))


def test_no_change_of_none_makes_any():
    assert NONE.changed(None, overlap_seconds=0, now=NOW) == NONE
    assert NONE.changed(None, overlap_seconds=None, now=NOW) == NONE


def test_a_secret_is_32_random_bytes_as_standard_webhooks_writes_them():
    first, second = new_signing_secret(), new_signing_secret()

    assert first != second
    assert len(base64.b64decode(first.removeprefix("whsec_"), validate=True)) == 32
    assert new_signing_secret(lambda count: b"\xff" * count) == "whsec_" + "/" * 42 + "8="


def test_no_secret_is_printed():
    assert "canary" not in repr(secrets("canary 1", "canary 2", 60))

"""How texts are made to fit."""

# ruff: noqa: RUF001 - characters that look like others are what is tested

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servicekit.sms_fitting import DoesNotFitError, Fitted, Overflow, TextChange, fit, transliterated, truncated
from servicekit.sms_text import is_gsm7, measure

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
WAVE = "\U0001f44b\U0001f3fd"
FLAG = "\U0001f1f8\U0001f1ec"
SCOTLAND = "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbsct") + "\U000e007f"


def fitted(text: str, max_segments: int, on_overflow: Overflow, max_characters: int = 1600) -> Fitted:
    return fit(text, max_segments=max_segments, max_characters=max_characters, on_overflow=on_overflow)


def cut(text: str, max_segments: int = 1, max_characters: int = 1600) -> str:
    return truncated(text, max_segments=max_segments, max_characters=max_characters)


@pytest.mark.parametrize("rule", list(Overflow))
@pytest.mark.parametrize(
    ("text", "max_segments"), [("“quoted”", 1), ("a" * 160, 1), ("ж" * 71, 2), ("ж" * 500, 0), ("", 1), ("x ", 1)]
)
def test_leaves_a_text_alone_that_fits(text, max_segments, rule):
    assert fitted(text, max_segments, rule) == Fitted(text=text)


@pytest.mark.parametrize(
    ("text", "max_segments", "segments"), [("a" * 161, 1, 2), ("ж" * 71, 1, 2), ("“" + "a" * 200, 2, 3)]
)
def test_refuses_a_text_that_takes_too_many_parts(text, max_segments, segments):
    with pytest.raises(DoesNotFitError) as refused:
        fitted(text, max_segments, Overflow.REJECT)

    assert (refused.value.limit, refused.value.segments) == (max_segments, segments)


@pytest.mark.parametrize(
    ("text", "max_segments", "kept"),
    [
        ("a" * 161, 1, "a" * 160),
        ("a" * 400, 2, "a" * 306),
        ("€" * 81, 1, "€" * 80),
        ("a" * 159 + "€", 1, "a" * 159),
        ("ж" * 71, 1, "ж" * 70),
        ("ж" * 69 + "😀", 1, "ж" * 69),
        # The first character outside GSM-7 would make the text UCS-2.
        ("a" * 150 + "ж", 1, "a" * 150),
        ("a" * 60 + "ж" + "a" * 20, 1, "a" * 60 + "ж" + "a" * 9),
        ("word " * 40, 1, ("word " * 32).rstrip()),
        ("ж" * 69 + "e\u0301", 1, "ж" * 69),
        ("ж" * 66 + FAMILY, 1, "ж" * 66),
        ("ж" * 67 + WAVE, 1, "ж" * 67),
        ("ж" * 67 + FLAG * 2, 1, "ж" * 67),
        ("ж" * 66 + FLAG * 2, 1, "ж" * 66 + FLAG),
        ("ж" * 60 + SCOTLAND, 1, "ж" * 60),
        ("a" * 159 + "\r\n" + "b", 1, "a" * 159),
        # Nothing is left to cut before: a person sees one character, longer than a message.
        ("ж" + "\u0301" * 80, 1, "ж" + "\u0301" * 69),
    ],
)
def test_cuts_where_a_person_sees_a_character_end(text, max_segments, kept):
    assert fitted(text, max_segments, Overflow.TRUNCATE) == Fitted(text=kept, change=TextChange.TRUNCATED)


def test_cuts_at_the_limit_of_characters_too():
    assert cut("a" * 2000, max_segments=20) == "a" * 1600
    assert fitted("a" * 1700, 20, Overflow.TRUNCATE).change is TextChange.TRUNCATED
    assert fitted("ж" * 1700, 0, Overflow.TRUNCATE) == Fitted(text="ж" * 1600, change=TextChange.TRUNCATED)
    assert fitted("ж" * 1599 + WAVE, 0, Overflow.TRUNCATE).text == "ж" * 1599


@given(
    st.integers(71, 700).flatmap(
        lambda size: st.text(alphabet="aж€ {😀\u0301\u200d\U0001f1f8", min_size=size, max_size=size)
    ),
    st.integers(1, 4),
)
def test_keeps_the_longest_beginning_that_fits(text, max_segments):
    assume(measure(text).segments > max_segments)
    longest = max(end for end in range(len(text)) if measure(text[:end]).segments <= max_segments)

    kept = cut(text, max_segments)

    assert text.startswith(kept)
    assert measure(kept).segments <= max_segments
    assert len(kept) <= longest
    if set(text) <= set("aж€{😀"):
        assert len(kept) == longest


def test_refuses_to_cut_a_text_down_to_blanks():
    with pytest.raises(DoesNotFitError):
        fitted(" " * 200 + "word", 1, Overflow.TRUNCATE)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("“Your order” – isn’t late…", '"Your order" - isn\'t late...'),
        ("non\u00a0breaking\u202fand\u2009thin", "non breaking and thin"),
        ("zero\u200bwidth\ufeff so\u00adft", "zerowidth soft"),
        ("tab\tline\u2028end", "tab line\nend"),
        ("Łódź, Kraków, żółw", "Lodz, Krakow, zolw"),
        ("İstanbul ışık ğ ş", "Istanbul isik g s"),
        ("Đặng Thị Hương, phở", "Dang Thi Huong, pho"),
        ("Œuvre, cœur, ça va, Þór, ð", "OEuvre, coeur, ca va, Thor, d"),
        ("é ü ñ å Ç ß", "é ü ñ å Ç ß"),
        # In GSM-7 once it is composed.
        ("e\u0301u\u0308", "éü"),
        ("ﬁne ﬂat Ⅳ ™ № ㎏ ＡＢ１", "fine flat IV TM No kg AB1"),
        ("© ® « » ‹x›", '(C) (R) " " <x>'),
        ("1\ufe0f\u20e3 • × ·", "1 * x ."),
    ],
)
def test_writes_the_plain_likeness_of_letters_and_marks(text, plain):
    assert transliterated(text) == plain
    assert is_gsm7(plain)


@pytest.mark.parametrize(
    "text", ["Ваш заказ", "您好", "مرحبا", "한국어", "άλφα", "😀", "10²", "1½", "①", "₹", "20°", "¨"]
)
def test_changes_no_script_and_no_meaning(text):
    plain = transliterated(text)

    assert plain == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("text", "max_segments", "plain"),
    [
        ("“" + "a" * 98 + "”", 1, '"' + "a" * 98 + '"'),
        ("–" * 300, 2, "-" * 300),
        ("ł" * 160, 1, "l" * 160),
    ],
)
def test_writes_plainly_what_then_fits(text, max_segments, plain):
    assert fitted(text, max_segments, Overflow.TRANSLITERATE) == Fitted(text=plain, change=TextChange.TRANSLITERATED)


@pytest.mark.parametrize(
    "text",
    [
        "“" + "a" * 200 + "”",  # two parts when plain, too
        "…" * 71,  # more characters when plain
        "“" + "a" * 98 + "”" + "ж",  # UCS-2 all the same
        "“" + "a" * 98 + "”😀",
        "a" * 161,
    ],
)
def test_refuses_what_does_not_fit_when_it_is_plain_either(text):
    with pytest.raises(DoesNotFitError) as refused:
        fitted(text, 1, Overflow.TRANSLITERATE)

    assert refused.value.segments == measure(text).segments


def test_refuses_a_likeness_with_too_many_characters():
    with pytest.raises(DoesNotFitError):
        fitted("a" * 80 + "…" * 10, 1, Overflow.TRANSLITERATE, max_characters=100)


@given(st.text(max_size=200), st.integers(1, 3), st.sampled_from(Overflow))
def test_whatever_is_kept_fits_and_says_what_was_done(text, max_segments, rule):
    try:
        result = fitted(text, max_segments, rule)
    except DoesNotFitError:
        assert measure(text).segments > max_segments
        return

    assert measure(result.text).segments <= max_segments
    assert (result.change is None) == (result.text == text)

"""How texts are counted and split."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.sms_text import (
    GSM7_ALPHABET,
    GSM7_EXTENSION,
    Encoding,
    gsm7_bytes,
    gsm7_text,
    is_blank,
    measure,
    split,
)


@pytest.mark.parametrize(
    ("text", "encoding", "segments"),
    [
        ("", Encoding.GSM7, 1),
        ("a" * 160, Encoding.GSM7, 1),
        ("a" * 161, Encoding.GSM7, 2),
        ("a" * 306, Encoding.GSM7, 2),
        ("a" * 307, Encoding.GSM7, 3),
        ("€" * 80, Encoding.GSM7, 1),
        ("€" * 81, Encoding.GSM7, 2),
        # 152 septets, then an escape pair that does not fit into the last septet of the part.
        ("a" * 152 + "€" + "a" * 152, Encoding.GSM7, 3),
        ("a" * 151 + "€" + "a" * 153, Encoding.GSM7, 2),
        ("ж" * 70, Encoding.UCS2, 1),
        ("ж" * 71, Encoding.UCS2, 2),
        ("ж" * 134, Encoding.UCS2, 2),
        ("ж" * 135, Encoding.UCS2, 3),
        ("😀" * 35, Encoding.UCS2, 1),
        ("😀" * 36, Encoding.UCS2, 2),
        # 66 units, then a surrogate pair that does not fit into the last unit of the part.
        ("ж" * 66 + "😀" + "ж" * 66, Encoding.UCS2, 3),
        ("ж" * 65 + "😀" + "ж" * 67, Encoding.UCS2, 2),
        ("a" * 159 + "ж", Encoding.UCS2, 3),
        ("\u00a0", Encoding.UCS2, 1),
        ("`", Encoding.UCS2, 1),
        ("line\r\nline", Encoding.GSM7, 1),
        ("page\fpage", Encoding.GSM7, 1),
        ("\x1be", Encoding.UCS2, 1),
        ("\x00", Encoding.UCS2, 1),
        ("ç", Encoding.UCS2, 1),
        ("\uffff" * 71, Encoding.UCS2, 2),
        ("\U00010000" * 36, Encoding.UCS2, 2),
    ],
)
def test_counts_parts_as_handsets_do(text, encoding, segments):
    size = measure(text)

    assert (size.encoding, size.segments) == (encoding, segments)


def test_remembers_no_text_that_is_too_long_to_be_sent():
    tracemalloc.start()
    try:
        for number in range(20):
            measure("a" * (100_000 + number))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 1_000_000


def test_knows_the_whole_alphabet_of_the_standard():
    # 127 characters and the escape make the 128 codes; the extension table has ten, form feed and euro included.
    assert len(set(GSM7_ALPHABET)) == 127
    assert len(set(GSM7_EXTENSION)) == 10
    assert not set(GSM7_ALPHABET) & set(GSM7_EXTENSION)


def units_of(text: str, encoding: Encoding) -> int:
    """Count septets or code units in another way than the code does."""
    return len(gsm7_bytes(text)) if encoding is Encoding.GSM7 else len(text.encode("utf-16-be")) // 2


gsm7_texts = st.text(alphabet=GSM7_ALPHABET + GSM7_EXTENSION, max_size=1600)
long_texts = st.integers(0, 330).flatmap(
    lambda size: st.text(alphabet="aж€{😀\u0301\u200d", min_size=size, max_size=size)
)


@given(st.one_of(gsm7_texts, long_texts, st.text()))
def test_splits_into_as_many_full_parts_as_it_counts(text):
    size = measure(text)
    alone, room = (160, 153) if size.encoding is Encoding.GSM7 else (70, 67)

    parts = split(text)

    units = [units_of(part, size.encoding) for part in parts]
    assert "".join(parts) == text
    assert len(parts) == size.segments
    assert (len(parts) == 1) == (sum(units) <= alone)
    if len(parts) > 1:
        assert all(count <= room for count in units)
        # Only a pair that would have had to be parted leaves room unused.
        for part, after in pairwise(parts):
            assert units_of(part + after[0], size.encoding) > room


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [""]),
        ("a" * 160, ["a" * 160]),
        ("a" * 161, ["a" * 153, "a" * 8]),
        ("a" * 152 + "€" * 5, ["a" * 152, "€" * 5]),
        ("a" * 151 + "€" * 5, ["a" * 151 + "€", "€" * 4]),
        ("ж" * 71, ["ж" * 67, "ж" * 4]),
        ("ж" * 66 + "😀" * 4, ["ж" * 66, "😀" * 4]),
        ("ж" * 65 + "😀" * 4, ["ж" * 65 + "😀", "😀" * 3]),
        # Handsets join the parts before they show them.
        ("ж" * 66 + "e\u0301" * 3, ["ж" * 66 + "e", "\u0301" + "e\u0301" * 2]),
    ],
)
def test_never_parts_what_a_decoder_needs_whole(text, parts):
    assert split(text) == parts


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("", b""),
        ("@£$", b"\x00\x01\x02"),
        ("ÆæßÉ", b"\x1c\x1d\x1e\x1f"),
        ("Hello World", b"Hello World"),
        ("_ ¤ ¡ ¿ à", b"\x11\x20\x24\x20\x40\x20\x60\x20\x7f"),
        ("ΔΦΓΛΩΠΨΣΘΞ", b"\x10\x12\x13\x14\x15\x16\x17\x18\x19\x1a"),
        ("ÄÖÑÜ§äöñü", b"\x5b\x5c\x5d\x5e\x5f\x7b\x7c\x7d\x7e"),
        ("\f^{}\\[~]|€", bytes.fromhex("1b0a 1b14 1b28 1b29 1b2f 1b3c 1b3d 1b3e 1b40 1b65")),
    ],
)
def test_encodes_by_the_tables_of_the_standard(text, octets):
    assert gsm7_bytes(text) == octets


def test_decodes_what_it_encodes():
    text = GSM7_ALPHABET + GSM7_EXTENSION

    assert gsm7_text(gsm7_bytes(text)) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"a\x1bAb", "aAb"),  # an extension that is not known
        (b"a\x1b", "a\ufffd"),
        (b"a\xffb", "a\ufffdb"),
        (b"a\nb", "a\nb"),
    ],
)
def test_decodes_octets_that_the_tables_do_not_have(octets, text):
    assert gsm7_text(octets) == text


@pytest.mark.parametrize("character", ["ж", "\x1b", "\x00", "`", "ç", "😀"])
def test_encodes_nothing_that_the_alphabet_does_not_have(character):
    with pytest.raises(ValueError, match=f"U\\+{ord(character):04X}"):
        gsm7_bytes(f"a{character}b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        (" \t\r\n\u00a0\u3000", True),
        ("\u200b", True),  # what an editor leaves in a field that was emptied
        ("\ufeff\u200e\u200f\u00ad\u2060", True),
        ("\x07", False),  # no text that anybody meant, but none that was forgotten either
        ("\u200f.", False),
        ("\U0001faea", False),  # an emoji younger than Python's own Unicode
        ("\ue001", False),  # private, so somebody may see it
    ],
)
def test_knows_a_text_of_which_nobody_sees_anything(text, expected):
    assert is_blank(text) is expected

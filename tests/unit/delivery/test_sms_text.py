"""How texts are counted."""

from __future__ import annotations

import pytest

from services.delivery.domain import Encoding
from services.delivery.sms_text import GSM7_ALPHABET, GSM7_EXTENSION, measure


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
    ],
)
def test_counts_parts_as_handsets_do(text, encoding, segments):
    size = measure(text)

    assert (size.encoding, size.segments) == (encoding, segments)


def test_knows_the_whole_alphabet_of_the_standard():
    # 127 characters and the escape make the 128 codes; the extension table has ten, form feed and euro included.
    assert len(set(GSM7_ALPHABET)) == 127
    assert len(set(GSM7_EXTENSION)) == 10
    assert not set(GSM7_ALPHABET) & set(GSM7_EXTENSION)

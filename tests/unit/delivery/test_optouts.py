"""Which texts are opt-out words."""

from __future__ import annotations

import pytest

from services.delivery.optouts import HELP_WORDS, START_WORDS, STOP_WORDS, Keyword, OptOutWords


def wide(text: str) -> str:
    """The full-width form of ASCII."""
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


@pytest.mark.parametrize("word", STOP_WORDS)
@pytest.mark.parametrize("written", ["{}", " {} ", "{}.", "{}!!", '"{}"', "\t{}\r\n", "({})", "«{}»", "*{}*", "¡{}!"])
def test_knows_a_stop_word_however_it_is_written(word, written):
    for cased in (word, word.lower(), word.capitalize()):
        assert OptOutWords().keyword(written.format(cased), is_opted_out=False) is Keyword.STOP


@pytest.mark.parametrize(
    "text",
    [
        wide("STOP"),
        wide("stop."),
        f"\u3000{wide('STOP')}\u3000",
        "st\u00adop",
        "\u200bstop\u200b",
        "s\u2060top",
        "\ufeffSTOP",
        "\U0001d412\U0001d413\U0001d40e\U0001d40f",
        "\u24e2\u24e3\u24de\u24df",
        "stop\0",
        "STOP\u2757\ufe0f",
        "STOP \u2764\ufe0f",
        "\u270b\ufe0fStop\u270b\ufe0f",
        "STOP \U0001f6d1",
        "stop \u0301",  # an accent that belongs to no letter
        "STOP \u20e3",
        "Opt-out",
        "opt  out.",
        "OPT\u2011OUT",
        "opt\u00a0out",
        "Stop all!",
    ],
)
def test_folds_widths_and_drops_what_shows_nothing(text):
    assert OptOutWords().keyword(text, is_opted_out=False) is Keyword.STOP


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "...",
        "please stop by at five",
        "STOP it",
        "non-stop",
        "stopp",
        "ENDE",
        "the end",
        "S T O P",
        "STOP STOP",
        "stop out",
        "opt",
        "opt o ut",
        "stop\u0301",
        "stop1",
        "\u0441top",  # its first letter is Cyrillic
        "stop" + "!" * 97,
        "👍",
    ],
)
def test_takes_an_ordinary_text_for_an_answer(text):
    assert OptOutWords().keyword(text, is_opted_out=False) is None


@pytest.mark.parametrize("is_opted_out", [True, False])
def test_knows_start_and_help(is_opted_out):
    words = OptOutWords()

    assert {words.keyword(word.lower(), is_opted_out=is_opted_out) for word in START_WORDS} == {Keyword.START}
    assert {words.keyword(word.lower(), is_opted_out=is_opted_out) for word in HELP_WORDS} == {Keyword.HELP}


def test_takes_yes_for_start_only_where_somebody_has_opted_out():
    words = OptOutWords()

    assert words.keyword("Yes!", is_opted_out=True) is Keyword.START
    assert words.keyword("Yes!", is_opted_out=False) is None


def test_knows_more_words_from_a_setting():
    words = OptOutWords(["Arrêt", "停止", "stop all", " "])

    found = [
        words.keyword(text, is_opted_out=False) for text in ("ARRÊT", "arre\u0302t.", "停止。", "Stop All", "", "x")
    ]

    assert found == [Keyword.STOP] * 4 + [None, None]


def test_lets_a_word_of_the_setting_stop_whatever_else_it_means():
    words = OptOutWords(["YES", "info"])

    assert words.keyword("yes", is_opted_out=True) is Keyword.STOP
    assert words.keyword("INFO", is_opted_out=False) is Keyword.STOP


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        ("ARRÊT", "arret"),
        ("arrêt", "ARRET."),
        ("Διαγραφή", "ΔΙΑΓΡΑΦΗ"),
        ("HỦY", "huy"),
        ("إيقاف", "ايقاف"),
        ("İPTAL", "iptal"),
        ("iptal", "İPTAL"),
        ("İPTAL", "IPTAL"),
        ("ÇIK", "ç\u0131k"),
        ("ç\u0131k", "CIK"),
    ],
)
def test_knows_a_listed_word_also_without_its_accents_and_with_a_turkish_i(listed, text):
    assert OptOutWords([listed]).keyword(text, is_opted_out=False) is Keyword.STOP


@pytest.mark.parametrize(("listed", "text"), [("ARRET", "arrêt"), ("रोकें", "रक"), ("停止", "停")])
def test_does_not_take_another_word_for_a_listed_one(listed, text):
    assert OptOutWords([listed]).keyword(text, is_opted_out=False) is None

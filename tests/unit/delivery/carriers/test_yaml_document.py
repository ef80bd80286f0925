"""YAML that people write by hand: what is read, what is refused, and where it says that the mistake is."""

from __future__ import annotations

import pytest

from services.delivery.carriers.yaml_document import YamlError, read_yaml, read_yaml_file


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("NO", "NO"),
        ("yes", "yes"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("+6598765432", "+6598765432"),
        ("007", "007"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("21:30", "21:30"),
        ("2026-06-12", "2026-06-12"),
        ("12", 12),
        ("-1.5", -1.5),
        ("'12'", "12"),
        (".inf", ".inf"),
        ("1" * 30, "1" * 30),
    ],
)
def test_takes_a_plain_word_for_what_it_looks_like(written, value):
    assert read_yaml(f"a: {written}", "x.yaml").value == {"a": value}


def test_keeps_keys_as_text_and_scalars_as_written():
    document = read_yaml("30003: 1.10\ntrue: x", "x.yaml")

    assert list(document.value) == ["30003", "true"]
    assert document.written(("30003",)) == "1.10"
    assert document.written(("nothing",)) == ""


def test_says_where_a_value_stands_or_its_nearest_neighbour():
    document = read_yaml("a:\n  b:\n    - c: 1\n    - c:\n        2\n", "x.yaml")

    assert document.where(("a", "b", 1, "c")) == "x.yaml:4: a.b[1].c"
    assert document.where(("a", "b", 1, "d")) == "x.yaml:4: a.b[1].d"
    assert document.where(()) == "x.yaml:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: a: is there twice: first in line 1"),
        ("a: {b: 1,\n b: 2}", "x.yaml:2: a.b: is there twice"),
        ("a: &x 1\nb: *x", "x.yaml:1: has an anchor or an alias"),
        ("b: *x", "x.yaml:1: has an anchor or an alias"),
        ("a: !!python/object/apply:os.system [ls]", "x.yaml:1: has a tag"),
        ("a: !!str 1", "x.yaml:1: has a tag"),
        ("? [a]\n: 1", "x.yaml:1: has a key that is no text"),
        ("a: 1\n---\nb: 1", "x.yaml:2: "),
        ("a: [", "x.yaml:1: "),
        ("a:\n\t- b", "x.yaml:2: "),
        ("a: \x00", "x.yaml: "),
        ("[" * 40 + "]" * 40, "x.yaml:1: is nested deeper than 32 levels"),
        ("", "x.yaml: is empty"),
        ("# only a comment", "x.yaml: is empty"),
        ("a: " + "x" * 300_000, "x.yaml: is longer than 262144 bytes"),
    ],
)
def test_refuses_with_the_line(text, message):
    with pytest.raises(YamlError) as refused:
        read_yaml(text, "x.yaml")

    assert str(refused.value).startswith(message)


def test_tells_of_all_duplicates_at_once():
    with pytest.raises(YamlError) as refused:
        read_yaml("a: 1\na: 2\nb: 1\nb: 2", "x.yaml")

    assert [issue.path for issue in refused.value.issues] == ["x.yaml:2: a", "x.yaml:4: b"]


def test_names_a_file_that_can_not_be_read(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe9")

    with pytest.raises(YamlError, match=r"latin\.yaml: is no UTF-8 at byte 3"):
        read_yaml_file(latin)
    with pytest.raises(YamlError, match=r"nothing\.yaml: can not be read: No such file"):
        read_yaml_file(tmp_path / "nothing.yaml")

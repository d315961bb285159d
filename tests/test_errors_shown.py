"""Nothing of a text gets out of its place on a terminal, in a line, in Markdown or in printed JSON."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import markdown, shown, shown_json, shown_lines

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
# Random text seldom holds what matters here.
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x07\x9b\x7f\r\n\t\0<>&|`*[]\\" + BIDI)))


def steers(text: str) -> set[str]:
    """Return the characters of a text that steer a terminal or the direction of writing, by the Unicode tables."""
    return {mark for mark in text if unicodedata.category(mark) in ("Cc", "Cs", "Zl", "Zp") or mark in BIDI}


@given(TEXTS)
def test_no_control_character_comes_through(text: str) -> None:
    assert not steers(shown(text))
    assert not steers(markdown(text))
    assert steers(shown_lines(text)) <= set("\n\t")
    assert steers(shown_json({"text": text})) <= {"\n"}


@given(TEXTS)
def test_printed_json_is_exact(text: str) -> None:
    assert json.loads(shown_json([text, {text: 1}])) == [text, {text: 1}]


@given(TEXTS)
def test_markdown_has_no_tag_link_code_or_cell_of_the_text(text: str) -> None:
    page = markdown(text)
    assert not set("<>") & set(page)
    # A mark counts unless an odd number of backslashes stands before it.
    bare = page.replace("\\\\", "")
    assert not [mark for place, mark in enumerate(bare) if mark in "|`*[]" and bare[place - 1 : place] != "\\"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, with ünïcode and 字", "plain, with ünïcode and 字"),
        ("a\x1b[31mred\x07", "a\\x1b[31mred\\x07"),
        ("a\x9b2J", "a\\x9b2J"),
        ("exe\u202egpj", "exe\\u202egpj"),
        ("line\nbreak\tand   blanks ", "line break and blanks"),
        ("half \ud800", "half \\ud800"),
        ("👩\u200d👧", "👩\u200d👧"),
        (3, "3"),
    ],
)
def test_shown_on_one_line(text: object, expected: str) -> None:
    assert shown(text) == expected


def test_width_is_kept() -> None:
    assert shown("one two three", 8) == "one two…"
    assert shown("one two", 7) == "one two"


def test_lines_stay_lines() -> None:
    assert shown_lines("a\n\tb\x1b\r\n") == "a\n\tb\\x1b\\x0d\n"


def test_markdown_reads_as_the_text() -> None:
    assert markdown("<img src=x> [a](b) `c` 1|2 & *d* \\") == "&lt;img src=x&gt; \\[a\\](b) \\`c\\` 1\\|2 &amp; \\*d\\* \\\\"

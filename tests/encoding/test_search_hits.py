"""Hits for people and for programs."""

from __future__ import annotations

from prune2vec.encoding.search import Hit, SearchResult

HITS = (
    Hit(rank=1, score=0.5, id="a\x1b[2J", row=0, text="one\n\x07two " + "w" * 200),
    Hit(rank=2, score=0.25, id="longer id", row=1, text=None),
)
RESULT = SearchResult(queries=("q\u202e\nx",), hits=(HITS,), rows=2)


def test_what_texts_hold_does_not_steer_a_terminal() -> None:
    query, first, second = RESULT.render().splitlines()
    assert query == "q\\u202e x"
    assert first.startswith("   1   0.5000  a\\x1b[2J   one \\x07two www")
    assert first.endswith("www…")
    assert second == "   2   0.2500  longer id"


def test_programs_get_the_texts_as_they_are() -> None:
    found = RESULT.to_json()["results"][0]
    assert (found["query"], found["hits"][0]["id"], found["hits"][0]["text"]) == (RESULT.queries[0], HITS[0].id, HITS[0].text)

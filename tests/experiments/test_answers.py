from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prune2vec.data.documents import Document
from prune2vec.errors import DataError
from prune2vec.experiments.answers import (
    Answer,
    AnswerHit,
    answer,
    load_answers,
    read_documents,
    save_answers,
)


def test_corpus_file_with_titles_and_names(tmp_path: Path) -> None:
    rows = [{"_id": "a.b", "title": "T", "text": "x"}, {"text": "y"}]
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert read_documents(str(path)) == [Document("a.b", "T x", "x", has_id=True), Document("1", "y", "y")]


def test_triplets_give_their_documents(tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(json.dumps({"anchor": "q", "positive": "p", "negative": "n"}) + "\n")
    assert [document.text for document in read_documents(str(path))] == ["p", "n"]


def test_texts_are_those_of_the_evaluation(tmp_path: Path) -> None:
    """Of the same split, and of a BEIR folder its corpus file, whatever else is there."""
    (tmp_path / "triplets").mkdir()
    for split in ("dev", "test"):
        row = {"anchor": "q", "positive": f"{split} p"}
        (tmp_path / "triplets" / f"x-{split}.jsonl").write_text(json.dumps(row) + "\n")
    assert [one.text for one in read_documents(str(tmp_path / "triplets"), "validation")] == ["dev p"]
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b'{"_id": "a", "id": "b", "text": "x"}\n'))
    (tmp_path / "corpus.jsonl.bak").write_text("old")
    assert read_documents(str(tmp_path)) == [Document("a", "x", "x", has_id=True)]


@pytest.mark.parametrize(("line", "message"), [("{", r"c\.jsonl:2: not JSON"), ("[1]", r"c\.jsonl:2: expected a JSON object")])
def test_broken_corpus(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "c.jsonl").write_text(f'{{"text": "x"}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        read_documents(str(tmp_path / "c.jsonl"))


def test_saved_and_loaded(tmp_path: Path) -> None:
    answers = [Answer(query="q", hits=(AnswerHit(name="n", text="t", score=0.25),))]
    save_answers(answers, tmp_path / "answers.json")
    assert load_answers(tmp_path / "answers.json") == answers


def test_rendered_on_lines_of_limited_width() -> None:
    one = Answer(
        query="q", hits=(AnswerHit(name="a.b", text="word\n" * 100, score=0.5), AnswerHit(name="", text="short", score=0.25))
    )
    lines = one.render(width=60).splitlines()
    assert lines[0] == "q"
    assert lines[1].startswith("  0.500  a.b: word word")
    assert len(lines[1]) <= 60
    assert lines[1].endswith("…")
    assert lines[2] == "  0.250  short"


def test_what_texts_hold_does_not_steer_a_terminal() -> None:
    one = Answer(query="q\x1b]0;x\x07\n---", hits=(AnswerHit(name="n\u202e", text="t\x9b", score=0.5),))
    assert one.render() == "q\\x1b]0;x\\x07 ---\n  0.500  n\\u202e: t\\x9b"


def test_nothing_to_search() -> None:
    encoder: Any = None
    with pytest.raises(DataError, match="no texts to search"):
        answer(encoder, [], ["q"], batch_size=8)


def test_a_folder_of_queries_and_documents_gives_its_documents(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "x"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "a question"}\n')
    assert read_documents(str(tmp_path)) == [Document("d1", "T x", "x", has_id=True)]

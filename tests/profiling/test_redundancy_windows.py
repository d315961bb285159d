from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import DataError
from prune2vec.profiling.redundancy import plain_windows
from tests.tiny import tiny_tokenizer

TEXT = "the quick brown fox jumps over the lazy dog while 12 or 345 birds sing in the morning light\n" * 30


def windows(source: Path, **changes: Any) -> list[tuple[int, ...]]:
    settings = {"count": 1000, "length": 10, "context": 256, "seed": 42, **changes}
    rows = plain_windows(source, settings.pop("tokenizer", tiny_tokenizer(bos=True)), **settings)
    assert all(row.start == 0 for row in rows)
    return [row.ids for row in rows]


def test_windows_are_the_text_without_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    found = windows(tmp_path / "a.txt")
    ids = tiny_tokenizer()(TEXT)["input_ids"]
    assert [token for row in found for token in row] == ids[: len(ids) // 10 * 10]
    assert {len(row) for row in found} == {10}


def test_documents_follow_each_other_with_an_end_of_text_between(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps({"text": text}) for text in ("quick fox", "  ", "lazy dog")))
    (tmp_path / "a.md").write_text("birds sing")
    (tmp_path / "z.bin").write_text("no text")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.txt").write_text("not seen")
    tokenizer = tiny_tokenizer()
    stream = [token for row in windows(tmp_path, length=1) for token in row]
    assert tokenizer.decode(stream) == "birds sing</s>quick fox</s>lazy dog"
    tokenizer.eos_token = None
    stream = [token for row in windows(tmp_path, length=1, tokenizer=tokenizer) for token in row]
    assert tokenizer.decode(stream) == "birds singquick foxlazy dog"


def test_a_draw_keeps_the_order_and_follows_the_seed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" ".join(str(number) for number in range(2000)))
    every = windows(tmp_path / "a.txt")
    first, again, other = (windows(tmp_path / "a.txt", count=8, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    places = [every.index(row) for row in first]
    assert places == sorted(places)
    assert len(places) == 8


def test_it_says_what_it_cannot_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    found = windows(tmp_path / "a.txt", length=2048, context=64)
    assert {len(row) for row in found} == {64}
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "windows have 64 tokens instead of 2048: the model has no positions beyond",
        f"{tmp_path / 'a.txt'} fills {len(found)} windows of 64 tokens instead of 1000",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "quick fox", r"a\.txt has 3 tokens, less than one window of 10"),
        ("a.txt", "  \n", r"a\.txt has 0 tokens"),
        ("a.jsonl", '{"text": "x"}\n{"body": "y"}\n', r"a\.jsonl:2: text is null, expected a string"),
        ("a.jsonl", '{"text": 3}\n', r"a\.jsonl:1: text is int, expected a string"),
        ("a.csv", "text\nx\n", r"a\.csv: no plain text; expected \.txt, \.md, \.jsonl files"),
    ],
)
def test_bad_sources_are_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        windows(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no plain text"):
        windows(tmp_path)

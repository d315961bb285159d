"""Hub data sets; a local folder stands for the hub, which ``datasets`` reads by the same call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune2vec.data.reader import HUB_DATASET, read_hub
from prune2vec.errors import DataError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name:triplet", ("owner/name", "triplet", None)),
        ("owner/name@abc1", ("owner/name", None, "abc1")),
        ("o-w/n.a_me:c@v1.0", ("o-w/n.a_me", "c", "v1.0")),
        ("name", None),
        ("a/b/c", None),
        ("/abs/path", None),
        ("../up", None),
        ("", None),
    ],
)
def test_ids_are_told_from_paths(text: str, source: tuple[str, str | None, str | None] | None) -> None:
    found = HUB_DATASET.fullmatch(text)
    assert (found.groups() if found else None) == source


def test_rows_are_streamed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"query": f"q{n}", "positive": "p", "negative": "n"} for n in range(3)]
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = list(read_hub("owner/name"))
    assert [row.values for row in found] == rows
    assert (found[2].where, found[2].number) == ("owner/name: row 3", 2)


def test_split_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"query": "q"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"cannot read owner/name: .*train.*; expected an existing file") as caught:
        list(read_hub("owner/name"))
    assert "\n" not in str(caught.value)

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


@pytest.mark.parametrize(
    ("there", "split", "read"),
    [
        (["train", "validation", "test"], "test", ["test"]),
        (["train", "validation", "test"], "validation", ["validation"]),
        (["train", "validation", "test"], "dev", ["validation"]),
        (["train", "validation", "test"], "train", ["train"]),
        (["train", "validation"], "test", ["validation"]),
        (["train"], "test", ["train"]),
    ],
)
def test_held_out_splits_are_read_where_there_are_any(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: list[str],
    split: str,
    read: list[str],
) -> None:
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for name in there:
        (folder / f"{name}.jsonl").write_text(json.dumps({"query": name, "positive": "p"}) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert [row.values["query"] for row in read_hub("owner/name", split)] == read
    told = capsys.readouterr().err
    assert ("left out" in told) == (split != "train" and len(there) > 1)
    assert ("nothing is held out" in told) == (split == "test" and there == ["train"])


def test_split_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"query": "q"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"cannot read owner/name: .*train.*; expected an existing file") as caught:
        list(read_hub("owner/name"))
    assert "\n" not in str(caught.value)

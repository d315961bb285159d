"""Writing triplets and reading them back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prune2vec.data.reader import load_triplets
from prune2vec.data.triplet import Triplet, write_triplets
from prune2vec.errors import CheckpointError, DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def _triplet(draw: st.DrawFn) -> Triplet:
    negatives = draw(st.lists(TEXT, max_size=12))
    numbers = st.lists(NUMBER, min_size=len(negatives) + 1, max_size=len(negatives) + 1)
    return Triplet(
        anchor=draw(TEXT),
        positive=draw(TEXT),
        negatives=tuple(negatives),
        dataset=draw(TEXT),
        scores=tuple(draw(numbers)) if negatives and draw(st.booleans()) else (),
        group=draw(st.just("") | TEXT),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(_triplet(), min_size=1, max_size=5), st.sampled_from(["a.jsonl", "a.jsonl.gz"]))
def test_what_is_written_is_read_back(tmp_path: Path, triplets: list[Triplet], name: str) -> None:
    path = tmp_path / name
    write_triplets(triplets, path)
    assert load_triplets(path, require_negative=False) == [replace(row, line=n) for n, row in enumerate(triplets)]


def test_the_same_triplets_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [Triplet(anchor="a", positive="p", negatives=("n",))] * 10
    first, second = tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"
    write_triplets(rows, first)
    write_triplets(iter(rows), second)
    assert first.read_bytes() == second.read_bytes()


def test_an_error_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old", encoding="utf-8")

    def rows() -> object:
        yield Triplet(anchor="a", positive="p")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_triplets(rows(), path)  # type: ignore[arg-type]
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [("a.jsonl", "old")]


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in \.jsonl or \.jsonl\.gz"):
        write_triplets([], tmp_path / "a.csv")


def test_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot write"):
        write_triplets([], tmp_path / "file" / "a.jsonl")

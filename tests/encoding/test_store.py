"""One byte a dimension: the nearest of 256 steps between the least and the greatest value, also for large values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow.dataset
import pyarrow.parquet
import pytest
from datasets import load_dataset

from prune2vec.encoding.store import Precision, Store, ranges_of
from prune2vec.errors import EncodingError


@pytest.mark.parametrize("offset", [0.0, -3.0, 1000.0])
def test_the_nearest_step(offset: float) -> None:
    vectors = (np.random.default_rng(0).normal(size=(500, 6)) * [1e-3, 0.1, 1, 3, 10, 99] + offset).astype(np.float32)
    precision = Precision(name="int8", dimension=6, ranges=ranges_of(vectors))
    codes = precision.store(vectors)
    low, high = precision.ranges.astype(np.float64)
    assert codes.dtype == np.int8
    assert (codes.min(axis=0) == -128).all()
    assert (codes.max(axis=0) == 127).all()
    back = (codes.astype(np.float64) + 128) * (high - low) / 255 + low
    exact = (high - low) > 1e-4 * np.abs(low)
    assert (np.abs(back - vectors) <= 0.51 * (high - low) / 255)[:, exact].all()
    # What search restores is that, up to the digits of fp32.
    assert (np.abs(precision.restore(codes) - back) <= 1e-6 * np.abs([low, high]).max(axis=0)).all()


def test_what_half_precision_cannot_hold_is_refused() -> None:
    precision = Precision(name="float16", dimension=2)
    assert precision.store(np.array([[65504.0, -1.0]], dtype=np.float32)).tolist() == [[65504.0, -1.0]]
    with pytest.raises(EncodingError, match="a vector has 70000, beyond the 65504 of float16; store float32 or int8"):
        precision.store(np.array([[1.0, 2.0], [-70000.0, 1.0]], dtype=np.float32))


def test_values_outside_the_range_are_its_ends() -> None:
    precision = Precision(name="int8", dimension=2, ranges=np.array([[-1, 0], [1, 2]], dtype=np.float32))
    np.testing.assert_array_equal(precision.store(np.array([[-9, 9], [1, 0]], dtype=np.float32)), [[-128, 127], [127, -128]])


@pytest.mark.parametrize("value", [0.0, 1e-3, -1.0, 77.0, -1e4, 1e6])
def test_a_dimension_that_never_changes(value: float) -> None:
    vectors = np.full((4, 1), value, dtype=np.float32)
    precision = Precision(name="int8", dimension=1, ranges=ranges_of(vectors))
    assert np.isfinite(precision.store(vectors)).all()
    np.testing.assert_allclose(precision.restore(precision.store(vectors)), vectors, rtol=1e-6, atol=1e-7)


def _store(folder: Path, precision: str, vectors: Any) -> Store:
    """Return the store of some rows in two parts."""
    ranges = ranges_of(vectors) if precision == "int8" else None
    form = Precision(name=precision, dimension=vectors.shape[1], ranges=ranges)
    store = Store(folder=folder, identity={}, precision=form, made_by={"encoder": str(folder / "small"), "normalised": False})
    half = len(vectors) // 2
    store = store.add([f"d{row}" for row in range(half)], vectors[:half])
    return store.add([f"d{row}" for row in range(half, len(vectors))], vectors[half:]).finish()


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
def test_the_folder_as_a_whole_is_what_others_read(tmp_path: Path, precision: str) -> None:
    vectors = np.random.default_rng(1).normal(size=(10, 16)).astype(np.float32)
    store = _store(tmp_path / "v", precision, vectors)
    wanted = store.precision.store(vectors).tolist()
    folder = str(tmp_path / "v")
    rows = load_dataset(folder, split="train", cache_dir=str(tmp_path / "cache"))
    # polars takes a folder only where nothing but Parquet is in it, hidden or not.
    parts = polars.read_parquet(f"{folder}/*.parquet")
    for ids, found in (
        (pandas.read_parquet(folder)["id"].tolist(), np.stack(pandas.read_parquet(folder)["vector"].tolist())),
        (
            pyarrow.dataset.dataset(folder).to_table()["id"].to_pylist(),
            pyarrow.dataset.dataset(folder).to_table()["vector"].to_pylist(),
        ),
        (parts["id"].to_list(), parts["vector"].to_list()),
        (rows["id"][:], rows["vector"][:]),
    ):
        assert list(ids) == [f"d{row}" for row in range(10)]
        np.testing.assert_array_equal(np.asarray([list(one) for one in found]), wanted)


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_a_part_alone_says_how_its_vectors_are_turned_back(tmp_path: Path, precision: str) -> None:
    vectors = np.random.default_rng(2).normal(size=(10, 16)).astype(np.float32)
    store = _store(tmp_path / "v", precision, vectors)
    table = pyarrow.parquet.read_table(tmp_path / "v" / "part-00001.parquet")
    about = json.loads(table.schema.metadata[b"prune2vec"])
    assert (about["model"], about["dimension"], about["precision"], about["normalised"]) == ("small", 16, precision, False)
    stored = np.array(table["vector"].to_pylist())
    if precision == "int8":
        # As the words of "restore" say.
        assert about["restore"] == "least + (vector + 128) * (greatest - least) / 255, for each dimension"
        low, high = np.array(about["least"]), np.array(about["greatest"])
        found = low + (stored + 128) * (high - low) / 255
    elif precision == "binary":
        bits = [[number >> place & 1 for number in row for place in range(7, -1, -1)] for row in stored.tolist()]
        found = np.array(bits) * 2 - 1
        assert ((found > 0) == (vectors[5:] > 0)).all()
    else:
        assert "restore" not in about
        found = stored
    np.testing.assert_allclose(found, store.precision.restore(store.precision.store(vectors[5:])), rtol=1e-5, atol=1e-6)


def test_a_store_of_an_earlier_version_is_read_and_continued_under_the_new_name(tmp_path: Path) -> None:
    vectors = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    _store(tmp_path / "v", "float32", vectors)
    (tmp_path / "v" / "_manifest.json").rename(tmp_path / "v" / "manifest.json")
    found = Store.load(tmp_path / "v")
    assert (found.rows, found.complete) == (4, True)
    found.add(["d4"], vectors[:1]).finish()
    assert sorted(path.name for path in (tmp_path / "v").iterdir() if path.suffix == ".json") == ["_manifest.json"]
    assert Store.load(tmp_path / "v").rows == 5

"""The nearest are what sorting all inner products in numpy finds, in every precision, over parts and shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune2vec.encoding.store import Precision, Store, ranges_of, shard_folder
from prune2vec.encoding.vector_folder import VectorFolder, unit_rows
from prune2vec.errors import EncodingError
from tests.encoding.conftest import read_all

DIM = 32
PRECISIONS = ["float32", "float16", "int8", "binary"]
Vectors = np.ndarray[Any, np.dtype[np.float32]]


def drawn(rows: int, seed: int = 0, *, scaled: bool = True) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return unit_rows(vectors) if scaled else vectors


def stored(
    folder: Path, vectors: Vectors, *, precision: str = "float32", shards: int = 1, part: int = 40, identity: object = 0
) -> VectorFolder:
    """Write vectors as ``encode`` does: shard i of n has rows i, i + n, ..."""
    kind = Precision(name=precision, dimension=DIM, ranges=ranges_of(vectors) if precision == "int8" else None)
    for shard in range(shards):
        mine = range(shard, len(vectors), shards)
        store = Store(
            folder=shard_folder(folder, shard, shards),
            identity={"encoder": identity, "settings": {"shard": f"{shard}/{shards}"}},
            precision=kind,
        )
        for start in range(0, len(mine), part):
            rows = list(mine[start : start + part])
            store = store.add([f"d{row}" for row in rows], vectors[rows])
        store.finish()
    return VectorFolder.open(folder)


def found_by_numpy(folder: VectorFolder, queries: Vectors, k: int) -> tuple[Vectors, Any]:
    """Return the k best scores in float64, and all scores: the vectors as stored, dequantised by the manifest's ranges."""
    codes = np.concatenate([read_all(store)[1] for store in folder.stores.values()])
    ranges = folder.first.precision.ranges
    if ranges is not None:
        low, high = ranges.astype(np.float64)
        values = (codes.astype(np.float64) + 128) / 255 * (high - low) + low
    elif folder.first.precision.name == "binary":
        values = np.where(np.unpackbits(codes, axis=1) == 1, 1, -1) / np.sqrt(DIM)
    else:
        values = codes.astype(np.float64)
    scores = queries.astype(np.float64) @ values.T
    return np.sort(scores, axis=1)[:, ::-1][:, :k], scores


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("numbers", [1, 3000, 1 << 23])
def test_exact_search_is_a_sort_of_all_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, shards: int, numbers: int
) -> None:
    monkeypatch.setattr("prune2vec.encoding.vector_folder._NUMBERS", numbers)
    folder = stored(tmp_path, drawn(333), precision=precision, shards=shards)
    queries = drawn(9, seed=1)
    # So many candidates that the bits leave nothing out.
    scores, rows = folder.nearest(queries, 10, candidates=333)
    best, every = found_by_numpy(folder, queries, 10)
    np.testing.assert_allclose(scores, best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(every, rows, axis=1), best, atol=1e-5)
    names = folder.ids(rows.ravel())
    assert names == {int(row): f"d{folder.corpus_row(int(row))}" for row in rows.ravel()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_row_in_the_corpus(tmp_path: Path, precision: str) -> None:
    vectors = drawn(101)
    folder = stored(tmp_path, vectors, precision=precision, shards=3, part=7)
    _, rows = folder.nearest(vectors, 1)
    assert [folder.corpus_row(int(row)) for row in rows[:, 0]] == list(range(101))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [3, 7, 60])
def test_ties_come_in_order_at_the_last_place_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, k: int
) -> None:
    vectors = drawn(12)[np.arange(60) % 12]
    folder = stored(tmp_path, vectors, precision=precision, part=9)
    every = found_by_numpy(folder, drawn(12), 60)[1]
    # In float64 too, equal rows have equal products only to the last digits.
    expected = np.lexsort((np.broadcast_to(np.arange(60), every.shape), -every.round(9)), axis=1)[:, :k]
    for numbers in (1, 1 << 23):
        monkeypatch.setattr("prune2vec.encoding.vector_folder._NUMBERS", numbers)
        scores, rows = folder.nearest(drawn(12), k, candidates=60)
        assert rows.tolist() == expected.tolist()
        np.testing.assert_allclose(scores, np.take_along_axis(every, expected, axis=1), atol=1e-5)


def test_of_bits_as_far_away_the_querys_floats_choose_candidates(tmp_path: Path) -> None:
    # Of 400 rows of 32 bits several are as far away as the last of 12 candidates.
    folder = stored(tmp_path, drawn(400), precision="binary", part=150)
    queries = drawn(50, seed=1)
    found = folder.nearest(queries, 12, candidates=1)[1]
    bits = np.unpackbits(read_all(folder.first)[1], axis=1)
    far = (bits[None] != (queries > 0)[:, None]).sum(axis=2)
    products = queries @ np.where(bits, 1.0, -1.0).T
    expected = np.lexsort((np.broadcast_to(np.arange(400), far.shape), -products, far))[:, :12]
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))


def test_a_text_that_is_there_many_times(tmp_path: Path) -> None:
    query = drawn(1, seed=4)
    near = unit_rows(query + 0.3 * drawn(1, seed=5))
    folder = stored(tmp_path, np.concatenate([drawn(3), np.repeat(near, 996, axis=0), query]), part=300)
    assert folder.nearest(query, 5)[1].tolist() == [[999, 3, 4, 5, 6]]


@pytest.mark.parametrize("unit", [False, True])
def test_shards_of_machines_that_differ_in_the_ranges_of_int8(tmp_path: Path, unit: bool) -> None:
    vectors = drawn(90, scaled=False) * 50
    for shard, factor in enumerate((1, 1.003, 0.7)):
        ranges = ranges_of(vectors) * np.float32(factor)
        store = Store(
            folder=shard_folder(tmp_path, shard, 3),
            identity={"settings": {"shard": f"{shard}/3"}},
            precision=Precision(name="int8", dimension=DIM, ranges=ranges),
        )
        store.add([f"d{row}" for row in range(shard, 90, 3)], vectors[shard::3]).finish()
    folder = VectorFolder.open(tmp_path)
    values = np.concatenate([store.precision.restore(read_all(store)[1]) for store in folder.stores.values()])
    scores, rows = folder.nearest(drawn(9, seed=1), 5, unit=unit)
    every = drawn(9, seed=1) @ (unit_rows(values) if unit else values).T
    np.testing.assert_allclose(scores, np.sort(every, axis=1)[:, ::-1][:, :5], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(every, rows, axis=1), scores, rtol=1e-5)


def test_equal_parts_are_all_searched(tmp_path: Path) -> None:
    store = Store(folder=tmp_path, identity={}, precision=Precision(name="float32", dimension=DIM))
    for vectors in (drawn(10), drawn(10), drawn(10, seed=5)):
        store = store.add(["same"] * 10, vectors)
    store.finish()
    folder = VectorFolder.open(tmp_path)
    assert store.parts[0]["sha256"] == store.parts[1]["sha256"]
    assert folder.nearest(drawn(10), 2)[1].tolist() == [[row, row + 10] for row in range(10)]
    assert folder.nearest(drawn(10, seed=5), 1)[1].tolist() == [[row + 20] for row in range(10)]


def test_bits_ranked_by_floats_beat_bits_alone(tmp_path: Path) -> None:
    vectors = drawn(2000)
    folder = stored(tmp_path, vectors, precision="binary", part=500)
    queries = unit_rows(vectors[:200] + drawn(200, seed=2) * 0.8)
    truth = (queries @ vectors.T).argmax(axis=1)
    hits = []
    for candidates in (1, 20):
        _, rows = folder.nearest(queries, 1, candidates=candidates)
        hits.append(float((rows[:, 0] == truth).mean()))
    assert hits[1] > hits[0] + 0.05, hits


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_vectors_of_any_length_are_compared_by_cosine(tmp_path: Path, precision: str) -> None:
    vectors = drawn(200, scaled=False) * np.random.default_rng(3).uniform(0.1, 9, (200, 1)).astype(np.float32)
    folder = stored(tmp_path, vectors, precision=precision)
    scores, _ = folder.nearest(drawn(5, seed=1), 10, unit=True)
    values = unit_rows(folder.first.precision.restore(read_all(folder.first)[1]))
    np.testing.assert_allclose(scores, np.sort(drawn(5, seed=1) @ values.T, axis=1)[:, ::-1][:, :10], atol=1e-6)


def test_fewer_vectors_than_hits(tmp_path: Path) -> None:
    for precision in PRECISIONS:
        folder = stored(tmp_path / precision, drawn(3), precision=precision)
        scores, rows = folder.nearest(drawn(2, seed=1), 10)
        assert scores.shape == rows.shape == (2, 3)
        assert sorted(rows[0]) == [0, 1, 2]


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    stored(tmp_path, drawn(50), shards=4)
    for shard in (1, 3):
        (tmp_path / f"shard-{shard:05d}-of-00004" / "_manifest.json").unlink()
    with pytest.raises(EncodingError, match=r"lacks shards 1, 3 of 4; .*--partial"):
        VectorFolder.open(tmp_path)
    part = VectorFolder.open(tmp_path, partial=True)
    assert part.rows == 25
    assert sorted(part.corpus_row(row) for row in range(25)) == [row for row in range(50) if row % 2 == 0]
    with pytest.raises(EncodingError, match=r"lacks shards 0, 1, 3 of 4"):
        VectorFolder.open(tmp_path / "shard-00002-of-00004")


def test_an_open_store_says_how_many_rows_it_has(tmp_path: Path) -> None:
    stored(tmp_path, drawn(50))
    manifest = json.loads((tmp_path / "_manifest.json").read_text())
    (tmp_path / "_manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(EncodingError, match=r"not complete: 50 rows are there; .*--partial"):
        VectorFolder.open(tmp_path)
    assert VectorFolder.open(tmp_path, partial=True).rows == 50


def test_shards_of_other_things_are_refused(tmp_path: Path) -> None:
    stored(tmp_path, drawn(50), shards=2)
    kind = Precision(name="float32", dimension=DIM)
    other = Store(folder=tmp_path / "shard-00001-of-00002", identity={"encoder": 1, "settings": {}}, precision=kind)
    other.add(["a"], drawn(1)).finish()
    with pytest.raises(EncodingError, match="another encoder than"):
        VectorFolder.open(tmp_path)
    stored(tmp_path / "two", drawn(50), shards=2)
    (tmp_path / "two" / "shard-00000-of-00003").mkdir()
    with pytest.raises(EncodingError, match="shards of 2 and of 3"):
        VectorFolder.open(tmp_path / "two")
    with pytest.raises(EncodingError, match="holds no vectors"):
        VectorFolder.open(tmp_path / "nothing")


def test_queries_of_another_dimension(tmp_path: Path) -> None:
    folder = stored(tmp_path, drawn(5))
    with pytest.raises(EncodingError, match="queries of 3 dimensions, and the vectors have 32"):
        folder.nearest(np.zeros((1, 3), dtype=np.float32), 1)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    folder = stored(tmp_path, drawn(50))
    (tmp_path / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(EncodingError, match=r"part-00001.parquet: cannot be read"):
        folder.nearest(drawn(1), 1)


def test_memory_does_not_grow_with_the_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored(tmp_path, drawn(900), part=400)
    monkeypatch.setattr("prune2vec.encoding.vector_folder._NUMBERS", 100 * DIM)
    held: list[int] = []
    restore = Precision.restore
    monkeypatch.setattr(Precision, "restore", lambda self, codes: (held.append(len(codes)), restore(self, codes))[1])
    folder.nearest(drawn(3), 5)
    assert sum(held) == 900
    assert max(held) == 100

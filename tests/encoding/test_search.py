"""From text to text: a query finds what sentence-transformers would find, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune2vec.encoding.encode import encode_corpus
from prune2vec.encoding.search import read_queries, search_vectors
from prune2vec.errors import ConfigError, DataError, EncodingError
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from tests.cli.conftest import Cli, cli
from tests.encoding.test_engine import routed, texts
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny
from tests.training.encoders import save_tiny_encoder

TEXTS = texts(80)[3:]
QUERIES = ["the lazy dog", "birds sing of spring in the morning"]
_ = cli


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoder")
    model = save_tiny(root / "m", bos=True)
    return prune_model(str(model), plan_for(model, [0, 2]), root / "out", max_length=64, instruction="find")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text(
        "\n".join(json.dumps({"id": row if row % 5 else f"id-{row}", "text": text}) for row, text in enumerate(TEXTS))
    )
    return path


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, encoder: Path, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    for shard in range(2):
        encode_corpus(encoder, corpus, folder, shard=f"{shard}/2", part_rows=10, dtype="float32", device="cpu")
    return folder


def reference(encoder: Path, queries: list[str], **options: Any) -> np.ndarray[Any, Any]:
    stock = load_encoder(encoder, device="cpu", dtype="float32")
    return stock.encode_query(queries, **options) @ stock.encode_document(TEXTS, **options).T


def test_hits_are_those_of_sentence_transformers(encoder: Path, corpus: Path, vectors: Path) -> None:
    found = search_vectors(vectors, QUERIES, k=5, corpus=corpus, dtype="float32", device="cpu")
    scores = reference(encoder, QUERIES)
    assert found.rows == len(TEXTS)
    for query, hits in enumerate(found.hits):
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores[query])[::-1][:5], atol=1e-5)
        for hit in hits:
            assert scores[query, hit.row] == pytest.approx(hit.score, abs=1e-5)
            assert hit.id == (str(hit.row) if hit.row % 5 else f"id-{hit.row}")
            assert hit.text == TEXTS[hit.row]


@pytest.mark.parametrize(
    "settings", [{"dimensions": 8}, {"precision": "int8"}, {"precision": "binary"}, {"precision": "float16"}]
)
def test_other_ways_of_storing(tmp_path: Path, encoder: Path, corpus: Path, settings: dict[str, Any]) -> None:
    encode_corpus(encoder, corpus, tmp_path / "v", **settings, dtype="float32", device="cpu")
    found = search_vectors(tmp_path / "v", QUERIES, k=3, dtype="float32", device="cpu", candidates=80)
    options = {"truncate_dim": 8, "normalize_embeddings": True} if "dimensions" in settings else {}
    scores = reference(encoder, QUERIES, **options)
    for query, hits in enumerate(found.hits):
        near = np.sort(scores[query])[::-1][:3]
        if settings.get("precision") == "binary":
            assert scores[query, hits[0].row] > np.quantile(scores[query], 0.8)
        else:
            np.testing.assert_allclose([hit.score for hit in hits], near, atol=0.02 if "precision" in settings else 1e-5)


def test_the_command(cli: Cli, tmp_path: Path, corpus: Path, vectors: Path) -> None:
    (tmp_path / "q.txt").write_text("\n".join(["birds", "", "dogs"]))
    ran = cli("search", vectors, QUERIES[0], "--queries", "q.txt", "-k", "2", "--corpus", corpus, "--json")
    assert ran.code == 0, ran.err
    assert [result["query"] for result in ran.data["results"]] == [QUERIES[0], "birds", "dogs"]
    assert all(hit["text"] == TEXTS[hit["row"]] for result in ran.data["results"] for hit in result["hits"])
    best = ran.data["results"][0]["hits"][0]
    shown = cli("search", vectors, QUERIES[0], "-k", "2").out.splitlines()
    assert shown[0] == QUERIES[0]
    assert shown[1].split() == ["1", f"{best['score']:.4f}", best["id"]]
    assert cli("search", vectors).code == 2


def test_a_moved_encoder_is_named(tmp_path: Path, encoder: Path, corpus: Path) -> None:
    shutil.copytree(encoder, tmp_path / "here")
    encode_corpus(tmp_path / "here", corpus, tmp_path / "v", dtype="float32", device="cpu")
    shutil.move(tmp_path / "here", tmp_path / "there")
    with pytest.raises(
        EncodingError,
        match=r"it is no longer there\); name the one that made it, .* with --encoder",
    ):
        search_vectors(tmp_path / "v", "a")
    found = search_vectors(tmp_path / "v", "a", k=1, encoder=tmp_path / "there", device="cpu", dtype="float32")
    assert len(found.hits[0]) == 1
    # Encoded again by the encoder where it is now, nothing is computed, and it is known.
    assert encode_corpus(tmp_path / "there", corpus, tmp_path / "v", dtype="float32", device="cpu").encoded == 0
    assert search_vectors(tmp_path / "v", "a", k=1, device="cpu", dtype="float32").hits == found.hits
    shutil.move(tmp_path / "there", tmp_path / "here")
    encode_corpus(tmp_path / "here", corpus, tmp_path / "v", dtype="float32", device="cpu")
    (tmp_path / "here" / "README.md").write_text("retrained")
    with pytest.raises(EncodingError, match=r"made with another encoder than .*here is now \(its files differ\)"):
        search_vectors(tmp_path / "v", "a")


def test_another_encoder_of_the_same_dimensions_searches_when_it_is_named(
    tmp_path: Path, encoder: Path, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = save_tiny_encoder(tmp_path / "small", seed=5, layers=1)
    found = search_vectors(vectors, QUERIES, k=3, encoder=small, device="cpu", dtype="float32")
    assert f"queries by {small}, texts by {encoder}" in capsys.readouterr().err
    ours, theirs = (load_encoder(folder, device="cpu", dtype="float32") for folder in (small, encoder))
    scores = ours.encode_query(QUERIES) @ theirs.encode_document(TEXTS).T
    for hits, row in zip(found.hits, scores, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(np.sort(row)[::-1][:3].tolist(), abs=1e-5)
    wide = save_tiny_encoder(tmp_path / "wide", hidden_size=48)
    with pytest.raises(EncodingError, match=r"wide makes 48 dimensions, and .* has 32; queries and texts must be in one space"):
        search_vectors(vectors, "a", encoder=wide, device="cpu", dtype="float32")


def test_another_corpus_is_refused(tmp_path: Path, vectors: Path, corpus: Path) -> None:
    rows = corpus.read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join(rows[1:]))
    with pytest.raises(EncodingError, match=r"is not what .* was made from: row"):
        search_vectors(vectors, QUERIES, corpus=tmp_path / "other.jsonl", device="cpu")
    (tmp_path / "short.jsonl").write_text(rows[0])
    with pytest.raises(EncodingError, match="it ends before row"):
        search_vectors(vectors, QUERIES, corpus=tmp_path / "short.jsonl", device="cpu")


@pytest.mark.parametrize("shards", [1, 3])
def test_other_texts_under_the_same_row_numbers_are_refused(tmp_path: Path, encoder: Path, shards: int) -> None:
    mine, other = tmp_path / "mine.txt", tmp_path / "other.txt"
    lines = [" ".join(text.split()) for text in TEXTS]
    mine.write_text("\n".join(lines))
    for shard in range(shards):
        encode_corpus(encoder, mine, tmp_path / "v", shard=f"{shard}/{shards}", part_rows=10, dtype="float32", device="cpu")
    options: dict[str, Any] = {"k": 1, "dtype": "float32", "device": "cpu"}
    hit = search_vectors(tmp_path / "v", QUERIES[0], corpus=mine, **options).hits[0][0]
    assert hit.text == lines[hit.row]
    part = range(hit.row % shards + hit.row // shards // 10 * 10 * shards, len(lines), shards)[:10]
    for changed in (hit.row, part[0], part[-1]):
        other.write_text("\n".join([*lines[:changed], f"{lines[changed]} not", *lines[changed + 1 :]]))
        with pytest.raises(EncodingError, match=rf"rows {part[0] + 1} to {part[-1] + 1}.* hold other texts or ids"):
            search_vectors(tmp_path / "v", QUERIES[0], corpus=other, **options)
    # A part without hits is not in question, and texts that came later are not either.
    elsewhere = next(row for row in range(len(lines)) if row not in part)
    other.write_text("\n".join([*lines[:elsewhere], "else", *lines[elsewhere + 1 :], "later"]))
    assert search_vectors(tmp_path / "v", QUERIES[0], corpus=other, **options).hits[0][0].text == hit.text
    other.write_text("\n".join(lines[: part[-1]]))
    with pytest.raises(EncodingError, match=f"it ends before row {part[-1] + 1}"):
        search_vectors(tmp_path / "v", QUERIES[0], corpus=other, **options)


def test_measures_other_than_cosine_and_dot(tmp_path: Path, vectors: Path) -> None:
    def compared_by(measure: str, *, normalised: bool) -> Path:
        folder = tmp_path / f"{measure}-{normalised}"
        shutil.copytree(vectors, folder)
        for path in folder.glob("*/_manifest.json"):
            manifest = json.loads(path.read_text())
            manifest["made_by"] |= {"similarity": measure, "normalised": normalised}
            path.write_text(json.dumps(manifest))
        return folder

    options: dict[str, Any] = {"k": 3, "dtype": "float32", "device": "cpu"}
    by_cosine = search_vectors(vectors, QUERIES, **options)
    assert search_vectors(compared_by("euclidean", normalised=True), QUERIES, **options) == by_cosine
    for measure, normalised in (("euclidean", False), ("manhattan", True), ("manhattan", False)):
        with pytest.raises(EncodingError, match=f"by {measure}, and search by cosine or dot only"):
            search_vectors(compared_by(measure, normalised=normalised), QUERIES, **options)


def test_an_encoder_with_modules_of_its_own_for_queries_is_refused(
    vectors: Path, monkeypatch: pytest.MonkeyPatch, encoder: Path
) -> None:
    monkeypatch.setattr("prune2vec.encoding.search.load_to_encode", lambda *args, **options: routed(load_encoder(encoder)))
    with pytest.raises(EncodingError, match="computes queries otherwise than documents"):
        search_vectors(vectors, "a")


def test_nothing_to_search_for(vectors: Path) -> None:
    for queries, k in (([], 10), (["a"], 0)):
        with pytest.raises(ConfigError, match="expected at least one of each"):
            search_vectors(vectors, queries, k=k)


@pytest.mark.parametrize(
    ("queries", "said"),
    [
        ("caf\udce9", r"the query .* is no text; expected a string that UTF-8 can spell"),
        (iter(["a", 1]), r"the query 1 is no text; expected a string that UTF-8 can spell"),
        (["a", None], "search: queries: expected a text, got None"),
        (7, "search: queries: expected a text, got int"),
        (None, "search: queries: expected a text, got None"),
    ],
)
def test_a_query_that_is_no_text_is_one_line(vectors: Path, queries: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}$"):
        search_vectors(vectors, queries)
    with pytest.raises(ConfigError, match=r"^search: k: expected a whole number, got str$"):
        search_vectors(vectors, "a", k="2")  # type: ignore[arg-type]


def test_queries_come_in_any_row_of_texts(vectors: Path) -> None:
    hits = search_vectors(vectors, ["a", "b"], k=2).hits
    assert search_vectors(vectors, np.array(["a", "b"]), k=np.int64(2)).hits == hits  # type: ignore[arg-type]
    assert search_vectors(vectors, iter(["a", "b"]), k=2).hits == hits  # type: ignore[arg-type]


def test_blank_queries_of_a_file_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.jsonl").write_text('{"text": "birds"}\n{"text": " "}\n{"text": ""}\n')
    assert read_queries(tmp_path / "q.jsonl") == ["birds"]
    assert "2 blank queries are left out" in capsys.readouterr().err
    (tmp_path / "q.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(DataError, match=r"q\.jsonl holds no query: 1 rows, all blank"):
        read_queries(tmp_path / "q.jsonl")


def test_the_title_of_a_query_is_not_searched_for(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"title": "a page", "text": "birds"}\n{"title": "empty", "text": ""}\n')
    assert read_queries(tmp_path / "q.jsonl") == ["birds"]

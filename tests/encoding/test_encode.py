"""A corpus becomes Parquet parts: in order, each row once, whatever is killed; shards add up; numbers are stored as asked."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sentence_transformers.sentence_transformer.modules import Normalize

from prune2vec.encoding.encode import encode_corpus
from prune2vec.encoding.engine import Engine, set_limit
from prune2vec.encoding.store import Store
from prune2vec.errors import CheckpointError, ConfigError, DataError, EncodingError
from prune2vec.evaluation.evaluate import evaluate_encoder
from prune2vec.exporting.export import export_encoder
from prune2vec.pruning.encoder import load_encoder
from tests.cli.conftest import Cli, cli
from tests.encoding.conftest import ROWS, read_all
from tests.encoding.test_engine import texts

_ = cli


@pytest.fixture(scope="module")
def vectors(folder: Path) -> np.ndarray:
    return load_encoder(folder, device="cpu", dtype="float32").encode(texts(ROWS), prompt_name="document")


def test_rows_come_out_in_order_with_their_ids(tmp_path: Path, folder: Path, corpus: Path, vectors: np.ndarray) -> None:
    result = encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    ids, found = read_all(Store.load(tmp_path / "v"))
    assert (result.rows, result.encoded, result.parts) == (ROWS, ROWS, 6)
    assert ids == [f"d{row}" for row in range(ROWS)]
    np.testing.assert_allclose(found, vectors, atol=1e-5, rtol=0)
    schema = pyarrow.parquet.read_schema(tmp_path / "v" / "part-00000.parquet")
    assert schema.field("vector").type == pyarrow.list_(pyarrow.float32(), 32)


def test_an_output_inside_the_encoder_is_refused(cli: Cli, folder: Path, corpus: Path) -> None:
    # Its files count where it is asked whether vectors are of this encoder.
    before = sorted(folder.rglob("*"))
    for output in (folder / "vectors", folder / "0_Transformer" / ".." / "deep" / "vectors"):
        with pytest.raises(ConfigError, match=r"vectors is inside .*, and would be a change of it; name another output"):
            encode_corpus(folder, corpus, output)
    with pytest.raises(ConfigError, match="would be a change of it"):
        evaluate_encoder(folder, data=corpus, output=folder / "results.json")
    with pytest.raises(ConfigError, match="would be a change of it"):
        export_encoder(folder, target="onnx", output=folder / "onnx")
    for line in ("encode {} {} -o {}/vectors", "evaluate {} --data {} -o {}/results.json", "train {} --data {} -o {}/out"):
        assert "would be a change of it" in cli(*line.format(folder, corpus, folder).split(), "--dry-run").err, line
    assert (
        "would be a change of it" in cli("export", str(folder), "--target", "onnx", "-o", str(folder / "onnx"), "--dry-run").err
    )
    assert sorted(folder.rglob("*")) == before


def test_numbers_outside_the_ranges_of_int8_are_told(
    tmp_path: Path, folder: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode_corpus(folder, corpus, tmp_path / "all", precision="int8")
    assert "outside the ranges" not in capsys.readouterr().err
    encode_corpus(folder, corpus, tmp_path / "two", precision="int8", calibration=2)
    said = capsys.readouterr().err
    share = float(re.search(r"two: ([\d.]+)% of the numbers lie outside the ranges", said)[1])  # type: ignore[index]
    vectors = read_all(Store.load(encode_corpus(folder, corpus, tmp_path / "exact", dtype="float32").folder))[1]
    low, high = vectors[:2].min(axis=0), vectors[:2].max(axis=0)
    assert share == pytest.approx(100 * np.mean((vectors < low) | (vectors > high)), abs=3)


@pytest.mark.parametrize("kind", ["txt", "jsonl.gz", "parquet", "csv"])
def test_every_format(tmp_path: Path, folder: Path, kind: str) -> None:
    some = [text.replace("\n", " ") for text in texts(9)[2:]]
    path = tmp_path / f"corpus.{kind}"
    if kind == "txt":
        path.write_text("\n".join(some))
    elif kind == "jsonl.gz":
        path.write_bytes(
            gzip.compress("\n".join(json.dumps({"id": row, "text": text}) for row, text in enumerate(some)).encode())
        )
    elif kind == "csv":
        path.write_text("id,text\n" + "".join(f'{row},"{text}"\n' for row, text in enumerate(some)))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"id": range(len(some)), "text": some}), path)
    encode_corpus(folder, path, tmp_path / "v", dtype="float32")
    ids, found = read_all(Store.load(tmp_path / "v"))
    assert ids == [str(row) for row in range(len(some))]
    expected = load_encoder(folder, device="cpu", dtype="float32").encode(some, prompt_name="document")
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_titles_stand_before_texts(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"_id": "1", "title": "fox", "text": "jumps"}))
    encode_corpus(folder, tmp_path / "c.jsonl", tmp_path / "v", dtype="float32")
    expected = load_encoder(folder, device="cpu", dtype="float32").encode(["fox jumps"])
    np.testing.assert_allclose(read_all(Store.load(tmp_path / "v"))[1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_an_interrupted_run_repeats_and_loses_nothing(
    tmp_path: Path, folder: Path, corpus: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    encoded: list[int] = []
    encode_rows = Engine.encode_rows

    def counted(self: Engine, rows: list[list[int]], **kwargs: object) -> np.ndarray:
        if len(encoded) == fails_at:
            raise KeyboardInterrupt
        encoded.append(len(rows))
        return encode_rows(self, rows, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Engine, "encode_rows", counted)
        encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    result = encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    assert result.encoded == ROWS - sum(encoded)
    ids, found = read_all(Store.load(tmp_path / "v"))
    assert ids == [f"d{row}" for row in range(ROWS)]
    np.testing.assert_allclose(found, vectors, atol=1e-5, rtol=0)
    assert encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32").encoded == 0


def test_a_part_without_its_entry_is_written_again(tmp_path: Path, folder: Path, corpus: Path) -> None:
    encode_corpus(folder, corpus, tmp_path / "v", part_rows=20, dtype="float32")
    whole = Store.load(tmp_path / "v")
    manifest = json.loads((tmp_path / "v" / "_manifest.json").read_text())
    manifest.update(parts=manifest["parts"][:1], complete=False)
    (tmp_path / "v" / "_manifest.json").write_text(json.dumps(manifest))
    assert encode_corpus(folder, corpus, tmp_path / "v", part_rows=20, dtype="float32").encoded == ROWS - 20
    assert Store.load(tmp_path / "v").parts == whole.parts


def test_shards_hold_every_row_once(tmp_path: Path, folder: Path, corpus: Path) -> None:
    for shard in range(3):
        encode_corpus(folder, corpus, tmp_path / "v", shard=f"{shard}/3", part_rows=8, dtype="float32")
    ids = [name for store in sorted((tmp_path / "v").iterdir()) for name in read_all(Store.load(store))[0]]
    assert sorted(ids) == sorted(f"d{row}" for row in range(ROWS))


@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
def test_smaller_numbers(tmp_path: Path, folder: Path, corpus: Path, vectors: np.ndarray, precision: str) -> None:
    encode_corpus(folder, corpus, tmp_path / "v", precision=precision, part_rows=10, dtype="float32")
    store = Store.load(tmp_path / "v")
    found = read_all(store)[1]
    if precision == "float16":
        np.testing.assert_allclose(found, vectors, atol=1e-3)
    elif precision == "int8":
        low, high = store.precision.ranges
        back = (found.astype(np.float32) + 128) / 255 * (high - low) + low
        # Every value is on its nearest step.
        assert (np.abs(back - vectors) <= 0.51 * (high - low) / 255 + 1e-6).all()
    else:
        assert found.shape == (ROWS, 4)
        np.testing.assert_array_equal(np.unpackbits(found, axis=1), vectors > 0)


def test_vectors_of_something_else_are_left_alone(tmp_path: Path, folder: Path, corpus: Path) -> None:
    encode_corpus(folder, corpus, tmp_path / "v", dtype="float32")
    with pytest.raises(EncodingError, match=r"made otherwise \(precision float32, now float16\);"):
        encode_corpus(folder, corpus, tmp_path / "v", precision="float16", dtype="float32")
    with pytest.raises(EncodingError, match=r"dtype float32, now bfloat16; max_length None, now 8"):
        encode_corpus(folder, corpus, tmp_path / "v", max_length=8, dtype="bfloat16")


@pytest.mark.parametrize("beside", [None, ".part-00000.parquet.partial-1", "part-00000.parquet"])
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, folder: Path, corpus: Path, beside: str | None) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("years of work")
    if beside is not None:
        (tmp_path / "full" / beside).write_text("")
    before = sorted((tmp_path / "full").iterdir())
    with pytest.raises(EncodingError, match="is not empty and holds no vectors"):
        encode_corpus(folder, corpus, tmp_path / "full", dtype="float32")
    (tmp_path / "full" / "thesis.doc").unlink()
    # Another program's part is no leaving of ours.
    if beside == "part-00000.parquet":
        with pytest.raises(EncodingError, match="is not empty and holds no vectors"):
            encode_corpus(folder, corpus, tmp_path / "full", dtype="float32")
    assert sorted((tmp_path / "full").iterdir()) == [path for path in before if path.name != "thesis.doc"]


def test_killed_before_its_first_entry(tmp_path: Path, folder: Path, corpus: Path, vectors: np.ndarray) -> None:
    encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    store = Store.load(tmp_path / "v")
    replace(store, parts=(), complete=False).save()
    for part in store.parts[1:]:
        (tmp_path / "v" / part["file"]).unlink()
    for name in ("._manifest.json.partial-1", ".part-00001.parquet.partial-1"):
        (tmp_path / "v" / name).write_text("half")
    (tmp_path / ".v.lock").write_text("1\n")
    result = encode_corpus(folder, corpus, tmp_path / "v", part_rows=20, dtype="float32")
    np.testing.assert_allclose(read_all(Store.load(tmp_path / "v"))[1], vectors, atol=1e-5, rtol=0)
    assert result.encoded == ROWS
    names = {"_manifest.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"}
    assert {path.name for path in (tmp_path / "v").iterdir()} == names
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("parts", [0, 2])
def test_a_failed_encoding_leaves_what_the_next_call_goes_on_from(
    tmp_path: Path, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """A disk that is full in the middle of a part, and an interruption."""
    move = Path.replace

    def full(partial: Path, target: Path) -> Path:
        if target.name >= f"part-{parts:05d}":
            raise error
        return move(partial, target)

    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):
        with monkeypatch.context() as patched, pytest.raises((CheckpointError, KeyboardInterrupt)) as caught:
            patched.setattr(Path, "replace", full)
            encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
        if isinstance(error, OSError):
            assert "No space left on device; free some space" in str(caught.value)
            assert getattr(caught.value, "__notes__", []) == [
                f"{tmp_path / 'v'} keeps {parts} parts, after which the same command resumes"
            ] * (parts > 0)
        left = ["_manifest.json", *(f"part-{number:05d}.parquet" for number in range(parts))] if parts else []
        assert sorted(str(path.relative_to(tmp_path / "v")) for path in tmp_path.glob("v/*")) == left
    assert sorted(os.listdir(tmp_path)) == ["corpus.jsonl", *["v"] * (parts > 0)]
    assert encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32").encoded == ROWS - 10 * parts


@pytest.mark.parametrize("limit", [16, 128])
def test_max_length_is_the_limit_whatever_the_encoder_s_own_is(tmp_path: Path, folder: Path, limit: int) -> None:
    corpus = tmp_path / "long.txt"
    corpus.write_text(
        "\n".join(" ".join(f"word{row} and {place}" for place in range(60)) for row in range(4)), encoding="utf-8"
    )
    encode_corpus(folder, corpus, tmp_path / "v", dtype="float32", max_length=limit)
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    encoder.max_seq_length = limit
    expected = encoder.encode_document(corpus.read_text(encoding="utf-8").splitlines())
    np.testing.assert_allclose(read_all(Store.load(tmp_path / "v"))[1], expected, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"max_length is 4000, and the model has \d+ positions"):
        encode_corpus(folder, corpus, tmp_path / "w", dtype="float32", max_length=4000)
    encoder.max_seq_length = 5000
    set_limit(encoder, 4000)  # Fewer than it reads by itself, whatever its config says.
    assert encoder.max_seq_length == 4000
    encoder.transformers_model.config.rope_parameters = {"rope_type": "linear", "factor": 40.0, "rope_theta": 1e4}
    set_limit(encoder, 4500)
    encoder.max_seq_length = None
    set_limit(encoder, 8000)


def test_an_empty_folder_stays_where_its_encoding_fails(
    tmp_path: Path, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "v").mkdir()

    def broken(self: Engine, rows: list[list[int]], **_: object) -> np.ndarray:
        raise EncodingError("no vectors")

    monkeypatch.setattr(Engine, "encode_rows", broken)
    with pytest.raises(EncodingError, match="no vectors"):
        encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    assert not list((tmp_path / "v").iterdir())


def test_two_writers_of_one_folder(tmp_path: Path, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_rows = Engine.encode_rows
    refused: list[str] = []

    def second(self: Engine, rows: list[list[int]], **kwargs: object) -> np.ndarray:
        monkeypatch.setattr(Engine, "encode_rows", encode_rows)
        with pytest.raises(ConfigError, match="is in use by another run") as caught:
            encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
        refused.append(str(caught.value))
        return encode_rows(self, rows, **kwargs)

    monkeypatch.setattr(Engine, "encode_rows", second)
    assert encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32").encoded == ROWS
    assert len(refused) == 1


def test_what_does_not_change_vectors_may_change_between_runs(tmp_path: Path, folder: Path, corpus: Path) -> None:
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join(lines[:33]))
    encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32", calibration=50)
    corpus.write_text("\n".join(lines))
    again = encode_corpus(
        folder, corpus, tmp_path / "v", part_rows=5, dtype="auto", device="cpu", token_budget=64, calibration=9
    )
    assert (again.encoded, again.parts) == (ROWS - 33, 4 + 5)
    assert read_all(Store.load(tmp_path / "v"))[0] == [f"d{row}" for row in range(ROWS)]
    encode_corpus(folder, corpus, tmp_path / "w", precision="int8", calibration=50)
    with pytest.raises(EncodingError, match=r"calibration 50, now 9"):
        encode_corpus(folder, corpus, tmp_path / "w", precision="int8", calibration=9)


def test_another_number_of_shards(tmp_path: Path, folder: Path, corpus: Path) -> None:
    encode_corpus(folder, corpus, tmp_path / "v", shard="1/3", dtype="float32")
    for given in ({}, {"shard": "0/2"}):
        with pytest.raises(EncodingError, match=r"v holds 3 shards; give --ray 3 or --shard i/3, or another output"):
            encode_corpus(folder, corpus, tmp_path / "v", dtype="float32", **given)
    encode_corpus(folder, corpus, tmp_path / "w", dtype="float32")
    with pytest.raises(EncodingError, match=r"w holds vectors in one piece; leave --shard and --ray out"):
        encode_corpus(folder, corpus, tmp_path / "w", shard="0/2", dtype="float32")
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["shard-00001-of-00003"]


def test_a_complete_store_looks_again_at_a_corpus_of_the_same_size(
    tmp_path: Path, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the change were far behind what is looked at every time.
    monkeypatch.setattr("prune2vec.encoding.corpus.HEAD_BYTES", 10)
    encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    at = corpus.stat().st_mtime_ns
    text = corpus.read_text()
    os.utime(corpus, ns=(at, at + 10**9))
    assert encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32").encoded == 0
    assert Store.load(tmp_path / "v").made_by["corpus_mtime_ns"] == at + 10**9
    corpus.write_text(text.replace('"d30"', '"e30"'))
    os.utime(corpus, ns=(at, at + 2 * 10**9))
    with pytest.raises(EncodingError, match="another corpus: its texts 31 to 40 have changed"):
        encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")


@pytest.mark.parametrize(("truncated", "dimensions", "unit"), [(None, None, True), (16, None, False), (16, 8, True)])
def test_whether_vectors_have_length_1(
    tmp_path: Path, folder: Path, corpus: Path, truncated: int | None, dimensions: int | None, unit: bool
) -> None:
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    encoder.append(Normalize())
    encoder.truncate_dim = truncated
    encoder.save(str(tmp_path / "e"))
    encode_corpus(tmp_path / "e", corpus, tmp_path / "v", dimensions=dimensions, dtype="float32")
    store = Store.load(tmp_path / "v")
    lengths = np.linalg.norm(read_all(store)[1], axis=1)
    assert store.made_by["normalised"] is unit
    assert np.allclose(lengths, 1, atol=1e-5) is unit


def test_a_corpus_that_has_grown_is_encoded_from_its_old_end(
    tmp_path: Path, folder: Path, corpus: Path, vectors: np.ndarray
) -> None:
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join(lines[:33]))
    encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    corpus.write_text("\n".join(lines))
    result = encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    assert (result.rows, result.encoded) == (ROWS, ROWS - 33)
    ids, found = read_all(Store.load(tmp_path / "v"))
    assert ids == [f"d{row}" for row in range(ROWS)]
    np.testing.assert_allclose(found, vectors, atol=1e-5, rtol=0)


def test_a_bad_last_row_that_is_mended_costs_its_part_alone(tmp_path: Path, folder: Path, corpus: Path) -> None:
    good = corpus.read_text()
    corpus.write_text(good + "\n{")
    with pytest.raises(DataError, match=r"corpus.jsonl:58: not JSON"):
        encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    corpus.write_text(good)
    result = encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    assert (result.rows, result.encoded) == (ROWS, ROWS - 50)


@pytest.mark.parametrize("place", [0, 25, 56])
def test_a_corpus_with_another_text_is_another_corpus(tmp_path: Path, folder: Path, corpus: Path, place: int) -> None:
    encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    before = (tmp_path / "v" / "_manifest.json").read_text()
    lines = corpus.read_text().splitlines()
    for changed in ([*lines[:place], lines[place].replace('text": "', 'text": "new '), *lines[place + 1 :]], lines[:place]):
        corpus.write_text("\n".join(changed))
        with pytest.raises((EncodingError, DataError), match=r"another corpus: its texts \d+ to \d+ have changed|no rows"):
            encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    assert (tmp_path / "v" / "_manifest.json").read_text() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "", "c.txt: no rows"),
        ("c.txt", "\n \n", "c.txt: all 2 texts are blank; there is nothing to encode"),
        ("c.csv", "id,body\n", "c.csv: no rows, only the columns id, body"),
        ("c.csv", "id,text\n1,\n2, \n", "c.csv: all 2 texts in the column 'text' are blank"),
        ("c.jsonl", "\n", "c.jsonl: no rows"),
    ],
)
def test_a_corpus_without_texts_is_refused(tmp_path: Path, folder: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        encode_corpus(folder, tmp_path / name, tmp_path / "v", dtype="float32")
    assert not (tmp_path / "v").exists()


def test_a_document_that_comes_twice_is_encoded_once_in_all_shards(tmp_path: Path, folder: Path) -> None:
    rows = [{"_id": f"d{number % 5}", "text": f"text {number % 5}"} for number in range(8)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for shard in range(2):
        encode_corpus(folder, tmp_path / "c.jsonl", tmp_path / "v", shard=f"{shard}/2", dtype="float32")
    ids = [read_all(Store.load(path))[0] for path in sorted((tmp_path / "v").glob("shard-*"))]
    assert ids == [["d0", "d2", "d4"], ["d1", "d3"]]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"_id": "d0", "text": "other"}])))
    with pytest.raises(DataError, match=r"c\.jsonl:1 and .*c\.jsonl:9 have the same id 'd0' and other texts"):
        encode_corpus(folder, tmp_path / "c.jsonl", tmp_path / "w", dtype="float32")


def test_more_shards_than_rows(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "c.txt").write_text("a fox\na dog\n")
    rows = [encode_corpus(folder, tmp_path / "c.txt", tmp_path / "v", shard=f"{shard}/3").rows for shard in range(3)]
    assert rows == [1, 1, 0]


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_texts_without_tokens_and_the_same_text_twice(tmp_path: Path, folder: Path, precision: str) -> None:
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"id": text, "text": text[1:]}) for text in ("a", "b", "c", "fox")))
    encode_corpus(folder, tmp_path / "c.jsonl", tmp_path / "v", precision=precision, dtype="float32")
    ids, found = read_all(Store.load(tmp_path / "v"))
    assert ids == ["a", "b", "c", "fox"]
    assert (found[:3] == found[0]).all()
    back = Store.load(tmp_path / "v").precision.restore(found)
    expected = load_encoder(folder, device="cpu", dtype="float32").encode([""], prompt_name="document")
    np.testing.assert_allclose(back[0], np.sign(expected[0]) if precision == "binary" else expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "2"}', r"corpus.jsonl:58: no column 'text'"),
        ('{"_id": "2", "text": 3}', r"corpus.jsonl:58: text is int, expected a string"),
        ('{"_id": [2], "text": "a"}', r"corpus.jsonl:58: _id is list"),
        ("{", r"corpus.jsonl:58: not JSON"),
        ('{"_id": "2", "text": "ab\\ud83d"}', r"corpus.jsonl:58: text holds half a character .* at 2"),
        ('{"_id": "2", "title": "\\udc00", "text": "a"}', r"corpus.jsonl:58: title holds half a character .* at 0"),
        ('{"_id": "2\\ud83d", "text": "a"}', r"corpus.jsonl:58: _id holds half a character .* at 1"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path: Path, folder: Path, corpus: Path, line: str, message: str) -> None:
    corpus.write_text(f"{corpus.read_text()}\n{line}\n")
    with pytest.raises(DataError, match=message):
        encode_corpus(folder, corpus, tmp_path / "v", part_rows=20, dtype="float32")
    assert Store.load(tmp_path / "v").rows == 40


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"shard": "3/3"}, ConfigError, "numbered from 0 to 2"),
        ({"prompt": "quarry"}, EncodingError, "did you mean 'query'"),
        ({"dimensions": 64}, EncodingError, "the encoder has 32"),
        ({"precision": "binary", "dimensions": 12}, EncodingError, "multiple of 8"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, folder: Path, corpus: Path, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        encode_corpus(folder, corpus, tmp_path / "v", **settings)
    assert not (tmp_path / "v").exists()


def test_interrupted_before_the_manifest_names_the_first_part(
    tmp_path: Path, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Store.save

    def stopped(store: Store) -> None:
        if store.parts:
            raise KeyboardInterrupt
        save(store)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "save", stopped)
        encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")
    assert encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32").encoded == ROWS


def test_what_is_wrong_with_the_folder_does_not_hide_the_error(
    tmp_path: Path, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(engine: Engine, rows: object, **options: object) -> np.ndarray:
        (tmp_path / "v" / "_manifest.json").write_text("{")
        raise EncodingError("the first error")

    monkeypatch.setattr(Engine, "encode_rows", broken)
    with pytest.raises(EncodingError, match="the first error"):
        encode_corpus(folder, corpus, tmp_path / "v", part_rows=10, dtype="float32")

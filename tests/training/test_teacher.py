"""A teacher's vectors: each distinct text encoded once, kept, resumed to the same bytes; and vectors that exist."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from prune2vec.encoding.encode import encode_corpus
from prune2vec.encoding.engine import Engine
from prune2vec.encoding.store import Store
from prune2vec.errors import ConfigError, DataError
from prune2vec.training import teacher as teacher_module
from prune2vec.training.sources import check_sources
from prune2vec.training.teacher import TeacherPrompt, named_prompt, teacher_identity, teacher_vectors
from prune2vec.training.train_settings import TrainSettings
from tests.training.encoders import save_tiny_encoder

DOCUMENT, QUERY = TeacherPrompt("document"), TeacherPrompt("query")
TEXTS = [f"the {word} of row {number}" for number, word in enumerate(("fox", "dog", "bird", "file", "line") * 9)]
WANTED = {DOCUMENT: dict.fromkeys(TEXTS, "")}


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of another width than the student, with prompts."""
    folder = save_tiny_encoder(tmp_path_factory.mktemp("big") / "big", seed=3, layers=3, hidden_size=48)
    file = folder / "config_sentence_transformers.json"
    prompts = {"query": "find:\n", "document": "", "STS": "sts:\n"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "prompts": prompts}))
    return folder


def learnt(big: Path | None, **settings: Any) -> TrainSettings:
    return TrainSettings(teacher=big, dtype="float32", device="cpu", **settings)


def count_rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list to which every row that an engine computes is added."""
    rows: list[tuple[int, ...]] = []
    encode = Engine.encode_rows

    def counted(self: Engine, found: Any, *args: Any, **kwargs: Any) -> Any:
        rows.extend(map(tuple, found))
        return encode(self, found, *args, **kwargs)

    monkeypatch.setattr(Engine, "encode_rows", counted)
    return rows


def test_each_distinct_text_is_encoded_once_whatever_learns_from_it(
    big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = count_rows(monkeypatch)
    first = teacher_vectors(WANTED, learnt(big), output=tmp_path / "one", dtype="float32")
    assert len(rows) == len(set(rows)) == len(TEXTS)
    kept = str(tmp_path / "one.teacher")
    monkeypatch.setattr(teacher_module, "load_encoder", None)  # It is not even loaded.
    again = teacher_vectors(WANTED, learnt(big, teacher_vectors=kept), output=tmp_path / "two", dtype="float32")
    assert len(rows) == len(TEXTS)
    assert np.array_equal(first.vectors, again.vectors)
    expected = SentenceTransformer(str(big), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(first.vectors[[first.rows[DOCUMENT][text] for text in TEXTS]], expected, atol=1e-5)


def test_a_killed_pass_resumes_to_the_same_bytes(big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_module, "_PART_ROWS", 10)

    def files(output: str) -> dict[str, bytes]:
        found = (tmp_path / f"{output}.teacher").rglob("*.*")
        return {path.name: path.read_bytes() for path in found if path.suffix in (".parquet", ".gz")}

    teacher_vectors(WANTED, learnt(big), output=tmp_path / "whole", dtype="float32")
    assert len(files("whole")) == 1 + 5
    rows = count_rows(monkeypatch)
    add = Store.add

    def die_in_the_third(self: Store, *args: Any, **kwargs: Any) -> Store:
        if len(self.parts) == 2:
            raise KeyboardInterrupt
        return add(self, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "add", die_in_the_third)
        teacher_vectors(WANTED, learnt(big), output=tmp_path / "cut", dtype="float32")
    assert len(files("cut")) == 1 + 2
    rows.clear()
    teacher_vectors(WANTED, learnt(big), output=tmp_path / "cut", dtype="float32")
    assert len(rows) == len(TEXTS) - 20, "finished parts are not encoded again"
    assert files("cut") == files("whole")


def test_runs_at_once_encode_each_text_once(big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = count_rows(monkeypatch)
    settings = learnt(big, teacher_vectors=str(tmp_path / "shared"))
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(teacher_vectors, WANTED, settings, output=tmp_path / name, dtype="float32") for name in "abc"]
    first, *others = (run.result().vectors for run in runs)
    assert len(rows) == len(TEXTS)
    assert all(np.array_equal(first, other) for other in others)


def test_prompts_are_the_teachers_own_or_given_words(big: Path, tmp_path: Path) -> None:
    given = TeacherPrompt("query", "say: ")
    wanted = {prompt: dict.fromkeys(TEXTS[:5], "") for prompt in (DOCUMENT, QUERY, TeacherPrompt("STS"), given)}
    found = teacher_vectors(wanted, learnt(big), output=tmp_path / "out", dtype="float32")
    encoder = SentenceTransformer(str(big), device="cpu")
    for prompt, words in zip(wanted, ("", "find:\n", "sts:\n", "say: "), strict=True):
        rows = [found.rows[prompt][text] for text in TEXTS[:5]]
        np.testing.assert_allclose(found.vectors[rows], encoder.encode(TEXTS[:5], prompt=words), atol=1e-5)
    with pytest.raises(ConfigError, match="the teacher has no prompt 'STs'; did you mean 'STS'"):
        teacher_vectors({TeacherPrompt("STs"): {"a": ""}}, learnt(big), output=tmp_path / "out", dtype="float32")


def test_every_encoder_has_a_query_and_a_document_prompt(big: Path, small: Path) -> None:
    encoders = [SentenceTransformer(str(folder), device="cpu") for folder in (big, small)]
    found = [[named_prompt(one, name, whose="it") for name in ("query", "document", "none")] for one in encoders]
    assert found == [["find:\n", "", ""], ["", "", ""]]


def test_what_is_missing_is_encoded_beside_the_rest(big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = count_rows(monkeypatch)

    def learn(texts: list[str], **settings: Any) -> NDArray[np.float32]:
        rows.clear()
        wanted = {DOCUMENT: dict.fromkeys(texts, "")}
        return teacher_vectors(wanted, learnt(big, **settings), output=tmp_path / "out", dtype="float32").vectors

    first, again, more, back = (learn(texts) for texts in (TEXTS[:9], TEXTS[2:7], TEXTS, TEXTS[::-1]))
    assert np.array_equal(again, first[2:7]) and np.array_equal(more[:9], first) and np.array_equal(back, more[::-1])
    learn(TEXTS[:12])
    assert not rows
    learn([*TEXTS[:3], "another", *TEXTS[3:]])
    assert len(rows) == 1
    learn(TEXTS[:9], max_length=8)
    assert len(rows) == 9, "other limits give other vectors"
    # Without the teacher all of them are found.
    expected = SentenceTransformer(str(big), device="cpu").encode([*TEXTS, "another"])
    kept = max((tmp_path / "out.teacher").glob("document-*"), key=lambda place: len(list(place.iterdir())))
    np.testing.assert_allclose(existing(kept, {DOCUMENT: dict.fromkeys([*TEXTS, "another"], "")}), expected, atol=1e-5)


def made(count: int = len(TEXTS), dimension: int = 6) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)


def write(path: Path, vectors: NDArray[np.float32], **keys: list[str] | list[int]) -> Path:
    table = pyarrow.table({**keys, "vector": pyarrow.array(list(vectors))})
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def existing(source: Path, wanted: Any = None, texts: Any = ()) -> NDArray[np.float32]:
    settings = TrainSettings(teacher_vectors=source)
    check_sources(None, list(texts), settings)
    return teacher_vectors(wanted or WANTED, settings, output=source.parent / "out", texts=texts).vectors


def test_vectors_from_anywhere_by_text(tmp_path: Path) -> None:
    vectors = made()
    order = np.random.default_rng(1).permutation(len(TEXTS))
    shuffled = [TEXTS[place] for place in order]
    file = write(tmp_path / "parquet" / "a.parquet", vectors[order], text=shuffled)
    assert np.array_equal(existing(file), vectors)
    assert np.array_equal(existing(file.parent), vectors)
    lines = tmp_path / "a.jsonl"
    rows = [{"text": text, "embedding": row.tolist()} for text, row in zip(TEXTS, vectors, strict=True)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.testing.assert_array_equal(existing(lines), vectors)


def test_vectors_from_anywhere_by_id(tmp_path: Path) -> None:
    vectors, wanted = made(), {DOCUMENT: {text: f"id-{place}" for place, text in enumerate(TEXTS)}}
    ids = [f"id-{place}" for place in range(len(TEXTS))]
    assert np.array_equal(existing(write(tmp_path / "a.parquet", vectors[::-1], id=ids[::-1]), wanted), vectors)
    numbered = {DOCUMENT: {text: str(place) for place, text in enumerate(TEXTS)}}
    assert np.array_equal(existing(write(tmp_path / "b.parquet", vectors, _id=list(range(len(TEXTS)))), numbered), vectors)


def test_one_id_of_two_texts_is_refused(tmp_path: Path) -> None:
    half = len(TEXTS) // 2
    wanted = {DOCUMENT: {text: str(place % half) for place, text in enumerate(TEXTS[: 2 * half])}}
    vectors = write(tmp_path / "a.parquet", made(2 * half), id=list(range(2 * half)))
    with pytest.raises(
        DataError, match=r"has vectors by id, and of the 44 distinct texts several have one id, as lines of two files"
    ):
        existing(vectors, wanted)


def test_vectors_that_encode_made_of_the_texts(big: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, TEXTS[0], ""]))
    result = encode_corpus(big, corpus, tmp_path / "vectors", dtype="float32", device="cpu", part_rows=7)
    assert result.rows == len(TEXTS) + 2
    expected = SentenceTransformer(str(big), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(existing(tmp_path / "vectors", texts=[corpus]), expected, atol=1e-5)
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join([*lines[:8], lines[8].replace("row", "raw"), *lines[9:]]))
    with pytest.raises(DataError, match=r"vectors holds vectors of other texts than .*corpus\.jsonl \(rows 8 to 14 differ\)"):
        existing(tmp_path / "vectors", texts=[corpus])
    corpus.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"holds 47 vectors, and .*corpus\.jsonl has 46 texts"):
        existing(tmp_path / "vectors", texts=[corpus])
    with pytest.raises(DataError, match="was made of one file of texts; give that file as --texts"):
        existing(tmp_path / "vectors")


def test_vectors_of_an_earlier_training_without_its_teacher(big: Path, tmp_path: Path) -> None:
    wanted = {DOCUMENT: dict.fromkeys(TEXTS, ""), QUERY: dict.fromkeys(TEXTS[:7], "")}
    first = teacher_vectors(wanted, learnt(big), output=tmp_path / "out", dtype="float32")
    again = existing(tmp_path / "out.teacher", {QUERY: dict.fromkeys(TEXTS[2:5], ""), DOCUMENT: dict.fromkeys(TEXTS[:3], "")})
    queries, documents = (
        [first.rows[prompt][text] for text in texts] for prompt, texts in ((QUERY, TEXTS[2:5]), (DOCUMENT, TEXTS[:3]))
    )
    assert np.array_equal(again, first.vectors[[*queries, *documents]])


def test_vectors_by_prompt_in_folders_of_their_names(tmp_path: Path) -> None:
    vectors = made(90)
    for name, part in (("query", vectors[:45]), ("document", vectors[45:])):
        write(tmp_path / "all" / "x.parquet", part, text=TEXTS).rename((tmp_path / "all" / name).with_suffix(".parquet"))
        (tmp_path / "all" / name).mkdir()
        (tmp_path / "all" / f"{name}.parquet").rename(tmp_path / "all" / name / "x.parquet")
    both = {QUERY: dict.fromkeys(TEXTS, ""), DOCUMENT: dict.fromkeys(TEXTS, "")}
    assert np.array_equal(existing(tmp_path / "all", both, texts=["x.txt"]), vectors)
    file = write(tmp_path / "one.parquet", vectors[:45], text=TEXTS)
    with pytest.raises(DataError, match="expected a folder of vectors in it for each prompt, and found none for 'query'"):
        existing(file, both, texts=["x.txt"])
    assert np.array_equal(existing(file, both), np.concatenate([vectors[:45]] * 2)), (
        "triplets may have one vector for both sides"
    )


def nan_vectors() -> NDArray[np.float32]:
    vectors = made()
    vectors[3, 2] = np.nan
    return vectors


@pytest.mark.parametrize(
    ("vectors", "keys", "message"),
    [
        (made(), {"text": [*TEXTS[:-2], "x", "y"]}, "has no vector of 2 of 45 texts, first 'the file of row 43'"),
        (nan_vectors(), {"text": TEXTS}, "NaN or infinity in 1 vectors, first that of 'the file of row 3'"),
        (made(9), {"id": list(range(9))}, "has 9 vectors by id, and there are 45 distinct texts"),
        (made(), {"id": [f"other-{place}" for place in range(45)]}, "has no vector of 45 of 45 texts"),
        (made(), {"text": [*TEXTS[:-1], TEXTS[0]]}, "two vectors for 'the fox of row 0'; expected one"),
        (made(), {"name": TEXTS}, "expected columns text or id, and vector or embedding; found name, vector"),
    ],
)
def test_vectors_that_do_not_fit_are_one_line(tmp_path: Path, vectors: Any, keys: Any, message: str) -> None:
    wanted = {DOCUMENT: {text: str(place) for place, text in enumerate(TEXTS)}}
    with pytest.raises(DataError, match=message) as caught:
        existing(write(tmp_path / "a.parquet", vectors, **keys), wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "vector": "b"}\n', "vector is no list of numbers"),
        (
            '{"text": "a", "vector": [1, 2]}\n{"text": "b", "vector": [1]}\n',
            "text with 2 dimensions and text with 1 dimensions",
        ),
        ('{"text": 7, "vector": [1]}\n', "text is int, expected a string"),
        ("", "no rows"),
    ],
)
def test_broken_lines_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        existing(tmp_path / "a.jsonl")


def test_what_holds_no_vectors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give vectors that do, or a teacher to make them"):
        existing(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no vectors; expected what encode wrote"):
        existing(tmp_path / "empty")
    write(tmp_path / "none.parquet", made()[:0], text=[])
    with pytest.raises(DataError, match=r"none\.parquet: no vectors; expected what encode wrote"):
        existing(tmp_path / "none.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"a\.parquet: no readable vectors"):
        existing(tmp_path / "a.parquet")


def test_the_identity_is_of_what_the_vectors_come_from(big: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", made(), text=TEXTS)
    before = [teacher_identity(TrainSettings(teacher_vectors=file)), teacher_identity(learnt(big))]
    assert teacher_identity(learnt(big, teacher_vectors=str(file))) == before[1], "where they are kept makes no difference"
    write(file, made() + 1, text=TEXTS)
    assert teacher_identity(TrainSettings(teacher_vectors=file)) != before[0]
    assert teacher_identity(TrainSettings(teacher="owner/name")) == "owner/name"
    assert teacher_identity(TrainSettings()) is None

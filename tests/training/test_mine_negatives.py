"""Hard negatives of an encoder against a search by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prune2vec.data.reader import load_triplets
from prune2vec.data.triplet import Triplet, write_triplets
from prune2vec.errors import CheckpointError, ConfigError, DataError
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.mine_negatives import mine_negatives
from prune2vec.training.train import train_encoder
from tests.training.encoders import rows
from tests.training.test_train import QUICK

OPEN = {"relative_margin": None, "dtype": "float32", "device": "cpu"}


def cosines(encoder: Path, queries: list[str], documents: list[str]) -> np.ndarray:
    model = load_encoder(encoder, device="cpu", dtype="float32")
    left, right = (model.encode(texts, normalize_embeddings=True).astype(np.float64) for texts in (queries, documents))
    return np.asarray(left @ right.T)


def by_hand(encoder: Path, table: list[Triplet], count: int, margin: float = -np.inf) -> list[list[str]]:
    """Return for each row the best documents other than its own, below the positive's cosine by a share of its size."""
    documents = list(dict.fromkeys(text for row in table for text in row.texts[1:]))
    found = []
    for row, scores in zip(table, cosines(encoder, [row.anchor for row in table], documents), strict=True):
        own = scores[documents.index(row.positive)]
        limit = own - margin * abs(own)
        ranked = [
            documents[place] for place in np.argsort(-scores) if scores[place] <= limit and documents[place] != row.positive
        ]
        found.append(ranked[:count])
    return found


def test_the_best_other_documents_of_the_same_data_set(small: Path, tmp_path: Path) -> None:
    one, two = rows(12, "one"), rows(9, "two", start=20)
    result = mine_negatives([*one, *two], small, tmp_path / "hard.jsonl", negatives=4, **OPEN)
    mined = load_triplets(tmp_path / "hard.jsonl")
    assert [list(row.negatives) for row in mined] == [*by_hand(small, one, 4), *by_hand(small, two, 4)]
    assert [(row.anchor, row.positive, row.dataset) for row in mined] == [
        (r.anchor, r.positive, r.dataset) for r in (*one, *two)
    ]
    assert (result.rows, result.written, result.complete, result.negatives) == (21, 21, 21, 4.0)
    assert all(row.scores == () for row in mined)


def test_negatives_of_a_pair_that_comes_again_are_documents_too(small: Path, tmp_path: Path) -> None:
    table = [replace(row, negatives=(f"the other {number} of {row.anchor}",)) for row in rows(5) for number in range(4)]
    mine_negatives(table, small, tmp_path / "hard.jsonl", negatives=24, **{**OPEN, "range_max": 1000})
    mined = load_triplets(tmp_path / "hard.jsonl")
    assert len(mined) == 5 and all(len(row.negatives) == 24 for row in mined), "4 positives of others and 20 negatives"


@pytest.mark.parametrize("sampling", ["top", "random"])
@pytest.mark.parametrize("negatives", [1, 3])
def test_a_query_among_the_documents_takes_no_place(small: Path, tmp_path: Path, negatives: int, sampling: str) -> None:
    # Duplicate questions: the query of a row is the answer of another one.
    texts = [row.anchor for row in rows(24)]
    table = [
        Triplet(anchor=one, positive=other, negatives=()) for one, other in zip(texts, [*texts[1:], texts[0]], strict=True)
    ]
    for more in ({}, {"min_score": -1.0}, {"range_max": negatives}, {"range_min": 2, "range_max": 2 + negatives}):
        mine_negatives(table, small, tmp_path / "hard.jsonl", negatives=negatives, sampling=sampling, **OPEN, **more)  # type: ignore[arg-type]
        mined = load_triplets(tmp_path / "hard.jsonl")
        assert [len(row.negatives) for row in mined] == [negatives] * 24
        assert all({row.anchor, row.positive}.isdisjoint(row.negatives) for row in mined)


def test_a_longest_text_is_no_longer_than_the_model_s_positions(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_length is 4096, and the model has 256 positions"):
        mine_negatives(rows(6), small, tmp_path / "hard.jsonl", max_length=4096, **OPEN)


def test_what_is_nearly_as_similar_as_the_positive_is_left_out(small: Path, tmp_path: Path) -> None:
    table = rows(20)
    expected = by_hand(small, table, 3, margin=0.05)
    mine_negatives(table, small, tmp_path / "hard.jsonl", negatives=3, range_max=40, dtype="float32", device="cpu")
    found = {row.anchor: list(row.negatives) for row in load_triplets(tmp_path / "hard.jsonl")}
    assert found == {row.anchor: negatives for row, negatives in zip(table, expected, strict=True) if negatives}
    assert expected != by_hand(small, table, 3)


def test_scores_are_cosines_of_positive_and_negatives_and_can_be_learnt(small: Path, tmp_path: Path) -> None:
    table = rows(16)
    mine_negatives(table, small, tmp_path / "hard.jsonl.gz", negatives=3, score=True, **OPEN)
    mined = load_triplets(tmp_path / "hard.jsonl.gz")
    for row in mined:
        assert row.scores == pytest.approx(cosines(small, [row.anchor], list(row.texts[1:]))[0].tolist(), abs=1e-5)
    settings = {**QUICK, "steps": 2, "batch_size": 2, "hard_negatives": 3, "distil": "data", "teacher_temperature": 0.02}
    assert train_encoder(small, tmp_path / "hard.jsonl.gz", tmp_path / "encoder", **settings).steps == 2


def test_the_best_are_passed_over_and_a_draw_repeats(small: Path, tmp_path: Path) -> None:
    table = rows(20)
    mine_negatives(table, small, tmp_path / "later.jsonl", negatives=2, range_min=3, range_max=9, **OPEN)
    later = [list(row.negatives) for row in load_triplets(tmp_path / "later.jsonl")]
    assert later == [best[3:5] for best in by_hand(small, table, 9)]
    files = [tmp_path / f"{name}.jsonl" for name in ("a", "b", "c")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        mine_negatives(table, small, file, negatives=2, range_max=9, sampling="random", seed=seed, **OPEN)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_all_answers_of_a_query_and_the_query_itself_are_no_negatives(small: Path, tmp_path: Path) -> None:
    twins = [Triplet(anchor="quick fox", positive=text) for text in ("the fox", "a fox that is quick")]
    others = [Triplet(anchor="lazy dog", positive="quick fox"), Triplet(anchor="rows", positive="lines of a file")]
    mine_negatives([*twins, *others, twins[0]], small, tmp_path / "hard.jsonl", negatives=3, **OPEN)
    mined = load_triplets(tmp_path / "hard.jsonl")
    assert len(mined) == 4
    assert set(mined[0].negatives) == set(mined[1].negatives) == {"lines of a file"}


def test_the_encoders_prompts_are_used(small: Path, tmp_path: Path) -> None:
    encoder = load_encoder(small, device="cpu", dtype="float32")
    encoder.prompts = {"query": "birds sing in the morning light\n", "document": ""}
    encoder.save_pretrained(str(tmp_path / "prompted"), create_model_card=False)
    mine_negatives(rows(6), tmp_path / "prompted", tmp_path / "hard.jsonl", negatives=2, score=True, **OPEN)
    (row, *_) = load_triplets(tmp_path / "hard.jsonl")
    expected = encoder.encode_query([row.anchor]) @ encoder.encode_document(list(row.texts[1:])).T
    assert row.scores == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_progress_is_ours_and_stdout_stays_empty(small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mine_negatives(rows(6), small, tmp_path / "hard.jsonl", negatives=2, **OPEN)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Batches" not in err
    assert "similarity" not in err


def test_what_cannot_be_is_one_line_and_leaves_no_file(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "hard.jsonl"
    with pytest.raises(ConfigError, match="range_max 5 is too small: range_min 3 and 7 negatives need 10"):
        mine_negatives(rows(6), small, output, range_min=3, range_max=5)
    with pytest.raises(DataError, match="no row of 6 got a hard negative"):
        mine_negatives(rows(6), small, output, max_score=-1.0)
    with pytest.raises(DataError, match=r"must end in \.jsonl"):
        mine_negatives(rows(6), small, tmp_path / "hard.csv")
    with pytest.raises(CheckpointError, match="no encoder"):
        mine_negatives(rows(6), tmp_path / "absent", output)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(CheckpointError, match="a folder of that name is there"):
        mine_negatives(rows(6), tmp_path / "absent", tmp_path / "folder.jsonl")
    (tmp_path / "folder.jsonl").rmdir()
    assert list(tmp_path.iterdir()) == []
    write_triplets(rows(6), output)
    before = output.read_bytes()
    with pytest.raises(
        DataError, match=r"cannot write .*hard\.jsonl: the rows are read from it, and would lose their negatives"
    ):
        mine_negatives(tmp_path / "." / "hard.jsonl", small, output)
    with pytest.raises(DataError, match=r"cannot write .*hard\.jsonl: the rows are read from it"):
        mine_negatives(tmp_path, small, output)
    assert output.read_bytes() == before


def test_nothing_but_mined_rows_is_written_over(small: Path, tmp_path: Path) -> None:
    for folder in ("texts", "mined"):
        (tmp_path / folder).mkdir()
    write_triplets(rows(6), tmp_path / "texts" / "train.jsonl")
    write_triplets(rows(4, start=9), tmp_path / "texts" / "dev.jsonl")
    (tmp_path / "mined" / "notes.jsonl").write_text('{"my": "own"}\n')
    said = {
        "texts/dev.jsonl": "its rows are held out from those to train on",
        "mined/notes.jsonl": "holds something else than mined rows",
    }
    for other, why in ((tmp_path / name, why) for name, why in said.items()):
        before = other.read_bytes()
        with pytest.raises(DataError, match=why):
            mine_negatives(tmp_path / "texts", small, other, negatives=2, **OPEN)
        assert other.read_bytes() == before
    for count in (1, 2):
        output = tmp_path / "mined" / "hard.jsonl"
        assert mine_negatives(tmp_path / "texts", small, output, negatives=count, **OPEN).negatives == count


def test_pairs_without_negatives_will_do(small: Path, tmp_path: Path) -> None:
    write_triplets([Triplet(anchor=row.anchor, positive=row.positive) for row in rows(8)], tmp_path / "pairs.jsonl")
    assert mine_negatives(tmp_path / "pairs.jsonl", small, tmp_path / "hard.jsonl", negatives=2, **OPEN).written == 8

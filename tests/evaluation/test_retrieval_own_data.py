from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from prune2vec.data.beir import Retrieval
from prune2vec.errors import DataError, EvaluationError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import METRICS
from prune2vec.evaluation.retrieval import (
    describe_retrieval,
    evaluate_bm25,
    evaluate_retrieval,
    load_retrieval,
    self_documents,
)
from tests.evaluation.helpers import QUICK, write_rows

SETTINGS = EvaluateSettings(**QUICK)


def beir(folder: Path) -> Path:
    write_rows(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": "T", "text": f"document {i}"} for i in range(4)])
    write_rows(folder / "queries.jsonl", [{"_id": "q0", "text": "document 0"}, {"_id": "q1", "text": "none"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t2\nq1\td1\t0\n", encoding="utf-8")
    return folder


def test_metrics_equal_those_of_sentence_transformers(encoder: LoadedEncoder, triplets_file: Path) -> None:
    retrieval = load_retrieval(triplets_file, SETTINGS)
    theirs = InformationRetrievalEvaluator(
        retrieval.queries,
        retrieval.corpus,
        {query: set(grades) for query, grades in retrieval.qrels.items()},
        precision_recall_at_k=[1, 10, 100],
        write_csv=False,
    )(encoder.model)
    names = {
        "ndcg@10": "cosine_ndcg@10",
        "mrr@10": "cosine_mrr@10",
        **{f"recall@{k}": f"cosine_recall@{k}" for k in (1, 10, 100)},
    }
    ours = evaluate_retrieval(encoder, retrieval, SETTINGS)
    assert ours["metrics"] == pytest.approx({name: theirs[other] for name, other in names.items()}, abs=1e-9)


def test_every_query_s_score_and_the_place_of_its_right_document_are_kept(encoder: LoadedEncoder, triplets_file: Path) -> None:
    retrieval = load_retrieval(triplets_file, SETTINGS)
    found = evaluate_retrieval(encoder, retrieval, SETTINGS)
    items = ItemScores(**found["items"])
    assert items.numbers.mean() == pytest.approx(found["metrics"]["ndcg@10"], abs=1e-8)
    # With one right document a query's nDCG@10 is 1 / log2(1 + place).
    assert items.numbers == pytest.approx([1 / np.log2(1 + place) if 0 < place <= 10 else 0.0 for place in items.places])
    queries = encoder.model.encode_query(list(retrieval.queries.values()), convert_to_tensor=True)
    documents = encoder.model.encode_document(list(retrieval.corpus.values()), convert_to_tensor=True)
    names, scores = list(retrieval.corpus), encoder.model.similarity(queries, documents)
    for row, grades, place in zip(scores, retrieval.qrels.values(), items.places, strict=True):
        (right,) = grades
        assert place == 1 + int((row > row[names.index(right)] + 1e-6).sum())
    bm25 = evaluate_bm25(retrieval, SETTINGS)
    assert ItemScores(**bm25["items"]).pairs_with(items) and bm25["items"]["ranks"] == " ".join("1" * len(items))


def test_bm25_finds_what_shares_words(triplets_file: Path) -> None:
    found = evaluate_bm25(load_retrieval(triplets_file, SETTINGS), SETTINGS)
    assert found["metrics"] == pytest.approx(dict.fromkeys(METRICS, 1.0))
    assert found["parameters"]["k1"] == 1.5


def test_negatives_are_optional(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [{"query": "a b", "positive": "c d"}, {"query": "e", "positive": "f"}])
    assert len(load_retrieval(path, SETTINGS).corpus) == 2


def test_beir_queries_without_a_relevant_document_are_left_out(tmp_path: Path) -> None:
    retrieval = load_retrieval(beir(tmp_path / "beir"), SETTINGS)
    assert retrieval.queries == {"q0": "document 0"}
    assert retrieval.qrels == {"q0": {"d0": 2}}
    assert retrieval.corpus["d0"] == "T document 0"


def test_an_unknown_split_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no qrels for split 'tset'"):
        load_retrieval(beir(tmp_path / "beir"), EvaluateSettings(**QUICK, split="tset"))


def test_distractors_join_the_corpus_once(triplets_file: Path, tmp_path: Path) -> None:
    rows = [{"text": "about the apple itself"}, {"title": "New", "text": "text"}, {"text": "New text"}]
    extra = write_rows(tmp_path / "corpus.jsonl", rows)
    plain = load_retrieval(triplets_file, SETTINGS).corpus
    more = load_retrieval(triplets_file, EvaluateSettings(**QUICK, corpus=extra)).corpus
    assert sorted(set(more.values()) - set(plain.values())) == ["New text"]
    assert len(more) == len(plain) + 1


def test_the_right_answer_does_not_come_in_again(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", [{"query": "q", "positive": " the answer\n"}])
    rows = [
        {"text": "the answer"},
        {"title": "", "text": " the  answer"},
        {"title": "q", "text": " the answer\n"},
        {"text": "x"},
    ]
    extra = write_rows(tmp_path / "corpus.jsonl", rows)
    found = load_retrieval(data, EvaluateSettings(**QUICK, corpus=extra))
    assert found.corpus == {"d0": " the answer\n", "extra-0": "x"}
    (tmp_path / "corpus.txt").write_text("the answer\nx\n", encoding="utf-8")
    assert load_retrieval(data, EvaluateSettings(**QUICK, corpus=tmp_path / "corpus.txt")) == found


def test_of_a_folder_the_held_out_files_are_evaluated_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}-00000-of-00001.jsonl", [{"query": f"{split} q", "positive": f"{split} p"}])
    assert load_retrieval(tmp_path, SETTINGS).queries == {"q0": "test q"}
    assert load_retrieval(tmp_path, EvaluateSettings(**QUICK, split="dev")).queries == {"q0": "validation q"}
    assert "the held-out files are validation-00000-of-00001.jsonl; left out test-0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [("{", r"corpus\.jsonl:1: not JSON"), ('{"txt": 1}', r"corpus\.jsonl:1: no column 'text'; did you mean 'txt'")],
)
def test_a_broken_corpus_is_one_line(triplets_file: Path, tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=words):
        load_retrieval(triplets_file, EvaluateSettings(**QUICK, corpus=path))


def test_empty_and_absent_files_are_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for path in (empty, tmp_path / "absent.jsonl"):
        with pytest.raises((DataError, EvaluationError)) as caught:
            load_retrieval(path, SETTINGS)
        assert "\n" not in str(caught.value)


def test_a_query_does_not_find_itself() -> None:
    corpus = {"same": "the argument itself", "other": "its rebuttal", "7": "unrelated"}
    queries = {"same": "the argument itself", "7": "a question"}
    qrels = {"same": {"other": 1}, "7": {"other": 1}}
    # Equal names of different texts are chance: the corpus and the queries number themselves from 0.
    assert self_documents(Retrieval(queries=queries, corpus=corpus, qrels=qrels)) == {0: 0}
    assert self_documents(Retrieval(queries=queries, corpus=corpus, qrels={**qrels, "same": {"same": 1}})) == {}


def test_truncated_texts_are_counted(encoder: LoadedEncoder) -> None:
    retrieval = Retrieval(queries={"q": "short"}, corpus={"a": "word " * 200, "b": "short"}, qrels={"q": {"a": 1}})
    said = describe_retrieval(encoder, retrieval, source="here")
    assert (said["truncated_queries"], said["truncated_documents"], said["documents"]) == (0, 1, 2)


def test_judgements_of_other_documents_are_refused(tmp_path: Path) -> None:
    (beir(tmp_path) / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tD0\t2\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="none of the relevant documents is in the corpus, such as 'D0'"):
        load_retrieval(tmp_path, SETTINGS)


def test_one_document_is_told_unless_there_are_more_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "one.jsonl", [{"query": f"q{row}", "positive": "the one"} for row in range(3)])
    load_retrieval(data, SETTINGS)
    assert "holds one document, which every encoder finds" in capsys.readouterr().err
    more = write_rows(tmp_path / "more.jsonl", [{"text": "another"}])
    assert len(load_retrieval(data, EvaluateSettings(**QUICK, corpus=more)).corpus) == 2
    assert "holds one document" not in capsys.readouterr().err

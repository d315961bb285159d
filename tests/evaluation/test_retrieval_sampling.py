"""Samples of retrieval tasks keep every relevant document, are drawn by seed, and are never called by the whole's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prune2vec.data.beir import Retrieval
from prune2vec.evaluation.evaluate import evaluate_encoder
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.evaluation.mteb_runner import run_task, task_data
from prune2vec.evaluation.results import TaskScore
from prune2vec.evaluation.retrieval import sample_retrieval, sampling_note
from prune2vec.evaluation.tasks import PINNED
from tests.evaluation.helpers import QUICK

WHOLE = Retrieval(
    queries={f"q{number}": f"query {number}" for number in range(20)},
    corpus={f"d{number}": f"document {number}" for number in range(100)},
    qrels={f"q{number}": {f"d{number}": 2, f"d{number + 50}": 1, f"d{number + 20}": 0, "gone": 1} for number in range(20)},
)


def test_all_relevant_documents_of_the_kept_queries_stay() -> None:
    sample, note = sample_retrieval(WHOLE, EvaluateSettings(max_queries=5, max_documents=30))
    assert note == "(30 of 100 documents, 5 of 20 queries)"
    assert (len(sample.queries), len(sample.corpus)) == (5, 30)
    for query in sample.queries:
        number = int(query[1:])
        assert {f"d{number}", f"d{number + 50}"} <= sample.corpus.keys()
        # Judged documents that were not drawn are gone; one that the task never had still counts as not found.
        assert sample.qrels[query]["gone"] == 1
        assert sample.qrels[query].keys() - {"gone"} <= sample.corpus.keys()
    assert list(sample.corpus) == [name for name in WHOLE.corpus if name in sample.corpus]
    assert list(sample.queries) == [name for name in WHOLE.queries if name in sample.queries]
    assert all(sample.corpus[name] == WHOLE.corpus[name] for name in sample.corpus)


def test_relevant_documents_are_kept_beyond_the_limit() -> None:
    sample, note = sample_retrieval(WHOLE, EvaluateSettings(max_documents=1))
    assert sample.corpus.keys() == {f"d{number}" for number in (*range(20), *range(50, 70))}
    assert note == "(40 of 100 documents)"


def test_the_seed_decides_and_smaller_samples_lie_in_larger_ones() -> None:
    def kept(seed: int, queries: int, documents: int) -> tuple[set[str], set[str]]:
        sample, _ = sample_retrieval(WHOLE, EvaluateSettings(max_queries=queries, max_documents=documents, seed=seed))
        return set(sample.queries), set(sample.corpus)

    assert kept(1, 8, 50) == kept(1, 8, 50) != kept(2, 8, 50)
    assert kept(1, 4, 50)[0] < kept(1, 8, 50)[0]
    assert kept(1, 8, 40)[1] < kept(1, 8, 60)[1]


def test_what_is_whole_is_left_alone() -> None:
    for sampling in (
        EvaluateSettings(),
        EvaluateSettings(max_queries=20, max_documents=100),
        EvaluateSettings(max_queries=999, max_documents=999),
    ):
        assert sample_retrieval(WHOLE, sampling) == (WHOLE, "")


def test_notes() -> None:
    assert sampling_note(queries=(300, 300), documents=(1000, 5183), seed=42) == "(1,000 of 5,183 documents)"
    assert sampling_note(queries=(50, 300), documents=(10, 10), seed=7) == "(50 of 300 queries, seed 7)"
    assert sampling_note(queries=(5, 5), documents=(10, 10), seed=7) == ""


def run(encoder: LoadedEncoder, name: str, mirror: Path, settings: EvaluateSettings) -> TaskScore:
    task = PINNED[name]
    prompts = {"query": "", "document": ""} if task.type == "Retrieval" else {"text": ""}
    return run_task(encoder, task, data=task_data(task, mirror), prompts=prompts, settings=settings)


def test_mteb_searches_the_sample_and_its_name_says_so(encoder: LoadedEncoder, mirror: Path) -> None:
    seen: list[list[str]] = []
    encode = encoder.model.encode_document

    def spy(texts: list[str], **rest: object) -> object:
        seen.append(list(texts))
        return encode(texts, **rest)

    encoder.model.encode_document = spy  # type: ignore[method-assign]
    try:
        score = run(replace(encoder, engine=None), "SciFact", mirror, EvaluateSettings(max_documents=3))
    finally:
        del encoder.model.encode_document
    (documents,) = seen
    assert score.name == "SciFact (3 of 4 documents)"
    assert len(documents) == 3
    assert {"the quick brown fox", "birds sing in spring"} <= set(documents)
    assert score.score == 1.0
    assert (
        run(encoder, "SciFact", mirror, EvaluateSettings(max_queries=1, max_documents=1)).name
        == "SciFact (1 of 4 documents, 1 of 2 queries)"
    )
    assert run(encoder, "SciFact", mirror, EvaluateSettings(max_documents=4)).name == "SciFact"


def test_other_tasks_of_mteb_stay_whole(encoder: LoadedEncoder, mirror: Path) -> None:
    score = run(encoder, "STSBenchmark", mirror, EvaluateSettings(max_queries=1, max_documents=1))
    assert score == run_like(score, run(encoder, "STSBenchmark", mirror, EvaluateSettings()))


def run_like(score: TaskScore, other: TaskScore) -> TaskScore:
    return TaskScore(**{**vars(other), "seconds": score.seconds})


def test_results_say_what_was_sampled_and_how_texts_were_cut(
    encoder_folder: Path, triplets_file: Path, mirror: Path, tmp_path: Path
) -> None:
    asked = {"data": triplets_file, "tasks": "SciFact,STSBenchmark", "mirror": mirror, **QUICK}
    found = evaluate_encoder(encoder_folder, **asked, max_queries=1, max_documents=3, max_length=8)
    assert [task.name for task in found.tasks] == ["SciFact (3 of 4 documents, 1 of 2 queries)", "STSBenchmark"]
    assert found.score_name == "nDCG@10 (3 of 12 documents, 1 of 6 queries)"
    assert (found.retrieval["data"]["queries"], found.retrieval["data"]["documents"]) == (1, 3)
    assert "(3 of 12 documents, 1 of 6 queries): 1 queries, 3 documents" in found.render()
    assert (found.settings["max_documents"], found.settings["max_queries"], found.settings["max_length"]) == (3, 1, 8)
    assert found.encoder["max_length"] == 8
    assert found.retrieval["data"]["truncated_documents"] == 3
    whole = evaluate_encoder(encoder_folder, **asked)
    assert "mean of 2 of 2 tasks, 1 sampled:" in found.render()
    assert "mean of 2 of 2 tasks:" in whole.render()
    assert whole.score_name == "nDCG@10"
    assert whole.retrieval["data"]["digest"] != found.retrieval["data"]["digest"]


def test_a_part_of_a_sample_is_not_taken_for_the_whole(encoder_folder: Path, mirror: Path, tmp_path: Path) -> None:
    from prune2vec.evaluation.evaluate import Parts
    from prune2vec.evaluation.evaluated import load_for_evaluation

    settings = [EvaluateSettings(**QUICK), EvaluateSettings(**QUICK, max_documents=3), EvaluateSettings(**QUICK, max_queries=1)]
    loaded = load_for_evaluation(encoder_folder, settings[0])
    for number, chosen in enumerate(settings):
        parts = Parts(tmp_path / "results.json", loaded, chosen)
        assert parts.get({"part": "one"}, lambda number=number: {"number": number}) == {"number": number}


@pytest.mark.parametrize("values", [{"max_documents": 0}, {"max_queries": 0}])
def test_nothing_is_no_sample(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        EvaluateSettings(**values)

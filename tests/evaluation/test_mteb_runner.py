from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import mteb
import numpy as np
import pytest
from mteb.models import SentenceTransformerEncoderWrapper
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from prune2vec.encoding.engine import Engine
from prune2vec.errors import EvaluationError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder, load_for_evaluation
from prune2vec.evaluation.mteb_runner import TaskUnavailable, _load_task, _quiet_libraries, run_task, task_data
from prune2vec.evaluation.results import TaskScore
from prune2vec.evaluation.tasks import PINNED
from tests.evaluation.helpers import QUICK, save_tiny_encoder, write_rows

SCIFACT, STS, BANKING = PINNED["SciFact"], PINNED["STSBenchmark"], PINNED["Banking77Classification"]


def run(encoder: LoadedEncoder, name: str, mirror: Path, prompts: dict[str, str] | None = None) -> TaskScore:
    task = PINNED[name]
    return run_task(
        encoder, task, data=task_data(task, mirror), prompts=prompts or {"text": ""}, settings=EvaluateSettings(batch_size=8)
    )


def test_retrieval(encoder: LoadedEncoder, mirror: Path) -> None:
    score = run(encoder, "SciFact", mirror, {"query": "", "document": ""})
    # Each query is word for word its document, so that a perfect score is certain.
    assert (score.score, score.main_score) == (1.0, "ndcg_at_10")
    assert score.parts == ({"split": "test", "subset": "default", "score": 1.0},)
    assert score.metrics["recall_at_1"] == 1.0


def test_prompts_reach_the_texts_and_leave_the_encoder_as_it_was(encoder: LoadedEncoder, mirror: Path) -> None:
    rows = [("a quick fox", "the quick fox", 4.5), ("a lazy dog", "birds sing", 0.5), ("cut layers", "layers cut", 4.0)]
    own = dict(encoder.model.prompts)
    for prompt in ("", "tell me: "):
        left, right = (encoder.model.encode([row[side] for row in rows], prompt=prompt) for side in (0, 1))
        expected = spearmanr(np.sum(left * right, axis=1), [row[2] for row in rows]).statistic
        score = run(encoder, "STSBenchmark", mirror, {"text": prompt})
        assert score.score == pytest.approx(expected)
        assert score.prompts == {"text": prompt}
    assert encoder.model.prompts == own


BY_TYPE = {"STS": "sts | ", "Classification": "class | ", "Retrieval-query": "rq | ", "Retrieval-document": "rd | "}
BY_NAME = {"STSBenchmark": "b | ", "SciFact-query": "sf | ", "SciFact": "s | ", "query": "q | ", "document": "d | "}


@pytest.mark.parametrize("with_engine", [True, False])
@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        (BY_TYPE, None, [{"query": "rq | ", "document": "rd | "}, {"text": "sts | "}, {"text": "class | "}]),
        (BY_NAME, None, [{"query": "sf | ", "document": "s | "}, {"text": "b | "}, {"text": ""}]),
        # What mteb does not find is sentence-transformers' to choose; it saves an empty prompt for documents.
        ({"query": "q: ", "passage": "p: "}, "query", [{"query": "q: ", "document": ""}, {"text": "q: "}, {"text": "q: "}]),
        (
            {"Retrieval": "r | ", "other": "o | "},
            "other",
            [{"query": "r | ", "document": "r | "}, {"text": "o | "}, {"text": "o | "}],
        ),
        ({}, None, [{"query": "", "document": ""}, {"text": ""}, {"text": ""}]),
    ],
)
def test_own_prompts_are_those_that_mteb_s_wrapper_uses(
    tmp_path: Path,
    mirror: Path,
    prompts: dict[str, str],
    default: str | None,
    expected: list[dict[str, str]],
    with_engine: bool,
) -> None:
    folder = save_tiny_encoder(tmp_path / "encoder", prompts=prompts, default_prompt=default)
    ours = load_for_evaluation(folder, EvaluateSettings(**QUICK))
    assert ours.engine is not None
    ours = ours if with_engine else replace(ours, engine=None)
    for task, used in zip((SCIFACT, STS, BANKING), expected, strict=True):
        data = task_data(task, mirror)
        found = run_task(ours, task, data=data, prompts=None, settings=EvaluateSettings(batch_size=8))
        assert found.prompts == used
        with _quiet_libraries():
            wrapper = SentenceTransformerEncoderWrapper(SentenceTransformer(str(folder), device="cpu"))
            results = mteb.evaluate(
                wrapper, _load_task(task, data), cache=None, co2_tracker=False, encode_kwargs={"batch_size": 8}
            )
        scores = [float(row["main_score"]) for rows in results.task_results[0].scores.values() for row in rows]
        assert found.score == pytest.approx(np.mean(scores), abs=1e-5)
    assert ours.model.prompts == SentenceTransformer(str(folder), device="cpu").prompts


def test_a_prompt_that_the_engine_cannot_take_is_left_to_sentence_transformers(
    encoder: LoadedEncoder, mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = run(replace(encoder, engine=None), "STSBenchmark", mirror, {"text": "tell me: "})
    transformer = encoder.model[0]
    preprocess, seen = transformer.preprocess, []

    def chatty(texts: list[str], prompt: str | None = None, **options: object) -> object:
        seen.append(prompt)
        # Other tokens for the engine's probe only.
        return preprocess([f"user: {text}" for text in texts] if "" in texts else texts, prompt=prompt, **options)

    monkeypatch.setattr(transformer, "preprocess", chatty)
    score = run(encoder, "STSBenchmark", mirror, {"text": "tell me: "})
    assert seen.count("tell me: ") > 1, "sentence-transformers encoded"
    assert score.score == pytest.approx(alone.score)
    assert capsys.readouterr().err.count("sentence-transformers encodes, which takes longer") == 1


def test_only_the_queries_are_prompted_when_only_they_have_a_prompt(encoder: LoadedEncoder, mirror: Path) -> None:
    seen: dict[str, set[str | None]] = {"query": set(), "document": set()}
    query, document = encoder.model.encode_query, encoder.model.encode_document

    def spy_query(texts: list[str], prompt: str | None = None, **rest: object) -> object:
        seen["query"].add(prompt)
        return query(texts, prompt=prompt, **rest)

    def spy_document(texts: list[str], prompt: str | None = None, **rest: object) -> object:
        seen["document"].add(prompt)
        return document(texts, prompt=prompt, **rest)

    encoder.model.encode_query, encoder.model.encode_document = spy_query, spy_document
    try:
        run(replace(encoder, engine=None), "SciFact", mirror, {"query": "find: ", "document": ""})
    finally:
        del encoder.model.encode_query, encoder.model.encode_document
    assert seen == {"query": {"find: "}, "document": {""}}


def test_the_engine_gets_the_same_texts_and_prompts(
    encoder: LoadedEncoder, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    encode = Engine.encode

    def spy(self: Engine, texts: list[str]) -> object:
        seen.setdefault(self.prompt, set()).update(texts)
        return encode(self, texts)

    monkeypatch.setattr(Engine, "encode", spy)
    run(encoder, "SciFact", mirror, {"query": "find: ", "document": ""})
    assert {prompt: len(texts) for prompt, texts in seen.items()} == {"find: ": 2, "": 4}


@pytest.mark.parametrize("task", ["SciFact", "STSBenchmark", "Banking77Classification"])
def test_scores_are_those_of_sentence_transformers(encoder: LoadedEncoder, mirror: Path, task: str) -> None:
    prompts = {"query": "find: ", "document": ""} if task == "SciFact" else {"text": "tell me: "}
    ours, theirs = (run(one, task, mirror, prompts) for one in (encoder, replace(encoder, engine=None)))
    assert ours.score == pytest.approx(theirs.score, abs=1e-6)
    assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-5)


def test_classification_is_repeatable(encoder: LoadedEncoder, mirror: Path) -> None:
    first, second = (run(encoder, "Banking77Classification", mirror) for _ in range(2))
    assert first.score == second.score
    assert 0 <= first.score <= 1


def test_changed_local_data_are_seen(encoder: LoadedEncoder, mirror: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(mirror / "STSBenchmark", tmp_path / "STSBenchmark").parent
    before, seen = run(encoder, "STSBenchmark", copy), (copy / "STSBenchmark" / "test.jsonl").stat()
    rows = [("one text", "one text", 0.0), ("a lazy dog", "birds sing", 5.0), ("cut layers", "rows of a file", 4.0)]
    path = write_rows(copy / "STSBenchmark" / "test.jsonl", [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in rows])
    # The same time stamp as before: a cache that goes by it would not notice.
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    after = run(encoder, "STSBenchmark", copy)
    assert after.score != before.score
    assert after.data["digest"] != before.data["digest"]


def test_the_usual_cache_is_left_alone(encoder: LoadedEncoder, mirror: Path) -> None:
    usual, disabled = datasets.config.HF_DATASETS_CACHE, datasets.are_progress_bars_disabled()
    run(encoder, "STSBenchmark", mirror)
    assert usual == datasets.config.HF_DATASETS_CACHE
    assert datasets.are_progress_bars_disabled() == disabled


def test_a_task_that_is_not_in_the_mirror(mirror: Path) -> None:
    with pytest.raises(TaskUnavailable, match="not in the mirror"):
        task_data(PINNED["SICK-R"], mirror)


def test_a_broken_copy_is_one_line(encoder: LoadedEncoder, tmp_path: Path) -> None:
    (tmp_path / "STSBenchmark").mkdir()
    with pytest.raises(EvaluationError, match="not a copy of STSBenchmark") as caught:
        run(encoder, "STSBenchmark", tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_columns_are_one_line(encoder: LoadedEncoder, tmp_path: Path) -> None:
    write_rows(tmp_path / "STSBenchmark" / "test.jsonl", [{"a": "x", "b": "y"}])
    with pytest.raises(EvaluationError, match="STSBenchmark"):
        run(encoder, "STSBenchmark", tmp_path)


def test_a_file_that_cannot_be_read_is_named_with_what_is_wrong_with_it(encoder: LoadedEncoder, tmp_path: Path) -> None:
    (tmp_path / "STSBenchmark").mkdir()
    (tmp_path / "STSBenchmark" / "test.jsonl").write_text("{not json", encoding="utf-8")
    with pytest.raises(
        EvaluationError, match=r"not a copy of STSBenchmark that mteb can read: (?!An error occurred)"
    ) as caught:
        run(encoder, "STSBenchmark", tmp_path)
    assert "JSON" in str(caught.value)


def test_a_score_that_is_not_finite_is_refused(encoder: LoadedEncoder, tmp_path: Path) -> None:
    # Equal gold scores have no rank correlation.
    write_rows(tmp_path / "STSBenchmark" / "test.jsonl", [{"sentence1": "x", "sentence2": "y", "score": 1.0}] * 3)
    with pytest.raises(EvaluationError, match="no finite cosine_spearman"):
        run(encoder, "STSBenchmark", tmp_path)


def test_a_task_of_one_text_a_row(encoder: LoadedEncoder, tmp_path: Path) -> None:
    from prune2vec.evaluation.tasks import resolve_tasks

    row = {"sentences": ["cells", "genes", "neurons", "brains"] * 3, "labels": ["a", "a", "b", "b"] * 3}
    write_rows(tmp_path / "BiorxivClusteringS2S" / "test.jsonl", [row])
    (task,) = resolve_tasks("BiorxivClusteringS2S", tmp_path)
    score = run_task(
        encoder, task, data=task_data(task, tmp_path), prompts={"text": "topic: "}, settings=EvaluateSettings(batch_size=8)
    )
    assert (score.name, score.main_score) == ("BiorxivClusteringS2S", "v_measure")

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from prune2vec.errors import CheckpointError, ConfigError, EvaluationError
from prune2vec.evaluation.evaluate import evaluate_encoder
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.results import Results
from prune2vec.evaluation.retrieval import load_retrieval, retrieval_metrics, sample_retrieval
from prune2vec.models.text_settings import PromptTemplate
from tests.cli.conftest import Cli, cli
from tests.evaluation.helpers import QUICK, save_tiny_encoder, write_rows
from tests.training.encoders import save_tiny_encoder as save_wide_encoder

_ = cli


def test_own_data_and_tasks_in_one_file(encoder_folder: Path, triplets_file: Path, mirror: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    results = evaluate_encoder(
        encoder_folder, data=triplets_file, tasks="SciFact,STSBenchmark,SICK-R", mirror=mirror, output=output, **QUICK
    )
    assert Results.load(output).to_json() == results.to_json()
    assert [task.name for task in results.tasks] == ["SciFact", "STSBenchmark"]
    assert list(results.missing) == ["SICK-R"]
    assert results.score == results.retrieval["metrics"]["ndcg@10"]
    assert results.retrieval["bm25"]["metrics"]["ndcg@10"] == pytest.approx(1.0)
    assert {"torch", "mteb", "datasets", "bm25s"} <= set(results.environment["versions"])
    assert set(results.seconds) == {"load", "retrieval", "tasks", "speed"}
    assert results.speed["queries"]["texts"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert "mean of 2 of 3 tasks" in results.render()


def test_the_same_call_gives_the_same_scores(encoder_folder: Path, triplets_file: Path) -> None:
    first, second = (evaluate_encoder(encoder_folder, data=triplets_file, **QUICK) for _ in range(2))
    assert first.retrieval == second.retrieval


def test_another_encoder_at_the_same_path_is_evaluated_anew(mirror: Path, triplets_file: Path, tmp_path: Path) -> None:
    import shutil

    asked = {"data": triplets_file, "tasks": "STSBenchmark", "mirror": mirror, "output": tmp_path / "results.json"}
    first = evaluate_encoder(save_tiny_encoder(tmp_path / "encoder", seed=0), **asked, **QUICK)
    for name in ("encoder", "encoder-bare"):
        shutil.rmtree(tmp_path / name)
    second = evaluate_encoder(save_tiny_encoder(tmp_path / "encoder", seed=3), **asked, **QUICK)
    assert first.encoder["digest"] != second.encoder["digest"]
    assert first.tasks[0].metrics != second.tasks[0].metrics


def test_a_stopped_evaluation_goes_on_where_it_stopped(encoder_folder: Path, mirror: Path, tmp_path: Path) -> None:
    asked = {"tasks": "SciFact,STSBenchmark", "mirror": mirror, "output": tmp_path / "results.json", **QUICK}
    with pytest.raises(EvaluationError, match="not a copy"):
        broken = tmp_path / "mirror"
        (broken / "STSBenchmark").mkdir(parents=True)
        (broken / "SciFact").symlink_to(mirror / "SciFact")
        evaluate_encoder(encoder_folder, **{**asked, "mirror": broken})
    (part,) = (tmp_path / ".results.json.parts").iterdir()
    marked = {**json.loads(part.read_text(encoding="utf-8")), "seconds": 12345.0}
    part.write_text(json.dumps(marked), encoding="utf-8")
    (broken / "STSBenchmark").rmdir()
    (broken / "STSBenchmark").symlink_to(mirror / "STSBenchmark")
    results = evaluate_encoder(encoder_folder, **{**asked, "mirror": broken})
    assert results.tasks[0].seconds == 12345.0
    plain = evaluate_encoder(encoder_folder, **{**asked, "output": None})
    assert [task.score for task in results.tasks] == [task.score for task in plain.tasks]


def test_an_instruction_is_recorded(encoder_folder: Path, mirror: Path) -> None:
    results = evaluate_encoder(encoder_folder, tasks="STSBenchmark", mirror=mirror, instruction="mteb", **QUICK)
    assert results.tasks[0].prompts == {"text": PromptTemplate().before("Retrieve semantically similar text.")}
    assert results.settings["instruction"] == "mteb"


def test_documents_by_another_encoder(encoder_folder: Path, triplets_file: Path, mirror: Path, tmp_path: Path) -> None:
    big = save_tiny_encoder(tmp_path / "big", seed=7, prompts={"query": "q:\n", "document": "d:\n"})
    asked = {"data": triplets_file, "tasks": "SciFact,STSBenchmark", "mirror": mirror, "documents_by": big, **QUICK}
    results = evaluate_encoder(encoder_folder, **asked, output=tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").encoder["documents_by"]["path"] == str(big)
    assert f"{encoder_folder} for the queries, {big} for the documents" in results.render()
    retrieval, _ = sample_retrieval(load_retrieval(triplets_file, EvaluateSettings()), EvaluateSettings())
    ours, theirs = (SentenceTransformer(str(folder), device="cpu") for folder in (encoder_folder, big))
    scores = ours.encode_query(list(retrieval.queries.values())) @ theirs.encode_document(list(retrieval.corpus.values())).T
    names = list(retrieval.corpus)
    ranking = {
        query: [names[place] for place in np.argsort(-row)] for query, row in zip(retrieval.queries, scores, strict=True)
    }
    assert results.retrieval["metrics"] == pytest.approx(retrieval_metrics(ranking, retrieval.qrels))
    scifact, sts = results.tasks
    assert scifact.prompts == {"query": "", "document": "d:\n"}
    assert scifact.score < 1, "with one encoder each query finds its own text"
    alone = evaluate_encoder(encoder_folder, tasks="STSBenchmark", mirror=mirror, **QUICK)
    assert sts.score == pytest.approx(alone.tasks[0].score), "tasks without documents are the encoder's own"


def test_documents_in_another_space_are_refused(encoder_folder: Path, triplets_file: Path, tmp_path: Path) -> None:
    wide = save_wide_encoder(tmp_path / "wide", hidden_size=48)
    with pytest.raises(EvaluationError, match=r"documents_by: .*wide makes vectors of 48 dimensions, .*tiny vectors of 32 dim"):
        evaluate_encoder(encoder_folder, data=triplets_file, documents_by=wide, **QUICK)


def test_the_output_is_a_file_of_any_name_that_holds_nothing_else(
    encoder_folder: Path, triplets_file: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        evaluate_encoder(encoder_folder, data=triplets_file, output=tmp_path / "out", bm25=False, **QUICK)
    assert "bm25" not in Results.load(tmp_path / "out").retrieval
    for text in ('{"my": "notes"}', "notes", '{"format": "prune2vec.plan/2"}'):
        (tmp_path / "mine").write_text(text)
        with pytest.raises(
            CheckpointError, match="mine: it is no results file of prune2vec, and would be lost; name another file"
        ):
            evaluate_encoder(encoder_folder, data=triplets_file, output=tmp_path / "mine", **QUICK)
        assert (tmp_path / "mine").read_text() == text
    with pytest.raises(CheckpointError, match="a folder of that name is there"):
        evaluate_encoder(encoder_folder, data=triplets_file, output=tmp_path, **QUICK)


def test_a_dry_run_reads_the_data(encoder_folder: Path, triplets_file: Path, mirror: Path, tmp_path: Path, cli: Cli) -> None:
    wrong = write_rows(tmp_path / "wrong.jsonl", [{"a": "x"}])
    for data, code, said in ((triplets_file, 0, f"{mirror} lacks SICK-R, which will be missing"), (wrong, 1, "wrong.jsonl")):
        ran = cli("evaluate", encoder_folder, "--data", data, "--tasks", "SciFact,SICK-R", "--mirror", mirror, "--dry-run")
        assert (ran.code, said in ran.err) == (code, True), ran.err


def test_a_text_longer_than_the_models_positions_is_refused_at_once(encoder_folder: Path, triplets_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_length is 3000, and the model has \d+ positions; give at most so many"):
        evaluate_encoder(encoder_folder, data=triplets_file, max_length=3000, **QUICK)


def test_bad_calls_are_one_line(encoder_folder: Path, mirror: Path) -> None:
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        evaluate_encoder(encoder_folder)
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        evaluate_encoder(encoder_folder, tasks="SciFact", bach_size=3)
    with pytest.raises(EvaluationError, match="none of the 1 tasks can be evaluated: SICK-R: not in the mirror"):
        evaluate_encoder(encoder_folder, tasks="SICK-R", mirror=mirror, **QUICK)

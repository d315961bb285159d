from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from prune2vec.errors import DataError, EvaluationError
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import METRICS, Results, TaskScore

SCORES = dict(zip(METRICS, (0.5, 0.4, 0.3, 0.6, 0.9), strict=True))
TASK = TaskScore(
    name="SciFact",
    type="Retrieval",
    main_score="ndcg_at_10",
    score=0.25,
    parts=({"split": "test", "subset": "default", "score": 0.25},),
    metrics={"ndcg_at_10": 0.25},
    prompts={"query": "", "document": ""},
    data={"path": "SciFact", "digest": "0"},
    seconds=1.0,
)
SIDE = {"texts_per_s": 10.0, "tokens_per_s": 200.0}
RESULTS = Results(
    encoder={"path": "small"},
    size={"parameters": 134_500_000, "embedding_parameters": 28_000_000, "disk_bytes": 269_000_000},
    memory={"process": 900_000_000, "encoding": 800_000_000, "cuda": None},
    speed={"queries": SIDE, "documents": SIDE},
    tasks=(TASK, dataclasses.replace(TASK, name="STS17", score=0.75)),
    missing={"SciDocsRR": "not in the mirror"},
)
OWN = {"data": {"source": "heldout.jsonl", "queries": 3, "documents": 9}, "metrics": SCORES, "bm25": {"metrics": SCORES}}


def test_saved_and_loaded_are_equal(tmp_path: Path) -> None:
    results = dataclasses.replace(RESULTS, retrieval=OWN)
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results


def test_files_without_the_scores_of_single_queries_are_read(tmp_path: Path) -> None:
    items = ItemScores.of([0.25, 0.75], items=["a", "b"], unit="queries", ranks=[1, 0])
    results = dataclasses.replace(
        RESULTS, retrieval={**OWN, "items": dataclasses.asdict(items)}, tasks=(dataclasses.replace(TASK, items=(items,)),)
    )
    results.save(tmp_path / "results.json")
    found = Results.load(tmp_path / "results.json")
    assert found == results and found.own_items == (items,) and found.tasks[0].items == (items,)
    text = (tmp_path / "results.json").read_text()
    # As earlier releases wrote it.
    value = json.loads(text)
    del value["retrieval"]["items"], value["tasks"][0]["items"]
    (tmp_path / "old.json").write_text(json.dumps(value))
    old = Results.load(tmp_path / "old.json")
    assert (old.score, old.own_items, old.tasks[0].items) == (results.score, (), ())
    value["retrieval"]["items"] = {**json.loads(text)["retrieval"]["items"], "values": "0.25"}
    (tmp_path / "broken.json").write_text(json.dumps(value))
    with pytest.raises(EvaluationError, match="retrieval"):
        Results.load(tmp_path / "broken.json")


def test_the_average_says_over_how_many() -> None:
    assert RESULTS.score == 0.5
    assert RESULTS.score_name == "mean of 2 of 3 tasks"
    stored = RESULTS.to_json()
    assert (stored["score"], stored["score_name"], stored["task_mean"]) == (0.5, "mean of 2 of 3 tasks", 0.5)


def test_own_data_comes_before_tasks() -> None:
    results = dataclasses.replace(RESULTS, retrieval={**OWN, "metrics": {**SCORES, "ndcg@10": 0.8}})
    assert (results.score, results.score_name, results.task_mean) == (0.8, "nDCG@10", 0.5)


def test_without_any_score() -> None:
    results = dataclasses.replace(RESULTS, tasks=(), missing={})
    assert results.to_json()["score"] is None
    assert (results.score, results.score_name) == (None, "")


def test_the_table_has_every_number() -> None:
    text = dataclasses.replace(RESULTS, retrieval=OWN).render()
    for words in (
        "134.5 M parameters",
        "269.0 MB on disk",
        "800.0 MB peak",
        "BM25",
        "0.9000",
        "SciFact",
        "missing",
        "2 of 3 tasks",
    ):
        assert words in text
    assert "BM25" not in dataclasses.replace(RESULTS, retrieval={**OWN, "bm25": None}).render()
    assert "cut there" not in text
    unmeasured = dataclasses.replace(RESULTS, memory={"process": 9 * 10**8, "encoding": None, "cuda": None})
    assert "on disk\n" in f"{unmeasured.render()}\n" and "peak memory" not in unmeasured.render()
    data = {**OWN["data"], "truncated_queries": 0, "truncated_documents": 1234}
    text = dataclasses.replace(RESULTS, retrieval={**OWN, "data": data}).render()
    assert "  1,234 documents are longer than the encoder reads, and cut there" in text


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"results\.json:1"):
        Results.load(path)
    path.write_text('{"format": "prune2vec.plan/3"}', encoding="utf-8")
    with pytest.raises(EvaluationError, match="not a results file"):
        Results.load(path)
    path.write_text(json.dumps({**RESULTS.to_json(), "tasks": [{"name": "x"}]}), encoding="utf-8")
    with pytest.raises(EvaluationError, match="broken results"):
        Results.load(path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("size", "parameters"), "many", "size.parameters: input should be a valid integer"),
        (("size", "parameters"), True, "size.parameters: input should be a valid integer, got true"),
        (("size",), [1], "size: "),
        (("speed", "queries"), {}, "speed.queries.texts_per_s is missing"),
        (("speed", "queries", "texts_per_s"), "1", "speed.queries.texts_per_s: input should be a valid number"),
        (("retrieval", "metrics", "ndcg@10"), None, "retrieval"),
        (("retrieval", "metrics"), {"mrr@10": 1.0}, "retrieval"),
        (("tasks", 0, "score"), "0.5", "tasks.0.score: input should be a valid number"),
        (("tasks", 0, "scroe"), 1, "unknown key 'tasks.0.scroe'"),
        (("encoder",), "small", "encoder: "),
        (("encoder", "record"), 5, "encoder.record: "),
        (("retrieval", "data", "digest"), [], "retrieval"),
        (("missing",), {"x": 3}, "missing.x: input should be a valid string"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_by_its_key(
    tmp_path: Path, place: tuple[str | int, ...], value: object, said: str
) -> None:
    stored = json.loads(json.dumps(dataclasses.replace(RESULTS, retrieval=OWN).to_json()))
    inner = stored
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    path = tmp_path / "results.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(EvaluationError) as caught:
        Results.load(path)
    assert str(caught.value).startswith(f"{path}: broken results file ({said}") and "\n" not in str(caught.value)

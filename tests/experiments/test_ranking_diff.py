from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prune2vec.errors import ConfigError, EvaluationError, Prune2vecError
from prune2vec.evaluation.evaluate import evaluate_encoder
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import Results
from prune2vec.experiments.compare import compare_results
from prune2vec.experiments.ranking_diff import JudgedQuery, own_queries, ranking_diffs, task_queries
from tests.cli.conftest import Cli, cli
from tests.evaluation.conftest import encoder_folder, mirror, triplets_file
from tests.evaluation.helpers import QUICK, save_tiny_encoder, write_mirror, write_rows
from tests.evaluation.test_item_scores_mteb import DOCUMENTS
from tests.experiments.small import items_of, results_of
from tests.experiments.test_intervals import task_score

_ = cli, encoder_folder, mirror, triplets_file


def own(values: list[float], ranks: list[int]) -> Results:
    results = results_of()
    return replace(results, retrieval={**results.retrieval, "items": items_of(values, ranks=ranks)})


def test_the_worst_come_first_and_are_counted() -> None:
    before = own([1.0, 0.5, 0.3, 0.0, 0.4, 0.4], [1, 3, 9, 40, 5, 5])
    after = own([1.0, 0.0, 0.0, 0.6, 0.0, 0.0], [1, 11, 12, 2, 90, 0])
    (found,) = ranking_diffs(before, after)
    assert (found.name, found.worse, found.better, found.same) == ("nDCG@10 on dev.jsonl", 4, 1, 1)
    assert [(one.number, one.before, one.after) for one in found.worst] == [(2, 3, 11), (6, 5, 0), (5, 5, 90), (3, 9, 12)]
    assert "the texts cannot be shown: " in found.render() and "dev.jsonl" in found.note
    assert "5 -> not found  query 6" in found.render()
    (same,) = ranking_diffs(before, before)
    assert (same.worse, same.worst, same.note) == (0, (), "")


def test_ten_are_shown() -> None:
    (found,) = ranking_diffs(own([1.0] * 30, [1] * 30), own([0.0] * 30, [0] * 30))
    assert (found.worse, len(found.worst)) == (30, 10)


def test_only_the_same_queries_are_compared() -> None:
    before = own([1.0], [1])
    data = {**before.retrieval["data"], "digest": "other"}
    assert ranking_diffs(before, replace(before, retrieval={**before.retrieval, "data": data})) == ()
    tasks = (
        task_score("STS", ItemScores.of([1, 2], gold=[1, 2], items="x", unit="pairs", statistic="spearman")),
        task_score("A", ItemScores.of([1.0], ranks=[1], items="x", unit="queries")),
    )
    one = results_of(retrieval={}, tasks=tasks)
    (found,) = ranking_diffs(one, one)
    assert found.name == "A"
    other = (tasks[0], task_score("A", ItemScores.of([1.0], ranks=[1], items="y", unit="queries")))
    assert ranking_diffs(one, results_of(retrieval={}, tasks=other)) == ()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random encoders, evaluated on the same texts of their own and on a retrieval task."""
    folder = tmp_path_factory.mktemp("evaluated")
    mirror = write_mirror(folder / "mirror")
    words = ("apple", "river", "stone", "cloud", "tiger", "piano", "ladder", "window")
    rows = [{"query": f"{word} question", "positive": f"of {word}", "negative": f"some {word[::-1]} else"} for word in words]
    data = write_rows(folder / "heldout.jsonl", rows)
    for name, seed in (("one", 0), ("two", 1)):
        encoder = save_tiny_encoder(folder / "encoders" / name, seed=seed)
        evaluate_encoder(encoder, data=data, tasks="SciFact", mirror=mirror, output=folder / f"{name}.json", **QUICK)
    return folder


def test_texts_and_places_are_those_of_the_evaluation(evaluated: Path) -> None:
    comparison = compare_results([evaluated / "one.json", evaluated / "two.json"], diff=True)
    own_data, scifact = comparison.worst
    assert own_data.name.endswith("heldout.jsonl") and scifact.name == "SciFact"
    assert own_data.worst, "random encoders rank differently"
    before, after = (row.results.own_items[0] for row in comparison.rows)
    for moved in own_data.worst:
        assert moved.right == f"of {moved.text.removesuffix(' question')}" and moved.others == 0
        assert (before.places[moved.number - 1], after.places[moved.number - 1]) == (moved.before, moved.after)
        assert moved.text in comparison.render() and moved.right in comparison.to_markdown()
    # Found word for word by both.
    assert (scifact.worse, scifact.better, scifact.same) == (0, 0, 2)
    assert scifact.render() == "SciFact: 0 queries worse, 0 better, 2 as before"
    assert comparison.to_json()["worst"][0]["worst"][0]["text"] == own_data.worst[0].text


def test_nothing_in_common_is_said(evaluated: Path, tmp_path: Path) -> None:
    results = Results.load(evaluated / "one.json")
    replace(results, tasks=(), retrieval={}).save(tmp_path / "bare.json")
    comparison = compare_results([evaluated / "one.json", tmp_path / "bare.json"], diff=True)
    assert not comparison.worst and comparison.notes[-1].startswith("No queries are shown")


def test_on_the_command_line(evaluated: Path, cli: Cli) -> None:
    ran = cli("compare", evaluated / "one.json", evaluated / "two.json", "--diff")
    assert ran.code == 0, ran.err
    assert "place of the first right document before -> after:" in ran.out and "right:  of " in ran.out
    ran = cli("compare", evaluated / "one.json", "--diff")
    assert ran.code == 1 and "got 1 results, expected two" in ran.err
    with pytest.raises(ConfigError, match="expected two"):
        compare_results([evaluated / "one.json"], diff=True)


def test_texts_of_the_queries_are_found_again(encoder_folder: Path, mirror: Path, triplets_file: Path) -> None:
    results = evaluate_encoder(
        encoder_folder, data=triplets_file, tasks="SciFact", mirror=mirror, max_queries=4, seed=7, **QUICK
    )
    own = own_queries(results)
    assert len(own) == 4 == len(results.own_items[0])
    assert all(query.text.removesuffix(" question") in query.right[0] for query in own)
    (score,) = results.tasks
    assert task_queries(results, score, score.items[0]) == [
        JudgedQuery(text=DOCUMENTS[0], right=(DOCUMENTS[0],)),
        JudgedQuery(text=DOCUMENTS[3], right=(DOCUMENTS[3],)),
    ]


def test_texts_that_are_others_now_are_not_shown(encoder_folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "dev.jsonl", [{"query": "a b", "positive": "c d"}, {"query": "e", "positive": "f"}])
    results = evaluate_encoder(encoder_folder, data=data, **QUICK)
    assert [query.text for query in own_queries(results)] == ["a b", "e"]
    write_rows(data, [{"query": "e", "positive": "f"}, {"query": "a b", "positive": "c d"}])
    with pytest.raises(EvaluationError, match=r"dev\.jsonl is not what it was"):
        own_queries(results)
    data.unlink()
    with pytest.raises(Prune2vecError, match=r"dev\.jsonl"):
        own_queries(results)

"""README's figures of the demo are those in the files of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.evaluation.results import Results
from prune2vec.experiments.run import demo_recipe, run_demo
from prune2vec.files import read_json, write_json
from scripts import demo_record
from tests.experiments.small import SmallStages


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the demo's recipe with small stages, the memory of its last process known."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    run_demo(folder, stages=SmallStages())
    for name, process in (("full", 2_500_000_000), ("large", 2_900_000_000), ("small", 2_700_000_000)):
        file = folder / name / "results.json"
        write_json(file, {**Results.load(file).to_json(), "memory": {"process": process, "encoding": 1, "cuda": None}})
    return folder


def test_figures_come_from_the_run(finished: Path, tmp_path: Path) -> None:
    assert demo_record.main([str(finished)], record=tmp_path / "demo.json") == 0
    record, recipe = read_json(tmp_path / "demo.json"), demo_recipe()
    assert recipe.train is not None
    assert (record["steps"], record["batch_size"]) == (recipe.train.steps, recipe.train.batch_size)
    assert (record["tuples"], record["queries"]) == (320, 3)
    assert record["memory_bytes"] == 2_900_000_000
    assert record["seconds"] == round(read_json(finished / "manifest.json")["seconds"])
    assert not record["with_installation"]
    rows = {row[0]: row for row in record["table"]["rows"]}
    assert list(rows) == ["full", "large", "half", "small", "BM25"]
    score = record["table"]["header"].index("nDCG@10")
    for name in record["variants"]:
        assert rows[name][score] == f"{Results.load(finished / name / 'results.json').score:.4f}"
    assert record["below_bm25"] == [name for name in record["variants"] if float(rows[name][score]) < 0.5]


def test_the_block_shows_them_and_nothing_else(finished: Path) -> None:
    text = demo_record.block({**demo_record.record_of(finished, 1080.0), "below_bm25": ["large"], "steps": 7})
    assert "`make demo` took 18 minutes, installation included, and 2.9 GB of memory" in text
    assert text.count("7 steps") == 2
    assert text.endswith("1,000 steps of 64, and BM25 is ahead of large here.\n")
    assert "BM25 is ahead" not in demo_record.block({**demo_record.record_of(finished), "below_bm25": []})


def test_the_committed_record_is_of_the_recipe_of_today() -> None:
    record, recipe = read_json(demo_record.RECORD), demo_recipe()
    assert recipe.train is not None
    assert (record["steps"], record["batch_size"]) == (recipe.train.steps, recipe.train.batch_size)
    assert record["tuples"] == recipe.profile.groups * recipe.profile.group_size

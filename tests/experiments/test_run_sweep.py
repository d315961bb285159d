"""A sweep as a run: cells that fail, parts on several machines, and one table of all."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from prune2vec.errors import ConfigError, DataError, TrainingError
from prune2vec.experiments.compare import compare_results
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.run import list_cells, run_recipe
from tests.cli.conftest import Cli, cli
from tests.experiments.small import SmallStages, recipe_values
from tests.tiny import save_tiny

_ = cli
SWEEP: dict[str, Any] = {"methods": ["full", "depth", "random"], "sizes": ["25%", "50%"], "seeds": [1, 2]}
NAMES = [f"{cut}-s{seed}" for seed in (1, 2) for cut in ("full", "depth-25pct", "depth-50pct", "random-25pct", "random-50pct")]
# Half of the layers are six: those cells keep the same.
TWINS: dict[str, Any] = {"methods": ["full", "depth"], "sizes": ["50%", 6]}


class Breaking(SmallStages):
    """Stages of which one kind fails in one variant, or in all of them."""

    def __init__(self, stage: str, variant: str, error: BaseException) -> None:
        super().__init__()
        self._breaks = (stage, variant, error)

    def _break(self, stage: str, output: Path) -> None:
        if self._breaks[0] == stage and self._breaks[1] in ("", output.parent.name):
            raise self._breaks[2]

    def train(self, checkpoint: Path, texts: Any, settings: Any, output: Path, *, plain: bool = False) -> None:
        self._break("train", output)
        super().train(checkpoint, texts, settings, output, plain=plain)

    def plan(self, profile: Path, variant: Any, texts: Any, output: Path) -> None:
        self._break("plan", output)
        super().plan(profile, variant, texts, output)


def swept(
    tmp_path: Path,
    output: str = "run",
    stages: SmallStages | None = None,
    *,
    sweep: Any = SWEEP,
    train: Any = None,
    **about: Any,
) -> Any:
    values = recipe_values(tmp_path, sweep=sweep, train=train or {"steps": 4})
    return run_recipe(values, tmp_path / output, stages=stages or SmallStages(), **about)


def table(folder: Path) -> list[dict[str, Any]]:
    return parquet.read_table(folder / "sweep.parquet").to_pylist()


def test_every_cell_is_in_the_table_with_its_digests(tmp_path: Path) -> None:
    report = swept(tmp_path)
    rows = table(tmp_path / "run")
    assert [row["cell"] for row in rows] == NAMES == [row.name for row in report.comparison.rows]
    assert [(row["method"], row["size"], row["seed"]) for row in rows[:3]] == [
        ("full", "", 1),
        ("depth", "25%", 1),
        ("depth", "50%", 1),
    ]
    assert [row["layers"] for row in rows[:5]] == ["12 of 12", "3 of 12", "6 of 12", "3 of 12", "6 of 12"]
    assert [row["cut"] for row in rows[:3]] == [f"keeps 0-{last} of 0-11" for last in (11, 2, 5)]
    for row in rows:
        results = json.loads((tmp_path / "run" / row["cell"] / "results.json").read_text())
        plan = json.loads((tmp_path / "run" / row["cell"] / "plan.json").read_text())
        assert row["score"] == results["score"] and row["parameters"] == results["size"]["parameters"]
        assert row is rows[0] or row["difference"] == pytest.approx(row["score"] - rows[0]["score"])
        assert (row["data_digest"], row["profile_digest"], row["error"]) == ("d", plan["profile_digest"], None)
    assert len({row["plan_digest"] for row in rows}) == 5 and len({row["score"] for row in rows}) == 10
    text = (tmp_path / "run" / "sweep.md").read_text()
    mean = (rows[1]["score"] + rows[6]["score"]) / 2
    assert f"| depth 25% | 2 | {mean:.4f} |" in text and f"| {NAMES[1]} | keeps 0-2 of 0-11 | " in text


def test_a_cell_that_fails_leaves_nothing_in_memory(tmp_path: Path) -> None:
    class Model:
        def __init__(self) -> None:
            self.own = self

    failed: list[weakref.ref[Model]] = []
    left: list[bool] = []

    class Holding(SmallStages):
        def train(self, checkpoint: Path, texts: Any, settings: Any, output: Path, *, plain: bool = False) -> None:
            if output.parent.name == "full-s1":
                model = Model()
                failed.append(weakref.ref(model))
                raise MemoryError("no room")
            super().train(checkpoint, texts, settings, output, plain=plain)

        def prune(self, model: str, plan: Path | int, settings: Any, output: Path) -> None:
            left.extend(one() is not None for one in failed)
            super().prune(model, plan, settings, output)

    gc.disable()
    try:
        assert swept(tmp_path, stages=Holding()).errors == {"full-s1": "no room"}
    finally:
        gc.enable()
    assert left and not any(left)


def test_a_cell_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    stages = Breaking("train", "depth-50pct-s1", MemoryError("no room"))
    report = swept(tmp_path, stages=stages)
    assert report.failed and report.errors == {"depth-50pct-s1": "no room"}
    assert "depth-50pct-s1 failed: no room" in report.render()
    rows = table(tmp_path / "run")
    assert [row["cell"] for row in rows] == NAMES
    assert [(row["score"] is None, row["error"]) for row in rows if row["cell"] == "depth-50pct-s1"] == [(True, "no room")]
    assert sum(row["score"] is not None for row in rows) == 9
    assert "depth-50pct-s1 failed: no room" in (tmp_path / "run" / "sweep.md").read_text()
    listed = list_cells(recipe_values(tmp_path, sweep=SWEEP), tmp_path / "run", stages=SmallStages())
    assert listed.states == {name: "failed: no room" if name == "depth-50pct-s1" else "done" for name in NAMES}
    # The same command tries it again, and nothing else.
    again = SmallStages()
    assert not swept(tmp_path, stages=again).failed
    assert again.calls == ["train depth-50pct-s1", "evaluate depth-50pct-s1"]
    swept(tmp_path, "whole")
    assert table(tmp_path / "run") == table(tmp_path / "whole")


def test_a_plan_that_fails_and_one_without_a_sweep(tmp_path: Path) -> None:
    report = swept(tmp_path, stages=Breaking("plan", "random-25pct-s2", TrainingError("why")))
    assert report.errors == {"random-25pct-s2": "why"}
    with pytest.raises(TrainingError, match="why"):
        run_recipe(recipe_values(tmp_path), tmp_path / "plain", stages=Breaking("train", "small", TrainingError("why")))
    only = {"methods": ["full"], "sizes": ["small"]}
    values = recipe_values(tmp_path, sweep=only)
    report = run_recipe(values, tmp_path / "none", stages=Breaking("train", "full", TrainingError("why")))
    assert report.failed and report.render() == "full failed: why" and report.page is None
    assert list_cells(values, tmp_path / "none", stages=SmallStages()).states == {"full": "failed: why"}
    with pytest.raises(DataError, match="nothing to compare"):
        compare_results(tmp_path / "none")


def test_stopped_and_started_again_it_makes_the_same_table(tmp_path: Path) -> None:
    swept(tmp_path, "whole")
    for name in ("depth-25pct-s1", "random-50pct-s2"):
        with pytest.raises(KeyboardInterrupt):
            swept(tmp_path, stages=Breaking("train", name, KeyboardInterrupt()))
        assert not (tmp_path / "run" / "sweep.parquet").exists()
    listed = list_cells(recipe_values(tmp_path, sweep=SWEEP), tmp_path / "run", stages=SmallStages())
    assert listed.states["full-s1"] == "done" and listed.states["random-50pct-s2"] == "to do"
    swept(tmp_path)
    for name in ("sweep.parquet", "sweep.md"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_one_cell_alone_with_its_teacher(tmp_path: Path) -> None:
    values = recipe_values(
        tmp_path, variants=[{"name": "big", "method": "full"}], sweep={**SWEEP, "train": {"a": {"teacher": "big"}}}
    )
    stages = SmallStages()
    run_recipe(values, tmp_path / "run", stages=stages, cell="depth-25pct-s2")
    assert [call for call in stages.calls if call.startswith("evaluate")] == ["evaluate big", "evaluate depth-25pct-s2"]
    assert [row["cell"] for row in table(tmp_path / "run")] == ["big", "depth-25pct-s2"]
    with pytest.raises(ConfigError, match="no cell is called 'depth-25pct-s3'; did you mean 'depth-25pct-s"):
        run_recipe(values, tmp_path / "run", stages=stages, cell="depth-25pct-s3")


def test_one_cell_again_leaves_what_is_known_of_the_others(tmp_path: Path) -> None:
    stages = Breaking("train", "depth-50pct-s1", MemoryError("no room"))
    swept(tmp_path, stages=stages)
    before = table(tmp_path / "run")
    again = SmallStages()
    report = swept(tmp_path, stages=again, cell="random-25pct-s2")
    assert again.calls == [] and not report.failed, "it is done already, and the other one's failure is not this call's"
    assert table(tmp_path / "run") == before
    listed = list_cells(recipe_values(tmp_path, sweep=SWEEP), tmp_path / "run", stages=SmallStages())
    assert listed.states["depth-50pct-s1"] == "failed: no room"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert list(manifest["plans"]) == [name for name in NAMES if name != "depth-50pct-s1"]
    # The one that failed, alone: then the table is that of a run in one piece.
    swept(tmp_path, stages=SmallStages(), cell="depth-50pct-s1")
    swept(tmp_path, "whole")
    assert table(tmp_path / "run") == table(tmp_path / "whole")
    assert (tmp_path / "run" / "sweep.md").read_text() == (tmp_path / "whole" / "sweep.md").read_text()


def test_a_cell_of_an_earlier_recipe_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["full", "depth"]
    for size in ("50%", "30%"):
        values = recipe_values(tmp_path, variants=[], sweep={"methods": methods, "sizes": [size]})
        run_recipe(values, tmp_path / "run", stages=SmallStages())
    assert [row.name for row in compare_results(tmp_path / "run").rows] == ["full", "depth-30pct"]
    assert "left out is what its recipe no longer has: depth-50pct" in capsys.readouterr().err
    variants = [
        {"name": name, "method": "depth", "parameters": {"depth": depth}} for name, depth in (("whole", 12), ("half", 6))
    ]
    run_recipe(recipe_values(tmp_path, variants=variants), tmp_path / "plain", stages=SmallStages())
    assert [row.name for row in compare_results(tmp_path / "plain").rows] == ["whole", "half"], "in the recipe's order"


def test_differences_over_seeds_are_those_of_one_seed_each(tmp_path: Path) -> None:
    swept(tmp_path)
    scores = {row["cell"]: row["score"] for row in table(tmp_path / "run")}
    mean = sum(scores[f"depth-25pct-s{seed}"] - scores[f"full-s{seed}"] for seed in (1, 2)) / 2
    lines = [line.split(" | ") for line in (tmp_path / "run" / "sweep.md").read_text().splitlines()]
    found = {cells[0].removeprefix("| "): cells[-1].removesuffix(" |").strip("| ") for cells in lines if len(cells) == 6}
    assert found["depth 25%"] == f"{mean:+.4f}" and found["full"] == ""


def test_an_encoder_that_is_not_trained_has_no_seeds(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "modules.json").write_text("[]")
    values = recipe_values(tmp_path, model=str(model), variants=[], sweep={**SWEEP, "methods": ["full", "depth"]})
    stages = SmallStages()
    run_recipe(values, tmp_path / "run", stages=stages)
    assert [call for call in stages.calls if call.endswith(("full-s1", "full-s2"))] == ["prune full-s1", "evaluate full-s1"]
    spread = (tmp_path / "run" / "sweep.md").read_text().partition("over seeds")[2]
    assert "| full |" not in spread
    scores = {row["cell"]: row["score"] for row in table(tmp_path / "run")}
    mean = (scores["depth-25pct-s1"] + scores["depth-25pct-s2"]) / 2 - scores["full-s1"]
    assert next(line for line in spread.splitlines() if "depth 25%" in line).endswith(f"| {mean:+.4f} |")


def test_without_the_first_cell_of_a_seed_there_is_no_mean_difference(tmp_path: Path) -> None:
    swept(tmp_path, stages=Breaking("train", "full-s2", MemoryError("no room")))
    spread = (tmp_path / "run" / "sweep.md").read_text().partition("over seeds")[2]
    assert "| mean difference |" not in spread and "| depth 25% | 2 |" in spread


def test_the_seed_of_a_sweep_without_seeds_is_that_of_the_training(tmp_path: Path) -> None:
    def seeds(**about: Any) -> dict[str, Any]:
        recipe = Recipe.of(recipe_values(tmp_path, **about)).swept()
        return {one.name: settings.seed for one in recipe.variants if (settings := one.training(recipe.train)) is not None}

    only: dict[str, Any] = {"methods": ["full"], "sizes": ["small"]}
    assert seeds(train={"steps": 4, "seed": 7}, variants=[], sweep=only) == {"full": 7}
    assert seeds(variants=[], sweep={**only, "train": {"short": {"seed": 9}, "long": {}}}) == {"full-short": 9, "full-long": 42}
    with pytest.raises(ConfigError, match="the way to train 'short' has a seed, and the sweep has seeds"):
        seeds(variants=[], sweep={**only, "seeds": [1], "train": {"short": {"seed": 9}}})
    values = recipe_values(tmp_path, train={"steps": 4, "seed": 7}, variants=[], sweep={**only, "seeds": [1, 2]})
    run_recipe(values, tmp_path / "run", stages=SmallStages())
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())["seeds"]
    assert {name: seed for name, seed in told.items() if name.startswith("full")} == {
        "full-s1.train.seed": 1,
        "full-s2.train.seed": 2,
    }


@pytest.mark.parametrize("sweep", [SWEEP, {**SWEEP, "sizes": ["25%", "50%", 6]}], ids=["all different", "some the same"])
def test_shards_put_together_are_the_whole(tmp_path: Path, sweep: Any) -> None:
    swept(tmp_path, "whole", sweep=sweep)
    for shard in ("0/3", "1/3", "2/3"):
        swept(tmp_path, "parts", sweep=sweep, shard=shard)
    folders = sorted((tmp_path / "parts").glob("shard-*"))
    assert [folder.name for folder in folders] == [f"shard-0000{number}-of-00003" for number in range(3)]
    names = [row["cell"] for row in table(tmp_path / "whole")]
    assert [row["cell"] for row in table(folders[1])] == [name for place, name in enumerate(names) if place % 6 in (1, 4)]
    # Whatever the order of the folders, and by the folder that holds them, whatever else lies there.
    (tmp_path / "parts" / "shard-00000-of-00003.bak").mkdir()
    for number, given in enumerate((folders[::-1], tmp_path / "parts")):
        merged = compare_results(given, output=tmp_path / f"merged-{number}")
        assert [row.name for row in merged.rows] == names
        assert table(tmp_path / f"merged-{number}") == table(tmp_path / "whole")
        assert (tmp_path / f"merged-{number}" / "sweep.md").read_text() == (tmp_path / "whole" / "sweep.md").read_text()
    listed = list_cells(recipe_values(tmp_path, sweep=sweep), tmp_path / "parts", stages=SmallStages())
    assert list(listed.states.items()) == [(name, "done") for name in names]
    assert compare_results(tmp_path / "parts", gate=tmp_path / "parts").losses == ()


def test_no_shard_has_the_largest_cells_alone(tmp_path: Path) -> None:
    recipe = Recipe.of(recipe_values(tmp_path, sweep={"methods": ["depth"], "sizes": [12, 9, 6, 3], "seeds": [1, 2]}))
    for shard in range(4):
        listed = list_cells(recipe, tmp_path / "run", stages=SmallStages(), shard=f"{shard}/4").states
        assert sum(int(name.split("-")[1]) for name in listed) == 15


def test_shards_of_different_recipes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard, steps in (("0/2", 4), ("1/2", 5)):
        swept(tmp_path, train={"steps": steps}, shard=shard)
    capsys.readouterr()
    compare_results(tmp_path / "run")
    assert "shard-00001-of-00002 was run by another recipe than" in (said := capsys.readouterr().err) and "(train)" in said


def test_a_copy_is_as_current_as_the_cell_that_it_is_a_copy_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def listed(steps: int) -> Mapping[str, str]:
        values = recipe_values(tmp_path, sweep=TWINS, train={"steps": steps})
        return list_cells(values, tmp_path / "run", stages=SmallStages()).states

    swept(tmp_path, sweep=TWINS, cell="depth-50pct")
    assert listed(4) == {"full": "to do", "depth-50pct": "done", "depth-6": "to do"}, "it is not planned yet"
    swept(tmp_path, sweep=TWINS)
    assert set(listed(5).values()) == {"to do"}
    swept(tmp_path, sweep=TWINS, train={"steps": 5}, cell="depth-50pct")
    assert listed(5) == {"full": "to do", "depth-50pct": "done", "depth-6": "done"}
    half, copy = table(tmp_path / "run")
    assert copy["same_as"] == "depth-50pct" and copy["difference"] == 0
    assert all(half[key] == copy[key] for key in ("score", "encoder_digest", "plan_digest"))
    capsys.readouterr()
    assert [row.same_as for row in compare_results(tmp_path / "run", output=tmp_path / "table").rows] == [None, "depth-50pct"]
    assert "left out are results of an earlier recipe: full; run it again" in capsys.readouterr().err
    assert table(tmp_path / "table") == table(tmp_path / "run")
    # Done alone it is trained for itself.
    again = SmallStages()
    swept(tmp_path, stages=again, sweep=TWINS, train={"steps": 5}, cell="depth-6")
    assert "train depth-6" in again.calls
    assert [row.name for row in compare_results(tmp_path / "run").rows] == ["depth-50pct", "depth-6"]
    swept(tmp_path, "failed", Breaking("train", "depth-50pct", MemoryError("no room")), sweep=TWINS)
    states = list_cells(recipe_values(tmp_path, sweep=TWINS), tmp_path / "failed", stages=SmallStages()).states
    assert states["depth-6"] == "failed: it keeps the same as depth-50pct, which failed"


def test_nothing_of_an_earlier_recipe_stays_beside_the_new_report(tmp_path: Path) -> None:
    swept(tmp_path)
    compare_results(tmp_path / "run", output=tmp_path / "table")
    assert {"sweep.json", "sweep.md", "sweep.parquet"} <= {file.name for file in (tmp_path / "run").iterdir()}
    variants = [{"name": name, "method": "depth", "parameters": {"depth": depth}} for name, depth in (("new", 4), ("old", 9))]
    run_recipe(recipe_values(tmp_path, variants=variants), tmp_path / "run", stages=SmallStages())
    assert [row.name for row in compare_results(tmp_path / "run", output=tmp_path / "table").rows] == ["new", "old"]
    assert not [*(tmp_path / "run").glob("sweep.*"), *(tmp_path / "table").glob("sweep.*")]
    swept(tmp_path)
    report = swept(tmp_path, stages=Breaking("train", "", MemoryError("no room")), train={"steps": 9})
    assert set(report.errors) == set(NAMES)
    assert {file.name for file in (tmp_path / "run").iterdir()} & {"report.md", "sweep.md"} == set()
    swept(tmp_path, "fresh", Breaking("train", "", MemoryError("no room")))
    for run in ("run", "fresh"):
        with pytest.raises(DataError, match=rf"nothing to compare, no cell of .*{run} has results; full-s1 failed: no room"):
            compare_results(tmp_path / run)


def test_shards_that_are_not_done_are_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swept(tmp_path, shard="0/4")
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, shard="2/4", stages=Breaking("train", "full-s2", KeyboardInterrupt()))
    capsys.readouterr()
    done = ["full-s1", "depth-50pct-s2", "random-25pct-s2"]
    assert [row.name for row in compare_results(tmp_path / "run", output=tmp_path / "table").rows] == done
    assert "run: of its 4 shards not done, and left out: 1, 2, 3 (the first is 0)" in capsys.readouterr().err
    assert [row["cell"] for row in table(tmp_path / "table")] == done
    swept(tmp_path, shard="0/3")
    for call in (compare_results, lambda folder: list_cells(recipe_values(tmp_path, sweep=SWEEP), folder)):
        with pytest.raises(ConfigError, match="holds shards of 3 and of 4; say how many"):
            call(tmp_path / "run")


def test_a_sweep_done_twice_is_compared_with_itself(tmp_path: Path) -> None:
    for run in ("first", "second"):
        swept(tmp_path, run)
        swept(tmp_path, f"{run}-parts", shard="0/3")
    rows = compare_results([tmp_path / "first", tmp_path / "second"], output=tmp_path / "both").rows
    assert [row.name for row in rows] == [f"{run}/{name}" for run in ("first", "second") for name in NAMES]
    shards = [tmp_path / f"{run}-parts" / "shard-00000-of-00003" for run in ("first", "second")]
    first = [name for place, name in enumerate(NAMES) if place % 6 in (0, 5)]
    assert len(compare_results(shards).rows) == 2 * len(first), "one shard, done twice"
    files = [tmp_path / run / NAMES[0] / "results.json" for run in ("first", "second")]
    assert [row.name for row in compare_results(files).rows] == [f"{run}/{NAMES[0]}" for run in ("first", "second")]


def test_what_is_trained_together_is_in_one_shard(tmp_path: Path) -> None:
    cuts = [
        {"name": f"at-{depth}", "method": "depth", "parameters": {"depth": depth}, "trained_with": "big"} for depth in (1, 2)
    ]
    variants = [{"name": "big", "method": "full"}, *cuts, {"name": "alone", "method": "depth", "parameters": {"depth": 2}}]
    values, calls = recipe_values(tmp_path, variants=variants), []
    for shard, cells in (("0/2", {"big", "at-1", "at-2"}), ("1/2", {"alone"})):
        stages = SmallStages()
        run_recipe(values, tmp_path / "parts", stages=stages, shard=shard)
        assert set(list_cells(values, tmp_path / "parts", stages=SmallStages(), shard=shard).states) == cells
        calls += [call for call in stages.calls if call.startswith("train")]
    assert calls == ["train big", "train alone"]
    with pytest.raises(ConfigError, match=r"^shard 2/3 has no cell; there are 2 that are trained apart$"):
        run_recipe(values, tmp_path / "parts", stages=SmallStages(), shard="2/3")


def test_what_a_cell_is_trained_with_is_not_evaluated_for_it(tmp_path: Path) -> None:
    cuts = [
        {"name": f"at-{depth}", "method": "depth", "parameters": {"depth": depth}, "trained_with": "big"} for depth in (1, 2)
    ]
    values, stages = recipe_values(tmp_path, variants=[{"name": "big", "method": "full"}, *cuts]), SmallStages()
    report = run_recipe(values, tmp_path / "run", stages=stages, cell="at-2")
    assert [call for call in stages.calls if call.startswith(("train", "evaluate"))] == ["train big", "evaluate at-2"]
    assert report.comparison is not None and [row.name for row in report.comparison.rows] == ["at-2"]
    # What is missing is done by the run of all, and nothing else.
    again = SmallStages()
    rows = run_recipe(values, tmp_path / "run", stages=again).comparison
    assert [call for call in again.calls if call.startswith(("train", "evaluate"))] == ["evaluate big", "evaluate at-1"]
    assert rows is not None and [row.name for row in rows.rows] == ["big", "at-1", "at-2"]


def test_what_failed_in_a_shard_is_in_the_table_of_all(tmp_path: Path) -> None:
    for shard in ("0/2", "1/2"):
        swept(tmp_path, "parts", shard=shard, stages=Breaking("train", "depth-50pct-s1", TrainingError("why")))
    compare_results([tmp_path / "parts" / f"shard-0000{number}-of-00002" for number in range(2)], output=tmp_path / "merged")
    rows = table(tmp_path / "merged")
    assert [row["cell"] for row in rows] == NAMES
    assert [row["error"] for row in rows] == [None, None, "why", *[None] * 7]


def test_shards_of_a_real_model_put_together_are_the_whole(tmp_path: Path, cli: Cli) -> None:
    words = ("read", "write", "count", "sort", "merge", "split", "check", "load")
    rows = [
        {"anchor": f"how to {word} {n}", "positive": f"to {word} {n} call it", "negative": f"{word[::-1]} {n} is other"}
        for n in range(4)
        for word in words
    ]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(
            {
                "model": str(save_tiny(tmp_path / "model", "llama")),
                "data": {"train": "train.jsonl", "dev": "dev.jsonl"},
                "profile": {"groups": 2, "group-size": 8},
                "sweep": {"methods": ["full", "depth"], "sizes": ["50%"]},
                "train": {"steps": 2, "batch-size": 4, "dtype": "float32"},
                "evaluate": {"speed-texts": 0, "dtype": "float32"},
            }
        )
    )
    assert cli("run", "recipe.yaml", "-o", "whole", "--list").out.splitlines() == ["full         to do", "depth-50pct  to do"]
    assert cli("run", "recipe.yaml", "-o", "whole", "--list", "--shard", "1/2", "--json").data == {
        "cells": {"depth-50pct": "to do"}
    }
    assert cli("run", "recipe.yaml", "-o", "whole", "--list", "--cell", "full").code == 2
    assert "expected its number" in cli("run", "recipe.yaml", "-o", "whole", "--shard", "2/2").err
    assert not (tmp_path / "whole").exists()
    ran = cli("run", "recipe.yaml", "-o", "whole")
    assert ran.code == 0, ran.err
    for shard in ("0/2", "1/2"):
        ran = cli("run", "recipe.yaml", "-o", "parts", "--shard", shard)
        assert ran.code == 0, ran.err
    assert cli("run", "recipe.yaml", "-o", "parts", "--shard", "1/2", "--list").out.split() == ["depth-50pct", "done"]
    assert cli("compare", *sorted((tmp_path / "parts").iterdir()), "-o", "merged").code == 0
    whole, merged = table(tmp_path / "whole"), table(tmp_path / "merged")
    assert [row["cell"] for row in whole] == ["full", "depth-50pct"]
    # A folder also holds how long it took to make it, of which the digests know nothing.
    other = {"disk_bytes", "train_seconds", "train_memory_bytes"}
    assert [{key: row[key] for key in row if key not in other} for row in whole] == [
        {key: row[key] for key in row if key not in other} for row in merged
    ]
    assert whole[1]["steps"] == 2 and whole[1]["train_seconds"] > 0 and whole[1]["train_memory_bytes"] > 1e8
    assert whole[1]["score"] is not None and whole[1]["plan_digest"] and whole[1]["encoder_digest"]

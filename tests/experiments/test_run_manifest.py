from __future__ import annotations

import json
from pathlib import Path

from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.run import run_recipe
from tests.experiments.small import VARIANTS, Run, SmallStages, recipe_values


def test_manifest_has_what_a_repetition_needs(run: Run) -> None:
    run()
    manifest = json.loads((run.output / "manifest.json").read_text())
    assert manifest["model"]["fingerprint"] == "f"
    assert manifest["seeds"] == {"profile.seed": 42, "train.seed": 42, "evaluate.seed": 42}
    assert set(manifest["stages"]) == {
        "profile",
        *(f"{n}.{s}" for n in VARIANTS for s in ("plan", "prune", "train", "evaluate")),
    }
    assert {Path(source).name for source in manifest["data"]} == {"toy", "train.jsonl", "dev.jsonl"}
    assert manifest["environment"]["versions"]["torch"]
    assert Recipe.of(manifest["recipe"]) == Recipe.of(recipe_values(run.folder))


def test_written_recipe_does_the_same_run(run: Run) -> None:
    run()
    small = SmallStages()
    run_recipe(run.output / "recipe.yaml", run.output, stages=small.stages())
    assert small.calls == []

"""The width stage inside a run, and what a slim section of a recipe may say."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import ConfigError
from prune2vec.experiments.job import SLIM_PLAN
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.stages import Stages, real_stages
from prune2vec.records.plan import PruningPlan
from tests.experiments.small import Run, SmallStages, recipe_values

FULL = {"name": "full", "method": "full"}
AFTER = ["prune thin", "train thin", "evaluate thin"]


def depth(name: str, layers: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "method": "depth", "parameters": {"depth": layers}, **more}


def thin(**slim: Any) -> list[dict[str, Any]]:
    return [FULL, depth("thin", 6, slim={"width_cut": "30%", **slim})]


class Cutting(SmallStages):
    """Its planner asks for a share of the neurons of one variant."""

    def stages(self) -> Stages:
        def plan(profile: Path, variant: Any, output: Path) -> None:
            real_stages().plan(profile, variant, output)
            if variant.name == "thin":
                replace(PruningPlan.load(output), width_cut=Fraction(3, 10)).save(output)

        return replace(super().stages(), plan=plan)


def test_a_section_makes_a_stage_between_plan_and_prune(run: Run) -> None:
    report, calls = run(variants=thin(ranking="wanda"))
    assert calls == ["profile", "slim thin", "prune full", "train full", "evaluate full", *AFTER]
    assert [step.name for step in report.steps if step.name.startswith("thin")][:2] == ["thin.plan", "thin.slim"]
    final = PruningPlan.load(run.output / "thin" / SLIM_PLAN)
    assert {len(stay) for stay in final.neurons.values()} == {70}
    assert not PruningPlan.load(run.output / "thin" / "plan.json").neurons
    assert json.loads((run.output / "thin" / "checkpoint" / "widths.json").read_text())["0"] == 70
    assert run(variants=thin(ranking="wanda"))[1] == []


def test_a_plan_with_a_share_needs_no_section(run: Run) -> None:
    _, calls = run(small=Cutting(), variants=[FULL, depth("thin", 6)])
    assert calls.count("slim thin") == 1
    assert "slim full" not in calls
    assert PruningPlan.load(run.output / "thin" / SLIM_PLAN).parameters["slim"]["ranking"] == "gates"


def test_only_what_depends_on_the_section_is_done_again(run: Run) -> None:
    run(variants=thin())
    assert run(variants=thin(save_every=7, dtype="float32"))[1] == []
    assert run(variants=thin(seed=1))[1] == ["slim thin"], "the toy's plan comes out the same"
    assert run(variants=thin(width_cut="50%"))[1] == ["slim thin", *AFTER]
    assert run(variants=[FULL, depth("thin", 6)])[1] == AFTER
    assert not list((run.output / "thin").glob("slim-plan*")), "no plan of an earlier recipe lingers"


def test_variants_of_other_widths_are_no_twins(run: Run) -> None:
    variants = [
        depth("six", 6),
        depth("thin", 6, slim={"width_cut": "30%"}),
        depth("same", 6, slim={"width_cut": "30%", "ranking": "magnitude"}),
    ]
    data = {**recipe_values(run.folder)["data"], "mine": None}
    report, calls = run(variants=variants, queries=["how?"], data=data)
    assert "prune thin" in calls
    assert "prune same" not in calls
    assert [step.name for step in report.steps if step.outcome == "reused"] == ["same"]
    assert calls[-1] == "answer thin", "the fewest parameters, not the fewest layers"


def test_dry_run_does_not_know_what_is_not_ranked_yet(run: Run) -> None:
    run(variants=[FULL, depth("thin", 6)])
    report, calls = run(variants=thin(), dry_run=True)
    assert calls == []
    outcomes = {step.name: step.outcome for step in report.steps}
    assert outcomes["thin.plan"] == "skipped"
    assert outcomes["thin.slim"] == outcomes["thin.prune"] == outcomes["thin.evaluate"] == "would run"
    assert outcomes["full.prune"] == "skipped"
    run(variants=thin())
    report, _ = run(variants=thin(), dry_run=True)
    assert {step.outcome for step in report.steps} == {"skipped"}


def test_an_interrupted_run_goes_on_at_the_stage(run: Run) -> None:
    class Interrupted(SmallStages):
        def slim(self, *args: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small=Interrupted(), variants=thin())
    _, calls = run(variants=thin())
    assert calls == ["slim thin", "prune full", "train full", "evaluate full", *AFTER]


def test_the_other_stages_settings_are_the_sections(tmp_path: Path) -> None:
    recipe = Recipe.of(
        recipe_values(
            tmp_path,
            variants=[depth("thin", 6, slim={"width_cut": "30%", "steps": 7})],
            profile={"pooling": "mean"},
            prune={"pooling": "mean", "instruction": "find"},
            train={"hard_negatives": 7, "scale": 20, "max_length": 64},
            revision="abc",
        )
    )
    made = recipe.slim_settings(recipe.variants[0])
    assert (made.pooling, made.instruction, made.hard_negatives, made.scale, made.max_length) == ("mean", "find", 7, 20, 64)
    assert (made.steps, made.width_cut, made.revision) == (7, Fraction(3, 10), "abc")
    untrained = Recipe.of(recipe_values(tmp_path, train=None, prune={"max_length": 32}))
    assert untrained.slim_settings(untrained.variants[0]).max_length == 32
    own = Recipe.of(recipe_values(tmp_path, train={"instruction": "e5"}))
    assert own.slim_settings(own.variants[0]).instruction == "e5"


@pytest.mark.parametrize(
    ("slim", "message"),
    [
        ({"pooling": "mean"}, "variant 'thin': give pooling once, in prune, not in slim"),
        ({"hard_negatives": 7}, "variant 'thin': give hard_negatives once, in train, not in slim"),
        ({"ranking": "gate"}, "variant 'thin': no ranking is called 'gate'; did you mean 'gates'"),
        ({"step": 3}, "unknown key .*did you mean 'steps'"),
        ({"width_cut": "110%"}, "width_cut.*110%"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, slim: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Recipe.of(recipe_values(tmp_path, variants=[depth("thin", 6, slim=slim)]))
    assert "\n" not in str(caught.value)


def test_round_trip(tmp_path: Path) -> None:
    recipe = Recipe.of(recipe_values(tmp_path, variants=[depth("thin", 6, slim={"width_cut": "1/3", "floor": 64})]))
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert Recipe.load(tmp_path / "again.yaml") == recipe


def test_the_real_stage_calls_the_verb(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("prune2vec.slimming.make.slim_plan", lambda *args, **given: seen.append((args, given)))
    recipe = Recipe.of(recipe_values(run.folder))
    settings = recipe.slim_settings(recipe.variants[0])
    real_stages().slim("toy", Path("plan.json"), ["a.jsonl"], settings, Path("slim-plan.json"))
    (args, given) = seen[0]
    assert args == ("toy", Path("plan.json"), "a.jsonl")
    assert given == {"output": Path("slim-plan.json"), "settings": settings.model_copy(update={"restart": True})}

"""The width stage inside a run, and what a slim section of a recipe may say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import ConfigError
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.run import run_recipe
from prune2vec.experiments.stage_runner import SLIM_PLAN
from prune2vec.experiments.stages import Stages
from prune2vec.models.kept import Kept
from prune2vec.planning.plan import PruningPlan, VocabularyCut
from prune2vec.planning.planner import Budget, FitsBudget, Picked, Planner, make_plan, planners
from prune2vec.profiling.profile import Profile
from prune2vec.training.neuron_importance import importances
from prune2vec.training.width_decision import scores_beside
from tests.experiments.small import Run, SmallStages, profile_of, recipe_values

FULL = {"name": "full", "method": "full"}
AFTER = ["prune thin", "train thin", "evaluate thin"]


def depth(name: str, layers: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "method": "depth", "parameters": {"depth": layers}, **more}


def thin(**slim: Any) -> list[dict[str, Any]]:
    return [FULL, depth("thin", 6, slim={"width_cut": "30%", **slim})]


class Cutting(SmallStages):
    """Its planner asks for a share of the neurons of one variant."""

    def plan(self, profile: Path, variant: Any, texts: Sequence[str], output: Path) -> None:
        super().plan(profile, variant, texts, output)
        if variant.name == "thin":
            replace(PruningPlan.load(output), width_cut=Fraction(3, 10)).save(output)


def test_a_section_makes_a_stage_between_plan_and_prune(run: Run) -> None:
    report, calls = run(variants=thin(importance="wanda"))
    assert calls == ["profile", "slim thin", "prune full", "train full", "evaluate full", *AFTER]
    assert [step.name for step in report.steps if step.name.startswith("thin")][:2] == ["thin.plan", "thin.slim"]
    final = PruningPlan.load(run.output / "thin" / SLIM_PLAN)
    assert {len(stay) for stay in final.neurons.values()} == {70}
    assert not PruningPlan.load(run.output / "thin" / "plan.json").neurons
    assert json.loads((run.output / "thin" / "checkpoint" / "widths.json").read_text())["0"] == 70
    assert run(variants=thin(importance="wanda"))[1] == []


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


class Counting(SmallStages):
    """Its planner keeps so many tokens as the variant says, whatever the texts; and notes what it was given."""

    def plan(self, profile: Path, variant: Any, texts: Sequence[str], output: Path) -> None:
        super().plan(profile, variant.model_copy(update={"vocabulary": None}), texts, output)
        if variant.vocabulary is not None:
            self.calls.append(f"count {', '.join(Path(text).name for text in texts)}")
            plan = PruningPlan.load(output)
            kept = VocabularyCut(
                kept=tuple(range(variant.vocabulary)), digest="", texts=1, changed=0, tokens_before=1, tokens_after=1
            )
            replace(plan, shape=replace(plan.shape, token_rows=1000, token_params=8), vocabulary=kept).save(output)


def test_tokens_are_counted_on_the_training_texts(run: Run) -> None:
    variants = [depth("whole", 6), depth("few", 6, vocabulary=500), depth("fewer", 6, vocabulary="0.4k")]
    _, calls = run(small=Counting(), variants=variants)
    assert calls.count("count train.jsonl") == 2
    assert {"prune whole", "prune few", "prune fewer"} <= set(calls), "other tokens are another cut"
    assert run(small=Counting(), variants=variants)[1] == []
    values = {**recipe_values(run.folder), "variants": variants}
    (run.folder / "train.jsonl").write_text("changed\n")
    again = Counting()
    run_recipe(values, run.output, stages=again)
    assert again.calls.count("count train.jsonl") == 2


def test_without_triplets_tokens_are_counted_on_the_plain_texts(run: Run) -> None:
    (run.folder / "plain.txt").write_text("a text\n")
    data = {"texts": str(run.folder / "plain.txt"), "profile": str(run.folder / "train.jsonl"), "mine": None}
    _, calls = run(small=Counting(), variants=[depth("few", 6, vocabulary=500)], data=data, train=None, evaluate=None)
    assert "count plain.txt" in calls


def test_variants_of_other_widths_are_no_twins(run: Run) -> None:
    variants = [
        depth("six", 6),
        depth("thin", 6, slim={"width_cut": "30%"}),
        depth("same", 6, slim={"width_cut": "30%", "importance": "magnitude"}),
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
            profile={"pooling": "mean", "instruction": "find"},
            prune={"pooling": "mean"},
            train={"hard_negatives": 7, "scale": 20},
            revision="abc",
        )
    )
    made = recipe.of_model(recipe.variants[0].slim_settings(recipe.train))
    # What a text is comes with the plan.
    assert (made.pooling, made.instruction, made.hard_negatives, made.scale, made.max_length) == (None, None, 7, 20, None)
    assert (made.steps, made.width_cut, made.revision) == (7, Fraction(3, 10), "abc")


@pytest.mark.parametrize(
    ("slim", "message"),
    [
        ({"pooling": "mean"}, "variant 'thin': give pooling once, in profile, not in slim"),
        ({"hard_negatives": 1}, "variant 'thin': give hard_negatives once, in train, not in slim"),
        ({"max_length": 512}, "variant 'thin': give max_length once, in profile, not in slim"),
        ({"hard_negatives": 7}, "variant 'thin': give hard_negatives once, in train, not in slim"),
        ({"importance": "gate"}, "variant 'thin': no neuron importance is called 'gate'; did you mean 'gates'"),
        ({"step": 3}, "unknown key .*did you mean 'steps'"),
        ({"width_cut": "110%"}, "width_cut.*110%"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, slim: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Recipe.of(
            recipe_values(
                tmp_path,
                variants=[depth("thin", 6, slim={"width_cut": "30%", **slim})],
                train={"hard_negatives": 3, "max_length": 64},
            )
        )
    assert "\n" not in str(caught.value)


def test_round_trip(tmp_path: Path) -> None:
    recipe = Recipe.of(recipe_values(tmp_path, variants=[depth("thin", 6, slim={"width_cut": "1/3", "floor": 64})]))
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert Recipe.load(tmp_path / "again.yaml") == recipe


def test_what_other_stages_decide_is_not_written_into_the_section(tmp_path: Path) -> None:
    slim = {"width_cut": "1/3", "steps": 7, "hard_negatives": 3}
    other = {"train": {"hard_negatives": 3, "scale": 20}, "prune": {"pooling": "mean"}, "profile": {"pooling": "mean"}}
    recipe = Recipe.of(recipe_values(tmp_path, variants=[depth("thin", 6, slim=slim)], **other))
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    again = Recipe.load(tmp_path / "again.yaml")
    assert again == recipe
    assert again.of_model(again.variants[0].slim_settings(again.train)) == recipe.of_model(
        recipe.variants[0].slim_settings(recipe.train)
    )
    assert "gate-penalty" in recipe.to_yaml()


@pytest.mark.parametrize("slim", [{}, {"importance": "magnitude"}, {"multiple": 8}])
def test_a_section_must_say_how_much_where_the_plan_cannot(tmp_path: Path, slim: dict[str, Any]) -> None:
    for variant in (
        depth("thin", 6),
        {"name": "thin", "method": "drop", "parameters": {"drop": "last2M"}},
        {**FULL, "name": "thin"},
    ):
        with pytest.raises(ConfigError, match=r"variant 'thin': slim does not say how much to cut.*give slim\.width-cut"):
            Recipe.of(recipe_values(tmp_path, variants=[{**variant, "slim": slim}]))
        Recipe.of(recipe_values(tmp_path, variants=[{**variant, "slim": {**slim, "max_params": "5M"}}]))
    effir = {"name": "thin", "method": "effir", "slim": slim}
    assert Recipe.of(recipe_values(tmp_path, variants=[effir], profile={"scorers": ["redundancy"]})).variants[0].slim


def test_a_planner_from_elsewhere_may_say_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Planner):
        """Somebody's."""

        def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
            """Keep all."""
            return Picked(Kept.whole(range(profile.shape.num_layers)))

    planners.names()
    monkeypatch.setitem(planners._parts, "mine", Mine)
    variant = {"name": "thin", "method": "mine", "slim": {"importance": "magnitude"}}
    assert Recipe.of(recipe_values(tmp_path, variants=[variant])).variants[0].slim


class Ranking(SmallStages):
    """Its slim stage ranks where it finds no scores of its settings, and notes who did."""

    def __init__(self) -> None:
        super().__init__()
        self.ranked: list[str] = []

    def slim(self, model: str, plan: Path, texts: Any, settings: Any, output: Path) -> None:
        file = scores_beside(output, settings.importance)
        identity = json.dumps(importances.identity(settings))
        if not file.exists() or file.read_text() != identity:
            self.ranked.append(output.parent.name)
            file.write_text(identity)
        super().slim(model, plan, texts, settings, output)


def test_variants_that_differ_in_width_alone_are_ranked_once(run: Run) -> None:
    def variants(width: str) -> list[dict[str, Any]]:
        return [
            depth("third", 6, slim={"width_cut": "30%"}),
            depth("half", 6, slim={"width_cut": width, "floor": 2}),
            depth("longer", 6, slim={"width_cut": "50%", "steps": 7}),
            depth("deeper", 7, slim={"width_cut": "50%"}),
        ]

    small = Ranking()
    run(small=small, variants=variants("50%"))
    assert small.ranked == ["third", "longer", "deeper"]
    again = Ranking()
    scores_beside(run.output / "half" / SLIM_PLAN, "gates").unlink()
    _, calls = run(small=again, variants=variants("60%"))
    assert "slim half" in calls
    assert again.ranked == [], "the scores of an earlier call serve as well"


def test_the_real_stage_calls_the_verb(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("prune2vec.training.slim.slim_plan", lambda *args, **given: seen.append((args, given)))
    recipe = Recipe.of(recipe_values(run.folder))
    settings = recipe.of_model(recipe.variants[0].slim_settings(recipe.train))
    Stages().slim("toy", Path("plan.json"), ["a.jsonl"], settings, Path("slim-plan.json"))
    (args, given) = seen[0]
    assert args == ("toy", Path("plan.json"), ["a.jsonl"])
    assert given == {"output": Path("slim-plan.json"), "settings": settings.model_copy(update={"restart": True})}


ALL_GIVEN = {"depth": "all", "mlps": 4, "width": "30%"}


def recipe(folder: Path, method: str, profile: Any = None, budget: Any = None, **parameters: Any) -> Recipe:
    variant = {"name": "cut", "method": method, "parameters": parameters, "budget": budget}
    return Recipe.of(recipe_values(folder, variants=[variant], profile=profile or {}))


@pytest.mark.parametrize(
    ("method", "given", "needed"),
    [
        ("drop", {"drop": "2M"}, ("redundancy",)),
        ("drop", {"drop": "last2M"}, ()),
        ("drop", {"drop": "last2M1A"}, ("redundancy",)),
        ("drop", {"drop": "last2Mlast1A", "order": "plain"}, ()),
        ("drop", {"order": "plain", "budget": {"max_params": "5M"}}, ("redundancy-plain",)),
        ("drop", {"drop": "2M", "order": "iterative"}, ("redundancy-iterative",)),
        ("effir", {}, ("redundancy",)),
        ("effir", {"budget": {"max_params": "5M"}}, ("redundancy",)),
        ("effir", {"budget": {}}, ("redundancy",)),
        ("effir", {"budget": {"max_params": "5M"}, "depth": 6, "mlps": 2}, ("redundancy",)),
        ("effir", {"budget": {"max_params": "5M"}, **ALL_GIVEN}, ("redundancy",)),
        ("l3prune", {}, ()),
        ("full", {}, ()),
    ],
)
def test_what_is_missing_is_named_with_the_settings_that_measure_it(
    tmp_path: Path, method: str, given: dict[str, Any], needed: tuple[str, ...]
) -> None:
    scorers = ["layer-loss", *needed]
    profile = {"scorers": scorers, "plain": str(tmp_path / "train.jsonl")}
    recipe_values(tmp_path)
    assert recipe(tmp_path, method, profile, **given).variants[0].sections() == needed
    recipe(tmp_path, method, {**profile, "scorers": ["all"]}, **given)
    if not needed:
        recipe(tmp_path, method, **given)
        return
    for measured in ({}, {"scorers": scorers[:-1]}):
        with pytest.raises(ConfigError, match=r"variant 'cut' needs .*, which the profile does not measure; set") as caught:
            recipe(tmp_path, method, measured, **given)
        assert f"set profile.scorers: [{', '.join(scorers)}]" in str(caught.value)


def test_all_leaves_plain_out_without_plain_text(tmp_path: Path) -> None:
    expected = r"set profile\.scorers: \[layer-loss, all, redundancy-plain\], and profile\.plain to a file or folder of running"
    with pytest.raises(ConfigError, match=expected):
        recipe(tmp_path, "drop", {"scorers": ["all"]}, drop="2M", order="plain")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drop": "M2"}, "variant 'cut': drop: drop: did you mean 2M"),
        (
            {"drop": "2M", "order": "oneshot"},
            "variant 'cut': drop: order: Input .* got 'oneshot'; did you mean 'one-shot'",
        ),
    ],
)
def test_what_the_planner_could_not_read_is_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(tmp_path, "drop", {"scorers": ["all"]}, **given)


@pytest.mark.parametrize("method", [name for name in planners.names() if not planners.get(name)().needs()])
def test_the_other_planners_of_ours_read_the_layer_loss_alone(method: str) -> None:
    needs: dict[str, dict[str, Any]] = {"depth": {"depth": 4}, "percent": {"percent": "50%"}}
    bare: Profile = profile_of()
    assert make_plan(bare, method=method, budget=Budget(max_layers=6), **needs.get(method, {})).keep_layers

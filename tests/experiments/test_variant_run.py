from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import CheckpointError, ConfigError
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.run import run_recipe
from prune2vec.experiments.stages import Stages
from prune2vec.experiments.trained_together import copies_of
from prune2vec.files import digest_tree
from prune2vec.profiling.profile import Profile
from prune2vec.pruning.prune_settings import PruneSettings
from tests.experiments.small import FALLING, VARIANTS, Run, SmallStages, profile_of, recipe_values
from tests.tiny import save_tiny
from tests.training.encoders import save_tiny_encoder


def test_only_what_depends_on_a_change_is_done_again(run: Run) -> None:
    run()
    _, calls = run(evaluate={"batch_size": 8})
    assert calls == [f"evaluate {name}" for name in VARIANTS]
    _, calls = run(evaluate={"batch_size": 8}, train={"steps": 4, "learning_rate": 0.01})
    assert calls == [f"{stage} {name}" for name in VARIANTS for stage in ("train", "evaluate")]
    _, calls = run(evaluate={"batch_size": 8}, train={"steps": 4, "learning_rate": 0.01, "save_every": 1})
    assert calls == [], "how often a training is saved changes nothing it computes"
    _, calls = run(evaluate={"batch_size": 8}, train={"steps": 4, "learning_rate": 0.01, "dtype": "bfloat16"})
    assert calls == [f"train {name}" for name in VARIANTS], "the stand-in's encoders come out the same"


def test_another_profile_that_leads_to_the_same_plans_is_no_reason_to_make_them_anew(run: Run) -> None:
    run()
    before = {name: (run.output / name / "plan.json").read_text() for name in VARIANTS}
    _, calls = run(profile={"seed": 3})
    assert calls == ["profile"]
    assert before == {name: (run.output / name / "plan.json").read_text() for name in VARIANTS}
    assert run(profile={"seed": 3})[1] == []


def test_new_variant_leaves_the_others_alone(run: Run) -> None:
    run()
    six = [{"name": "full", "method": "full"}, {"name": "six", "method": "depth", "parameters": {"depth": 6}}]
    _, calls = run(variants=six)
    assert calls == ["prune six", "train six", "evaluate six"]


def test_changed_data_is_noticed(run: Run) -> None:
    run()
    values = recipe_values(run.folder)
    (run.folder / "train.jsonl").write_text("changed\n")
    small = SmallStages()
    run_recipe(values, run.output, stages=small)
    # The toy profile comes out the same, so plans and checkpoints stay; training reads the texts.
    assert calls_without_variant(small) == ["profile", "train", "evaluate", "train", "evaluate", "train", "evaluate"]


def calls_without_variant(small: SmallStages) -> list[str]:
    return [call.partition(" ")[0] for call in small.calls]


def test_a_damaged_encoder_is_made_again(run: Run) -> None:
    run()
    weights = run.output / "small" / "encoder" / "weights.json"
    before = weights.read_text()
    weights.unlink()
    _, calls = run()
    assert calls == ["train small"], "evaluating again is not needed: the encoder is what it was"
    assert weights.read_text() == before


@pytest.mark.parametrize("name", ["weights.json", "notes.txt", ".git/HEAD"])
def test_an_encoder_that_the_user_changed_is_not_made_again(run: Run, name: str) -> None:
    run()
    file = run.output / "small" / "encoder" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('"mine"')
    with pytest.raises(CheckpointError, match=rf"small/encoder/{name} (was changed since|is not) prune2vec"):
        run(train={"steps": 5})
    assert file.read_text() == '"mine"'


def test_a_plan_that_the_user_changed_is_not_made_again(run: Run) -> None:
    run()
    plan = run.output / "small" / "plan.json"
    plan.write_text('"mine"')
    for changes in ({}, {"profile": {"seed": 3}}):
        with pytest.raises(CheckpointError, match=r"small/plan\.json was changed since prune2vec wrote it"):
            run(**changes)
    assert plan.read_text() == '"mine"'


def test_equal_plans_are_built_once(run: Run) -> None:
    report, calls = run(small=SmallStages(loss=FALLING))
    # A curve that always falls: large keeps all layers, small the deepest of the lower half.
    assert [call for call in calls if call.endswith("large")] == []
    assert [step.detail for step in report.steps if step.name == "large"] == ["keeps the same as full; nothing is done twice"]
    results = [(run.output / name / "results.json").read_text() for name in ("full", "large")]
    assert results[0] == results[1]
    assert "large (= full)" in report.render()
    assert not (run.output / "large" / "encoder").exists()


def test_one_plan_with_either_attention_is_two_encoders(run: Run) -> None:
    six: dict[str, Any] = {"name": "six", "method": "depth", "parameters": {"depth": 6}}
    run(variants=[six])
    variants = [six, {**six, "name": "sees-all", "attention": "bidirectional"}, {**six, "name": "kept", "attention": "kept"}]
    report, calls = run(variants=variants)
    assert calls == ["prune sees-all", "train sees-all", "evaluate sees-all"]
    assert [step.name for step in report.steps if step.detail.startswith("keeps the same as")] == ["kept"]
    seen = {name: json.loads((run.output / name / "checkpoint" / "prune2vec.json").read_text()) for name in ("six", "sees-all")}
    assert [record["attention"] for record in seen.values()] == ["kept", "bidirectional"]
    # Given to the variant or to all of them, it is one and the same.
    _, calls = run(variants=[{**six, "attention": "kept"}, {**six, "name": "sees-all"}], prune={"attention": "bidirectional"})
    assert calls == []


def test_encoder_of_an_earlier_plan_does_not_linger_in_a_twin(run: Run) -> None:
    run()
    assert (run.output / "large" / "encoder").exists()
    variants = [{"name": "full", "method": "full"}, {"name": "large", "method": "depth", "parameters": {"depth": 12}}]
    run(variants=variants)
    assert not (run.output / "large" / "encoder").exists()
    assert not (run.output / "large" / "checkpoint").exists()


def test_mined_texts_and_queries(run: Run) -> None:
    report, calls = run(data={"mine": {"source": "docstrings"}}, queries=["how?"])
    assert calls[:2] == ["mine", "profile"]
    assert calls[-1] == "answer small"
    assert report.answers[0].query == "how?"
    assert "a.b: found" in report.render()
    _, calls = run(data={"mine": {"source": "docstrings"}}, queries=["how?", "why?"])
    assert calls == ["answer small"]
    _, calls = run(data={"mine": {"source": "docstrings", "seed": 1}}, queries=["how?", "why?"])
    assert calls[:2] == ["mine", "profile"]


class Watched(SmallStages):
    """Notes how each variant is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Any] = {}

    def train(self, checkpoint: Path, texts: Any, settings: Any, output: Path, *, plain: bool = False) -> None:
        self.seen[output.parent.name] = settings, list(texts), plain
        super().train(checkpoint, texts, settings, output)

    def teachers(self) -> dict[str, Any]:
        return {name: settings.teacher for name, (settings, _, _) in self.seen.items()}


def test_teacher_is_an_earlier_variant(run: Run) -> None:
    small = Watched()
    report, _ = run(small=small, train={"steps": 2, "teacher": "full"})
    teacher = str(run.output / "full" / "encoder")
    assert small.teachers() == {"full": None, "large": teacher, "small": teacher}
    kept = {settings.teacher_vectors for settings, _, _ in small.seen.values()}
    assert kept == {None, str(run.output / "teacher-vectors")}, "the vectors are kept once, for all variants"
    assert report.comparison is not None
    rows = {row.name: row for row in report.comparison.rows}
    shares = {name: report.comparison.share_of_teacher(row) for name, row in rows.items()}
    assert shares["full"] is None
    assert shares["small"] == pytest.approx(rows["small"].results.score / rows["full"].results.score)
    assert "of teacher" in report.comparison.summary().header
    with pytest.raises(ConfigError, match="'small' comes after 'full'; list the teacher first"):
        run(train={"steps": 2, "teacher": "small"})


def test_plain_texts_are_for_those_with_a_teacher(run: Run) -> None:
    (run.folder / "plain.txt").write_text("a text\n")
    values = recipe_values(run.folder)
    small, data = Watched(), {**values["data"], "texts": str(run.folder / "plain.txt")}
    run(small=small, data=data, train={"steps": 2, "teacher": "full"})
    told = {name: ([Path(text).name for text in texts], plain) for name, (_, texts, plain) in small.seen.items()}
    assert told == {"full": (["train.jsonl"], False), "large": (["plain.txt"], True), "small": (["plain.txt"], True)}
    assert run(small=Watched(), data=data, train={"steps": 2, "teacher": "full"})[1] == []
    (run.folder / "plain.txt").write_text("another text\n")
    _, calls = run(small=Watched(), data=data, train={"steps": 2, "teacher": "full"})
    assert calls == ["train large", "evaluate large", "train small", "evaluate small"]


def test_variants_are_trained_in_their_own_ways(run: Run) -> None:
    variants = [
        {"name": "full", "method": "full", "train": None},
        {"name": "two", "method": "depth", "parameters": {"depth": 2}, "train": {"learning-rate": 0.5}},
        {"name": "three", "method": "depth", "parameters": {"depth": 3}},
    ]
    small = Watched()
    report, _ = run(small=small, variants=variants, train={"steps": 3, "learning_rate": 0.25})
    assert {name: (one.steps, one.learning_rate) for name, (one, _, _) in small.seen.items()} == {
        "two": (3, 0.5),
        "three": (3, 0.25),
    }
    assert not (run.output / "full" / "encoder").exists() and "full" in report.render()
    variants[1] = {**variants[1], "train": {"learning-rate": 0.125}}
    _, calls = run(small=Watched(), variants=variants, train={"steps": 3, "learning_rate": 0.25})
    assert calls == ["train two", "evaluate two"]


def test_one_cut_trained_in_several_ways_is_several_encoders(run: Run) -> None:
    two = {"method": "depth", "parameters": {"depth": 2}}
    variants = [
        {"name": "plain", **two},
        {"name": "untrained", **two, "train": None},
        {"name": "longer", **two, "train": {"steps": 5}},
        {"name": "again", **two, "train": {"steps": 3}},
    ]
    small = Watched()
    report, _ = run(small=small, variants=variants, train={"steps": 3})
    assert {name: settings.steps for name, (settings, _, _) in small.seen.items()} == {"plain": 3, "longer": 5}
    assert not (run.output / "untrained" / "encoder").exists()
    assert report.comparison is not None
    assert {row.name: row.same_as for row in report.comparison.rows} == {
        "plain": None,
        "untrained": None,
        "longer": None,
        "again": "plain",
    }


def test_an_encoder_as_model_teaches_all_but_its_copy(run: Run) -> None:
    model = run.folder / "model"
    model.mkdir()
    (model / "modules.json").write_text("[]")
    small = Watched()
    report, _ = run(small=small, model=str(model))
    assert small.teachers() == {"large": str(model), "small": str(model)}
    assert not (run.output / "full" / "encoder").exists(), "a copy of the model is not trained to be the model"
    assert report.comparison is not None
    assert [row.teacher for row in report.comparison.rows] == [None, "full", "full"]
    assert f"teacher: {model}" in (run.output / "recipe.yaml").read_text()
    again = Watched()
    run_recipe(run.output / "recipe.yaml", run.output, stages=again)
    assert again.calls == [], "the written recipe says it"
    other = Watched()
    run(small=other, model=str(model), train={"steps": 4, "distil": "none"})
    assert other.teachers() == {"full": None, "large": None, "small": None}
    one = Watched()
    parts = [
        {"name": "taught", "method": "depth", "parameters": {"depth": 3}},
        {"name": "labels", "method": "depth", "parameters": {"depth": 2}, "train": {"distil": "none"}},
    ]
    run(small=one, model=str(model), variants=parts, train={"steps": 4, "teacher": str(model), "keep-projection": True})
    assert one.teachers() == {"taught": str(model), "labels": None}


def test_what_is_cut_of_an_encoder_is_no_copy_of_it(run: Run) -> None:
    model = save_tiny_encoder(run.folder / "model")
    small = Watched()
    variants = [
        {"name": "seeing-all", "method": "full", "attention": "bidirectional"},
        {"name": "fewer", "method": "full", "vocabulary": 300},
        {"name": "narrow", "method": "full", "slim": {"width-cut": "30%", "importance": "magnitude"}},
        {"name": "copy", "method": "full"},
    ]
    recipe = Recipe.of({**recipe_values(run.folder, model=str(model)), "variants": variants}).swept().taught()
    assert copies_of(recipe) == ("copy",)
    run(small=small, model=str(model), variants=[variants[0], variants[-1]])
    assert set(small.seen) == {"seeing-all"}
    both_ways = recipe.model_copy(update={"prune": PruneSettings(attention="bidirectional")})
    assert copies_of(both_ways) == ()


def test_a_teacher_takes_nothing_that_is_for_its_pupils(run: Run) -> None:
    small = Watched()
    run(small=small, train={"steps": 2, "teacher": "full", "keep_projection": True})
    kept = {name: settings.keep_projection for name, (settings, _, _) in small.seen.items()}
    assert kept == {"full": False, "large": True, "small": True}


def test_commit_that_was_profiled_is_the_one_that_is_cut(run: Run) -> None:
    class Hub(SmallStages):
        def profile(self, model: str, texts: Any, settings: Any, output: Path) -> None:
            assert settings.revision == "main"
            found = profile_of(name=model)
            Profile(**{**vars(found), "model": {**found.model, "revision": "c0ffee"}}).save(output)

        def prune(self, model: str, plan: Path, settings: Any, output: Path) -> None:
            assert settings.revision == "c0ffee"
            super().prune(model, plan, settings, output)

    _, calls = run(small=Hub(), revision="main")
    assert "prune small" in calls
    _, calls = run(small=Hub(), revision="main")
    assert calls == []


def trained_together(**changes: Any) -> list[dict[str, Any]]:
    """Return the whole model, in whose training the two picks of L3Prune are trained too."""
    return [
        {"name": "full", "method": "full", **changes},
        {"name": "large", "parameters": {"variant": "large"}, "trained-with": "full"},
        {"name": "small", "parameters": {"variant": "small"}, "trained-with": "full"},
    ]


TOGETHER = ["prune full", "train full", "evaluate full", "prune large", "evaluate large", "prune small", "evaluate small"]


def test_variants_trained_with_another_are_cut_from_its_encoder(run: Run) -> None:
    small = Watched()
    report, calls = run(small=small, variants=trained_together())
    assert calls == ["profile", *TOGETHER]
    assert small.seen["full"][0].depths == (3, 10)
    for name, depth in (("large", 10), ("small", 3)):
        found = json.loads((run.output / name / "encoder" / "weights.json").read_text())
        assert found == {"of": digest_tree(run.output / "full" / "encoder"), "depth": depth}
        assert not (run.output / name / "checkpoint").exists()
    assert report.comparison is not None
    assert [row.layers for row in report.comparison.rows] == ["12 of 12", "10 of 12", "3 of 12"]
    assert run(variants=trained_together())[1] == []
    report, calls = run(variants=trained_together(), dry_run=True)
    assert calls == [] and {step.outcome for step in report.steps} == {"skipped"}
    _, calls = run(variants=trained_together(train={"depths": [5, 10]}), small=(small := Watched()))
    assert small.seen["full"][0].depths == (3, 5, 10) and calls == TOGETHER[1:]


def test_an_encoder_is_another_where_others_are_trained_with_it(run: Run) -> None:
    three = {"method": "depth", "parameters": {"depth": 3}}
    whole = {"method": "depth", "parameters": {"depth": 12}, "trained-with": "full"}
    others = [{"name": "before", "method": "full"}, *trained_together(), {"name": "alone", **three}, {"name": "whole", **whole}]
    small = Watched()
    report, _ = run(small=small, variants=others)
    assert {name: settings.depths for name, (settings, _, _) in small.seen.items()} == {
        "before": (),
        "full": (3, 10, 12),
        "alone": (),
    }
    assert report.comparison is not None
    same = {row.name: row.same_as for row in report.comparison.rows if row.same_as}
    assert same == {"whole": "full"}, "small and alone keep the same, and are trained in two ways"


def test_from_trained_alone_to_trained_together_and_back(run: Run) -> None:
    run()
    alone = (run.output / "small" / "encoder" / "weights.json").read_text()
    _, calls = run(variants=trained_together())
    assert calls == TOGETHER[1:], "the cut of the whole model is there"
    assert not (run.output / "small" / "checkpoint").exists()
    run()
    assert (run.output / "small" / "encoder" / "weights.json").read_text() == alone


def test_a_killed_run_of_variants_trained_together_goes_on(run: Run) -> None:
    class Interrupted(SmallStages):
        def prune(self, model: str, plan: Path | int, settings: Any, output: Path) -> None:
            if plan == 3:
                raise KeyboardInterrupt
            super().prune(model, plan, settings, output)

    with pytest.raises(KeyboardInterrupt):
        run(small=Interrupted(), variants=trained_together())
    assert run(variants=trained_together())[1] == TOGETHER[-2:]
    report, _ = run(variants=[*trained_together(), {**trained_together()[1], "name": "again"}], dry_run=True)
    outcomes = {step.name: step.outcome for step in report.steps}
    assert outcomes["full.prune"] == "skipped" and outcomes["full.train"] == outcomes["again.prune"] == "would run"


def test_an_encoder_as_model_is_trained_where_others_are_trained_with_it(run: Run) -> None:
    model = run.folder / "model"
    model.mkdir()
    (model / "modules.json").write_text("[]")
    small = Watched()
    report, _ = run(small=small, model=str(model), variants=trained_together())
    assert small.teachers() == {"full": str(model)}
    assert report.comparison is not None
    assert [row.teacher for row in report.comparison.rows] == [None, None, None], "no row is the teacher as it was"


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([*trained_together()[1:]], "variant 'large': trained-with 'full' is no earlier variant that is trained itself"),
        (
            [*trained_together(), {"name": "three", "method": "depth", "parameters": {"depth": 3}, "trained-with": "small"}],
            "variant 'three': trained-with 'small' is no earlier variant that is trained itself",
        ),
        (trained_together(train=None), "variant 'large': trained-with 'full', which is not trained"),
        (trained_together(train={"cached": True}), "variant 'full': train: depths works with neither cached nor train_top"),
        (
            [*trained_together()[:1], {**trained_together()[1], "train": {"steps": 3}}],
            "variant 'large': trained-with takes that variant's training, neurons and attention; drop train, slim and attention",
        ),
        (
            [*trained_together()[:1], {**trained_together()[1], "attention": "bidirectional"}],
            "variant 'large': trained-with takes that variant's training, neurons and attention; drop train, slim and attention",
        ),
    ],
)
def test_what_cannot_be_trained_together_is_refused_at_once(
    tmp_path: Path, variants: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.of(recipe_values(tmp_path, variants=variants))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "cut",
    [
        {"method": "keep-last", "parameters": {"layers": 4}},
        {"method": "drop", "parameters": {"drop": "last2M"}},
    ],
)
def test_a_cut_that_is_no_depth_of_the_other_is_refused_before_training(run: Run, cut: dict[str, Any]) -> None:
    small = SmallStages()
    with pytest.raises(ConfigError, match="variant 'cut' is trained with 'full', but does not keep the first of its layers"):
        run(small=small, variants=[*trained_together()[:1], {"name": "cut", **cut, "trained-with": "full"}])
    assert small.calls == ["profile"]


def test_a_run_inside_the_folder_that_it_mines_settles(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("# A\n")
    run = Run(tmp_path)
    run.output = notes / "runs" / "first"
    mined = {"mine": {"source": str(notes)}}
    assert run(data=mined)[1][0] == "mine"
    assert run(data=mined)[1] == [], "what the run wrote is none of what it reads"
    (notes / "a.md").write_text("# B\n")
    assert run(data=mined)[1][0] == "mine"


def test_what_is_trained_on_is_not_evaluated_on(tmp_path: Path) -> None:
    values = recipe_values(tmp_path)
    row = json.dumps({"query": "a", "positive": "b", "negative": "c"})
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(f"{row}\n")
    model = str(save_tiny(tmp_path / "m"))
    leak = {**values, "model": model, "data": {**values["data"], "dev": values["data"]["train"]}}
    with pytest.raises(ConfigError, match=r"train\.jsonl is held out, and .*train\.jsonl is trained on, which has it too"):
        Stages().check(Recipe.of(leak))

"""The real stages, on a tiny random model: the whole chain, offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prune2vec.encoding.store import Store
from prune2vec.errors import ConfigError, DataError, PlanError
from prune2vec.evaluation import evaluated
from prune2vec.experiments.compare import compare_results
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.recipe_variant import RecipeVariant
from prune2vec.experiments.run import Report, run_recipe
from prune2vec.experiments.stages import Stages
from prune2vec.files import digest_tree
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.encoder import read_record
from prune2vec.pruning.plain_encoder import load_to_encode
from tests.planning.made import curve_with_minima, made_profile
from tests.tiny import save_tiny
from tests.training.encoders import rows, save_tiny_encoder

WORDS = ("layer", "model", "number", "rows", "reader", "file", "line", "error", "spring", "birds", "light", "dog")


def triplets(path: Path, start: int, count: int) -> None:
    made = []
    for row in range(start, start + count):
        one, two, three = WORDS[row % 12], WORDS[(row * 5 + 1) % 12], WORDS[(row * 7 + 3) % 12]
        made.append(
            {"anchor": f"the {one} {row}", "positive": f"{one} of {two} {row}", "negative": f"{three} of {two} {row + 500}"}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("chain")
    triplets(folder / "train.jsonl", 0, 40)
    triplets(folder / "dev.jsonl", 100, 12)
    return {
        "model": str(save_tiny(folder / "tiny", "llama")),
        "data": {"train": str(folder / "train.jsonl"), "dev": str(folder / "dev.jsonl")},
        "profile": {"groups": 2, "group_size": 8, "dtype": "float32"},
        "variants": [{"name": "full", "method": "full"}, {"name": "two", "method": "depth", "parameters": {"depth": 2}}],
        "train": {"steps": 2, "batch_size": 4, "dtype": "float32"},
        "evaluate": {"speed_texts": 4, "speed_repeats": 1, "dtype": "float32"},
        "queries": ["the birds"],
    }


@pytest.fixture(scope="module")
def loads() -> Iterator[list[str]]:
    """Return the variants whose encoders are loaded to be evaluated or to answer, as they are."""
    found: list[str] = []

    def counted(folder: str, **how: Any) -> Any:
        found.append(Path(folder).parent.name)
        return load_to_encode(folder, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluated, "load_to_encode", counted)
        yield found


@pytest.fixture(scope="module")
def first(recipe: dict[str, Any], loads: list[str], tmp_path_factory: pytest.TempPathFactory) -> Report:
    report = run_recipe(recipe, tmp_path_factory.mktemp("first"))
    # What has just been evaluated answers.
    assert loads == ["full", "two"]
    return report


def test_chain_of_real_parts(first: Report) -> None:
    assert first.comparison is not None
    assert [row.layers for row in first.comparison.rows] == ["5 of 5", "2 of 5"]
    assert len(first.answers[0].hits) == 3
    text = (first.folder / "report.html").read_text(encoding="utf-8")
    assert "Training loss by step" in text, "the training curves are found where training leaves them"
    assert text.count("<svg") == 7
    assert "BM25" in first.render()


@pytest.mark.parametrize(
    ("gone", "loaded"),
    [
        (("answers.json",), ["two"]),
        (("two/results.json",), ["two"]),
        (("two/results.json", "answers.json"), ["two"]),
        # It is not the last one evaluated that answers.
        (("full/results.json", "answers.json"), ["full", "two"]),
    ],
)
def test_what_is_gone_of_the_last_stages_is_made_again_alike(
    recipe: dict[str, Any], first: Report, loads: list[str], gone: tuple[str, ...], loaded: list[str]
) -> None:
    for name in gone:
        (first.folder / name).unlink()
    loads.clear()
    report = run_recipe(recipe, first.folder)
    assert loads == loaded
    stages = {"answers.json": "answer", "two/results.json": "two.evaluate", "full/results.json": "full.evaluate"}
    assert [step.name for step in report.steps if step.outcome == "done"] == [stages[name] for name in gone]
    hits, before = report.answers[0].hits, first.answers[0].hits
    assert [hit.text for hit in hits] == [hit.text for hit in before]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in before], abs=1e-6)


def test_a_plan_that_cannot_be_made_names_its_variant(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = {**recipe, "variants": [{"name": "deep", "method": "depth", "parameters": {"depth": 9}}]}
    with pytest.raises(PlanError, match=r"^variant 'deep': .*9"):
        run_recipe(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [("data", "train", "negative"), ("train", "dev", "anchor"), ("evaluate", "corpus", "text"), ("evaluate", "data", "anchor")],
)
def test_texts_of_a_later_stage_are_looked_at_first(
    recipe: dict[str, Any], tmp_path: Path, section: str, key: str, message: str
) -> None:
    wrong = tmp_path / "wrong.jsonl"
    pairs = {"anchor": "a", "positive": "b"} if key == "train" else {"number": 1}
    wrong.write_text(json.dumps(pairs) + "\n", encoding="utf-8")
    data = {**recipe["data"], "profile": recipe["data"]["train"]}
    changed = {**recipe, "data": data}
    changed[section] = {**changed[section], key: str(wrong)}
    with pytest.raises(DataError, match=message):
        run_recipe(changed, tmp_path / "run")
    assert not (tmp_path / "run" / "profile.json").exists()


def test_settings_of_depths_need_depths_in_every_variant_that_is_trained(recipe: dict[str, Any], tmp_path: Path) -> None:
    full, two = recipe["variants"]
    deep = {"train": {"depths": [1]}}

    def check(whole: Any, cut: Any, *, model: str = recipe["model"], **train: Any) -> None:
        shared = {**recipe["train"], **(train or {"deepest_teaches": True})}
        values = {**recipe, "model": model, "train": shared, "variants": [{**full, **whole}, {**two, **cut}]}
        Stages().check(Recipe.of(values).taught())

    for whole, cut in (({}, {}), (deep, {}), ({}, deep)):
        with pytest.raises(ConfigError, match="deepest_teaches is for training at several depths; give depths too"):
            check(whole, cut)
    for whole, cut in ((deep, deep), (deep, {"train": None}), ({}, {"trained_with": "full"})):
        check(whole, cut)
    # A copy of the encoder that teaches is not trained.
    check({}, deep, model=str(save_tiny_encoder(tmp_path / "encoder")), depths_per_step=2)


def test_repeated_elsewhere_gives_the_same_numbers(recipe: dict[str, Any], first: Report, tmp_path: Path) -> None:
    again = run_recipe(recipe, tmp_path / "again")
    for name in ("full", "two"):
        weights = [digest_tree(run / name / "encoder" / "model.safetensors") for run in (first.folder, tmp_path / "again")]
        assert weights[0] == weights[1]
    assert again.comparison is not None
    assert first.comparison is not None
    assert [row.score for row in again.comparison.rows] == [row.score for row in first.comparison.rows]


def test_edited_training_replaces_the_encoder(recipe: dict[str, Any], first: Report) -> None:
    before = digest_tree(first.folder / "two" / "encoder" / "model.safetensors")
    report = run_recipe({**recipe, "train": {**recipe["train"], "learning_rate": 0.01}}, first.folder)
    outcomes = {step.name: step.outcome for step in report.steps}
    assert outcomes["two.prune"] == "skipped"
    assert outcomes["two.train"] == outcomes["two.evaluate"] == outcomes["answer"] == "done"
    assert digest_tree(first.folder / "two" / "encoder" / "model.safetensors") != before
    assert {step.outcome for step in run_recipe(report.folder / "recipe.yaml", report.folder).steps} == {"skipped"}


def test_an_encoder_teaches_its_cuts_from_plain_texts(recipe: dict[str, Any], tmp_path: Path) -> None:
    model = save_tiny_encoder(tmp_path / "big", layers=5)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(text for row in rows(12) for text in row.texts), encoding="utf-8")
    train = {"steps": 2, "batch_size": 4, "dtype": "float32", "method": "full"}
    variants = [*recipe["variants"], {"name": "one", "method": "depth", "parameters": {"depth": 1}, "train": {"steps": 3}}]
    changed = {
        **recipe,
        "model": str(model),
        "data": {**recipe["data"], "texts": str(texts)},
        "train": train,
        "variants": variants,
    }
    report = run_recipe(changed, tmp_path / "run")
    places = [path.parent for path in (tmp_path / "run" / "teacher-vectors").glob("*/*/_manifest.json")]
    assert sum(Store.load(place).rows for place in places) == 12, "of 36 texts those of three steps, each once for both"
    steps = {name: read_record(tmp_path / "run" / name / "encoder")["train"]["steps"] for name in ("two", "one")}
    assert steps == {"two": 2, "one": 3}
    assert not (tmp_path / "run" / "full" / "encoder").exists()
    assert report.comparison is not None
    table = report.comparison.summary()
    shares = [row[table.header.index("of teacher")] for row in table.rows]
    assert shares[0] == "" and all(share.endswith("%") for share in shares[1:3])
    assert "of teacher" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    beside = compare_results([tmp_path / "run" / name for name in ("two", "one", "full")]).summary()
    assert [row[beside.header.index("of teacher")] for row in beside.rows[:3]] == [*shares[1:3], ""]
    again = run_recipe(changed, tmp_path / "run")
    assert {step.outcome for step in again.steps} == {"skipped"}


@pytest.mark.parametrize(("method", "mlps"), [("drop", 0), ("effir", 4)])
def test_a_size_of_all_layers(tmp_path: Path, method: str, mlps: int) -> None:
    made_profile(curve_with_minima(8, 2, 6)).save(tmp_path / "profile.json")
    variant = RecipeVariant.build({"name": "all", "method": method, "size": "100%"}, where="")
    Stages().plan(tmp_path / "profile.json", variant, [], tmp_path / "plan.json")
    plan = PruningPlan.load(tmp_path / "plan.json")
    assert plan.keep_layers == tuple(range(plan.num_layers)) and len(plan.drop_mlp) == mlps

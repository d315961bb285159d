from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import ConfigError
from prune2vec.experiments.recipe import Recipe, absolute_paths
from tests.experiments.small import recipe_values


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text("{}\n")
    (tmp_path / "dev.jsonl").write_text("{}\n")
    return tmp_path / "recipe.yaml"


HEAD = "data:\n  train: train.jsonl\n  dev: dev.jsonl\n"


def load(path: Path, text: str) -> Recipe:
    path.write_text(text, encoding="utf-8")
    return Recipe.load(path)


def test_defaults_are_full_large_small() -> None:
    recipe = Recipe()
    assert [variant.name for variant in recipe.variants] == ["full", "large", "small"]
    assert [variant.method for variant in recipe.variants] == ["full", "l3prune", "l3prune"]
    assert recipe.model == "smollm2"


def test_relative_paths_start_from_the_recipe(recipe_file: Path) -> None:
    recipe = load(recipe_file, HEAD + "model: org/name\nevaluate: {mirror: .}\n")
    assert recipe.data.train == (str(recipe_file.parent / "train.jsonl"),)
    assert recipe.data.dev == str(recipe_file.parent / "dev.jsonl")
    assert recipe.evaluate is not None
    assert recipe.evaluate.mirror == str(recipe_file.parent)
    assert recipe.model == "org/name"


def test_yaml_round_trip(recipe_file: Path, tmp_path: Path) -> None:
    extra = "train: null\nvariants:\n  - {name: a, method: depth, parameters: {depth: 3}, budget: {max-params: 90M}}\n"
    recipe = load(recipe_file, HEAD + extra)
    assert recipe.variants[0].budget is not None
    assert recipe.variants[0].budget.max_params == 90_000_000
    again = load(tmp_path / "again.yaml", recipe.to_yaml())
    assert again == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: x\n", r"recipe\.yaml:4: unknown key 'modle'; did you mean 'model'\?"),
        ("train:\n  steps: 3\n  learning-rat: 1\n", r"recipe\.yaml:6: unknown key .*; did you mean 'learning_rate'\?"),
        ("train: {steps: many}\n", r"recipe\.yaml:4: train\.steps: .*got 'many'"),
        ("variants:\n  - {name: a, method: l3prun}\n", r"recipe\.yaml:5: variant 'a': .* did you mean 'l3prune'\?"),
        (
            "variants:\n  - {name: a}\n  - {name: b, parameters: {varaint: small}}\n",
            r"recipe\.yaml:6: .*did you mean 'variant'\?",
        ),
        ("variants:\n  - {name: b, budget: {max-layer: 3}}\n", r"recipe\.yaml:5: unknown key .*did you mean 'max_layers'\?"),
        ("variants:\n  - {name: a}\n  - {name: a}\n", r"recipe\.yaml:4: two variants are called 'a'"),
        ("variants:\n  - {name: data}\n", r"recipe\.yaml:5: variant 'data': the run keeps its own files"),
        *(
            (f"variants:\n  - {{name: {name}}}\n", rf"recipe\.yaml:5: variant '{name}': the run keeps its own files")
            for name in (
                "report.html",
                "Report.HTML",
                "profile.json",
                "recipe.yaml",
                "STAMPS",
                "redundancy.svg",
                "results.json",
            )
        ),
        *(
            (f"variants:\n  - {{name: {name}}}\n", "no name for a folder on every system")
            for name in ("CON", "nul.1", "lpt1", "a.")
        ),
        (f"variants:\n  - {{name: {'a' * 101}}}\n", "the name has 101 characters; choose one of at most 100"),
        ("variants:\n  - {name: Large}\n  - {name: large}\n", r"recipe\.yaml:4: two variants are called 'Large'"),
        ("variants:\n  - {name: a/b}\n", r"recipe\.yaml:5: variants\.0\.name"),
        ("variants: []\n", r"recipe\.yaml:4: variants"),
        ("variants:\n  - {name: a, method: full, parameters: {depth: 1}}\n", "method full keeps every layer"),
        ("model: ./models/x\n", r"recipe\.yaml:4: .*models/x does not exist"),
        ("evaluate:\n  mirror: nowhere\n", r"recipe\.yaml:5: .*nowhere does not exist"),
        (
            "prune:\n  pooling: mean\n",
            r"recipe\.yaml:5: prune\.pooling is 'mean', profile\.pooling unset; give it in profile alone",
        ),
        ("prune:\n  revision: abc\n", r"recipe\.yaml:5: give revision once, at the top"),
    ],
)
def test_one_line_with_the_place(recipe_file: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(recipe_file, HEAD + text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {train: trian.jsonl}\nevaluate: null\n", r"recipe\.yaml:1: .*did you mean '.*train\.jsonl'\?"),
        ("data: {}\n", "no training texts"),
        ("data: {train: train.jsonl, mine: {}}\n", "drop either mine or train"),
        ("data:\n  train: train.jsonl\n", r"recipe\.yaml:1: nothing to evaluate on"),
        ("data: {texts: train.jsonl}\nevaluate: null\n", "no training texts"),
    ],
)
def test_data_must_come_from_somewhere(recipe_file: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(recipe_file, text)


def test_mapping_and_its_errors(tmp_path: Path) -> None:
    recipe = Recipe.of(recipe_values(tmp_path, variants=[{"name": "x", "method": "keep-last", "parameters": {"layers": 2}}]))
    assert recipe.variants[0].parameters == {"layers": 2}
    with pytest.raises(ConfigError, match=r"recipe: unknown key 'train\.step'"):
        Recipe.of(recipe_values(tmp_path, train={"step": 1}))


def test_revision_and_trust_reach_every_stage(tmp_path: Path) -> None:
    recipe = Recipe.of(recipe_values(tmp_path, revision="abc", trust_remote_code=True))
    for settings in (recipe.of_model(recipe.profile), recipe.of_model(recipe.prune)):
        assert (settings.revision, settings.trust_remote_code) == ("abc", True)


def test_hub_names_stay_names(tmp_path: Path) -> None:
    values = recipe_values(tmp_path)
    recipe = Recipe.of({**values, "data": {**values["data"], "train": ["owner/set", values["data"]["train"]]}})
    assert recipe.data.train == ("owner/set", str(tmp_path / "train.jsonl"))


def absolute(values: dict[str, object], base: Path) -> dict[str, object]:
    return absolute_paths(
        {"variants": [{"name": "full"}], **values}, base=base, where=lambda location: ".".join(map(str, location))
    )


def test_words_are_never_paths(tmp_path: Path) -> None:
    for name in ("smollm2", "docstrings", "full"):
        (tmp_path / name).mkdir()
    values = {"model": "smollm2", "data": {"mine": {"source": "docstrings"}}, "train": {"teacher": "full"}}
    assert absolute(values, tmp_path) == {"variants": [{"name": "full"}], **values}


def test_a_file_may_be_called_as_a_variant_is(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("")
    found = absolute({"data": {"train": ["full"]}, "train": {"teacher": "full", "dev": "full"}}, tmp_path)
    file = str(tmp_path / "full")
    assert (found["data"]["train"], found["train"]) == ([file], {"teacher": "full", "dev": file})
    with pytest.raises(ConfigError, match="docstrings"):
        absolute({"train": {"dev": "docstrings"}}, tmp_path)


def test_training_of_a_variant_is_checked_and_its_paths_are_absolute(tmp_path: Path) -> None:
    def values(**train: Any) -> dict[str, Any]:
        return recipe_values(tmp_path, variants=[{"name": "x", "method": "full", "train": train}])

    recipe = Recipe.of(values(steps=7, dev=str(tmp_path / "dev.jsonl"), teacher_vectors=str(tmp_path / "to-be")))
    training = recipe.variants[0].training(recipe.train)
    assert training is not None and (training.steps, training.teacher_vectors) == (7, str(tmp_path / "to-be"))
    with pytest.raises(ConfigError, match=r"variant 'x': train: unknown key 'stepps'; did you mean 'steps'"):
        Recipe.of(values(stepps=7))
    with pytest.raises(ConfigError, match="unknown key 'distil_from'; it is called 'teacher' now"):
        Recipe.of(values(distil_from="full"))
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl does not exist"):
        Recipe.of(values(dev=str(tmp_path / "nowhere.jsonl")))


def test_folder_wins_over_hub_name(tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert absolute({"model": "owner/name"}, tmp_path)["model"] == str(tmp_path / "owner" / "name")
    assert absolute({"model": "owner/other"}, tmp_path)["model"] == "owner/other"


@pytest.mark.parametrize("name", ["./x", "x/", "a/b/c", "x.gguf", "/nowhere/x", "~/nowhere-at-all"])
def test_what_can_only_be_a_path_must_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"model: .* does not exist"):
        absolute({"model": name}, tmp_path)


def test_sections_that_are_null_are_left_alone(tmp_path: Path) -> None:
    values = {"train": None, "evaluate": None, "data": {"mine": None, "train": []}}
    assert absolute(values, tmp_path) == {"variants": [{"name": "full"}], **values}


def test_argument_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    values = {"variants": [], "data": {"train": ["t.jsonl"]}}
    absolute_paths(values, base=tmp_path, where=str)
    assert values == {"variants": [], "data": {"train": ["t.jsonl"]}}


def test_a_pooling_that_no_encoder_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile\.pooling weightedmean-paper is for profiles alone"):
        Recipe.of({**recipe_values(tmp_path), "profile": {"pooling": "weightedmean-paper"}})


def test_queries_need_texts_to_answer_from(tmp_path: Path) -> None:
    values = recipe_values(tmp_path, queries=["how?"], evaluate=None)
    values["data"] = {"train": values["data"]["train"]}
    with pytest.raises(ConfigError, match="no texts to answer the queries from"):
        Recipe.of(values)


@pytest.mark.parametrize(
    ("train", "taught"),
    [
        ({}, True),
        ({"deepest-teaches": True, "depths": [2]}, False),
        ({"matryoshka-dims": [8]}, False),
        ({"cached": True}, False),
        ({"distil": "none"}, False),
    ],
)
def test_an_encoder_teaches_where_it_can(tmp_path: Path, train: dict[str, Any], taught: bool) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "modules.json").write_text("[]")
    values = recipe_values(
        tmp_path, model=str(model), train={"steps": 4, **train}, variants=[{"name": "full", "method": "full"}]
    )
    settings = Recipe.of(values).taught().train
    assert settings is not None and settings.teacher == (str(model) if taught else None)

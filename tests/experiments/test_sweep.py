from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import ConfigError
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.sweep import Sweep, cells_of, read_shard
from prune2vec.training.train_settings import TrainSettings
from tests.experiments.small import recipe_values


def names(**sweep: Any) -> list[str]:
    return [cell.name for cell, _ in cells_of(Sweep.build(sweep, where="sweep"), TrainSettings())]


def test_what_is_not_trained_is_not_trained_in_a_sweep_either(tmp_path: Path) -> None:
    values = {**recipe_values(tmp_path), "train": None}
    for sweep, trained in (
        ({}, [None]),
        ({"seeds": [1, 2]}, [None]),
        ({"train": {"a": {"steps": 5}, "b": None}}, [5, None]),
    ):
        recipe = Recipe.of({**values, "sweep": {"methods": ["full"], **sweep}}).swept()
        settings = [one.training(recipe.train) for one in recipe.variants]
        assert [one and one.steps for one in settings] == trained


def test_names_say_what_a_cell_is() -> None:
    found = names(
        methods=["full", "depth", {"method": "random", "name": "dice", "parameters": {"seed": 3}}],
        sizes=[
            "30%",
            "12.5%",
            "small",
            4,
            {"max-params": "90M", "min-speedup": 1.5},
            {"max-params": 134_515_008},
            {"max-params": 1_345_150_000},
        ],
    )
    sizes = ("30pct", "12.5pct", "small", "4", "max-params-90M-min-speedup-1.5", "max-params-134515008", "max-params-1345150k")
    assert found == ["full", *(f"{method}-{size}" for method in ("depth", "dice") for size in sizes)]


def test_ways_and_seeds_are_named_where_there_are_several() -> None:
    ways = {"short": {"steps": 2}, "none": None}
    assert names(methods=["full", "depth"], sizes=["small"], seeds=[1, 2], train=ways) == [
        *("full-short-s1", "depth-small-short-s1", "full-short-s2", "depth-small-short-s2"),
        # Without training no seed makes a difference.
        *("full-none", "depth-small-none"),
    ]
    assert names(methods=["depth"], sizes=["small"], seeds=[7], train={"short": {"steps": 2}}) == ["depth-small"]


def test_a_cell_is_a_variant_with_its_settings() -> None:
    sweep = Sweep.build(
        {"methods": ["depth"], "sizes": ["30%", {"max-params": 90}], "seeds": [5], "train": {"a": {"steps": 2}}}, where=""
    )
    (cell, share), (_, budget) = cells_of(sweep, TrainSettings())
    assert share.train == {"steps": 2, "seed": 5} and share.method == "depth" and share.budget is None
    assert share.model_dump(mode="json")["size"] == "30%"
    assert budget.budget is not None and budget.budget.max_params == 90 and budget.size is None
    assert (cell.method, cell.size, cell.train, cell.seed) == ("depth", "30%", "a", 5)


SIZES = st.lists(
    st.one_of(st.integers(1, 12), st.sampled_from(["small", "large"]), st.integers(1, 100).map(lambda n: f"{n}%")),
    min_size=1,
    unique_by=str,
)


@given(
    sizes=SIZES,
    seeds=st.lists(st.integers(0, 9), min_size=1, unique=True),
    methods=st.lists(st.sampled_from(["full", "depth", "random", "effir"]), min_size=1, unique=True),
)
def test_every_combination_is_there_once(sizes: list[Any], seeds: list[int], methods: list[str]) -> None:
    found = list(cells_of(Sweep.build({"methods": methods, "sizes": sizes, "seeds": seeds}, where="sweep"), TrainSettings()))
    cut = [method for method in methods if method != "full"]
    assert len(found) == len(seeds) * (len(cut) * len(sizes) + ("full" in methods))
    assert (
        len({cell.name for cell, _ in found}) == len({(cell.method, cell.size, cell.seed) for cell, _ in found}) == len(found)
    )
    again = Sweep.build(
        Sweep.build({"methods": methods, "sizes": sizes, "seeds": seeds}, where="s").model_dump(mode="json"), where="s"
    )
    assert list(cells_of(again, TrainSettings())) == found


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"methods": ["l3prune"]}, "l3prune has sizes of its own; the method depth"),
        ({"methods": ["dpeth"]}, "no method is called 'dpeth'; did you mean 'depth'"),
        ({"methods": ["depth", "depth"]}, "two variants are called 'depth-small'"),
        ({"seeds": [1, 2, 1]}, "seeds: 1 is given twice"),
        ({"sizes": ["small", "40%", "40%"]}, "sizes: 40% is given twice"),
        ({"sizes": [{"max-parms": "1M"}]}, "unknown key 'max_parms'; did you mean 'max_params'"),
        ({"sizes": [{"max-params": "90M"}, {"max_params": 90_000_000}]}, "sizes: max-params-90M is given twice"),
        ({"sizes": [{}]}, "sizes: a budget without a limit; give one of max-params, max-layers, max-memory, min-speedup"),
        ({"sizes": ["30"]}, None),
        ({"sizes": ["0%"]}, "expected a share of the layers such as 30%"),
        ({"sizes": [0.3]}, "expected a share of the layers such as 30%"),
        ({"sizes": ["medium"]}, "expected a share of the layers such as 30%"),
        ({"train": {"a b": {}}}, "string should match pattern"),
        ({"train": {"a": {"stpes": 1}}}, "stpes"),
        ({"methods": [{"method": "depth", "parameters": {"depth": 3}}]}, "give size or depth, not both"),
        ({"methods": [{"method": "magnitude"}]}, "needs magnitude, which the profile does not measure"),
        ({"sizs": []}, "unknown key 'sweep.sizs'; did you mean 'sizes'"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_at_once(tmp_path: Path, sweep: dict[str, Any], said: str | None) -> None:
    values = recipe_values(tmp_path, sweep=sweep)
    if said is None:
        assert Recipe.of(values).cells[1].size == "30"
        return
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Recipe.load(tmp_path / "recipe.yaml")
    assert said.lower() in str(caught.value).lower() and "\n" not in str(caught.value)
    lines = (tmp_path / "recipe.yaml").read_text(encoding="utf-8").splitlines()
    line = int(str(caught.value).partition("recipe.yaml:")[2].partition(":")[0])
    assert line > lines.index("sweep:") or "the profile does not measure" in said, "where the sweep is"


def test_with_a_sweep_there_are_no_other_variants_unless_given(tmp_path: Path) -> None:
    alone = Recipe.of(recipe_values(tmp_path, sweep={"sizes": ["small"]}))
    assert alone.variants == ()
    assert [variant.name for variant in alone.swept().variants] == ["full", "depth-small"]
    both = Recipe.of(recipe_values(tmp_path, sweep={"methods": ["depth"]}, variants=[{"name": "big", "method": "full"}]))
    assert [variant.name for variant in both.swept().variants] == ["big", "depth-small", "depth-large"]
    # What a run writes down is every variant spelled out.
    (tmp_path / "again.yaml").write_text(both.swept().to_yaml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "again.yaml").variants == both.swept().variants


def test_paths_of_a_sweep_start_from_the_recipe(tmp_path: Path) -> None:
    values = recipe_values(tmp_path, sweep={"train": {"taught": {"teacher": "teacher"}, "own": {"teacher": "big"}}})
    values |= {"variants": [{"name": "big", "method": "full"}]}
    (tmp_path / "teacher").mkdir()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    sweep = Recipe.load(tmp_path / "recipe.yaml").sweep
    assert sweep is not None
    assert sweep.train == {"taught": {"teacher": str(tmp_path / "teacher")}, "own": {"teacher": "big"}}


def test_shards() -> None:
    assert read_shard("0/1") == (0, 1) and read_shard("3/4") == (3, 4)
    for wrong in ("4/4", "1", "a/b", "-1/2", "0/0", "1/2/3", ""):
        with pytest.raises(ConfigError, match="expected its number, from 0"):
            read_shard(wrong)

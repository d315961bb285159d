"""What is not measured must be said before it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import ConfigError
from prune2vec.experiments.recipe import Recipe
from prune2vec.planning.budget import Budget
from prune2vec.planning.planner import make_plan, planners
from prune2vec.profiling.profile import Profile
from tests.experiments.small import profile_of, recipe_values

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
        ("effir", {"budget": {}}, ("redundancy",)),
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
            "variant 'cut': drop: order: no order is called 'oneshot'; did you mean 'one-shot'",
        ),
    ],
)
def test_what_the_planner_could_not_read_is_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(tmp_path, "drop", {"scorers": ["all"]}, **given)


@pytest.mark.parametrize("method", [name for name in planners.names() if name not in ("drop", "effir")])
def test_the_other_planners_of_ours_read_the_layer_loss_alone(method: str) -> None:
    needs: dict[str, dict[str, Any]] = {"depth": {"depth": 4}, "percent": {"percent": "50%"}}
    bare: Profile = profile_of()
    assert planners.get(method)().needs() == ()
    assert make_plan(bare, method=method, budget=Budget(max_layers=6), **needs.get(method, {})).keep_layers

from __future__ import annotations

from typing import Any

import pytest

from prune2vec.errors import ConfigError, PlanError, ProfileError
from prune2vec.planning.drop import least_important, ranked, ranked_jointly
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.profile import Profile
from tests.planning.made import made_profile

ATTENTION, MLP, BLOCK = [0.5, 0.1, 0.4, 0.3], [0.2, 0.2, 0.05, 0.6], [0.9, 0.3, 0.45, 0.1]
SECTION = {"attention": ATTENTION, "mlp": MLP, "block": BLOCK, "tokens": 10, "texts": "retrieval"}
ITERATIVE = {"attention": [3, 1], "mlp": [2, 0, 1, 3], "block": [3, 2, 1, 0]}


def profile(**sections: Any) -> Profile:
    return made_profile([1.0] * 4, sections={"redundancy": SECTION, "redundancy-iterative": ITERATIVE, **sections})


def test_the_least_important_goes_first_and_of_equals_the_later_one() -> None:
    assert ranked(profile(), "one-shot", "attention", 4) == (1, 3, 2, 0)
    assert ranked(profile(), "one-shot", "mlp", 4) == (2, 1, 0, 3)
    assert ranked(profile(), "one-shot", "block", 4) == (3, 1, 2, 0)


def test_layers_beyond_the_depth_are_not_ranked() -> None:
    assert ranked(profile(), "one-shot", "mlp", 2) == (1, 0)
    assert ranked(profile(), "iterative", "mlp", 3) == (2, 0, 1)


def test_each_order_has_its_section() -> None:
    turned = {**SECTION, "mlp": [-value for value in MLP], "texts": "plain"}
    assert ranked(profile(**{"redundancy-plain": turned}), "plain", "mlp", 4) == (3, 1, 0, 2)
    assert ranked(profile(), "iterative", "attention", 4) == (3, 1)
    with pytest.raises(
        ProfileError, match=r"no redundancy-plain .* --scorers redundancy,redundancy-iterative,redundancy-plain$"
    ):
        ranked(profile(), "plain", "mlp", 4)
    with pytest.raises(ConfigError, match=r"^planner 'drop': order: Input .* got 'one_shot'; did you mean 'one-shot'\?$"):
        make_plan(profile(), method="drop", drop="1M", order="one_shot")


def test_a_joint_rank_compares_attentions_with_mlps() -> None:
    assert ranked_jointly(profile(), "one-shot", 4)[:4] == (("mlp", 2), ("attention", 1), ("mlp", 1), ("mlp", 0))
    assert ranked_jointly(profile(), "one-shot", 1) == (("mlp", 0), ("attention", 0))
    assert len(ranked_jointly(profile(), "one-shot", 4)) == 8
    with pytest.raises(PlanError, match="joint drop"):
        ranked_jointly(profile(), "iterative", 4)


def test_only_the_layers_asked_about_are_picked() -> None:
    assert least_important(profile(), "one-shot", "block", (0, 1, 2), 2) == (1, 2)
    assert least_important(profile(), "one-shot", "block", (0, 1, 2), 0) == ()


def test_an_order_that_stops_early_is_named() -> None:
    with pytest.raises(
        PlanError, match=r"^the iterative order names only 1 of these 3 layers for attention, so it cannot drop 2"
    ):
        least_important(profile(), "iterative", "attention", (0, 1, 2), 2)


@pytest.mark.parametrize("layers", [None, [0, 4], [-1], [1, 1], ["a"], 3])
def test_a_broken_order_is_one_line(layers: object) -> None:
    broken = {"redundancy-iterative": {**ITERATIVE, "mlp": layers}}
    with pytest.raises(ProfileError, match=r"^redundancy-iterative: mlp: [^\n]+; measure it again$"):
        ranked(profile(**broken), "iterative", "mlp", 4)


def test_a_section_of_another_model_is_refused() -> None:
    short = {**SECTION, **{kind: [0.1, 0.2] for kind in ("attention", "mlp", "block")}}
    with pytest.raises(ProfileError, match=r"^redundancy: 2 values for a model of 4 layers; measure it again$"):
        ranked(profile(redundancy=short), "one-shot", "mlp", 4)

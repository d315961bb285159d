from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from prune2vec.errors import ConfigError
from prune2vec.training.neuron_importance import _GROUPS, _NOT_OF_SCORES, importances
from prune2vec.training.slim_settings import SlimSettings


@pytest.mark.parametrize(
    ("value", "share"),
    [("30%", Fraction(3, 10)), ("0.3", Fraction(3, 10)), (0.3, Fraction(3, 10)), ("3/10", Fraction(3, 10)), (0, Fraction(0))],
)
def test_shares_are_exact(value: Any, share: Fraction) -> None:
    assert SlimSettings(width_cut=value).width_cut == share


@pytest.mark.parametrize(
    ("value", "floor"), [(64, Fraction(64)), ("64", Fraction(64)), ("10%", Fraction(1, 10)), (1, Fraction(1))]
)
def test_a_floor_is_a_count_or_a_share(value: Any, floor: Fraction) -> None:
    assert SlimSettings(floor=value).floor == floor


def test_settings_survive_json() -> None:
    made = SlimSettings(width_cut="1/3", floor="12.5%", max_length=64)
    assert SlimSettings(**made.model_dump(mode="json")) == made
    assert SlimSettings(**made.model_dump()) == made
    counted = SlimSettings(floor=128, max_params="90M")
    assert SlimSettings(**counted.model_dump(mode="json")) == counted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width_cut": "much"}, r"width_cut: expected a share such as 30% or 0\.3, got 'much'"),
        ({"width_cut": "100%"}, "width_cut: 100% drops everything"),
        ({"width_cut": -0.1}, "width_cut: -0.1 drops everything or less than nothing"),
        ({"floor": 0}, "floor: every MLP keeps at least 1 neuron"),
        ({"floor": "1.5"}, "floor: 1.5 drops everything"),
        ({"width_cut": "30%", "max_params": "1M"}, "give one of them"),
        ({"steps": 10, "warmup_steps": 10}, "warmup_steps 10 must be below steps 10"),
        (
            {"importance": "gates", "width-cut": "30%", "ranking": "gates"},
            "unknown key 'ranking'; it is called 'importance' now",
        ),
        ({"importanc": "gates"}, "unknown key 'importanc'; did you mean 'importance'"),
    ],
)
def test_what_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SlimSettings.build(values, where="slim")
    assert "\n" not in str(caught.value)


def test_what_an_importance_does_not_read_is_not_of_its_identity() -> None:
    assert set(importances.identity(SlimSettings(importance="magnitude"))) == {"ranking", "revision", "trust_remote_code"}
    for importance, unread, read in (
        ("gates", {"batches": 3}, {"steps": 3}),
        ("activation", {"steps": 3}, {"batches": 3}),
        ("wanda", {"scale": 3, "max_length": 33}, {"seed": 3}),
        ("taylor", {"learning_rate": 3}, {"scale": 3}),
    ):
        base = importances.identity(SlimSettings(importance=importance))
        assert importances.identity(SlimSettings(importance=importance, **unread)) == base
        assert importances.identity(SlimSettings(importance=importance, **read)) != base


def test_every_setting_is_of_the_scores_of_an_importance_that_reads_all_or_of_none() -> None:
    grouped = [name for names in _GROUPS.values() for name in names]
    always = {"importance", "revision", "trust_remote_code"}
    assert sorted([*grouped, *_NOT_OF_SCORES, *always]) == sorted(SlimSettings.model_fields), "a new setting needs a group"


def test_only_what_decides_the_scores_is_their_identity() -> None:
    base = importances.identity(SlimSettings())
    for change in ({"width_cut": "30%"}, {"floor": "10%"}, {"multiple": 64}, {"uniform": True}, {"save_every": 7}):
        assert importances.identity(SlimSettings(**change)) == base
    for change in ({"importance": "wanda"}, {"learning_rate": 0.1}, {"gate_penalty": 0.0}, {"seed": 1}, {"batch_size": 7}):
        assert importances.identity(SlimSettings(**change)) != base

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import PlanError
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.width_decision import (
    NumpyScores,
    choose_neurons,
    choose_widths,
    fewest_left,
    most_taken,
    smallest_cut,
)

# Few different values, so that ties are common.
LAYER = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=12)
SCORES = st.dictionaries(st.integers(0, 40), LAYER, min_size=1, max_size=6).map(
    lambda found: {layer: np.array(values, dtype=np.float32) for layer, values in found.items()}
)
EQUAL = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**16)).map(
    lambda sizes: {
        2 * layer: np.random.default_rng(sizes[2] + layer).integers(0, 4, sizes[1]).astype(np.float32)
        for layer in range(sizes[0])
    }
)
SHARE = st.fractions(0, 1).filter(lambda share: share < 1)


def rules(**given: Any) -> SlimSettings:
    """Settings whose values are not checked: a floor of 0 cannot be asked for."""
    return SlimSettings().model_copy(update=given)


def count_of(share: Fraction, scores: NumpyScores) -> int:
    return math.floor(share * total(scores))


def order(scores: NumpyScores) -> list[tuple[float, int, int]]:
    """All neurons, first to go first: the rule in words, as a sort key."""
    return sorted((float(value), -layer, -neuron) for layer, values in scores.items() for neuron, value in enumerate(values))


def stay(scores: NumpyScores, widths: dict[int, int]) -> dict[int, set[int]]:
    chosen = choose_neurons(scores, widths)
    return {layer: set(chosen.get(layer, range(len(values)))) for layer, values in scores.items()}


def total(scores: NumpyScores) -> int:
    return sum(map(len, scores.values()))


@given(SCORES, SHARE)
def test_exactly_the_floor_of_the_share_goes_and_it_is_the_lowest(scores: NumpyScores, share: Fraction) -> None:
    cut = count_of(share, scores)
    if cut > total(scores) - len(scores):
        with pytest.raises(PlanError, match="cannot be cut"):
            choose_widths(scores, rules(), cut=cut)
        return
    widths = choose_widths(scores, rules(), cut=cut)
    assert total(scores) - sum(widths.values()) == cut
    kept = stay(scores, widths)
    assert all(len(kept[layer]) == widths[layer] >= 1 for layer in scores)
    # One by one, the lowest first, leaving the last neuron of a layer alone.
    left = {layer: set(range(len(values))) for layer, values in scores.items()}
    gone = 0
    for _, layer, neuron in order(scores):
        if gone < cut and len(left[-layer]) > 1:
            left[-layer].remove(-neuron)
            gone += 1
    assert kept == left


@given(SCORES, SHARE, st.one_of(st.integers(1, 6).map(Fraction), SHARE), st.integers(1, 5))
def test_floor_and_multiple_hold(scores: NumpyScores, share: Fraction, floor: Fraction, multiple: int) -> None:
    rule = rules(floor=floor, multiple=multiple)
    cut = count_of(share, scores)
    least = {
        layer: min(len(values), max(1, math.ceil(floor * len(values)) if floor < 1 else int(floor)))
        for layer, values in scores.items()
    }
    try:
        widths = choose_widths(scores, rule, cut=cut)
    except PlanError:
        assert cut > total(scores) - sum(least.values())
        return
    plain = choose_widths(scores, rules(floor=floor), cut=cut)
    assert total(scores) - sum(plain.values()) == cut
    for layer, values in scores.items():
        width = len(values)
        assert widths[layer] >= least[layer]
        assert widths[layer] % multiple == 0 or widths[layer] == width
        assert 0 <= widths[layer] - plain[layer] < multiple
        # The best of each layer stay.
        best = sorted(range(width), key=lambda neuron: (-values[neuron], neuron))[: widths[layer]]
        assert stay(scores, widths)[layer] == set(best)


@given(EQUAL, SHARE, st.integers(1, 5))
def test_uniform_takes_the_nearest_multiple(scores: NumpyScores, share: Fraction, multiple: int) -> None:
    rule = rules(uniform=True, multiple=multiple)
    cut = count_of(share, scores)
    full = len(next(iter(scores.values())))
    if cut > total(scores) - len(scores):
        return
    widths = set(choose_widths(scores, rule, cut=cut).values())
    assert len(widths) == 1
    width = widths.pop()
    mean = Fraction(total(scores) - cut, len(scores))
    possible = {*range(multiple, full + 1, multiple), full}
    assert width == min(possible, key=lambda one: (abs(mean - one), -one))


@given(EQUAL, st.integers(0, 60), st.booleans(), st.integers(1, 4))
def test_smallest_cut_is_the_smallest(scores: NumpyScores, at_least: int, uniform: bool, multiple: int) -> None:
    rule = rules(uniform=uniform, multiple=multiple)

    def taken(cut: int) -> int:
        return total(scores) - sum(choose_widths(scores, rule, cut=cut).values())

    possible = [cut for cut in range(total(scores) - len(scores) + 1) if taken(cut) >= at_least]
    assert most_taken(scores, rule) == max(map(taken, range(total(scores) - len(scores) + 1)))
    assert bool(possible) == (at_least <= most_taken(scores, rule))
    if possible:
        assert smallest_cut(scores, rule, at_least=at_least) == possible[0]


@given(SCORES, SHARE, st.integers(1, 5))
def test_fewer_never_stay_than_the_fewest(scores: NumpyScores, share: Fraction, multiple: int) -> None:
    rule, cut = rules(multiple=multiple), min(count_of(share, scores), total(scores) - len(scores))
    left = fewest_left(scores, rule, cut=cut)
    assert total(scores) - cut <= left <= sum(choose_widths(scores, rule, cut=cut).values())


def test_the_fewest_that_stay_by_hand() -> None:
    blank = {layer: np.zeros(48) for layer in range(3)}
    assert fewest_left(blank, rules(), cut=43) == 101
    assert fewest_left(blank, rules(multiple=16), cut=43) == 112
    assert fewest_left(blank, rules(multiple=20), cut=43) == 104, "widths of 20, 40 and 48: all multiples of 4"
    assert fewest_left(blank, rules(uniform=True), cut=43) == 102


def test_among_equals_the_deeper_layer_and_the_higher_number_go_first() -> None:
    scores = {layer: np.ones(4, dtype=np.float32) for layer in (0, 3)}
    assert choose_neurons(scores, choose_widths(scores, rules(), cut=2)) == {3: (0, 1)}
    assert choose_neurons(scores, choose_widths(scores, rules(), cut=4)) == {0: (0, 1, 2), 3: (0,)}


def test_layers_that_keep_all_are_left_out() -> None:
    scores = {0: np.arange(4.0), 1: np.arange(4.0) + 10}
    assert choose_neurons(scores, choose_widths(scores, rules(), cut=2)) == {0: (2, 3)}
    assert choose_neurons(scores, choose_widths(scores, rules(), cut=0)) == {}


@pytest.mark.parametrize("values", [np.array([1.0, np.nan]), np.array([np.inf, 0.0]), np.ones((2, 2)), np.array([])])
def test_scores_that_cannot_be_ordered_are_refused(values: np.ndarray) -> None:
    with pytest.raises(PlanError, match="layer 1: expected one finite score a neuron"):
        choose_widths({0: np.ones(2), 1: values}, rules(), cut=1)


def test_nothing_to_cut_is_refused() -> None:
    with pytest.raises(PlanError, match="no MLP"):
        choose_widths({}, rules(), cut=0)
    with pytest.raises(PlanError, match=r"3 of 4 neurons cannot be cut: with at least 1 left in each of 2 MLPs at most 2 can"):
        choose_widths({0: np.ones(2), 1: np.ones(2)}, rules(), cut=3)

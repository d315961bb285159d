from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from prune2vec.models.kept import Kept

layers = st.sets(st.integers(0, 9))
FULL = (10, 20, 30, 40)


@given(keep=layers, attention=layers, mlp=layers)
def test_every_sub_layer_is_kept_or_dropped_and_blocks_that_lose_both_are_gone(
    keep: set[int], attention: set[int], mlp: set[int]
) -> None:
    kept = Kept.of(keep, drop_attention=attention, drop_mlp=mlp)
    assert set(kept.attentions) == keep - attention and set(kept.mlps) == keep - mlp
    assert set(kept.layers) == (keep - attention) | (keep - mlp)
    assert set(kept.drop_attention) == set(kept.layers) - set(kept.attentions)
    assert set(kept.drop_mlp) == set(kept.layers) - set(kept.mlps)
    for part in (kept.layers, kept.attentions, kept.mlps, kept.drop_attention, kept.drop_mlp):
        assert list(part) == sorted(part)
    assert kept.whole_blocks == (not kept.drop_attention and not kept.drop_mlp)


def test_layers_in_any_order_and_drops_elsewhere_make_the_same() -> None:
    assert Kept.of([3, 1, 1], drop_mlp=(2, 1), drop_attention=(0,)) == Kept(layers=(1, 3), drop_mlp=(1,))
    assert Kept.whole(iter([0, 2])) == Kept(layers=(0, 2))
    kept = Kept(layers=(0, 2), drop_mlp=(2,))
    assert Kept.whole(kept) is kept


def test_a_width_is_a_cut_inside_blocks() -> None:
    assert Kept(layers=(0,)).whole_blocks
    assert not Kept(layers=(0,), width_cut=Fraction(1, 3)).whole_blocks
    assert not Kept(layers=(0,), widths={0: 5}).whole_blocks


def test_neurons_that_go_by_hand() -> None:
    assert Kept(layers=(0, 1, 3)).cut_neurons(FULL) == 0
    # 30 % of 10 + 40 neurons; the MLP of layer 1 is not there.
    assert Kept(layers=(0, 1, 3), drop_mlp=(1,), width_cut=Fraction(3, 10)).cut_neurons(FULL) == 15
    # 36 of layer 3 are gone already, then half of 10 + 20 + 4, and a third of 34, floored.
    assert Kept(layers=(0, 1, 3), widths={3: 4}).cut_neurons(FULL) == 36
    assert Kept(layers=(0, 1, 3), widths={3: 4}, width_cut=Fraction(1, 2)).cut_neurons(FULL) == 36 + 17
    assert Kept(layers=(0, 1, 3), widths={3: 4}, width_cut=Fraction(1, 3)).cut_neurons(FULL) == 36 + 11
    assert Kept(layers=(0,), drop_mlp=(0,), width_cut=Fraction(1, 2)).cut_neurons(FULL) == 0


@given(st.lists(st.integers(1, 20000), min_size=1, max_size=60), st.integers(0, 99))
def test_the_share_is_floored_exactly_over_all_mlps_together(full: list[int], percent: int) -> None:
    kept = Kept.of(range(len(full)), width_cut=Fraction(percent, 100))
    assert kept.cut_neurons(tuple(full)) == sum(full) * percent // 100 == math.floor(kept.width_cut * sum(full))

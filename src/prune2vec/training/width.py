"""Which neurons stay, from their scores: arithmetic only.

Of each MLP its best neurons stay, so all that a rule has to settle is how many. Neurons are ordered by score; among equal
scores the one in the deeper layer goes first, and within a layer the one with the higher number.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from prune2vec.errors import PlanError

Scores = Mapping[int, NDArray[np.floating]]
Widths = dict[int, int]


@dataclass(frozen=True, kw_only=True)
class WidthRule:
    """What the widths after a cut must be like.

    Attributes:
        floor: Least that every MLP keeps: neurons from 1 on, or a share of them below 1 (rounded up, at least 1).
        multiple: Each MLP's width is rounded up to a multiple of this, as far as it has neurons.
        uniform: Every MLP has the same width.
    """

    floor: Fraction = Fraction(1)
    multiple: int = 1
    uniform: bool = False

    def least(self, width: int) -> int:
        """Return how many of ``width`` neurons must stay."""
        wanted = math.ceil(self.floor * width) if self.floor < 1 else math.ceil(self.floor)
        return min(width, max(1, wanted))

    def rounded(self, kept: int, width: int) -> int:
        """Return ``kept`` rounded up to the multiple, at most ``width``."""
        return min(width, math.ceil(Fraction(kept, self.multiple)) * self.multiple)


def count_of(share: Fraction, scores: Scores) -> int:
    """Return ``floor(share * neurons)``, exactly."""
    return math.floor(share * sum(map(len, scores.values())))


def choose_widths(scores: Scores, rule: WidthRule, *, cut: int) -> Widths:
    """Return how many neurons of each MLP stay when the ``cut`` lowest of all together go.

    Without a multiple and without ``uniform`` exactly ``cut`` go. With a multiple each width is rounded up; ``uniform`` takes
    the multiple that is nearest to the mean width (the larger of two equally near).

    Args:
        scores: By layer, (neuron,) finite numbers.
        rule: What the widths must be like.
        cut: Neurons to cut, of all MLPs together.

    Raises:
        PlanError: Scores are missing or not finite, or the floor keeps too many neurons for such a cut.
    """
    _check(scores)
    full = {layer: len(values) for layer, values in scores.items()}
    least = {layer: rule.least(width) for layer, width in full.items()}
    most = sum(full.values()) - sum(least.values())
    if not 0 <= cut <= most:
        raise PlanError(
            f"{cut} of {sum(full.values())} neurons cannot be cut: with at least {min(least.values())} left in each of "
            f"{len(full)} MLPs at most {most} can; cut less or lower the floor"
        )
    kept = _even(full, least, rule, cut) if rule.uniform else _global(scores, full, least, cut)
    return {layer: rule.rounded(kept[layer], width) for layer, width in full.items()}


def _global(scores: Scores, full: Widths, least: Widths, cut: int) -> Widths:
    """Cut the lowest of all neurons that are not among the ``least`` best of their layer."""
    open_to_cut = []
    for layer, values in scores.items():
        worst = _worst_first(values)[: full[layer] - least[layer]]
        open_to_cut.append(np.stack([values[worst], np.full(len(worst), -layer), -worst]))
    score, minus_layer, minus_neuron = np.concatenate(open_to_cut, axis=1)
    gone = np.lexsort((minus_neuron, minus_layer, score))[:cut]
    return {layer: width - int(np.count_nonzero(minus_layer[gone] == -layer)) for layer, width in full.items()}


def _even(full: Widths, least: Widths, rule: WidthRule, cut: int) -> Widths:
    """Give all the same width: the multiple, or the whole width, that is nearest to the mean."""
    widest = min(full.values())
    mean = Fraction(sum(full.values()) - cut, len(full))
    below = math.floor(mean / rule.multiple) * rule.multiple
    above = min(below + rule.multiple, widest)
    nearest = below if below and mean - below < above - mean else above
    return dict.fromkeys(full, max(nearest, *least.values()))


def smallest_cut(scores: Scores, rule: WidthRule, *, at_least: int) -> int:
    """Return the smallest ``cut`` that takes ``at_least`` neurons away after all rounding; ``most_taken`` is the most there is."""
    cuts = range(_largest_cut(scores, rule) + 1)
    return bisect.bisect_left(cuts, at_least, key=lambda cut: _taken(scores, rule, cut))


def most_taken(scores: Scores, rule: WidthRule) -> int:
    """Return how many neurons really go when as many are cut as the rule allows; the same for all scores."""
    return _taken(scores, rule, _largest_cut(scores, rule))


def fewest_left(scores: Scores, rule: WidthRule, *, cut: int) -> int:
    """Return a number of neurons that stay at least, of all MLPs together, whatever the scores are.

    Args:
        scores: Any, of the right lengths.
        rule: What the widths must be like; ``uniform`` makes the number exact.
        cut: Neurons to cut, of all MLPs together.
    """
    if rule.uniform:
        return sum(choose_widths(scores, rule, cut=cut).values())
    full = [len(values) for values in scores.values()]
    # Each width is a multiple of it, or a full one, so that their sum is a multiple of what divides all of these.
    step = math.gcd(rule.multiple, *full)
    return math.ceil(Fraction(sum(full) - cut, step)) * step


def _largest_cut(scores: Scores, rule: WidthRule) -> int:
    _check(scores)
    return sum(len(values) - rule.least(len(values)) for values in scores.values())


def _taken(scores: Scores, rule: WidthRule, cut: int) -> int:
    return sum(map(len, scores.values())) - sum(choose_widths(scores, rule, cut=cut).values())


def choose_neurons(scores: Scores, widths: Widths) -> dict[int, tuple[int, ...]]:
    """Return the best neurons of each MLP that becomes narrower, ascending; those that keep all are left out."""
    return {
        layer: tuple(sorted(_worst_first(scores[layer])[-width:].tolist()))
        for layer, width in sorted(widths.items())
        if width < len(scores[layer])
    }


def _worst_first(values: NDArray[np.floating]) -> NDArray[np.intp]:
    return np.lexsort((-np.arange(len(values)), values))


def _check(scores: Scores) -> None:
    if not scores:
        raise PlanError("there is no MLP whose neurons could be cut")
    for layer, values in scores.items():
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise PlanError(f"layer {layer}: expected one finite score a neuron, got shape {values.shape} with NaN or infinity")

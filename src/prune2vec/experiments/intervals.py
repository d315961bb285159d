"""How sure a difference of two scores is: the paired bootstrap over queries, pairs or texts.

Items are drawn with replacement, the same ones for both encoders, and both are scored again on what was drawn (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13; for retrieval Sakai, SIGIR 2006). The interval goes between
quantiles of the resampled differences, moved outwards as far as Student's t is wider than the normal distribution (Hesterberg,
The American Statistician 69, 2015, section 5.3: without that, intervals from few items are too narrow).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import Results
from prune2vec.experiments.comparable import same_score, same_task
from prune2vec.experiments.ranking_diff import OWN_DATA, SCORE, Gap

LEAST = {"queries": 20, "pairs": 20, "texts": 20, "sets of texts": 10}
"""So many items must score differently for an interval: from fewer it would be too narrow, as a test shows. The score of a set is a
mean over many texts, of which fewer do."""
_OUTSIDE = 0.05
_RESAMPLES = {"mean": 10_000, "spearman": 2_000}
# Cells of a block of resamples, items wide.
_CELLS = 1 << 21

Array = NDArray[np.float64]


def gaps(base: Results, others: Sequence[Results]) -> list[dict[str, Gap]]:
    """Return for each of ``others`` how it differs from ``base``, by task, and as ``OWN_DATA`` and ``SCORE``.

    What the two were not both measured on is left out, and so is a mean over other tasks.
    """
    measured = [_measured(other) for other in others]
    found: list[dict[str, Gap]] = [{} for _ in others]
    drawn: list[dict[str, Array]] = [{} for _ in others]
    for name, (score, items) in _measured(base).items():
        comparable = [_alike(name, base, other) for other in others]
        theirs = {at: of[name] for at, of in enumerate(measured) if name in of and comparable[at]}
        for at, (gap, differences) in _compared(score, items, theirs).items():
            found[at][name] = gap
            if differences is not None:
                drawn[at][name] = differences
    for at, other in enumerate(others):
        if same_score(base, other) and base.score is not None and other.score is not None:
            found[at][SCORE] = found[at][OWN_DATA] if base.retrieval else _of_means(base, other, drawn[at])
    return found


def _of_means(base: Results, other: Results, drawn: Mapping[str, Array]) -> Gap:
    """Return the difference of the means over tasks, which are drawn independently of each other; they themselves are not drawn."""
    value = (other.score or 0.0) - (base.score or 0.0)
    without = [task.name for task in base.tasks if task.name not in drawn]
    if without:
        return Gap(value=value, why=f"{', '.join(without)} {'have' if len(without) > 1 else 'has'} none")
    resamples = min(map(len, drawn.values()))
    mean = np.mean([drawn[task.name][:resamples] for task in base.tasks], axis=0)
    return _gap(value, mean, [items for task in base.tasks for items in task.items])


def _compared(
    score: float, items: Sequence[ItemScores], theirs: Mapping[int, tuple[float, Sequence[ItemScores]]]
) -> dict[int, tuple[Gap, Array | None]]:
    """Return how others' scores of one thing differ from ``score``, each with its resampled differences, where there can be any."""
    why = {at: _why_not(items, own) for at, (_, own) in theirs.items()}
    paired = [at for at in theirs if not why[at]]
    # Each row has the items of every part of a task.
    parts = zip(items, *(theirs[at][1] for at in paired), strict=True) if paired else ()
    resampled = np.mean([resampled_differences(part) for part in parts], axis=0).T if paired else ()
    found: dict[int, tuple[Gap, Array | None]] = {
        at: (Gap(value=its - score, over=_over(items), why=why[at]), None) for at, (its, _) in theirs.items()
    }
    return found | {at: (_gap(found[at][0].value, one, items), one) for at, one in zip(paired, resampled, strict=True)}


def _alike(name: str, base: Results, other: Results) -> bool:
    if name == OWN_DATA:
        return other.data_digest == base.data_digest
    ours, theirs = ({task.name: task for task in one.tasks} for one in (base, other))
    return name in theirs and same_task(ours[name], theirs[name])


def _measured(results: Results) -> dict[str, tuple[float, tuple[ItemScores, ...]]]:
    """Return score and items of each thing that was measured."""
    found = {task.name: (task.score, task.items) for task in results.tasks}
    if results.retrieval:
        found[OWN_DATA] = (float(results.retrieval["metrics"]["ndcg@10"]), results.own_items)
    return found


def _why_not(ours: Sequence[ItemScores], theirs: Sequence[ItemScores]) -> str:
    """Return why two scores give no interval; nothing where they do."""
    if not ours or not theirs:
        return "not both results hold the scores of single queries, pairs or texts"
    if len(ours) != len(theirs) or not all(mine.pairs_with(its) for mine, its in zip(ours, theirs, strict=True)):
        return "the two were not measured on the same queries, pairs or texts"
    changed = sum(int((mine.numbers != its.numbers).sum()) for mine, its in zip(ours, theirs, strict=True))
    # Of a single item nothing can be drawn anew, whatever it scores.
    few = 0 < changed < LEAST[ours[0].unit] or min(map(len, ours)) == 1
    return f"only {changed} of {_over(ours)} score differently" if few else ""


def _over(items: Sequence[ItemScores]) -> str:
    units = {one.unit: sum(len(other) for other in items if other.unit == one.unit) for one in items}
    return ", ".join(f"{count:,} {unit}" for unit, count in units.items())


def _gap(value: float, drawn: Array, items: Sequence[ItemScores]) -> Gap:
    low, high = interval(drawn, min(map(len, items)))
    return Gap(value=value, low=low, high=high, over=_over(items))


def interval(drawn: Array, items: int) -> tuple[float, float]:
    """Return the 95 % interval of resampled values, (resamples,), each from ``items`` items."""
    from scipy.special import ndtr, stdtrit

    outside = ndtr(math.sqrt(items / (items - 1)) * stdtrit(items - 1, _OUTSIDE / 2))
    low, high = np.nanquantile(drawn, [outside, 1 - outside])
    return float(low), float(high)


def resampled_differences(rows: Sequence[ItemScores]) -> Array:
    """Return by how much the scores of resampled items differ from those of the first row.

    The draws depend on the items alone: the same files give the same numbers, whatever stands beside them.

    Args:
        rows: The same items, as several encoders score them.

    Returns:
        Differences, (resamples, rows - 1); NaN where what was drawn has no correlation.
    """
    first = rows[0]
    counts = _counts(len(first), _RESAMPLES[first.statistic], seed=f"{first.digest} {first.split} {first.subset}")
    if first.statistic == "mean":
        differences = [row.numbers - first.numbers for row in rows[1:]]
        # One column after the other: several in one product are rounded otherwise than one.
        sums: Array = np.concatenate([np.stack([block @ one for one in differences], axis=1) for block in counts])
        return sums / len(first)
    gold, columns = _Ranked(first.right), [_Ranked(row.numbers) for row in rows]
    scores: Array = np.concatenate([_correlations(block, gold, columns) for block in counts])
    return scores[:, 1:] - scores[:, :1]


def _counts(items: int, resamples: int, *, seed: str) -> Iterator[Array]:
    """Yield how often each item is drawn, in blocks of (resamples of the block, items)."""
    random = np.random.default_rng(list(seed.encode()))
    step = max(1, _CELLS // items)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        places = random.integers(items, size=(size, items)) + items * np.arange(size)[:, None]
        yield np.bincount(places.ravel(), minlength=size * items).reshape(size, items).astype(np.float64)


class _Ranked:
    """Values in order, so that the ranks of any resample come from counts alone and nothing is sorted again."""

    def __init__(self, values: Array) -> None:
        # Equal values are one group, and share the mean of their ranks.
        _, self._group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        self._order = np.argsort(self._group, kind="stable")
        self._starts = np.cumsum(sizes) - sizes

    def centred(self, counts: Array) -> Array:
        """Return the rank of each item among those drawn, less the mean rank, (resamples, items)."""
        drawn = np.add.reduceat(np.take(counts, self._order, axis=1), self._starts, axis=1)
        ranks = np.cumsum(drawn, axis=1) - (drawn - 1) / 2
        return np.take(ranks - (counts.shape[1] + 1) / 2, self._group, axis=1)


def _correlations(counts: Array, gold: _Ranked, columns: Sequence[_Ranked]) -> Array:
    """Return Spearman's correlation of every column with ``gold`` on what was drawn, (resamples, columns)."""
    right = gold.centred(counts)
    weighted, found = counts * right, []
    spread = np.einsum("ri,ri->r", weighted, right)
    for column in columns:
        ranks = column.centred(counts)
        own = np.einsum("ri,ri,ri->r", counts, ranks, ranks)
        with np.errstate(invalid="ignore"):
            found.append(np.einsum("ri,ri->r", weighted, ranks) / np.sqrt(spread * own))
    return np.stack(found, axis=1)

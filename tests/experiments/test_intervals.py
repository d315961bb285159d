from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap, spearmanr

from prune2vec.evaluation.item_scores import ItemScores, Unit
from prune2vec.evaluation.results import METRICS, Results, TaskScore
from prune2vec.experiments.intervals import LEAST, _counts, gaps, interval, resampled_differences
from prune2vec.experiments.ranking_diff import OWN_DATA, SCORE, UNSURE
from tests.experiments.small import results_of

Array = Any


def queries(values: Sequence[float] | Array, *, items: object = "these") -> ItemScores:
    return ItemScores.of(values, items=items, unit="queries")


def pairs(values: Array, gold: Array, *, items: object = "these") -> ItemScores:
    return ItemScores.of(values, gold=gold, items=items, unit="pairs", statistic="spearman")


def own_results(values: Array, *, digest: str = "d", **changes: Any) -> Results:
    score = float(np.mean(values))
    retrieval = {
        "data": {"source": "dev.jsonl", "digest": digest, "queries": len(values), "documents": 10},
        "metrics": dict.fromkeys(METRICS, score),
        "items": asdict(queries(values)),
    }
    return results_of(retrieval=retrieval, **changes)


def task_score(name: str, *items: ItemScores, score: float = 0.5) -> TaskScore:
    about: dict[str, Any] = {"type": "STS", "main_score": "x", "metrics": {}, "prompts": {}, "data": {}, "seconds": 1.0}
    return TaskScore(name=name, score=score, parts=({},) * len(items), items=items, **about)


def drawn_counts(items: ItemScores, resamples: int) -> Array:
    return np.concatenate(list(_counts(len(items), resamples, seed=f"{items.digest}  "))).astype(int)


def test_means_of_resamples_are_those_of_the_items_drawn() -> None:
    random = np.random.default_rng(0)
    base, other = queries(random.random(30)), queries(random.random(30))
    found = resampled_differences([base, other])
    for drawn, difference in zip(drawn_counts(base, 10_000)[:50], found[:50, 0], strict=True):
        picked = np.repeat(np.arange(30), drawn)
        assert len(picked) == 30
        assert difference == pytest.approx(other.numbers[picked].mean() - base.numbers[picked].mean(), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 5, 2])
def test_correlations_of_resamples_are_those_of_the_items_drawn(levels: int | None) -> None:
    random = np.random.default_rng(1)

    def values() -> Array:
        return random.random(40) if levels is None else random.integers(levels, size=40).astype(float)

    gold = values()
    rows = [pairs(values(), gold) for _ in range(3)]
    found = resampled_differences(rows)
    assert found.shape == (2_000, 2)
    for drawn, differences in zip(drawn_counts(rows[0], 2_000)[:50], found[:50], strict=True):
        picked = np.repeat(np.arange(40), drawn)
        base, *others = (spearmanr(row.numbers[picked], gold[picked]).statistic for row in rows)
        assert differences == pytest.approx([other - base for other in others], abs=1e-10)


def test_every_item_is_drawn_equally_often() -> None:
    counts = np.concatenate(list(_counts(20, 10_000, seed="x")))
    assert (counts.sum(axis=1) == 20).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.05)
    # Of a multinomial draw: variance 1 - 1/n, covariance -1/n.
    assert np.cov(counts.T) == pytest.approx(np.eye(20) - 1 / 20, abs=0.06)


def test_intervals_are_scipy_s_but_for_the_width_of_student_s_t() -> None:
    random = np.random.default_rng(2)
    base, other = random.beta(2, 1, 200), random.beta(2, 1.3, 200)
    low, high = interval(resampled_differences([queries(base), queries(other)])[:, 0], 200)
    theirs = bootstrap((other - base,), np.mean, n_resamples=10_000, method="percentile", rng=3).confidence_interval
    width = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)
    # From few normal values it is t's own interval.
    few = random.normal(size=10)
    low, high = interval(resampled_differences([queries(np.zeros(10)), queries(few)])[:, 0], 10)
    half = 2.262 * few.std(ddof=1) / math.sqrt(10)
    assert (low, high) == pytest.approx((few.mean() - half, few.mean() + half), abs=0.15 * half)


@pytest.mark.parametrize(("items", "unit", "share"), [(60, "queries", 1 / 3), (300, "queries", 0.1), (10, "sets of texts", 1)])
def test_intervals_of_means_hold_the_truth_as_often_as_they_say(items: int, unit: Unit, share: float) -> None:
    """As few as may be: of queries only some change at all, as of nDCG, and lose more than they win."""
    assert items * share >= LEAST[unit]
    random = np.random.default_rng(items)
    trials, truth = 1_500, -0.06 * share
    changes = np.where(random.random((trials, items)) < share, random.normal(-0.06, 0.3, (trials, items)), 0.0)
    found = resampled_differences([queries(row) for row in (np.zeros(items), *changes)])
    ends = [interval(column, items) for column in found.T]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in ends]) <= 0.97


def test_intervals_of_correlations_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    trials, items, held = 500, 120, 0
    right, others = 0.85, 0.7
    truth = 6 / math.pi * (math.asin(others / 2) - math.asin(right / 2))
    for trial in range(trials):
        gold, shared = random.normal(size=(2, items))
        one, two = (
            strength * gold + math.sqrt(1 - strength**2) * (0.6 * shared + 0.8 * random.normal(size=items))
            for strength in (right, others)
        )
        rows = [pairs(one, gold, items=trial), pairs(two, gold, items=trial)]
        low, high = interval(resampled_differences(rows)[:, 0], items)
        held += low <= truth <= high
    assert 0.93 <= held / trials <= 0.97


def test_the_same_files_give_the_same_interval_whoever_stands_beside_them() -> None:
    random = np.random.default_rng(6)
    base, one, two = (own_results(random.random(50)) for _ in range(3))
    assert gaps(base, [one, two])[1] == gaps(base, [two])[0]
    again = gaps(base, [two])[0][SCORE]
    assert again.low is not None and again.high is not None and again.low < again.value < again.high
    assert again.over == "50 queries"


def test_what_it_says() -> None:
    random = np.random.default_rng(7)
    values = random.random(100)
    noise = random.normal(0, 0.05, 100)
    base, same, better, worse = map(own_results, (values, values + noise - noise.mean(), values + 0.1 + noise, values - 0.1))
    assert [found[SCORE].verdict for found in gaps(base, [base, same, better, worse])] == [UNSURE, UNSURE, "better", "worse"]
    assert gaps(base, [worse])[0][SCORE].interval == "-0.1000 to -0.1000"


def test_only_the_same_items_are_compared() -> None:
    random = np.random.default_rng(8)
    values = random.random(20)
    base = own_results(values)
    assert gaps(base, [own_results(values, digest="other")]) == [{}]
    old = results_of(score=0.25, retrieval={key: item for key, item in base.retrieval.items() if key != "items"})
    (found,) = gaps(base, [old])
    said = "no interval: not both results hold the scores of single queries, pairs or texts"
    assert (found[SCORE].low, found[SCORE].interval, found[SCORE].verdict) == (None, "", said)
    assert found[OWN_DATA] == found[SCORE]
    other = results_of(retrieval={}, tasks=(task_score("A", queries(values, items="one")),))
    another = results_of(retrieval={}, tasks=(task_score("A", queries(values, items="two")),))
    assert gaps(other, [another])[0]["A"].verdict.endswith("not measured on the same queries, pairs or texts")


@pytest.mark.parametrize(("changed", "told"), [(0, True), (1, False), (19, False), (20, True)])
def test_few_changed_queries_tell_nothing(changed: int, told: bool) -> None:
    values = np.random.default_rng(10).random(100)
    other = values - 0.2 * (np.arange(100) < changed)
    found = gaps(own_results(values), [own_results(other)])[0][SCORE]
    assert bool(found.interval) == told
    assert told or found.verdict == f"no interval: only {changed} of 100 queries score differently"


def test_the_mean_over_tasks_has_an_interval_if_every_task_has_one() -> None:
    random = np.random.default_rng(9)
    gold = random.random(60)

    def results(shift: float) -> Results:
        scores = (gold + shift * random.normal(size=60), random.random(400) - shift)
        tasks = (
            task_score("STS", pairs(scores[0], gold), score=float(spearmanr(scores[0], gold).statistic)),
            task_score("SciFact", queries(scores[1]), score=float(scores[1].mean())),
        )
        return results_of(retrieval={}, tasks=tasks)

    base, other = results(0.1), results(0.3)
    (found,) = gaps(base, [other])
    assert list(found) == ["STS", "SciFact", SCORE]
    assert found[SCORE].over == "60 pairs, 400 queries"
    assert found[SCORE].value == pytest.approx((found["STS"].value + found["SciFact"].value) / 2)

    def half(name: str) -> float:
        return ((found[name].high or 0.0) - (found[name].low or 0.0)) / 2

    # The errors of tasks that are drawn by themselves add up by their squares.
    assert half(SCORE) == pytest.approx(math.hypot(half("STS"), half("SciFact")) / 2, rel=0.1)
    without = results_of(retrieval={}, tasks=(other.tasks[0], task_score("SciFact", score=0.2)))
    (found,) = gaps(base, [without])
    assert found["STS"].low is not None and found["SciFact"].low is None
    assert found[SCORE].verdict == "no interval: SciFact has none"


def test_a_single_query_has_no_interval() -> None:
    (found,) = gaps(own_results(np.array([0.5])), [own_results(np.array([0.5]))])
    assert found[SCORE].value == 0
    assert found[SCORE].verdict == "no interval: only 0 of 1 queries score differently"

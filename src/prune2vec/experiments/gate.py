"""Has an encoder become worse than it was? Today's results against earlier ones, for a build that must stop where it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prune2vec.errors import ConfigError, EvaluationError
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import Results, TaskScore
from prune2vec.experiments.gap import OWN_DATA, SCORE, Gap
from prune2vec.experiments.intervals import gaps


def losses(now: Mapping[str, Results], before: Mapping[str, Results], *, gate: Path, max_drop: float) -> tuple[str, ...]:
    """Return a line for each score that fell by more than ``max_drop``, beyond its interval.

    A score is lost where all of the interval of its difference lies below ``-max_drop``; where the results hold no items, and
    so there is no interval, the difference itself decides.

    Args:
        now: Results by name.
        before: Earlier ones by name; one alone is that of the one in ``now``, whatever they are called.
        gate: Where these are from.
        max_drop: In points of 100.

    Raises:
        EvaluationError: An earlier result is missing, or was not measured on the same thing.
        ConfigError: ``max_drop`` is no number of points.
    """
    if not 0 <= max_drop <= 100:
        raise ConfigError(f"max_drop is {max_drop}; expected points, from 0 to 100")
    alone = len(now) == len(before) == 1
    lines = []
    for name, results in now.items():
        if not alone and name not in before:
            raise EvaluationError(
                f"{gate} holds no results of {name!r}, but of {', '.join(before)}; compare one results file with one, or a run with "
                "one whose variants have the same names"
            )
        earlier = next(iter(before.values())) if alone else before[name]
        if (why := next(_reasons(results, earlier), None)) is not None:
            raise EvaluationError(
                f"{name} and {gate} are not comparable: {why}; evaluate on what the earlier results were measured on"
            )
        (found,) = gaps(earlier, [results])
        mean = [] if earlier.retrieval or len(earlier.tasks) == 1 else [SCORE]
        for what in (key for key in found if key != SCORE or mean):
            gap = found[what]
            if (gap.value if gap.high is None else gap.high) < -max_drop / 100:
                lines.append(_line(name, {OWN_DATA: "nDCG@10", SCORE: earlier.score_name}.get(what, what), gap, max_drop))
    return tuple(lines)


def _reasons(now: Results, before: Results) -> Iterator[str]:
    """Yield why two results are not comparable."""
    if before.score is None:
        yield "the earlier results hold no score"
    if before.retrieval and now.data_digest != before.data_digest:
        theirs, ours = (one.retrieval["data"]["source"] if one.retrieval else "none" for one in (before, now))
        yield f"the data are others ({ours}, before {theirs})"
    there = {task.name: task for task in now.tasks}
    if lacking := [task.name for task in before.tasks if task.name not in there]:
        yield f"{', '.join(lacking)} is missing now"
    for task in before.tasks:
        yield from _task_reasons(there[task.name], task)


def _task_reasons(now: TaskScore, before: TaskScore) -> Iterator[str]:
    if any(key in before.data and key in now.data and before.data[key] != now.data[key] for key in ("digest", "revision")):
        yield f"the data of {before.name} are others"
    if before.items and now.items:
        paired = len(before.items) == len(now.items) and all(map(ItemScores.pairs_with, before.items, now.items))
        if not paired:
            yield f"the queries, pairs or texts of {before.name} are others"


def _line(name: str, what: str, gap: Gap, max_drop: float) -> str:
    within = f"95 % interval {gap.interval}, {gap.over}" if gap.interval else gap.verdict
    return f"{name} lost {-100 * gap.value:.2f} points of {what}, more than {max_drop:g} ({gap.value:+.4f}; {within})"

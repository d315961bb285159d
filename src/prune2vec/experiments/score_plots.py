"""Pictures of score against cost, with intervals and the front of those that nothing else beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune2vec.experiments.comparison import Comparison
from prune2vec.experiments.plots import color_of, drawn, styled_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FAINT, _INK = "#9aa5b1", "#52606d"
# More names than these run into each other; then those of the front, and the first, are written.
_NAMED, _BESIDE = 10, 4


@dataclass(frozen=True, kw_only=True)
class ScorePoint:
    """One encoder in a picture of score against cost.

    Attributes:
        name: Of the encoder.
        cost: Along x: parameters in millions, or texts a second.
        score: Along y.
        low: Where the interval of its difference to the first encoder begins, as a score; None without one.
        high: Where it ends.
        color: Of its dot.
    """

    name: str
    cost: float
    score: float
    low: float | None = None
    high: float | None = None
    color: str = _INK


def score_points(comparison: Comparison, *, speed: bool = False) -> list[ScorePoint]:
    """Return a point for each encoder with a score, against parameters or, with ``speed``, against texts a second."""
    first, points = comparison.rows[0].score, []
    for place, row in enumerate(comparison.rows):
        cost = row.texts_per_s if speed else row.params / 1e6
        if row.score is None or row.same_as or cost is None:
            continue
        gap = comparison.difference(row.name)
        ends = {}
        if first is not None and gap is not None and gap.low is not None and gap.high is not None:
            ends = {"low": first + gap.low, "high": first + gap.high}
        points.append(ScorePoint(name=row.name, cost=cost, score=row.score, color=color_of(place), **ends))
    return points


def front(points: Sequence[ScorePoint], *, more: bool) -> list[ScorePoint]:
    """Return the points that no other one beats in cost or score without losing in the other, by cost from the cheapest.

    With ``more``, more of the cost is better, as of texts a second.
    """
    found: list[ScorePoint] = []
    for point in sorted(points, key=lambda one: (-one.cost if more else one.cost, -one.score)):
        if not found or point.score > found[-1].score:
            found.append(point)
    return found


def score_svg(
    points: Sequence[ScorePoint], *, metric: str, speed: bool = False, baseline: tuple[str, float] | None = None
) -> str:
    """Return score against cost as SVG text.

    ``metric`` says what the score is; ``baseline`` is the name and score of a method without parameters (BM25), drawn as a line.
    """
    best = front(points, more=speed)
    with styled_figure(8.2, 3.8) as (figure, axes):
        axes.plot([one.cost for one in best], [one.score for one in best], color=_FAINT, linewidth=1.2, zorder=1)
        for point in points:
            if point.low is not None and point.high is not None:
                axes.plot([point.cost] * 2, [point.low, point.high], color=point.color, linewidth=1.6, alpha=0.45, zorder=2)
            size = 70 if len(points) <= _NAMED else 26
            axes.scatter(point.cost, point.score, s=size, color=point.color, edgecolor="white", zorder=3)
        _write_names(axes, points if len(points) <= _NAMED else list(dict.fromkeys([points[0], *best])))
        if baseline is not None:
            axes.axhline(baseline[1], color=_FAINT, linewidth=1.2, linestyle=(0, (5, 3)), zorder=0)
            text, at = f"{baseline[0]}  {baseline[1]:.3f}", (1.0, baseline[1])
            where = ("axes fraction", "data")
            axes.annotate(text, at, (0, 4), xycoords=where, textcoords="offset points", ha="right", color=_INK)
        axes.margins(x=0.14, y=0.28)
        axes.set_xlabel("texts per second, documents" if speed else "parameters, millions")
        axes.set_ylabel(metric)
        return drawn(figure).decode()


def _write_names(axes: Axes, points: Sequence[ScorePoint]) -> None:
    """Write names beside dots, away from the edge and from the neighbour to the left; many of them slanted."""
    ascending, slanted = sorted(points, key=lambda one: one.cost), len(points) > _BESIDE
    least, most = ascending[0].cost, ascending[-1].cost
    right, last = True, float("-inf")
    for point in ascending:
        near = point.cost - last < 0.2 * (most - least)
        right = not right if near else point.cost < (least + most) / 2
        last = point.cost
        where: Any = {"ha": "left", "va": "bottom", "rotation": 32, "rotation_mode": "anchor", "fontsize": 8}
        if not slanted:
            where = {"ha": "left" if right else "right", "va": "center"}
        shift = (2, 6) if slanted else (9 if right else -9, 0)
        text = f"{point.name}  {point.score:.3f}"
        axes.annotate(text, (point.cost, point.score), shift, textcoords="offset points", color=point.color, **where)

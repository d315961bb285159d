"""The figures of a table of encoders: one column against another, training curves, scores by task, curves of several models.

A row is what ``cell_rows`` returns, one encoder of a sweep, a run or a comparison. Encoders of one method share a colour in a
sweep; elsewhere each has its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.experiments.plots import (
    PALETTE,
    color_bar,
    color_of,
    draw_cells,
    drawn,
    interval_of,
    log_ticks,
    marker_of,
    styled_figure,
    whole_ticks,
)
from prune2vec.experiments.stage_runner import FIGURES
from prune2vec.files import read_json, write_text
from prune2vec.resume import read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from prune2vec.profiling.profile import Profile

Row = Mapping[str, Any]
Curve = Sequence[tuple[float, float]]
"""Points of step and loss."""

TASK = "task: {}"
"""Column of a task's score."""
_FAINT, _INK = "#9aa5b1", "#52606d"
# What stands along an axis for a column, and by how much its values are multiplied.
_AXES = {
    "parameters": ("parameters, millions", 1e-6),
    "documents_per_s": ("texts per second, documents", 1.0),
    "final_loss": ("training loss, mean of the last 50 steps", 1.0),
    "train_seconds": ("training time, minutes", 1 / 60),
    "train_memory_bytes": ("peak memory of training, GB", 1e-9),
}
_FRONT = "A broken line joins those that no other one beats in both. A bar is the 95 % interval of the difference to the first."
_LOSS = "Losses can be compared where texts, batches and what is learnt are the same."
# Name, columns along x and y, title, caption.
_AGAINST = (
    ("score", "parameters", "score", "Score against parameters", _FRONT),
    ("speed", "documents_per_s", "score", "Score against speed", _FRONT),
    ("loss", "parameters", "final_loss", "Training loss against parameters", _LOSS),
    ("time", "parameters", "train_seconds", "Training time against parameters", ""),
    ("memory", "parameters", "train_memory_bytes", "Memory of training against parameters", ""),
)
# More names than these run into each other; then those of the front, and the first, are written.
_NAMED, _BESIDE = 10, 4
# Where the largest of x is so many times the least, they stand on a logarithmic axis.
_SPREAD = {"parameters": 10, "documents_per_s": 4}
# A heat map of more encoders is no longer read, and one of more cells has no room for numbers.
_MOST_ROWS, _MOST_NUMBERS = 40, 600
# Points of all training curves together.
_CURVE_POINTS = 12_000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of a report: the name of its file, a title, what to know when reading it, and its SVG."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class FigurePoint:
    """An encoder in a figure.

    Attributes:
        name: Of the encoder.
        series: What it belongs to: its method in a sweep, else itself.
        line: What it is joined with by a line: method, way to train and seed.
        x: Along x.
        y: Along y.
        low: Where the interval of its difference to the first encoder begins, as a score; None without one.
        high: Where it ends.
    """

    name: str
    series: str
    x: float
    y: float
    line: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None


def pictures(
    rows: Sequence[Row],
    *,
    curves: Mapping[str, Curve] | None = None,
    profiles: Sequence[tuple[str, Profile]] = (),
    baseline: tuple[str, float] | None = None,
) -> list[Picture]:
    """Return every figure for which the table has something to show.

    Args:
        rows: The encoders.
        curves: Training curves by name of the encoder.
        profiles: Profiles of several models, each with its name.
        baseline: Name and score of a method without parameters (BM25), drawn as a line where scores are.
    """
    found = [
        Picture(name=name, title=title, caption=caption, svg=against_svg(rows, x, y, baseline=baseline))
        for name, x, y, title, caption in _AGAINST
        if len(points(rows, x, y)) > 1
    ]
    by_task = [row for row in rows if any(row[name] is not None for name in _task_columns(row)) and not row.get("same_as")]
    if len(by_task) > 1 and len(_task_columns(by_task[0])) > 1:
        many = f" Of {len(by_task)}, the first and those that score best." if len(by_task) > _MOST_ROWS else ""
        about = f"Score of each task, times 100; the colour is its difference to {by_task[0]['cell']}'s.{many}"
        found.append(Picture(name="tasks", title="Scores by task", caption=about, svg=tasks_svg(by_task)))
    learnt = {name: curve for name, curve in (curves or {}).items() if curve}
    if learnt:
        about = "Running mean of the loss of each step" + (", which is the thin line." if len(learnt) <= len(PALETTE) else ".")
        found.append(Picture(name="training", title="Training loss by step", caption=about, svg=training_svg(learnt, rows)))
    if len(profiles) > 1:
        about = (
            "Contrastive loss of each untrained model cut to its first layers (lower is better); the band is its 95 % interval."
        )
        found.insert(0, Picture(name="layers", title="What depth is worth", caption=about, svg=layers_svg(profiles)))
    return found


def write_pictures(found: Sequence[Picture], folder: Path) -> None:
    """Write each as NAME.svg into a folder, and remove those of an earlier call that are not among them."""
    texts = {f"{one.name}.svg": one.svg for one in found}
    for name in FIGURES:
        if name in texts:
            write_text(folder / name, texts[name])
        else:
            (folder / name).unlink(missing_ok=True)


def colors_of(rows: Sequence[Row]) -> dict[str, str]:
    """Return the colour of each encoder by name, the same in every figure and table of a report."""
    places = _places(rows)
    return {row["cell"]: color_of(places[_series(row)]) for row in rows}


def _series(row: Row) -> str:
    return str(row.get("method") or row["cell"])


def _places(rows: Sequence[Row]) -> dict[str, int]:
    return {series: place for place, series in enumerate(dict.fromkeys(map(_series, rows)))}


def points(rows: Sequence[Row], x: str, y: str) -> list[FigurePoint]:
    """Return a point for each encoder that has both columns and does not stand for another one.

    Of scores only those that were measured on the same as the first one.
    """
    found: list[FigurePoint] = []
    for row in rows:
        if row.get(x) is None or row.get(y) is None or row.get("same_as"):
            continue
        if y == "score" and found and row.get("difference") is None:
            continue
        ends = {}
        if y == "score" and row.get("low") is not None:
            first = row["score"] - row["difference"]
            ends = {"low": first + row["low"], "high": first + row["high"]}
        at = {"x": row[x] * _AXES[x][1], "y": row[y] * _AXES.get(y, ("", 1.0))[1]}
        line = (_series(row), row.get("train"), row.get("seed"))
        found.append(FigurePoint(name=row["cell"], series=line[0], line=line, **at, **ends))
    return found


def front(found: Sequence[FigurePoint], *, more: bool) -> list[FigurePoint]:
    """Return the points that no other one beats in x or y without losing in the other, from the best x on.

    More of y is better; with ``more``, more of x too, as of texts a second.
    """
    best: list[FigurePoint] = []
    for point in sorted(found, key=lambda one: (-one.x if more else one.x, -one.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def against_svg(rows: Sequence[Row], x: str, y: str, *, baseline: tuple[str, float] | None = None) -> str:
    """Return column ``y`` against column ``x`` as SVG text; scores with their intervals, the front and the baseline."""
    found, places = points(rows, x, y), _places(rows)
    best = front(found, more=x == "documents_per_s") if y == "score" else []
    with styled_figure(8.2, 3.9) as (figure, axes):
        axes.margins(x=0.14, y=0.28)
        if max(one.x for one in found) > _SPREAD[x] * min(one.x for one in found):
            log_ticks(axes)
        axes.plot([one.x for one in best], [one.y for one in best], color=_INK, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
        _draw_points(axes, found, places)
        axes.set_xlabel(_AXES[x][0])
        if y == "score":
            if baseline is not None:
                name, score = baseline
                axes.axhline(score, color=_FAINT, linewidth=1.2, linestyle=(0, (1, 2)), zorder=0)
                where: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
                axes.annotate(f"{name}  {score:.3f}", (1.0, score), (0, 4), color=_INK, **where)
            names = {row.get("score_name") for row in rows if row.get("score") is not None}
            axes.set_ylabel(names.pop() if len(names) == 1 else "score")
        else:
            axes.set_ylabel(_AXES[y][0])
            axes.set_ylim(bottom=0)
        named = found if len(found) <= _NAMED else list(dict.fromkeys([found[0], *best]))
        _write_names(axes, named, places, digits=".3f" if y == "score" else ".3g")
        if len({one.series for one in found}) < len(found):
            figure.legend(loc="outside right upper", fontsize=8)
        return drawn(figure)


def _draw_points(axes: Axes, found: Sequence[FigurePoint], places: Mapping[str, int]) -> None:
    """Draw the dots of each series in its colour and shape, their intervals, and what joins those of one line."""
    for line in dict.fromkeys(one.line for one in found):
        joined = sorted((one.x, one.y) for one in found if one.line == line)
        axes.plot(*zip(*joined, strict=True), color=color_of(places[line[0]]), linewidth=1.0, alpha=0.4, zorder=2)
    size = 64 if len(found) <= _NAMED else 26
    for series in dict.fromkeys(one.series for one in found):
        own, color, marker = [one for one in found if one.series == series], color_of(places[series]), marker_of(places[series])
        for one in own:
            if one.low is not None and one.high is not None:
                axes.plot([one.x] * 2, [one.low, one.high], color=color, linewidth=1.6, alpha=0.35, zorder=2)
        at = [one.x for one in own], [one.y for one in own]
        axes.scatter(*at, s=size, color=color, marker=marker, edgecolor="white", zorder=3, label=series)


def _write_names(axes: Axes, found: Sequence[FigurePoint], places: Mapping[str, int], *, digits: str) -> None:
    """Write names beside dots, many of them slanted."""
    ascending = sorted(found, key=lambda one: (one.x, one.y))
    # Along the axis as it is drawn, which may be logarithmic.
    drawn_at = [axes.transData.transform((one.x, one.y))[0] for one in ascending]
    along = [(at - drawn_at[0]) / (drawn_at[-1] - drawn_at[0] or 1) for at in drawn_at]
    wheres = _slanted(along) if len(found) > _BESIDE else _beside(along)
    for point, where in zip(ascending, wheres, strict=True):
        text, color = f"{point.name}  {point.y:{digits}}", color_of(places[point.series])
        axes.annotate(text, (point.x, point.y), textcoords="offset points", color=color, **where)


def _slanted(along: Sequence[float]) -> list[dict[str, Any]]:
    """Return where slanted names stand, by the dots' shares of the axis: above a dot, below one that has another above it."""
    how = {"ha": "left", "rotation_mode": "anchor", "fontsize": 8}
    up, down = ({**how, "xytext": (2, 6 * way), "rotation": 55 * way} for way in (1, -1))
    under = [*(later - sooner < 0.03 for sooner, later in pairwise(along)), False]
    return [{**down, "va": "top"} if one else {**up, "va": "bottom"} for one in under]


def _beside(along: Sequence[float]) -> list[dict[str, Any]]:
    """Return where names stand, by the dots' shares of the axis: away from a near neighbour, else from the edge.

    The first one would run over the axis: beside a near neighbour it stands below its dot.
    """
    near = [later - sooner < 0.2 for sooner, later in pairwise(along)]
    left = {"ha": "right", "va": "bottom", "xytext": (-6, 5)}
    right = {"ha": "left", "va": "bottom", "xytext": (6, 5)}
    neighbours = zip(along, [False, *near], [*near, False], strict=True)
    wheres = [right if (before if before != behind else at < along[-1] / 2) else left for at, before, behind in neighbours]
    return wheres if wheres[0] is right else [{**right, "va": "top", "xytext": (6, -5)}, *wheres[1:]]


def training_curve(encoder: Path) -> list[tuple[float, float]]:
    """Return step and loss of each step of the training of an encoder; empty where it was not trained.

    Of an encoder that was trained at several depths, or was cut out of such a one, it is the loss at its own depth.

    Raises:
        DataError: The encoder's record cannot be read.
    """
    record = read_json(encoder / "prune2vec.json") if (encoder / "prune2vec.json").is_file() else {}
    own = read_lines(encoder / "train.jsonl")
    # One that was trained at several depths need not have been cut before.
    depths = (record.get("train") or {}).get("depths") if own else None
    depth = depths[-1] if depths else len(record.get("keep_layers") or ())
    part = f"depth_{depth}"
    whole = Path(str((record.get("model") or {}).get("name")))
    lines = own or [line for line in read_lines(whole / "train.jsonl") if part in line]
    trained = (record if own or not lines else read_json(whole / "prune2vec.json")).get("train") or {}
    weights = dict(zip(trained.get("depths", ()), trained.get("settings", {}).get("depth_weights", ()), strict=False))
    weight = weights.get(depth, 1.0)
    return [(line["step"], line[part] / weight if part in line else line["loss"]) for line in lines]


def training_svg(curves: Mapping[str, Curve], rows: Sequence[Row] = ()) -> str:
    """Return training curves by name as SVG text; more than there are colours are coloured by parameters, as the rows have them."""
    known = colors_of(rows)
    # Cells of one method have one colour, in which their curves could not be told apart.
    colors: dict[str, Any] = known if len({known.get(name, name) for name in curves}) == len(curves) else {}
    many = len(curves) > len(PALETTE)
    sizes = {row["cell"]: row["parameters"] / 1e6 for row in rows if row.get("parameters") is not None}
    every = max(1, math.ceil(sum(map(len, curves.values())) / _CURVE_POINTS))
    with styled_figure(8.2, 3.6) as (figure, axes):
        if many and sizes:
            from matplotlib import colormaps
            from matplotlib.cm import ScalarMappable
            from matplotlib.colors import Normalize

            scale = ScalarMappable(Normalize(min(sizes.values()), max(sizes.values())), colormaps["viridis_r"])
            color_bar(axes, scale, "parameters, millions")
            colors = {name: scale.to_rgba(size) for name, size in sizes.items()}
        for place, (name, points_of) in enumerate(curves.items()):
            steps, losses = zip(*points_of, strict=True)
            smooth, color = _smoothed(losses), colors.get(name, color_of(place))
            if not many:
                axes.plot(steps, losses, color=color, linewidth=0.8, alpha=0.3)
            kept = sorted({*range(0, len(steps), every), len(steps) - 1})
            width = 1.2 if many else 2.0
            axes.plot([steps[at] for at in kept], [smooth[at] for at in kept], color=color, linewidth=width, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        whole_ticks(axes)
        if not many:
            figure.legend(loc="outside upper center", ncols=4)
        return drawn(figure)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return an exponential moving average over about a twelfth of the curve, corrected for its start."""
    keep = 1 - 1 / max(1.0, len(values) / 12)
    average, weight, smooth = 0.0, 0.0, []
    for value in values:
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smooth.append(average / weight)
    return smooth


def _task_columns(row: Row) -> list[str]:
    return [name for name in row if name.startswith(TASK.format(""))]


def tasks_svg(rows: Sequence[Row]) -> str:
    """Return the scores of encoders, top to bottom, on tasks, left to right; coloured by their differences to the first encoder's."""
    from matplotlib.colors import CenteredNorm

    first, columns = rows[0], _task_columns(rows[0])
    tasks = [column.removeprefix(TASK.format("")) for column in columns]
    shown = [row for row in rows[1:] if row.get("score") is not None]
    if len(rows) > _MOST_ROWS:
        best = sorted(row["score"] for row in shown)[-_MOST_ROWS:][0]
        shown = [row for row in shown if row["score"] >= best]
    table = [[row[column] for column in columns] for row in (first, *shown)]
    gaps = [
        [math.nan if None in (score, base) else 100 * (score - base) for score, base in zip(line, table[0], strict=True)]
        for line in table
    ]
    farthest = max((abs(gap) for line in gaps for gap in line if not math.isnan(gap)), default=0.0)
    norm = CenteredNorm(halfrange=farthest or 1.0)
    with styled_figure(max(8.2, 3 + 0.55 * len(tasks)), 1.8 + 0.3 * len(table)) as (figure, axes):
        labels = [row["cell"] for row in (first, *shown)]
        draw_cells(axes, gaps, labels, norm=norm, colors="RdBu", bar=f"difference to {first['cell']}, points")
        axes.set_xticks(range(len(tasks)), tasks, rotation=35, ha="right", rotation_mode="anchor")
        if len(tasks) * len(table) <= _MOST_NUMBERS:
            _write_scores(axes, table, gaps, dark=0.7 * norm.halfrange)
        return drawn(figure)


def _write_scores(axes: Axes, table: Sequence[Sequence[float | None]], gaps: Sequence[Sequence[float]], *, dark: float) -> None:
    """Write the scores into the cells of a heat map, in white where it is dark."""
    for place, (line, differences) in enumerate(zip(table, gaps, strict=True)):
        for column, (score, gap) in enumerate(zip(line, differences, strict=True)):
            if score is not None:
                color = "white" if abs(gap) > dark else "#1f2933"
                axes.text(column, place, f"{100 * score:.1f}", ha="center", va="center", fontsize=8, color=color)


def layers_svg(profiles: Sequence[tuple[str, Profile]]) -> str:
    """Return the contrastive loss of several models by the share of their layers that is kept, with 95 % intervals."""
    with styled_figure(8.2, 4.2) as (figure, axes):
        for place, (name, profile) in enumerate(profiles):
            curve, layers, color = profile.layer_loss, profile.shape.num_layers, color_of(place)
            shares = [100 * depth / layers for depth in range(1, len(curve.loss) + 1)]
            low, high = interval_of(curve)
            axes.fill_between(shares, low, high, color=color, alpha=0.14, linewidth=0)
            marker = marker_of(place)
            axes.plot(
                shares, curve.loss, color=color, linewidth=1.8, marker=marker, markersize=3, label=f"{name}, {layers} layers"
            )
        axes.set_xlabel("leading layers kept, %")
        axes.set_ylabel("contrastive loss")
        axes.set_xlim(0, 102)
        figure.legend(loc="outside upper center", ncols=2)
        return drawn(figure)

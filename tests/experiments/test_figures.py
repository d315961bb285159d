from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from prune2vec.experiments.cell_table import SweepRecord, cell_rows
from prune2vec.experiments.comparison import ResultRow, comparison_of
from prune2vec.experiments.figures import (
    FigurePoint,
    _write_names,
    against_svg,
    colors_of,
    front,
    layers_svg,
    pictures,
    points,
    tasks_svg,
    training_curve,
    training_svg,
    write_pictures,
)
from prune2vec.experiments.plots import color_of, styled_figure
from prune2vec.experiments.stage_runner import FIGURES
from tests.experiments.made_sweep import sweep_rows
from tests.experiments.small import FALLING, profile_of, results_of

PAIRS = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12)


def words(svg: str) -> list[str]:
    """Return the texts; matplotlib keeps them in comments beside their outlines."""
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    return re.findall(r"<!-- (.*?) -->", svg)


@given(pairs=PAIRS, more=st.booleans())
def test_the_front_is_what_nothing_else_beats(pairs: list[tuple[int, int]], more: bool) -> None:
    every = [FigurePoint(name=str(place), series="", x=x, y=y) for place, (x, y) in enumerate(pairs)]

    def beaten(one: FigurePoint) -> bool:
        def better(other: FigurePoint) -> bool:
            cheaper = other.x - one.x if more else one.x - other.x
            return cheaper >= 0 and other.y >= one.y and (cheaper > 0 or other.y > one.y)

        return any(map(better, every))

    found = front(every, more=more)
    assert {(one.x, one.y) for one in found} == {(one.x, one.y) for one in every if not beaten(one)}
    assert [one.y for one in found] == sorted({one.y for one in found})


@pytest.mark.parametrize("near", [(0, 1), (1, 2), (2, 3)])
def test_the_names_of_two_near_dots_part(near: tuple[int, int]) -> None:
    xs = [20.0, 60.0, 100.0, 140.0]
    xs[near[1]] = xs[near[0]] + 8
    found = [
        FigurePoint(name=name, series=name, x=x, y=0.5) for name, x in zip(("full", "large", "half", "small"), xs, strict=True)
    ]
    with styled_figure(8.2, 3.9) as (figure, axes):
        axes.margins(x=0.14)
        axes.scatter(xs, [0.5] * 4)
        _write_names(axes, found, {one.series: place for place, one in enumerate(found)}, digits=".3f")
        FigureCanvasAgg(figure).draw()
        boxes = [text.get_window_extent() for text in axes.texts]
    assert all(box.width > 20 for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_slanted_names_of_dots_above_one_another_part() -> None:
    places = {
        "a": (50, 0.45),
        "b": (70, 0.49),
        "lower": (92.0, 0.496),
        "upper": (92.1, 0.5),
        "c": (106, 0.53),
        "d": (113, 0.548),
    }
    places |= {"full": (134, 0.549), "other": (134, 0.556)}
    found = [FigurePoint(name=name, series=name, x=x, y=y) for name, (x, y) in reversed(places.items())]
    with styled_figure(8.2, 3.9) as (_, axes):
        axes.scatter([one.x for one in found], [one.y for one in found])
        _write_names(axes, found, dict.fromkeys(places, 0), digits=".3f")
        down = {text.get_text().partition(" ")[0] for text in axes.texts if text.get_rotation() > 180}
    assert down == {"lower", "full"}


def test_points_have_the_interval_of_their_difference() -> None:
    rows = [
        ResultRow(name="full", results=results_of(score=0.5, params=7_000_000, docs_per_s=10.0)),
        ResultRow(name="small", results=results_of(score=0.4, params=2_000_000, docs_per_s=40.0)),
        ResultRow(name="twin", results=results_of(score=0.4), same_as="small"),
    ]
    table = cell_rows(comparison_of(rows), SweepRecord(cells=()))
    full, small = points(table, "parameters", "score")
    assert (full.name, full.x, full.low, full.high) == ("full", 7.0, None, None)
    assert (small.x, small.y) == (2.0, 0.4)
    assert small.low == pytest.approx(0.4) and small.high == pytest.approx(0.4)
    assert [point.x for point in points(table, "documents_per_s", "score")] == [10.0, 40.0]
    # Nothing was trained.
    assert points(table, "parameters", "train_seconds") == []
    assert {one.name for one in pictures(table)} == {"score", "speed"}


def test_few_encoders_are_named_of_many_those_of_the_front() -> None:
    many = [
        {"cell": f"cell-{n}", "parameters": 1e6 * (1 + n), "score": (n * 7 % 30) / 30, "difference": 0.0} for n in range(30)
    ]
    for rows in (many[:3], many):
        svg = against_svg(rows, "parameters", "score", baseline=("BM25", 0.45))
        assert svg == against_svg(rows, "parameters", "score", baseline=("BM25", 0.45))
        named = {word.split("  ")[0] for word in words(svg) if "  " in word} - {"BM25"}
        every = points(rows, "parameters", "score")
        written = every if len(rows) == 3 else [every[0], *front(every, more=False)]
        assert named == {one.name for one in written}
        assert "BM25  0.450" in words(svg)


def test_a_method_has_one_colour_and_every_figure_of_a_sweep_is_there(tmp_path: Path) -> None:
    rows, curves = sweep_rows(40), {f"cell-{n}": [(1.0, 3.0), (2.0, 2.0)] for n in range(9)}
    profiles = [("one", profile_of()), ("two", profile_of(FALLING))]
    colors = colors_of(rows)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    assert {row["method"]: colors[row["cell"]] for row in rows} == {one: color_of(n) for n, one in enumerate(methods)}
    found = pictures(rows, curves=curves, profiles=profiles, baseline=("BM25", 0.3))
    drawn = set(FIGURES) - {"profile.svg", "redundancy.svg"}
    assert {f"{one.name}.svg" for one in found} == drawn
    assert all(words(one.svg) and "<image" not in one.svg for one in found)
    write_pictures(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == drawn
    for method in methods:
        assert method in words((tmp_path / "time.svg").read_text())
    # What a later call does not draw must not stay beside its report.
    write_pictures(found[:2], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{one.name}.svg" for one in found[:2]}


def test_tasks_are_coloured_by_their_difference_to_the_first() -> None:
    rows = [
        {"cell": "full", "score": 0.5, "task: A": 0.5, "task: B": 0.5},
        {"cell": "small", "score": 0.35, "task: A": 0.4, "task: B": None},
        {"cell": "failed", "score": None, "task: A": None, "task: B": None},
    ]
    seen = words(tasks_svg(rows))
    assert {"full", "small", "50.0", "40.0", "A", "B"} <= set(seen) and "failed" not in seen
    assert seen.count("50.0") == 2
    # Of many, the first and the best.
    many = [{"cell": f"c{n}", "score": n / 100, "task: A": n / 100, "task: B": 0.5} for n in range(100)]
    assert [word for word in words(tasks_svg(many)) if word.startswith("c")] == ["c0", *(f"c{n}" for n in range(60, 100))]


def test_one_task_or_one_encoder_makes_no_heat_map() -> None:
    one = {"cell": "a", "score": 0.5, "parameters": 1, "task: A": 0.5}
    assert pictures([one, {**one, "cell": "b", "difference": 0.0}])[-1].name == "score"
    assert pictures([{**one, "task: B": 0.5}]) == [] == pictures([])
    # Scores that were measured on other things have no front, and a row without tasks no place in the map.
    assert pictures([one, {**one, "cell": "b"}]) == []
    two = {**one, "task: B": 0.5}
    (tasks,) = pictures([{**two, "task: A": None, "task: B": None}, {**two, "cell": "b"}, {**two, "cell": "c"}])
    assert tasks.name == "tasks" and tasks.caption.endswith("difference to b's.") and "a" not in words(tasks.svg)


def test_layers_of_several_models_share_an_axis() -> None:
    svg = layers_svg([("one", profile_of()), ("two", profile_of(FALLING))])
    assert {"one, 12 layers", "two, 12 layers", "leading layers kept, %"} <= set(words(svg))
    assert pictures([], profiles=[("one", profile_of())]) == []


def test_curves_of_many_are_coloured_by_parameters_and_thinned() -> None:
    curves = {f"cell-{n}": [(float(step), 3 / step) for step in range(1, 1001)] for n in range(60)}
    rows = [{"cell": name, "parameters": 1_000_000 * (n + 1)} for n, name in enumerate(curves)]
    svg = training_svg(curves, rows)
    assert "parameters, millions" in words(svg) and "cell-0" not in words(svg)
    assert len(svg) < 400_000
    few = training_svg({name: curves[name] for name in list(curves)[:2]})
    assert {"cell-0", "cell-1"} <= set(words(few))


def encoder(folder: Path, *, depth: int, lines: list[dict[str, Any]] | None = None, cut_from: str = "model") -> Path:
    folder.mkdir()
    record = {"keep_layers": list(range(depth)), "model": {"name": cut_from}}
    (folder / "prune2vec.json").write_text(json.dumps(record))
    if lines is not None:
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_curve_of_an_encoder_is_that_of_its_depth(tmp_path: Path) -> None:
    alone = encoder(tmp_path / "alone", depth=3, lines=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    assert training_curve(alone) == [(1, 2.0), (2, 1.0)]
    lines = [
        {"step": 1, "loss": 5.0, "depth_2": 3.0, "depth_4": 2.0},
        {"step": 2, "loss": 1.5, "depth_4": 1.5},  # Depth 2 was not drawn.
        {"step": 3, "loss": 0.5, "depth_2": 0.0, "depth_4": 0.5},
    ]
    whole = encoder(tmp_path / "whole", depth=4, lines=lines)
    assert training_curve(whole) == [(1, 2.0), (2, 1.5), (3, 0.5)]
    assert training_curve(encoder(tmp_path / "cut", depth=2, cut_from=str(whole))) == [(1, 3.0), (3, 0.0)]
    # As it would be alone, whatever it weighed.
    settled = json.loads((whole / "prune2vec.json").read_text())
    settled["train"] = {"depths": [2, 4], "settings": {"depth_weights": [0.5, 2.0]}}
    (whole / "prune2vec.json").write_text(json.dumps(settled))
    assert training_curve(whole) == [(1, 1.0), (2, 0.75), (3, 0.25)]
    assert training_curve(tmp_path / "cut") == [(1, 6.0), (3, 0.0)]
    # Trained at several depths without a cut before.
    (whole / "prune2vec.json").write_text(json.dumps({"train": settled["train"]}))
    assert training_curve(whole) == [(1, 1.0), (2, 0.75), (3, 0.25)]
    # Cut out of an encoder that was trained for itself, or not trained at all.
    assert training_curve(encoder(tmp_path / "shorter", depth=2, cut_from=str(alone))) == []
    assert training_curve(encoder(tmp_path / "untrained", depth=2)) == [] == training_curve(tmp_path / "none")

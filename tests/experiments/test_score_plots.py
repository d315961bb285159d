from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from prune2vec.experiments.comparison import ResultRow, comparison_of
from prune2vec.experiments.score_plots import ScorePoint, front, score_points, score_svg
from tests.experiments.small import results_of

POINTS = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12)


@given(pairs=POINTS, more=st.booleans())
def test_the_front_is_what_nothing_else_beats(pairs: list[tuple[int, int]], more: bool) -> None:
    points = [ScorePoint(name=str(place), cost=cost, score=score) for place, (cost, score) in enumerate(pairs)]

    def beaten(one: ScorePoint) -> bool:
        def better(other: ScorePoint) -> bool:
            cheaper = other.cost - one.cost if more else one.cost - other.cost
            return cheaper >= 0 and other.score >= one.score and (cheaper > 0 or other.score > one.score)

        return any(map(better, points))

    found = front(points, more=more)
    assert {(one.cost, one.score) for one in found} == {(one.cost, one.score) for one in points if not beaten(one)}
    assert [one.score for one in found] == sorted({one.score for one in found})


def test_points_have_the_interval_of_their_difference() -> None:
    rows = [
        ResultRow(name="full", results=results_of(score=0.5, params=7_000_000, docs_per_s=10.0)),
        ResultRow(name="small", results=results_of(score=0.4, params=2_000_000, docs_per_s=40.0)),
        ResultRow(name="twin", results=results_of(score=0.4), same_as="small"),
    ]
    full, small = score_points(comparison_of(rows))
    assert (full.cost, full.low, full.high) == (7.0, None, None)
    assert (small.cost, small.score) == (2.0, 0.4)
    assert small.low is not None and abs(small.low - 0.4) < 1e-9 and small.high is not None
    assert [point.cost for point in score_points(comparison_of(rows), speed=True)] == [10.0, 40.0]


def test_pictures_are_svg_and_the_same_every_time() -> None:
    few = [ScorePoint(name="full", cost=7, score=0.5), ScorePoint(name="small", cost=2, score=0.4, low=0.35, high=0.45)]
    many = [ScorePoint(name=f"cell-{n}", cost=1 + n, score=(n * 7 % 30) / 30) for n in range(30)]
    for points in (few, many):
        for speed in (False, True):
            svg = score_svg(points, metric="nDCG@10", speed=speed, baseline=("BM25", 0.45))
            assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
            assert svg == score_svg(points, metric="nDCG@10", speed=speed, baseline=("BM25", 0.45))
    # matplotlib keeps the words in a comment beside their outlines.
    named = [point.name for point in many if f"<!-- {point.name} " in score_svg(many, metric="m")]
    assert named == [point.name for point in many if point in (many[0], *front(many, more=False))]

from __future__ import annotations

import html
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from prune2vec.experiments.report import ReportData, headline, write_report
from prune2vec.planning.plan import PruningPlan
from tests.experiments.made_sweep import made_page, made_sweep
from tests.experiments.small import FALLING, Run, SmallStages
from tests.experiments.test_plots_redundancy import BOTH


def test_notes_of_the_plans_are_shown(run: Run) -> None:
    run(small=SmallStages(loss=FALLING, full_report=True))
    plan = PruningPlan.load(run.output / "large" / "plan.json")
    assert plan.notes
    for note in plan.notes:
        assert html.escape(note) in (run.output / "report.html").read_text(encoding="utf-8")


class Loads(HTMLParser):
    """Collects what a page would load, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data") and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {value}")
            if name == "id":
                self.ids.append(value or "")
        if tag in ("link", "iframe", "object", "embed"):
            self.loads.append(tag)


def test_report_loads_nothing(run: Run) -> None:
    run(queries=["<script>alert(1)</script>"], small=SmallStages(full_report=True))
    text = (run.output / "report.html").read_text(encoding="utf-8")
    page = Loads()
    page.feed(text)
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids)) > 10
    assert "http" not in text
    assert "@import" not in text
    assert text.count("<svg") == 4
    assert text.count("<script") == 1 and "&lt;script&gt;" in text
    for part in ("Score against parameters", "What small finds", "learning-rate", "transformers"):
        assert part in text


def test_texts_and_names_stay_what_they_are_in_both_reports(run: Run) -> None:
    evil = "a\x1b[31m\x07\u202e\n# b <img src=x> [c](http://d) `e` |"
    run(queries=[evil], small=SmallStages(full_report=True))
    page = (run.output / "report.html").read_text(encoding="utf-8")
    text = (run.output / "report.md").read_text(encoding="utf-8")
    for written in (page, text):
        assert not set("\x1b\x07\u202e") & set(written)
        assert "<img" not in written
    assert "**a\\\\x1b\\[31m\\\\x07\\\\u202e # b &lt;img src=x&gt; \\[c\\](http://d) \\`e\\` \\|**" in text
    assert "a\\x1b[31m\\x07\\u202e\n# b &lt;img src=x&gt;" in page


def test_markdown_report(run: Run) -> None:
    run(small=SmallStages(full_report=True))
    text = (run.output / "report.md").read_text(encoding="utf-8")
    assert "| small | 3 of 12 |" in text
    assert "**small** keeps 0-2 of 0-11." in text
    assert "![What each depth is worth](profile.svg)" in text


def test_redundancy_is_shown_where_it_was_measured(run: Run, tmp_path: Path) -> None:
    run(small=SmallStages(full_report=True))
    assert not (run.output / "redundancy.svg").exists()
    assert "How much each sub-layer changes" not in (run.output / "report.md").read_text(encoding="utf-8")
    plans = {"full": PruningPlan.load(run.output / "full" / "plan.json")}
    nothing: dict[str, Any] = {"environment": {}, "stages": {}, "seconds": 1.0}
    story = ReportData(
        profile=BOTH,
        plans=plans,
        same_cut_as={},
        comparison=None,
        answers=(),
        answered_by="",
        rows=[{"cell": "full", "parameters": 1}],
        encoders={},
        manifest=nothing,
        recipe="",
    )
    write_report(story, tmp_path)
    page, text = Loads(), (tmp_path / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert "http" not in text
    assert text.count("<svg") == 2
    assert "Rank correlation of plain with retrieval text: attention 1.00, MLP -1.00" in text
    assert "![How much each sub-layer changes](redundancy.svg)" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "redundancy.svg").is_file()


def test_two_hundred_cells_are_under_three_megabytes(tmp_path: Path) -> None:
    text = made_page(tmp_path, 200)
    page = Loads()
    page.feed(text)
    assert page.loads == [] and "http" not in text
    assert len(page.ids) == len(set(page.ids))
    assert len(text.encode()) < 3_000_000
    for title in ("Score against parameters", "Scores by task", "Training time against parameters", "Training loss by step"):
        assert f"<h2>{title}</h2>" in text
    # All cells are in the tables, and the best ones alone in the headline.
    assert "reverse-91pct-s2" in text and text.count("<li>") < 30
    comparison, *_ = made_sweep(200)
    found = headline(comparison)
    sizes = {row.name: (row.params, row.score or 0.0) for row in comparison.rows[1:] if not row.same_as}
    best = {
        (params, score)
        for params, score in sizes.values()
        if not any(p <= params and s >= score and (p, s) != (params, score) for p, s in sizes.values())
    }
    assert len(best) > 1 and found[0].startswith(f"{len(best)} of {len(comparison.rows) - 1} are beaten by no other one")
    assert {sizes[sentence.split()[0]] for sentence in found[1:]} == best and len(found) == len(best) + 1

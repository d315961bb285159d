from __future__ import annotations

import html
from html.parser import HTMLParser

from prune2vec.records.plan import PruningPlan
from tests.experiments.small import FALLING, Run, SmallStages


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
        if tag in ("script", "link", "iframe", "object", "embed"):
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
    assert text.count("<svg") == 3
    assert "&lt;script&gt;" in text
    for part in ("Score against parameters", "What small finds", "learning-rate", "transformers"):
        assert part in text


def test_markdown_report(run: Run) -> None:
    run()
    text = (run.output / "report.md").read_text(encoding="utf-8")
    assert "| small | 3 of 12 |" in text
    assert "**small** keeps layers 0-2 of 0-11." in text
    assert "![Contrastive loss by depth](profile.svg)" in text

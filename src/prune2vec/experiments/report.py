"""The report of a run or a comparison: Markdown, and one HTML page that needs nothing around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.errors import markdown, shown_lines
from prune2vec.experiments.answers import Answer
from prune2vec.experiments.comparison import Comparison, ResultRow
from prune2vec.experiments.heatmap import caption, plot_redundancy, redundancies, redundancy_svg
from prune2vec.experiments.plots import Point, color_of, inline_svg, plot_profile, profile_svg, score_svg, training_svg
from prune2vec.files import write_text
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.plan_view import cut_summary, plan_figures
from prune2vec.profiling.profile import Profile

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What the report of a run tells.

    Attributes:
        profile: The measured model.
        plans: The plan of each variant.
        twins: Variants with the same layers as an earlier one.
        comparison: The results; None when nothing was evaluated.
        answers: Example queries and what was found.
        answered_by: The variant that answered.
        curves: The ``train.jsonl`` of each variant; one that is not there was not trained.
        manifest: Everything needed to repeat the run.
        recipe: The resolved recipe as YAML.
    """

    profile: Profile
    plans: Mapping[str, PruningPlan]
    twins: Mapping[str, str]
    comparison: Comparison | None
    answers: tuple[Answer, ...]
    answered_by: str
    curves: Mapping[str, Path]
    manifest: Mapping[str, Any]
    recipe: str

    @property
    def picks(self) -> dict[str, int]:
        """Depths of the plans that keep leading layers, and so are points of the curve."""
        depths = {name: len(plan.keep_layers) for name, plan in self.plans.items()}
        return {name: depth for name, depth in depths.items() if self.plans[name].keep_layers == tuple(range(depth))}

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"{self.profile.model.get('name')} as a text encoder"


def write_report(story: ReportData, folder: Path) -> None:
    """Write ``profile.svg``, ``profile.png``, ``report.md`` and ``report.html``; ``redundancy.svg`` too if it was measured.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    for suffix in (".svg", ".png"):
        plot_profile(story.profile, story.picks, folder / f"profile{suffix}")
    plot_redundancy(story.profile, folder / "redundancy.svg")
    write_text(folder / "report.md", report_markdown(story))
    write_text(folder / "report.html", report_html(story))


def headline(comparison: Comparison) -> list[str]:
    """Return one sentence for each row after the first: what it weighs, how fast it is and what it loses."""
    return [_sentence(row, comparison) for row in comparison.rows[1:]]


def _headline_of(story: ReportData) -> list[str]:
    return headline(story.comparison) if story.comparison is not None else []


def _sentence(row: ResultRow, comparison: Comparison) -> str:
    first, difference = comparison.rows[0], comparison.difference(row)
    if row.same_as:
        return f"{row.name} keeps the same as {row.same_as}, so it is the same encoder."
    layers = f"{row.layers} layers{f' ({row.inside})' if row.inside else ''}"
    kept = f"{row.name} keeps {layers}" if row.layers else row.name
    parts = [f"{kept}: {100 * row.params / first.params:.0f} % of {first.name}'s parameters"]
    if row.texts_per_s is not None and first.texts_per_s:
        parts.append(f"{row.texts_per_s / first.texts_per_s:.1f} times its speed")
    if row.score is not None and difference is not None:
        parts.append(f"{comparison.score_name} {row.score:.3f} ({difference:+.3f})")
    return ", ".join(parts) + "."


def report_markdown(story: ReportData) -> str:
    """Return the report of a run as Markdown."""
    parts = [f"# {markdown(story.title)}", "\n".join(f"- {markdown(sentence)}" for sentence in _headline_of(story))]
    if story.comparison is not None:
        parts.append(story.comparison.to_markdown().rstrip())
    parts.append("## Plans\n\n" + "\n".join(f"- {line}" for line in _plan_lines(story)))
    parts.append("![Contrastive loss by depth](profile.svg)")
    if redundancies(story.profile):
        parts.append(f"![Redundancy of sub-layers](redundancy.svg)\n\n{markdown(caption(story.profile))}")
    if story.answers:
        parts.append(f"## What {markdown(story.answered_by)} finds")
        parts += [_answer_markdown(one) for one in story.answers]
    seconds = story.manifest["seconds"]
    parts.append(f"All stages together took {_duration(seconds)}; `manifest.json` has settings, versions and digests.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _plan_lines(story: ReportData) -> list[str]:
    lines = []
    for name, plan in story.plans.items():
        notes = "".join(f" {note[:1].upper()}{note[1:].rstrip('.')}." for note in plan.notes)
        lines.append(f"**{markdown(name)}** {markdown(f'{cut_summary(plan)}.{notes}')}")
    return lines


def _answer_markdown(answer: Answer) -> str:
    hits = (f"{place}. `{hit.score:.3f}` {markdown(hit.summary(150))}" for place, hit in enumerate(answer.hits, start=1))
    return "\n".join([f"**{markdown(answer.query)}**", "", *hits])


def report_html(story: ReportData) -> str:
    """Return the report of a run as one HTML page that loads nothing."""
    curves = {name: _read_curve(story.curves[name]) if name in story.curves else [] for name in story.plans}
    figures = {
        "profile": inline_svg(profile_svg(story.profile, story.picks), prefix="p", label="Contrastive loss by depth"),
        "redundancy": _redundancy_figure(story.profile),
        "training": inline_svg(training_svg(curves), prefix="t", label="Training loss by step") if any(curves.values()) else "",
        "score": _score_figure(story.comparison) if story.comparison is not None else "",
    }
    return _template().render(
        title=story.title,
        story=story,
        headline=_headline_of(story),
        comparison=story.comparison,
        about_redundancy=caption(story.profile) if redundancies(story.profile) else "",
        colors={name: color_of(place) for place, name in enumerate(story.plans)},
        figures=figures,
        plans=[_plan_view(name, plan, story.twins.get(name)) for name, plan in story.plans.items()],
        groups=len(story.profile.layer_loss.group_loss),
        machine=_machine(story.manifest["environment"]),
        stages=[(name, _duration(stage["seconds"])) for name, stage in story.manifest["stages"].items()],
        whole_time=_duration(story.manifest["seconds"]),
        manifest=json.dumps(story.manifest, indent=2, ensure_ascii=False),
    )


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison alone as one HTML page that loads nothing."""
    return _template().render(
        title="Comparison of encoders",
        story=None,
        comparison=comparison,
        headline=headline(comparison),
        colors={row.name: color_of(place) for place, row in enumerate(comparison.rows)},
        figures={"score": _score_figure(comparison)},
        machine=_machine(comparison.rows[0].results.environment),
    )


def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    text = files("prune2vec.experiments").joinpath("report.html").read_text(encoding="utf-8")
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_without_controls
    )
    return page.from_string(text)


def _without_controls(value: Any) -> Any:
    # Our own figures are markup already, and hold no text but escaped ones.
    return shown_lines(value) if type(value) is str else value


def _redundancy_figure(profile: Profile) -> str:
    if not redundancies(profile):
        return ""
    return inline_svg(redundancy_svg(profile), prefix="r", label="Redundancy of sub-layers")


def _score_figure(comparison: Comparison) -> str:
    rows = [row for row in comparison.rows if row.score is not None and not row.same_as]
    if len(rows) < 2:
        return ""
    points = [Point(name=row.name, params=row.params, score=row.score or 0.0) for row in rows]
    baseline = ("BM25", comparison.bm25["ndcg@10"]) if comparison.bm25 else None
    svg = score_svg(points, metric=comparison.score_name, baseline=baseline)
    return inline_svg(svg, prefix="s", label="Score against parameters")


def _plan_view(name: str, plan: PruningPlan, twin: str | None) -> dict[str, Any]:
    figures = plan_figures(plan)
    return {
        "name": name,
        "twin": twin,
        "method": plan.method,
        "kept": cut_summary(plan).removeprefix("keeps "),
        "params": f"{figures['params']['after'] / 1e6:,.1f} M",
        "paper": f"{figures['params_proportional']['after'] / 1e6:,.1f} M",
        "flops": f"{figures['flops_per_token']['after'] / 1e6:,.1f} M",
        "memory": f"{figures['memory_bytes']['after'] / 1e6:,.0f} MB",
        "notes": list(plan.notes),
    }


def _read_curve(path: Path) -> list[tuple[float, float]]:
    if not path.exists():
        return []
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [(row["step"], row["loss"]) for row in rows]


def _machine(environment: Mapping[str, Any]) -> str:
    versions, chip = environment.get("versions", {}), environment.get("gpu") or environment.get("cpu")
    parts = [chip, f"{environment.get('threads')} threads", environment.get("platform")]
    parts += [f"{name} {versions[name]}" for name in ("prune2vec", "torch", "transformers") if name in versions]
    return ", ".join(str(part) for part in parts if part)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"

"""The report of a run or a comparison: Markdown, and one HTML page that needs nothing around it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from prune2vec.errors import markdown, shown_lines
from prune2vec.experiments.answers import Answer
from prune2vec.experiments.comparison import Comparison, TextTable
from prune2vec.experiments.figures import (
    Picture,
    Row,
    colors_of,
    front,
    pictures,
    points,
    training_curve,
    write_pictures,
)
from prune2vec.experiments.plots import (
    caption,
    inline_svg,
    profile_svg,
    redundancies,
    redundancy_svg,
)
from prune2vec.experiments.ranking_diff import UNSURE
from prune2vec.files import write_text
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.plan_view import cut_summary, plan_figures
from prune2vec.profiling.profile import Profile

# Of more rows the headline tells only of those that none beats.
_MOST_SENTENCES = 8


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What the report of a run tells.

    Attributes:
        profile: The measured model.
        plans: The plan of each variant.
        same_cut_as: Variants that keep the same as an earlier one, and which.
        comparison: The results; None when nothing was evaluated.
        answers: Example queries and what was found.
        answered_by: The variant that answered.
        rows: The table of the results, or of no more than the variants' names and parameters.
        encoders: The folder of each variant's encoder; of those that keep the same as an earlier one none.
        manifest: Everything needed to repeat the run.
        recipe: The resolved recipe as YAML.
    """

    profile: Profile
    plans: Mapping[str, PruningPlan]
    same_cut_as: Mapping[str, str]
    comparison: Comparison | None
    answers: tuple[Answer, ...]
    answered_by: str
    rows: Sequence[Row]
    encoders: Mapping[str, Path]
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


def write_report(data: ReportData, folder: Path) -> None:
    """Write ``report.md``, ``report.html`` and every figure that has something to show."""
    curves = {name: training_curve(encoder) for name, encoder in data.encoders.items()}
    figures = [*pictures(data.rows, curves=curves, baseline=baseline_of(data.comparison)), *profile_pictures(data)]
    write_pictures(figures, folder)
    write_text(folder / "report.md", report_markdown(data, figures))
    write_text(folder / "report.html", report_html(data, figures))


def profile_pictures(data: ReportData) -> list[Picture]:
    """Return the curve of the depths, and the heat map of the sub-layers where it was measured."""
    about = (
        "Contrastive loss of the untrained model cut to each depth (lower is better), as the mean over "
        f"{len(data.profile.layer_loss.group_loss)} groups of texts; the band is the 95 % interval of that mean. The dashed line "
        "parts the two halves that L3Prune searches. Below: how often the right text is found first among a group's."
    )
    curve = profile_svg(data.profile, data.picks, colors=colors_of(data.rows))
    found = [Picture(name="profile", title="What each depth is worth", caption=about, svg=curve)]
    if redundancies(data.profile):
        about = f"{caption(data.profile)} Pale sub-layers hardly change it."
        svg = redundancy_svg(data.profile)
        found.append(Picture(name="redundancy", title="How much each sub-layer changes", caption=about, svg=svg))
    return found


def headline(comparison: Comparison | None) -> list[str]:
    """Return one sentence for each row after the first: what it weighs, how fast it is and what it loses.

    Of many rows only for those that no other one beats in both score and parameters.
    """
    if comparison is None:
        return []
    first, *others = comparison.rows
    sentences = []
    if len(others) > _MOST_SENTENCES:
        table = [
            {"cell": row.name, "parameters": row.params, "score": row.score, "same_as": row.same_as, "difference": gap.value}
            for row in others
            if (gap := comparison.difference(row.name)) is not None
        ]
        best = [one.name for one in front(points(table, "parameters", "score"), more=False)]
        others = [row for row in others if row.name in best]
        sentences = [f"{len(others)} of {len(comparison.rows) - 1} are beaten by no other one in both score and parameters:"]
    for row in others:
        if row.same_as:
            sentences.append(f"{row.name} keeps the same as {row.same_as}, so it is the same encoder.")
            continue
        gap = comparison.difference(row.name)
        layers = f"{row.layers} layers{f' ({row.inside})' if row.inside else ''}"
        kept = f"{row.name} keeps {layers}" if row.layers else row.name
        parts = [f"{kept}: {100 * row.params / first.params:.0f} % of {first.name}'s parameters"]
        if (times := comparison.speed_up(row)) is not None:
            parts.append(f"{times:.1f} times its speed")
        if row.score is not None and gap is not None:
            unsure = f": {UNSURE}" if gap.verdict == UNSURE else ""
            within = f", 95 % interval {gap.low:+.3f} to {gap.high:+.3f}" if gap.interval else ""
            parts.append(f"{comparison.score_name} {row.score:.3f} ({gap.value:+.3f}{within}{unsure})")
        sentences.append(f"{', '.join(parts)}.")
    return sentences


def report_markdown(data: ReportData, figures: Sequence[Picture] = ()) -> str:
    """Return the report of a run as Markdown."""
    parts = [f"# {markdown(data.title)}", "\n".join(f"- {markdown(sentence)}" for sentence in headline(data.comparison))]
    if data.comparison is not None:
        parts.append(data.comparison.to_markdown().rstrip())
    plans = []
    for name, plan in data.plans.items():
        notes = "".join(f" {note[:1].upper()}{note[1:].rstrip('.')}." for note in plan.notes)
        plans.append(f"- **{markdown(name)}** {markdown(f'{cut_summary(plan)}.{notes}')}")
    parts.append("## Plans\n\n" + "\n".join(plans))
    parts.append(figures_markdown(figures))
    if data.answers:
        parts.append(f"## What {markdown(data.answered_by)} finds")
        for answer in data.answers:
            hits = (
                f"{place}. `{hit.score:.3f}` {markdown(hit.summary(150))}" for place, hit in enumerate(answer.hits, start=1)
            )
            parts.append("\n".join([f"**{markdown(answer.query)}**", "", *hits]))
    parts.append(
        f"All stages together took {_duration(data.manifest['seconds'])}; `manifest.json` has settings, versions and digests."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def figures_markdown(figures: Sequence[Picture]) -> str:
    """Return the figures that lie beside a report, each with its caption, as Markdown."""
    return "\n\n".join(f"![{one.title}]({one.name}.svg)\n\n{markdown(one.caption)}".rstrip() for one in figures)


def report_html(data: ReportData, figures: Sequence[Picture]) -> str:
    """Return the report of a run as one HTML page that loads nothing."""
    return _page(
        title=data.title,
        data=data,
        headline=headline(data.comparison),
        comparison=data.comparison,
        colors=colors_of(data.rows),
        figures=figures,
        plans=_plans_table(data),
        machine=_machine(data.manifest["environment"]),
        stages=TextTable(
            ("stage", "minutes"), tuple((name, f"{one['seconds'] / 60:,.1f}") for name, one in data.manifest["stages"].items())
        ),
        whole_time=_duration(data.manifest["seconds"]),
        manifest=json.dumps(data.manifest, indent=2, ensure_ascii=False),
    )


def comparison_html(comparison: Comparison, rows: Sequence[Row], figures: Sequence[Picture]) -> str:
    """Return a comparison alone as one HTML page that loads nothing."""
    return _page(
        title="Comparison of encoders",
        data=None,
        comparison=comparison,
        headline=headline(comparison),
        colors=colors_of(rows),
        figures=figures,
        machine=_machine(comparison.rows[0].results.environment),
    )


def _page(**values: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    # Our own figures are markup already, and hold no text but escaped ones.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown_lines(value) if type(value) is str else value,
    )
    text = files("prune2vec.experiments").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(text).render(inline_svg=inline_svg, **values)


def baseline_of(comparison: Comparison | None) -> tuple[str, float] | None:
    """Return name and score of BM25 on the queries of all rows, as figures draw it."""
    return ("BM25", comparison.bm25["ndcg@10"]) if comparison is not None and comparison.bm25 else None


def _plans_table(data: ReportData) -> TextTable:
    header = ("variant", "method", "layers kept", "parameters", "paper's count", "FLOPs per token", "memory, estimated")
    rows = []
    for name, plan in data.plans.items():
        figures, same = plan_figures(plan), data.same_cut_as.get(name)
        millions = [
            figures[what]["after"] / 1e6 for what in ("params", "params_proportional", "flops_per_token", "memory_bytes")
        ]
        counts = [f"{count:,.1f} M" for count in millions[:3]]
        kept = cut_summary(plan).removeprefix("keeps ")
        rows.append((f"{name} (= {same})" if same else name, plan.method, kept, *counts, f"{millions[3]:,.0f} MB"))
    return TextTable(header, tuple(rows))


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

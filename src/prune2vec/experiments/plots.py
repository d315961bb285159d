"""Pictures of a profile and of a run: matplotlib's object interface, no global state, the same bytes every time.

Beside the picture of redundancy, which attention, MLP or block changes the residual stream least, stands its table.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prune2vec.models.kept import KINDS
from prune2vec.profiling.profile import LayerLoss, Profile, Redundancy, rank_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_INK = "#1f2933"
_FAINT = "#9aa5b1"
_CURVE = "#3e4c59"
PALETTE = ("#2563eb", "#ea580c", "#0d9488", "#9333ea", "#be185d", "#65a30d", "#52606d")
_MARKERS = "os^Dv"
# Typed loosely: matplotlib spells out every key it knows as a literal type.
_STYLE: Any = {
    "svg.hashsalt": "prune2vec",
    # A name may hold a dollar.
    "text.parse_math": False,
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "text.color": _INK,
    "legend.frameon": False,
}
_SECTIONS = ("redundancy", "redundancy-plain")
_NAMES = {"attention": "attention", "mlp": "MLP", "block": "block"}
_MARKED = 8
# The bar of a scale is no longer than so many rows.
_BAR = 14
# More labels than these run into each other, and so do more names in one.
_LABELLED = 4
_COLOURS = "YlGnBu"
# Values closer to zero than this are drawn as it: a dropped or silent sub-layer has none at all.
_LEAST = 1e-9
_BARS = "▁▂▃▄▅▆▇█"


def color_of(position: int) -> str:
    """Return the colour of the variant at ``position``: the same in every picture and table of a report."""
    return PALETTE[position % len(PALETTE)]


def marker_of(position: int) -> str:
    """Return the shape of a variant's dots: another one when the colours begin again."""
    return _MARKERS[position // len(PALETTE) % len(_MARKERS)]


@contextmanager
def styled_figure(width: float, height: float, **grid: Any) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure of a size in inches and its axes, in the style of all pictures; ``grid`` goes to ``subplots``."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**grid)


def drawn(figure: Figure) -> str:
    """Return a figure as SVG text, the same every time."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue()


def interval_of(curve: LayerLoss) -> tuple[list[float], list[float]]:
    """Return the lower and upper ends of the 95 % intervals of a curve's losses, by Student's t, as few groups tell their spread badly.

    Of one group there is none, and both are the losses.
    """
    from scipy.special import stdtrit

    groups = len(curve.group_loss)
    wide = float(stdtrit(groups - 1, 0.975)) if groups > 1 else 0.0
    low, high = ([loss + t * error for loss, error in zip(curve.loss, curve.std_error, strict=True)] for t in (-wide, wide))
    return low, high


def profile_svg(profile: Profile, picks: Mapping[str, int], *, colors: Mapping[str, str] | None = None) -> str:
    """Return the layer-loss curve of ``profile`` as SVG text, with the depths ``picks`` (name to depth) marked.

    ``colors`` are those of the picks elsewhere in a report; one that has none there gets its own.
    """
    colors = {name: color_of(place) for place, name in enumerate(picks)} | dict(colors or {})
    with styled_figure(8.2, 4.9, nrows=2, sharex=True, height_ratios=[3, 1]) as (figure, (top, bottom)):
        curve = profile.layer_loss
        depths = list(range(1, len(curve.loss) + 1))
        low, high = interval_of(curve)
        top.fill_between(depths, low, high, color=_CURVE, alpha=0.14, linewidth=0)
        top.plot(depths, curve.loss, color=_CURVE, linewidth=1.8, marker="o", markersize=3)
        top.set_ylabel("contrastive loss")
        bottom.plot(depths, [100 * share for share in curve.accuracy], color=_CURVE, linewidth=1.4)
        bottom.set_ylabel("accuracy@1, %")
        bottom.set_xlabel(f"depth: number of leading layers kept, of {profile.shape.num_layers}")
        bottom.set_ylim(bottom=0)
        bottom.set_xlim(0.5, len(depths) + 0.5)
        whole_ticks(bottom)
        top.axvline(profile.shape.num_layers // 2 + 0.5, color=_FAINT, linewidth=0.8, linestyle=(0, (4, 4)))
        _mark_picks(picks, colors, curve.loss, top, bottom)
        return drawn(figure)


def log_ticks(axes: Axes) -> None:
    """Let x be logarithmic, with plain numbers along it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def whole_ticks(axes: Axes) -> None:
    """Let the marks along x be whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))


def _mark_picks(picks: Mapping[str, int], colors: Mapping[str, str], loss: Sequence[float], top: Axes, bottom: Axes) -> None:
    bottom_edge, top_edge = top.get_ylim()
    top.set_ylim(bottom_edge, top_edge + 0.18 * (top_edge - bottom_edge))
    together: dict[int, list[str]] = {}
    for name, depth in picks.items():
        together.setdefault(depth, []).append(name)
    row, last = 0, -len(loss)
    for depth, names in sorted(together.items()):
        color = colors[names[0]]
        for axes in (top, bottom):
            axes.axvline(depth, color=color, linewidth=1.0, alpha=0.55)
        top.plot([depth], [loss[depth - 1]], marker="o", markersize=8, color=color, markeredgecolor="white", zorder=5)
        if len(together) > _LABELLED:
            continue
        # Neighbouring labels would run into each other: the second goes one row down.
        row = 1 - row if depth - last < 0.3 * len(loss) else 0
        last = depth
        left = depth > 0.8 * len(loss)
        top.annotate(
            f"{' = '.join(names) if len(names) <= _LABELLED else f'{len(names)} variants'}: {depth}",
            (depth, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if left else 5, -3 - 15 * row),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=color,
            fontweight="bold",
        )


def inline_svg(svg: str, *, prefix: str, label: str) -> str:
    """Return ``svg`` ready to stand inside an HTML page: no prolog, ids made unique by ``prefix``, a spoken ``label``."""
    body = svg[svg.index("<svg") :]
    for pattern, new in (
        (r"(?s)<metadata>.*?</metadata>", ""),
        # Within HTML the name spaces are known; without their addresses the page holds no address at all.
        (r' xmlns(:xlink)?="[^"]*"', ""),
        (r'\bid="', f'id="{prefix}-'),
        (r'href="#', f'href="#{prefix}-'),
        (r"url\(#", f"url(#{prefix}-"),
        (r'\A(<svg[^>]*?) height="[^"]*"', r"\1"),
        (r'\A(<svg[^>]*?) width="[^"]*"', r"\1"),
    ):
        body = re.sub(pattern, new, body)
    return body.replace("<svg", f'<svg role="img" aria-label={json.dumps(label, ensure_ascii=False)}', 1)


def sparkline(values: Sequence[float]) -> str:
    """Return a curve in one line of a terminal: a bar per value; values that are not finite leave a gap.

    A flat curve is drawn at half height, because neither end of the scale would be true.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = len(_BARS) / (high - low) if high > low else 0.0
    bars = (
        (min(len(_BARS) - 1, int((value - low) * scale)) if scale else len(_BARS) // 2) if math.isfinite(value) else None
        for value in values
    )
    return "".join(" " if bar is None else _BARS[bar] for bar in bars)


def redundancies(profile: Profile) -> dict[str, Redundancy]:
    """Return what was measured of redundancy, by the texts it was measured on (``retrieval``, ``plain``).

    Raises:
        ProfileError: A section is broken, for this and the functions below.
    """
    found = [Redundancy.from_json(profile.sections[name]) for name in _SECTIONS if name in profile.sections]
    return {one.texts: one for one in found}


def redundancy_svg(profile: Profile) -> str:
    """Return the heat map of redundancy, where it was measured, as SVG text: layers along x, a row a kind of sub-layer and of text."""
    found = redundancies(profile)
    # Rows of one kind of sub-layer stand together.
    rows = [
        (_NAMES[kind] + (f", {texts}" if len(found) > 1 or texts != "retrieval" else ""), one.row(kind), one.order(kind))
        for kind in KINDS
        for texts, one in found.items()
    ]
    with styled_figure(8.2, 1.2 + 0.42 * len(rows)) as (figure, axes):
        _draw(rows, axes)
        axes.set_xlabel(f"layer; 1 to {marked(profile.shape.num_layers)}: the least important of each row", labelpad=6)
        return drawn(figure)


def marked(layers: int) -> int:
    """Return how many of the least important sub-layers are shown: eight, or half of those of a small model."""
    return max(1, min(_MARKED, layers // 2))


def caption(profile: Profile) -> str:
    """Return what the heat map shows, in words; with both kinds of text, how far their orders agree."""
    found = redundancies(profile)
    about = "Importance of each sub-layer: 1 - cosine of the residual stream before and after it, mean over tokens"
    counts = " and ".join(f"{one.tokens:,} tokens of {texts} text" for texts, one in found.items())
    agree = _agreement(found)
    return f"{about} ({counts})." + (f" Rank correlation of plain with retrieval text: {agree}." if agree else "")


def redundancy_table(profile: Profile) -> list[str]:
    """Return lines for a terminal: the least important sub-layers of each kind, the least first."""
    found = redundancies(profile)
    lines = []
    for texts, one in found.items():
        lines.append(f"least important on {texts} text, as layer (1 - cosine), least first:")
        for kind in KINDS:
            least = one.order(kind)[: marked(len(one.row(kind)))]
            lines.append(f"  {_NAMES[kind]:<10}" + "  ".join(f"{layer} ({one.row(kind)[layer]:.2g})" for layer in least))
    agree = _agreement(found)
    return [*lines, f"rank correlation of plain with retrieval text: {agree}"] if agree else lines


def _agreement(found: Mapping[str, Redundancy]) -> str:
    """Return Spearman's correlation by kind of sub-layer, in words; empty unless both kinds of text were measured."""
    if len(found) < 2:
        return ""
    first, second = found.values()
    values = {_NAMES[kind]: rank_correlation(first.row(kind), second.row(kind)) for kind in KINDS}
    return ", ".join(f"{name} {'undefined' if value is None else f'{value:.2f}'}" for name, value in values.items())


def _draw(rows: Sequence[tuple[str, Sequence[float], Sequence[int]]], axes: Axes) -> None:
    """Draw rows of label, values and layers from the least important; the least are numbered."""
    from matplotlib.colors import LogNorm

    values = [[max(value, _LEAST) for value in row] for _, row, _ in rows]
    every = [value for row in values for value in row]
    low, high = min(every), max(every)
    # One value alone has no scale.
    norm = LogNorm(vmin=low, vmax=high if high > low else 2 * low)
    draw_cells(axes, values, [label for label, _, _ in rows], norm=norm, colors=_COLOURS, bar="1 - cosine")
    whole_ticks(axes)
    for place, (row, (_, _, order)) in enumerate(zip(values, rows, strict=True)):
        for rank, layer in enumerate(order[: marked(len(row))], start=1):
            colour = "white" if norm(row[layer]) > 0.6 else _INK
            axes.text(layer, place, str(rank), ha="center", va="center", fontsize=7.5, fontweight="bold", color=colour)


def draw_cells(
    axes: Axes, values: Sequence[Sequence[float]], labels: Sequence[str], *, norm: Normalize, colors: str, bar: str
) -> None:
    """Draw a heat map: rows of values from top to bottom, with labels, and a bar of the scale."""
    columns = len(values[0])
    edges = ([place - 0.5 for place in range(count + 1)] for count in (columns, len(values)))
    mesh = axes.pcolormesh(*edges, values, cmap=colors, norm=norm, edgecolors="white", linewidth=0.8)
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_yticks(range(len(values)), labels)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, columns - 0.5)
    color_bar(axes, mesh, bar, shrink=min(1.0, _BAR / len(values)))


def color_bar(axes: Axes, scale: ScalarMappable, label: str, *, shrink: float = 1.0) -> None:
    """Put the scale of colours beside a figure."""
    bar = axes.figure.colorbar(scale, ax=axes, pad=0.02, aspect=12, shrink=shrink, anchor=(0, 1))
    bar.set_label(label)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        # matplotlib draws a bar of many colours as an image inside the SVG.
        bar.solids.set_rasterized(False)

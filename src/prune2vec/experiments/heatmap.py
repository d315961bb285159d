"""Heat map and table of a profile's redundancy: which attention, MLP or block changes the residual stream least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune2vec.experiments.plots import drawn, styled_figure, whole_ticks
from prune2vec.files import write_text
from prune2vec.models.kept import KINDS
from prune2vec.profiling.importance import Redundancy, rank_correlation
from prune2vec.profiling.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SECTIONS = ("redundancy", "redundancy-plain")
_NAMES = {"attention": "attention", "mlp": "MLP", "block": "block"}
_MARKED = 8
_COLOURS = "YlGnBu"
# Values closer to zero than this are drawn as it: a dropped or silent sub-layer has none at all.
_LEAST = 1e-9


def redundancies(profile: Profile) -> dict[str, Redundancy]:
    """Return what was measured of redundancy, by the texts it was measured on (``retrieval``, ``plain``).

    Raises:
        ProfileError: A section is broken, for this and the functions below.
    """
    found = [Redundancy.from_json(profile.sections[name]) for name in _SECTIONS if name in profile.sections]
    return {one.texts: one for one in found}


def plot_redundancy(profile: Profile, path: Path) -> Path | None:
    """Write the heat map of ``profile`` as SVG and return its path; None when no redundancy was measured."""
    if not redundancies(profile):
        return None
    write_text(path, redundancy_svg(profile))
    return path


def redundancy_svg(profile: Profile) -> str:
    """Return the heat map as SVG text: layers along x, one row a kind of sub-layer and kind of text, ranks of the least."""
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
        return drawn(figure).decode()


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
    layers = len(values[0])
    mesh = axes.pcolormesh(
        [layer - 0.5 for layer in range(layers + 1)],
        [row - 0.5 for row in range(len(rows) + 1)],
        values,
        cmap=_COLOURS,
        norm=norm,
        edgecolors="white",
        linewidth=0.8,
    )
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    whole_ticks(axes)
    axes.set_xlim(-0.5, layers - 0.5)
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=12)
    bar.set_label("1 - cosine")
    bar.outline.set_visible(False)
    if bar.solids is not None:
        # matplotlib draws a bar of many colours as an image inside the SVG.
        bar.solids.set_rasterized(False)
    for place, (row, (_, _, order)) in enumerate(zip(values, rows, strict=True)):
        for rank, layer in enumerate(order[: marked(layers)], start=1):
            colour = "white" if norm(row[layer]) > 0.6 else "#1f2933"
            axes.text(layer, place, str(rank), ha="center", va="center", fontsize=7.5, fontweight="bold", color=colour)

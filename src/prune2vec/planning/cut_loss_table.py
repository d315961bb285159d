"""What a cut costs before any training: the profile's ``cut-loss`` section, read between its measured points."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from prune2vec.amounts import exact
from prune2vec.errors import ProfileError
from prune2vec.profiling.profile import Profile
from prune2vec.settings import Layer, read_as

SECTION = "cut-loss"


@dataclass(frozen=True, kw_only=True)
class DepthLoss:
    """Loss of one depth.

    Attributes:
        depth: Layers that stay.
        by_mlps: Loss by the number of MLPs skipped among them.
        by_width: Loss by the share of the neurons silenced.
    """

    depth: int
    by_mlps: Mapping[Fraction, float]
    by_width: Mapping[Fraction, float]

    @property
    def most_mlps(self) -> int:
        """Up to how many MLPs were skipped."""
        return int(max(self.by_mlps))

    def predicted(self, mlps: int, width: Fraction) -> float | None:
        """Return the loss expected without ``mlps`` MLPs and ``width`` of the others' neurons; None beyond what was measured.

        The two costs are added, the width's for the share of MLPs that it still applies to. Between measured counts and
        shares it is linear.
        """
        dropped, narrowed = _between(self.by_mlps, Fraction(mlps)), _between(self.by_width, width)
        if dropped is None or narrowed is None:
            return None
        return dropped + (narrowed - self.by_width[Fraction(0)]) * (self.depth - mlps) / self.depth


@dataclass(frozen=True, kw_only=True)
class CutLoss:
    """Zero-shot contrastive loss of every depth with MLPs skipped, or with neurons silenced.

    Attributes:
        mlp_order: Layers in the order in which their MLPs were skipped.
        drops: How many of them were, ascending from 0.
        drop_loss: By entry of ``drops``, the loss at each depth, depth 1 first.
        width_cuts: Shares of the neurons that were silenced, ascending from 0.
        width_loss: By entry of ``width_cuts``, the loss at each depth.
    """

    mlp_order: tuple[int, ...]
    drops: tuple[int, ...]
    drop_loss: tuple[tuple[float, ...], ...]
    width_cuts: tuple[Fraction, ...]
    width_loss: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """Read the section of a profile.

        Raises:
            ProfileError: It was not measured, or is broken.
        """
        try:
            section = read_as(_Section, profile.section(SECTION))
            found = cls(**{**vars(section), "width_cuts": tuple(exact(str(share)) for share in section.width_cuts)})
        except ValueError as error:
            raise ProfileError(f"broken {SECTION} section ({error}); measure it again with prune2vec profile") from error
        problem = _problem(found, profile.shape.num_layers)
        if problem:
            raise ProfileError(f"broken {SECTION} section ({problem}); measure it again with prune2vec profile")
        return found

    @property
    def whole(self) -> float:
        """The loss of the uncut model."""
        return self.drop_loss[0][-1]

    def at(self, depth: int) -> DepthLoss:
        """Return what was measured of the first ``depth`` layers."""
        rows = zip(self.drops, self.drop_loss, strict=True)
        return DepthLoss(
            depth=depth,
            by_mlps={Fraction(self._inside(count, depth)): row[depth - 1] for count, row in rows},
            by_width={share: row[depth - 1] for share, row in zip(self.width_cuts, self.width_loss, strict=True)},
        )

    def predicted(self, depth: int, mlps: int, width: Fraction) -> float | None:
        """Return the loss expected of a cut; see ``DepthLoss.predicted``."""
        return self.at(depth).predicted(mlps, width)

    def was_measured_in(self, ranks: Iterable[int], depth: int, mlps: int) -> bool:
        """Return whether the first ``mlps`` layers of ``ranks`` before ``depth`` are those whose MLPs were skipped first."""
        mine, given = ([layer for layer in order if layer < depth][:mlps] for order in (self.mlp_order, ranks))
        return mine == given

    def _inside(self, count: int, depth: int) -> int:
        return sum(layer < depth for layer in self.mlp_order[:count])


@dataclass(frozen=True, kw_only=True)
class _Section:
    """The section as the profile has it."""

    mlp_order: tuple[Layer, ...]
    drops: tuple[Layer, ...]
    drop_loss: tuple[tuple[float, ...], ...]
    width_cuts: tuple[str | float, ...]
    width_loss: tuple[tuple[float, ...], ...]


def _problem(found: CutLoss, layers: int) -> str:
    """Return what is wrong with a section, or nothing."""
    if sorted(set(found.mlp_order)) != sorted(found.mlp_order) or not set(found.mlp_order) <= set(range(layers)):
        return f"mlp_order is no order of layers 0 to {layers - 1}"
    for name, points, rows in (
        ("drop", tuple(map(Fraction, found.drops)), found.drop_loss),
        ("width", found.width_cuts, found.width_loss),
    ):
        if not _ascends(points):
            return f"the {name} points do not ascend from 0"
        if len(rows) != len(points) or {len(row) for row in rows} != {layers}:
            return f"{name}_loss is not {len(points)} rows of {layers} depths"
    return "" if found.drops[-1] <= len(found.mlp_order) else "more MLPs dropped than mlp_order names"


def _ascends(points: Sequence[Fraction]) -> bool:
    return list(points[:1]) == [0] and all(one < other for one, other in itertools.pairwise(points))


def _between(points: Mapping[Fraction, float], place: Fraction) -> float | None:
    """Return the value at ``place``, linear between the two points around it; None outside them."""
    below = max((point for point in points if point <= place), default=None)
    above = min((point for point in points if point >= place), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return points[below]
    share = float((place - below) / (above - below))
    return points[below] * (1 - share) + points[above] * share

"""The search that planners share: the best depth by the profile among those a budget admits."""

from __future__ import annotations

from collections.abc import Iterable

from prune2vec.errors import PlanError
from prune2vec.planning.planner import Allowed, Choice, LayersOf
from prune2vec.profiling.profile import Profile


def least_loss(profile: Profile, depths: Iterable[int]) -> int:
    """Return the depth with the least loss; the shallowest one of equals, as numpy's argmin in the papers' code.

    Raises:
        ProfileError: One of them was not measured.
    """
    depths = list(depths)
    profile.check_measured(depths)
    return min(depths, key=lambda depth: (profile.layer_loss.loss[depth - 1], depth))


def admitted(profile: Profile, allowed: Allowed, layers_of: LayersOf) -> list[int]:
    """Return the counts of layers that the budget admits.

    Raises:
        PlanError: It admits none.
    """
    total = profile.shape.num_layers
    counts = [count for count in range(1, total + 1) if allowed(layers_of(count, total))]
    if not counts:
        smallest = profile.shape.params(layers_of(1, total))
        raise PlanError(f"the budget admits not even one layer ({smallest:,} parameters with its embeddings); loosen it")
    return counts


def fixed_count(profile: Profile, allowed: Allowed, layers_of: LayersOf, *, count: int | None, key: str) -> Choice:
    """Keep ``count`` layers as ``layers_of`` lays them out; when the budget forbids it, the best count that it admits.

    With ``count`` None the profile chooses among the admitted ones, which needs a budget that binds.

    Raises:
        PlanError: The model does not have ``count`` layers, or neither a count nor a budget is given.
    """
    total = profile.shape.num_layers
    if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
        raise PlanError(f"{key}: expected a whole number of 1 to {total}, got {count!r}")
    if count is not None and not 1 <= count <= total:
        raise PlanError(f"{key} {count} is not possible: {profile.model.get('name')} has {total} layers; choose 1 to {total}")
    counts = admitted(profile, allowed, layers_of)
    if count is None and len(counts) == total:
        raise PlanError(f"give --{key} (1 to {total}), or a budget that rules some depths out, such as --max-params 90M")
    if count in counts:
        return Choice(keep=layers_of(count, total), parameters={key: count})
    best = least_loss(profile, counts)
    asked = f"{count} layers are over the budget; " if count is not None else ""
    note = f"{asked}kept {best}, the best of {_range(counts)} layers by the profile"
    return Choice(keep=layers_of(best, total), parameters={} if count is None else {key: count}, notes=(note,))


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"

"""The order in which sub-layers go: by their redundancy as measured, least important first."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from prune2vec.errors import PlanError, ProfileError, did_you_mean
from prune2vec.profiling.importance import Redundancy
from prune2vec.profiling.profile import Profile

ONE_SHOT, ITERATIVE = "one-shot", "iterative"
SECTIONS = {ONE_SHOT: "redundancy", "plain": "redundancy-plain", ITERATIVE: "redundancy-iterative"}
"""The profile's section that each order is read from."""


def _known(order: Any) -> Any:
    if not isinstance(order, str) or order not in SECTIONS:
        raise ValueError(f"no order is called {order!r}{did_you_mean(order, SECTIONS)}")
    return order


Order = Annotated[str, BeforeValidator(_known)]
"""``one-shot`` (redundancy on retrieval texts), ``plain`` (on running text) or ``iterative`` (measured anew after every drop;
may name fewer layers than the model has)."""


def ranked(profile: Profile, order: str, kind: str, depth: int) -> tuple[int, ...]:
    """Return the layers of the first ``depth``, the one whose ``kind`` is missed least first.

    Args:
        profile: A profile with the section that ``order`` needs.
        order: One of ``SECTIONS``.
        kind: ``attention``, ``mlp`` or ``block``.
        depth: Layers beyond it are left out; those before are ranked among themselves.

    Raises:
        ProfileError: The section was not measured, or is broken.
    """
    if order != ITERATIVE:
        layers = _importance(profile, order).order(kind)
    else:
        total, found = profile.shape.num_layers, profile.section(SECTIONS[order]).get(kind)
        where = f"{SECTIONS[order]}: {kind}"
        if not isinstance(found, list | tuple) or not all(type(layer) is int and 0 <= layer < total for layer in found):
            raise ProfileError(f"{where}: expected layers of 0 to {total - 1}, got {found!r}; measure it again")
        if len(set(found)) != len(found):
            raise ProfileError(f"{where}: a layer is there twice in {list(found)}; measure it again")
        layers = tuple(found)
    return tuple(layer for layer in layers if layer < depth)


def least_important(profile: Profile, order: str, kind: str, among: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the ``count`` layers of ``among`` whose ``kind`` is missed least, in that order.

    Raises:
        PlanError: The order does not name that many of them.
        ProfileError: As ``ranked``.
    """
    if not count:
        return ()
    found = tuple(layer for layer in ranked(profile, order, kind, among[-1] + 1) if layer in among)
    if count > len(found):
        raise PlanError(
            f"the {order} order names only {len(found)} of these {len(among)} layers for {kind}, so it cannot drop {count}; "
            f"measure it with more --rounds, or use --order {ONE_SHOT}"
        )
    return found[:count]


def ranked_jointly(profile: Profile, order: str, depth: int) -> tuple[tuple[str, int], ...]:
    """Return attentions and MLPs of the first ``depth`` layers in one list (kind, layer), the least important first.

    Equal ones go MLP first, then the deeper layer first.

    Raises:
        PlanError: The order ranks attentions and MLPs apart.
        ProfileError: As ``ranked``.
    """
    if order == ITERATIVE:
        raise PlanError("a joint drop (J) compares attentions with MLPs, which the iterative order does not; use another order")
    found = _importance(profile, order)
    pairs = [
        (values[layer], rank, -layer) for rank, values in enumerate((found.mlp, found.attention)) for layer in range(depth)
    ]
    return tuple((("mlp", "attention")[rank], -layer) for _, rank, layer in sorted(pairs))


def _importance(profile: Profile, order: str) -> Redundancy:
    name = SECTIONS[order]
    found = Redundancy.from_json(profile.section(name))
    if len(found.mlp) != profile.shape.num_layers:
        raise ProfileError(
            f"{name}: {len(found.mlp)} values for a model of {profile.shape.num_layers} layers; measure it again"
        )
    return found

"""The order in which sub-layers go: by their redundancy as measured, least important first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prune2vec.errors import PlanError, ProfileError, did_you_mean
from prune2vec.profiling.importance import Redundancy
from prune2vec.profiling.profile import Profile

ONE_SHOT = "one-shot"
_SECTIONS = {ONE_SHOT: "redundancy", "plain": "redundancy-plain", "iterative": "redundancy-iterative"}


def ranked(profile: Profile, order: str, kind: str, depth: int) -> tuple[int, ...]:
    """Return the layers of the first ``depth``, the one whose ``kind`` is missed least first.

    Args:
        profile: A profile with the section that ``order`` needs.
        order: ``one-shot`` (redundancy on retrieval texts), ``plain`` (on running text) or ``iterative`` (measured anew after
            every drop; may name fewer layers than the model has).
        kind: ``attention``, ``mlp`` or ``block``.
        depth: Layers beyond it are left out; those before are ranked among themselves.

    Raises:
        PlanError: There is no such order.
        ProfileError: The section was not measured, or is broken.
    """
    name, section = _section(profile, order)
    if order == "iterative":
        layers = _checked(section.get(kind), profile.shape.num_layers, where=f"{name}: {kind}")
    else:
        layers = _importance(profile, name, section).order(kind)
    return tuple(layer for layer in layers if layer < depth)


def least_important(profile: Profile, order: str, kind: str, among: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the ``count`` layers of ``among`` whose ``kind`` is missed least, in that order.

    Raises:
        PlanError: The order does not name that many of them.
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
        PlanError: There is no such order, or it ranks attentions and MLPs apart.
        ProfileError: The section was not measured, or is broken.
    """
    name, section = _section(profile, order)
    if order == "iterative":
        raise PlanError("a joint drop (J) compares attentions with MLPs, which the iterative order does not; use another order")
    found = _importance(profile, name, section)
    pairs = [
        (values[layer], rank, -layer) for rank, values in enumerate((found.mlp, found.attention)) for layer in range(depth)
    ]
    return tuple((("mlp", "attention")[rank], -layer) for _, rank, layer in sorted(pairs))


def section_of(order: str) -> str:
    """Return the name of the profile's section that an order is read from.

    Raises:
        PlanError: There is no such order.
    """
    if order not in tuple(_SECTIONS):
        raise PlanError(f"no order is called {order!r}{did_you_mean(order, _SECTIONS)}")
    return _SECTIONS[order]


def _section(profile: Profile, order: str) -> tuple[str, Mapping[str, Any]]:
    name = section_of(order)
    return name, profile.section(name)


def _importance(profile: Profile, name: str, section: Mapping[str, Any]) -> Redundancy:
    found = Redundancy.from_json(section)
    if len(found.mlp) != profile.shape.num_layers:
        raise ProfileError(
            f"{name}: {len(found.mlp)} values for a model of {profile.shape.num_layers} layers; measure it again"
        )
    return found


def _checked(layers: Any, total: int, *, where: str) -> tuple[int, ...]:
    """Return a list of layers as measured, or refuse what is none."""
    if not isinstance(layers, list | tuple) or not all(type(layer) is int and 0 <= layer < total for layer in layers):
        raise ProfileError(f"{where}: expected layers of 0 to {total - 1}, got {layers!r}; measure it again")
    if len(set(layers)) != len(layers):
        raise ProfileError(f"{where}: a layer is there twice in {list(layers)}; measure it again")
    return tuple(layers)

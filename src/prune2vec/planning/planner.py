"""Planners, each a way to choose what of a model stays; and ``plan``, which holds the choice against the budget."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from prune2vec.errors import PlanError
from prune2vec.models.kept import Kept, check_first_layer
from prune2vec.models.shape import ModelShape
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.vocabulary import ENOUGH, CountedTokens, VocabularyOptions, counted_tokens
from prune2vec.profiling.profile import Profile
from prune2vec.public import public
from prune2vec.registry import Registry
from prune2vec.settings import Amount, Settings

FitsBudget = Callable[[Kept], bool]
"""Says whether the budget admits keeping these layers, sub-layers and widths."""


class Budget(Settings):
    """Limits on the encoder, whatever the method; each one left unset does not bind."""

    max_params: Amount | None = None
    """Most parameters, embeddings counted once: 90M, 1.5B."""
    max_layers: int | None = Field(default=None, ge=1, le=10**4)
    """Most layers; one without attention or without MLP counts as well."""
    max_memory: Amount | None = None
    """Most memory for encoding, estimated from weights and activations in the model's dtype: 500MB, 4GB. Where a model in bf16 is
    computed in float32, as on CPUs without bf16 matrix units, it is twice as much."""
    min_speedup: float | None = Field(default=None, ge=1, le=10**4)
    """Least speed-up over the whole model, predicted from FLOPs per token."""

    def exceeded(self, shape: ModelShape, keep: Iterable[int] | Kept) -> tuple[str, ...]:
        """Return, in words, each limit that is not met by a model of ``shape`` of which ``keep`` stays: need and limit."""
        kept = Kept.whole(keep)
        found = []
        if self.max_params is not None and (params := shape.params(kept)) > self.max_params:
            found.append(f"{params:,} parameters against at most {self.max_params:,}")
        if self.max_layers is not None and len(kept.layers) > self.max_layers:
            found.append(f"{len(kept.layers)} layers against at most {self.max_layers}")
        if self.max_memory is not None and (memory := shape.memory_bytes(kept)) > self.max_memory:
            found.append(f"{memory:,} bytes against at most {self.max_memory:,}")
        if self.min_speedup is not None and (speedup := speedup_of(shape, kept)) < self.min_speedup:
            found.append(f"a speed-up of {speedup:.4g} against at least {self.min_speedup:.4g}")
        return tuple(found)


def speedup_of(shape: ModelShape, keep: Iterable[int] | Kept) -> float:
    """Return how many times fewer FLOPs a token needs than in the whole model."""
    return shape.flops_per_token(range(shape.num_layers)) / max(1, shape.flops_per_token(keep))


@dataclass(frozen=True)
class Picked:
    """What a planner picked.

    Attributes:
        kept: What stays.
        notes: What a reader should know about the pick.
        resolved: Values of those parameters that the planner chose itself, or would have the plan show otherwise.
    """

    kept: Kept
    notes: tuple[str, ...] = ()
    resolved: Mapping[str, Any] = field(default_factory=dict)


class Planner(Settings):
    """A way to choose what stays: its fields are its parameters, ``pick`` applies them.

    The fields become options of ``prune2vec plan`` and keys of a recipe, with their types, limits and docstrings.
    """

    def needs(self) -> tuple[str, ...]:
        """Return the profile's sections beside the layer-loss that ``pick`` will read."""
        return ()

    @abstractmethod
    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Choose what stays.

        A planner that searches asks ``fits_budget``; whatever it returns is held against the budget once more.

        Raises:
            PlanError: The parameters or the budget cannot be met.
            ProfileError: A section of the profile that the choice needs was not measured.
        """


planners: Registry[type[Planner]] = Registry("planner", package="prune2vec.planning")
"""A planner registers itself beside its code: ``@planners.register("percent")`` above the class."""


@public("plan", "profile", "output")
def make_plan(
    profile: Profile | str | Path,
    *,
    method: str = "l3prune",
    budget: Budget | Mapping[str, Any] | None = None,
    vocabulary: VocabularyOptions | Mapping[str, Any] | None = None,
    output: Path | str | None = None,
    **parameters: Any,
) -> PruningPlan:
    """Decide what of a model stays.

    Args:
        profile: A profile, or the path of one.
        method: Name of a planner (``prune2vec methods`` lists them).
        budget: Limits; the pick is the best one within them by the profile.
        vocabulary: Which tokens stay, and the texts on which they are counted; all stay where no texts are given.
        output: Where to write ``plan.json``; nowhere when None.
        **parameters: The planner's own, such as ``variant="small"`` or ``depth=12``.

    Raises:
        ConfigError: There is no such planner, it has no such parameter, or a value does not fit.
        DataError: The texts of the vocabulary cannot be read.
        ModelError: The model, whose tokeniser counts, cannot be found, or its vocabulary cannot be cut.
        PlanError: The parameters or the budget cannot be met.
        ProfileError: The profile is broken, or lacks what the planner reads.
    """
    measured = profile if isinstance(profile, Profile) else Profile.load(Path(profile))
    limits = Budget.chosen(budget, {}, where="budget")
    planner = planners.get(method).build(parameters, where=f"planner {method!r}")
    tokens = VocabularyOptions.chosen(vocabulary, {}, where="vocabulary")
    counted = counted_tokens(tokens, measured) if tokens.cuts else None
    stay = None if counted is None else _tokens_within(planner, measured, limits, counted)
    picked = _pick(planner, measured, limits, None if stay is None else len(stay))
    settled = {name: value for name, value in {**planner.model_dump(), **picked.resolved}.items() if value is not None}
    if measured.shape.first_stays:
        check_first_layer(picked.kept, measured.shape.model_type)
    over = limits.exceeded(measured.shape, replace(picked.kept, vocabulary=None if stay is None else len(stay)))
    if over:
        given = ", ".join(f"{name} {value}" for name, value in settled.items())
        raise PlanError(
            f"{method}{f' ({given})' if given else ''} is over the budget: {'; '.join(over)}; cut more, or loosen it"
        )
    plan = PruningPlan(
        model=dict(measured.model),
        shape=measured.shape,
        keep_layers=picked.kept.layers,
        drop_attention=picked.kept.drop_attention,
        drop_mlp=picked.kept.drop_mlp,
        width_cut=picked.kept.width_cut,
        vocabulary=None if counted is None or stay is None else counted.cut(stay),
        text=measured.text,
        method=method,
        parameters={**settled, **limits.model_dump(exclude_none=True), **tokens.parameters()},
        notes=picked.notes,
        profile_digest=measured.digest,
    )
    if output is not None:
        plan.save(Path(output))
    return plan


def _pick(planner: Planner, profile: Profile, limits: Budget, tokens: int | None) -> Picked:
    """Return what the planner picks of a model of which so many tokens stay, all for None."""
    shape = profile.shape.with_tokens(tokens)
    tried: list[tuple[int, str]] = []

    def fits(kept: Kept) -> bool:
        over = limits.exceeded(shape, kept)
        tried.extend([(shape.params(kept), "; ".join(over))] if over else [])
        return not over

    try:
        return planner.pick(replace(profile, shape=shape), fits)
    except PlanError as error:
        if not tried:
            raise
        raise PlanError(f"{error} (the smallest of those tried has {min(tried)[1]})") from error


def _tokens_within(planner: Planner, profile: Profile, limits: Budget, counted: CountedTokens) -> tuple[int, ...] | None:
    """Return the tokens that stay: as asked, else as many as let the planner's own pick fit the sizes; None where all do.

    They never cover less than ``ENOUGH`` of the texts' tokens unless that is asked for.
    """
    asked = counted.asked()
    enough = counted.covering(ENOUGH) if asked is None else asked
    if asked is not None or (limits.max_params is None and limits.max_memory is None):
        return enough
    rows, no_sizes = profile.shape.token_rows, limits.model_copy(update={"max_params": None, "max_memory": None})
    try:
        free = _pick(planner, profile, no_sizes, None).kept
    except PlanError:  # It picks by a budget alone.
        return enough
    sizes = range(len(enough), rows + 1)
    fitting = bisect_left(sizes, True, key=lambda size: bool(limits.exceeded(profile.shape, replace(free, vocabulary=size))))
    if fitting == len(sizes):
        return None
    return counted.most(sizes[fitting - 1]) if fitting else enough

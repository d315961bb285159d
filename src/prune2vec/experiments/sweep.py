"""A sweep: methods by sizes by training settings by seeds, all from one profile; each of them a variant of the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from prune2vec.errors import ConfigError
from prune2vec.experiments.cell_table import Cell
from prune2vec.experiments.recipe_variant import KEEP_ALL, RecipeVariant, wrong
from prune2vec.planning.depth_rules import read_size, written_size
from prune2vec.planning.planner import Budget
from prune2vec.settings import Seed, Settings
from prune2vec.training.train_settings import TrainSettings

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class SweepMethod(Settings):
    """A method of a sweep, with parameters other than its size."""

    method: str
    """A planner, or full: keep every layer."""
    name: str | None = Field(default=None, pattern=_NAME)
    """What it is called in names and tables; default: the method."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the planner, for magnitude for example {by: weight}."""


class SweepBudget(Budget):
    """A size given as limits."""

    @property
    def text(self) -> str:
        """The limits in a name: ``max-params-90M``."""
        return "-".join(f"{key.replace('_', '-')}-{_short(value)}" for key, value in self.model_dump(exclude_none=True).items())


def _sweep_size(value: Any) -> Any:
    """Read a budget, or a size as a variant has it."""
    if not isinstance(value, Mapping | SweepBudget):
        return read_size(value)
    try:
        budget = SweepBudget.build(value, where="sizes") if isinstance(value, Mapping) else value
    except ConfigError as error:
        raise wrong(str(error)) from error
    if not budget.text:
        raise wrong(f"sizes: a budget without a limit; give one of {', '.join(SweepBudget.model_fields).replace('_', '-')}")
    return budget


SweepSize = Annotated[
    Any,
    BeforeValidator(_sweep_size),
    PlainSerializer(lambda size: size.model_dump(mode="json") if isinstance(size, SweepBudget) else written_size(size)),
]


def _method(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


class Sweep(Settings):
    """What a sweep crosses with what. Names of its variants say it: ``random-30pct-short-s1``."""

    methods: tuple[Annotated[SweepMethod, BeforeValidator(_method)], ...] = Field(
        default=(SweepMethod(method=KEEP_ALL), SweepMethod(method="depth")), min_length=1
    )
    """Planners by name, or with parameters: {method: magnitude, parameters: {by: weight}}. The first is what the others are compared
    with: full keeps all, and has no sizes."""
    sizes: tuple[SweepSize, ...] = Field(default=("small", "large"), min_length=1)
    """How much stays: shares of the layers (30%), L3Prune's small or large, numbers of layers, or budgets ({max-params: 90M}). A
    method that does not keep whole layers gets at most as many parameters as the first so many layers have."""
    seeds: tuple[Seed, ...] = ()
    """Seeds of the training; without any it is train's own."""
    train: dict[Annotated[str, Field(pattern=_NAME)], dict[str, Any] | None] = Field(default_factory=dict)
    """Ways to train by name, each over the settings of train, for example {short: {steps: 200}, long: {steps: 800}}; null leaves
    untrained."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        sizes = [size.text if isinstance(size, SweepBudget) else written_size(size) for size in self.sizes]
        for name, given in (("seeds", self.seeds), ("sizes", sizes)):
            repeated = next((value for place, value in enumerate(given) if value in given[:place]), None)
            if repeated is not None:
                raise wrong(f"{name}: {repeated} is given twice", name)
        twice = next((way for way, settings in self.train.items() if self.seeds and "seed" in (settings or {})), None)
        if twice is not None:
            raise ValueError(f"the way to train {twice!r} has a seed, and the sweep has seeds; give one of them")
        return self


def cells_of(sweep: Sweep, shared: TrainSettings | None) -> Iterator[tuple[Cell, RecipeVariant]]:
    """Yield every cell of a sweep with its variant: training settings and seeds outermost, then methods, then sizes.

    ``shared`` is how the recipe trains: where it is None nothing is trained but what a way to train says.

    Raises:
        ConfigError: A method does not exist, or takes no size.
    """
    ways: Mapping[str, dict[str, Any] | None] = sweep.train or {"": None if shared is None else {}}
    seeds = sweep.seeds or ((shared or TrainSettings()).seed,)
    for (way, settings), chosen in product(ways.items(), seeds):
        if settings is None and chosen != seeds[0]:
            continue
        suffix = [way] * (len(sweep.train) > 1) + [f"s{chosen}"] * (len(seeds) > 1 and settings is not None)
        train = None if settings is None else {"seed": chosen, **settings}
        for method in sweep.methods:
            called = method.name or method.method
            for size in ("",) if method.method == KEEP_ALL else sweep.sizes:
                text = size.text if isinstance(size, SweepBudget) else str(written_size(size))
                parts = [called, *filter(None, [text.replace("%", "pct")]), *suffix]
                about: dict[str, Any] = {"method": method.method, "parameters": method.parameters, "train": train}
                if isinstance(size, SweepBudget):
                    about["budget"] = size.model_dump(exclude_none=True)
                elif size:
                    about["size"] = written_size(size)
                variant = RecipeVariant.build({"name": "-".join(parts), **about}, where=f"sweep: {'-'.join(parts)}")
                yield (
                    Cell(name=variant.name, method=called, size=text, train=way, seed=None if train is None else train["seed"]),
                    variant,
                )


def _short(value: float) -> str:
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= factor and value % factor == 0:
            return f"{int(value // factor)}{unit}"
    return str(value) if isinstance(value, int) else f"{value:g}"


def read_shard(shard: str) -> tuple[int, int]:
    """Return the number of a shard and how many there are, of ``0/4``.

    Raises:
        ConfigError: It is no shard.
    """
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and len(shard) < 15 and int(number) < int(count)):
        raise ConfigError(f"shard {shard[:40]!r}: expected its number, from 0, and how many there are, such as 0/4")
    return int(number), int(count)

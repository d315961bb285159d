"""``profile``: model and texts in, profile out; the registry of scorers, and what a scorer measures."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from prune2vec.data.reader import Texts, load_triplets
from prune2vec.data.triplet import digest_texts
from prune2vec.errors import ProfileError, UnsupportedModel, reason_of
from prune2vec.files import json_text
from prune2vec.forward.backbone import Backbone, load_backbone
from prune2vec.forward.runner import ObservedRun, Observer
from prune2vec.machine import describe
from prune2vec.models.kept import Kept
from prune2vec.models.prepared_text import prepare_text
from prune2vec.models.text_settings import TextOptions, check_cls
from prune2vec.models.tokens import TokenRow, distinct
from prune2vec.profiling.profile import LayerLoss, Profile
from prune2vec.profiling.profile_settings import ALL, LAYER_LOSS, PLAIN, ProfileSettings
from prune2vec.profiling.token_groups import TokenGroup, draw_groups, tokenise_groups
from prune2vec.progress import Advance, progress, say
from prune2vec.public import public
from prune2vec.registry import Registry
from prune2vec.settings import read_as


class Measurement(Observer):
    """An observer that comes to a result.

    Attributes:
        rows: The tokenised texts that it observes.
        key: What it measures: of two with equal keys, rows and cuts only one runs.
        kept: On which cut of the model; None for the whole one.
        later: Tokens that its scorer will take through the model after this step, for the progress shown.
    """

    rows: tuple[TokenRow, ...]
    key: Hashable
    kept: Kept | None = None
    later: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def cut(self) -> Hashable:
        """The cut of the model, such that equal ones share a run."""
        # No cut here changes widths, and a mapping of them could not be hashed.
        return (self.kept.layers, self.kept.drop_attention, self.kept.drop_mlp) if self.kept is not None else None

    @abstractmethod
    def result(self) -> Any:
        """Return what was found when all rows have passed all layers."""


Measured = Generator[Sequence[Measurement], Sequence[Any], Mapping[str, Any]]
ScorerFn = Callable[[Backbone, Sequence[TokenGroup], ProfileSettings], Measured]

scorers: Registry[ScorerFn] = Registry("scorer", package="prune2vec.profiling")
"""Each scorer is a generator function of (backbone, tokenised groups, settings).

It yields a list of the measurements that it wants and is sent their results, as often as it likes, and returns its section of
the profile: JSON-ready, every number finite. Those that several scorers want at the same time share a pass through the model,
and equal ones are made once. One that does not apply raises ``UnsupportedModel`` for the model or ``ConfigError`` for the
settings before it first yields.
"""


@public("profile", "model", "texts", "output", settings=ProfileSettings)
def profile_model(
    model: str | Path,
    texts: Texts,
    *,
    settings: ProfileSettings | Mapping[str, Any] | None = None,
    output: Path | str | None = None,
    **overrides: Any,
) -> Profile:
    """Measure what each depth of a model is worth for embeddings (L3Prune, section 3), and what other scorers tell of it.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: a language model, or an encoder, which is read out as it is.
        texts: Triplets, or a file, a folder, a hub data set, or several.
        settings: How to measure; defaults are the paper's.
        output: Where to write ``profile.json``; nowhere when None.
        **overrides: Single settings by name, over those of ``settings``.

    Returns:
        The profile; ``profile.layer_loss.loss[0]`` is depth 1.

    Raises:
        DataError: Texts cannot be read, or are fewer than ``groups * group_size``.
        ModelError: The model cannot be loaded or understood.
        UnsupportedModel: The parts of its blocks are not known, and a scorer that needs them was asked for by name.
        ProfileError: A vector is NaN or infinite.
        ConfigError: A setting is unknown or does not fit.
    """
    chosen = ProfileSettings.chosen(settings, overrides, where="profile")
    target = Profile.target(output) if output is not None else None
    names = scorer_names(chosen)
    # Texts are read first: their faults show in a second, a model takes longer.
    triplets = load_triplets(texts)
    groups = draw_groups(triplets, groups=chosen.groups, size=chosen.group_size, seed=chosen.seed, order=chosen.sampling)
    backbone = load_backbone(
        str(model),
        depth=chosen.max_depth,
        **chosen.model_dump(include={"revision", "dtype", "device", "trust_remote_code", "stream", "memory"}),
    )
    decided, changed = backbone.usual_text.overridden(chosen)
    check_cls(decided.pooling, causal=backbone.shape.causal)
    if backbone.own_text is not None and changed:
        say(f"not as the encoder {backbone.source.name} does it: {'; '.join(changed)}")
    text = prepare_text(decided, backbone.tokenizer, context=backbone.max_length)
    # Scorers read the pooling as decided, and no depth beyond the model's.
    depth = chosen.max_depth if chosen.max_depth and chosen.max_depth < backbone.shape.num_layers else None
    chosen = chosen.model_copy(update={"pooling": text.settings.pooling, "max_depth": depth})
    tokenised = tokenise_groups(groups, text)
    rows = [row for group in tokenised for row in group.rows]
    truncated = sum(row.truncated for row in rows)
    if truncated:
        say(f"{truncated} of {len(rows)} texts are longer than {text.settings.max_length} tokens and lost their end")
    sections = measured(names, backbone, tokenised, chosen)
    sources = [texts] if isinstance(texts, str | Path) else texts
    result = Profile(
        model=backbone.identity(),
        shape=backbone.shape,
        layer_loss=read_as(LayerLoss, sections.pop(LAYER_LOSS)),
        sections=sections,
        texts={
            "source": ", ".join(map(str, sources)) if all(isinstance(one, str | Path) for one in sources) else "in memory",
            "digest": digest_texts(triplets),
            "tuples": len(triplets),
            "used": sum(len(group.queries) for group in tokenised),
            "tokens": sum(len(row.ids) for row in distinct(rows)[0]),
            "truncated": truncated,
        },
        text=text.settings,
        settings={
            **chosen.model_dump(mode="json", exclude=set(TextOptions.model_fields)),
            "dtype": str(backbone.model.dtype).removeprefix("torch."),
            "device": backbone.device.type,
            "text_format": asdict(text.layout),
        },
        environment={**describe(backbone.device), **backbone.runner.account()},
    )
    if target is not None:
        result.save(target)
    return result


def scorer_names(settings: ProfileSettings) -> tuple[str, ...]:
    """Return the scorers that are asked for, ``layer-loss`` first, as it is the backbone of every profile."""
    asked = [name for name in settings.scorers if name != ALL]
    for name in asked:
        scorers.get(name)
    if ALL in settings.scorers:
        asked = [name for name in scorers if name != PLAIN or settings.plain is not None]
    return tuple(dict.fromkeys((LAYER_LOSS, *asked)))


def measured(
    names: Sequence[str],
    backbone: Backbone,
    groups: Sequence[TokenGroup],
    settings: ProfileSettings,
) -> dict[str, dict[str, Any]]:
    """Return the sections of these scorers, in their order; with ``all``, what the model is not fit for is left out.

    The scorers go on in step: in each, all measurements of the same texts share one pass through the model, and equal ones are
    made once.

    Raises:
        UnsupportedModel: The model is not fit for a scorer that was asked for by name.
    """
    sections: dict[str, Any] = dict.fromkeys(names)
    running: dict[str, Measured] = {}
    wanted: dict[str, Sequence[Measurement]] = {}
    memo: dict[tuple[Any, ...], Measurement] = {}

    def step(name: str, results: list[Any] | None) -> None:
        """Let a scorer go on: it wants something more, or has its section."""
        try:
            # The first time, next(scorer).
            wanted[name] = running[name].send(results)  # type: ignore[arg-type]
        except StopIteration as finished:
            # As it reads back from its file, lists for tuples, so that a saved profile equals the loaded one.
            try:
                sections[name] = json.loads(json_text(finished.value))
            except (TypeError, ValueError) as error:
                raise ProfileError(
                    f"scorer {name!r}: its section is no JSON: {reason_of(error)}; return Python's own finite numbers, lists and "
                    "dictionaries"
                ) from error

    for name in names:
        running[name] = scorers.get(name)(backbone, groups, settings)
        if not isinstance(running[name], Generator):
            raise ProfileError(f"scorer {name!r} is no generator: it yields what it wants measured, and returns its section")
        try:
            step(name, None)
        except UnsupportedModel as error:
            if name in settings.scorers or name == LAYER_LOSS:
                raise
            say(f"{name} is left out: {error}")
            del sections[name]
    first = list(chain.from_iterable(wanted.values()))
    total = sum({(one.rows, one.cut): one.tokens for one in first}.values()) + sum(one.later for one in first)
    with progress("profile", total=total) as advance:
        while wanted:
            this_step, wanted = wanted, {}
            every = chain.from_iterable(this_step.values())
            new = [one for one in every if memo.setdefault((one.rows, one.cut, one.key), one) is one]
            _run_together(new, backbone, settings.token_budget, advance)
            for name, some in this_step.items():
                step(name, [memo[one.rows, one.cut, one.key].result() for one in some])
    return sections


def _run_together(new: Sequence[Measurement], backbone: Backbone, token_budget: int | None, advance: Advance) -> None:
    """Make the measurements: one pass for each set of texts, in it each cut of the model once."""
    passes: dict[tuple[TokenRow, ...], dict[Hashable, list[Measurement]]] = {}
    for one in new:
        passes.setdefault(one.rows, {}).setdefault(one.cut, []).append(one)
    for rows, cuts in passes.items():
        runs = [ObservedRun(kept=observers[0].kept, observers=observers) for observers in cuts.values()]
        backbone.runner.run(rows, runs, token_budget=token_budget, advance=advance)

"""``profile``: model and texts in, profile out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune2vec.data.groups import draw_groups
from prune2vec.data.reader import Texts, given_triplets
from prune2vec.data.triplet import Triplet, digest_texts
from prune2vec.errors import UnsupportedModel
from prune2vec.forward.backbone import Backbone, load_backbone
from prune2vec.machine import describe
from prune2vec.models.encoder_text import encoder_text_settings
from prune2vec.models.prepared_text import PreparedText, prepare_text
from prune2vec.models.text_settings import TextOptions, TextSettings
from prune2vec.paths import check_target
from prune2vec.profiling.profile import LayerLoss, Profile
from prune2vec.profiling.profile_settings import ALL, LAYER_LOSS, PLAIN, ProfileSettings
from prune2vec.profiling.scorer import Work, scorers
from prune2vec.profiling.together import Together
from prune2vec.profiling.token_groups import TokenGroup, token_count, tokenise_groups
from prune2vec.progress import progress, say
from prune2vec.public import public


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
        model: Hub id, folder, GGUF file or ``smollm2``.
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
    target = check_target(Path(output), folder=False) if output is not None else None
    names = scorer_names(chosen)
    # Texts are read first: their faults show in a second, a model takes longer.
    triplets = given_triplets(texts)
    groups = draw_groups(triplets, groups=chosen.groups, size=chosen.group_size, seed=chosen.seed, order=chosen.order)
    backbone = _load(str(model), chosen)
    text = _text(backbone, chosen)
    chosen = _fitted(chosen, backbone, text.settings)
    tokenised = tokenise_groups(groups, text)
    works = _prepare(names, backbone, tokenised, chosen)
    _say_truncated(tokenised, text.settings.max_length)
    sections = _measure(works, backbone, chosen)
    result = Profile(
        model=backbone.identity(),
        shape=backbone.shape,
        layer_loss=LayerLoss.from_json(sections.pop(LAYER_LOSS)),
        sections=sections,
        texts=_about_texts(texts, triplets, tokenised),
        text=text.settings,
        settings={
            **chosen.model_dump(mode="json", exclude=set(TextOptions.model_fields)),
            "dtype": str(backbone.model.dtype).removeprefix("torch."),
            "device": backbone.device.type,
            "text_format": text.layout.to_json(),
        },
        environment={**describe(), **backbone.runner.account()},
    )
    if target is not None:
        result.save(target)
    return result


def _load(model: str, settings: ProfileSettings) -> Backbone:
    return load_backbone(
        model,
        revision=settings.revision,
        dtype=settings.dtype,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        stream=settings.stream,
        memory=settings.memory,
        depth=settings.max_depth,
    )


def _text(backbone: Backbone, options: TextOptions) -> PreparedText:
    """Return the text settings that are measured with: an encoder's own or the defaults, and what the options override."""
    own = encoder_text_settings(backbone.source, backbone.tokenizer, context=backbone.max_length)
    settings, changed = (own or TextSettings()).overridden(options)
    if own is not None and changed:
        say(f"not as the encoder {backbone.source.name} does it: {'; '.join(changed)}")
    return prepare_text(settings, backbone.tokenizer, context=backbone.max_length)


def _fitted(settings: ProfileSettings, backbone: Backbone, text: TextSettings) -> ProfileSettings:
    """Return the settings as scorers read them: the pooling decided, no depth beyond the model's."""
    depth = settings.max_depth
    if depth is not None and depth >= backbone.shape.num_layers:
        depth = None
    return settings.model_copy(update={"pooling": text.pooling, "max_depth": depth})


def scorer_names(settings: ProfileSettings) -> tuple[str, ...]:
    """Return the scorers that are asked for, ``layer-loss`` first, as it is the backbone of every profile.

    Raises:
        ConfigError: A name is unknown; the message gives the closest one.
    """
    asked = [name for name in settings.scorers if name != ALL]
    for name in asked:
        scorers.get(name)
    if ALL in settings.scorers:
        asked = [name for name in scorers if name != PLAIN or settings.plain is not None]
    return tuple(dict.fromkeys((LAYER_LOSS, *asked)))


def _prepare(
    names: Sequence[str], backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings
) -> dict[str, Work]:
    """Return the work of each scorer; with ``all``, those that the model is not fit for are left out."""
    works = {}
    for name in names:
        try:
            works[name] = scorers.get(name)(backbone, groups, settings)
        except UnsupportedModel as error:
            if name in settings.scorers or name == LAYER_LOSS:
                raise
            say(f"{name} is left out: {error}")
    return works


def _measure(works: Mapping[str, Work], backbone: Backbone, settings: ProfileSettings) -> dict[str, dict[str, Any]]:
    together = Together(works)
    with progress("profile", total=together.tokens) as advance:
        sections = together.run(backbone, token_budget=settings.token_budget, advance=advance)
    return {name: _as_json(section) for name, section in sections.items()}


def _as_json(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section as it reads back from its file, lists for tuples, so that a saved profile equals the loaded one."""
    found: dict[str, Any] = json.loads(json.dumps(section))
    return found


def _say_truncated(groups: Sequence[TokenGroup], max_length: int) -> None:
    rows = [row for group in groups for row in group.rows]
    truncated = sum(row.truncated for row in rows)
    if truncated:
        say(f"{truncated} of {len(rows)} texts are longer than {max_length} tokens and lost their end")


def _source_of(texts: Texts) -> str:
    several = [texts] if isinstance(texts, str | Path) else texts
    return ", ".join(map(str, several)) if all(isinstance(one, str | Path) for one in several) else "in memory"


def _about_texts(texts: Texts, triplets: Sequence[Triplet], groups: Sequence[TokenGroup]) -> dict[str, Any]:
    return {
        "source": _source_of(texts),
        "digest": digest_texts(triplets),
        "tuples": len(triplets),
        "used": sum(len(group.queries) for group in groups),
        "tokens": token_count(groups),
        "truncated": sum(row.truncated for group in groups for row in group.rows),
    }

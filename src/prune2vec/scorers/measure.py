"""``profile``: model and texts in, profile out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prune2vec.backbone.load import Backbone, load_backbone, within_context
from prune2vec.backbone.wrapper import text_format
from prune2vec.machine import describe
from prune2vec.pooling import poolings
from prune2vec.progress import progress, say
from prune2vec.records.profile import LayerLoss, Profile
from prune2vec.records.text_format import TextFormat
from prune2vec.scorers.groups import TokenGroup, token_count, tokenise_groups
from prune2vec.scorers.registry import scorers
from prune2vec.scorers.settings import ProfileSettings
from prune2vec.texts import Instructions, Triplet, digest_texts, draw_groups, load_triplets

Texts = Sequence[Triplet] | str | Path


def profile_model(
    model: str, texts: Texts, *, settings: ProfileSettings | None = None, output: Path | None = None, **overrides: Any
) -> Profile:
    """Measure what each depth of a model is worth for embeddings (L3Prune, section 3).

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``.
        texts: Triplets, or a file or folder of them.
        settings: How to measure; defaults are the paper's.
        output: Where to write ``profile.json``; nowhere when None.
        **overrides: Single settings by name, over those of ``settings``.

    Returns:
        The profile; ``profile.layer_loss.loss[0]`` is depth 1.

    Raises:
        DataError: Texts cannot be read, or are fewer than ``groups * group_size``.
        ModelError: The model cannot be loaded or understood.
        ProfileError: A vector is NaN or infinite.
        ConfigError: A setting is unknown or does not fit.
    """
    base = settings.model_dump() if settings is not None else {}
    chosen = ProfileSettings.build({**base, **overrides}, where="profile")
    poolings.get(chosen.pooling)
    # Texts are read first: their faults show in a second, a model takes longer.
    triplets = load_triplets(texts) if isinstance(texts, (str, Path)) else list(texts)
    instructions = Instructions.parse(chosen.instruction, symmetric=chosen.symmetric)
    groups = draw_groups(triplets, groups=chosen.groups, size=chosen.group_size, seed=chosen.seed, order=chosen.order)
    backbone = load_backbone(
        model, revision=chosen.revision, dtype=chosen.dtype, device=chosen.device, trust_remote_code=chosen.trust_remote_code
    )
    chosen = ProfileSettings(**{**chosen.model_dump(), "max_length": within_context(chosen.max_length, backbone.max_length)})
    layout = text_format(backbone.tokenizer, wrapper=chosen.wrapper, separator=chosen.separator)
    tokenised = tokenise_groups(
        backbone.tokenizer, groups, instructions=instructions, text_format=layout, max_length=chosen.max_length
    )
    result = _assemble(backbone, triplets, tokenised, layout, chosen, texts)
    if output is not None:
        result.save(output)
    return result


def _assemble(
    backbone: Backbone,
    triplets: Sequence[Triplet],
    groups: Sequence[TokenGroup],
    layout: TextFormat,
    settings: ProfileSettings,
    texts: Texts,
) -> Profile:
    rows = [row for group in groups for row in group.rows]
    truncated = sum(row.truncated for row in rows)
    if truncated:
        say(f"{truncated} of {len(rows)} texts are longer than {settings.max_length} tokens and lost their end")
    tokens = token_count(groups)
    with progress("profile", total=tokens) as advance:
        section = scorers.get("layer-loss")(backbone, groups, settings, advance)
    return Profile(
        model=backbone.identity(),
        shape=backbone.shape,
        layer_loss=LayerLoss.from_json(section),
        texts={
            "source": str(texts) if isinstance(texts, (str, Path)) else "in memory",
            "digest": digest_texts(triplets),
            "tuples": len(triplets),
            "used": sum(len(group.queries) for group in groups),
            "tokens": tokens,
            "truncated": truncated,
        },
        settings={
            **settings.model_dump(mode="json"),
            "dtype": str(backbone.model.dtype).removeprefix("torch."),
            "device": backbone.model.device.type,
            "text_format": layout.to_json(),
        },
        environment=describe(),
    )

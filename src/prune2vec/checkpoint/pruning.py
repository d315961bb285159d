"""``prune``: model and plan in, encoder folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.backbone.end_of_text import end_with_eos
from prune2vec.backbone.load import context_length, load_config, load_tokenizer, within_context
from prune2vec.backbone.source import ModelSource, resolve_source
from prune2vec.backbone.weights import fingerprint
from prune2vec.backbone.wrapper import text_format
from prune2vec.checkpoint.described import describe_cut, record_of
from prune2vec.checkpoint.encoder import write_checked
from prune2vec.checkpoint.float32 import computing_in_float32
from prune2vec.checkpoint.kept import KeptModel, check_fits, read_kept
from prune2vec.checkpoint.part_check import check_parts
from prune2vec.checkpoint.portable import EncoderParts, with_suffix
from prune2vec.checkpoint.probe import PROBE_TEXTS, probe_prompts
from prune2vec.checkpoint.settings import PruneSettings
from prune2vec.errors import CheckpointError, ConfigError, PlanError
from prune2vec.files import json_text
from prune2vec.outputs import ENCODER, check_ours, locked
from prune2vec.pooling import pool, poolings
from prune2vec.progress import say
from prune2vec.records.plan import PruningPlan
from prune2vec.records.text_format import TextFormat
from prune2vec.surgery.layers import reference_cut
from prune2vec.surgery.layout import layout_of
from prune2vec.texts.instructions import Instructions


def prune_model(
    model: str, plan: PruningPlan | str | Path, output: Path, *, settings: PruneSettings | None = None, **overrides: Any
) -> Path:
    """Cut a model as a plan says and write it as a sentence-transformers folder.

    Only the kept tensors are read. The folder is written under a temporary name, reloaded, compared with the original
    architecture from which the rest was deleted, and then renamed. Where the blocks that are left are not all alike, the
    folder loads with prune2vec installed and ``trust_remote_code=True``; otherwise it is a stock one.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for.
        plan: A plan, or the path of one.
        output: Folder to write.
        settings: How the encoder pools and formats texts.
        **overrides: Single settings by name, over those of ``settings``.

    Returns:
        ``output``.

    Raises:
        PlanError: The plan is for another model, or its width is not decided yet.
        CheckpointError: Tensors are missing or damaged, the folder cannot be written, or the reloaded encoder differs.
        ModelError: The model cannot be found or understood, or single sub-layers cannot be taken out of it.
    """
    base = settings.model_dump() if settings is not None else {}
    chosen = PruneSettings.build({**base, **overrides}, where="prune")
    what = plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))
    with locked(Path(output)):
        check_ours(Path(output), ENCODER)
        return _pruned(model, what, Path(output), chosen)


def _pruned(model: str, what: PruningPlan, output: Path, chosen: PruneSettings) -> Path:
    source = resolve_source(model, revision=chosen.revision)
    if source.folder is not None and source.folder.resolve() == output.resolve():
        raise CheckpointError(f"cannot write {output}: it is the model that is pruned; name another folder")
    config = load_config(source, trust_remote_code=chosen.trust_remote_code)
    check_fits(what, config)
    check_identity(what, source)
    chosen = PruneSettings(**{**chosen.model_dump(), "max_length": within_context(chosen.max_length, context_length(config))})
    tokenizer = load_tokenizer(source, trust_remote_code=chosen.trust_remote_code)
    layout = text_format(tokenizer, wrapper=chosen.wrapper, separator=chosen.separator)
    layout = end_with_eos(layout, tokenizer, append_eos=chosen.append_eos, pooling=chosen.pooling)
    kept = read_kept(source, what, trust_remote_code=chosen.trust_remote_code)
    if what.drop_attention or what.drop_mlp:
        check_parts(kept.model)
    parts = _parts(kept, with_suffix(tokenizer, layout.suffix), what, chosen, layout)
    check_prompts(parts)
    reference = _reference_vectors(kept, parts, what)
    parity = write_checked(
        parts,
        output,
        reference,
        named="the original with the rest deleted",
        extra={"plan.json": json_text(what.to_json())},
        release=True,
    )
    files = kept.files
    say(
        f"{output}: {'; '.join(describe_cut(record_of(what)))}; read {files.bytes_read / 1e6:,.0f} MB from "
        f"{len(files.opened)} of {len(set(files.file_of.values()))} files; largest difference {parity.max_difference:.1g}"
    )
    return output


def check_identity(plan: PruningPlan, source: ModelSource) -> None:
    """Refuse a model that has the plan's shape but is not the one that it was made for.

    Raises:
        PlanError: It is another one.
    """
    found = fingerprint(source)
    if plan.model.get("fingerprint") != found:
        raise PlanError(
            f"the plan was made for {plan.model.get('name')} ({plan.model.get('fingerprint')}), but {source.name} is another model of the "
            f"same shape ({found}); make a plan for it with prune2vec profile and plan"
        )


def _parts(
    kept: KeptModel, tokenizer: PreTrainedTokenizerBase, plan: PruningPlan, settings: PruneSettings, layout: TextFormat
) -> EncoderParts:
    prompts = {"query": _query_prompt(layout, settings.instruction), "document": layout.before()}
    return EncoderParts(
        model=kept.model,
        tokenizer=tokenizer,
        pooling=settings.pooling,
        max_length=settings.max_length,
        prompts=prompts,
        # Without a prompt asked for, a wrapper's prefix must still be there.
        default_prompt="document" if layout.prefix else None,
        normalize=settings.normalize,
        record={
            "model": dict(plan.model),
            "keep_layers": list(plan.keep_layers),
            "num_layers": plan.num_layers,
            "pooling": settings.pooling,
            "text_format": layout.to_json(),
            "instruction": settings.instruction,
            "plan": record_of(plan),
            "read": {"bytes": kept.files.bytes_read, "files": list(kept.files.opened)},
            "train": None,
        },
    )


def _query_prompt(layout: TextFormat, instruction: str) -> str:
    named = Instructions.named(instruction)
    return layout.before(named.text, named.separator) if named is not None else layout.before(instruction)


def _reference_vectors(kept: KeptModel, parts: EncoderParts, plan: PruningPlan) -> NDArray[np.float32]:
    """Return the probe vectors by another path than the encoder's: original architecture, one text at a time, our pooling."""
    # Not the written layout: a uniform width is in the written config, and the reference is built from the original one.
    layout = () if plan.kept.whole_blocks else layout_of(kept.model)
    model: PreTrainedModel = reference_cut(kept.model, kept.original_config, plan.keep_layers, layout)
    with computing_in_float32(model):
        stacked = torch.cat(
            [_vector(model, parts, prompt, text) for prompt in probe_prompts(parts.prompts) for text in PROBE_TEXTS]
        )
    if parts.normalize:
        stacked = torch.nn.functional.normalize(stacked, dim=1)
    return np.asarray(stacked.numpy(), dtype=np.float32)


def _vector(model: PreTrainedModel, parts: EncoderParts, prompt: str, text: str) -> torch.Tensor:
    tokenizer = parts.tokenizer
    ids = tokenizer(prompt + text, truncation=True, max_length=parts.max_length, return_tensors="pt")["input_ids"]
    start = len(_prompt_ids(tokenizer, prompt))
    attended = torch.ones_like(ids)
    pooled = attended.clone()
    pooled[:, :start] = 0
    name = "weightedmean-st" if parts.pooling == "weightedmean" else parts.pooling
    with torch.inference_mode():
        states = model(input_ids=ids, use_cache=False)[0]
    return pool(states, poolings.get(name)(pooled, attended))


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the ids before the text as sentence-transformers counts them: nothing without a prompt, else BOS and prompt."""
    if not prompt:
        return []
    ids: list[int] = tokenizer(prompt)["input_ids"]
    trailing = ids[-1] in tokenizer.all_special_ids
    return ids[:-1] if trailing else ids


def check_prompts(parts: EncoderParts) -> None:
    """Refuse a prompt whose last token would merge with a text's first one.

    sentence-transformers leaves the tokens of the prompt alone out of the pooling, so a merged token would be lost. Not so
    where the last token alone is pooled and that is the EOS token.

    Raises:
        ConfigError: Such a prompt.
    """
    if parts.pooling == "lasttoken" and parts.tokenizer("a")["input_ids"][-1] == parts.tokenizer.eos_token_id:
        return
    for prompt in probe_prompts(parts.prompts):
        alone = _prompt_ids(parts.tokenizer, prompt)
        for text in PROBE_TEXTS:
            if parts.tokenizer(prompt + text)["input_ids"][: len(alone)] != alone:
                raise ConfigError(
                    f"the prompt {prompt!r} does not end between two tokens (before {text[:20]!r}), so the text's first word would not be "
                    "pooled; end it with a line break: separator '\\n'"
                )

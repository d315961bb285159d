"""``prune``: model and plan in, encoder folder out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from prune2vec.errors import CheckpointError, PlanError
from prune2vec.files import json_text
from prune2vec.forward.pooling import pool, poolings
from prune2vec.models.block_layout import layout_of
from prune2vec.models.layers import reference_cut
from prune2vec.models.load import check_tokens, context_length, embedding_rows, load_config, load_tokenizer
from prune2vec.models.prepared_text import PreparedText, check_servable, prepare_text
from prune2vec.models.source import ModelSource, resolve_source
from prune2vec.models.tokens import prompt_ids
from prune2vec.models.weight_files import fingerprint
from prune2vec.outputs import ENCODER, check_ours, locked
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import say
from prune2vec.pruning.described import describe_cut, record_of
from prune2vec.pruning.encoder import write_checked
from prune2vec.pruning.float32 import computing_in_float32
from prune2vec.pruning.parity import PROBE_TEXTS, probe_prompts
from prune2vec.pruning.part_check import check_parts
from prune2vec.pruning.portable import EncoderParts
from prune2vec.pruning.prune_settings import PruneSettings
from prune2vec.pruning.read_kept import KeptModel, check_fits, read_kept, round_weights
from prune2vec.public import public


@public("prune", "model", "plan", "output", settings=PruneSettings)
def prune_model(
    model: str | Path,
    plan: PruningPlan | str | Path,
    output: Path | str,
    *,
    settings: PruneSettings | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """Cut a model as a plan says and write it as a sentence-transformers folder.

    Only the kept tensors are read. The folder is written under a temporary name, reloaded, compared with the original
    architecture from which the rest was deleted, and then renamed. Where the blocks that are left are not all alike, the
    folder loads with prune2vec installed and ``trust_remote_code=True``; otherwise it is a stock one.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for.
        plan: A plan, or the path of one.
        output: Folder to write.
        settings: How the encoder pools and formats texts, where not as the plan was measured.
        **overrides: Single settings by name, over those of ``settings``.

    Returns:
        ``output``.

    Raises:
        PlanError: The plan is for another model, or its width is not decided yet.
        CheckpointError: Tensors are missing or damaged, the folder cannot be written, or the reloaded encoder differs.
        ModelError: The model cannot be found or understood, or single sub-layers cannot be taken out of it.
    """
    chosen = PruneSettings.chosen(settings, overrides, where="prune")
    what = (plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))).with_text(chosen)
    check_servable(what.text)
    with locked(Path(output)):
        check_ours(Path(output), ENCODER)
        return _pruned(str(model), what, Path(output), chosen)


def _pruned(model: str, what: PruningPlan, output: Path, chosen: PruneSettings) -> Path:
    source = resolve_source(model, revision=chosen.revision or what.model.get("revision"))
    if source.folder is not None and source.folder.resolve() == output.resolve():
        raise CheckpointError(f"cannot write {output}: it is the model that is pruned; name another folder")
    config = load_config(source, trust_remote_code=chosen.trust_remote_code)
    check_fits(what, config)
    check_identity(what, source)
    tokenizer = load_tokenizer(source, trust_remote_code=chosen.trust_remote_code)
    text = prepare_text(what.text, tokenizer, context=context_length(config))
    kept = read_kept(source, what, trust_remote_code=chosen.trust_remote_code)
    check_tokens(tokenizer, source.name, embedding_rows(kept.model))
    if what.drop_attention or what.drop_mlp:
        check_parts(kept.model)
    parts = _parts(kept, what, text)
    reference, rounded = _rounded(kept, parts, what, chosen.dtype)
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
        f"{len(files.opened)} of {len(set(files.file_of.values()))} files; "
        f"{str(kept.model.dtype).removeprefix('torch.')}{rounded}; largest difference {parity.max_difference:.1g}"
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


def _parts(kept: KeptModel, plan: PruningPlan, text: PreparedText) -> EncoderParts:
    settings = text.settings
    if text.instructions is not None and text.instructions.kind == "e5":
        say("instruction e5 has words for each data set, so the encoder's folder gets no prompt; train uses them by itself")
    return EncoderParts(
        model=kept.model,
        tokenizer=text.tokenizer,
        pooling=settings.pooling,
        max_length=settings.max_length,
        prompts=text.prompts,
        default_prompt=text.default_prompt,
        normalize=settings.normalize,
        include_prompt=settings.include_prompt,
        record={
            "model": dict(plan.model),
            "keep_layers": list(plan.keep_layers),
            "num_layers": plan.num_layers,
            "text": settings.to_json(),
            "text_format": text.layout.to_json(),
            "plan": record_of(plan),
            "read": {"bytes": kept.files.bytes_read, "files": list(kept.files.opened)},
            "train": None,
        },
    )


def _rounded(kept: KeptModel, parts: EncoderParts, plan: PruningPlan, dtype: str) -> tuple[NDArray[np.float32], str]:
    """Convert the weights to ``dtype``; return the probe vectors that they give, and what the conversion did to them."""
    reference = _reference_vectors(kept, parts, plan)
    if dtype == "auto" or not round_weights(kept.model, getattr(torch, dtype)):
        return reference, ""
    exact, reference = reference, _reference_vectors(kept, parts, plan)
    return reference, f"; vectors differ by {np.abs(exact - reference).max():.1g} from the model's own weights"


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
    start = 0 if parts.include_prompt else len(prompt_ids(tokenizer, prompt))
    attended = torch.ones_like(ids)
    pooled = attended.clone()
    pooled[:, :start] = 0
    with torch.inference_mode():
        states = model(input_ids=ids, use_cache=False)[0]
    return pool(states, poolings.get(parts.pooling)(pooled, attended))

"""The cut model of a plan, as a ranking's subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from prune2vec.backbone.load import check_tokens, context_length, embedding_rows, load_config, load_tokenizer
from prune2vec.backbone.source import resolve_source
from prune2vec.backbone.text import check_servable, prepare_text, saved_prompts
from prune2vec.checkpoint.kept import check_fits, read_kept
from prune2vec.checkpoint.pruning import check_identity
from prune2vec.errors import PlanError
from prune2vec.families import block_list, find_family
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.records.plan import PruningPlan
from prune2vec.slimming.encoder import encoder_around
from prune2vec.slimming.settings import SlimSettings
from prune2vec.slimming.subject import Subject
from prune2vec.surgery.layout import sub_layers_of
from prune2vec.training.data import Prompting


def load_subject(
    model: str,
    plan: PruningPlan,
    settings: SlimSettings,
    *,
    identity: dict[str, Any],
    output: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> Subject:
    """Read what a plan of full widths keeps of a model, as an encoder that treats texts as ``prune`` would.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for.
        plan: What is kept.
        settings: Number format and device.
        identity: What a ranking depends on.
        output: The plan that is to be written.
        callbacks: More callbacks for a ranking that trains.

    Raises:
        PlanError: The plan is for another model, or the model's neurons are not known.
        ModelError: The model cannot be found or understood.
        CheckpointError: Tensors are missing or damaged.
    """
    source = resolve_source(model, revision=settings.revision or plan.model.get("revision"))
    config = load_config(source, trust_remote_code=settings.trust_remote_code)
    check_fits(plan, config)
    check_identity(plan, source)
    tokenizer = load_tokenizer(source, trust_remote_code=settings.trust_remote_code)
    text = prepare_text(plan.text, tokenizer, context=context_length(config))
    check_servable(text.settings)
    device = pick_device(settings.device)
    kept = read_kept(source, plan, trust_remote_code=settings.trust_remote_code).model
    check_tokens(tokenizer, source.name, embedding_rows(kept))
    neurons = sub_layers_of(kept).neurons
    if neurons is None:
        raise PlanError(f"{config.model_type}: the neurons of its MLPs are not known, so its width cannot be cut")
    dtype = pick_dtype(settings.dtype, device)
    nn.Module.to(kept, dtype=dtype).requires_grad_(False)
    encoder = encoder_around(kept, text, device=device)
    blocks = zip(plan.keep_layers, block_list(kept, find_family(kept, config)), strict=True)
    return Subject(
        encoder=encoder.eval(),
        blocks={layer: block for layer, block in blocks if layer in plan.kept.mlps},
        neurons=neurons,
        prompting=Prompting(
            instructions=text.instructions,
            text_format=text.layout,
            saved=saved_prompts(text.settings.prompts, text.settings.default_prompt),
        ),
        device=device,
        dtype=dtype,
        identity=identity,
        output=output,
        callbacks=callbacks,
    )

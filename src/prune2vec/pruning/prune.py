"""``prune``: model and plan in, encoder folder out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from prune2vec.errors import CheckpointError, PlanError
from prune2vec.files import json_text
from prune2vec.forward.pooling import pool, poolings
from prune2vec.models.block_layout import layout_of
from prune2vec.models.families import find_family
from prune2vec.models.layers import assemble, cut_config, reference_cut, renamed
from prune2vec.models.load import context_length, embedding_rows, load_config, load_tokenizer, skeleton_of
from prune2vec.models.prepared_text import PreparedText, check_servable, prepare_text
from prune2vec.models.selftest import check_sub_layers
from prune2vec.models.source import ModelSource, resolve_source
from prune2vec.models.tokens import prompt_ids
from prune2vec.models.weight_files import fingerprint
from prune2vec.outputs import ENCODER, check_ours, locked
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import say
from prune2vec.pruning.card import describe_cut, record_of
from prune2vec.pruning.encoder import write_checked
from prune2vec.pruning.float32 import computing_in_float32
from prune2vec.pruning.parity import PROBE_TEXTS, probe_prompts
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
    with locked(Path(output)):
        check_ours(Path(output), ENCODER)
        return _pruned(str(model), what, Path(output), chosen)


def _pruned(model: str, what: PruningPlan, output: Path, chosen: PruneSettings) -> Path:
    trust = chosen.trust_remote_code
    opened = open_model(model, what, revision=chosen.revision, trust_remote_code=trust)
    folder = opened.source.folder
    if folder is not None and folder.resolve() == output.resolve():
        raise CheckpointError(f"cannot write {output}: it is the model that is pruned; name another folder")
    kept = read_kept(opened.source, what, trust_remote_code=trust)
    if what.drop_attention or what.drop_mlp:
        check_sub_layers_apart(kept.model)
    parts = _parts(kept, what, opened.text)
    reference = _reference_vectors(kept, parts, what)
    rounded = ""
    if chosen.dtype != "auto" and round_weights(kept.model, getattr(torch, chosen.dtype)):
        exact, reference = reference, _reference_vectors(kept, parts, what)
        rounded = f"; vectors differ by {np.abs(exact - reference).max():.1g} from the model's own weights"
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


class OpenedModel(NamedTuple):
    """The model of a plan, of whose weights nothing has been read, and the plan's text settings ready for it."""

    source: ModelSource
    config: Any
    text: PreparedText


def open_model(model: str, plan: PruningPlan, *, revision: str | None, trust_remote_code: bool) -> OpenedModel:
    """Find the model that a plan was made for, and make the plan's text settings ready for its tokeniser.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``.
        plan: What is to be kept of it.
        revision: Branch, tag or commit; None for the plan's.
        trust_remote_code: Run code that comes with the checkpoint.

    Raises:
        ConfigError: The text settings do not fit the tokeniser.
        ModelError: The model cannot be found or understood, or its tokeniser makes tokens that have no embedding.
        PlanError: The plan is for another model.
    """
    check_servable(plan.text)
    source = resolve_source(model, revision=revision or plan.model.get("revision"))
    config = load_config(source, trust_remote_code=trust_remote_code)
    check_fits(plan, config)
    found = fingerprint(source)
    if plan.model.get("fingerprint") != found:
        raise PlanError(
            f"the plan was made for {plan.model.get('name')} ({plan.model.get('fingerprint')}), but {source.name} is another model of the "
            f"same shape ({found}); make a plan for it with prune2vec profile and plan"
        )
    # Tokens without an embedding leave the tokeniser before a copy of it is made that ends texts by itself.
    skeleton, _ = skeleton_of(source, config, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code, rows=embedding_rows(skeleton))
    return OpenedModel(source, config, prepare_text(plan.text, tokenizer, context=context_length(config)))


def check_sub_layers_apart(model: PreTrainedModel) -> None:
    """Check on two blocks that still have both sub-layers that each can go by itself; with fewer there is nothing to check.

    Everything that a plan needs was read, and no more: the whole model is never there. Its blocks are all built alike.

    Args:
        model: A cut model, in memory.

    Raises:
        UnsupportedModel: A sub-layer does not go as the record of the architecture says.
    """
    layout = layout_of(model)
    whole = [number for number, block in enumerate(layout) if block.attention and block.mlp]
    if len(whole) < 2:
        return
    pair = (whole[0], whole[-1])
    family = find_family(model, model.config)
    state = {
        new: tensor for name, tensor in model.state_dict().items() if (new := renamed(name, family.blocks, pair)) is not None
    }
    config = cut_config(model.config, pair)
    small = assemble(type(model), config, state, buffers_from=model, layout=tuple(layout[number] for number in pair))
    check_sub_layers(small, family)


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


def _reference_vectors(kept: KeptModel, parts: EncoderParts, plan: PruningPlan) -> NDArray[np.float32]:
    """Return the probe vectors by another path than the encoder's: original architecture, one text at a time, our pooling."""
    # Not the written layout: a uniform width is in the written config, and the reference is built from the original one.
    layout = () if plan.kept.whole_blocks else layout_of(kept.model)
    model: PreTrainedModel = reference_cut(kept.model, kept.original_config, plan.keep_layers, layout)
    weigh, vectors = poolings.get(parts.pooling), []
    with computing_in_float32(model), torch.inference_mode():
        for prompt, text in itertools.product(probe_prompts(parts.prompts), PROBE_TEXTS):
            ids = parts.tokenizer(prompt + text, truncation=True, max_length=parts.max_length, return_tensors="pt")["input_ids"]
            attended = torch.ones_like(ids)
            pooled = attended.clone()
            pooled[:, : 0 if parts.include_prompt else len(prompt_ids(parts.tokenizer, prompt))] = 0
            vectors.append(pool(model(input_ids=ids, use_cache=False)[0], weigh(pooled, attended)))
    stacked = torch.cat(vectors)
    if parts.normalize:
        stacked = torch.nn.functional.normalize(stacked, dim=1)
    return np.asarray(stacked.numpy(), dtype=np.float32)

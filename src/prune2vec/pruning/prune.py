"""``prune``: model and plan in, encoder folder out; only the tensors that stay are read from the model's files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.errors import CheckpointError, ConfigError, ModelError, PlanError, UnsupportedModel, explained
from prune2vec.files import json_text
from prune2vec.forward.pooling import EVERYWHERE, pool, poolings
from prune2vec.models.block_files import embedding_path
from prune2vec.models.block_layout import layout_of, load_with_layout
from prune2vec.models.cut import Cut, assemble, config_of_entries, cut_config, reference_cut
from prune2vec.models.families import Family, find_family, in_block
from prune2vec.models.heads import head_record, head_words, in_fp32, load_heads, read_out, state_width
from prune2vec.models.kept import Kept
from prune2vec.models.load import context_length, embedding_rows, load_config, load_tokenizer, skeleton_of
from prune2vec.models.prepared_text import PreparedText, prepare_text
from prune2vec.models.selftest import check_sub_layers, is_causal
from prune2vec.models.source import ModelSource, resolve_source
from prune2vec.models.tensor_check import base_names, check_tensors
from prune2vec.models.text_settings import PAPER_POOLING, check_cls
from prune2vec.models.tokens import prompt_ids
from prune2vec.models.weight_files import WeightFiles, fingerprint
from prune2vec.outputs import ENCODER, check_ours, locked
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import progress, quiet_transformers, say
from prune2vec.pruning.depth_plan import depth_plan
from prune2vec.pruning.encoder import write_checked
from prune2vec.pruning.fewer_tokens import check_padding, keep_tokens, renumbered_config, tell_prompts
from prune2vec.pruning.model_card import served_by, source_card
from prune2vec.pruning.parity import PROBE_TEXTS, computing_in_float32, probe_prompts
from prune2vec.pruning.portable import EncoderParts, describe_cut, record_of
from prune2vec.pruning.prune_settings import PruneSettings
from prune2vec.public import public

_DIFFERENCES = ("missing_keys", "unexpected_keys", "mismatched_keys")
_PIECE = 1 << 22  # values


@public("prune", "model", "plan", "output", settings=PruneSettings)
def prune_model(
    model: str | Path,
    plan: PruningPlan | str | Path | int | Sequence[int],
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
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for, a language model or an encoder.
        plan: A plan, or the path of one; or how many leading layers stay, or the numbers of those that do, from 0, with nothing
            measured.
        output: Folder to write.
        settings: How the encoder pools and formats texts, where not as the plan was measured.
        **overrides: Single settings by name, over those of ``settings``.

    Returns:
        ``output``.

    Raises:
        ConfigError: A setting is unknown or does not fit the model, or another call writes the output.
        DataError: The plan's file is missing or no JSON.
        PlanError: The plan is for another model, or its width is not decided yet.
        CheckpointError: Tensors are missing or damaged, the folder cannot be written, or the reloaded encoder differs.
        ModelError: The model cannot be found or understood, or single sub-layers cannot be taken out of it.
    """
    chosen = PruneSettings.chosen(settings, overrides, where="prune")
    target = Path(output)
    plan = PruningPlan.load(Path(plan)) if isinstance(plan, str | Path) else plan
    where: Any = {"revision": chosen.revision, "trust_remote_code": chosen.trust_remote_code}
    with locked(target):
        check_ours(target, ENCODER)
        what = (plan if isinstance(plan, PruningPlan) else depth_plan(str(model), plan, **where)).with_text(chosen)
        opened = open_model(str(model), what, **where)
        folder = opened.source.folder
        if folder is not None and folder.resolve() == target.resolve():
            raise CheckpointError(f"cannot write {target}: it is the model that is pruned; name another folder")
        both_ways = chosen.attention == "bidirectional"
        check_cls(what.text.pooling, causal=what.shape.causal and not both_ways)
        if both_ways:
            opened = opened._replace(config=_bidirectional(opened.config))
        kept, files = read_kept(opened, what)
        causal = is_causal(kept)
        if both_ways and causal:
            raise UnsupportedModel(
                f"{opened.config.model_type} stays causal, whatever its config says: changing a last token left the states of those "
                "before it as they were; leave out attention"
            )
        if what.drop_attention or what.drop_mlp:
            check_sub_layers_apart(kept)
        parts = _parts(kept, files, what, opened, attention="causal" if causal else "bidirectional")
        reference, rounded = _reference_vectors(parts, opened.config, what), ""
        to = None if chosen.dtype == "auto" else getattr(torch, chosen.dtype)
        if to is not None and any([round_weights(part, to) for part in (parts.model, *parts.heads)]):
            exact, reference = reference, _reference_vectors(parts, opened.config, what)
            rounded = f"; vectors differ by {np.abs(exact - reference).max():.1g} from the model's own weights"
        parity = write_checked(
            parts,
            target,
            reference,
            named="the original with the rest deleted",
            extra={"plan.json": json_text(what.to_json())},
            release=True,
        )
    say(
        f"{target}: {'; '.join(describe_cut(record_of(what)))}; read {files.bytes_read / 1e6:,.0f} MB from "
        f"{len(files.opened)} of {len(set(files.file_of.values()))} files; "
        f"{str(kept.dtype).removeprefix('torch.')}{rounded}; largest difference {parity.max_difference:.1g}"
    )
    if (served := served_by(parts)) != EVERYWHERE:
        say(f"{target}: served by {served}")
    return target


class OpenedModel(NamedTuple):
    """The model of a plan, of whose weights only an encoder's heads have been read, and the plan's text settings ready for it.

    Config and tokeniser have the plan's tokens; the skeleton is that of the whole model.
    """

    source: ModelSource
    config: Any
    skeleton: PreTrainedModel
    family: Family
    text: PreparedText
    heads: tuple[nn.Module, ...] = ()


def open_model(model: str, plan: PruningPlan, *, revision: str | None, trust_remote_code: bool) -> OpenedModel:
    """Find the model that a plan was made for (at the plan's revision by default), and make the text settings ready for it.

    Raises:
        ConfigError: The text settings do not fit the tokeniser, or no encoder's folder can hold them.
        ModelError: The model cannot be found or understood, or its tokeniser makes tokens that have no embedding.
        PlanError: The plan is for another model, or an encoder with other heads.
    """
    if plan.text.pooling == PAPER_POOLING:
        raise ConfigError(
            f"the plan was measured with {PAPER_POOLING}, which no runtime pools by; give --pooling weightedmean, the nearest "
            "that is served, or mean or lasttoken, or measure with one of them"
        )
    source = resolve_source(model, revision=revision or plan.model.get("revision"))
    config = load_config(source, trust_remote_code=trust_remote_code)
    check_made_for(source, config, plan)
    heads = load_heads(source, width=state_width(config))
    if tuple(map(head_record, heads)) != plan.text.heads:
        told = ", ".join(head.kind for head in plan.text.heads)
        raise PlanError(
            f"the plan was measured with {told or 'no modules'} behind the pooling, and {source.name} has "
            f"{head_words(heads) or 'none'}{' with other weights' if told and heads else ''}; give the encoder that was profiled"
        )
    # Tokens without an embedding leave the tokeniser before a copy of it is made that ends texts by itself.
    skeleton, family = skeleton_of(source, config, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code, rows=embedding_rows(skeleton))
    cut, whole = plan.vocabulary, None
    if cut is not None:
        check_padding(skeleton, cut)
        whole, config = keep_tokens(tokenizer, cut, source.name), renumbered_config(config, cut)
    text = prepare_text(plan.text, tokenizer, context=context_length(skeleton))
    if cut is not None and whole is not None:
        tell_prompts(whole, cut, text.prompts.values())
    return OpenedModel(source, config, skeleton, family, text, heads)


def check_made_for(source: ModelSource, config: Any, plan: PruningPlan) -> None:
    """Refuse, with a ``PlanError``, a plan for another model."""
    layers = getattr(config, "num_hidden_layers", None)
    if (config.model_type, layers) != (plan.shape.model_type, plan.num_layers):
        raise PlanError(
            f"the plan is for a {plan.shape.model_type} of {plan.num_layers} layers ({plan.model.get('name')}), but this model is a "
            f"{config.model_type} of {layers}; make one for it with prune2vec profile and plan"
        )
    found = fingerprint(source)
    if plan.model.get("fingerprint") != found:
        raise PlanError(
            f"the plan was made for {plan.model.get('name')} ({plan.model.get('fingerprint')}), but {source.name} is another model of the "
            f"same shape ({found}); make a plan for it with prune2vec profile and plan"
        )


class KeptModel(NamedTuple):
    """A cut model as read from disk (eval mode, the dtype of most of its tensors), and the account of what was read."""

    model: PreTrainedModel
    files: WeightFiles


def read_kept(opened: OpenedModel, plan: PruningPlan) -> KeptModel:
    """Read what ``plan`` keeps; files that hold none of it are never opened nor downloaded.

    Matrices are narrowed one by one as they are read, so that memory holds little more than the cut model.

    Raises:
        PlanError: The plan's width is not decided yet.
        CheckpointError: A tensor is missing, damaged, or holds NaN or infinity.
        UnsupportedModel: The architecture is not understood, or the weights are quantised.
    """
    source, config, skeleton, family = opened[:4]
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel(f"{source.name} is quantised; convert it to plain weights first")
    files = WeightFiles.find(source)
    cut = Cut.of(plan.kept, skeleton, plan.neurons)
    found = check_tensors(skeleton, family, files, wanted=lambda name: cut.rename(name) is not None)
    # In another form than the class has it, transformers converts the tensors as it loads them under their stored names.
    names = {stored: name for name, stored in found.items()} if found is not None else _of_backbone(files.file_of, skeleton)
    kept = {stored: new for stored, name in names.items() if (new := cut.rename(name)) is not None}
    rows: dict[str, Tensor] = {}
    if plan.vocabulary is not None:
        table = f"{embedding_path(skeleton)}.weight"
        rows = {stored: torch.tensor(plan.vocabulary.kept) for stored in kept if f".{stored}".endswith(f".{table}")}
    state: dict[str, Tensor] = {}
    values: Counter[torch.dtype] = Counter()
    with progress("reading kept layers", total=len(kept)) as advance:
        for name, tensor in files.read(kept, rows=rows):
            state[kept[name]] = part = cut.take(name, tensor)
            if part.is_floating_point() and not _is_finite(part):
                layer, _ = in_block(name, cut.blocks) or (None, "")
                place = f"layer {layer}" if layer is not None else "outside the layers"
                raise CheckpointError(
                    f"tensor {name} ({place}) holds NaN or infinity; the weights are damaged, fetch or train them again"
                )
            values[part.dtype] += part.numel() * part.is_floating_point()
            advance(1)
    with explained(ModelError, f"{source.name}: cannot build its cut"), quiet_transformers():
        model, info = load_with_layout(
            type(skeleton),
            cut.layout,
            None,
            config=cut.config(config),
            state_dict=state,
            dtype=values.most_common(1)[0][0],
            ignore_mismatched_sizes=True,
        )
    other = sorted(name if isinstance(name, str) else name[0] for key in _DIFFERENCES for name in info[key])
    if other:
        layer, _ = in_block(other[0], cut.blocks) or (len(plan.keep_layers), "")
        if layer >= len(plan.keep_layers) or len(plan.keep_layers) == plan.num_layers:
            raise UnsupportedModel(
                f"{source.name} cannot be cut: its files hold tensors under other names than its class, {other[0]} among them; give the "
                "model as transformers' save_pretrained writes it"
            )
        # check_tensors found every kept tensor in its shape, so it is the cut class that has others.
        raise UnsupportedModel(
            f"{source.name} cannot be cut to layers {list(cut.kept.layers)}: its config tells kinds of layers (dense, mixture of "
            f"experts) by their place, so the cut would have {other[0]} of another kind; keep other layers"
        )
    return KeptModel(model.eval(), files)


def _of_backbone(stored: Iterable[str], skeleton: PreTrainedModel) -> dict[str, str]:
    """Return the tensors that belong to the base model: those under its prefix, or all when the file has no prefix."""
    names = list(base_names(skeleton, stored))
    prefix = f"{skeleton.base_model_prefix}."
    children = {name for name, _ in skeleton.named_children()}
    under = [name for name in names if name.startswith(prefix)]
    # An OPT base model has a child called "decoder", its causal LM a prefix "model."; a prefix can also be a child's name.
    if under and skeleton.base_model_prefix not in children:
        return {name: name for name in under}
    if type(skeleton).__name__ in (skeleton.config.architectures or ()):
        # Files of the base class hold nothing else, under whatever names transformers converts.
        return {name: name for name in names}
    return {name: name for name in names if name.partition(".")[0] in children}


def _is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite; in pieces, as the check of a whole embedding would take its size three times."""
    rows = max(1, _PIECE * len(tensor) // max(1, tensor.numel())) if tensor.ndim else 1
    return all(bool(torch.isfinite(piece).all()) for piece in (tensor.split(rows) if tensor.ndim else (tensor,)))


def round_weights(model: nn.Module, dtype: torch.dtype) -> bool:
    """Convert a model's parameters in place; return whether any changed. A value beyond ``dtype`` is a ``CheckpointError``."""
    others = [(name, parameter) for name, parameter in model.named_parameters() if parameter.dtype != dtype]
    for name, parameter in others:
        parameter.data = parameter.data.to(dtype)
        if not _is_finite(parameter.data):
            raise CheckpointError(
                f"tensor {name} holds values beyond {str(dtype).removeprefix('torch.')}; write bfloat16 or float32"
            )
    return bool(others)


def check_sub_layers_apart(model: PreTrainedModel) -> None:
    """Check on two blocks that still have both sub-layers that each can go by itself; with fewer there is nothing to check.

    Everything that a plan needs was read, and no more: the whole model is never there. Its blocks are all built alike.

    Raises:
        UnsupportedModel: A sub-layer does not go as the record of the architecture says.
    """
    layout = layout_of(model)
    whole = [number for number, block in enumerate(layout) if block.attention and block.mlp]
    family = find_family(model, model.config)
    if len(whole) < 2 or (family.first_stays and whole[0] != 0):
        return
    pair = (whole[0], whole[-1])
    cut = Cut(kept=Kept(layers=pair), blocks=family.blocks)
    state = {new: tensor for name, tensor in model.state_dict().items() if (new := cut.rename(name)) is not None}
    small = assemble(model, cut_config(model.config, pair), state, tuple(layout[number] for number in pair))
    check_sub_layers(small, family)


def _bidirectional(config: Any) -> Any:
    """Return a config whose tokens see those after them, by the switch that its class has, or else by transformers' own.

    Gemma 3's halves the windows, so that they are as wide as before; with both switches on it would take wider ones.
    """
    told = config.to_dict()
    switch: dict[str, bool] = {"is_causal": False}
    if "use_bidirectional_attention" in told:
        switch = {"use_bidirectional_attention": True}
    # Already so, its windows are halved already.
    return config if told.items() >= switch.items() else config_of_entries(config, {**told, **switch})


def _parts(
    model: PreTrainedModel, files: WeightFiles, plan: PruningPlan, opened: OpenedModel, *, attention: str
) -> EncoderParts:
    text = opened.text
    settings = text.settings
    if text.instructions is not None and text.instructions.kind == "e5":
        say("instruction e5 has words for each data set, so the encoder's folder gets no prompt; train uses them by itself")
    return EncoderParts(
        model=model,
        tokenizer=text.tokenizer,
        pooling=settings.pooling,
        max_length=settings.max_length,
        prompts=text.prompts,
        default_prompt=text.default_prompt,
        normalize=settings.normalize,
        include_prompt=settings.include_prompt,
        lower_case=settings.lower_case,
        heads=opened.heads,
        truncate_dim=settings.truncate_dim,
        similarity=settings.similarity,
        record={
            "model": dict(plan.model),
            "card": source_card(opened.source),
            "keep_layers": list(plan.keep_layers),
            "num_layers": plan.num_layers,
            "text": settings.model_dump(mode="json"),
            "text_format": asdict(text.layout),
            "plan": record_of(plan),
            "attention": attention,
            "read": {"bytes": files.bytes_read, "files": list(files.opened)},
            "train": None,
        },
    )


def _reference_vectors(parts: EncoderParts, original_config: Any, plan: PruningPlan) -> NDArray[np.float32]:
    """Return the probe vectors by another path than the encoder's: original architecture, one text at a time, our pooling."""
    # Not the written layout: a uniform width is in the written config, and the reference is built from the original one.
    layout = () if plan.kept.whole_blocks else layout_of(parts.model)
    model = reference_cut(parts.model, original_config, plan.keep_layers, layout)
    weigh, vectors = poolings.get(parts.pooling), []
    with computing_in_float32(model), torch.inference_mode():
        for prompt, text in itertools.product(probe_prompts(parts.prompts), PROBE_TEXTS):
            ids = parts.tokenizer(prompt + text, truncation=True, max_length=parts.max_length, return_tensors="pt")["input_ids"]
            attended = torch.ones_like(ids)
            pooled = attended.clone()
            pooled[:, : 0 if parts.include_prompt else len(prompt_ids(parts.tokenizer, prompt))] = 0
            vectors.append(pool(model(input_ids=ids, use_cache=False)[0], weigh(pooled, attended)))
        found = read_out(torch.cat(vectors), in_fp32(parts.heads), normalize=parts.normalize, truncate_dim=parts.truncate_dim)
    return np.asarray(found.numpy(), dtype=np.float32)

"""An encoder loaded to encode and nothing else: without sentence-transformers, whose imports take seconds, where its folder allows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.errors import CheckpointError, UnsupportedModel, explained
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.models.block_layout import load_uneven, read_uneven
from prune2vec.models.encoder_files import EncoderForm, PoolingForm, TextsForm, read_form, read_texts
from prune2vec.models.encoder_text import PLAIN_TEXTS, check_plain, saved_pooling, saved_whole, stated_length
from prune2vec.models.families import find_family, without_head
from prune2vec.models.heads import NORMALIZE, encoder_modules, in_fp32, kind_of, load_heads, state_width
from prune2vec.models.source import ModelSource
from prune2vec.models.tokens import lower_casing
from prune2vec.models.weight_files import NoSafetensors
from prune2vec.paths import check_is_encoder
from prune2vec.progress import quiet_transformers, say
from prune2vec.pruning.encoder import cannot_load, load_encoder
from prune2vec.pruning.encoder_check import check_files, check_parts, check_unchanged, source_of
from prune2vec.pruning.portable import UNEVEN_MODULE

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

AnyEncoder: TypeAlias = "PlainEncoder | SentenceTransformer"

# Files with which sentence-transformers loads something else than the model and its tokeniser.
_OTHERS = ("adapter_config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_VERSION = re.compile(r"\d+(\.\d+)*(\.?(dev|rc|a|b|post)\d+)?")
# Entries for transformers that change neither tokens nor the way in which the model computes.
_HARMLESS = ("model_max_length", "padding_side", "use_fast", "trust_remote_code")


@dataclass(kw_only=True)
class PlainEncoder:
    """An encoder of a model, a pooling and heads that are known; what a ``SentenceTransformer`` has too has its name there.

    The base model is on its device and in eval mode, the heads are in fp32 (rounded to the model's dtype before, as in
    sentence-transformers), ``kinds`` are the library's names of all modules; the rest is as in ``EncoderParts``.
    """

    transformers_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: str
    include_prompt: bool
    heads: tuple[nn.Module, ...]
    normalize: bool
    prompts: dict[str, str]
    default_prompt_name: str | None
    max_seq_length: int
    truncate_dim: int | None
    similarity_fn_name: str
    kinds: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.transformers_model.device

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the model and of its heads."""
        return chain(self.transformers_model.parameters(), *(head.parameters() for head in self.heads))

    def get_embedding_dimension(self) -> int:
        """Return the number of dimensions of a vector."""
        width = state_width(self.transformers_model.config)
        for head in self.heads:
            width = int(getattr(head, "out_features", width))
        return min(width, self.truncate_dim or width)


def module_kinds(encoder: AnyEncoder) -> list[str]:
    """Return the names of the classes of an encoder's modules, in order."""
    return list(encoder.kinds) if isinstance(encoder, PlainEncoder) else [type(module).__name__ for module in encoder]


def load_to_encode(folder: str, *, device: str = "auto", dtype: str = "auto") -> AnyEncoder:
    """Load an encoder to encode with an ``Engine``; one with something in it that we do not know as sentence-transformers does.

    Vectors are the same either way. Args and errors are those of ``load_encoder``.
    """
    place = pick_device(device)
    check_is_encoder(folder)
    with quiet_transformers():
        check_files(folder)
    try:
        with explained(CheckpointError, cannot_load(folder)), quiet_transformers():
            encoder = _load_plain(source_of(folder), place, pick_dtype(dtype, place))
    except (UnsupportedModel, NoSafetensors) as error:
        # What to do about it stands behind the reason, and is for those who want to cut the encoder.
        say(f"sentence-transformers loads {folder}, which takes longer: {str(error).partition(';')[0]}")
        return load_encoder(folder, device=device, dtype=dtype)
    check_unchanged(folder)
    return encoder


def _load_plain(source: ModelSource, device: torch.device, dtype: torch.dtype) -> PlainEncoder:
    modules = _known_modules(source)
    pooling, include_prompt = saved_pooling(source, modules)
    whole, texts = saved_whole(source), read_texts(source)
    stated = {"revision": source.revision, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(source.location, **stated)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
        raise UnsupportedModel(f"its tokeniser is a {type(tokenizer).__name__}")
    check_plain(source, texts, tokenizer, _HARMLESS)
    model = without_head(_load_model(source, dtype, stated, uneven=modules[0]["type"] == UNEVEN_MODULE))
    nn.Module.to(model, device).eval()
    # Of a structure that is known, the first output is the states of the last block.
    find_family(model, model.config)
    width = state_width(model.config)
    states = read_form(source, f"{modules[1]['path']}/config.json", dict[str, Any]) or {}
    pooled = states.get("embedding_dimension") or states.get("word_embedding_dimension")
    check_parts(source.name, model, tokenizer, width=width, pooled=pooled)
    positions = getattr(model.config, "max_position_embeddings", None) or -1
    lengths = [tokenizer.model_max_length, *([positions] if positions != -1 else [])]
    return PlainEncoder(
        transformers_model=model,
        tokenizer=lower_casing(tokenizer) if texts.get("do_lower_case") else tokenizer,
        pooling=pooling,
        include_prompt=include_prompt,
        heads=in_fp32(head.to(device=device, dtype=dtype) for head in load_heads(source, width=width)),
        normalize=kind_of(modules[-1]) == NORMALIZE,
        prompts=whole["prompts"],
        default_prompt_name=whole["default_prompt"],
        max_seq_length=stated_length(texts) or min(lengths),
        truncate_dim=whole["truncate_dim"],
        similarity_fn_name=whole["similarity"],
        kinds=tuple(map(kind_of, modules)),
    )


def _known_modules(source: ModelSource) -> list[dict[str, Any]]:
    """Return the entries of ``modules.json``; ``UnsupportedModel`` if only sentence-transformers can load one."""
    modules = encoder_modules(source) or []
    other = next(filter(source.has, _OTHERS), None)
    if other is not None:
        raise UnsupportedModel(f"it has a {other}")
    if modules[0]["path"]:
        raise UnsupportedModel(f"its model is in a folder of its own, {modules[0]['path']}")
    whole = read_form(source, "config_sentence_transformers.json", EncoderForm) or {}
    made_by = whole.get("__version__") or {}
    version = made_by.get("sentence_transformers", "0") if isinstance(made_by, dict) else made_by
    if whole.get("requirements") or not (isinstance(version, str) and _VERSION.fullmatch(version)):
        raise UnsupportedModel("it has requirements, or was made by a release, that only the library can judge")
    # A misspelt key would have its default in silence.
    pooling = read_form(source, f"{modules[1]['path']}/config.json", PoolingForm) or {}
    of_texts, of_pooling = {*TextsForm.model_fields, *PLAIN_TEXTS}, {*PoolingForm.model_fields}
    unknown = sorted({*read_texts(source)} - of_texts | {*pooling} - of_pooling)
    if unknown:
        raise UnsupportedModel(f"its files have a key that is not known, {unknown[0]}")
    return modules


def _load_model(source: ModelSource, dtype: torch.dtype, stated: dict[str, Any], *, uneven: bool) -> PreTrainedModel:
    """Return a model whose tensors were compared with its class before, as sentence-transformers loads it."""
    if uneven:
        entries, _ = PretrainedConfig.get_config_dict(source.location, revision=source.revision)
        config, layout = read_uneven(entries)
        config.use_cache = False
        return load_uneven(source.location, config, layout, dtype=dtype, revision=source.revision)
    config = AutoConfig.from_pretrained(source.location, **stated)
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel(f"its model is an encoder with a decoder, or quantised ({config.model_type})")
    config.use_cache = False
    model: PreTrainedModel = AutoModel.from_pretrained(source.location, config=config, dtype=dtype, **stated)
    return model

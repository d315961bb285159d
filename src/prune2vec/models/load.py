"""A model's config, tokeniser and weights, loaded and checked: what cannot be right is refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.errors import ModelError, UnsupportedModel, explained
from prune2vec.models.families import WIDTH_KEYS, Family, find_family, num_layers, padding_position, without_head
from prune2vec.models.source import ModelSource
from prune2vec.models.tensor_check import check_loaded
from prune2vec.models.tokens import NO_TEXT_ROLES, ROLES, without_added
from prune2vec.models.weight_files import WeightFiles, check_depth
from prune2vec.progress import quiet_transformers


def skeleton_of(
    source: ModelSource, config: Any, dtype: torch.dtype | None = None, *, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, Family]:
    """Return the base model of a config without values (of the config's dtype unless another is given), and its family.

    Raises:
        ModelError: The config makes no model.
        UnsupportedModel: It has no block list that can be cut.
    """
    with explained(ModelError, f"{source.name}: config.json makes no model"), torch.device("meta"), quiet_transformers():
        model = AutoModel.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    return without_head(model), find_family(model, config)


def embedding_rows(model: PreTrainedModel) -> int:
    """Return the number of token embeddings of a model."""
    return int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]


def load_config(source: ModelSource, *, trust_remote_code: bool = False) -> Any:
    """Return a model's config.

    Raises:
        ModelError: ``config.json`` is missing, broken or of an unknown architecture, or was cut inside its blocks before.
        UnsupportedModel: Its layers have settings of their own.
    """
    try:
        entries = source.entries("config.json")
    except FileNotFoundError as error:
        raise ModelError(f"{source.name} has no config.json") from error
    # Some models have entries of their own there (Gemma 4's head_dim).
    blocks = entries.get("per_layer_config")
    of_blocks = [block for block in blocks.values() if isinstance(block, dict)] if isinstance(blocks, dict) else []
    if any({"skip", *WIDTH_KEYS} & set(block) for block in of_blocks):
        raise ModelError(f"{source.name} was already cut inside its blocks; cut the original model instead")
    check_depth(source.name, entries, lambda: WeightFiles.find(source).file_of)
    with explained(ModelError, f"{source.name}: cannot read config.json"):
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=trust_remote_code)
        num_layers(config)
        dtype = config.dtype
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ModelError(f"{source.name}: config.json: dtype is {str(dtype)[:40]}; expected a dtype such as bfloat16")
    of_layers = config.to_dict().get("per_layer_config") or {}
    if of_layers:
        names = ", ".join(sorted({name for entry in of_layers.values() for name in entry}))
        raise UnsupportedModel(
            f"{config.model_type} cannot be cut: single layers have settings of their own ({names} in per_layer_config)"
        )
    return config


def load_tokenizer(source: ModelSource, *, trust_remote_code: bool = False, rows: int | None = None) -> PreTrainedTokenizerBase:
    """Return a model's tokeniser, padding on the right.

    ``rows`` are the token embeddings of the model; None for as many as the tokeniser has tokens.

    Raises:
        ModelError: There is none, it is broken, or it makes tokens that have no embedding.
    """
    content: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        source.entries("tokenizer_config.json")
    with suppress(FileNotFoundError):
        content = source.entries("tokenizer.json")
    with explained(ModelError, f"{source.name}: cannot load the tokeniser (tokenizer.json, tokenizer_config.json)"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=trust_remote_code, padding_side="right"
        )
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ModelError(f"{source.name}: {type(tokenizer).__name__} is not a text tokeniser")
        tokenizer("Hello, world 12")
        # From the file: older releases of transformers make a tokeniser anew of it, without one of the two.
        check_numbers(content.get("model", {}).get("vocab"), source.name)
        if rows is not None:
            _check_tokens(tokenizer, source.name, rows)
    return tokenizer


def check_numbers(vocabulary: Any, who: str) -> None:
    """Refuse a vocabulary two of whose tokens have one number: a copy of it would lose one of them, by chance which.

    What is no mapping of tokens to numbers, such as a list of pieces, has no such tokens.

    Raises:
        ModelError: There are two such tokens.
    """
    if not isinstance(vocabulary, Mapping) or len(set(vocabulary.values())) == len(vocabulary):
        return
    first: dict[int, str] = {}
    for token, number in sorted(vocabulary.items()):
        if first.setdefault(number, token) != token:
            raise ModelError(
                f"{who}: the tokeniser's tokens {first[number]!r} and {token!r} have one number ({number}); fetch it again"
            )


def _check_tokens(tokenizer: PreTrainedTokenizerBase, who: str, rows: int) -> None:
    """Refuse a tokeniser whose texts may hold tokens that the model has no embedding of.

    Special tokens that stand around no text (Gemma 3's place of an image, an unknown token that transformers adds) are taken
    out of it instead: a text that has one of them written in it is read as ordinary text.

    Raises:
        ModelError: There is such a token; the first one is named.
    """
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return
    around = {getattr(tokenizer, role, None) for role in ROLES if role not in NO_TEXT_ROLES}
    added = tokenizer.added_tokens_decoder
    for number, token in sorted(beyond.items()):
        if token in around or number not in added or not added[number].special or not tokenizer.is_fast:
            raise ModelError(
                f"{who}: the tokeniser has {max(beyond) + 1} tokens, but the model {rows} embeddings; token {token!r} ({number}) has "
                "none: take the tokeniser that the model was trained with"
            )
    tokenizer._tokenizer = without_added(tokenizer.backend_tokenizer, lambda number: number not in beyond)
    for role in NO_TEXT_ROLES:
        if getattr(tokenizer, role, None) in beyond.values():
            setattr(tokenizer, role, None)


def load_model(
    source: ModelSource, config: Any, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> PreTrainedModel:
    """Return the base model with its values, on its device, in eval mode; ``ModelError`` if its files do not fit."""
    with explained(ModelError, f"{source.name}: cannot load"), quiet_transformers():
        # Mismatches are collected instead of raised, so that they are told in one line.
        model, info = AutoModel.from_pretrained(
            source.location,
            revision=source.revision,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_loaded(source.name, without_head(model), info)
    nn.Module.to(model, device).eval()
    return model  # type: ignore[no-any-return]


def context_length(model: PreTrainedModel) -> int:
    """Return the most tokens a model's positions allow; RoBERTa's first ones are no token's."""
    padding = padding_position(model)
    return int(getattr(model.config, "max_position_embeddings", 0) or 2048) - (0 if padding is None else padding + 1)

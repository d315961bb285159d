"""Load a model once, understand its structure, and check that it was understood."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.backbone.blockfiles import BlockFiles, without_values
from prune2vec.backbone.measured import measure_shape
from prune2vec.backbone.passes import Passes
from prune2vec.backbone.quiet import quiet_transformers
from prune2vec.backbone.resident import ResidentPasses
from prune2vec.backbone.room import bytes_per_token, largest_block, parameter_bytes
from prune2vec.backbone.selftest import check_sub_layers, self_test
from prune2vec.backbone.source import ModelSource, resolve_source
from prune2vec.backbone.streamed import StreamedPasses
from prune2vec.backbone.strict import check_loaded, check_tensors
from prune2vec.backbone.weights import WeightFiles, fingerprint
from prune2vec.errors import ModelError, Prune2vecError, UnsupportedModel, reason_of
from prune2vec.families import Family, find_family, num_layers
from prune2vec.machine import free_memory_bytes, memory_in_use, pick_device, pick_dtype
from prune2vec.progress import say
from prune2vec.records.shape import ModelShape
from prune2vec.sublayers import WIDTH_KEYS, SubLayers

Stream = Literal["auto", "on", "off"]

# More are compared with the weights before transformers makes anything of each of them.
_FEW_LAYERS = 1000
_NUMBER = re.compile(r"\.(\d+)\.")
# Tokens that stand around texts.
_ROLES = ("bos_token", "eos_token", "pad_token", "sep_token", "cls_token")
# What counts as a batch when it is decided whether a model fits.
_BATCH_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded decoder without its LM head, whose structure is known and tested.

    Attributes:
        model: The base model, in eval mode.
        tokenizer: Its tokeniser.
        family: Where its parts are.
        shape: Its sizes.
        source: Where it came from.
        fingerprint: Its identity, stored in profiles and plans.
        max_length: Most tokens its positions allow.
        stream: How its blocks are read one by one; None when ``model`` holds them all. With it, only what comes after the
            last block has values in ``model``.
        memory: Bytes that may be in use in all; None for no limit.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    shape: ModelShape
    source: ModelSource
    fingerprint: str
    max_length: int
    stream: StreamedPasses | None = None
    memory: int | None = None

    @cached_property
    def passes(self) -> Passes:
        """The way texts run through the model; one for all, as it keeps what it found out about the model."""
        return self.stream or ResidentPasses(self.model, self.family, self.pad_id, self.memory)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.stream.device if self.stream is not None else self.model.device

    def sub_layers(self) -> SubLayers:
        """Return the parts of the model's blocks, checked by taking some of them out the first time they are asked for.

        Raises:
            UnsupportedModel: They are not known, or the check failed.
        """
        return self._sub_layers

    @cached_property
    def _sub_layers(self) -> SubLayers:
        return check_sub_layers(self.model, self.family) if self.stream is None else self.stream.sub_layers()

    @property
    def pad_id(self) -> int:
        """A token id to fill rows with; it is never looked at."""
        return pad_id_of(self.tokenizer)

    def identity(self) -> dict[str, str | None]:
        """Return what profiles and plans store of the model."""
        return {"name": self.source.name, "revision": self.source.revision, "fingerprint": self.fingerprint}


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that rows are filled up with."""
    pad = tokenizer.pad_token_id
    return int(pad) if pad is not None else 0


def load_backbone(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    stream: Stream = "off",
    memory: int | None = None,
    depth: int | None = None,
) -> Backbone:
    """Load a decoder-only LM as a backbone (its LM head is never built) and self-test it.

    Args:
        name: Hub id, folder, GGUF file or ``smollm2``.
        revision: Commit, tag or branch of a hub id.
        dtype: ``auto`` (bf16 where the hardware is fast at it, else fp32), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` or a torch device.
        trust_remote_code: Run model code that comes with the checkpoint.
        stream: ``on`` reads the blocks one by one as texts run through them, ``off`` holds them all in memory, ``auto``
            streams a model that does not fit.
        memory: Bytes that may be in use in all (on the GPU, where that computes); unset: what is free.
        depth: Layers that will be run at most; unset: all. Of a streamed model nothing beyond is read.

    Raises:
        ConfigError: The memory does not hold one block.
        ModelError: It cannot be found or loaded.
        UnsupportedModel: It is not a decoder-only LM with a block list that can be cut, or cannot be streamed.
    """
    source = resolve_source(name, revision=revision)
    config = load_config(source, trust_remote_code=trust_remote_code)
    place = pick_device(device)
    number_format = pick_dtype(dtype, place)
    files = WeightFiles.find(source)
    model, family = skeleton_of(source, config, number_format, trust_remote_code=trust_remote_code)
    check_tensors(model, family, files)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code, rows=embedding_rows(model))
    streamed = None
    allowed = memory if memory is not None else memory_in_use(place) + free_memory_bytes(place)
    with explained(source, "the model of its config.json does not run"):
        if stream == "on" or (stream == "auto" and not _fits(model, allowed - memory_in_use(place))):
            _check_plain(source, config)
            model = without_values(config, number_format, place, trust_remote_code=trust_remote_code)
            blocks = BlockFiles(model, family, files, dtype=number_format, device=place)
            streamed = StreamedPasses(model, family, blocks, pad_id_of(tokenizer), allowed, trust_remote_code, depth)
            streamed.self_test()
        else:
            model = _load_model(source, config, number_format, place, trust_remote_code)
            self_test(model, family)
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        family=family,
        shape=measure_shape(model, family, bytes_per_param=files.stored_bytes_per_param()),
        source=source,
        fingerprint=fingerprint(source),
        max_length=context_length(config),
        stream=streamed,
        memory=memory,
    )


@contextmanager
def explained(source: ModelSource, what: str) -> Iterator[None]:
    """Turn whatever a library raises over a model's files into one line.

    They are checked by use: values of a wrong type, sign or size surface as any kind of error, anywhere.

    Args:
        source: The model.
        what: What cannot be done, with the file that tells how.

    Raises:
        ModelError: In place of every error that is not our own.
    """
    try:
        yield
    except (Prune2vecError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # tokenizers panics over some files, and a panic is no Exception.
        raise ModelError(f"{source.name}: {what}: {reason_of(error)}") from error


def skeleton_of(
    source: ModelSource, config: Any, dtype: torch.dtype | None = None, *, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, Family]:
    """Return the base model of a config without values, and its family.

    Args:
        source: The model.
        config: Its config.
        dtype: Number format of the parameters; None for the config's.
        trust_remote_code: Run model code that comes with the checkpoint.

    Raises:
        ModelError: The config makes no model.
        UnsupportedModel: It is not a decoder-only LM with a block list that can be cut.
    """
    with explained(source, "config.json makes no model"), torch.device("meta"), quiet_transformers():
        model = AutoModel.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    return model, find_family(model, config)


def embedding_rows(model: PreTrainedModel) -> int:
    """Return the number of token embeddings of a model."""
    return int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]


def _check_plain(source: ModelSource, config: Any) -> None:
    """Refuse files whose tensors are no plain numbers: read one by one they would be taken for the weights."""
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel(
            f"{source.name} is quantised, so its blocks cannot be read one by one; hold the whole model in memory instead "
            "(--stream off), or convert it to plain weights"
        )


def _fits(model: PreTrainedModel, free: int) -> bool:
    """Return whether a model, known without its values, runs in ``free`` bytes with batches of ordinary size."""
    family = find_family(model, model.config)
    batch = _BATCH_TOKENS * bytes_per_token(largest_block(model, family), int(model.config.hidden_size), model.dtype.itemsize)
    return parameter_bytes(model, model.dtype) + batch <= free


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
    if _was_cut(entries.get("per_layer_config")):
        raise ModelError(f"{source.name} was already cut inside its blocks; cut the original model instead")
    _check_depth(source, entries)
    with explained(source, "cannot read config.json"):
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=trust_remote_code)
        num_layers(config)
    of_layers = config.to_dict().get("per_layer_config") or {}
    if of_layers:
        names = ", ".join(sorted({name for entry in of_layers.values() for name in entry}))
        raise UnsupportedModel(
            f"{config.model_type} cannot be cut: single layers have settings of their own ({names} in per_layer_config)"
        )
    return config


def _check_depth(source: ModelSource, entries: Mapping[str, Any]) -> None:
    """Refuse more layers than the weights hold before anything is made of each of them: a billion would never end."""
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        told = entries.get(key)
        if isinstance(told, (int, float)) and told > _FEW_LAYERS:
            held = 1 + max(
                (int(found[1]) for name in WeightFiles.find(source).file_of if (found := _NUMBER.search(name))), default=0
            )
            if told > held:
                raise ModelError(
                    f"{source.name}: config.json tells of {told} layers ({key}), but the weights hold {held}; one of the two is of "
                    "another model"
                )


def _was_cut(blocks: Any) -> bool:
    """Return whether ``per_layer_config`` tells of cut blocks; some models have one of their own (Gemma 4's ``head_dim``)."""
    entries = blocks.values() if isinstance(blocks, Mapping) else ()
    return any(set(entry) & {"skip", *WIDTH_KEYS} for entry in entries if isinstance(entry, Mapping))


def load_tokenizer(source: ModelSource, *, trust_remote_code: bool = False, rows: int | None = None) -> PreTrainedTokenizerBase:
    """Return a model's tokeniser, padding on the right.

    Args:
        source: The model.
        trust_remote_code: Run tokeniser code that comes with the checkpoint.
        rows: Token embeddings of the model; None for as many as the tokeniser has tokens.

    Raises:
        ModelError: There is none, it is broken, or it makes tokens that have no embedding.
    """
    for file in ("tokenizer.json", "tokenizer_config.json"):
        with suppress(FileNotFoundError):
            source.entries(file)
    with explained(source, "cannot load the tokeniser (tokenizer.json, tokenizer_config.json)"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=trust_remote_code, padding_side="right"
        )
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ModelError(f"{source.name}: {type(tokenizer).__name__} is not a text tokeniser")
        tokenizer("Hello, world 12")
        check_tokens(tokenizer, source.name, rows)
    return tokenizer


def check_tokens(tokenizer: PreTrainedTokenizerBase, who: str, rows: int | None) -> None:
    """Refuse a tokeniser whose texts may hold tokens that the model has no embedding of.

    Special tokens that stand around no text (Gemma 3's place of an image, an unknown token that transformers adds) are taken
    out of it instead: a text that has one of them written in it is read as ordinary text.

    Raises:
        ModelError: There is such a token; the first one is named.
    """
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if rows is not None and number >= rows}
    if not beyond:
        return
    roles = {getattr(tokenizer, role, None) for role in _ROLES}
    added = tokenizer.added_tokens_decoder
    for number, token in sorted(beyond.items()):
        if token in roles or number not in added or not added[number].special or not tokenizer.is_fast:
            raise ModelError(
                f"{who}: the tokeniser has {max(beyond) + 1} tokens, but the model {rows} embeddings; token {token!r} ({number}) has "
                "none: take the tokeniser that the model was trained with"
            )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] not in beyond]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    for role in ("unk_token", "mask_token"):
        if getattr(tokenizer, role, None) in beyond.values():
            setattr(tokenizer, role, None)


def _load_model(
    source: ModelSource, config: Any, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> PreTrainedModel:
    with explained(source, "cannot load"), quiet_transformers():
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
    check_loaded(source.name, model, info)
    nn.Module.to(model, device).eval()
    return model  # type: ignore[no-any-return]


def context_length(config: Any) -> int:
    """Return the most tokens a model's positions allow."""
    return int(getattr(config, "max_position_embeddings", 0) or 2048)


def within_context(max_length: int, context: int) -> int:
    """Return the longest text in tokens that is both wanted and possible; says so when they differ."""
    if max_length > context:
        say(f"texts are cut at {context} tokens instead of {max_length}: the model has no positions beyond")
    return min(max_length, context)

"""The text settings of an encoder that is given as the model: all that its files say of texts and vectors, or a refusal."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

from torch import nn
from transformers import PreTrainedTokenizerBase

from prune2vec.errors import CheckpointError, ModelError, UnsupportedModel
from prune2vec.models.encoder_files import RECORD, TEXTS, EncoderForm, OwnForm, read_form, read_pooling, read_texts
from prune2vec.models.heads import NORMALIZE, encoder_modules, head_record, kind_of
from prune2vec.models.source import ModelSource
from prune2vec.models.text_settings import E5, PAPER_POOLING, SAVED, Pooling, TextSettings

_POOLINGS = tuple(name for name in get_args(Pooling) if name != PAPER_POOLING)
# Entries of sentence_bert_config.json, and the one value besides none under which texts become tokens and tokens states in the
# plain way.
PLAIN_TEXTS: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "processing_kwargs": None,
    "tokenizer_name_or_path": None,
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
}
# What it hands on to transformers, and of that what changes no vector.
_HANDED_ON = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
_HARMLESS = {
    *("attn_implementation", "dtype", "torch_dtype", "use_safetensors", "low_cpu_mem_usage", "device_map", "add_pooling_layer"),
    *("padding_side", "use_fast", "model_max_length", "trust_remote_code"),
}
_DIMS = re.compile(r'"matryoshka_dims": *\[([\d,\s]*)\]')


def encoder_text_settings(
    source: ModelSource, tokenizer: PreTrainedTokenizerBase, *, context: int, heads: Sequence[nn.Module] = ()
) -> TextSettings | None:
    """Return the text settings of a sentence-transformers folder or hub id; None for a plain language model.

    The tokeniser's own limit, and the most tokens that the model's positions allow (``context``), count where it states none.
    ``heads`` are the encoder's, loaded.

    Raises:
        UnsupportedModel: The encoder does something with texts or vectors that a cut would lose: two poolings at once, a
            chat template, another length for queries, texts cut at their beginning, a module of another kind.
        CheckpointError: One of its files is missing or broken.
        DataError: One of its files is not JSON.
        ModelError: One of its files cannot be fetched.
    """
    modules = encoder_modules(source)
    if modules is None:
        return None
    pooling, include_prompt = saved_pooling(source, modules)
    texts = read_texts(source)
    check_plain(source, texts, tokenizer)
    normalize, told = kind_of(modules[-1]) == NORMALIZE, saved_whole(source)
    own = (read_form(source, RECORD, OwnForm) or {}).get("text") or {}
    if own.get("instruction") == E5 and own.get("wrapper", "none") == "none":
        # An instruction by data set stands in no prompt, and takes the place of the prompts.
        kept = {name: own[name] for name in ("instruction", "symmetric", "separator") if name in own}
        told = {"truncate_dim": told["truncate_dim"], "similarity": told["similarity"], **kept}
    return TextSettings.build(
        {
            "pooling": pooling,
            # How a text ends is the tokeniser's business: an encoder that pools the last token may have been trained without EOS.
            "append_eos": "off",
            "instruction": SAVED,
            "max_length": stated_length(texts) or min(tokenizer.model_max_length, context),
            "normalize": normalize,
            "include_prompt": include_prompt,
            "lower_case": texts.get("do_lower_case", False),
            "heads": [head_record(head) for head in heads],
            "matryoshka_dims": matryoshka_dims(source),
            **told,
        },
        where=f"{source.name}: its sentence-transformers files",
    )


def saved_pooling(source: ModelSource, modules: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """Return our name of an encoder's one pooling (else ``UnsupportedModel``), and whether a prompt's tokens are pooled."""
    found = read_pooling(source, modules[1]["path"])
    if found is None:
        raise CheckpointError(
            f"{source.name}: {modules[1]['path']}/config.json is missing, though modules.json names it; fetch the encoder again"
        )
    # Our name of each by its entry, or its flag; of one that we do not know, its own.
    pooling, bare = found[0], [mode.removeprefix("pooling_mode_") for mode in found[1]]
    modes = [next((name for name in _POOLINGS if one in (name, f"{name}_token", f"{name}_tokens")), one) for one in bare]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise UnsupportedModel(
            f"{source.name} pools by {' and '.join(modes) or pooling['pooling_mode']}; expected one of {', '.join(_POOLINGS)}"
        )
    return modes[0], pooling.get("include_prompt", True)


def stated_length(texts: Mapping[str, Any]) -> int | None:
    """Return the longest text in tokens as an encoder's file on texts states it."""
    handed = [texts[name] for name in ("tokenizer_args", "processor_kwargs") if name in texts]
    limits: list[int | None] = [entries["model_max_length"] for entries in handed if entries.get("model_max_length")]
    return (limits or [texts.get("max_seq_length")])[0]


def check_plain(
    source: ModelSource, texts: dict[str, Any], tokenizer: PreTrainedTokenizerBase, harmless: Container[str] = _HARMLESS
) -> None:
    """Refuse what sentence-transformers would do to texts beyond a prompt, a limit and lower case.

    ``harmless`` are the entries for transformers that may be there.

    Raises:
        UnsupportedModel: It would do something.
    """
    handed = {
        f"{name}: {key}": value for name in _HANDED_ON for key, value in texts.get(name, {}).items() if key not in harmless
    }
    odd = {key: texts[key] for key, plain in PLAIN_TEXTS.items() if texts.get(key) and texts[key] != plain} | handed
    for key, value in odd.items():
        raise UnsupportedModel(
            f"{source.name}: {TEXTS} says {key} {reprlib.repr(value)}, which changes texts or states in a way that a cut would not "
            "keep; take that key out if it changes nothing"
        )
    if tokenizer.truncation_side != "right":
        raise UnsupportedModel(
            f"{source.name} cuts long texts at their beginning (truncation_side in tokenizer_config.json), and a cut of it would cut "
            "their end; set it to right"
        )


def saved_whole(source: ModelSource) -> dict[str, Any]:
    """Return what an encoder's file on the whole says: prompts, default_prompt, truncate_dim, similarity.

    Raises:
        UnsupportedModel: It is no SentenceTransformer.
        CheckpointError: Its default prompt is none of its prompts, or the file is broken.
    """
    whole = read_form(source, "config_sentence_transformers.json", EncoderForm) or {}
    kind = whole.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UnsupportedModel(
            f"{source.name} is a {kind}, whose scores are no vectors of texts; expected a SentenceTransformer"
        )
    # sentence-transformers has these two in every encoder, and takes them for queries and documents whatever else is there.
    prompts = {"query": "", "document": "", **{name: prompt or "" for name, prompt in whole.get("prompts", {}).items()}}
    default = whole.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{source.name}: config_sentence_transformers.json: default_prompt_name is {default!r}, which is none of its prompts "
            f"({', '.join(prompts)})"
        )
    similarity = whole.get("similarity_fn_name") or "cosine"
    return {
        "prompts": prompts,
        "default_prompt": default,
        "truncate_dim": whole.get("truncate_dim"),
        "similarity": similarity,
    }


def matryoshka_dims(source: ModelSource) -> tuple[int, ...]:
    """Return the dimensions to which a model's card or config says that its vectors can be cut, largest first; none unless told.

    A card tells them in the settings of sentence-transformers' MatryoshkaLoss, a config as ``matryoshka_dimensions``.
    """
    told: list[Any] = []
    with suppress(FileNotFoundError, ModelError):
        # A card that cannot be fetched tells nothing.
        for found in _DIMS.findall(source.fetch("README.md").read_text(encoding="utf-8", errors="replace")):
            told += map(int, re.findall(r"\d+", found))
    with suppress(FileNotFoundError):
        config = source.entries("config.json").get("matryoshka_dimensions")
        told += config if isinstance(config, list) else []
    return tuple(sorted({dim for dim in told if type(dim) is int and dim > 0}, reverse=True))

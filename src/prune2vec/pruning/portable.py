"""The folder that every runtime reads: sentence-transformers 3 to 6, transformers 4 and 5, TEI, vLLM, llama.cpp.

Newer libraries write forms that older ones and servers refuse or, worse, read differently; so the small files are
written here, in the form that all of them agree on, and only weights and tokeniser come from the libraries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.errors import ConfigError
from prune2vec.files import write_json
from prune2vec.forward.pooling import IN_FOLDERS, PoolingMethod, pooling_flags
from prune2vec.models.block_layout import Layout
from prune2vec.models.quiet import quiet_transformers
from prune2vec.models.uneven import uneven_config, uneven_layout

_MODULES = "sentence_transformers.models"
UNEVEN_MODULE = "prune2vec.modules.UnevenTransformer"


@dataclass(frozen=True, kw_only=True)
class EncoderParts:
    """Everything an encoder's folder holds.

    Attributes:
        model: Base model.
        tokenizer: Its fast tokeniser, post-processor included.
        pooling: sentence-transformers' name of the pooling.
        max_length: Longest text in tokens.
        prompts: Text before queries and documents.
        default_prompt: Which prompt applies when none is asked for.
        normalize: Whether vectors are L2-normalised.
        include_prompt: Whether the tokens of a prompt are pooled with the others.
        similarity: How two vectors are compared.
        record: What ``prune2vec.json`` says of where the encoder comes from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: str
    max_length: int
    prompts: Mapping[str, str]
    default_prompt: str | None = None
    normalize: bool = True
    include_prompt: bool = False
    similarity: str = "cosine"
    record: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def layout(self) -> Layout:
        """The model's blocks where its config cannot tell them; empty for a stock model."""
        return uneven_layout(self.model)


def write_portable(parts: EncoderParts, folder: Path) -> None:
    """Write an encoder as a sentence-transformers folder into the existing, empty ``folder``.

    It is a stock one, unless the model's blocks are not all alike: then its first module is ours, and its config one that
    stock classes refuse.

    Raises:
        ConfigError: There is no such pooling.
        CheckpointError: The model has other tensors than its config tells.
    """
    if parts.pooling not in IN_FOLDERS:
        raise ConfigError(f"sentence-transformers has no pooling {parts.pooling!r}; known: {', '.join(IN_FOLDERS)}")
    with quiet_transformers():
        parts.model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # The entries that transformers 4 reads, beside those that transformers 5 writes.
    config.update(legacy_rope_entries(config), architectures=[type(parts.model).__name__])
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    # Encoders keep no key-value cache.
    config["use_cache"] = False
    write_json(path, uneven_config(config, parts.model, parts.layout) if parts.layout else config)
    write_tokenizer(parts.tokenizer, folder, max_length=parts.max_length)
    first = UNEVEN_MODULE if parts.layout else f"{_MODULES}.Transformer"
    write_modules(parts, folder, first=first, include_prompt=parts.include_prompt)
    if parts.normalize:
        (folder / "2_Normalize").mkdir()
    libraries = {"sentence_transformers": "sentence-transformers", "transformers": "transformers", "pytorch": "torch"}
    settings = {
        "model_type": "SentenceTransformer",
        "__version__": {key: version(name) for key, name in libraries.items()},
        "prompts": dict(parts.prompts),
        "default_prompt_name": parts.default_prompt,
        "similarity_fn_name": parts.similarity,
    }
    write_json(folder / "config_sentence_transformers.json", settings)
    write_json(folder / "prune2vec.json", {"format": "prune2vec.encoder/1", **parts.record})


def write_modules(
    parts: EncoderParts,
    folder: Path,
    *,
    first: str = f"{_MODULES}.Transformer",
    include_prompt: bool = True,
    poolings: Mapping[str, PoolingMethod] = IN_FOLDERS,
) -> None:
    """Write the files that name an encoder's modules, its longest text and its pooling.

    Args:
        parts: The encoder.
        folder: An existing folder.
        first: Type of the module that holds the model.
        include_prompt: What the file of the pooling says of the tokens of prompts.
        poolings: Those that its reader knows.
    """
    modules = [("", first), ("1_Pooling", f"{_MODULES}.Pooling")] + [("2_Normalize", f"{_MODULES}.Normalize")] * parts.normalize
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": parts.max_length, "do_lower_case": False})
    config = parts.model.config
    dimension = getattr(config, "word_embed_proj_dim", None) or config.hidden_size
    flags = pooling_flags(parts.pooling, poolings)
    pooling = {"word_embedding_dimension": dimension, **flags, "include_prompt": include_prompt}
    write_json(folder / "1_Pooling" / "config.json", pooling)


def legacy_rope_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top-level rotary entries of transformers 4, which ignores ``rope_parameters`` without a word.

    Models with one setting a kind of attention (gemma3) have a local base frequency there.
    """
    parameters: Mapping[str, Any] = config.get("rope_parameters") or {}
    local: Mapping[str, Any] = {}
    if parameters and "rope_theta" not in parameters:
        local = parameters.get("sliding_attention") or {}
        parameters = parameters.get("full_attention") or {}
    entries = {key: parameters[key] for key in ("rope_theta", "partial_rotary_factor") if key in parameters}
    if parameters.get("rope_type", "default") != "default":
        entries["rope_scaling"] = {key: value for key, value in parameters.items() if key not in entries}
    return {**entries, "rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else entries


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, max_length: int) -> None:
    """Write a fast tokeniser under the class name that every release knows, without a chat template.

    sentence-transformers 6 wraps every text in a chat template where it finds one.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / "tokenizer.json"))
    roles = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    tokens = {role: str(token) for role in roles if (token := getattr(tokenizer, role, None)) is not None}
    tokens.setdefault("pad_token", tokens.get("eos_token", "<pad>"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokens,
        "model_max_length": max_length,
        # Older releases hand token types to every model that takes them, and GPT-2 adds their embeddings.
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", tokens)

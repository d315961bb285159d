"""The folder that every runtime reads: sentence-transformers 3 to 6, transformers 4 and 5, TEI, vLLM, llama.cpp.

Newer libraries write forms that older ones and servers refuse or, worse, read differently; so the small files are
written here, in the form that all of them agree on, and only weights and tokeniser come from the libraries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.files import write_json
from prune2vec.forward.pooling import IN_FOLDERS, PoolingMethod, pooling_flags
from prune2vec.models.block_layout import Layout, uneven_config, uneven_layout
from prune2vec.models.heads import NORMALIZE, state_width, write_head
from prune2vec.models.tokens import ROLES

if TYPE_CHECKING:
    from prune2vec.planning.plan import PruningPlan

_MODULES = "sentence_transformers.models"
# Releases before 6 have no such path: better no encoder than one that is causal without a word, as transformers 4 would make it.
_NEW_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
UNEVEN_MODULE = "prune2vec.modules.UnevenTransformer"
_FROM_PLAN = ("method", "parameters", "notes", "keep_layers", "drop_attention", "drop_mlp", "num_layers", "profile_digest")


@dataclass(frozen=True, kw_only=True)
class EncoderParts:
    """Everything an encoder's folder holds.

    Attributes:
        model: Base model.
        tokenizer: Its fast tokeniser, post-processor included.
        pooling: sentence-transformers' name of the pooling.
        max_length: Longest text in tokens.
        prompts: Text before queries and documents, by name.
        default_prompt: Which prompt applies when none is asked for.
        normalize: Whether vectors are L2-normalised.
        include_prompt: Whether the tokens of a prompt are pooled with the others.
        lower_case: Whether texts are lowered in case: its tokeniser does so, and sentence-transformers is told.
        heads: Modules behind the pooling, in order; the normalisation of ``normalize`` comes after them.
        truncate_dim: So many leading dimensions of a vector are given; None for all.
        similarity: sentence-transformers' name of how two vectors are compared.
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
    lower_case: bool = False
    heads: tuple[nn.Module, ...] = ()
    truncate_dim: int | None = None
    similarity: str = "cosine"
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leaves_out_prompts(self) -> bool:
        """Whether there is a prompt whose tokens must be kept out of the pooling; for the last token it makes no difference."""
        return not self.include_prompt and any(self.prompts.values()) and self.pooling != "lasttoken"

    @property
    def made_bidirectional(self) -> bool:
        """Whether it is a causal class whose config alone says that tokens see those after them; transformers 4 does not read that."""
        return getattr(self.model.config, "is_causal", None) is False

    @cached_property
    def layout(self) -> Layout:
        """The model's blocks where its config cannot tell them; empty for a stock model."""
        return uneven_layout(self.model)


def write_beside_weights(parts: EncoderParts, folder: Path, *, layout: Layout = ()) -> None:
    """Write what a sentence-transformers folder holds besides its weights, into an existing folder.

    With a ``layout`` its first module and its config are those of an uneven model; without one they are stock.
    """
    config = json.loads(parts.model.config.to_json_string())
    # The entries that transformers 4 reads, beside those that transformers 5 writes.
    config.update(legacy_rope_entries(config), **legacy_pattern(config), architectures=[type(parts.model).__name__])
    if config.get("is_causal") is False:
        # Servers read one or the other.
        config.setdefault("use_bidirectional_attention", True)
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    # Encoders keep no key-value cache.
    config["use_cache"] = False
    write_json(folder / "config.json", uneven_config(config, parts.model, layout) if layout else config)
    write_tokenizer(parts.tokenizer, folder, max_length=parts.max_length)
    stock = _NEW_TRANSFORMER if parts.made_bidirectional else f"{_MODULES}.Transformer"
    first = UNEVEN_MODULE if layout else stock
    write_modules(parts, folder, first=first, include_prompt=parts.include_prompt)
    libraries = {"sentence_transformers": "sentence-transformers", "transformers": "transformers", "pytorch": "torch"}
    settings = {
        "model_type": "SentenceTransformer",
        "__version__": {key: version(name) for key, name in libraries.items()},
        # sentence-transformers before 5 takes an empty prompt for one of -1 tokens, and pools wrong ones. Those of queries and documents
        # later releases add by themselves; another name must be there for those who ask for it.
        "prompts": {name: prompt for name, prompt in parts.prompts.items() if prompt or name not in ("query", "document")},
        "default_prompt_name": parts.default_prompt if parts.prompts.get(parts.default_prompt or "") else None,
        "similarity_fn_name": parts.similarity,
        **({"truncate_dim": parts.truncate_dim} if parts.truncate_dim is not None else {}),
    }
    write_json(folder / "config_sentence_transformers.json", settings)


def write_modules(
    parts: EncoderParts,
    folder: Path,
    *,
    first: str = f"{_MODULES}.Transformer",
    include_prompt: bool = True,
    poolings: Mapping[str, PoolingMethod] = IN_FOLDERS,
) -> None:
    """Write what names an encoder's modules, its longest text and its pooling, and its heads, into an existing folder.

    ``first`` is the type of the module that holds the model; ``poolings`` are those that the folder's reader knows.
    """
    kinds = ["Pooling", *(type(head).__name__ for head in parts.heads), *([NORMALIZE] if parts.normalize else [])]
    modules = [("", first), *((f"{place}_{kind}", f"{_MODULES}.{kind}") for place, kind in enumerate(kinds, start=1))]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )
    for (path, _), head in zip(modules[2:], parts.heads, strict=False):
        write_head(head, folder / path)
    if parts.normalize:
        (folder / modules[-1][0]).mkdir()
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": parts.max_length, "do_lower_case": parts.lower_case})
    flags = pooling_flags(parts.pooling, poolings)
    pooling = {"word_embedding_dimension": state_width(parts.model.config), **flags, "include_prompt": include_prompt}
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
    if "local_attention" in config:  # ModernBERT has names of its own.
        return {"global_rope_theta": parameters["rope_theta"], "local_rope_theta": local["rope_theta"]}
    if parameters.get("rope_type", "default") != "default":
        entries["rope_scaling"] = {key: value for key, value in parameters.items() if key not in entries}
    return {**entries, "rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else entries


def legacy_pattern(config: Mapping[str, Any]) -> dict[str, int]:
    """Return how transformers 4 and servers tell the layers of ModernBERT that see all tokens: every so many, from the first on.

    Where no number says it there is 0, by which they fail instead of taking other layers.
    """
    if "local_attention" not in config:
        return {}
    local = [kind == "sliding_attention" for kind in config["layer_types"]]
    numbers = (number for number in range(1, len(local) + 1) if local == [bool(layer % number) for layer in range(len(local))])
    return {"global_attn_every_n_layers": next(numbers, 0)}


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, max_length: int) -> None:
    """Write a fast tokeniser under the class name that every release knows, without a chat template.

    sentence-transformers 6 wraps every text in a chat template where it finds one.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    written = json.loads(backend.to_str())
    merges = written["model"].get("merges") or []
    # As tokenizers before 0.20 reads them too: pairs as one string, where no token has a blank.
    if all(not isinstance(pair, str) and " " not in "".join(pair) for pair in merges):
        written["model"] |= {"merges": [" ".join(pair) for pair in merges]} if merges else {}
    write_json(folder / "tokenizer.json", written)
    tokens = {role: str(token) for role in ROLES if (token := getattr(tokenizer, role, None)) is not None}
    tokens.setdefault("pad_token", tokens.get("eos_token", "<pad>"))
    # sentence-transformers asks whether a prompt ends with a special token; those without a role are some too.
    there = tokenizer.get_vocab()
    others = [token for token in tokenizer.all_special_tokens if token in there and token not in tokens.values()]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokens,
        **({"additional_special_tokens": others} if others else {}),
        "model_max_length": max_length,
        # Older releases hand token types to every model that takes them, and GPT-2 adds their embeddings.
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", tokens)


def record_of(plan: PruningPlan) -> dict[str, Any]:
    """Return what ``prune2vec.json`` says about the plan; which neurons stayed is in ``plan.json`` beside it."""
    entries = plan.to_json()
    widths = {str(layer): len(stay) for layer, stay in sorted(plan.neurons.items())}
    cut = plan.vocabulary
    tokens = (
        None if cut is None else {"kept": len(cut.kept), "of": plan.shape.token_rows, "texts_changed": cut.changed / cut.texts}
    )
    return {**{key: entries[key] for key in _FROM_PLAN}, "widths": widths, "vocabulary": tokens}


def describe_cut(record: Mapping[str, Any]) -> list[str]:
    """Return a line on the blocks and, where they are cut too, one on attention, MLPs, widths and tokens each.

    ``record`` is what ``record_of`` returned; older records know whole blocks only, or no tokens.
    """
    lines = [f"{len(record['keep_layers'])} of {record['num_layers']} layers"]
    for what, key in (("attention", "drop_attention"), ("MLP", "drop_mlp")):
        if record.get(key):
            lines.append(f"without the {what} of {_layers(record[key])}")
    widths: Mapping[str, int] = record.get("widths") or {}
    if widths:
        low, high = min(widths.values()), max(widths.values())
        size = f"{low}" if low == high else f"{low} to {high}"
        lines.append(f"{size} neurons in the MLP of {_layers(list(widths))}")
    if tokens := record.get("vocabulary"):
        lines.append(f"{tokens['kept']:,} of {tokens['of']:,} tokens")
    return lines


def _layers(layers: Sequence[int | str]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"

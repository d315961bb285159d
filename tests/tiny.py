"""Tiny random models of every supported family, and a tokeniser for them: no downloads, built in milliseconds."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from prune2vec.models.families import without_head

VOCAB = 384
_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 5, "n_head": 4, "n_positions": 256, "pad_token_id": 0}
_SPECIALS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BERT = {key: value for key, value in _BASE.items() if key != "num_key_value_heads"}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": _BASE,
    "mistral": {**_BASE, "head_dim": 8, "sliding_window": 16},
    "qwen2": {**_BASE, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    "qwen3": {**_BASE, "head_dim": 8},
    "phi3": {**_BASE, "max_position_embeddings": 4096},
    "gemma": {**_BASE, "head_dim": 8},
    "gemma2": {**_BASE, "head_dim": 8, "sliding_window": 16},
    # Every sixth layer sees all tokens in the real ones.
    "gemma3_text": {**_BASE, "head_dim": 8, "sliding_window": 16, "sliding_window_pattern": 3},
    "olmo2": _BASE,
    "smollm3": {**_BASE, "head_dim": 8},
    "granite": _BASE,
    "gpt2": {**_GPT2, **_SPECIALS},
    "gpt_neox": _BASE,
    "phi": {**_BASE, "partial_rotary_factor": 0.5},
    "opt": {
        **{key: _BASE[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
        **_SPECIALS,
        "ffn_dim": 48,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 32,
    },
}
# Decoders whose tokens see those after them, by the name of their family, a plus and what makes them so.
BIDIRECTIONAL: dict[str, dict[str, Any]] = {
    "llama+bidirectional": {**_BASE, "is_causal": False},
    "mistral+bidirectional": {**DECODERS["mistral"], "is_causal": False},
    # Half the window on each side, as in EmbeddingGemma.
    "gemma3_text+bidirectional": {**DECODERS["gemma3_text"], "use_bidirectional_attention": True},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": {**_BERT, "pad_token_id": 1, "bos_token_id": 0},
    "mpnet": _BERT,
    "distilbert": {
        **{"vocab_size": VOCAB, "dim": 32, "hidden_dim": 48, "n_layers": 5, "n_heads": 4, "max_position_embeddings": 256},
        **_SPECIALS,
    },
    # The first and the fourth layer see all tokens, the others 8 on each side.
    "modernbert": {**_BERT, "local_attention": 16, "cls_token_id": 1, "sep_token_id": 2},
}
FAMILIES = {**DECODERS, **BIDIRECTIONAL, **ENCODERS}
CAUSAL = list(DECODERS)
_CORPUS = (
    "the quick brown fox jumps over the lazy dog while 12 or 345 birds sing in the morning light of spring",
    "layers of a language model hold what an encoder needs, and some of them can be cut without much loss",
    "return the number of rows that a reader has seen so far, or raise an error with the file and the line",
)


def tiny_config(family: str, **changes: Any) -> Any:
    """Return the tiny configuration of ``family``; one that is not listed has the sizes of most."""
    return AutoConfig.for_model(family.partition("+")[0], **{**FAMILIES.get(family, _BASE), **changes})


def tiny_model(family: str, seed: int = 0, *, causal_lm: bool = False, **changes: Any) -> PreTrainedModel:
    """Return a random model in eval mode with 5 layers, whose norms and biases are random too."""
    torch.manual_seed(seed)
    with_head = AutoModelForMaskedLM if family in ENCODERS else AutoModelForCausalLM
    auto: Any = with_head if causal_lm else AutoModel
    model = auto.from_config(tiny_config(family, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh norms are all ones and fresh weights tiny: a skipped norm or a swapped layer would go unseen.
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return without_head(model.eval())


@functools.cache
def _trained_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<pad>", "<s>", "</s>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return str(tokenizer.to_str())


def tiny_tokenizer(*, bos: bool = False, ends: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokeniser with 384 entries.

    ``bos=True`` makes its post-processor add ``<s>`` before a text; with ``ends=True``, as encoders have it, there is
    ``</s>`` behind it too.
    """
    tokenizer = Tokenizer.from_str(_trained_tokenizer())
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    elif bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=256
    )


def save_tiny(
    folder: Path,
    family: str = "llama",
    seed: int = 0,
    *,
    bos: bool = False,
    changes: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Path:
    """Write a plain Hugging Face checkpoint of a tiny model with its LM head (config, safetensors, tokeniser), return ``folder``."""
    tiny_model(family, seed, causal_lm=True, **(changes or {})).save_pretrained(folder, **kwargs)
    tiny_tokenizer(bos=bos, ends=family in ENCODERS).save_pretrained(folder)
    return folder

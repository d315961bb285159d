"""Tiny encoders in the forms in which sentence-transformers folders are published, each another in as much as possible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_model, tiny_tokenizer

CHAT = "{% for m in messages %}<|user|>\n{{ m['content'] }}</s>{% endfor %}"
_IDENTITY = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True, kw_only=True)
class TinyEncoder:
    """What is written: ``heads`` are (kind, config) behind the pooling, ``around`` the special tokens before and behind a text.

    ``specials`` are special tokens without a role.
    """

    family: str
    pooling: str
    heads: Sequence[tuple[str, Mapping[str, Any]]] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    include_prompt: bool = True
    similarity: str | None = "cosine"
    truncate_dim: int | None = None
    texts: Mapping[str, Any] | None = field(default_factory=lambda: {"max_seq_length": 64, "do_lower_case": False})
    around: tuple[str, str] = ("", "")
    padding: str = "right"
    specials: Sequence[str] = ()
    chat: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    head_dtype: torch.dtype = torch.float32

    def save(self, folder: Path, *, seed: int = 0) -> Path:
        """Write the folder as the hub has such ones, random weights drawn with ``seed``, and return it."""
        tiny_model(self.family, seed, **self.changes).save_pretrained(folder)
        self._save_tokenizer(folder)
        kinds = ["Transformer", "Pooling", *(kind for kind, _ in self.heads)]
        modules = [
            {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
            for n, kind in enumerate(kinds)
        ]
        _write(folder / "modules.json", modules)
        flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
        told = {f"pooling_mode_{flag}": flag in (self.pooling, f"{self.pooling}_tokens") for flag in flags}
        pooling = {"word_embedding_dimension": 32, **told, "include_prompt": self.include_prompt}
        _write(folder / "1_Pooling" / "config.json", pooling)
        generator = torch.Generator().manual_seed(seed)
        for place, (kind, config) in enumerate(self.heads, start=2):
            if config:
                _write(folder / f"{place}_{kind}" / "config.json", config)
            if weights := _weights(kind, config, generator):
                tensors = {name: tensor.to(self.head_dtype) for name, tensor in weights.items()}
                save_file(tensors, folder / f"{place}_{kind}" / "model.safetensors")
        if self.texts is not None:
            _write(folder / "sentence_bert_config.json", self.texts)
        whole = {"prompts": self.prompts, "default_prompt_name": self.default, "similarity_fn_name": self.similarity}
        whole |= {"truncate_dim": self.truncate_dim} if self.truncate_dim else {}
        _write(folder / "config_sentence_transformers.json", whole)
        return folder

    def _save_tokenizer(self, folder: Path) -> None:
        backend = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
        before, behind = self.around
        form = " ".join(filter(None, (before, "$A", behind)))
        ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys(filter(None, self.around))]
        backend.post_processor = processors.TemplateProcessing(single=form, pair=f"{form} $B", special_tokens=ids)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            model_max_length=256,
            padding_side=self.padding,
            extra_special_tokens=list(self.specials),
        )
        tokenizer.chat_template = self.chat
        tokenizer.save_pretrained(folder)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _weights(kind: str, config: Mapping[str, Any], generator: torch.Generator) -> dict[str, torch.Tensor]:
    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    if kind == "LayerNorm":
        return {"norm.weight": 1 + drawn(config["dimension"]), "norm.bias": drawn(config["dimension"])}
    if kind != "Dense":
        return {}
    inputs, outputs = config["in_features"], config["out_features"]
    return {
        "linear.weight": drawn(outputs, inputs),
        **({"linear.bias": drawn(outputs)} if config.get("bias", True) else {}),
        **({"residual.weight": drawn(outputs, inputs)} if config.get("use_residual") and inputs != outputs else {}),
        **({"activation_function.weight": drawn(1)} if "PReLU" in config.get("activation_function", "") else {}),
    }


def dense(
    inputs: int, outputs: int, activation: str = _IDENTITY, *, bias: bool = False, **more: Any
) -> tuple[str, dict[str, Any]]:
    """Return a dense head."""
    entries = {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": activation, **more}
    return "Dense", entries


NORMALIZE: tuple[str, dict[str, Any]] = ("Normalize", {})
TINY_ENCODERS: dict[str, TinyEncoder] = {
    # Qwen3-Embedding: padded on the left, pools an ending that is not EOS, a prompt that runs into the text, no limit of its own,
    # and a chat template that it does not use.
    "qwen3-embedding": TinyEncoder(
        family="qwen3",
        pooling="lasttoken",
        heads=[NORMALIZE],
        prompts={"query": "Instruct: find what answers the question\nQuery:", "document": ""},
        texts=None,
        around=("", "<pad>"),
        padding="left",
        chat=CHAT,
    ),
    # EmbeddingGemma, apart from its attention.
    "embeddinggemma": TinyEncoder(
        family="gemma3_text",
        pooling="mean",
        heads=[dense(32, 96), dense(96, 32), NORMALIZE],
        prompts={"query": "task: search | query: ", "document": "title: none | text: ", "STS": "task: sts | query: "},
        around=("<s>", "</s>"),
    ),
    "dot": TinyEncoder(
        family="llama",
        pooling="weightedmean",
        heads=[("Dense", {"in_features": 32, "out_features": 24})],
        prompts={"query": "Represent the ques", "passage": "p: ", "none": ""},
        default="query",
        include_prompt=False,
        similarity="dot",
        around=("<s>", ""),
    ),
    "shortened": TinyEncoder(
        family="gpt2",
        pooling="max",
        heads=[NORMALIZE, dense(32, 40, "torch.nn.modules.activation.GELU", bias=True)],
        prompts={"query": "q: ", "document": "d: "},
        similarity="euclidean",
        truncate_dim=20,
    ),
    "lower": TinyEncoder(
        family="qwen2",
        pooling="lasttoken",
        heads=[("LayerNorm", {"dimension": 32}), ("Dropout", {"dropout": 0.4}), NORMALIZE],
        prompts={"Clustering": "Sort BY theme: "},
        texts={"max_seq_length": 24, "do_lower_case": True},
        similarity="manhattan",
    ),
    "residual": TinyEncoder(
        family="opt",
        pooling="mean_sqrt_len_tokens",
        heads=[
            dense(32, 16, "torch.nn.modules.activation.PReLU", bias=True, use_residual=True),
            dense(16, 16, use_residual=True),
        ],
        prompts={"query": "find it: "},
        include_prompt=False,
        similarity=None,
        around=("<s>", "</s>"),
    ),
}

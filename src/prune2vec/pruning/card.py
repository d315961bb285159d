"""The README.md of a written encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from prune2vec.errors import markdown
from prune2vec.forward.pooling import IN_FOLDERS
from prune2vec.pruning.described import describe_cut
from prune2vec.pruning.parity import Parity
from prune2vec.pruning.portable import EncoderParts

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# What a reader must know before anything else: the usual call does not load it.
_UNEVEN = (
    "The blocks of this encoder are not all alike, which stock model classes cannot build. It loads with prune2vec installed "
    "(`pip install prune2vec`); `trust_remote_code=True` lets sentence-transformers import its module from that package, and "
    "this folder holds no code. Stock transformers (`AutoModel`), text-embeddings-inference and llama.cpp cannot load it; "
    "`prune2vec export` writes forms for vLLM (Llama-like models with mean, cls or lasttoken pooling) and ONNX.\n\n"
)


def model_card(parts: EncoderParts, parity: Parity, *, name: str) -> str:
    """Return the model card: how to use the encoder, what was pruned, how it was trained, how it was checked."""
    model = parts.record.get("model", {})
    base = markdown(model.get("name") or "a decoder-only language model")
    params = sum(parameter.numel() for parameter in parts.model.parameters())
    classes = "the class of prune2vec" if parts.layout else "stock classes"
    sections = [
        f"---\n{_head(model)}---",
        f"# {markdown(name)}",
        f"A text encoder of {params / 1e6:.1f} M parameters cut from {base} with prune2vec.",
        _usage(parts),
        _pruning(parts.record),
        *_training(parts.record.get("train")),
        "## Check\n\n"
        f"Reloaded with {classes} and compared with {parity.reference} on {parity.texts} texts in {parity.dtype}: "
        f"largest difference {parity.max_difference:.2g}, smallest cosine {parity.min_cosine:.6f}.",
    ]
    return "\n\n".join(sections) + "\n"


def _head(model: Mapping[str, Any]) -> str:
    """Return the entries that the hub reads; only a model of the hub, which has a commit, is named as the base."""
    head: dict[str, Any] = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}
    head["tags"] = ["sentence-transformers", "feature-extraction", "prune2vec"]
    name = str(model.get("name"))
    if model.get("revision") and _HUB_ID.fullmatch(name):
        head["base_model"] = name
    return yaml.safe_dump(head, sort_keys=False)


def _usage(parts: EncoderParts) -> str:
    trust = ", trust_remote_code=True" if parts.layout else ""
    served = "sentence-transformers with prune2vec." if parts.layout else IN_FOLDERS[parts.pooling].served
    return (
        f"## Use\n\n{_UNEVEN if parts.layout else ''}"
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'encoder = SentenceTransformer("path/to/this/folder"{trust})\n'
        'queries = encoder.encode_query(["what to look for"])\ndocuments = encoder.encode_document(["where to look"])\n'
        "scores = encoder.similarity(queries, documents)\n```\n\n"
        f"Pooling: {parts.pooling}; longest text: {parts.max_length} tokens; prompts: {markdown(dict(parts.prompts))}. "
        f"Served by: {served}"
    )


def _pruning(record: Mapping[str, Any]) -> str:
    plan, model = record.get("plan", {}), record.get("model", {})
    kept, total = plan.get("keep_layers", []), plan.get("num_layers")
    if not kept:
        return "## Pruning\n\nNot recorded."
    lines = [
        f"base: {model.get('name')} (revision {model.get('revision') or 'local files'})",
        f"method: {plan.get('method')} {plan.get('parameters') or ''}",
        f"kept layers (0-based, of {total}): {', '.join(map(str, kept))}",
        *describe_cut(plan)[1:],
        *(f"note: {note}" for note in plan.get("notes", [])),
    ]
    return "## Pruning\n\n" + "\n".join(f"- {markdown(line)}" for line in lines)


def _training(train: Mapping[str, Any] | None) -> list[str]:
    if not train:
        return ["## Training\n\nNone after the cut: these are the base model's own weights."]
    rows = [f"- {markdown(f'{key}: {value}')}" for key, value in train.items() if isinstance(value, (str, int, float, bool))]
    return ["## Training\n\n" + "\n".join(rows)]

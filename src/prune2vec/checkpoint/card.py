"""The README.md of a written encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prune2vec.checkpoint.portable import EncoderParts
from prune2vec.checkpoint.probe import Parity

_SERVED = {
    "weightedmean": "sentence-transformers and Infinity. TEI, vLLM and llama.cpp have no weighted mean and refuse it or pool otherwise.",
    "mean": "sentence-transformers, Infinity, TEI, vLLM and llama.cpp.",
    "lasttoken": "sentence-transformers, Infinity, TEI, vLLM and llama.cpp.",
}


def model_card(parts: EncoderParts, parity: Parity, *, name: str) -> str:
    """Return the model card: how to use the encoder, what was pruned, how it was trained, how it was checked."""
    base = parts.record.get("model", {}).get("name")
    header = ["library_name: sentence-transformers", "pipeline_tag: sentence-similarity", "tags:", "- sentence-transformers"]
    header += ["- feature-extraction", "- prune2vec", *([f"base_model: {base}"] if base and base.count("/") == 1 else [])]
    params = sum(parameter.numel() for parameter in parts.model.parameters())
    sections = [
        "---\n" + "\n".join(header) + "\n---",
        f"# {name}",
        f"A text encoder of {params / 1e6:.1f} M parameters cut from {base or 'a decoder-only language model'} with prune2vec.",
        _usage(parts),
        _pruning(parts.record),
        *_training(parts.record.get("train")),
        "## Check\n\n"
        f"Reloaded with stock classes and compared with {parity.reference} on {parity.texts} texts in {parity.dtype}: "
        f"largest difference {parity.max_difference:.2g}, smallest cosine {parity.min_cosine:.6f}.",
    ]
    return "\n\n".join(sections) + "\n"


def _usage(parts: EncoderParts) -> str:
    return (
        "## Use\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'encoder = SentenceTransformer("path/to/this/folder")\n'
        'queries = encoder.encode_query(["what to look for"])\ndocuments = encoder.encode_document(["where to look"])\n'
        "scores = encoder.similarity(queries, documents)\n```\n\n"
        f"Pooling: {parts.pooling}; longest text: {parts.max_length} tokens; prompts: {dict(parts.prompts)}. "
        f"Served by: {_SERVED.get(parts.pooling, 'sentence-transformers.')}"
    )


def _pruning(record: Mapping[str, Any]) -> str:
    plan = record.get("plan", {})
    kept, total = plan.get("keep_layers", []), plan.get("num_layers")
    if not kept:
        return "## Pruning\n\nNot recorded."
    lines = [
        f"- base: {record.get('model', {}).get('name')} (revision {record.get('model', {}).get('revision') or 'local files'})",
        f"- method: {plan.get('method')} {plan.get('parameters') or ''}".rstrip(),
        f"- kept layers (0-based, of {total}): {', '.join(map(str, kept))}",
        *(f"- note: {note}" for note in plan.get("notes", [])),
    ]
    return "## Pruning\n\n" + "\n".join(lines)


def _training(train: Mapping[str, Any] | None) -> list[str]:
    if not train:
        return ["## Training\n\nNone after the cut: these are the base model's own weights."]
    rows = [f"- {key}: {value}" for key, value in train.items() if isinstance(value, (str, int, float, bool))]
    return ["## Training\n\n" + "\n".join(rows)]

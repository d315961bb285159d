"""A cut in words, and the README.md of a written encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from prune2vec.errors import markdown
from prune2vec.forward.pooling import IN_FOLDERS
from prune2vec.planning.plan import PruningPlan

if TYPE_CHECKING:
    from prune2vec.pruning.parity import Parity
    from prune2vec.pruning.portable import EncoderParts

_FROM_PLAN = ("method", "parameters", "notes", "keep_layers", "drop_attention", "drop_mlp", "num_layers", "profile_digest")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# What a reader must know before anything else: the usual call does not load it.
_UNEVEN = (
    "The blocks of this encoder are not all alike, which stock model classes cannot build. It loads with prune2vec installed "
    "(`pip install prune2vec`); `trust_remote_code=True` lets sentence-transformers import its module from that package, and "
    "this folder holds no code. Stock transformers (`AutoModel`), text-embeddings-inference and llama.cpp cannot load it; "
    "`prune2vec export` writes forms for vLLM (Llama-like models with mean, cls or lasttoken pooling) and ONNX.\n\n"
)


def record_of(plan: PruningPlan) -> dict[str, Any]:
    """Return what ``prune2vec.json`` says about the plan; which neurons stayed is in ``plan.json`` beside it."""
    entries = plan.to_json()
    widths = {str(layer): len(stay) for layer, stay in sorted(plan.neurons.items())}
    return {**{key: entries[key] for key in _FROM_PLAN}, "widths": widths}


def describe_cut(record: Mapping[str, Any]) -> list[str]:
    """Return a line on the blocks and, where they are cut too, one on attention, MLPs and widths each.

    Args:
        record: What ``record_of`` returned; older records know whole blocks only.
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
    return lines


def _layers(layers: Sequence[int | str]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"


def model_card(parts: EncoderParts, parity: Parity, *, name: str) -> str:
    """Return the model card: how to use the encoder, what was pruned, how it was trained, how it was checked."""
    model, uneven = parts.record.get("model", {}), bool(parts.layout)
    base = str(model.get("name"))
    # What the hub reads; only a model of the hub, which has a commit, is named as the base.
    head: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "prune2vec"],
    }
    if model.get("revision") and _HUB_ID.fullmatch(base):
        head["base_model"] = base
    params = sum(parameter.numel() for parameter in parts.model.parameters())
    served = "sentence-transformers with prune2vec." if uneven else IN_FOLDERS[parts.pooling].served
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {markdown(name)}",
        f"A text encoder of {params / 1e6:.1f} M parameters cut from "
        f"{markdown(model.get('name') or 'a decoder-only language model')} with prune2vec.",
        f"## Use\n\n{_UNEVEN if uneven else ''}"
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'encoder = SentenceTransformer("path/to/this/folder"{", trust_remote_code=True" if uneven else ""})\n'
        'queries = encoder.encode_query(["what to look for"])\ndocuments = encoder.encode_document(["where to look"])\n'
        "scores = encoder.similarity(queries, documents)\n```\n\n"
        f"Pooling: {parts.pooling}; longest text: {parts.max_length} tokens; prompts: {markdown(dict(parts.prompts))}. "
        f"Served by: {served}",
        f"## Pruning\n\n{_pruning(parts.record)}",
        f"## Training\n\n{_training(parts.record.get('train'))}",
        f"## Check\n\nReloaded with {'the class of prune2vec' if uneven else 'stock classes'} and compared with "
        f"{parity.reference} on {parity.texts} texts in {parity.dtype}: "
        f"largest difference {parity.max_difference:.2g}, smallest cosine {parity.min_cosine:.6f}.",
    ]
    return "\n\n".join(sections) + "\n"


def _pruning(record: Mapping[str, Any]) -> str:
    plan, model = record.get("plan", {}), record.get("model", {})
    kept = plan.get("keep_layers", [])
    if not kept:
        return "Not recorded."
    lines = [
        f"base: {model.get('name')} (revision {model.get('revision') or 'local files'})",
        f"method: {plan.get('method')} {plan.get('parameters') or ''}",
        f"kept layers (0-based, of {plan.get('num_layers')}): {', '.join(map(str, kept))}",
        *describe_cut(plan)[1:],
        *(f"note: {note}" for note in plan.get("notes", [])),
    ]
    return "\n".join(f"- {markdown(line)}" for line in lines)


def _training(train: Mapping[str, Any] | None) -> str:
    if not train:
        return "None after the cut: these are the base model's own weights."
    return "\n".join(
        f"- {markdown(f'{key}: {value}')}" for key, value in train.items() if isinstance(value, (str, int, float, bool))
    )

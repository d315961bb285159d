"""The model card: how an encoder is used, who computes its vectors, how it was cut, trained and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from prune2vec.errors import ModelError, markdown
from prune2vec.forward.pooling import IN_FOLDERS
from prune2vec.models.heads import head_words
from prune2vec.models.source import HUB_ID, ModelSource
from prune2vec.pruning.portable import EncoderParts, describe_cut

if TYPE_CHECKING:
    from prune2vec.pruning.parity import Parity

_CARD_HEAD = re.compile(r"---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_FROM_CARD = ("license", "license_name", "license_link", "base_model", "datasets", "language")
# What a reader must know before anything else: the usual call does not load it.
_UNEVEN = (
    "The blocks of this encoder are not all alike, which stock model classes cannot build. It loads with prune2vec installed "
    "(`pip install prune2vec`); `trust_remote_code=True` lets sentence-transformers import its module from that package, and "
    "this folder holds no code. Stock transformers (`AutoModel`), text-embeddings-inference and llama.cpp cannot load it; "
    "`prune2vec export` writes forms for vLLM (Llama-like models with mean, cls or lasttoken pooling) and ONNX.\n\n"
)


def source_card(source: ModelSource) -> dict[str, str | list[str]]:
    """Return what a model's own card says that holds for an encoder cut from it too: licence, base, data sets, languages."""
    try:
        head = _CARD_HEAD.match(source.fetch("README.md").read_text(encoding="utf-8"))
        found = yaml.safe_load(head[1]) if head else None
    except (FileNotFoundError, ModelError, UnicodeDecodeError, yaml.YAMLError):
        # A model is whole without a card, and with one that nobody can read.
        return {}
    entries = found if isinstance(found, dict) else {}
    named = {key: entries[key] for key in _FROM_CARD if entries.get(key)}
    return {
        key: value
        for key, value in named.items()
        if isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    }


def model_card(parts: EncoderParts, parity: Parity, *, name: str) -> str:
    """Return the model card: how to use the encoder, what was pruned, how it was trained, how it was checked."""
    model, uneven = parts.record.get("model", {}), bool(parts.layout)
    base = str(model.get("name"))
    # What the hub reads; only a model of the hub, which has a commit, is named as the base, or what the source's own card names.
    head: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "prune2vec"],
    }
    head |= parts.record.get("card") or {}
    if model.get("revision") and "/" in base and HUB_ID.fullmatch(base):
        head["base_model"] = base
    params = sum(parameter.numel() for part in (parts.model, *parts.heads) for parameter in part.parameters())
    training, train = "None after the cut: these are the base model's own weights.", parts.record.get("train")
    if train:
        training = _bullets(f"{key}: {value}" for key, value in train.items() if isinstance(value, (str, int, float, bool)))
        training += _elastic(train.get("depths"))
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {markdown(name)}",
        f"A text encoder of {params / 1e6:.1f} M parameters cut from "
        f"{markdown(model.get('name') or 'a larger model')} with prune2vec.",
        f"## Use\n\n{_UNEVEN if uneven else ''}"
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'encoder = SentenceTransformer("path/to/this/folder"{", trust_remote_code=True" if uneven else ""})\n'
        'queries = encoder.encode_query(["what to look for"])\ndocuments = encoder.encode_document(["where to look"])\n'
        "scores = encoder.similarity(queries, documents)\n```\n\n"
        f"Pooling: {parts.pooling}{_behind(parts)}; longest text: {parts.max_length} tokens; prompts: "
        f"{markdown(dict(parts.prompts))}. Served by: {served_by(parts)}",
        f"## Pruning\n\n{_pruning(parts.record)}",
        f"## Training\n\n{training}",
        f"## Check\n\nReloaded with {'the class of prune2vec' if uneven else 'stock classes'} and compared with "
        f"{parity.reference} on {parity.texts} texts in {parity.dtype}: "
        f"largest difference {parity.max_difference:.2g}, smallest cosine {parity.min_cosine:.6f}.",
    ]
    return "\n\n".join(sections) + "\n"


def _elastic(depths: Sequence[int] | None) -> str:
    """Return in words at which depths an encoder was trained, where those are several."""
    if not depths:
        return ""
    *shallow, whole = map(str, depths)
    return (
        f"\n\nElastic: trained at depths {', '.join(shallow)} and {whole} of {whole} at once. Each is an encoder of its own without "
        f"more training: `prune2vec prune path/to/this/folder {shallow[0] if shallow else whole} -o smaller`."
    )


def _behind(parts: EncoderParts) -> str:
    """Return in words what is done to a vector after the pooling and how it is compared, where that is not the usual."""
    # Of an encoder that was made elsewhere there are no settings on texts, but those of its training.
    trained = (parts.record.get("train") or {}).get("settings") or {}
    dims = (parts.record.get("text") or {}).get("matryoshka_dims") or trained.get("matryoshka_dims")
    words = [
        f"then {head_words(parts.heads)}" if parts.heads else "",
        f"cut to {parts.truncate_dim} dimensions" if parts.truncate_dim is not None else "",
        f"compared by {parts.similarity}" if parts.similarity != "cosine" else "",
        # In the words of sentence-transformers' cards, where it is looked for.
        f'trained to be cut: `"matryoshka_dims": {list(dims)}`' if dims else "",
    ]
    return "".join(f"; {word}" for word in words if word)


def served_by(parts: EncoderParts) -> str:
    """Return in words who computes an encoder's vectors, with these prompts."""
    method, headed = IN_FOLDERS[parts.pooling], bool(parts.heads) or parts.truncate_dim is not None
    if parts.layout:
        possible = method.vllm and not (headed or parts.leaves_out_prompts or parts.made_bidirectional)
        vllm = "; vLLM by `--target vllm`, or that says why not" if possible else ""
        prompts = " (texts behind a prompt only where the pooling mask is filled in)" if parts.leaves_out_prompts else ""
        return (
            f"sentence-transformers with prune2vec; onnxruntime by `prune2vec export --target onnx`{prompts}{vllm}. llama.cpp has no "
            "such blocks."
        )
    if parts.made_bidirectional:
        pooled = ", which pools a prompt's tokens too" if parts.leaves_out_prompts else ""
        others = (
            f" vLLM 0.32, tried with a Llama{pooled}. llama.cpp by `prune2vec export --target gguf`{pooled}, or that says why not."
            if method.vllm and not headed
            else ""
        )
        return (
            "sentence-transformers 6 with transformers 5 or newer, on which causal classes look both ways. Earlier releases of it "
            f"refuse the folder.{others}"
        )
    if parts.leaves_out_prompts and method.vllm and not headed:
        return (
            "sentence-transformers 6 or newer, without prompts Infinity too. Older ones take the prompt for one token shorter or longer "
            "than it is, and TEI, vLLM and llama.cpp (by `prune2vec export --target gguf`) pool its tokens: texts behind one get "
            "other vectors there, those without one the right ones."
        )
    alone = "with prompts sentence-transformers 6 or newer; without " if parts.leaves_out_prompts else ""
    if headed:
        return (
            f"{alone}sentence-transformers and Infinity. Other servers may leave out what stands behind the pooling: compare vectors. "
            "An ONNX export holds it, a GGUF file (llama.cpp) has no place for it."
        )
    return alone + method.served


def _pruning(record: Mapping[str, Any]) -> str:
    plan, model = record.get("plan", {}), record.get("model", {})
    if not plan.get("keep_layers"):
        return "Not recorded."
    lines = [
        f"base: {model.get('name')} (revision {model.get('revision') or 'local files'})",
        f"method: {plan.get('method')} {plan.get('parameters') or ''}",
        f"kept layers (0-based, of {plan.get('num_layers')}): {', '.join(map(str, plan['keep_layers']))}",
        *describe_cut(plan)[1:],
        *(f"note: {note}" for note in plan.get("notes", [])),
    ]
    return _bullets(lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {markdown(line)}" for line in lines)

"""ONNX: one graph from token numbers to vectors, for onnxruntime and everything built on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.errors import CheckpointError, import_extra, markdown
from prune2vec.exporting.target import ExportSource, Written, targets

if TYPE_CHECKING:
    from prune2vec.pruning.parity import Parity

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
# Alone, in pairs, in threes and fours: short texts beside long ones are padded on the right.
_BATCH_SIZES = (1, 2, 3, 4)


@targets.register("onnx")
class OnnxTarget:
    """One fp32 ONNX graph, pooling, heads and normalisation included, for encoders of any family."""

    def prepare(self) -> None:
        """Look whether the ONNX packages are there.

        Raises:
            MissingExtra: One is not installed.
        """
        for name in _NEEDED:
            import_extra(name)

    def dtype_for(self, folder: Path) -> str:
        """Return fp32: graphs in bf16 run on few processors."""
        return "float32"

    def write(self, source: ExportSource, folder: Path) -> Written:
        """Write graph and tokeniser, run the graph on the probe texts and compare.

        Raises:
            CheckpointError: The pooling is not one of the graph's, the model is not in fp32 or cannot be turned into a
                graph, or its vectors differ from the encoder's.
        """
        from prune2vec.exporting.onnx_graph import MODEL, OPSET, OUTPUTS, input_names, write_graph
        from prune2vec.forward.pooling import IN_ONNX
        from prune2vec.models.tokens import prompt_ids
        from prune2vec.pruning.portable import write_tokenizer

        parts = source.parts
        if parts.pooling not in IN_ONNX:
            raise CheckpointError(f"the ONNX graph cannot pool by {parts.pooling}; expected one of {', '.join(IN_ONNX)}")
        if str(parts.model.dtype) != "torch.float32":
            raise CheckpointError(f"the ONNX graph is in fp32, this encoder in {parts.model.dtype}; load it in float32")
        masked = source.parts.leaves_out_prompts
        write_graph(parts, folder / MODEL, with_pooling_mask=masked)
        write_tokenizer(parts.tokenizer, folder, max_length=parts.max_length)
        prompts = {
            # As many leading tokens as sentence-transformers takes for the prompt's.
            name: {"text": prompt, "tokens": min(parts.max_length, len(prompt_ids(parts.tokenizer, prompt)))}
            for name, prompt in parts.prompts.items()
        }
        parity = _check(source, folder, prompts)
        usage = {
            "model": MODEL.as_posix(),
            "tokenizer": "tokenizer.json",
            "opset": OPSET,
            "inputs": list(input_names(with_pooling_mask=masked)),
            "outputs": list(OUTPUTS),
            "prompts": prompts,
        }
        has_data = (folder / MODEL).with_suffix(".onnx.data").exists()
        return Written(readme=_readme(source, usage, parity, has_data=has_data), usage=usage, parity=parity)


def _check(source: ExportSource, folder: Path, prompts: Mapping[str, Mapping[str, Any]]) -> Parity:
    """Return the worst agreement over several batch sizes."""
    import numpy as np

    from prune2vec.exporting.onnx_graph import OnnxEncoder
    from prune2vec.pruning.encoder import encode_probe
    from prune2vec.pruning.parity import PROBE_TEXTS, compare_vectors, probe_prompts

    reference = encode_probe(source.encoder)
    written = OnnxEncoder(folder, max_length=source.parts.max_length)
    counts = {prompt["text"]: prompt["tokens"] for prompt in prompts.values()}
    found = []
    for size in _BATCH_SIZES:
        vectors = [
            written.encode(PROBE_TEXTS, prompt=prompt, prompt_tokens=counts.get(prompt, 0), batch_size=size)
            for prompt in probe_prompts(source.parts.prompts)
        ]
        found.append(compare_vectors(reference, np.concatenate(vectors), named="the encoder in memory"))
    return max(found, key=lambda parity: parity.max_difference)


_EXAMPLE = '''import json
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

folder = Path("path/to/this/folder")
about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
session = InferenceSession(str(folder / about["model"]), providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(folder / about["tokenizer"]))
tokenizer.enable_truncation(about["max_length"])
tokenizer.enable_padding()


def encode(texts, prompt=None):
    """Return one vector a text; prompt is a name in export.json, as "query"."""
    prompt = about["prompts"][prompt] if prompt else {"text": "", "tokens": 0}
    rows = tokenizer.encode_batch([prompt["text"] + text for text in texts])
    mask = np.array([row.attention_mask for row in rows], dtype=np.int64)
    inputs = {"input_ids": np.array([row.ids for row in rows], dtype=np.int64), "attention_mask": mask}
    if "pooling_mask" in about["inputs"]:
        inputs["pooling_mask"] = mask.copy()
        inputs["pooling_mask"][:, : prompt["tokens"]] = 0
    return session.run(["sentence_embedding"], inputs)[0]


print(encode(["where to look", "another text"]).shape)
'''


def _readme(source: ExportSource, usage: Mapping[str, Any], parity: Parity, *, has_data: bool) -> str:
    from prune2vec.models.heads import head_words

    parts = source.parts
    mask = (
        "\n- `pooling_mask`: 1 where a token is pooled. This encoder leaves the tokens of its prompts out of the pooling; "
        "without a prompt it equals `attention_mask`."
        if "pooling_mask" in usage["inputs"]
        else ""
    )
    heads = f", {head_words(parts.heads)}" if parts.heads else ""
    cut = f", cut to {parts.truncate_dim} dimensions" if parts.truncate_dim is not None else ""
    ending = f"{heads}{' and L2 normalisation' if parts.normalize else ''}{cut}"
    sizes = ", ".join(map(str, _BATCH_SIZES))
    data = " The weights are in `onnx/model.onnx.data`: keep it beside the model." if has_data else ""
    prompts = (
        ", ".join(markdown(f"{name} {prompt['text']!r}") for name, prompt in usage["prompts"].items() if prompt["text"])
        or "none"
    )
    return f"""# {markdown(source.name)} in ONNX

One graph in fp32, opset {usage["opset"]}, from token numbers to vectors, {parts.pooling} pooling{ending} included. Any batch size; texts
of up to {parts.max_length} tokens. Prompts: {prompts}.{data}

Inputs, all int64 of shape (batch, sequence), padded on the right:

- `input_ids`
- `attention_mask`: 1 where there is a token.{mask}

Outputs in fp32: `sentence_embedding` (batch, dim), and `token_embeddings` (batch, sequence, dim), in which padding is meaningless.

## Use

```python
{_EXAMPLE}```

`export.json` has the names, the prompts and the limits.

## Check

Run with onnxruntime on {parity.texts} texts in batches of {sizes}, and compared with {parity.reference}:
largest difference {parity.max_difference:.2g}, smallest cosine {parity.min_cosine:.6f}.
"""

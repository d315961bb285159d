"""ONNX: one graph from token numbers to vectors, for onnxruntime and everything built on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.errors import CheckpointError, import_extra, markdown
from prune2vec.exporting.target import ExportSource, Written, targets
from prune2vec.files import read_json, write_json

if TYPE_CHECKING:
    from prune2vec.pruning.parity import Parity

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
# Alone, in pairs, in threes and fours: short texts beside long ones are padded on the right.
_BATCH_SIZES = (1, 2, 3, 4)


@targets.register("onnx")
class OnnxTarget:
    """One ONNX graph in fp32, fp16 or int8, pooling, heads and normalisation included, for encoders of any family."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")

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
        """Write graph, tokeniser and all small files of the encoder, run the graph on the probe texts and compare.

        A graph in fewer bits takes the place of the one in fp32 after that, and is compared with it.

        Raises:
            CheckpointError: The pooling is not one of the graph's, the model is not in fp32 or cannot be turned into a
                graph, its vectors differ from the encoder's, or those in fewer bits by more than a mean cosine of 0.98.
        """
        from prune2vec.exporting.onnx_graph import DATA, INPUTS, MODEL, OPSET, OUTPUTS, POOLING_MASK, write_graph
        from prune2vec.exporting.onnx_precision import lower_precision
        from prune2vec.forward.pooling import IN_FOLDERS
        from prune2vec.models.tokens import prompt_ids
        from prune2vec.pruning.portable import write_beside_weights

        parts = source.parts
        if parts.pooling not in IN_FOLDERS:
            raise CheckpointError(f"the ONNX graph cannot pool by {parts.pooling}; expected one of {', '.join(IN_FOLDERS)}")
        if str(parts.model.dtype) != "torch.float32":
            raise CheckpointError(f"the ONNX graph is made in fp32, this encoder is in {parts.model.dtype}; load it in float32")
        write_graph(parts, folder / MODEL)
        # Stock, whatever its blocks: the graph has the computation, and without weights no class can build another one.
        write_beside_weights(parts, folder)
        # As many leading tokens as sentence-transformers takes for the prompt's.
        tokens = {text: min(parts.max_length, len(prompt_ids(parts.tokenizer, text))) for text in parts.prompts.values()}
        parity, agreement = _check(source, folder, tokens), None
        if source.precision not in ("", "fp32"):
            agreement = lower_precision(parts, folder, source.precision, prompt_tokens=tokens, force=source.force)
        has_data = (folder / DATA).exists()
        _tell_transformers_js(folder / "config.json", MODEL.name, has_data=has_data)
        usage = {
            "model": MODEL.as_posix(),
            "tokenizer": "tokenizer.json",
            "opset": OPSET,
            "precision": source.precision or "fp32",
            "agreement": asdict(agreement) if agreement is not None else None,
            "inputs": list(INPUTS),
            "optional_inputs": [POOLING_MASK] if parts.leaves_out_prompts else [],
            "outputs": list(OUTPUTS),
            "prompts": {name: {"text": text, "tokens": tokens[text]} for name, text in parts.prompts.items()},
        }
        notes = [_POOLED_PROMPTS] if parts.leaves_out_prompts else []
        notes += [agreement.render()] if agreement is not None else []
        readme = _readme(source, usage, parity, notes, has_data=has_data)
        return Written(readme=readme, usage=usage, parity=parity, notes=tuple(notes))


def _tell_transformers_js(path: Path, model: str, *, has_data: bool) -> None:
    """Name the one graph that is there: in a browser transformers.js looks for one in 8 bits under another name."""
    told = {"dtype": "fp32", **({"use_external_data_format": {model: True}} if has_data else {})}
    write_json(path, {**read_json(path), "transformers.js_config": told})


def _check(source: ExportSource, folder: Path, tokens: Mapping[str, int]) -> Parity:
    """Return the worst agreement over several batch sizes."""
    import numpy as np

    from prune2vec.exporting.onnx_graph import OnnxEncoder
    from prune2vec.pruning.encoder import encode_probe
    from prune2vec.pruning.parity import PROBE_TEXTS, compare_vectors, probe_prompts

    reference = encode_probe(source.encoder)
    written = OnnxEncoder(folder, max_length=source.parts.max_length)
    found = []
    for size in _BATCH_SIZES:
        vectors = [
            written.encode(PROBE_TEXTS, prompt=prompt, prompt_tokens=tokens.get(prompt, 0), batch_size=size)
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
    if prompt["tokens"] and about["optional_inputs"]:
        inputs["pooling_mask"] = mask.copy()
        inputs["pooling_mask"][:, : prompt["tokens"]] = 0
    return session.run(["sentence_embedding"], inputs)[0]


print(encode(["where to look", "another text"]).shape)
'''


_FRAMEWORKS = """# pip install 'sentence-transformers[onnx]'
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer("path/to/this/folder", backend="onnx")

# pip install fastembed
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

TextEmbedding.add_custom_model(
    "encoder",
    pooling=PoolingType.DISABLED,
    normalization=False,
    output_name="sentence_embedding",
    sources=ModelSource(url="file:"),
    dim={dim},
    model_file="onnx/model.onnx",{data}
)
encoder = TextEmbedding("encoder", specific_model_path="path/to/this/folder")
"""
_POOLED_PROMPTS = (
    "runtimes that feed input_ids and attention_mask alone (fastembed, transformers.js, text-embeddings-inference) pool the tokens of a "
    "prompt too, so texts behind one get other vectors there; sentence-transformers, and who feeds pooling_mask, leave them out"
)


def _readme(source: ExportSource, usage: Mapping[str, Any], parity: Parity, notes: list[str], *, has_data: bool) -> str:
    from prune2vec.models.heads import head_words

    parts = source.parts
    mask = (
        "\n- `pooling_mask`, which may be left out: 1 where a token is pooled; the encoder leaves the tokens of its prompts out of the "
        "pooling. Without it all tokens are. onnxruntime warns that it is not constant, as it must be."
        if usage["optional_inputs"]
        else ""
    )
    heads = f", {head_words(parts.heads)}" if parts.heads else ""
    cut = f", cut to {parts.truncate_dim} dimensions" if parts.truncate_dim is not None else ""
    ending = f"{heads}{' and L2 normalisation' if parts.normalize else ''}{cut}"
    sizes = ", ".join(map(str, _BATCH_SIZES))
    data = " The weights are in `onnx/model.onnx_data`: keep it beside the model." if has_data else ""
    prompts = (
        ", ".join(markdown(f"{name} {prompt['text']!r}") for name, prompt in usage["prompts"].items() if prompt["text"])
        or "none"
    )
    files = '\n    additional_files=["onnx/model.onnx_data"],' if has_data else ""
    frameworks = _FRAMEWORKS.format(dim=source.encoder.get_embedding_dimension(), data=files)
    return f"""# {markdown(source.name)} in ONNX

One graph in {usage["precision"]}, opset {usage["opset"]}, from token numbers to vectors, {parts.pooling} pooling{ending} included.
Any batch size; texts of up to {parts.max_length} tokens. Prompts: {prompts}.{data}

Inputs, all int64 of shape (batch, sequence), padded on the right:

- `input_ids`
- `attention_mask`: 1 where there is a token.{mask}

Outputs in fp32: `last_hidden_state` (batch, sequence, dim), in which padding is meaningless, and `sentence_embedding` (batch, dim).

## Use

With onnxruntime and tokenizers alone; `export.json` has the names, the prompts and the limits:

```python
{_EXAMPLE}```

With sentence-transformers or fastembed; transformers.js takes the folder as it is (`sentence_embedding` of a model's output):

```python
{frameworks}```

## Check

The graph in fp32, run with onnxruntime on {parity.texts} texts in batches of {sizes}, and compared with {parity.reference}:
largest difference {parity.max_difference:.2g}, smallest cosine {parity.min_cosine:.6f}.
{"".join(f"{chr(10)}- {markdown(note)}" for note in notes)}
"""

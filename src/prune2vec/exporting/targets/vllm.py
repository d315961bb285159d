"""vLLM: a folder that its ``DeciLMForCausalLM`` loads, dropped sub-layers and uneven widths included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune2vec.errors import CheckpointError, markdown
from prune2vec.exporting.target import ExportSource, Written, targets
from prune2vec.files import read_json, write_json, write_text

_NOT_RUN = "only names and shapes of the tensors were checked here; compare a few vectors once vLLM serves the folder"
_ZEROED = "block {0} has no attention, which vLLM needs in the first block: it is written with zeros and costs its time"
_CODE_LINE = "which only gives the blocks' entries in config.json the form that vLLM expects."
_EVEN = "all blocks are alike: vLLM also loads the encoder's own folder, without --trust-remote-code"


@targets.register("vllm")
class VllmTarget:
    """vLLM's DeciLM layout, for Llama-like encoders with uneven blocks; mean, cls and lasttoken pooling."""

    def prepare(self) -> None:
        """Nothing is needed: vLLM itself is not imported."""

    def dtype_for(self, folder: Path) -> str:
        """Return the dtype of the encoder's weights."""
        path = folder / "config.json"
        config = read_json(path) if path.is_file() else {}
        name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        return name if name in ("float32", "bfloat16", "float16") else "float32"

    def write(self, source: ExportSource, folder: Path) -> Written:
        """Write config, weights, tokeniser and the small files from which vLLM reads pooling and longest text.

        Raises:
            CheckpointError: The layout, or vLLM's pooling, cannot express the encoder.
        """
        from huggingface_hub import save_torch_state_dict

        from prune2vec.exporting.decilm import to_decilm
        from prune2vec.forward.pooling import IN_VLLM
        from prune2vec.models.block_layout import is_even, layout_of
        from prune2vec.pruning.portable import write_modules, write_tokenizer

        parts = source.parts
        if parts.pooling not in IN_VLLM:
            raise CheckpointError(
                f"vLLM cannot pool by {parts.pooling}; it serves {', '.join(IN_VLLM)}: "
                "prune or train the encoder with one of these, or export it to onnx"
            )
        if source.leaves_out_prompts:
            names = ", ".join(name for name, prompt in parts.prompts.items() if prompt)
            raise CheckpointError(
                f"vLLM pools a prompt's tokens too; this encoder leaves those of its prompts ({names}) out of its "
                f"{parts.pooling}: use lasttoken pooling or no prompt, or export it to onnx"
            )
        made = to_decilm(parts.model, max_length=parts.max_length)
        save_torch_state_dict(made.tensors, folder)
        write_json(folder / "config.json", made.config)
        code = Path(__file__).parent.parent / "configuration_decilm.py"
        write_text(folder / code.name, code.read_text(encoding="utf-8"))
        write_tokenizer(parts.tokenizer, folder, max_length=parts.max_length)
        # vLLM takes the first entry that is true for the pooling.
        write_modules(parts, folder, poolings=IN_VLLM)
        notes = [_NOT_RUN]
        if made.zeroed is not None:
            notes.append(_ZEROED.format(made.zeroed))
        if is_even(layout_of(parts.model)):
            notes.append(_EVEN)
        usage = {"prompts": dict(parts.prompts), "dtype": made.config["dtype"], "command": _command(made.config)}
        return Written(readme=_readme(source, made.config, notes), usage=usage, notes=tuple(notes))


def _command(config: Mapping[str, Any]) -> str:
    return f"vllm serve FOLDER --runner pooling --trust-remote-code --dtype {config['dtype']}"


def _readme(source: ExportSource, config: Mapping[str, Any], notes: list[str]) -> str:
    parts = source.parts
    lines = "\n".join(f"- {markdown(f'{name}: {prompt!r}')}" for name, prompt in parts.prompts.items() if prompt) or "- none"
    return f"""# {markdown(source.name)} for vLLM

A text encoder of {config["num_hidden_layers"]} blocks in vLLM's DeciLM layout, which takes dropped attentions, dropped MLPs and a width of
its own for each MLP.

```sh
{_command(config)}
curl localhost:8000/v1/embeddings -H 'Content-Type: application/json' -d '{{"model": "FOLDER", "input": ["some text"]}}'
```

`--trust-remote-code` runs configuration_decilm.py of this folder, {_CODE_LINE}
It needs a vLLM whose DeciLM reads `ffn.intermediate_size`; an older one stops with an error about `ffn_mult`.

Pooling: {parts.pooling}{", L2-normalised" if parts.normalize else ""}. Longest text: {parts.max_length} tokens. vLLM refuses longer ones:
cut them at that many tokens before sending them, because the encoder keeps their beginning and vLLM's own truncation may keep their end.

vLLM adds no prompt. Put it before the text yourself:

{lines}

Notes:

{chr(10).join(f"- {markdown(note)}" for note in notes)}
"""

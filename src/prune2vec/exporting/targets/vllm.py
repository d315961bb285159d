"""vLLM: a folder that its ``DeciLMForCausalLM`` loads, dropped sub-layers and uneven widths included.

A DeciLM block is a Llama block (RMSNorm, rotary attention, gated SiLU MLP) whose attention or MLP may be missing and
whose MLP may have a width of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.errors import CheckpointError, markdown
from prune2vec.exporting.target import ExportSource, Written, check_pooled, short_window, targets
from prune2vec.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from prune2vec.models.block_layout import Layout

_NOT_RUN = "only names and shapes of the tensors were checked here; compare a few vectors once vLLM serves the folder"
_ZEROED = "block {0} has no attention, which vLLM needs in the first block: it is written with zeros and costs its time"
_CODE_LINE = "which only gives the blocks' entries in config.json the form that vLLM expects."
_EVEN = "all blocks are alike: vLLM also loads the encoder's own folder, without --trust-remote-code"
MODEL_TYPES = ("llama", "mistral", "qwen2")
"""Model types whose blocks are Llama's, the biases of the projections aside."""
_ROPE_TYPES = ("default", "linear", "llama3")
_SAME = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


@dataclass(frozen=True, kw_only=True)
class DeciLM:
    """A checkpoint in memory.

    Attributes:
        config: Content of config.json.
        tensors: The weights, under the names of a causal LM; there is no LM head.
        zeroed: Number of the block whose missing attention is written as zeros, because vLLM's code needs one there.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    zeroed: int | None = None


def to_decilm(model: PreTrainedModel, *, max_length: int) -> DeciLM:
    """Return a model as a DeciLM checkpoint; a sliding window no shorter than ``max_length`` tokens changes nothing.

    Raises:
        CheckpointError: The layout would compute the model differently, has no place for one of its tensors, or needs one
            that it lacks.
    """
    import torch

    from prune2vec.models.block_layout import is_even, layout_of

    layout = layout_of(model)
    refused = "vLLM's DeciLM layout cannot express this encoder"
    own = "its blocks are all alike: serve the encoder's own folder, and compare with doctor --against URL"
    instead = own if is_even(layout) else "export it to onnx"
    reason = _inexpressible(model.config, layout, max_length)
    if reason is not None:
        raise CheckpointError(f"{refused}: {reason}; {instead}")
    tensors = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    # vLLM's block starts the residual stream in its attention: an MLP before the first attention finds none.
    first = next(number for number, block in enumerate(layout) if block.attention or block.mlp)
    zeroed = None if layout[first].attention else first
    config = _config(model.config, layout, zeroed)
    expected = expected_shapes(config)
    if zeroed is not None:
        parts = tuple(f"model.layers.{zeroed}.{part}." for part in ("self_attn", "input_layernorm"))
        tensors |= {name: torch.zeros(shape, dtype=model.dtype) for name, shape in expected.items() if name.startswith(parts)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{refused}: {name} has shape {found.get(name, 'none (it is missing)')}, the layout has "
            f"{expected.get(name, 'no place for it')} ({len(wrong)} such tensors); {instead}"
        )
    return DeciLM(config=config, tensors=tensors, zeroed=zeroed)


def _inexpressible(config: Any, layout: Layout, max_length: int) -> str | None:
    """Return what the layout would compute differently, or None."""
    if config.model_type not in MODEL_TYPES:
        return f"its model type is {config.model_type}, whose blocks are not Llama's; expected one of {', '.join(MODEL_TYPES)}"
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False):
        return "its attention is bidirectional, the layout's is causal"
    if (window := short_window(config, max_length)) is not None:
        return f"its attention sees {window} tokens back, fewer than the longest text ({max_length} tokens)"
    rope = getattr(config, "rope_parameters", None) or {}
    if (kind := rope.get("rope_type", "default")) not in _ROPE_TYPES:
        return f"its rotary embedding is of type {kind!r}; expected one of {', '.join(_ROPE_TYPES)}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "it rotates only a part of each head"
    if config.hidden_act != "silu":
        return f"its MLPs use {config.hidden_act}; expected silu"
    if not any(block.attention for block in layout):
        return "no block has attention, and vLLM takes the number of key-value heads from one that has"
    return None


def _config(config: Any, layout: Layout, zeroed: int | None) -> dict[str, Any]:
    from prune2vec.pruning.portable import legacy_rope_entries

    group = config.num_attention_heads // config.num_key_value_heads
    blocks = []
    for number, block in enumerate(layout):
        attention = {"no_op": False, "n_heads_in_group": group} if block.attention or number == zeroed else {"no_op": True}
        ffn = {"no_op": False, "intermediate_size": block.width} if block.mlp else {"no_op": True}
        blocks.append({"attention": attention, "ffn": ffn})
    entries = {name: value for name in _SAME if (value := getattr(config, name, None)) is not None}
    dtype = str(config.dtype).removeprefix("torch.")
    return {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        **entries,
        **legacy_rope_entries(entries),
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "num_hidden_layers": len(layout),
        # Nothing reads this one; the widths are the blocks'.
        "intermediate_size": max((block.width or 1 for block in layout), default=1),
        "attention_bias": bool(getattr(config, "attention_bias", False)),
        "mlp_bias": bool(getattr(config, "mlp_bias", False)),
        # Qwen2 has biases on query, key and value, and none on the output.
        **({"qkv_bias": True} if config.model_type == "qwen2" else {}),
        # There is no LM head to load.
        "tie_word_embeddings": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        "block_configs": blocks,
    }


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that vLLM makes for such a config."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries = config["num_attention_heads"] * head
    with_bias, mlp_bias = config.get("qkv_bias", config["attention_bias"]), config["mlp_bias"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for number, block in enumerate(config["block_configs"]):
        prefix = f"model.layers.{number}"
        linears: list[tuple[str, int, int, bool]] = []
        if not block["attention"]["no_op"]:
            keys = queries // block["attention"]["n_heads_in_group"]
            shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
            linears += [
                (f"self_attn.{name}_proj", width, hidden, with_bias)
                for name, width in zip("qkv", (queries, keys, keys), strict=True)
            ]
            linears += [("self_attn.o_proj", hidden, queries, config["attention_bias"])]
        if not block["ffn"]["no_op"]:
            width = block["ffn"]["intermediate_size"]
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
            linears += [(f"mlp.{name}_proj", width, hidden, mlp_bias) for name in ("gate", "up")]
            linears += [("mlp.down_proj", hidden, width, mlp_bias)]
        for path, outputs, inputs, bias in linears:
            shapes[f"{prefix}.{path}.weight"] = (outputs, inputs)
            if bias:
                shapes[f"{prefix}.{path}.bias"] = (outputs,)
    return shapes


@targets.register("vllm")
class VllmTarget:
    """vLLM's DeciLM layout, for Llama-like encoders with uneven blocks; mean, cls and lasttoken pooling."""

    precisions: tuple[str, ...] = ()

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

        from prune2vec.forward.pooling import IN_VLLM
        from prune2vec.models.block_layout import is_even, layout_of
        from prune2vec.pruning.portable import write_modules, write_tokenizer

        parts = source.parts
        check_pooled(parts, "vLLM", IN_VLLM)
        if parts.leaves_out_prompts:
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

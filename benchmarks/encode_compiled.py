"""Texts a second of the engine as it is, with the products of one input joined, with its small operations compiled, and with both.

Joined: queries, keys and values are one matrix product, and so are gate and up. Compiled: torch.compile makes one kernel each of what
lies between the products (norms, residuals, SwiGLU, rotary embeddings), for any number of tokens, shared by all layers. Sides take
turns; a ratio is the median over the rounds of the seconds as it is by a side's. For models built like Llama.

python benchmarks/encode_compiled.py --encoder ENCODER --out benchmarks/results/encode-compiled.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import abab, markdown_table, write_result
from encode_speed import MAX_LENGTH, workloads
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from transformers.models.llama import modeling_llama

from prune2vec.encoding.engine import Engine
from prune2vec.pruning.encoder import load_encoder, read_record


class OneOfJoined(nn.Module):
    """One of several projections of the same input, which the first of them multiplies at once."""

    def __init__(self, shared: dict[str, Any], place: int) -> None:
        super().__init__()
        self._shared, self._place = shared, place

    def forward(self, states: Tensor) -> Tensor:
        """Return this projection's share of the product."""
        if self._place == 0:
            self._shared["parts"] = linear(states, self._shared["weight"]).split(self._shared["sizes"], dim=-1)
        part: Tensor = self._shared["parts"][self._place]
        return part


def join(owner: nn.Module, names: tuple[str, ...]) -> None:
    """Put one product in the place of several projections without a bias."""
    weights = [getattr(owner, name).weight for name in names]
    shared = {"weight": torch.cat(weights), "sizes": [len(weight) for weight in weights]}
    for place, name in enumerate(names):
        setattr(owner, name, OneOfJoined(shared, place))


def normed(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMSNorm as transformers computes it."""
    wide = states.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(states.dtype)


def added_and_normed(states: Tensor, more: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return a residual's sum, and its norm."""
    states = states + more
    return states, normed(states, weight, eps)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Return SwiGLU of both projections."""
    return silu(gate) * up


def compile_layers(layers: nn.ModuleList) -> None:
    """Give the layers forward functions whose small operations are compiled once for all."""
    norm = torch.compile(normed, dynamic=True)
    add, gate = torch.compile(added_and_normed, dynamic=True), torch.compile(gated, dynamic=True)

    def forward_of(layer: Any) -> Callable[..., Tensor]:
        first, second, mlp = layer.input_layernorm, layer.post_attention_layernorm, layer.mlp

        def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
            found, _ = layer.self_attn(norm(hidden_states, first.weight, first.variance_epsilon), **kwargs)
            states, inner = add(hidden_states, found, second.weight, second.variance_epsilon)
            narrowed: Tensor = mlp.down_proj(gate(mlp.gate_proj(inner), mlp.up_proj(inner)))
            return states + narrowed

        return forward

    for layer in layers:
        layer.forward = forward_of(layer)


def engine_of(folder: Path, dtype: str, *, joined: bool, compiled: bool) -> Engine:
    """Return an engine of its own for a side."""
    encoder: Any = load_encoder(folder, device="cpu", dtype=dtype)
    encoder.max_seq_length = MAX_LENGTH
    layers = encoder[0].auto_model.layers
    for layer in layers if joined else ():
        join(layer.self_attn, ("q_proj", "k_proj", "v_proj"))
        join(layer.mlp, ("gate_proj", "up_proj"))
    if compiled:
        compile_layers(layers)
    return Engine(encoder)


def main() -> None:
    """Measure, print the table, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    kinds = {
        "as it is": {},
        "joined": {"joined": True},
        "compiled": {"compiled": True},
        "both": {"joined": True, "compiled": True},
    }
    sides = {name: {"joined": False, "compiled": False, **kind} for name, kind in kinds.items()}
    engines = {name: engine_of(given.encoder, given.dtype, **kind) for name, kind in sides.items()}
    rotary = {
        False: modeling_llama.apply_rotary_pos_emb,
        True: torch.compile(modeling_llama.apply_rotary_pos_emb, dynamic=True),
    }
    first: dict[str, float] = {}

    def encoding(name: str, texts: list[str]) -> Callable[[], np.ndarray]:
        def encode() -> np.ndarray:
            modeling_llama.apply_rotary_pos_emb = rotary[sides[name]["compiled"]]
            return engines[name].encode(texts)

        return encode

    found: dict[str, Any] = {}
    for kind, texts in workloads().items():
        vectors = {}
        for name in sides:
            begun = time.perf_counter()
            vectors[name] = encoding(name, texts)()
            first[name] = first.get(name, 0.0) + time.perf_counter() - begun
        plain = vectors["as it is"]
        measured = abab({name: encoding(name, texts) for name in sides}, given.rounds)
        found[kind] = {
            name: {**side, "largest_difference": float(np.abs(vectors[name] - plain).max())} for name, side in measured.items()
        }
        print(f"{kind}: { {name: round(side['ratio'], 2) for name, side in measured.items()} }", file=sys.stderr)
    rows = [(kind, *(f"{of[name]['ratio']:.2f}" for name in sides)) for kind, of in found.items()]
    print(markdown_table(("texts", *sides), rows))
    extra = {name: seconds - first["as it is"] for name, seconds in first.items()}
    print(f"first calls took so many seconds more: { {name: round(seconds, 1) for name, seconds in extra.items()} }")
    about = {"dtype": given.dtype, "rounds": given.rounds, "keep_layers": read_record(given.encoder).get("keep_layers")}
    write_result(given.out, {"settings": about, "workloads": found, "first_calls_longer_by_s": extra})


if __name__ == "__main__":
    main()

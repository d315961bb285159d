"""A model folder of the shape of a large Llama with random weights, written tensor by tensor: never more than 100 MB of it in memory.

Values are normal(0, 0.02) in bfloat16; every piece of 1 Mi values is taken from one drawn pool at a place drawn by seed and
tensor name, so that writing goes at the disk's speed and tensors differ. The tokeniser is that of another model, whose
vocabulary is smaller; ids beyond it never occur. Texts mean nothing to such a model: it is for time and memory.

python benchmarks/random_model.py FOLDER --like 8B
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers import LlamaConfig

from prune2vec.files import write_json
from prune2vec.machine import peak_rss_bytes
from prune2vec.models.load import load_tokenizer
from prune2vec.models.source import resolve_source
from prune2vec.outputs import staged_folder

POOL, PIECE = (1 << 25) + 1, 1 << 20
SHARD_BYTES = 5 * 10**9
FREE_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Sizes:
    """Sizes of a Llama."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int = 128256
    positions: int = 8192

    def config(self) -> LlamaConfig:
        """Return the model's config, Llama 3's in everything else."""
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            num_hidden_layers=self.layers,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=self.positions,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            tie_word_embeddings=False,
            dtype="bfloat16",
        )


LIKE = {
    "8B": Sizes(32, 4096, 14336, 32, 8),
    "70B": Sizes(80, 8192, 28672, 64, 8),
}


def tensors(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor, in the order of the model."""
    kv = sizes.hidden // sizes.heads * sizes.kv_heads
    yield "model.embed_tokens.weight", (sizes.vocabulary, sizes.hidden)
    for layer in range(sizes.layers):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", (sizes.hidden,)
        yield f"{block}.self_attn.q_proj.weight", (sizes.hidden, sizes.hidden)
        yield f"{block}.self_attn.k_proj.weight", (kv, sizes.hidden)
        yield f"{block}.self_attn.v_proj.weight", (kv, sizes.hidden)
        yield f"{block}.self_attn.o_proj.weight", (sizes.hidden, sizes.hidden)
        yield f"{block}.post_attention_layernorm.weight", (sizes.hidden,)
        yield f"{block}.mlp.gate_proj.weight", (sizes.intermediate, sizes.hidden)
        yield f"{block}.mlp.up_proj.weight", (sizes.intermediate, sizes.hidden)
        yield f"{block}.mlp.down_proj.weight", (sizes.hidden, sizes.intermediate)
    yield "model.norm.weight", (sizes.hidden,)
    yield "lm_head.weight", (sizes.vocabulary, sizes.hidden)


def total_bytes(sizes: Sizes) -> int:
    """Return the bytes of all tensors."""
    return sum(2 * _count(shape) for _, shape in tensors(sizes))


def write_random_model(folder: Path, sizes: Sizes, *, seed: int = 0, tokenizer: str = "smollm2") -> Path:
    """Write the model as sharded safetensors with an index, under a temporary name until it is whole.

    Raises:
        OSError: The disk has not room enough.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    need, free = total_bytes(sizes) + FREE_BYTES, shutil.disk_usage(folder.parent).free
    if need > free:
        raise OSError(f"{folder}: the model and some room beside it take {need / 1e9:.1f} GB, the disk has {free / 1e9:.1f}")
    pool = (
        torch.empty(POOL).normal_(0, 0.02, generator=torch.Generator().manual_seed(seed)).bfloat16().view(torch.int16).numpy()
    )
    shards = _shards(sizes)
    file_of: dict[str, str] = {}
    with staged_folder(folder, "a random model") as stage:
        for number, shard in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            file_of.update(dict.fromkeys((name for name, _ in shard), file))
            with (stage / file).open("wb") as out:
                _write_shard(out, shard, pool, seed)
        index = {"metadata": {"total_size": total_bytes(sizes)}, "weight_map": file_of}
        write_json(stage / "model.safetensors.index.json", index)
        tokens = load_tokenizer(resolve_source(tokenizer))
        tokens.save_pretrained(stage)
        config = sizes.config()
        config.bos_token_id, config.eos_token_id = tokens.bos_token_id, tokens.eos_token_id
        config.save_pretrained(stage)
        write_json(stage / "random_model.json", {**asdict(sizes), "seed": seed, "tokenizer": tokenizer})
    return folder


def _shards(sizes: Sizes) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Cut the tensors into files of about ``SHARD_BYTES``."""
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    held = 0
    for name, shape in tensors(sizes):
        size = 2 * _count(shape)
        if shards[-1] and held + size > SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append((name, shape))
        held += size
    return shards


def _write_shard(out: BinaryIO, shard: list[tuple[str, tuple[int, ...]]], pool: Any, seed: int) -> None:
    """Write one safetensors file: the size of the header, the header, the values. The library would hold all of them."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shard:
        end = begin + 2 * _count(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    out.write(struct.pack("<Q", len(head)) + head)
    for name, shape in shard:
        if len(shape) == 1:
            out.write(torch.ones(shape, dtype=torch.bfloat16).view(torch.int16).numpy().data)
            continue
        draw = random.Random(f"{seed}:{name}")
        for done in range(0, _count(shape), PIECE):
            start = draw.randrange(POOL - PIECE)
            out.write(pool[start : start + min(PIECE, _count(shape) - done)].data)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def main() -> None:
    """Write the model, say how large it is and what its making took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--like", choices=LIKE, default="8B", help="sizes of Llama 3 8B or 70B, unless given below")
    for name in ("layers", "hidden", "intermediate", "heads", "kv-heads", "vocabulary"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", default="smollm2", help="model whose tokeniser it gets")
    options = parser.parse_args()
    given = {name: value for name, value in vars(options).items() if name in Sizes.__annotations__ and value is not None}
    sizes = replace(LIKE[options.like], **given)
    write_random_model(options.folder, sizes, seed=options.seed, tokenizer=options.tokenizer)
    print(f"{options.folder}: {total_bytes(sizes) / 1e9:.2f} GB, peak RSS of its making {peak_rss_bytes() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()

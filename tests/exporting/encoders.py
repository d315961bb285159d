"""Tiny encoders in memory, even and uneven, and random plans for them."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from prune2vec.errors import MissingExtra
from prune2vec.exporting.export import Exported, prepared, write_export
from prune2vec.exporting.target import targets
from prune2vec.models.cut import cut_model
from prune2vec.models.families import find_family, without_head
from prune2vec.models.kept import Kept
from prune2vec.models.shape import measure_shape
from prune2vec.planning.plan import PruningPlan
from tests.models.silence import plan_of
from tests.tiny import tiny_model, tiny_tokenizer

TEXTS = ["a", "quick brown fox", "in  2024,   365 days; 12  34", "the lazy dog sings " * 20]
INSTRUCTION = {"query": "find what answers:\n", "document": ""}


def installed_targets() -> list[str]:
    """Return the export targets whose extra is installed."""
    found = []
    for name in targets.names():
        with contextlib.suppress(MissingExtra):
            targets.get(name)().prepare()
            found.append(name)
    return found


def export_loaded(encoder: SentenceTransformer, *, target: str, output: Path, name: str = "encoder") -> Exported:
    """Export an encoder in memory."""
    return write_export(prepared(target, output), encoder, target=target, output=output, name=name)


def tiny_encoder(
    folder: Path,
    family: str = "llama",
    *,
    pooling: str = "mean",
    include_prompt: bool = False,
    prompts: dict[str, str] | None = None,
    max_length: int = 48,
    normalize: bool = True,
    bos: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> SentenceTransformer:
    """Return an encoder of whole blocks; ``folder`` is scratch space."""
    bare = folder / f"bare-{family}-{seed}-{len(list(folder.glob('bare-*')))}"
    tiny_model(family, seed, **changes).to(dtype).save_pretrained(bare)
    tiny_tokenizer(bos=bos).save_pretrained(bare)
    transformer = Transformer(str(bare), max_seq_length=max_length, model_kwargs={"dtype": dtype})
    without_head(transformer.auto_model)
    end = [Normalize()] if normalize else []
    modules = [transformer, Pooling(32, pooling_mode=pooling, include_prompt=include_prompt), *end]
    return SentenceTransformer(modules=modules, prompts=prompts, device="cpu").eval()


def cut_encoder(encoder: SentenceTransformer, plan: PruningPlan | Kept) -> SentenceTransformer:
    """Cut the encoder's model in place and return the encoder."""
    transformer = encoder[0]
    neurons = plan.neurons if isinstance(plan, PruningPlan) else {}
    transformer.model = cut_model(transformer.auto_model, plan.kept if isinstance(plan, PruningPlan) else plan, neurons)
    assert transformer.auto_model is transformer.model
    return encoder


def plan_for(encoder: SentenceTransformer, kept: Kept, widths: dict[int, int] | None = None, seed: int = 0) -> PruningPlan:
    """Return a plan for the encoder that also narrows some MLPs, by random neurons."""
    model = encoder[0].auto_model
    shape = measure_shape(model, find_family(model, model.config), bytes_per_param=4)
    draw = random.Random(seed)
    neurons = {
        layer: tuple(sorted(draw.sample(range(shape.mlp_width[layer]), width))) for layer, width in (widths or {}).items()
    }
    return plan_of(model, kept, neurons)


def random_plan(encoder: SentenceTransformer, seed: int) -> PruningPlan:
    """Return a random plan that leaves at least one attention."""
    draw = random.Random(seed)
    count = len(encoder[0].auto_model.layers)
    layers = sorted(draw.sample(range(count), draw.randint(2, count)))
    attention = draw.sample(layers, draw.randint(0, len(layers) - 1))
    rest = [layer for layer in layers if layer not in attention]
    mlp = draw.sample(rest, draw.randint(0, min(len(rest), len(layers) - 1)))
    kept = Kept.of(layers, drop_attention=attention, drop_mlp=mlp)
    widths = {layer: draw.randint(1, 47) for layer in kept.mlps if draw.random() < 0.6}
    return plan_for(encoder, kept, widths, seed)

"""QLoRA: the frozen model in 4 or 8 bits, by bitsandbytes, while adapters are trained on it (arXiv 2305.14314)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers import BitsAndBytesConfig

from prune2vec.errors import ConfigError, explained
from prune2vec.files import read_json
from prune2vec.models.block_layout import uneven_layout
from prune2vec.models.families import without_head
from prune2vec.progress import quiet_transformers, say
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.parity import cosines
from prune2vec.training.adapters import embed, load_adapter
from prune2vec.training.fit import TrainingJob

_ROUNDING = 0.15  # Normal numbers in NF4, by blocks of 64, are off by 0.09 of their norm.


def hold_in_bits(encoder: SentenceTransformer, job: TrainingJob) -> None:
    """Put the linear layers of an encoder on the CPU into the bits that a run's ``base`` says, and all of it on its device.

    ``4bit`` is NF4 with its scales in 8 bits, ``8bit`` LLM.int8, whose products take fp16. Everything else is in the run's dtype.

    Raises:
        ConfigError: The blocks are not all alike, or bitsandbytes cannot hold the model on that device.
    """
    transformer: Any = encoder[0]
    kind, base, dtype = type(transformer.auto_model), job.settings.base, getattr(torch, job.dtype)
    if uneven_layout(transformer.auto_model):
        raise ConfigError(
            f"base {base} is for models whose blocks are all alike, and those of {job.base} are not; leave base out"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=base == "4bit",
        load_in_8bit=base == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    # It tells of every product that its input was cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # Both forms of the weights need not be in memory at once.
    transformer.model = None
    place = job.base / read_json(job.base / "modules.json")[0]["path"]
    with explained(ConfigError, f"base {base}: bitsandbytes cannot hold {job.base} on {job.device}"), quiet_transformers():
        model = kind.from_pretrained(place, quantization_config=config, dtype=dtype, device_map={"": str(job.device)})
    for module in model.modules():
        # On CPUs with bf16 in AVX-512 it would pack the weights anew outside training, for good and with rounded scales; rows that are
        # no multiple of 64 long it cannot.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if base == "4bit":
        check_four_bits({int(module.in_features) for module in model.modules() if hasattr(module, "compute_dtype")}, job.device)
    transformer.model = without_head(model)
    encoder.to(job.device)


def check_four_bits(widths: Iterable[int], device: torch.device) -> None:
    """Check that rows of these lengths come back from 4 bits nearly as they were: with AVX-512 bitsandbytes gets some wrong (0.50: 96).

    Raises:
        ConfigError: They do not.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for width in sorted(widths):
        rows = torch.randn(64, width, generator=torch.Generator().manual_seed(width)).to(device)
        error = (dequantize_4bit(*quantize_4bit(rows, quant_type="nf4")) - rows).norm() / rows.norm()
        if not error < _ROUNDING:
            raise ConfigError(
                f"base 4bit: bitsandbytes changes rows of {width} numbers by {error:.0%} on this {device.type}, in place of 9 %; use "
                "base 8bit, or leave base out"
            )


def distance_to_merged(
    merged: SentenceTransformer, job: TrainingJob, checkpoint: Path, probe: Sequence[str]
) -> dict[str, float]:
    """Return, and say, how far a merged encoder's vectors of ``probe`` are from those under the base that it was trained on.

    Returns:
        ``base_mean_cosine`` and ``base_min_cosine``.
    """
    trained = load_encoder(job.base, device="cpu", dtype=job.dtype)
    hold_in_bits(trained, job)
    load_adapter(trained, checkpoint)
    trained.max_seq_length = merged.max_seq_length
    cosine = cosines(embed(trained, probe), embed(merged, probe))
    say(
        f"trained on a base in {job.settings.base} and merged into the weights as they are: cosine to the vectors of the training "
        f"{cosine.mean():.4f} on average, at least {cosine.min():.4f}, on {len(probe)} texts"
    )
    return {"base_mean_cosine": float(cosine.mean()), "base_min_cosine": float(cosine.min())}

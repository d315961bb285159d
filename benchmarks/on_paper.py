"""What a streamed profile and a cut of a model would read, compute and take, from its sizes and rates: computed, nothing is run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from random_model import Sizes, total_bytes
from transformers import AutoModel

from prune2vec.models.families import find_family
from prune2vec.models.shape import ModelShape, measure_shape


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a machine does in a second, and where the figures are from.

    Attributes:
        name: The machine.
        flops: Operations a second in the blocks.
        read: Bytes a second from the files of the model.
        link: Bytes a second from memory to the accelerator; None without one.
        source: Where the figures are from.
    """

    name: str
    flops: float
    read: float
    link: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class OnPaper:
    """A streamed profile of all layers, and a cut to the first ``kept`` of them.

    Attributes:
        parameters: Of the model, its head not counted.
        file_bytes: Of its files, the head included.
        block_bytes: Of its largest block.
        profile_bytes: Bytes that the profile reads: every block and the final norm once, of the embeddings all of them.
        states_bytes: Bytes of all hidden states between two blocks.
        flops: Operations of the profile.
        kept_bytes: Bytes of the cut.
        seconds_compute: Time of the operations alone.
        seconds_read: Time of the reading alone.
        seconds: Time of the profile: of each block the slower of the two, as the next one is read meanwhile.
    """

    parameters: int
    file_bytes: int
    block_bytes: int
    profile_bytes: int
    states_bytes: int
    flops: int
    kept_bytes: int
    seconds_compute: float
    seconds_read: float
    seconds: float


def shape_of(sizes: Sizes) -> ModelShape:
    """Return the shape of a model without making it."""
    with torch.device("meta"):
        model = AutoModel.from_config(sizes.config())
    return measure_shape(model, find_family(model, model.config), bytes_per_param=2)


def profile_on_paper(sizes: Sizes, rates: Rates, *, tokens: int, length: int, kept: int) -> OnPaper:
    """Compute what a streamed profile of ``tokens`` tokens and a cut to ``kept`` layers come to.

    Args:
        sizes: The model.
        rates: The machine.
        tokens: Tokens of all texts.
        length: Their mean length, for the attention's operations.
        kept: Layers of the cut.
    """
    shape = shape_of(sizes)
    width = shape.bytes_per_param
    every = range(shape.num_layers)
    flops = tokens * shape.flops_per_token(every, length=length)
    block_bytes = max(shape.block_params) * width
    slower = min(rates.read, rates.link) if rates.link else rates.read
    outside = (shape.embedding_params + shape.final_params) * width
    compute, read = flops / rates.flops, (outside + sum(shape.block_params) * width) / slower
    each_compute, each_read = compute / shape.num_layers, block_bytes / slower
    return OnPaper(
        parameters=shape.params(every),
        file_bytes=total_bytes(sizes),
        block_bytes=block_bytes,
        profile_bytes=shape.params(every) * width,
        states_bytes=tokens * shape.hidden_size * width,
        flops=flops,
        kept_bytes=shape.params(range(kept)) * width,
        seconds_compute=compute,
        seconds_read=read,
        # The first block's reading waits for nothing, and the embeddings come before it.
        seconds=outside / slower + each_read + shape.num_layers * max(each_compute, each_read),
    )

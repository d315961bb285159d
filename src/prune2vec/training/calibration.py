"""Batches of texts on which an importance without training is measured, and the activations of neurons on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prune2vec.data.triplet import Triplet
from prune2vec.progress import progress, say
from prune2vec.training.importance_context import ImportanceContext
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.training_data import training_data

Columns = list[dict[str, Any]]


def batches(context: ImportanceContext, triplets: Sequence[Triplet], settings: SlimSettings) -> Iterator[Columns]:
    """Yield the tokenised columns of ``settings.batches`` batches: queries, positives, hard negatives.

    Args:
        context: Its encoder tokenises, on its device.
        triplets: All rows; each dataset is shuffled and cut into batches, and those are drawn from.
        settings: How many batches of how many rows, and the seed of the draw.

    Raises:
        DataError: There are no rows, too few for a batch, or one has no hard negative though the settings want some.
    """
    data = training_data(triplets, context.text, settings.for_training())
    generator = random.Random(settings.seed)
    size = settings.batch_size
    found = []
    for name, table in data.tables.items():
        rows = list(table.rows)
        generator.shuffle(rows)
        found += [(name, rows[start : start + size]) for start in range(0, len(rows) - size + 1, size)]
    if len(found) < settings.batches:
        say(f"the texts give {len(found)} batches of {size} rows instead of {settings.batches}")
    drawn = generator.sample(found, min(len(found), settings.batches))
    with progress("measuring neurons", total=len(drawn)) as advance:
        for name, rows in drawn:
            texts = zip(*(data.texts_of(row) for row in rows), strict=True)
            prompts = data.prompts[name]
            columns = []
            for key, column in zip(data.columns, texts, strict=True):
                features = dict(context.encoder.preprocess(list(column), prompt=prompts[key]))
                columns.append(
                    {key: one.to(context.device) if isinstance(one, Tensor) else one for key, one in features.items()}
                )
            yield columns
            advance(1)


def for_each_activation(context: ImportanceContext, batches: Iterator[Columns], observe: Callable[[int, Tensor], None]) -> None:
    """Call ``observe(layer, activations)`` with what the neurons of each MLP give for each column of texts.

    Activations are (token, neuron) in the model's dtype, tokens of padding left out.
    """
    mask: list[Tensor] = []

    def hook(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            observe(layer, args[0].flatten(end_dim=-2)[mask[0]])

        return look

    handles = [out.register_forward_pre_hook(hook(layer)) for layer, out in context.outs()]
    try:
        with torch.inference_mode(), evaluating(context):
            for columns in batches:
                for features in columns:
                    mask[:] = [features["attention_mask"].flatten().bool()]
                    context.encoder(features)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(context: ImportanceContext) -> Iterator[None]:
    """Switch dropout off."""
    was_training = context.encoder.training
    context.encoder.eval()
    try:
        yield
    finally:
        context.encoder.train(was_training)

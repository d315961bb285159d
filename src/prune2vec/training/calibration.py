"""Batches of texts that a ranking without training looks at, and the activations of neurons on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prune2vec.data.instructions import Instructions
from prune2vec.data.triplet import Triplet
from prune2vec.models.text_settings import SAVED, PromptTemplate, TextOptions, TextSettings
from prune2vec.progress import progress, say
from prune2vec.training.ranking_context import RankingContext
from prune2vec.training.row_negatives import check_rows as check_negatives
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import TrainSettings
from prune2vec.training.training_data import Prompting, TrainingData, TrainingTable, by_prompt, training_data

Columns = list[dict[str, Any]]
Watcher = Callable[[int, Tensor], None]


def train_settings(settings: SlimSettings) -> TrainSettings:
    """Return the part of the settings that the trainer knows; adapters are put in by nobody here."""
    shared = set(TrainSettings.model_fields) & (set(SlimSettings.model_fields) - set(TextOptions.model_fields))
    given = {name: getattr(settings, name) for name in shared}
    if settings.max_length is not None:
        given["max_length"] = settings.max_length
    return TrainSettings.build({**given, "warmup_steps": settings.warmup, "distil": "none"}, where="slim")


def tables_for(subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings) -> TrainingData:
    """Sort triplets into the tables that batches are taken from, one dataset a batch.

    Raises:
        DataError: There are none, too few for a batch, or one has no hard negative though the settings want some.
    """
    return training_data(triplets, subject.prompting, train_settings(settings))


def check_rows(triplets: Sequence[Triplet], text: TextSettings, settings: SlimSettings) -> None:
    """Refuse, before a model is loaded, triplets that ``tables_for`` would refuse.

    Raises:
        DataError: As ``tables_for``.
    """
    instructions = None if text.instruction == SAVED else Instructions.parse(text.instruction, symmetric=text.symmetric)
    # What stands around every text alike tells no two rows apart.
    prompting = Prompting(instructions=instructions, text_format=PromptTemplate(), saved=("", ""))
    chosen = train_settings(settings)
    if all(len(table.rows) < chosen.batch_size for table in by_prompt(triplets, prompting).values()):
        training_data(triplets, prompting, chosen)
    check_negatives(triplets, chosen)


def batches(subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings) -> Iterator[Columns]:
    """Yield the tokenised columns of ``settings.batches`` batches: queries, positives, hard negatives.

    Args:
        subject: Its encoder tokenises, on its device.
        triplets: All rows; each dataset is shuffled and cut into batches, and those are drawn from.
        settings: How many batches of how many rows, and the seed of the draw.

    Raises:
        DataError: As ``tables_for``.
    """
    data = tables_for(subject, triplets, settings)
    drawn = _draw(data, settings)
    with progress("ranking", total=len(drawn)) as advance:
        for name, rows in drawn:
            texts = zip(*(data.texts_of(row) for row in rows), strict=True)
            prompts = data.prompts[name]
            yield [
                _moved(subject.encoder.preprocess(list(column), prompt=prompts[key]), subject.device)
                for key, column in zip(data.columns, texts, strict=True)
            ]
            advance(1)


def _draw(data: TrainingData, settings: SlimSettings) -> list[tuple[str, list[Triplet]]]:
    generator = random.Random(settings.seed)
    found = [(name, rows) for name, table in data.tables.items() for rows in _cut(table, settings.batch_size, generator)]
    if len(found) < settings.batches:
        say(f"the texts give {len(found)} batches of {settings.batch_size} rows instead of {settings.batches}")
    return generator.sample(found, min(len(found), settings.batches))


def _cut(table: TrainingTable, size: int, generator: random.Random) -> list[list[Triplet]]:
    rows = list(table.rows)
    generator.shuffle(rows)
    return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def _moved(features: Any, device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in dict(features).items()}


def for_each_activation(subject: RankingContext, batches: Iterator[Columns], watch: Watcher) -> None:
    """Call ``watch(layer, activations)`` with what the neurons of each MLP give for each column of texts.

    Activations are (token, neuron) in the model's number format, tokens of padding left out.
    """
    mask: list[Tensor] = []

    def hook(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            watch(layer, args[0].flatten(end_dim=-2)[mask[0]])

        return look

    handles = [out.register_forward_pre_hook(hook(layer)) for layer, out in subject.outs()]
    try:
        with torch.inference_mode(), evaluating(subject):
            for columns in batches:
                for features in columns:
                    mask[:] = [features["attention_mask"].flatten().bool()]
                    subject.encoder(features)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(subject: RankingContext) -> Iterator[None]:
    """Switch dropout off."""
    was_training = subject.encoder.training
    subject.encoder.eval()
    try:
        yield
    finally:
        subject.encoder.train(was_training)

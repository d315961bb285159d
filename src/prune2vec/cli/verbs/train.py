"""``prune2vec train``: checkpoint + data -> encoder folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import ExistingPath, OptionGroup, OutputPath, SourceName
from prune2vec.cli.verb import Printable, check_encoder, check_texts, verb, would
from prune2vec.outputs import ENCODER, check_kind

if TYPE_CHECKING:
    from prune2vec.training.train_settings import TrainSettings

OPTIONS = OptionGroup(
    "settings",
    "Training",
    "prune2vec.training.train_settings:TrainSettings",
    only_config=(
        "lora_alpha lora_dropout target_modules train_top schedule warmup_steps scale negative_sampling "
        "weight_decay max_grad_norm mini_batch_tokens distil_weight dev_rows save_every"
    ),
)
EXAMPLE = """
prune2vec train small/ --data triplets/ -o encoder/
prune2vec train small/ --data train.jsonl.gz -o encoder/ --steps 200 --batch-size 32
prune2vec train small/ --data scored.jsonl.gz -o encoder/ --preset effir
"""


@verb(example=EXAMPLE, sections=[OPTIONS])
@click.argument("checkpoint", type=ExistingPath())
@click.option("--data", type=SourceName("path"), required=True, help="Triplets: a file, a folder of files or a hub dataset.")
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder to write.")
def train(checkpoint: Path, *, data: str, output: Path, settings: TrainSettings, dry_run: bool) -> Printable:
    """Train the encoder in CHECKPOINT on triplets.

    Adapters are merged before the encoder is saved. The same command resumes after an interruption.
    """
    from prune2vec.training.train_settings import check_tracker

    if dry_run:
        from prune2vec.pruning.encoder_check import check_trainable

        check_kind(output, ENCODER)
        check_encoder(checkpoint)
        check_trainable(checkpoint)
        check_texts(data)
        check_tracker(settings.report_to)
        return would(f"train {checkpoint}", reads=[checkpoint, data], writes=output, settings=settings)
    from prune2vec.training.train import train_encoder

    return train_encoder(checkpoint, data, output, settings=settings)

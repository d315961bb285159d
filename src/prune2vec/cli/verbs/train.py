"""``prune2vec train``: checkpoint + texts -> encoder folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import TRIPLETS, ExistingPath, OptionGroup, OutputPath, SourceNames
from prune2vec.cli.verb import Printable, check_texts, launched_as, verb, would
from prune2vec.outputs import ENCODER, check_kind

if TYPE_CHECKING:
    from prune2vec.training.train_settings import TrainSettings

OPTIONS = OptionGroup(
    "settings",
    "Training",
    "prune2vec.training.train_settings:TrainSettings",
    only_config=(
        "lora_alpha lora_dropout target_modules train_top schedule warmup_steps scale negative_sampling "
        "weight_decay max_grad_norm mini_batch_tokens distil_distance distil_scale distil_weight keep_projection "
        "teacher_temperature gradient_checkpointing symmetric report_to dev_rows save_every depth_weights depths_per_step deepest_teaches"
    ),
)
EXAMPLE = """
prune2vec train small/ --data triplets/ -o encoder/
prune2vec train small/ --texts corpus.jsonl --teacher encoder-to-learn-from/ -o encoder/
prune2vec train small/ --data train.jsonl.gz -o encoder/ --steps 200 --batch-size 32
prune2vec train whole/ --data triplets/ -o elastic/ --depths 6,12,18
prune2vec train small/ --data scored.jsonl.gz -o encoder/ --preset effir
"""


@verb(example=EXAMPLE, sections=[OPTIONS], pushes=True)
@click.argument("checkpoint", type=ExistingPath())
@click.option("--data", type=SourceNames("path"), help=TRIPLETS)
@click.option(
    "--texts",
    type=SourceNames("path"),
    help="Plain texts, in place of triplets, to learn a teacher's vectors from: .txt (one a line), Markdown, JSONL, CSV, Parquet "
    "(column text, or the sides of triplets), a folder of these or a hub dataset, or several of these, separated by commas.",
)
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder to write.")
def train(
    checkpoint: Path,
    *,
    data: tuple[str, ...] | None,
    texts: tuple[str, ...] | None,
    output: Path,
    settings: TrainSettings,
    dry_run: bool,
) -> Printable:
    """Train the encoder in CHECKPOINT: on triplets (--data) contrastively, with --teacher on its vectors too; or on plain texts
    (--texts) on the vectors of a --teacher alone.

    Adapters are merged before the encoder is saved. The same command resumes after an interruption. On several GPUs:
    torchrun --nproc-per-node 2 -m prune2vec train ...; the batch size is that of all together.
    """
    if (data is None) == (texts is None):
        raise click.UsageError("give either --data (triplets) or --texts (plain texts, to learn the vectors of a --teacher)")
    from prune2vec.training.train_settings import check_tracker

    if dry_run:
        from prune2vec.data.plain_texts import check_filled
        from prune2vec.errors import import_extra
        from prune2vec.paths import check_is_encoder
        from prune2vec.pruning.encoder_check import check_trainable
        from prune2vec.training.sources import check_places, check_sources

        check_kind(output, ENCODER)
        check_is_encoder(checkpoint)
        check_places(checkpoint, output, settings)
        check_trainable(checkpoint)
        if settings.base is not None:
            import_extra("bitsandbytes")
        check_sources(data, texts, settings)
        settings.check_depths()
        if data is not None:
            check_texts(data, require_negative=settings.hard_negatives > 0)
        for source in filter(os.path.exists, texts or ()):
            check_filled(source)
        check_tracker(settings.report_to)
        reads = [checkpoint, *(data or texts or ()), *filter(None, (settings.teacher,))]
        return would(f"train {checkpoint}", reads=reads, writes=output, settings=settings)
    from prune2vec.training.train import train_encoder

    result = train_encoder(checkpoint, data, output, texts=texts, settings=settings)
    if launched_as("RANK"):
        raise click.exceptions.Exit(0)  # Of several processes the first prints.
    return result

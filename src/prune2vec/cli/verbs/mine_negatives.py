"""``prune2vec mine negatives``: triplets or pairs + encoder -> triplets with hard negatives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.outcome import Outcome, would
from prune2vec.cli.paths import Source, Target
from prune2vec.cli.section import Section
from prune2vec.cli.verb import verb

if TYPE_CHECKING:
    from prune2vec.training.mining_settings import MiningSettings


def _settings() -> type[MiningSettings]:
    from prune2vec.training.mining_settings import MiningSettings

    return MiningSettings


EXAMPLE = """
prune2vec mine negatives train.jsonl.gz --model encoder/ -o hard.jsonl.gz
prune2vec mine negatives train.jsonl.gz --model encoder/ -o hard.jsonl.gz --negatives 15 --score
"""


@verb(name="negatives", example=EXAMPLE, sections=[Section("settings", "Mining", _settings)])
@click.argument("data", type=Source("data"))
@click.option("--model", type=Source("encoder"), required=True, help="The encoder that looks for them, as a rule the full one.")
@click.option("-o", "--output", type=Target(folder=False), required=True, help="File to write, .jsonl or .jsonl.gz.")
def mine_negatives(data: str, *, model: str, output: Path, settings: MiningSettings, dry_run: bool) -> Outcome:
    """Find hard negatives for the (query, positive) rows of DATA with an encoder.

    They are documents of the same data set that the encoder ranks high for the query and that are not its answer. What
    scores nearly as high as the positive is left out, since it may be an answer too.
    """
    if dry_run:
        reads = [data, model]
        return would(f"mine negatives for {data}", reads=reads, writes=output, settings=settings.model_dump(mode="json"))
    from prune2vec.training import mine_negatives as mine

    mined = mine(data, model, output, settings=settings)
    return Outcome(mined.render(), mined.to_json())

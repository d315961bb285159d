"""``prune2vec encode``: encoder + corpus -> Parquet parts of vectors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import ExistingPath, OptionGroup, OutputPath
from prune2vec.cli.outcome import Outcome, check_encoder, would
from prune2vec.cli.verb import verb

if TYPE_CHECKING:
    from prune2vec.encoding.encode_settings import EncodeSettings


OPTIONS = OptionGroup("settings", "Encoding", "prune2vec.encoding.encode_settings:EncodeSettings", only_config=("calibration"))
EXAMPLE = """
prune2vec encode encoder/ corpus.jsonl.gz -o vectors/
prune2vec encode encoder/ corpus.parquet -o vectors/ --precision int8 --shard 0/4
prune2vec encode encoder/ corpus.jsonl.gz -o vectors/ --ray 8
"""


@verb(example=EXAMPLE, sections=[OPTIONS])
@click.argument("encoder", type=ExistingPath())
@click.argument("corpus", type=ExistingPath())
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder to write.")
@click.option(
    "--ray",
    metavar="N",
    help="Encode N shards on Ray, here or on the cluster of RAY_ADDRESS; auto: those of OUTPUT, or one a GPU.",
)
def encode(encoder: Path, corpus: Path, *, output: Path, ray: str | None, settings: EncodeSettings, dry_run: bool) -> Outcome:
    """Encode every text of CORPUS.

    CORPUS is .jsonl, .csv, .txt (one text a line), each also packed as .gz, .parquet or .arrow, of any size. The vectors are written
    in parts of (id, vector); the same command resumes after an interruption.
    """
    counted = ray is not None and ray != "auto"
    if counted and not re.fullmatch("[1-9][0-9]{0,5}", str(ray)):
        raise click.BadParameter(
            f"{str(ray)[:40]!r}: expected a number of shards from 1 to 999,999, or auto", param_hint="--ray"
        )
    shards = int(str(ray)) if counted else ray
    if dry_run:
        from prune2vec.encoding.corpus import Corpus
        from prune2vec.encoding.store import check_shards, check_vector_folder, shard_folder

        check_encoder(encoder)
        shard, count = settings.shard_of
        if shards is None:
            check_shards(output, count)
            check_vector_folder(shard_folder(output, shard, count))
        elif isinstance(shards, int):
            check_shards(output, shards)
        source = Corpus(path=corpus, text_column=settings.text_column, id_column=settings.id_column)
        source.check_filled()
        return would(f"encode {corpus}", reads=[encoder, corpus], writes=output, settings=settings.model_dump(mode="json"))
    from prune2vec.encoding.encode import encode_corpus
    from prune2vec.encoding.ray_shards import encode_on_ray
    from prune2vec.machine import keep_freed_memory

    keep_freed_memory()
    if shards is not None:
        spread = encode_on_ray(encoder, corpus, output, shards=shards, settings=settings)
        return Outcome(spread.render(), spread.to_json())
    done = encode_corpus(encoder, corpus, output, settings=settings)
    return Outcome(done.render(), done.to_json())

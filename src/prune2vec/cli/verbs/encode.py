"""``prune2vec encode``: encoder + corpus -> Parquet parts of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import ExistingPath, OptionGroup, OutputPath, RayShards
from prune2vec.cli.verb import Printable, verb, would
from prune2vec.files import no_collection

if TYPE_CHECKING:
    from prune2vec.encoding.encode_settings import EncodeSettings


OPTIONS = OptionGroup(
    "settings",
    "Encoding",
    "prune2vec.encoding.encode_settings:EncodeSettings",
    only_config=("calibration part_rows token_budget"),
)
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
    "shards",
    type=RayShards(),
    metavar="N",
    help="Encode N shards on Ray, here or on the cluster of RAY_ADDRESS; auto: those of OUTPUT, or one a GPU.",
)
def encode(
    encoder: Path, corpus: Path, *, output: Path, shards: int | str | None, settings: EncodeSettings, dry_run: bool
) -> Printable:
    """Encode every text of CORPUS.

    CORPUS is .jsonl, .csv, .txt (one text a line), each also packed as .gz, .parquet or .arrow, of any size. The vectors are written
    in parts of (id, vector); the same command resumes after an interruption.
    """
    if dry_run:
        from prune2vec.encoding.corpus import Corpus
        from prune2vec.encoding.store import check_shards, check_vector_folder, shard_folder
        from prune2vec.paths import check_is_encoder, check_outside

        check_is_encoder(encoder)
        check_outside(output, encoder)
        shard, count = settings.shard_of
        if shards != "auto":
            check_shards(output, int(shards or count))
        if shards is None:
            check_vector_folder(shard_folder(output, shard, count))
        Corpus(path=corpus, text_column=settings.text_column, id_column=settings.id_column).check_filled()
        return would(f"encode {corpus}", reads=[encoder, corpus], writes=output, settings=settings)
    with no_collection():
        from prune2vec.encoding.encode import encode_corpus
        from prune2vec.encoding.ray_shards import encode_on_ray
        from prune2vec.machine import keep_freed_memory

    keep_freed_memory()
    if shards is not None:
        return encode_on_ray(encoder, corpus, output, shards=shards, settings=settings)
    return encode_corpus(encoder, corpus, output, settings=settings)

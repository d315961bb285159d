"""``prune2vec mine``: text that the user has -> triplets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import OptionGroup, OutputPath, SourceName
from prune2vec.cli.verb import Outcome, Printable, check_texts, verb, would
from prune2vec.outputs import TEXTS, check_ours

if TYPE_CHECKING:
    from prune2vec.data.triplet import TripletSettings
    from prune2vec.training.mine_negatives import MiningSettings

EXAMPLE = """
prune2vec mine docstrings -o triplets/
prune2vec mine docs/ -o triplets/ --negatives 3
"""


TEXT_OPTIONS = OptionGroup("settings", "Triplets", "prune2vec.data.triplet:TripletSettings")


@verb(example=EXAMPLE, sections=[TEXT_OPTIONS])
@click.argument("source", type=SourceName("source"))
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder to write.")
def mine(source: str, *, output: Path, settings: TripletSettings, dry_run: bool) -> Outcome:
    """Make training triplets from text that you have.

    SOURCE is `docstrings` (those of the installed Python packages) or a folder of Markdown, RST or plain text. A triplet
    is a query, its positive and hard negatives from the same package or folder. `prune2vec mine negatives` finds harder ones
    with an encoder.
    """
    if dry_run:
        from prune2vec.data.mine import check_source

        check_ours(output, TEXTS)
        check_source(source, settings)
        return would(f"mine {source}", reads=[source], writes=output, settings=settings)
    from prune2vec.data.mine import mine as mine_texts

    mined = mine_texts(source, output, settings=settings)
    counts = "\n".join(f"{name:<8}{count:>9,}" for name, count in mined.manifest["counts"].items())
    return Outcome(f"{counts}\n{mined.folder}", {"output": str(mined.folder), **mined.manifest})


OPTIONS = OptionGroup(
    "settings",
    "Mining",
    "prune2vec.training.mine_negatives:MiningSettings",
    only_config=("range_min margin max_score min_score seed batch_size max_length dtype"),
)
NEGATIVES_EXAMPLE = """
prune2vec mine negatives train.jsonl.gz --model encoder/ -o hard.jsonl.gz
prune2vec mine negatives train.jsonl.gz --model encoder/ -o hard.jsonl.gz --negatives 15 --score
"""


@verb(name="negatives", example=NEGATIVES_EXAMPLE, sections=[OPTIONS])
@click.argument("data", type=SourceName("data"))
@click.option(
    "--model", type=SourceName("encoder"), required=True, help="The encoder that looks for them, as a rule the full one."
)
@click.option("-o", "--output", type=OutputPath(folder=False), required=True, help="File to write, .jsonl or .jsonl.gz.")
def mine_negatives(data: str, *, model: str, output: Path, settings: MiningSettings, dry_run: bool) -> Printable:
    """Find hard negatives for the (query, positive) rows of DATA with an encoder.

    They are documents of the same data set that the encoder ranks high for the query and that are not its answer. What
    scores nearly as high as the positive is left out, since it may be an answer too.
    """
    if dry_run:
        from prune2vec.paths import check_is_encoder
        from prune2vec.training.mine_negatives import check_target_of

        check_target_of(data, output)
        check_is_encoder(model)
        check_texts([data], require_negative=False)
        reads = [data, model]
        return would(f"mine negatives for {data}", reads=reads, writes=output, settings=settings)
    from prune2vec.training.mine_negatives import mine_negatives as mine

    return mine(data, model, output, settings=settings)

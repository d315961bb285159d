"""``prune2vec doctor``: encoder -> what is right and wrong with it."""

from __future__ import annotations

from pathlib import Path

import click

from prune2vec.cli.options import ExistingPath
from prune2vec.cli.verb import Printable, verb

EXAMPLE = """
prune2vec doctor encoder/
prune2vec doctor encoder/ --against encoder-onnx/ --json
"""


@verb(example=EXAMPLE, writes=False)
@click.argument("encoder", type=ExistingPath())
@click.option("--against", type=ExistingPath(), help="Another encoder, or an ONNX export, whose vectors must be the same.")
def doctor(encoder: Path, *, against: Path | None) -> Printable:
    """Examine ENCODER: is it what was written, how does it make vectors of texts, and who computes them.

    Exit code 1 when something is wrong. What was not recorded when the folder was written, by others or before, is told and not judged.
    """
    from prune2vec.exporting.doctor import examine_encoder

    return examine_encoder(encoder, against=against)

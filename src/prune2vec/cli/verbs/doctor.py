"""``prune2vec doctor``: encoder -> what is right and wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from prune2vec.cli.options import ExistingPath
from prune2vec.cli.verb import Printable, verb

EXAMPLE = """
prune2vec doctor encoder/
prune2vec doctor encoder/ --against encoder-onnx/ --json
prune2vec doctor encoder/ --against http://localhost:8080/v1
"""


class PathOrURL(ExistingPath):
    """A path that must be there, or a URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the URL, or the path if it exists, as a word."""
        word = str(value)
        return word if word.startswith(("http://", "https://")) else str(super().convert(value, param, ctx))


@verb(example=EXAMPLE, writes=False)
@click.argument("encoder", type=ExistingPath())
@click.option(
    "--against",
    type=PathOrURL(),
    help="Another encoder, an ONNX or GGUF export, or the URL of a server with OpenAI's interface, whose vectors must be the same.",
)
def doctor(encoder: Path, *, against: str | None) -> Printable:
    """Examine ENCODER: is it what was written, how does it make vectors of texts, and who computes them.

    Exit code 1 when something is wrong. What was not recorded when the folder was written, by others or before, is told and not judged.
    """
    from prune2vec.exporting.doctor import examine_encoder

    return examine_encoder(encoder, against=against)

"""``prune2vec search``: vectors + query -> the nearest texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import ExistingPath, OptionGroup, SourceName, WholeNumber
from prune2vec.cli.verb import Printable, verb
from prune2vec.files import no_collection

if TYPE_CHECKING:
    from prune2vec.encoding.encode_settings import SearchSettings

OPTIONS = OptionGroup("settings", "Searching", "prune2vec.encoding.encode_settings:SearchSettings", only_config=("candidates"))
EXAMPLE = """
prune2vec search vectors/ "how to cut a layer"
prune2vec search vectors/ "how to cut a layer" "what a depth is" -k 5 --corpus corpus.jsonl.gz
prune2vec search vectors/ --queries queries.txt --json
"""


@verb(
    example=EXAMPLE,
    sections=[OPTIONS],
    writes=False,
)
@click.argument("vectors", type=ExistingPath())
@click.argument("query", nargs=-1)
@click.option("--queries", type=ExistingPath(), help="File of queries: .txt (one a line), .jsonl, .csv, .parquet.")
@click.option("-k", type=WholeNumber(1, 10**6), default=10, show_default=True, help="Hits for each query.")
@click.option(
    "--encoder",
    type=SourceName("encoder"),
    help="The encoder of the queries: the one that made the vectors, if it is no longer where it was, or one that learnt its vectors.",
)
@click.option("--corpus", type=ExistingPath(), help="The file that was encoded, to show the texts.")
def search(
    vectors: Path,
    query: tuple[str, ...],
    *,
    queries: Path | None,
    k: int,
    encoder: str | None,
    corpus: Path | None,
    settings: SearchSettings,
) -> Printable:
    """Find the texts nearest to each QUERY in VECTORS, the folder that encode wrote.

    Every vector is compared, and memory does not grow with their number.
    """
    if not query and queries is None:
        raise click.UsageError("nothing to search for: give a query, or --queries FILE")
    with no_collection():
        from prune2vec.encoding.search import read_queries, search_vectors

    asked = [*query, *(read_queries(queries) if queries is not None else [])]
    return search_vectors(vectors, asked, k=k, encoder=encoder, corpus=corpus, settings=settings)

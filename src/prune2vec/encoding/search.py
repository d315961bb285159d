"""``search``: queries in, the nearest texts of an encoded corpus out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune2vec.encoding.corpus import Corpus
from prune2vec.encoding.hit_texts import read_texts
from prune2vec.encoding.hits import Hit, SearchResult
from prune2vec.encoding.index_forms import IndexForm, unit_rows
from prune2vec.encoding.prompts import prompted_engine
from prune2vec.encoding.search_settings import SearchSettings
from prune2vec.encoding.vector_folder import VectorFolder
from prune2vec.encoding.vector_index import VectorIndex
from prune2vec.errors import ConfigError, EncodingError, import_extra
from prune2vec.files import digest_tree
from prune2vec.pruning.encoder import load_encoder
from prune2vec.public import public


@public("search", "vectors", "encoder", "corpus", settings=SearchSettings)
def search_vectors(
    vectors: Path | str,
    queries: str | Sequence[str],
    *,
    k: int = 10,
    encoder: Path | str | None = None,
    corpus: Path | str | None = None,
    settings: SearchSettings | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> SearchResult:
    """Find the texts of an encoded corpus that are nearest to queries.

    The index is made from the Parquet parts on the first call and kept beside them. Vectors of float32, float16 and int8
    are compared exactly (by default); binary ones are found by their bits and ranked with the query's floats.

    Args:
        vectors: Folder written by ``encode``, with all its shards.
        queries: One query or several.
        k: Hits for each query.
        encoder: The encoder of the vectors; None takes it from where it was when they were made.
        corpus: The file that was encoded, to have the texts of the hits.
        settings: How.
        **overrides: Single settings, over ``settings``.

    Raises:
        ConfigError: A setting is unknown or does not fit, or there is no query.
        EncodingError: The vectors are incomplete, of another encoder or corpus, or compared by a measure that no index has.
        CheckpointError: The encoder cannot be loaded.
        MissingExtra: faiss is not installed.
    """
    chosen = SearchSettings.chosen(settings, overrides, where="search")
    asked = (queries,) if isinstance(queries, str) else tuple(queries)
    if not asked or k < 1:
        raise ConfigError(f"{len(asked)} queries and k = {k}: expected at least one of each")
    import_extra("faiss")
    folder = VectorFolder.open(Path(vectors), partial=chosen.partial)
    by_cosine = _by_cosine(folder)
    embedded = _embedded(asked, folder, encoder, chosen)
    form = IndexForm(
        precision=folder.precision,
        graph=chosen.index == "hnsw",
        unit=by_cosine and not folder.first.made_by.get("normalised", False),
        candidates=chosen.candidates,
    )
    index = VectorIndex.build(folder, form, segment_bytes=chosen.segment_mb << 20)
    scores, rows = index.search(unit_rows(embedded) if by_cosine else embedded, k)
    return SearchResult(queries=asked, hits=_hits(folder, scores, rows, corpus), rows=folder.rows)


def _by_cosine(folder: VectorFolder) -> bool:
    """Return whether vectors are compared by their cosine; else by their inner product."""
    made_by = folder.first.made_by
    measure = made_by.get("similarity", "cosine")
    # The distance of two vectors of length 1 is sqrt(2 - 2 cosine), and puts texts in the same order.
    if measure == "cosine" or (measure == "euclidean" and made_by.get("normalised", False)):
        return True
    if measure == "dot":
        return False
    vectors = "vectors" if made_by.get("normalised", False) else "vectors of any length"
    raise EncodingError(
        f"the encoder of {folder.folder} compares {vectors} by {measure}, and search by cosine or dot only; "
        "give the encoder one of them as similarity_fn_name and encode anew, if it was trained with it"
    )


def _embedded(
    queries: Sequence[str], folder: VectorFolder, name: Path | str | None, settings: SearchSettings
) -> NDArray[np.float32]:
    """Return the vectors of the queries, (query, dim) float32."""
    store = folder.first
    encoder = _checked_encoder(store.identity.get("encoder"), name or store.made_by.get("encoder"), folder.folder)
    made_with = store.identity.get("settings", {})
    loaded = load_encoder(encoder, device=settings.device, dtype=settings.dtype)
    engine = prompted_engine(
        loaded, prompt=settings.prompt, max_length=made_with.get("max_length"), dimensions=made_with.get("dimensions")
    )
    if engine.dimension != store.precision.dimension:
        raise EncodingError(
            f"{encoder} makes {engine.dimension} dimensions, and {folder.folder} has {store.precision.dimension}"
        )
    return engine.encode(queries)


def _checked_encoder(expected: object, name: Path | str | None, vectors: Path) -> Path | str:
    if name is None:
        raise EncodingError(f"{vectors} does not say which encoder made it; name it with --encoder")
    path = Path(name)
    if path.is_dir():
        if digest_tree(path) != expected:
            raise EncodingError(
                f"{vectors} was made with another encoder than {path} is now (its files differ); "
                "name the one that made it with --encoder, or encode the corpus again"
            )
    elif str(name) != expected:
        raise EncodingError(f"{vectors} was not made with {name}, or that is no longer there; name its encoder with --encoder")
    return name


def _hits(
    folder: VectorFolder, scores: NDArray[np.float32], rows: NDArray[np.int64], corpus: Path | str | None
) -> tuple[tuple[Hit, ...], ...]:
    found = [int(row) for row in np.unique(rows) if row >= 0]
    names = folder.ids(found)
    numbers = {row: folder.corpus_row(row) for row in found}
    texts = read_texts(folder, names, Path(corpus)) if corpus is not None else {}
    return tuple(
        tuple(
            Hit(rank=rank, score=float(score), id=names[row], row=numbers[row], text=texts.get(numbers[row]))
            for rank, (score, row) in enumerate(
                ((score, int(row)) for score, row in zip(*line, strict=True) if row >= 0), start=1
            )
        )
        for line in zip(scores, rows, strict=True)
    )


def read_queries(path: Path) -> list[str]:
    """Return the texts of a file of queries, in any format of a corpus.

    Raises:
        DataError: It cannot be read.
    """
    return [document.text for document in _nonempty(Corpus(path=path))]


def _nonempty(source: Corpus) -> Iterable[Any]:
    return (document for document in source.documents() if document.text.strip())

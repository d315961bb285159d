"""``search``: queries in, the nearest texts of an encoded corpus out."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune2vec.data.documents import read_documents
from prune2vec.encoding.corpus import document_bytes
from prune2vec.encoding.encode_settings import SearchSettings
from prune2vec.encoding.engine import prompted_engine
from prune2vec.encoding.vector_folder import VectorFolder, VectorPart, unit_rows
from prune2vec.errors import ConfigError, DataError, EncodingError, shown
from prune2vec.files import digest_tree
from prune2vec.progress import say
from prune2vec.pruning.plain_encoder import load_to_encode
from prune2vec.public import public

_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One text near a query.

    Attributes:
        rank: From 1.
        score: Similarity of the vectors: the cosine, or the inner product where the encoder compares by that.
        id: The text's id.
        row: Number of its text among those of the corpus, from 0; a document that comes twice counts once.
        text: The text, where the corpus was given.
    """

    rank: int
    score: float
    id: str
    row: int
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The nearest texts of each query.

    Attributes:
        queries: The queries, as they were given.
        hits: The hits of each, best first.
        rows: How many vectors were searched.
    """

    queries: tuple[str, ...]
    hits: tuple[tuple[Hit, ...], ...]
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        found = zip(self.queries, self.hits, strict=True)
        return {"rows": self.rows, "results": [{"query": query, "hits": list(map(asdict, hits))} for query, hits in found]}

    def render(self) -> str:
        """Return a table of the hits of each query."""
        tables = []
        for query, hits in zip(self.queries, self.hits, strict=True):
            width = max((len(shown(hit.id)) for hit in hits), default=0)
            rows = (
                f"{hit.rank:4d}  {hit.score:7.4f}  {shown(hit.id):<{width}}  {shown(hit.text or '', _WIDTH)}".rstrip()
                for hit in hits
            )
            tables.append("\n".join([shown(query), *rows]))
        return "\n\n".join(tables)


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

    Every vector is compared, in the precision in which it is stored, and memory does not grow with their number. Binary
    vectors are found by their bits and ranked with the query's floats.

    Args:
        vectors: Folder written by ``encode``, with all its shards.
        queries: One query or several.
        k: Hits for each query.
        encoder: The encoder of the queries: that of the vectors, or another one that learnt its vectors; None takes that of the
            vectors from where it was when they were made.
        corpus: The file that was encoded, to have the texts of the hits.
        settings: How.
        **overrides: Single settings, over ``settings``.

    Raises:
        ConfigError: A setting is unknown or does not fit, or there is no query.
        DataError: The corpus cannot be read.
        EncodingError: The vectors are incomplete, of another encoder or corpus, or compared by a measure other than these; or the
            encoder has no such prompt.
        CheckpointError: The encoder cannot be loaded.
    """
    chosen = SearchSettings.chosen(settings, overrides, where="search")
    asked = (queries,) if isinstance(queries, str) else tuple(queries)
    if not asked or k < 1:
        raise ConfigError(f"{len(asked)} queries and k = {k}: expected at least one of each")
    if wrong := [query for query in asked if not _is_text(query)]:
        raise ConfigError(f"the query {wrong[0]!r} is no text; expected a string that UTF-8 can spell")
    folder = VectorFolder.open(Path(vectors), partial=chosen.partial)
    by_cosine = _by_cosine(folder)
    embedded = _embedded(asked, folder, encoder, chosen)
    scores, rows = folder.nearest(
        unit_rows(embedded) if by_cosine else embedded,
        k,
        # Rounded to 256 steps a vector has not quite the length that it had.
        unit=by_cosine and (folder.first.precision.name == "int8" or not folder.first.made_by.get("normalised", False)),
        candidates=chosen.candidates,
    )
    names = folder.ids(rows.ravel().tolist())
    numbers = {row: folder.corpus_row(row) for row in names}
    texts = _read_texts(folder, names, Path(corpus)) if corpus is not None else {}
    hits = tuple(
        tuple(
            Hit(rank=rank, score=score, id=names[row], row=numbers[row], text=texts.get(numbers[row]))
            for rank, (score, row) in enumerate(zip(of_query, near, strict=True), start=1)
        )
        for of_query, near in zip(scores.tolist(), rows.tolist(), strict=True)
    )
    return SearchResult(queries=asked, hits=hits, rows=folder.rows)


def _is_text(query: object) -> bool:
    # Bytes of another encoding come from a command line as halves of surrogate pairs.
    return isinstance(query, str) and not re.search("[\ud800-\udfff]", query)


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
    """Return the vectors of the queries by the encoder of the vectors, (query, dim) float32."""
    store = folder.first
    encoder, expected = name or store.made_by.get("encoder"), store.identity.get("encoder")
    if encoder is None:
        raise EncodingError(f"{folder.folder} does not say which encoder made it; name it with --encoder")
    same = (digest_tree(Path(encoder)) if Path(encoder).is_dir() else str(encoder)) == expected
    if not same and name is None:
        gone = "its files differ" if Path(encoder).is_dir() else "or it is no longer there"
        raise EncodingError(
            f"{folder.folder} was made with another encoder than {encoder} is now ({gone}); name the one that made it, or one "
            "that learnt its vectors, with --encoder, or encode the corpus again"
        )
    made_with = store.identity.get("settings", {})
    loaded = load_to_encode(str(encoder), device=settings.device, dtype=settings.dtype)
    engine = prompted_engine(
        loaded, prompt=settings.prompt, max_length=made_with.get("max_length"), dimensions=made_with.get("dimensions")
    )
    if engine.dimension != store.precision.dimension:
        raise EncodingError(
            f"{encoder} makes {engine.dimension} dimensions, and {folder.folder} has {store.precision.dimension}; "
            "queries and texts must be in one space"
        )
    if not same:
        made_by = store.made_by.get("encoder", "another encoder")
        say(
            f"queries by {encoder}, texts by {made_by}: their scores mean something if the first has learnt the second's vectors"
        )
    return engine.encode(queries)


def _read_texts(folder: VectorFolder, names: Mapping[int, str], corpus: Path) -> dict[int, str]:
    """Return the texts of some rows by their numbers in the corpus, which is read once and not kept.

    ``names`` has the id of each row that is wanted, by the row's number among the vectors.
    """
    settings = folder.first.identity.get("settings", {})
    columns = {"text_column": settings.get("text_column", "text"), "id_column": settings.get("id_column")}
    wrong = f"{corpus} is not what {folder.folder} was made from"
    ids = {folder.corpus_row(row): name for row, name in names.items()}
    # The parts with hits, of each shard in order; what they were made from is compared by its digest.
    waiting: dict[int, deque[VectorPart]] = defaultdict(deque)
    for begin in sorted({folder.part_of(row).begin for row in names}):
        part = folder.part_of(begin)
        waiting[part.corpus_rows.start % folder.shards].append(part)
    digests: dict[int, Any] = defaultdict(hashlib.sha256)
    texts: dict[int, str] = {}
    for row, document in enumerate(read_documents(corpus, **columns)):
        shard = row % folder.shards
        if shard not in waiting or row < waiting[shard][0].corpus_rows.start:
            continue
        digests[shard].update(document_bytes(document))
        if row in ids:
            if document.id != ids[row]:
                raise EncodingError(f"{wrong}: row {row + 1:,} is {document.id!r}, not {ids[row]!r}")
            texts[row] = document.text
        if row == waiting[shard][0].corpus_rows[-1]:
            part = waiting[shard].popleft()
            rows, digest = part.corpus_rows, digests.pop(shard).hexdigest()
            if part.store.parts[part.number].get("source_sha256") not in (None, digest):
                step = f" in steps of {rows.step}" if rows.step > 1 else ""
                raise EncodingError(f"{wrong}: rows {rows[0] + 1:,} to {rows[-1] + 1:,}{step} hold other texts or ids")
            if not waiting[shard]:
                del waiting[shard]
            if not waiting:
                return texts
    end = min((parts[0].corpus_rows[-1] for parts in waiting.values()), default=0)
    raise EncodingError(f"{wrong}: it ends before row {end + 1:,}")


def read_queries(path: Path) -> list[str]:
    """Return the texts of a file of queries, in any format of a corpus, without their titles; says how many are blank.

    Raises:
        DataError: It cannot be read, or all are blank.
    """
    texts = [document.bare for document in read_documents(path)]
    found = [text for text in texts if text.strip()]
    if not found:
        raise DataError(f"{path} holds no query: {len(texts)} rows, all blank")
    if len(found) < len(texts):
        say(f"{path}: {len(texts) - len(found)} blank queries are left out")
    return found

"""What an encoder finds: example queries answered from a collection of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune2vec.data.beir import is_beir
from prune2vec.data.documents import read_documents as documents_of
from prune2vec.data.documents import same_text
from prune2vec.data.reader import load_triplets
from prune2vec.data.rows import read_rows
from prune2vec.errors import DataError, shown
from prune2vec.files import read_json, write_json
from prune2vec.progress import progress

_CHUNK = 512


@dataclass(frozen=True)
class AnsweredDocument:
    """A text to search, and a name to show it by (may be empty)."""

    text: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class AnswerHit:
    """A document found for a query, with the cosine of the two."""

    name: str
    text: str
    score: float

    def summary(self, width: int) -> str:
        """Return name and text on one line of at most ``width`` characters."""
        return shown(f"{self.name}: {self.text}" if self.name else self.text, width)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A query and the texts nearest to it, nearest first."""

    query: str
    hits: tuple[AnswerHit, ...]

    def render(self, *, width: int = 110) -> str:
        """Return the answer as plain text, each hit on one line of at most ``width`` characters."""
        return "\n".join([shown(self.query), *(f"{hit.score:7.3f}  {hit.summary(width - 9)}" for hit in self.hits)])


def answer(
    encoder_folder: Path, documents: Sequence[AnsweredDocument | str], queries: Sequence[str], *, k: int = 3
) -> list[Answer]:
    """Return the ``k`` documents nearest to each query.

    Args:
        encoder_folder: A folder written by prune2vec prune or train.
        documents: The collection; a text that comes twice counts once.
        queries: What to look for.
        k: Documents per query.

    Raises:
        DataError: There is nothing to search.
    """
    import torch

    from prune2vec.pruning.encoder import load_encoder

    given = [one if isinstance(one, AnsweredDocument) else AnsweredDocument(one) for one in documents]
    unique = list({same_text(document.text): document for document in reversed(given)}.values())[::-1]
    if not unique:
        raise DataError("no texts to search; give texts that hold something")
    encoder = load_encoder(encoder_folder)
    how: dict[str, Any] = {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}
    # Texts of like length together: padding would otherwise more than double the work.
    order = sorted(range(len(unique)), key=lambda index: len(unique[index].text))
    parts = []
    with progress("encoding the texts to search", sum(len(document.text) for document in unique)) as advance:
        for start in range(0, len(order), _CHUNK):
            chunk = [unique[index].text for index in order[start : start + _CHUNK]]
            parts.append(encoder.encode_document(chunk, **how).float())
            advance(sum(map(len, chunk)))
    found = torch.cat(parts)
    vectors = torch.empty_like(found).index_copy_(0, torch.tensor(order, device=found.device), found)
    wanted = encoder.encode_query(list(queries), **how)
    scores, places = (wanted.float() @ vectors.T).topk(min(k, len(unique)))
    return [
        Answer(
            query=query,
            hits=tuple(
                AnswerHit(name=unique[place].name, text=unique[place].text, score=score)
                for score, place in zip(row, at, strict=True)
            ),
        )
        for query, row, at in zip(queries, scores.tolist(), places.tolist(), strict=True)
    ]


def read_documents(source: str) -> list[AnsweredDocument]:
    """Return the texts of a corpus (a file with the column ``text``, or a BEIR folder's), or those of triplets.

    Raises:
        DataError: The source cannot be read.
    """
    path = Path(source)
    if path.is_dir() and is_beir(path):
        path = min(path.glob("corpus.jsonl*"))
    if path.is_file() and "text" in next(read_rows(path)).values:
        return [AnsweredDocument(one.text, one.id if one.has_id else "") for one in documents_of(path)]
    triplets = load_triplets(source, require_negative=False, split="test")
    return [AnsweredDocument(text) for triplet in triplets for text in (triplet.positive, *triplet.negatives)]


def save_answers(answers: Sequence[Answer], path: Path) -> None:
    """Write ``answers.json``, whole or not at all."""
    write_json(path, [asdict(one) for one in answers])


def load_answers(path: Path) -> list[Answer]:
    """Read back what ``save_answers`` wrote."""
    rows = read_json(path)
    return [Answer(query=row["query"], hits=tuple(AnswerHit(**hit) for hit in row["hits"])) for row in rows]

"""What an encoder finds: example queries answered from a collection of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prune2vec.data.beir import beir_texts, is_beir
from prune2vec.data.documents import Document, same_text
from prune2vec.data.documents import read_documents as documents_of
from prune2vec.data.reader import load_triplets
from prune2vec.data.rows import read_rows
from prune2vec.errors import DataError, shown
from prune2vec.files import read_json, write_json

if TYPE_CHECKING:
    from prune2vec.evaluation.evaluated import LoadedEncoder

_HITS = 3


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


def answer(encoder: LoadedEncoder, documents: Sequence[Document], queries: Sequence[str], *, batch_size: int) -> list[Answer]:
    """Return the three documents nearest to each query; a text that comes twice counts once."""
    from torch.nn.functional import normalize

    from prune2vec.evaluation.evaluated import encode_texts

    unique = list({same_text(document.text): document for document in reversed(documents)}.values())[::-1]
    if not unique:
        raise DataError("no texts to search; give texts that hold something")
    vectors = normalize(encode_texts(encoder, [document.text for document in unique], "documents", batch_size=batch_size))
    wanted = normalize(encode_texts(encoder, queries, "queries", batch_size=batch_size))
    scores, places = (wanted @ vectors.T).topk(min(_HITS, len(unique)))
    answers = []
    for query, row, at in zip(queries, scores.tolist(), places.tolist(), strict=True):
        found = [(unique[place], score) for place, score in zip(at, row, strict=True)]
        hits = (AnswerHit(name=one.id if one.has_id else "", text=one.text, score=score) for one, score in found)
        answers.append(Answer(query=query, hits=tuple(hits)))
    return answers


def read_documents(source: str, split: str = "test") -> list[Document]:
    """Return the texts of a corpus (a file with the column ``text``, or a BEIR folder's), or those of triplets of a split.

    Raises:
        DataError: The source cannot be read.
    """
    path = Path(source)
    if path.is_dir() and is_beir(path):
        return list(beir_texts(path, "corpus.jsonl"))
    if path.is_file() and "text" in next(read_rows(path)).values:
        return list(documents_of(path))
    triplets = load_triplets(source, require_negative=False, split=split)
    return [Document("", text, text) for triplet in triplets for text in (triplet.positive, *triplet.negatives)]


def save_answers(answers: Sequence[Answer], path: Path) -> None:
    """Write ``answers.json``, whole or not at all."""
    write_json(path, [asdict(one) for one in answers])


def load_answers(path: Path) -> list[Answer]:
    """Read back what ``save_answers`` wrote."""
    rows = read_json(path)
    return [Answer(query=row["query"], hits=tuple(AnswerHit(**hit) for hit in row["hits"])) for row in rows]

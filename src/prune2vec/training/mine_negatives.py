"""Hard negatives as an encoder sees them: documents that it ranks high for a query and that are not its answer."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.data.documents import same_text
from prune2vec.data.triplet import Triplet, write_triplets
from prune2vec.errors import ConfigError, DataError, reason_of
from prune2vec.progress import progress
from prune2vec.pruning.encoder import check_finite, load_encoder
from prune2vec.public import public
from prune2vec.training.mining_settings import MiningSettings
from prune2vec.training.randomness import isolated_randomness
from prune2vec.training.training_data import Data, read

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CELLS = 1 << 26  # Of the similarity matrix in memory, 256 MB.
_BATCHES_PER_STEP = 16

Found = Mapping[tuple[str, str], tuple[tuple[str, ...], tuple[float, ...]]]


@dataclass(frozen=True, kw_only=True)
class MinedNegatives:
    """What mining came to.

    Attributes:
        output: The file of triplets.
        rows: Rows read; the same query and positive given twice count once.
        written: Rows with at least one hard negative, which were written.
        complete: Those of them with as many as were asked for.
        negatives: Mean number of hard negatives of the rows written.
        positive_score: Mean cosine of a query and its positive, over the rows written.
        negative_score: Mean cosine of a query and a hard negative.
    """

    output: Path
    rows: int
    written: int
    complete: int
    negatives: float
    positive_score: float
    negative_score: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**asdict(self), "output": str(self.output)}

    def render(self) -> str:
        """Return a few lines for people."""
        return (
            f"{self.written:,} of {self.rows:,} rows with {self.negatives:.1f} hard negatives each, {self.complete:,} with all\n"
            f"cosine {self.positive_score:.3f} with the positive, {self.negative_score:.3f} with a negative\n{self.output}"
        )


@public("mine negatives", "data", "model", "output", settings=MiningSettings)
def mine_negatives(
    data: Data,
    model: Path | str,
    output: Path | str,
    *,
    settings: MiningSettings | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> MinedNegatives:
    """Give every (query, positive) new hard negatives, found by an encoder among all documents of the same data set.

    Ranking and filters are ``sentence_transformers.util.mine_hard_negatives``. Documents are the data set's positives and
    the negatives it has already. Queries and documents get the encoder's own prompts.

    Args:
        data: Triplets or pairs, or a file, a folder, a hub data set, or several.
        model: The encoder; as a rule the full one, or the best there is.
        output: File to write, ``.jsonl`` or ``.jsonl.gz``.
        settings: Which documents count as hard negatives.
        **overrides: Single settings, over ``settings``.

    Raises:
        ConfigError: A setting is unknown or does not fit.
        DataError: The texts cannot be read, the output is no JSON-lines file, or no row gets a hard negative.
        CheckpointError: The encoder does not load, or the file cannot be written.
    """
    chosen = MiningSettings.chosen(settings, overrides, where="mine negatives")
    target = Path(output)
    if not target.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"cannot write triplets to {target.name}; the name must end in .jsonl or .jsonl.gz")
    rows = read(data, hard_negatives=0)
    encoder = load_encoder(model, device=chosen.device, dtype=chosen.dtype)
    check_finite(encoder, model)
    encoder.max_seq_length = chosen.max_length or encoder.max_seq_length
    distinct = _distinct(rows)
    mined: list[Triplet] = []
    with isolated_randomness(chosen.seed):
        for name in dict.fromkeys(row.dataset for row in distinct):
            mined += _mine_table([row for row in distinct if row.dataset == name], encoder, chosen)
    if not mined:
        raise DataError(
            f"no row of {len(distinct)} got a hard negative; loosen relative_margin, range_min or max_score, or add texts"
        )
    write_triplets((row if chosen.score else replace(row, scores=()) for row in mined), target)
    return _summary(mined, target, rows=len(distinct), asked=chosen.negatives)


def _distinct(rows: Sequence[Triplet]) -> list[Triplet]:
    first: dict[tuple[str, str, str], Triplet] = {}
    for row in rows:
        first.setdefault((row.dataset, row.anchor, row.positive), row)
    return list(first.values())


def _mine_table(rows: Sequence[Triplet], encoder: SentenceTransformer, settings: MiningSettings) -> list[Triplet]:
    found = _search(rows, encoder, settings)
    with_negatives = []
    for row in rows:
        negatives, scores = found.get((row.anchor, row.positive), ((), ()))
        if negatives:
            with_negatives.append(replace(row, negatives=negatives, scores=scores))
    return with_negatives


def _search(rows: Sequence[Triplet], encoder: SentenceTransformer, settings: MiningSettings) -> Found:
    """Return, by query and positive, the hard negatives and the cosines of the positive and of each of them."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    pairs = Dataset.from_dict({"anchor": [row.anchor for row in rows], "positive": [row.positive for row in rows]})
    documents = list(dict.fromkeys(text for row in rows for text in row.texts[1:]))
    watched: Any = _Watched(encoder, sys.stderr)
    try:
        with redirect_stderr(io.StringIO()):
            table = mine_hard_negatives(
                pairs,
                watched,
                corpus=documents,
                range_min=settings.range_min,
                range_max=settings.range_max,
                max_score=settings.max_score,
                min_score=settings.min_score,
                absolute_margin=settings.margin,
                relative_margin=settings.relative_margin,
                num_negatives=settings.negatives,
                sampling_strategy=settings.sampling,
                output_format="labeled-list",
                output_scores=True,
                batch_size=settings.batch_size,
                faiss_batch_size=max(1, _CELLS // len(documents)),
                verbose=False,
            )
    except ValueError as error:
        raise ConfigError(f"mine negatives: {reason_of(error)}") from error
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(same_text(row.anchor), set()).add(same_text(row.positive))
    return {(row["anchor"], row["positive"][0]): _without(answers[same_text(row["anchor"])], row) for row in table}


def _without(answers: Collection[str], row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Drop an answer that differs in blanks alone, and the query itself, as in sets of duplicate questions."""
    wrong = {*answers, same_text(row["anchor"])}
    found = zip(row["positive"][1:], row["scores"][1:], strict=True)
    pairs = [(text, score) for text, score in found if same_text(text) not in wrong]
    return tuple(text for text, _ in pairs), (row["scores"][0], *(score for _, score in pairs))


class _Watched:
    """An encoder that shows our progress, on the given terminal, and none of its own."""

    def __init__(self, encoder: SentenceTransformer, terminal: Any) -> None:
        self._encoder = encoder
        self._terminal = terminal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_query(self, texts: Sequence[str], **settings: Any) -> Any:
        return self._encode("queries", texts, self._encoder.encode_query, settings)

    def encode_document(self, texts: Sequence[str], **settings: Any) -> Any:
        return self._encode("documents", texts, self._encoder.encode_document, settings)

    def _encode(self, side: str, texts: Sequence[str], encode: Any, settings: dict[str, Any]) -> Any:
        import numpy as np

        step = settings["batch_size"] * _BATCHES_PER_STEP
        vectors = []
        with redirect_stderr(self._terminal), progress(f"encoding {side}", sum(len(text) + 1 for text in texts)) as advance:
            for start in range(0, len(texts), step):
                chosen = list(texts[start : start + step])
                vectors.append(encode(chosen, **{**settings, "show_progress_bar": False}))
                advance(sum(len(text) + 1 for text in chosen))
        found = np.concatenate(vectors)
        if not np.isfinite(found).all():
            raise DataError(f"the encoder gives {side} that are not finite; its weights hold NaN, or need dtype float32")
        return found


def _summary(mined: Sequence[Triplet], output: Path, *, rows: int, asked: int) -> MinedNegatives:
    negatives = [score for row in mined for score in row.scores[1:]]
    return MinedNegatives(
        output=output,
        rows=rows,
        written=len(mined),
        complete=sum(len(row.negatives) == asked for row in mined),
        negatives=len(negatives) / len(mined),
        positive_score=sum(row.scores[0] for row in mined) / len(mined),
        negative_score=sum(negatives) / len(negatives),
    )

"""Hard negatives as an encoder sees them: documents that it ranks high for a query and that are not its answer."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from prune2vec.data.documents import same_text
from prune2vec.data.folders import files_read
from prune2vec.data.reader import Texts, load_triplets
from prune2vec.data.rows import read_rows
from prune2vec.data.triplet import Triplet, write_triplets
from prune2vec.errors import ConfigError, DataError, reason_of
from prune2vec.paths import check_target
from prune2vec.progress import progress
from prune2vec.public import public
from prune2vec.settings import Seed, Settings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CELLS = 1 << 26  # Of the similarity matrix in memory, 256 MB.
_BATCHES_PER_STEP = 16


class MiningSettings(Settings):
    """Which of the documents that an encoder ranks high for a query become its hard negatives."""

    negatives: int = Field(default=7, ge=1, le=10**3)
    """Hard negatives for each row (EffiR trains with 7); a row for which fewer are left keeps those."""
    range_min: int = Field(default=0, ge=0, le=10**9)
    """Pass over so many of the best documents left by the filters: the best may be answers that nobody marked."""
    range_max: int | None = Field(default=None, ge=1, le=10**9)
    """Look at the best so many documents only; None is range_min and ten times the negatives, or, without any filter, once."""
    relative_margin: float | None = Field(default=0.05, ge=-1, lt=1)
    """Leave out documents above this share below the positive's similarity, since they may be answers; null for no such filter."""
    margin: float | None = Field(default=None, ge=0, le=2)
    """Leave out documents whose similarity is less than this below the positive's."""
    max_score: float | None = Field(default=None, ge=-1, le=1)
    """Leave out documents more similar to the query than this."""
    min_score: float | None = Field(default=None, ge=-1, le=1)
    """Leave out documents less similar to the query than this."""
    sampling: Literal["top", "random"] = "top"
    """Take the best of the documents in the range, or draw among them."""
    score: bool = False
    """Write the encoder's cosines as teacher scores (pos_scores, neg_scores), to train with distil data; they span little, so
    train with teacher_temperature 0.02 or so."""
    seed: Seed = 42
    """Seed of the draw."""
    batch_size: int = Field(default=32, ge=1, le=10**6)
    """Texts per forward pass."""
    max_length: int | None = Field(default=None, ge=1, le=2**24)
    """Longest text in tokens; None keeps the encoder's own limit."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights; auto is bf16 where the hardware multiplies it fast, else fp32."""
    device: str = "auto"
    """Where the encoder runs: auto, cpu, cuda, cuda:1, mps."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.range_max is not None and self.range_max < self.range_min + self.negatives:
            needed = f"range_min {self.range_min} and {self.negatives} negatives need {self.range_min + self.negatives}"
            raise ValueError(f"range_max {self.range_max} is too small: {needed}")
        return self


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
    data: Texts,
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
    target = check_target_of(data, Path(output))
    # The command line reads this file for its options; torch must not come with them.
    from prune2vec.encoding.engine import set_limit
    from prune2vec.pruning.encoder import check_finite, load_encoder
    from prune2vec.training.fit import isolated_randomness

    tables: dict[str, dict[tuple[str, str], Triplet]] = {}
    documents: dict[str, dict[str, None]] = {}
    for row in load_triplets(data, require_negative=False):
        tables.setdefault(row.dataset, {}).setdefault((row.anchor, row.positive), row)
        # A pair may come again with other negatives.
        documents.setdefault(row.dataset, {}).update(dict.fromkeys(row.texts[1:]))
    distinct = sum(map(len, tables.values()))
    encoder = load_encoder(model, device=chosen.device, dtype=chosen.dtype)
    check_finite(encoder, model)
    if chosen.max_length is not None:
        set_limit(encoder, chosen.max_length)
    mined: list[Triplet] = []
    with isolated_randomness(chosen.seed):
        for name, table in tables.items():
            mined += _mined(list(table.values()), list(documents[name]), encoder, chosen)
    if not mined:
        raise DataError(
            f"no row of {distinct} got a hard negative; loosen relative_margin, range_min or max_score, or add texts"
        )
    write_triplets((row if chosen.score else replace(row, scores=()) for row in mined), target)
    negatives = [score for row in mined for score in row.scores[1:]]
    return MinedNegatives(
        output=target,
        rows=distinct,
        written=len(mined),
        complete=sum(len(row.negatives) == chosen.negatives for row in mined),
        negatives=len(negatives) / len(mined),
        positive_score=sum(row.scores[0] for row in mined) / len(mined),
        negative_score=sum(negatives) / len(negatives),
    )


def check_target_of(data: Texts, output: Path) -> Path:
    """Return the file to write, if it can be written and is none of those that the rows are read from.

    Raises:
        DataError: It is one of them, or held out from them, holds something else than triplets, or is no JSON-lines file.
        CheckpointError: It cannot be written.
    """
    target = check_target(output, folder=False)
    given = [data] if isinstance(data, str | Path) else data
    sources = [one for one in given if isinstance(one, str | Path)]
    if any(target.resolve() in files_read(one) for one in sources):
        raise DataError(f"cannot write {target}: the rows are read from it, and would lose their negatives; name another file")
    if any(target.resolve() in files_read(one, split) for one in sources for split in ("validation", "test")):
        raise DataError(f"cannot write {target}: its rows are held out from those to train on; name another file")
    if not target.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"cannot write triplets to {target.name}; the name must end in .jsonl or .jsonl.gz")
    if target.exists() and not _holds_triplets(target):
        raise DataError(f"{target} holds something else than mined rows, and would be lost; name another file")
    return target


def _holds_triplets(file: Path) -> bool:
    try:
        first = next(iter(read_rows(file)), None)
    except DataError:
        return False
    return first is not None and {"query", "positive"} <= first.values.keys()


def _mined(
    rows: Sequence[Triplet], documents: list[str], encoder: SentenceTransformer, settings: MiningSettings
) -> list[Triplet]:
    """Return the rows of one data set that get hard negatives, with the cosines of the positive and of each of them."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives as mine

    wrong, spare, most = _no_negatives(rows, documents)
    # What is left out again must not make the range narrower; where there is nothing of that kind, the miner decides as it does.
    filtered = any(one is not None for one in (settings.margin, settings.relative_margin, settings.max_score))
    usual = settings.range_min + settings.negatives * (10 if filtered else 1) + most
    pairs = Dataset.from_dict({"anchor": [row.anchor for row in rows], "positive": [row.positive for row in rows]})
    watched: Any = _Watched(encoder, sys.stderr)
    try:
        with redirect_stderr(io.StringIO()):
            table = mine(
                pairs,
                watched,
                corpus=documents,
                range_min=settings.range_min,
                range_max=(settings.range_max or usual) + spare if spare else settings.range_max,
                max_score=settings.max_score,
                min_score=settings.min_score,
                absolute_margin=settings.margin,
                relative_margin=settings.relative_margin,
                num_negatives=settings.negatives + spare,
                sampling_strategy=settings.sampling,
                output_format="labeled-list",
                output_scores=True,
                batch_size=settings.batch_size,
                faiss_batch_size=max(1, _CELLS // len(documents)),
                verbose=False,
            )
    except ValueError as error:
        raise ConfigError(f"mine negatives: {reason_of(error)}") from error
    found = {(line["anchor"], line["positive"][0]): line for line in table}
    mined = []
    for row in rows:
        line = found.get((row.anchor, row.positive), {"positive": [""], "scores": [0.0]})
        scored = zip(line["positive"][1:], line["scores"][1:], strict=True)
        kept = [(text, score) for text, score in scored if same_text(text) not in wrong[same_text(row.anchor)]]
        if len(kept) > settings.negatives and settings.sampling == "random":
            kept = [kept[place] for place in sorted(random.sample(range(len(kept)), settings.negatives))]
        kept = kept[: settings.negatives]
        if kept:
            negatives, scores = zip(*kept, strict=True)
            mined.append(replace(row, negatives=negatives, scores=(line["scores"][0], *scores)))
    return mined


def _no_negatives(rows: Sequence[Triplet], documents: list[str]) -> tuple[dict[str, set[str]], int, int]:
    """Return by query the texts that are no negatives of it, both as ``same_text`` has them: its answers, also where they differ in
    blanks alone, and the query itself, as in sets of duplicate questions.

    Second is how many of these among the documents the miner takes for negatives, at most, as it knows answers word for word
    only; third is how many answers a query has at most.
    """
    wrong: dict[str, set[str]] = {}
    answers: dict[str, set[str]] = {}
    for row in rows:
        anchor = same_text(row.anchor)
        wrong.setdefault(anchor, {anchor}).add(same_text(row.positive))
        answers.setdefault(row.anchor, set()).add(row.positive)
    alike: dict[str, set[str]] = {}
    for document in documents:
        alike.setdefault(same_text(document), set()).add(document)
    unknown = (
        len(set().union(*(alike.get(text, ()) for text in wrong[same_text(anchor)])) - known)
        for anchor, known in answers.items()
    )
    return wrong, max(unknown), max(map(len, answers.values()))


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

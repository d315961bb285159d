"""What each query, pair or text adds to a score: kept in ``results.json``, so that a difference gets an interval later."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune2vec.files import digest_json, read_json
from prune2vec.settings import AS_WRITTEN

if TYPE_CHECKING:
    import numpy as np
    from mteb.abstasks import AbsTask
    from numpy.typing import NDArray

Unit = Literal["queries", "pairs", "texts", "sets of texts"]
Statistic = Literal["mean", "spearman"]
# mteb's name of a metric and trec_eval's, before the number of documents that are looked at.
_BY_TREC_EVAL = {"ndcg_at_": "ndcg_cut_", "map_at_": "map_cut_", "recall_at_": "recall_", "precision_at_": "P_"}
# mteb rounds some of its scores to five places.
_SAME = 2e-5


@dataclass(frozen=True, kw_only=True)
class ItemScores:
    """The items that a score is made of, in an order that is the same for every encoder.

    Numbers stand in one string with blanks between them: as a list each would take a line of the file.

    Attributes:
        unit: What an item is.
        statistic: How the score comes from the values: their mean, or Spearman's correlation with ``gold``.
        digest: Of what the items are; only items of the same digest are pairs.
        values: Number of each item: its score, or the similarity that the encoder gives it.
        gold: For a correlation, the right number of each item.
        ranks: Place of each query's first right document, from 1; 0 where none is among those looked at.
        split: Part of the task; empty on own data.
        subset: Part of the task; empty on own data.
    """

    __pydantic_config__ = AS_WRITTEN

    unit: Unit
    statistic: Statistic = "mean"
    digest: str
    values: str
    gold: str = ""
    ranks: str = ""
    split: str = ""
    subset: str = ""

    def __post_init__(self) -> None:
        """Refuse numbers that are none, and columns of different lengths."""
        for name in ("gold", "ranks") if self.statistic == "spearman" else ("ranks",):
            column = getattr(self, name)
            if (column or name == "gold") and len(column.split()) != len(self):
                raise ValueError(f"{name} has {len(column.split())} numbers, values has {len(self)}")
        if not all(math.isfinite(float(word)) for column in (self.values, self.gold) for word in column.split()):
            raise ValueError("values and gold hold a number that is not finite")

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        *,
        items: Any,
        gold: Iterable[float] = (),
        ranks: Iterable[int] = (),
        task: str = "",
        **about: Any,
    ) -> ItemScores:
        """Return the record of numbers; ``items`` is JSON that says what the items of a task are."""
        columns: dict[str, Any] = {"values": _written(values), "gold": _written(gold), "ranks": _written(ranks)}
        return cls(digest=digest_json([task, items]), **columns, **about)

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self.values.split())

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The values, (items,)."""
        return _read(self.values)

    @cached_property
    def right(self) -> NDArray[np.float64]:
        """The gold numbers, (items,)."""
        return _read(self.gold)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The ranks; empty where there are none."""
        return tuple(map(int, self.ranks.split()))

    def make(self, score: float) -> bool:
        """Return whether the items make this score: what they do not make, they say nothing about."""
        if len(self) == 0:
            return False
        if self.statistic == "mean":
            return abs(float(self.numbers.mean()) - score) <= _SAME
        from scipy.stats import spearmanr

        return abs(float(spearmanr(self.right, self.numbers).statistic) - score) <= _SAME

    def pairs_with(self, other: ItemScores) -> bool:
        """Return whether the items of the two are the same ones."""
        mine, theirs = ((one.unit, one.statistic, one.digest, one.split, one.subset, len(one)) for one in (self, other))
        return mine == theirs


def _written(numbers: Iterable[float]) -> str:
    # Nine digits give a number of single precision back as it was.
    return " ".join(f"{number:.9g}" for number in numbers)


def _read(text: str) -> NDArray[np.float64]:
    import numpy as np  # Here: a table of single results waits for no numpy.

    return np.array([float(word) for word in text.split()])


class TaskItems:
    """Watches the evaluation of one task.

    ``folder`` is where mteb is to save predictions; None for retrieval, which has thousands a query and hands the scores of
    each query to the task in any case.
    """

    def __init__(self, task: AbsTask, folder: Path) -> None:
        from mteb.abstasks import AbsTaskRetrieval

        self._task = task
        self._searches = isinstance(task, AbsTaskRetrieval)
        self.folder = None if self._searches else folder
        self._found: dict[tuple[str, str], tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the scores of each query while mteb evaluates."""
        if not self._searches:
            yield
            return
        task: Any = self._task
        own = task.task_specific_scores

        def noting(scores: Any, qrels: Any, results: Any, *, hf_split: str, hf_subset: str) -> Any:
            self._found[hf_subset, hf_split] = scores, qrels, results
            return own(scores, qrels, results, hf_split=hf_split, hf_subset=hf_subset)

        task.task_specific_scores = noting
        try:
            yield
        finally:
            del task.task_specific_scores

    def of(self, rows: Sequence[Mapping[str, Any]], main_score: str) -> tuple[ItemScores, ...]:
        """Return the items of every part of the task, in the order of mteb's scores; nothing where it has none for one of them."""
        parts = []
        for row in rows:
            found = self._of_part(row, main_score)
            # A task may make its score in a way of its own.
            if found is None or not found.make(float(row["main_score"])):
                return ()
            parts.append(found)
        return tuple(parts)

    def _of_part(self, row: Mapping[str, Any], main_score: str) -> ItemScores | None:
        from mteb.abstasks import AbsTaskClassification, AbsTaskSTS

        # Of another task not even the same numbers are the same items.
        about: dict[str, Any] = {"task": self._task.metadata.name, "split": row["split"], "subset": row["hf_subset"]}
        if self._searches:
            return self._of_queries(about, main_score)
        if isinstance(row.get("v_measures"), list) and main_score == "v_measure":
            return ItemScores.of(row["v_measures"], items=len(row["v_measures"]), unit="sets of texts", **about)
        if isinstance(self._task, AbsTaskSTS) and main_score in ("cosine_spearman", "spearman"):
            return self._of_pairs(about, "similarity_scores" if main_score == "spearman" else "cosine_scores")
        if isinstance(self._task, AbsTaskClassification) and main_score == "accuracy" and not self._task.is_cross_validation:
            return self._of_texts(about)
        return None

    def _of_queries(self, about: Mapping[str, Any], main_score: str) -> ItemScores | None:
        name = next((main_score.replace(ours, its) for ours, its in _BY_TREC_EVAL.items() if main_score.startswith(ours)), "")
        scores, qrels, results = self._found.get((about["subset"], about["split"]), ({}, {}, {}))
        if any(name not in one for one in scores.values()):
            return None
        ids = sorted(scores)
        ranks = [first_right(results.get(query, {}), qrels.get(query, {})) for query in ids]
        return ItemScores.of([scores[query][name] for query in ids], items=ids, ranks=ranks, unit="queries", **about)

    def _of_pairs(self, about: Mapping[str, Any], column: str) -> ItemScores | None:
        gold, found = self._data(about)["score"], self._predictions(about)[column]
        if found is None:
            return None
        return ItemScores.of(found, gold=gold, items=list(gold), unit="pairs", statistic="spearman", **about)

    def _of_texts(self, about: Mapping[str, Any]) -> ItemScores:
        """Return for each test text the share of mteb's classifiers, each with training texts of its own, that are right."""
        import numpy as np

        task: Any = self._task
        labels = list(self._data(about)[task.label_column_name])
        right = [[one == label for one, label in zip(guesses, labels, strict=True)] for guesses in self._predictions(about)]
        return ItemScores.of(np.mean(right, axis=0), items=labels, unit="texts", **about)

    def _data(self, about: Mapping[str, Any]) -> Any:
        """Return a part of the task's data, where mteb looks for it."""
        dataset: Any = self._task.dataset
        alone = about["subset"] == "default" and "default" not in dataset
        return (dataset if alone else dataset[about["subset"]])[about["split"]]

    def _predictions(self, about: Mapping[str, Any]) -> Any:
        assert self.folder is not None
        return read_json(self.folder / self._task.prediction_file_name)[about["subset"]][about["split"]]


def first_right(scores: Mapping[str, float], grades: Mapping[str, int]) -> int:
    """Return the place of the first relevant document, from 1, of equal scores the greater id first (trec_eval's order); 0: none."""
    found = [(scores[document], document) for document, grade in grades.items() if grade > 0 and document in scores]
    if not found:
        return 0
    best = max(found)
    return 1 + sum((score, document) > best for document, score in scores.items())

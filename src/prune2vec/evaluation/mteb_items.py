"""The items behind a score of mteb: taken from what it hands to a task's own scores, and from the predictions that it saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.files import read_json

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

# mteb's name of a metric and trec_eval's, before the number of documents that are looked at.
_BY_TREC_EVAL = {"ndcg_at_": "ndcg_cut_", "map_at_": "map_cut_", "recall_at_": "recall_", "precision_at_": "P_"}


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

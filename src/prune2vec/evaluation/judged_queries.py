"""The texts behind the items of a retrieval score: read again from where the results say that they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prune2vec.errors import EvaluationError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import Results, TaskScore
from prune2vec.files import digest_json


@dataclass(frozen=True, kw_only=True)
class JudgedQuery:
    """A query and the texts of the documents that are right for it, the most relevant first."""

    text: str
    right: tuple[str, ...]


def own_queries(results: Results) -> list[JudgedQuery]:
    """Return the queries of the user's own data, in the order of the items; a Prune2vecError if the data are others now."""
    from prune2vec.evaluation.retrieval import load_retrieval, retrieval_digest, sample_retrieval

    settings, source = _settings(results), results.retrieval["data"]["source"]
    found, _ = sample_retrieval(load_retrieval(source, settings), settings)
    if retrieval_digest(found) != results.data_digest:
        raise EvaluationError(f"{source} is not what it was when it was evaluated")
    return [_judged(text, found.qrels[query], found.corpus) for query, text in found.queries.items()]


def task_queries(results: Results, score: TaskScore, items: ItemScores) -> list[JudgedQuery]:
    """Return the queries of a part of an MTEB task, in the order of its items; a Prune2vecError if its data are others now."""
    from prune2vec.evaluation.mteb_runner import read_task
    from prune2vec.evaluation.retrieval import sample_task
    from prune2vec.evaluation.tasks import resolve_tasks

    name = score.name.removesuffix(score.sample).rstrip()
    with read_task(resolve_tasks([name])[0], score.data) as task:
        data: Any = task
        data.convert_v1_dataset_format_to_v2(num_proc=None)
        sample_task(task, _settings(results))
        part = data.dataset[items.subset][items.split]
        qrels, texts = part["relevant_docs"], {row["id"]: row["text"] for row in part["queries"]}
        corpus = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in part["corpus"]}
    ids = sorted(query for query in texts if any(grade > 0 for grade in qrels.get(query, {}).values()))
    if digest_json([name, ids]) != items.digest:
        raise EvaluationError(f"{score.data['path']} is not what it was when it was evaluated")
    return [_judged(texts[query], qrels[query], corpus) for query in ids]


def _judged(text: str, grades: Mapping[str, int], corpus: Mapping[str, str]) -> JudgedQuery:
    right: Iterable[str] = sorted((one for one, grade in grades.items() if grade > 0), key=lambda one: -grades[one])
    return JudgedQuery(text=text, right=tuple(corpus.get(one, f"(no text: {one})") for one in right))


def _settings(results: Results) -> EvaluateSettings:
    """Return the settings that decide which texts there are."""
    named: Sequence[str] = ("split", "corpus", "max_queries", "max_documents", "seed")
    return EvaluateSettings.build({name: results.settings[name] for name in named if name in results.settings}, where="results")

"""How two results differ: a difference of scores with its interval (which ``intervals`` finds, as that takes numpy), and which queries
one encoder ranks worse than the other, with their texts, read again from where the results say that they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prune2vec.errors import EvaluationError, Prune2vecError, shown
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import Results, TaskScore
from prune2vec.files import digest_json

OWN_DATA, SCORE = "own data", "score"
"""Names of differences that are no task's: of nDCG@10 on the user's own data, and of the one number for comparisons."""
UNSURE = "no difference that these data can tell"
_MOST = 10
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much more one encoder scores than another one on the same thing.

    Attributes:
        value: The difference of the two scores.
        low: Lower end of its 95 % interval; None where the results hold nothing that an interval could come from.
        high: Its upper end.
        over: What the scores are from: ``300 queries``.
        why: Why there is no interval; empty where there is one.
    """

    value: float
    low: float | None = None
    high: float | None = None
    over: str = ""
    why: str = ""

    @property
    def interval(self) -> str:
        """The interval as shown in a table; empty where there is none."""
        return f"{self.low:+.4f} to {self.high:+.4f}" if self.low is not None else ""

    @property
    def verdict(self) -> str:
        """What the interval says: better, worse, or that these data cannot tell; or why there is none."""
        if self.low is None or self.high is None:
            return f"no interval: {self.why}"
        return UNSURE if self.low <= 0 <= self.high else "better" if self.low > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class MovedQuery:
    """A query that is ranked worse than before.

    Attributes:
        number: Its place among the queries, from 1.
        text: The query; empty where the texts cannot be read.
        right: The most relevant of its right documents, or empty.
        others: How many right documents it has beside that.
        before: Place of the first right document before, from 1; 0 where none was found.
        after: Its place after.
        score_before: The query's score before.
        score_after: Its score after.
    """

    number: int
    text: str
    right: str
    others: int
    before: int
    after: int
    score_before: float
    score_after: float

    def render(self) -> list[str]:
        """Return the move, and on a second line the right document."""
        places = " -> ".join(str(place) if place else "not found" for place in (self.before, self.after))
        more = f" (and {self.others} more)" if self.others else ""
        lines = [f"  {places:>16}  {shown(self.text, _WIDTH) if self.text else f'query {self.number}'}"]
        return [*lines, f"{'right:':>18}  {shown(self.right, _WIDTH)}{more}"] if self.right else lines


@dataclass(frozen=True, kw_only=True)
class RankingDiff:
    """The queries of one task that lost most.

    Attributes:
        name: The task, or the user's own data.
        worse: How many queries score less than before.
        better: How many score more.
        same: How many score the same.
        worst: Those that lost most, the worst first.
        note: Why there are no texts; empty where there are.
    """

    name: str
    worse: int
    better: int
    same: int
    worst: tuple[MovedQuery, ...]
    note: str = ""

    def render(self) -> str:
        """Return the queries as text."""
        counts = f"{self.worse:,} queries worse, {self.better:,} better, {self.same:,} as before"
        head = [f"{self.name}: {counts}{'; place of the first right document before -> after:' if self.worst else ''}"]
        note = [f"  {self.note}"] if self.note else []
        return "\n".join([*head, *note, *(line for moved in self.worst for line in moved.render())])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def ranking_diffs(before: Results, after: Results) -> tuple[RankingDiff, ...]:
    """Return the queries that lost most, for the user's own data and every retrieval task that both have the queries of."""
    return tuple(_diff(name, mine, its, texts) for name, mine, its, texts in _parts(before, after))


def _parts(before: Results, after: Results) -> Iterator[tuple[str, ItemScores, ItemScores, Callable[[], list[JudgedQuery]]]]:
    if before.data_digest == after.data_digest:
        for mine, its in zip(before.own_items, after.own_items, strict=False):
            yield f"nDCG@10 on {after.retrieval['data']['source']}", mine, its, lambda: own_queries(after)
    there = {task.name: task for task in after.tasks}
    for task in before.tasks:
        other = there.get(task.name)
        for mine, its in zip(task.items, other.items if other is not None else (), strict=False):
            if other is not None and mine.places and mine.pairs_with(its):
                several = f" ({its.subset}, {its.split})" if len(other.items) > 1 else ""
                yield f"{task.name}{several}", mine, its, lambda other=other, its=its: task_queries(after, other, its)  # type: ignore[misc]


def _diff(name: str, before: ItemScores, after: ItemScores, texts: Callable[[], list[JudgedQuery]]) -> RankingDiff:
    change = after.numbers - before.numbers

    def lost(place: int) -> tuple[float, float]:
        # Of equal losses that which fell furthest; not found is further than any place.
        return float(change[place]), -(after.places[place] or float("inf"))

    fell = sorted((place for place in range(len(change)) if change[place] < 0), key=lost)
    queries, note = None, ""
    if fell:
        try:
            queries = texts()
        except Prune2vecError as error:
            note = f"the texts cannot be shown: {error}"
    worst = []
    for place in fell[:_MOST]:
        query = queries[place] if queries is not None else JudgedQuery(text="", right=())
        worst.append(
            MovedQuery(
                number=place + 1,
                text=query.text,
                right=query.right[0] if query.right else "",
                others=max(0, len(query.right) - 1),
                before=before.places[place],
                after=after.places[place],
                score_before=float(before.numbers[place]),
                score_after=float(after.numbers[place]),
            )
        )
    better = int((change > 0).sum())
    counts = {"worse": len(fell), "better": better, "same": len(change) - len(fell) - better}
    return RankingDiff(name=name, worst=tuple(worst), note=note, **counts)


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

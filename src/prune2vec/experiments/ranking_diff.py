"""Which queries an encoder ranks worse than another one, with their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from prune2vec.errors import Prune2vecError, shown
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.judged_queries import JudgedQuery, own_queries, task_queries
from prune2vec.evaluation.results import Results

_MOST = 10
_WIDTH = 100


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
        head = [f"{self.name}: {counts}; place of the first right document before -> after:"]
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

"""What two results must share so that their scores and speeds may be compared, and what a reader must know where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import Results, TaskScore

_SETTINGS = ("max_length", "instruction")
_NAMED = 5


def same_task(one: TaskScore, other: TaskScore) -> bool:
    """Whether a task's score is from the same data twice: by digest or revision, where both results say the same of the two."""
    return not any(_differs(one.data, other.data, key) for key in ("digest", "revision"))


def _differs(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    return key in one and key in other and bool(one[key] != other[key])


def same_score(one: Results, other: Results) -> bool:
    """Whether the one number for comparisons is from the same thing twice: own data, or else the same tasks."""
    if one.retrieval or other.retrieval:
        return bool(one.retrieval and other.retrieval) and one.data_digest == other.data_digest
    theirs = {task.name: task for task in other.tasks}
    return {task.name for task in one.tasks} == set(theirs) and all(same_task(task, theirs[task.name]) for task in one.tasks)


def same_speed(one: Results, other: Results) -> bool:
    """Whether the speeds were measured on the same texts, as far as both results say on which."""
    return not _differs(one.speed, other.speed, "digest")


def other_settings(one: Results, other: Results) -> Iterator[tuple[str, str, str]]:
    """Yield the settings that change a score and are others, each with its value in both results."""
    for key in _SETTINGS:
        # Where one setting is the other encoder's own limit, both read as much.
        alike = key == "max_length" and one.encoder.get(key) == other.encoder.get(key)
        if _differs(one.settings, other.settings, key) and not alike:
            values = (result.settings[key] for result in (one, other))
            ours, theirs = ("the encoder's own" if value is None else str(value) for value in values)
            yield key, ours, theirs


def reasons(now: Results, before: Results) -> Iterator[str]:
    """Yield why a result cannot be held against an earlier one."""
    if before.score is None:
        yield "the earlier results hold no score"
    if before.retrieval and now.data_digest != before.data_digest:
        ours, theirs = map(_data_of, (now, before))
        yield f"the data are others ({ours}, before {theirs})" if ours != theirs else f"the texts of {ours} are others"
    there = {task.name: task for task in now.tasks}
    if lacking := [task.name for task in before.tasks if task.name not in there]:
        yield f"{', '.join(lacking)} is missing now"
    for task in before.tasks:
        if not same_task(there[task.name], task):
            yield f"the data of {task.name} are others"
        items = there[task.name].items
        if items and task.items:
            paired = len(task.items) == len(items) and all(map(ItemScores.pairs_with, task.items, items))
            if not paired:
                yield f"the queries, pairs or texts of {task.name} are others"


def _data_of(results: Results) -> str:
    if not results.retrieval:
        return "none"
    data = results.retrieval["data"]
    return f"{data['queries']} queries, {data['documents']} documents of {data['source']}"


def notes_on(results: Mapping[str, Results], *, bm25: bool) -> list[str]:
    """Return a sentence for everything that differs between results, by name, and should not.

    ``bm25`` says whether BM25 is shown beside them.
    """
    notes = list(_notes_on_first(results))
    if len({one.data_digest for one in results.values() if one.retrieval}) > 1:
        notes.insert(
            0, "The retrieval scores are not measured on the same data; their differences say nothing about the encoders."
        )
    elif not bm25 and any(one.retrieval.get("bm25") for one in results.values()):
        notes.append("BM25 is left out: not all results have the same one, or one has its name.")
    # A mean over tasks is only shown where there are some.
    scored = {name: {task.name for task in one.tasks} for name, one in results.items() if one.tasks}
    every = set().union(*scored.values())
    notes += [
        f"{name} lacks {', '.join(sorted(every - names))}: its average is over other tasks than the others'."
        for name, names in scored.items()
        if names != every
    ]
    notes += [
        f"The documents of {name} are encoded by {by['path']}, of which docs/s is; parameters and bytes are those of {name}."
        for name, one in results.items()
        if (by := one.encoder.get("documents_by"))
    ]
    if len({(one.environment.get("cpu"), one.environment.get("gpu")) for one in results.values() if one.speed}) > 1:
        notes.append("The speeds are from different machines.")
    return notes


def _notes_on_first(results: Mapping[str, Results]) -> Iterator[str]:
    """Yield what others do not share with the first, one sentence for all of whom it is the same."""
    (base, ours), *others = results.items()
    found: dict[tuple[str, str], list[str]] = {}
    for name, theirs in others:
        there = {task.name: task for task in theirs.tasks}
        if changed := [task.name for task in ours.tasks if task.name in there and not same_task(task, there[task.name])]:
            what = f"Measured on other data of {', '.join(changed)} than {base}, and not compared with it", ""
            found.setdefault(what, []).append(name)
        for key, mine, its in other_settings(ours, theirs):
            what = f"Evaluated with {key} {its}", f", where {base} has {mine}, which may be what their scores differ by"
            found.setdefault(what, []).append(name)
        if not same_speed(ours, theirs):
            found.setdefault((f"Speed measured on other texts than that of {base}, so without speed-up", ""), []).append(name)
    for (begin, end), names in found.items():
        yield f"{begin}: {_some(names)}{end}."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"

from __future__ import annotations

import mteb
import pytest

from prune2vec.evaluation.presets import PINNED, PRESETS, Task


def test_the_preset_has_fifteen_tasks_of_six_kinds() -> None:
    tasks = PRESETS["mteb-15"]
    assert len({task.name for task in tasks}) == 15
    kinds = [task.type for task in tasks]
    expected = {"Retrieval": 3, "Reranking": 2, "Clustering": 3, "PairClassification": 1, "Classification": 3, "STS": 3}
    assert {kind: kinds.count(kind) for kind in kinds} == expected


@pytest.mark.parametrize("task", PINNED.values(), ids=lambda task: task.name)
def test_every_task_is_what_mteb_says(task: Task) -> None:
    theirs = mteb.get_task(task.name)
    prompt = theirs.metadata.prompt
    instruction = (prompt["query"] if isinstance(prompt, dict) else prompt) or theirs.abstask_prompt
    assert (task.type, task.main_score) == (theirs.metadata.type, theirs.metadata.main_score)
    assert task.instruction == instruction
    assert set(task.splits) <= set(theirs.metadata.eval_splits)
    # Without a pinned subset there must be only one, or the score would be an average over languages.
    assert set(task.subsets) <= set(theirs.hf_subsets) if task.subsets else len(theirs.hf_subsets) == 1

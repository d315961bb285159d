from __future__ import annotations

import mteb
import pytest

from prune2vec.evaluation.tasks import PINNED, PRESETS, Task


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


def test_beir_13_is_the_papers_list_as_mteb_knows_it() -> None:
    tasks = PRESETS["beir-13"]
    assert len({task.name for task in tasks}) == 13
    for task in tasks:
        theirs = mteb.get_task(task.name)
        assert (theirs.metadata.type, theirs.metadata.main_score) == (task.type, task.main_score) == ("Retrieval", "ndcg_at_10")
        assert set(task.splits) <= set(theirs.metadata.eval_splits)
        assert list(theirs.hf_subsets) == ["default"]
    assert not {"MSMARCO", "CQADupstackRetrieval"} & {task.name for task in tasks}


def test_beir_13_has_one_instruction_and_leaves_the_pinned_tasks_theirs() -> None:
    assert {f"{task.instruction}{task.separator}" for task in PRESETS["beir-13"]} == {
        "<instruct>Given a query, retrieve relevant passages that answer the query.\n<query>"
    }
    shared = {task.name for task in PRESETS["beir-13"]} & set(PINNED)
    assert shared == {"ArguAna", "NFCorpus", "SciFact"}
    assert all(PINNED[name] in PRESETS["mteb-15"] for name in shared)

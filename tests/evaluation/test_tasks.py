from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prune2vec.errors import EvaluationError, MissingExtra
from prune2vec.evaluation.evaluate import evaluate_encoder
from prune2vec.evaluation.tasks import PINNED, PRESETS, resolve_tasks, task_prompts
from prune2vec.models.text_settings import PromptTemplate

FORMAT = PromptTemplate(prefix="<user>", separator="; ")


def test_presets_and_names_are_joined_once() -> None:
    names = [task.name for task in resolve_tasks("STS12, mteb-15,SciFact")]
    assert names == ["STS12", *(task.name for task in PRESETS["mteb-15"])]


def test_a_pinned_task_keeps_its_subset_when_asked_for_by_name() -> None:
    assert resolve_tasks(["STS17"])[0].subsets == ("en-en",)


def test_other_tasks_come_as_mteb_defines_them() -> None:
    (task,) = resolve_tasks(["STS12"])
    assert (task.type, task.main_score, task.splits, task.subsets) == ("STS", "cosine_spearman", (), ())
    assert task.instruction == "Retrieve semantically similar text."


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Scifact", "did you mean 'SciFact'"),
        ("STSBenchmrk", "did you mean 'STSBenchmark'"),
        ("mteb15", "did you mean 'mteb-15'"),
        ("SciFact-proxy", "no task is called 'SciFact-proxy'"),
        ("", "no task is named"),
    ],
)
def test_unknown_names_are_one_line(name: str, words: str) -> None:
    with pytest.raises(EvaluationError, match=words) as caught:
        resolve_tasks(name)
    assert "\n" not in str(caught.value)


def test_an_absent_mirror_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no mirror folder"):
        resolve_tasks("SciFact", tmp_path / "absent")


def test_instructions_go_where_the_papers_put_them() -> None:
    asked = {task.name: task_prompts(task, FORMAT) for task in PINNED.values()}
    claim = "<user>Given a scientific claim, retrieve documents that support or refute the claim; "
    assert asked["SciFact"] == {"query": claim, "document": "<user>"}
    duplicate = "<user>Retrieve duplicate questions from StackOverflow forum; "
    assert asked["StackOverflowDupQuestions"] == {"query": duplicate, "document": duplicate}
    assert asked["STS17"] == {"text": "<user>Retrieve semantically similar text.; "}
    assert all(list(asked[name]) == ["text"] for name, task in PINNED.items() if task.type not in ("Retrieval", "Reranking"))


def test_an_instruction_of_a_list_stays_with_the_list() -> None:
    assert resolve_tasks("beir-13") == PRESETS["beir-13"]
    (alone,) = resolve_tasks("SciFact")
    assert alone == next(task for task in resolve_tasks("mteb-15") if task.name == "SciFact")
    assert alone.instruction == "Given a scientific claim, retrieve documents that support or refute the claim"
    (fiqa,) = resolve_tasks("FiQA2018")
    assert fiqa.instruction.startswith("Given a financial question")


def test_effirs_prompt_is_word_for_word_whatever_the_encoders_separator() -> None:
    for task in PRESETS["beir-13"]:
        found = task_prompts(task, PromptTemplate(separator="; "))
        expected = "<instruct>Given a query, retrieve relevant passages that answer the query.\n<query>"
        assert found == {"query": expected, "document": ""}


@pytest.mark.parametrize("names", ["SciFact", "mteb-15", "Banking77Classification"])
def test_without_mteb_no_encoder_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtra, match=r"needs the package mteb; install it with: pip install 'prune2vec\[eval\]'"):
        evaluate_encoder(tmp_path / "not there", tasks=names)


@pytest.mark.parametrize("names", ["mteb-15,beir-13", "beir-13,mteb-15", "SciFact,beir-13", "beir-13,ArguAna"])
def test_two_ways_to_evaluate_one_task_are_refused(names: str) -> None:
    with pytest.raises(EvaluationError, match="in another way than a name before it does; evaluate them one after the other"):
        resolve_tasks(names)

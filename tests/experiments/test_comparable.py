"""What may be compared, as a reader of a comparison is told it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prune2vec.evaluation.results import METRICS, Results
from prune2vec.experiments.comparison import Comparison, ResultRow, comparison_of
from prune2vec.experiments.report import headline
from tests.experiments.small import METRICS_OF_BM25, results_of
from tests.experiments.test_comparison import task


def compared(a: Results, b: Results, *, names: tuple[str, str] = ("a", "b")) -> Comparison:
    return comparison_of([ResultRow(name=names[0], results=a), ResultRow(name=names[1], results=b)])


def on_task(score: float, **data: str) -> Results:
    return results_of(retrieval={}, tasks=(replace(task("SciFact", score), data={"path": "p", **data}),))


def own_data(**changes: Any) -> Results:
    results = results_of()
    return replace(results, retrieval={**results.retrieval, "data": {**results.retrieval["data"], **changes}})


def test_a_task_on_other_data_is_not_compared() -> None:
    other = compared(on_task(0.5, digest="all"), on_task(0.7, digest="fewer"))
    assert other.notes == ("Measured on other data of SciFact than a, and not compared with it: b.",)
    assert other.gaps == {"b": {}} and other.difference("b") is None
    # Of a copy and of the hub neither says what the other does.
    for data in ({"digest": "all"}, {"revision": "r"}):
        same = compared(on_task(0.5, digest="all"), on_task(0.7, **data))
        assert same.notes == () and same.difference("b") is not None


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"max_length": 8}, "Evaluated with max_length 8: b, where a has the encoder's own,"),
        ({"instruction": "mteb"}, "Evaluated with instruction mteb: b, where a has none,"),
        ({"max_length": 64}, None),
        ({"batch_size": 1}, None),
    ],
)
def test_settings_that_change_a_score_are_said(changed: dict[str, Any], note: str | None) -> None:
    settings = {"max_length": None, "instruction": "none", "batch_size": 2}
    encoder = {"path": "e", "record": {}, "max_length": 64}
    limit = changed.get("max_length", 64)
    a = replace(results_of(), settings=settings, encoder=encoder)
    b = replace(results_of(), settings=settings | changed, encoder={**encoder, "max_length": limit})
    assert compared(a, b).notes == ((f"{note} which may be what their scores differ by.",) if note else ())


def test_speeds_on_other_texts_give_no_speed_up() -> None:
    a, b = (results_of(docs_per_s=rate) for rate in (10.0, 25.0))
    a, b, other = (replace(one, speed={**one.speed, "digest": digest}) for one, digest in ((a, "d"), (b, "d"), (b, "other")))
    assert "speed-up" in compared(a, b).summary().header and "times its speed" in headline(compared(a, b))[0]
    assert compared(a, other).notes == ("Speed measured on other texts than that of a, so without speed-up: b.",)
    assert "speed-up" not in compared(a, other).summary().header
    assert "times its speed" not in headline(compared(a, other))[0]
    unmeasured = replace(b, speed={})
    assert compared(a, unmeasured).notes == () and "speed-up" not in compared(a, unmeasured).summary().header


def test_another_encoder_of_the_documents_is_named() -> None:
    b = replace(results_of(), encoder={"path": "b", "record": {}, "documents_by": {"path": "half/encoder"}})
    note = "The documents of b are encoded by half/encoder, of which docs/s is; parameters and bytes are those of b."
    assert compared(results_of(), b).notes == (note,)


def test_bm25_is_that_of_the_same_data() -> None:
    # Equal metrics, as where it finds all, are no sign of equal data.
    other = compared(results_of(), own_data(digest="other"))
    assert other.bm25 == {} and len(other.notes) == 1
    bare = replace(results_of(), retrieval={**results_of().retrieval, "bm25": None})
    without = compared(results_of(), bare)
    assert without.bm25 == {} and without.notes == (
        "BM25 is left out: not all results have the same one, or one has its name.",
    )
    assert compared(results_of(), results_of()).bm25 == METRICS_OF_BM25
    named = compared(results_of(), results_of(score=0.25), names=("a", "BM25"))
    gap = named.difference("BM25")
    assert gap is not None and gap.value == -0.25, "that of the result, not the baseline's"
    assert named.bm25 == {} and len(named.summary().rows) == 2 and len(named.notes) == 1


def test_own_data_beside_a_task_is_no_fault_of_either() -> None:
    mixed = compared(results_of(), on_task(0.5))
    assert mixed.notes == ("BM25 is left out: not all results have the same one, or one has its name.",)
    assert mixed.summary().header[-1] == "tasks' mean" and [row[-1] for row in mixed.summary().rows] == ["", "0.5000"]
    tasks = mixed.tasks()
    assert tasks is not None and tasks.rows == (("SciFact", "", "0.5000"),)


def test_a_sample_is_in_the_title_of_its_score() -> None:
    of_both = own_data(sample="(90 of 234 documents)")
    assert compared(of_both, of_both).summary().header[5] == "nDCG@10 (90 of 234 documents)"
    assert compared(of_both, own_data(digest="other")).summary().header[5] == "nDCG@10"
    assert compared(of_both, of_both).summary().header[-len(METRICS) + 1 :] == ("MRR@10", "R@1", "R@10", "R@100")


def test_a_sentence_for_all_of_whom_it_is_the_same() -> None:
    a = replace(results_of(), settings={"max_length": 128, "instruction": "none"})
    other = replace(results_of(), settings={"max_length": 8, "instruction": "none"})
    silent = replace(results_of(), settings={})  # What a result does not say is no difference.
    rows = {
        "a": a,
        **{f"c{number}": replace(other, encoder={"path": "e", "max_length": 8}) for number in range(200)},
        "z": silent,
    }
    (note,) = comparison_of([ResultRow(name=name, results=one) for name, one in rows.items()]).notes
    assert note.startswith("Evaluated with max_length 8: c0, c1, c2, c3, c4 and 195 more, where a has 128, which")

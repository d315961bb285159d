from __future__ import annotations

from dataclasses import replace

import pytest

from prune2vec.evaluation.results import METRICS, TaskScore
from prune2vec.experiments.comparison import Comparison, ResultRow, TextTable, comparison_of
from prune2vec.experiments.ranking_diff import UNSURE
from prune2vec.experiments.report import headline
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.portable import record_of
from tests.experiments.small import METRICS_OF_BM25, profile_of, results_of


def plan_of(kept: int) -> PruningPlan:
    profile = profile_of()
    return PruningPlan(model=profile.model, shape=profile.shape, keep_layers=tuple(range(kept)), method="depth")


def task(name: str, score: float) -> TaskScore:
    return TaskScore(
        name=name, type="STS", main_score="cosine_spearman", score=score, parts=(), metrics={}, prompts={}, data={}, seconds=1.0
    )


@pytest.fixture
def comparison() -> Comparison:
    full = ResultRow(name="full", results=results_of(score=0.5, params=7_000_000, docs_per_s=10.0), plan=plan_of(12))
    small = ResultRow(name="small", results=results_of(score=0.4375, params=3_500_000, docs_per_s=25.0), plan=plan_of(5))
    return comparison_of([full, small])


def test_summary_has_every_number(comparison: Comparison) -> None:
    table = comparison.summary()
    assert table.header == (
        *("variant", "layers", "parameters", "share", "docs/s", "speed-up"),
        *("nDCG@10", "difference", "MRR@10", "R@1", "R@10", "R@100"),
    )
    full, small, bm25 = table.rows
    assert full == ("full", "12 of 12", "7.0 M", "100 %", "10.0", "", "0.5000", "", "0.5000", "0.5000", "0.5000", "0.5000")
    assert small[:8] == ("small", "5 of 12", "3.5 M", "50 %", "25.0", "2.5x", "0.4375", "-0.0625")
    assert bm25[0] == "BM25"
    assert bm25[6:8] == ("0.5000", "+0.0000")
    assert comparison.notes == ()


@pytest.mark.parametrize("known_by", ["plan", "record"])
@pytest.mark.parametrize(
    ("attention", "mlp", "shown", "sentence"),
    [
        ((), (3, 4), "5 of 12, 3 MLPs", "cut keeps 5 of 12 layers (3 MLPs): "),
        ((0,), (1, 2, 3, 4), "5 of 12, 4 attentions, 1 MLP", "cut keeps 5 of 12 layers (4 attentions, 1 MLP): "),
        ((), (), "5 of 12", "cut keeps 5 of 12 layers: "),
    ],
)
def test_layers_without_a_sub_layer_are_told_apart(
    known_by: str, attention: tuple[int, ...], mlp: tuple[int, ...], shown: str, sentence: str
) -> None:
    plan = replace(plan_of(5), drop_attention=attention, drop_mlp=mlp)
    record = {"keep_layers": list(plan.keep_layers), "num_layers": 12, "plan": record_of(plan)}
    cut = (
        ResultRow(name="cut", results=results_of(), plan=plan)
        if known_by == "plan"
        else ResultRow(name="cut", results=results_of(encoder={"path": "cut", "record": record}))
    )
    comparison = comparison_of([ResultRow(name="full", results=results_of(), plan=plan_of(12)), cut])
    assert [row[1] for row in comparison.summary().rows[:2]] == ["12 of 12", shown]
    assert headline(comparison)[0].startswith(sentence)
    row = comparison.to_json()["rows"][1]
    assert (row["layers"], row["attentions"], row["mlps"]) == ("5 of 12", 5 - len(attention), 5 - len(mlp))


def test_narrower_mlps_are_told_apart() -> None:
    # Three MLPs of 100 neurons are left, of which 100, 60 and 50 stay.
    plan = replace(plan_of(5), drop_mlp=(3, 4), neurons={1: tuple(range(60)), 2: tuple(range(50))})
    assert ResultRow(name="cut", results=results_of(), plan=plan).inside == "3 MLPs, 70 % of the neurons"


def test_twin_is_named() -> None:
    results = results_of()
    comparison = comparison_of(
        [ResultRow(name="full", results=results), ResultRow(name="large", results=results, same_as="full")]
    )
    assert comparison.summary().rows[1][0] == "large (= full)"


def test_other_data_is_said_and_not_hidden() -> None:
    other = results_of()
    data = {**other.retrieval["data"], "digest": "another"}
    other = results_of(retrieval={**other.retrieval, "data": data, "bm25": {"metrics": dict.fromkeys(METRICS, 0.9)}})
    comparison = comparison_of([ResultRow(name="a", results=results_of()), ResultRow(name="b", results=other)])
    assert any("not measured on the same data" in note for note in comparison.notes)
    assert comparison.bm25 == {}
    assert "difference" not in comparison.summary().header, "scores on different data are not subtracted"


def test_other_machine_is_said() -> None:
    other = results_of(environment={"cpu": "another"})
    notes = comparison_of([ResultRow(name="a", results=results_of()), ResultRow(name="b", results=other)]).notes
    assert notes == ("The speeds are from different machines.",)


def test_tasks_alone() -> None:
    one = results_of(retrieval={}, tasks=(task("A", 0.5), task("B", 0.7)))
    two = results_of(retrieval={}, tasks=(task("A", 0.6),), missing={"B": "no data"})
    comparison = comparison_of([ResultRow(name="one", results=one), ResultRow(name="two", results=two)])
    tasks = comparison.tasks()
    assert tasks is not None
    assert tasks.rows == (("A", "0.5000", "0.6000"), ("B", "0.7000", "missing"))
    assert comparison.notes == ("two lacks B: its average is over other tasks than the others'.",)
    differences = comparison.differences()
    assert differences is not None
    why = "no interval: not both results hold the scores of single queries, pairs or texts"
    assert differences.rows == (("two", "A", "+0.1000", "", "", why),)
    assert "difference" not in comparison.summary().header, "averages over different tasks are not subtracted"
    same = comparison_of([ResultRow(name="one", results=one), ResultRow(name="again", results=one)])
    assert same.summary().rows[1][-2:] == ("0.6000", "+0.0000")
    assert same.summary().header[-2] == "mean of 2 of 2 tasks"


def test_without_scores_or_speed() -> None:
    bare = results_of(retrieval={}, speed={})
    comparison = comparison_of([ResultRow(name="a", results=bare), ResultRow(name="b", results=bare)])
    assert comparison.summary().header == ("variant", "parameters", "share")
    assert comparison.to_json()["rows"][0]["score"] is None


def test_json_holds_what_the_table_shows(comparison: Comparison) -> None:
    value = comparison.to_json()
    assert [row["name"] for row in value["rows"]] == ["full", "small"]
    assert value["rows"][1]["proportional_parameters"] == round((1_000_008 + 12 * 500_000) * 5 / 12)
    assert value["bm25"] == METRICS_OF_BM25


def test_markdown_and_text(comparison: Comparison) -> None:
    assert comparison.to_markdown().startswith("| variant | layers |")
    assert len(comparison.render().splitlines()) == 10


def test_every_difference_says_how_sure_it_is(comparison: Comparison) -> None:
    table = comparison.differences()
    assert table is not None
    assert table.header == ("against full", "on", "difference", "95 % interval", "from", "verdict")
    small, bm25 = table.rows
    assert small == ("small", "nDCG@10", "-0.0625", "-0.0625 to -0.0625", "40 queries", "worse")
    assert bm25 == ("BM25", "nDCG@10", "+0.0000", "+0.0000 to +0.0000", "40 queries", UNSURE)
    assert comparison.to_json()["differences"]["small"]["score"] == {
        **{"value": -0.0625, "low": -0.0625, "high": -0.0625, "over": "40 queries", "why": "", "verdict": "worse"}
    }
    assert headline(comparison)[0].endswith("nDCG@10 0.438 (-0.062, 95 % interval -0.062 to -0.062).")
    same = comparison_of([comparison.rows[0], ResultRow(name="again", results=comparison.rows[0].results)])
    assert headline(same)[0].endswith(f"nDCG@10 0.500 (+0.000, 95 % interval +0.000 to +0.000: {UNSURE}).")


def test_own_data_beside_tasks_is_told_once() -> None:
    rows = [ResultRow(name=name, results=results_of(tasks=(task("A", 0.5),))) for name in ("full", "small")]
    table = comparison_of(rows).differences()
    assert table is not None
    assert [(row[0], row[1]) for row in table.rows if row[0] == "small"] == [("small", "A"), ("small", "nDCG@10")]


def test_files_of_earlier_releases_have_no_interval_and_that_is_said(comparison: Comparison) -> None:
    full, small = comparison.rows
    retrieval = {key: value for key, value in small.results.retrieval.items() if key != "items"}
    found = comparison_of([full, replace(small, results=replace(small.results, retrieval=retrieval))])
    assert found.summary().rows[1][7] == "-0.0625"
    table = found.differences()
    assert table is not None
    assert [row[3] for row in table.rows] == ["", "+0.0000 to +0.0000"]
    assert table.rows[0][5] == "no interval: not both results hold the scores of single queries, pairs or texts"


def test_each_of_several_models_is_compared_with_its_own_largest() -> None:
    def row(name: str, model: str, params: int, score: float) -> ResultRow:
        record = {"model": {"name": model}, "train": TRAINING} if "cut" in name else {"model": {"name": model}}
        results = results_of(params=params, score=score, encoder={"path": name, "record": record})
        return ResultRow(name=name, results=results)

    rows = [row("cut-a", "hub/A", 20, 0.4), row("a", "hub/A", 100, 0.5), row("b", "B", 50, 0.6), row("cut-b", "B", 10, 0.45)]
    comparison = comparison_of(rows)
    table = comparison.by_model()
    assert table is not None and table.header == (
        "of each model",
        "model",
        "parameters",
        "cut",
        "nDCG@10",
        "against its largest",
    )
    assert [(one[0], one[1], one[3], one[5]) for one in table.rows] == [
        ("cut-a", "A", "80 %", "-0.1000"),
        ("a", "A", "0 %", ""),
        ("b", "B", "0 %", ""),
        ("cut-b", "B", "80 %", "-0.1500"),
    ]
    assert comparison_of(rows[:2]).by_model() is None
    costs = comparison.costs()
    assert costs is not None and costs.rows[0][:5] == ("cut-a", "1,000", "0.2500", "2.0 min", "3.00 GB")
    assert costs.rows[1][1:5] == ("", "", "", "") and comparison_of(rows[1:3]).costs() is None


TRAINING = {"steps": 1000, "final_loss": 0.25, "seconds": 120.0, "peak_memory_bytes": 3_000_000_000}
TABLE = TextTable(("name", "n", "empty"), (("a", "1.0", ""), ("longer|x", "12.0", "")))


def test_text_is_aligned() -> None:
    assert TextTable(("name", "n"), (("a", "1.0"), ("longer", "12.0"))).to_text().splitlines() == [
        "name       n",
        "────────────",
        "a        1.0",
        "longer  12.0",
    ]


def test_markdown_escapes_bars() -> None:
    assert TABLE.without_empty_columns().to_markdown().splitlines() == [
        "| name | n |",
        "| --- | ---: |",
        "| a | 1.0 |",
        "| longer\\|x | 12.0 |",
    ]


def test_empty_columns_go() -> None:
    assert TABLE.without_empty_columns().header == ("name", "n")


def test_cells_keep_to_their_place() -> None:
    table = TextTable(("variant", "score"), (("a|b\n<i>\x1b", "1"),))
    assert table.to_markdown().splitlines()[-1] == "| a\\|b &lt;i&gt;\\\\x1b | 1 |"
    assert table.to_text().splitlines()[-1] == "a|b <i>\\x1b      1"
